"""`vfioctl explain`: what a check looks at or what a code means, without any server."""

from __future__ import annotations

import difflib

import click
from click.shell_completion import CompletionItem

from vfio_agent.checks import CATALOGUE, Check, list_codes
from vfio_agent.checks import explain as find
from vfio_cli.exits import Mistake
from vfio_cli.help import Taught
from vfio_cli.output import emit, make_document, output_option
from vfio_cli.screens.explain import CheckNotes, check_screen, code_screen, index_screen
from vfio_contract.codes import CLUSTER_CODES, Code


def complete_name(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids and codes that begin with what was typed."""
    return [CompletionItem(n) for n in _names() if n.lower().startswith(incomplete.lower())]


@click.command(
    "explain",
    cls=Taught,
    examples=(
        "vfioctl explain group-isolation",
        "vfioctl explain GROUP_WIDENED",
        "vfioctl explain                     all that there is",
    ),
    exits="0 explained, 64 there is no such check or code.",
)
@click.argument("name", required=False, metavar="[CHECK|CODE]", shell_complete=complete_name)
@output_option()
def explain(name: str | None, form: str) -> int:
    """What a check looks at, or what a code means and asks for."""
    if name is None:
        checks = [notes_of(check) for check in CATALOGUE]
        emit(
            form,
            screen=lambda _: index_screen(checks, CLUSTER_CODES),
            document=lambda: make_document("explain", checks=checks, cluster_codes=CLUSTER_CODES),
            names=_names,
        )
        return 0
    found = find(name)
    if found is None:
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in _names()], n=1)
        hint = next((f" Did you mean {n}?" for n in _names() if [n.lower()] == near), "")
        raise Mistake(f"{name!r} is no check and no code.{hint} All of them: vfioctl explain")
    if isinstance(found, Code):
        givers = [check.id for check in CATALOGUE if found in check.codes]
        emit(
            form,
            screen=lambda _: code_screen(found, givers),
            document=lambda: make_document("explain", code=found, given_by=givers),
            names=lambda: [found.name],
        )
    else:
        notes = notes_of(found)
        emit(
            form,
            screen=lambda _: check_screen(notes),
            document=lambda: make_document("explain", check=notes),
            names=lambda: [notes.id],
        )
    return 0


def notes_of(check: Check) -> CheckNotes:
    """A check's declaration as the screen shows it; its docstring states the notes."""
    notes: list[tuple[str, str]] = []
    for line in check.explanation.splitlines():
        head, mark, text = line.partition(":")
        if mark and head in ("Evidence", "Meaning", "Decision", "Source"):
            notes.append((head.lower(), text.strip()))
        elif notes and line.strip():
            label, before = notes[-1]
            notes[-1] = (label, f"{before} {line.strip()}")
    return CheckNotes(
        id=check.id,
        question=f"{check.title} (field guide, step {check.step})",
        notes=tuple(notes),
        blocked_by=check.blocked_by,
        codes=check.codes,
    )


def _names() -> list[str]:
    return [*(check.id for check in CATALOGUE), *(code.name for code in list_codes())]
