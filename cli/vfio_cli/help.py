"""How a command explains itself: one line of purpose, an example, and what the exit codes mean."""

from __future__ import annotations

from collections.abc import Sequence

import click


class Taught(click.Command):
    """A command whose help ends with examples and exit codes, as they were written."""

    def __init__(
        self, *args: object, examples: Sequence[str] = (), exits: str = "", **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # click checks its own
        self.examples = tuple(examples)
        self.exits = exits

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples and exit codes below the options."""
        examples = self._possible_examples()
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        if self.exits:
            with formatter.section("Exit codes"):
                formatter.write_text(self.exits + self._interrupted())
        super().format_epilog(ctx, formatter)

    def _interrupted(self) -> str:
        """For what goes on until somebody ends it."""
        names = {name for option in self.params for name in option.opts}
        return " 130 after Ctrl-C." if "--watch" in names else ""

    def _possible_examples(self) -> list[str]:
        """Without those that use an option that is not offered (`tree.is_one_file`)."""
        options = [p for p in self.params if isinstance(p, click.Option) and p.hidden]
        names = {name for option in options for name in option.opts}
        return [example for example in self.examples if names.isdisjoint(example.split())]
