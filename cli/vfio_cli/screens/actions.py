"""The screen of an action: what was done or would be, why not, and what is left to a person.

The first line says how it ended; paths and diffs stand as they are, to be read and copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vfio_cli.screens.check import finding_block, group_alike
from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    join_addresses,
    plural,
    title,
    two_ends,
    wrap,
)
from vfio_contract.action import NOT_PERMITTED, ActionReport, ActionStep, Outcome, ResetProof
from vfio_contract.findings import Finding

WORDS = {
    Outcome.DONE: ("DONE", "good"),
    Outcome.PLANNED: ("PLANNED", "title"),
    Outcome.REFUSED: ("REFUSED", "bad"),
    Outcome.UNKNOWN: ("UNKNOWN", "unsure"),
    Outcome.FAILED: ("FAILED", "bad"),
    Outcome.UNDONE: ("UNDONE", "bad"),
    Outcome.WAITING: ("WAITING", "unsure"),
}
"""Outcome -> the first word and its tone."""

_NOTHING = {
    Outcome.PLANNED: "nothing was done yet",
    Outcome.REFUSED: "nothing was done",
    Outcome.UNDONE: "everything was taken back",
}

_BROKEN = ("(identity)", "(bar)", "(capability)")
"""Ends of lines about bytes that a reset must leave as they were."""

MAX_LINES = 8
"""Kernel lines and changed bytes shown of a reset; `-o wide` shows all."""

_LABEL = "  {:<10}"
_INDENT = 12
_INVERSE = {"bind": "unbind", "unbind": "bind"}


def action_screen(report: ActionReport, *, wide: bool = False, captured: bool = False) -> Lines:
    """The whole screen. On a `captured` host nothing is next: the address is not of this one."""
    width = UNLIMITED if wide else WIDTH
    lines = [_heading(report, width)]
    lines += _facts(report, width)
    for rows in group_alike(report.reasons):
        lines += _reason(rows, wide=wide)
    if report.reset is not None:
        lines += _reset(report.reset, wide=wide)
    lines += _steps(report)
    if report.notes:
        lines += [Line(""), title("LEFT TO YOU" if report.steps else "NOTE")]
        for note in report.notes:
            lines += wrap("  - ", note, width=width)
    following = "" if captured else _next(report)
    if following:
        lines += [Line(""), *wrap("Next: ", following, width=width)]
    return lines


def _is_so_already(report: ActionReport) -> bool:
    """True when there is nothing to do about a binding."""
    planned = report.outcome is Outcome.PLANNED
    return planned and report.verb in _INVERSE and not report.steps


def _heading(report: ActionReport, width: int) -> Line:
    word, tone = WORDS[report.outcome]
    if _is_so_already(report):
        word, tone = "ALREADY SO", "good"
    what = f"{word}  {report.verb} {report.address or 'of nothing'}"
    proof = report.reset
    if report.outcome is Outcome.UNKNOWN and (proof is None or not proof.outcome):
        ending = "nothing was done"
    elif report.outcome is Outcome.DONE and not report.steps and proof is None:
        ending = "it was so already"
    elif _is_so_already(report):
        ending = "nothing to do"
    else:
        ending = _NOTHING.get(report.outcome, "")
    left = f"{what}   {ending}" if ending else what
    return Line(two_ends(left, report.unit, width=width), tone, 0, len(word))


def _reason(rows: Sequence[Finding], *, wide: bool) -> Lines:
    """A block as on the check's screen; what is to be copied stands below it as it is."""
    example = rows[0].decision.partition("\n")[2]
    shown = [replace(row, decision=row.decision.partition("\n")[0]) for row in rows]
    lines = [Line(""), *finding_block(shown, wide=wide)]
    return lines + [Line(" " * (_INDENT + 2) + text) for text in example.splitlines()]


def _facts(report: ActionReport, width: int) -> Lines:
    lines: Lines = []
    rows = []
    if len(report.assign) + len(report.hold) > 1:
        rows.append(("for a VM", join_addresses(report.assign)))
        if report.hold:
            rows.append(("held", f"{join_addresses(report.hold)}: off the host, for no VM"))
    if report.detail:
        rows.append(("why", report.detail))
    if report.outcome in (Outcome.DONE, Outcome.PLANNED):
        lasting = (report.method, *report.because) if report.method else report.because
        rows += [("lasts by" if n == 0 else "", text) for n, text in enumerate(lasting)]
    for label, text in rows:
        lines += wrap(_LABEL.format(label), text, width=width, hang=_INDENT)
    return lines


def _steps(report: ActionReport) -> Lines:
    if report.outcome is Outcome.PLANNED:
        changes = [line for step in report.steps for line in step.change]
        return _section("WOULD WRITE", (Line(f"  {change}") for change in changes))
    forward = (step for step in report.steps if not step.undoing)
    back = (step for step in report.steps if step.undoing)
    lines = _section("STEPS", (line for step in forward for line in _step(step)))
    return lines + _section("TAKEN BACK", (line for step in back for line in _step(step)))


def _section(name: str, rows: Iterable[Line]) -> Lines:
    body = list(rows)
    return [Line(""), title(name), *body] if body else []


def _step(step: ActionStep) -> Lines:
    tones = {"failed": "bad", "changed": "bad", "waiting": "unsure", "intended": "unsure"}
    tone = tones.get(step.state, "")
    front = f"  {step.state:<10}"
    lines = [Line(f"{front}{step.path}", tone, 2, 2 + len(step.state) if tone else 2)]
    if step.detail:
        lines += wrap(" " * _INDENT, step.detail.removeprefix(f"{step.path}: "))
    return lines


def _reset(proof: ResetProof, *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    lines: Lines = [Line("")]
    method = proof.method or "method not told by the kernel"
    outcome = proof.outcome or proof.ending
    text = f"{method}, {outcome} in {proof.seconds:.3f} s" if proof.outcome else outcome
    lines += wrap(_LABEL.format("reset"), text, width=width)
    label = "config"
    for row in proof.changes:
        broken = [change for change in row.changes if change.endswith(_BROKEN)]
        said = f"{row.function}: as before"
        if row.changes:
            said = f"{row.function}: {plural(len(row.changes), 'byte')} moved, as may be"
        if broken:
            said = f"{row.function}: {plural(len(broken), 'byte')} must not have changed"
        lines += wrap(_LABEL.format(label), said, width=width)
        shown = row.changes if wide else broken[:MAX_LINES]
        lines += [Line(" " * (_INDENT + 2) + change) for change in shown]
        label = ""
    if proof.ending == "reset":
        lines += _kernel(proof.lines, wide=wide)
    return lines


def _kernel(said: tuple[str, ...] | None, *, wide: bool) -> Lines:
    label = _LABEL.format("kernel")
    if said is None:
        return [Line(f"{label}could not be heard")]
    if not said:
        return [Line(f"{label}said nothing")]
    lines: Lines = []
    shown = said if wide else said[-MAX_LINES:]
    for text in shown:
        lines += wrap(label, text, width=UNLIMITED if wide else WIDTH, hang=_INDENT + 2)
        label = " " * _INDENT
    if len(said) > len(shown):
        lines.append(Line(f"{label}and {len(said) - len(shown)} before: -o wide"))
    return lines


def _next(report: ActionReport) -> str:
    command = f"sudo vfioctl device {report.verb} {report.address}"
    match report.outcome:
        case Outcome.PLANNED if _is_so_already(report):
            return ""
        case Outcome.PLANNED if any(note.startswith(NOT_PERMITTED) for note in report.notes):
            return f"let root permit it: vfioctl explain ACTION_NOT_PERMITTED; then: {command}"
        case Outcome.PLANNED:
            return command
        case Outcome.DONE if report.verb in _INVERSE and report.steps:
            inverse = _INVERSE[report.verb]
            return f"vfioctl check; the way back: sudo vfioctl device {inverse} {report.address}"
        case Outcome.WAITING:
            return "vfioctl events tells how it ends; the agent goes on when the kernel answers"
        case Outcome.FAILED if report.reset is None:
            return f"look at what is left, then: {command} --dry-run"
        case _:
            return ""
