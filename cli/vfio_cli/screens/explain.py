"""The screen of `vfioctl explain`: what a check looks at, or what a code means and asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfio_cli.screens.layout import VERDICT_TONES, Line, Lines, blank, table, toned, wrap
from vfio_contract.codes import Code


@dataclass(frozen=True, slots=True)
class CheckNotes:
    """One check: its id, its question and notes (paragraphs), what blocks it, its codes."""

    id: str
    question: str
    notes: tuple[tuple[str, str], ...]
    blocked_by: tuple[str, ...]
    codes: tuple[Code, ...]


def code_screen(code: Code, given_by: Sequence[str]) -> Lines:
    """One code."""
    word = str(code.verdict)
    lines: Lines = [
        Line(f"{code.name}  {word}", VERDICT_TONES[word], len(code.name) + 2, len(code.name) + 9)
    ]
    giver = ", ".join(given_by) if given_by else "the cluster: drift and node states"
    lines += wrap("  given by  ", giver)
    for label, text in (
        ("evidence", code.evidence),
        ("meaning", code.meaning),
        ("decision", code.decision),
    ):
        lines += wrap(f"  {label:<10}", text)
    return lines


def check_screen(check: CheckNotes) -> Lines:
    """One check with its codes, worst first as the check declares them."""
    lines: Lines = [Line(check.id, "title", 0, len(check.id))]
    if check.question:
        lines += wrap("  ", check.question)
    for label, text in check.notes:
        lines += wrap(f"  {label:<10}", text)
    if check.blocked_by:
        lines += wrap("  blocked by ", ", ".join(check.blocked_by))
    for code in check.codes:
        blank(lines)
        word = str(code.verdict)
        lines.append(toned(word, VERDICT_TONES[word], f"  {code.name}"))
        lines += wrap("  meaning   ", code.meaning)
        lines += wrap("  decision  ", code.decision)
    blank(lines)
    lines.append(Line("One code with its evidence: vfioctl explain CODE"))
    return lines


def index_screen(checks: Sequence[CheckNotes], cluster: Sequence[Code]) -> Lines:
    """All that can be explained."""
    lines: Lines = [Line("CHECKS", "title", 0, 6)]
    lines += table(
        ["", ""], [[c.id, ", ".join(code.name for code in c.codes)] for c in checks], indent=2
    )
    lines += [Line(""), Line("CLUSTER CODES", "title", 0, 13)]
    lines += wrap("  ", ", ".join(code.name for code in cluster))
    lines += [Line(""), Line("vfioctl explain CHECK or CODE")]
    return lines
