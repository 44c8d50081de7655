"""Groups that import a command's module only when that command is called.

So `vfioctl check` starts fast and never imports gRPC, and help can be written without importing
anything. A command whose module is not there is not offered: the one-file build leaves out what
needs a coordinator (tools/build_pyz.py), and whoever asks for it all the same is told so in one
line. Nothing else may be missing: where vfioctl is installed, a missing module is our own fault.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any
from zipimport import zipimporter

import click
from click.exceptions import NoSuchCommand

from vfio_cli.exits import USAGE, Stop

Rows = Mapping[str, tuple[str, str]]
"""Command -> (module:attribute below `vfio_cli.commands`, purpose)."""

NEEDS_INSTALL = "needs vfioctl installed on this host: pip install . in its checkout"

_OURS = frozenset({"vfio_cli", "vfio_agent", "vfio_contract", "vfio_coordinator", "vfioctl"})


class LazyGroup(click.Group):
    """A group over `sections` of rows; a section's title stands above its rows in the help."""

    def __init__(
        self, *args: Any, sections: Mapping[str, Rows] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names that are here, in the order of the sections."""
        return [name for rows in self._offered().values() for name in rows]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; Stop where this build leaves it out."""
        for rows in self.sections.values():
            if cmd_name in rows:
                module, _, attribute = rows[cmd_name][0].partition(":")
                loaded = importlib.import_module(f"vfio_cli.commands.{module}")
                command = getattr(loaded, attribute)
                if not isinstance(command, click.Command):
                    raise TypeError(f"{rows[cmd_name][0]} is no command")
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command to call; what does not exist names those that are spelled like it."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            names = self.list_commands(ctx)
            raise NoSuchCommand(error.command_name, possibilities=names, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, without importing any command."""
        for section, rows in self._offered().items():
            with formatter.section(section):
                formatter.write_dl([(name, purpose) for name, (_, purpose) in rows.items()])

    def _offered(self) -> dict[str, Rows]:
        """Sections with what is here; a section of which nothing is here is left out."""
        if not is_one_file():
            return dict(self.sections)
        here = {
            section: {name: row for name, row in rows.items() if _is_here(row[0])}
            for section, rows in self.sections.items()
        }
        return {section: rows for section, rows in here.items() if rows}


def is_one_file() -> bool:
    """True when this program runs from inside a zip, which is how the one-file build is made."""
    return __spec__ is not None and isinstance(__spec__.loader, zipimporter)


def _is_here(place: str) -> bool:
    return find_spec(f"vfio_cli.commands.{place.partition(':')[0]}") is not None


def explain_missing(error: ModuleNotFoundError) -> Stop | None:
    """What to say for a module that the one-file build leaves out; None for any other error."""
    root = (error.name or "").partition(".")[0]
    if not is_one_file() or root not in _OURS:
        return None
    return Stop(f"this {NEEDS_INSTALL}", status=USAGE, code="NOT_IN_THIS_BUILD")
