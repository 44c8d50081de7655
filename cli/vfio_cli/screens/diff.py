"""The screen of `vfioctl diff` and of a node's drift: what changed, and whether it matters.

Changes of one code stand together with that code's meaning and decision, harmful ones first. What
one side did not know is named as not compared, never as equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vfio_cli.screens.layout import (
    UNLIMITED,
    VERDICT_TONES,
    WIDTH,
    Line,
    Lines,
    blank,
    clean,
    count_words,
    cut,
    plural,
    toned,
    wrap,
)
from vfio_cli.screens.stale import stale_lines
from vfio_cli.verdicts import VerdictChange
from vfio_contract.codes import CLUSTER_CODES, Code
from vfio_contract.findings import NODE, Verdict, severity
from vfio_contract.firmware import shorten
from vfio_contract.stale import StaleReference
from vfio_contract.views import ChangeView

CODES = {code.name: code for code in CLUSTER_CODES}

_WORDS = {
    "FIRMWARE_CHANGED": "firmware",
    "GROUP_RENUMBERED": "renumbered",
    "DEVICE_MOVED": "moved",
    "GROUP_WIDENED": "widened",
    "GROUP_NARROWED": "narrowed",
    "GROUP_SPLIT": "split",
    "DEVICE_VANISHED": "vanished",
    "DEVICE_APPEARED": "appeared",
    "BINDING_LOST": "binding lost",
    "RESET_LOST": "reset lost",
    "ACS_CLEARED": "ACS cleared",
    "ACS_RESTORED": "ACS restored",
    "NEXT_BOOT_CHANGED": "next boot",
    "BINDING_GAINED": "binding gained",
    "RESET_GAINED": "reset gained",
    "VF_COUNT_CHANGED": "VF count",
    "BAR_CHANGED": "BAR",
    "LINK_DEGRADED": "link worse",
    "LINK_IMPROVED": "link better",
    "ISOLATION_ARTIFICIAL": "artificial isolation",
    "ISOLATION_NATIVE": "real isolation",
}

MAX_ROWS = 12
MAX_TEXT = 110

Naming = Callable[[ChangeView], str]
"""Gives the name of the device that a change is about, "" where it is not known."""


@dataclass(frozen=True, slots=True)
class DiffView:
    """Two sides by name, what changed, and what could not be compared.

    `doubt` says in words why the later side is not known to be of now, "" where it is.
    """

    before: str
    after: str
    changes: tuple[ChangeView, ...]
    name_of: Naming
    not_compared: tuple[str, ...]
    comparable: bool
    unmatched: int = 0
    notes: tuple[str, ...] = ()
    verdicts: tuple[VerdictChange, ...] = ()
    stale: tuple[StaleReference, ...] = ()
    doubt: str = ""


def diff_screen(view: DiffView, *, wide: bool = False) -> Lines:
    """The whole screen."""
    width = UNLIMITED if wide else WIDTH
    whole = view.comparable and not view.unmatched and not view.doubt
    word, tone = verdict_words(view.changes, comparable=whole, verdicts=view.verdicts)
    sides = f"{_tail(view.before, 36)} -> {_tail(view.after, 36)}"
    lines: Lines = [
        Line(sides),
        toned(word, tone, f"   {_summary(view.changes, view.verdicts)}".rstrip()),
    ]
    lines += change_blocks(view.changes, view.name_of, wide=wide)
    lines += stale_lines(view.stale, wide=wide)
    lines += _verdict_lines(view.verdicts, wide=wide)
    if not view.changes and not view.verdicts and whole:
        lines += wrap(
            "", "What both sides know is the same: firmware, groups, devices.", width=width
        )
    missing = list(view.not_compared)
    if not view.comparable:
        missing.insert(0, "devices and groups")
    if missing:
        blank(lines)
        text = ", ".join(missing) + " (not known on one side: neither equal nor changed)"
        lines += wrap("NOT COMPARED  ", text, width=width)
    if view.unmatched:
        blank(lines)
        text = f"{plural(view.unmatched, 'device')} not at the same address on both sides: moved, "
        lines += wrap("NOT COMPARED  ", f"{text}gone or new, nobody can tell", width=width)
    if view.doubt:
        blank(lines)
        lines += wrap("NOT OF NOW  ", clean(view.doubt), width=width)
    for note in view.notes:
        blank(lines)
        lines += wrap("MATCHED  ", note, width=width)
    return lines


def _verdict_lines(verdicts: Sequence[VerdictChange], *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    lines: Lines = []
    shown = verdicts if wide else verdicts[:MAX_ROWS]
    for row in shown:
        word = str(row.now)
        subject = "" if row.subject == NODE else f"  {row.subject.replace(':', ' ', 1)}"
        lines += [Line(""), toned(word, VERDICT_TONES[word], clean(f"  {row.check}{subject}"))]
        lines += wrap("  was  ", f"{row.was} {row.was_code}", width=width)
        evidence = row.evidence if wide else cut(row.evidence, MAX_TEXT)
        lines += wrap("  now  ", f"{row.now} {row.now_code}: {evidence}", width=width)
    if len(verdicts) > len(shown):
        lines.append(Line(f"and {len(verdicts) - len(shown)} more verdicts: -o wide"))
    return lines


def _tail(text: str, width: int) -> str:
    """The end of a path, which tells more than its beginning."""
    text = clean(text)
    return text if len(text) <= width else ".." + text[len(text) - width + 2 :]


def verdict_words(
    changes: Sequence[ChangeView],
    *,
    comparable: bool,
    verdicts: Sequence[VerdictChange] = (),
) -> tuple[str, str]:
    """What it amounts to, and its tone."""
    if any(c.harms for c in changes) or any(v.harms for v in verdicts):
        return "HARMFUL", "bad"
    if not comparable:
        return "UNKNOWN", "unsure"
    if any(_code(c.code).verdict is not Verdict.PASS for c in changes):
        return "CHANGED, NOTHING LOST", "warn"
    if verdicts:
        worse = any(c.worse for c in verdicts)
        return ("VERDICTS WORSE", "warn") if worse else ("VERDICTS BETTER", "good")
    if any(c.code != "GROUP_RENUMBERED" for c in changes):
        return "CHANGED, NOTHING WORSE", "good"
    return ("RENUMBERED ONLY", "good") if changes else ("SAME", "good")


def _summary(changes: Sequence[ChangeView], verdicts: Sequence[VerdictChange]) -> str:
    counts: dict[str, int] = {}
    for change in changes:
        word = _WORDS.get(change.code, change.code.lower())
        counts[word] = counts.get(word, 0) + 1
    for verdict in verdicts:
        word = "verdict " + (
            "fails now" if verdict.harms else "worse" if verdict.worse else "better"
        )
        counts[word] = counts.get(word, 0) + 1
    return count_words((n, word) for word, n in counts.items())


def change_blocks(changes: Sequence[ChangeView], name_of: Naming, *, wide: bool = False) -> Lines:
    """Changes by code, harmful first; each block says what it means and what to do."""
    groups: dict[str, list[ChangeView]] = {}
    for change in changes:
        groups.setdefault(change.code, []).append(change)
    width = UNLIMITED if wide else WIDTH
    lines: Lines = []
    for name in sorted(groups, key=lambda n: -severity(_code(n).verdict)):
        rows, code = groups[name], _code(name)
        word = str(code.verdict)
        what = {"FIRMWARE_CHANGED": "part", "NEXT_BOOT_CHANGED": "setting"}.get(name, "device")
        head = f"  {clean(name)}  {plural(len(rows), what)}{_details(rows)}"
        lines += [Line(""), toned(word, VERDICT_TONES[word], head)]
        shown = rows if wide else rows[:MAX_ROWS]
        for row in shown:
            lines += _row(row, name_of, width)
        if len(rows) > len(shown):
            lines.append(Line(f"  and {len(rows) - len(shown)} more: -o wide"))
        for label, text in (("meaning", code.meaning), ("decision", code.decision)):
            lines += wrap(f"  {label:<10}", text, width=width)
    return lines


def _details(rows: Sequence[ChangeView]) -> str:
    if not rows[0].identity:
        return ""
    words = dict.fromkeys(row.detail for row in rows if row.detail)
    return f" ({', '.join(map(clean, words))})" if words else ""


def _row(change: ChangeView, name_of: Naming, width: int) -> Lines:
    if change.code in ("FIRMWARE_CHANGED", "NEXT_BOOT_CHANGED"):
        front = f"  {clean(change.detail):<12}  "
        return wrap(
            front,
            f"{shorten(change.before) or '(none)'} -> {shorten(change.after) or '(none)'}",
            width=width,
        )
    where = change.address_after or change.address_before
    if change.address_before and change.address_after != change.address_before:
        where = f"{change.address_before} -> {change.address_after or 'gone'}"
    name = name_of(change)
    lines = [Line(f"  {clean(where)}  {cut(name, max(WIDTH - len(where) - 4, 8))}".rstrip())]
    if change.confidence:
        lines += wrap("    matched  ", change.confidence, width=width)
    if change.vms:
        lines += wrap("    affects  ", ", ".join(map(clean, change.vms)), width=width)
    if change.code in ("DEVICE_MOVED", "DEVICE_VANISHED", "DEVICE_APPEARED"):
        return lines
    lines += wrap("    was  ", change.before, width=width)
    lines += wrap("    now  ", change.after, width=width)
    return lines


_UNHEARD_OF = Code(
    "?",
    Verdict.UNKNOWN,
    "",
    "This version of vfioctl does not know this kind of change.",
    "Upgrade vfioctl to the coordinator's version.",
)


def _code(name: str) -> Code:
    return CODES.get(name, _UNHEARD_OF)
