"""The screens of `vfioctl baseline`: what a node was accepted as, why not, and each time it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vfio_cli.screens.diff import change_blocks, verdict_words
from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clean,
    cut,
    join_addresses,
    plural,
    table,
    title,
    wrap,
)
from vfio_cli.screens.nodes import device_names
from vfio_cli.screens.stale import stale_lines
from vfio_cli.survey import shorten_name
from vfio_contract.baseline_views import SHORTEST_DIGEST, BaselineRefusal, BaselineRow
from vfio_contract.drift import CONSEQUENCES, Consequence
from vfio_contract.views import BaselineView, ChangeView

_PROBLEMS = 8
"""Of what speaks against an acceptance, shown one by one; `wide` shows all."""

_UNREAD = 8
"""Facts that are not told now, shown one by one; `wide` shows all."""

_PARTS = ("BIOS", "kernel")
"""Of the firmware tuple, what every row of the history shows; the rest only where it changed."""


def baseline_screen(view: BaselineView, *, wide: bool = False) -> Lines:
    """The baseline, and what differs from it now."""
    width = UNLIMITED if wide else WIDTH
    node = clean(view.node)
    lines: Lines = [Line(f"{node}  baseline of {view.accepted_at} by {clean(view.accepted_by)}")]
    if view.reason:
        lines += wrap("  forced    ", view.reason, width=width)
    lines += wrap("  digest    ", cut(view.digest, width - 12), width=width)
    label = "firmware"
    for part in view.firmware:
        lines += wrap(f"  {label:<10}", part, width=width, hang=14)
        label = ""
    lines += [Line(""), title(f"UNITS {_vouched(view)}, where they were then")]
    lines += table(["", "", "", ""], _units(view), indent=2, width=width)
    lines.append(Line(""))
    if not view.compared:
        return lines + _not_compared(view, wide=wide)
    if not view.drift:
        text = "nothing that both know differs from it"
        if view.unread:
            head = wrap("NOW  UNKNOWN: ", text, width=width, hang=5)
            lines += [Line(head[0].text, "unsure", 5, 12), *head[1:], *_unread(view, wide=wide)]
            return [*lines, *stale_lines(view.stale, wide=wide), Line(""), *_next(view)]
        lines += wrap("NOW  ", text, width=width)
        return lines + stale_lines(view.stale, wide=wide)
    word, tone = verdict_words(view.drift, comparable=not view.unread)
    text = f"NOW  {word}: {plural(len(view.drift), 'difference')}"
    lines.append(Line(text, tone, 5, 5 + len(word)))
    if view.present_digest:
        lines += wrap("     digest ", cut(view.present_digest, width - 12), width=width)
    lines += _drift(view, wide=wide)
    lines += _unread(view, wide=wide)
    lines += stale_lines(view.stale, wide=wide)
    return [*lines, Line(""), *_next(view)]


def _unread(view: BaselineView, *, wide: bool) -> Lines:
    """What it knows and the node does not tell now, and what to do; nothing where it tells all."""
    if not view.unread:
        return []
    width = UNLIMITED if wide else WIDTH
    lines: Lines = [Line(""), title(f"NOT TOLD NOW {plural(len(view.unread), 'fact')} it knows")]
    shown = view.unread if wide else view.unread[:_UNREAD]
    for fact in shown:
        lines += wrap("  ", fact, width=width)
    more = len(view.unread) - len(shown)
    if more:
        lines += wrap("  ", f"and {more} more (all of them: -o wide)", width=width)
    text = "Until they are told, or accepted by force, the node takes no new VM: "
    return lines + wrap("  ", f"{text}vfioctl check --node {view.node}", width=width)


def _units(view: BaselineView) -> list[list[str]]:
    return [
        [
            unit.id,
            cut(join_addresses(unit.addresses), 24),
            cut(shorten_name(unit.model) or unit.ids, 24),
            "" if unit.id in view.passed else "did not pass",
        ]
        for unit in view.intended_units
    ]


def _vouched(view: BaselineView) -> str:
    """How many of its units passed every gate; the others it only knows the place of."""
    known = sum(unit.id in view.passed for unit in view.intended_units)
    if known == len(view.intended_units):
        return f"{known} vouched for"
    return f"{known} of {len(view.intended_units)} vouched for"


def _not_compared(view: BaselineView, *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    why = view.doubt or view.why or "nothing vouches for it now"
    more = "" if view.doubt else f" (vfioctl node show {view.node})"
    made = wrap("NOW  UNKNOWN: ", f"{why}{more}", width=width, hang=5)
    lines = [Line(made[0].text, "unsure", 5, 12), *made[1:]]
    if view.drift:
        lines += [Line(""), title("AS LAST HEARD")]
        lines += _drift(view, wide=wide)[1:]
    return lines


def _next(view: BaselineView) -> Lines:
    """What to type, whichever of both it is that should be."""
    node, digest = view.node, view.present_digest[:SHORTEST_DIGEST]
    command = f'vfioctl baseline accept {node} --force --reason "..."'
    if any(change.harms for change in view.drift):
        lines = " and those lines are right" if view.stale else ""
        text = f"Put back what was lost; the node returns by itself once it is there{lines}. "
        text += "If it is meant to be so:"
    elif view.unread:
        lines = "Edit those lines. " if view.stale else ""
        text = f"{lines}If those facts cannot be told any more, and all is as you want it:"
    elif view.stale and any(map(_waits, view.drift)):
        text = "Edit those lines first; the rest waits for you. If it is then as you want it:"
        command, digest = f"vfioctl baseline accept {node}", ""
    elif view.stale:
        text = "Edit those lines first; the node returns by itself then. Else:"
    else:
        text = "If it is as you want it:"
        command = f"vfioctl baseline accept {node}"
    typed = [Line(f"  {clean(command)}")]
    if digest:
        # what is shown here, and nothing that came after it
        typed = [Line(f"  {clean(command)} \\"), Line(f"    --digest {clean(digest)}")]
    return [*wrap("", text), *typed]


def _waits(change: ChangeView) -> bool:
    return bool(change.units) and CONSEQUENCES.get(change.code) is Consequence.HOLDS


def _drift(view: BaselineView, *, wide: bool) -> Lines:
    models = device_names(view.intended_units)
    return change_blocks(view.drift, lambda c: models.get(c.address_before, ""), wide=wide)


def accepted_screen(view: BaselineView) -> Lines:
    """What was accepted."""
    lines: Lines = [Line(f"ACCEPTED  {clean(view.node)}", "good", 0, 8)]
    lines += wrap("  digest  ", cut(view.digest, WIDTH - 10))
    lines += wrap("  units   ", _vouched(view))
    if view.reason:
        lines += wrap("  forced  ", view.reason)
    return lines


def refused_screen(refusal: BaselineRefusal, *, wide: bool = False) -> Lines:
    """What is broken, and how to accept in spite of it."""
    width = UNLIMITED if wide else WIDTH
    node, count = clean(refusal.node), len(refusal.problems)
    speaks = "speaks" if count == 1 else "speak"
    text = f"REFUSED  {node}: {plural(count, 'problem')} {speaks} against it; nothing was changed"
    lines: Lines = [Line(text, "bad", 0, 7)]
    shown = refusal.problems if wide else refusal.problems[:_PROBLEMS]
    for problem, after in zip(shown, [*shown[1:], None], strict=True):
        code = clean(problem.code)
        lines.append(Line(f"  {code}  {cut(problem.subject, width - len(code) - 4)}"))
        lines += wrap("    ", problem.text, width=width)
        # what the next ones ask for too is said once, below the last of them
        if problem.next and (after is None or after.next != problem.next):
            lines += wrap("    do: ", problem.next, width=width, hang=8)
    rest = Counter(problem.code for problem in refusal.problems[len(shown) :])
    if rest:
        named = ", ".join(f"{number} {code}" for code, number in rest.items())
        lines += wrap("  ", f"and {rest.total()} more: {named} (all of them: -o wide)", width=width)
    lines += [Line(""), *wrap("", "Mend that first: vfioctl explain CODE. To accept it as it is:")]
    lines.append(Line(f'  vfioctl baseline accept {node} --force --reason "..."'))
    return lines


def history_screen(node: str, rows: Sequence[BaselineRow], *, wide: bool = False) -> Lines:
    """A line an acceptance, the newest first; `*` marks the one in force."""
    width = UNLIMITED if wide else WIDTH
    head = f"{clean(node)}  {plural(len(rows), 'acceptance')}, newest first; * is in force"
    older = [*rows[1:], None]
    cells = [_cells(row, wide=wide) for row in rows]
    made = table(["", "ACCEPTED", "BY", "UNITS", "FACTS"], cells, right=(3,), width=UNLIMITED)
    lines = [Line(head), Line(""), made[0]]
    for line, row, before in zip(made[1:], rows, older, strict=True):
        lines += [line, *wrap("      ", _firmware(row, before, wide=wide), width=width, hang=8)]
        if row.reason:
            lines += wrap("      forced: ", row.reason, width=width, hang=8)
    return lines


def _cells(row: BaselineRow, *, wide: bool) -> list[str]:
    facts = "kept" if row.facts_kept else "gave way"
    return [
        "*" if row.in_force else "",
        row.accepted_at if wide else row.accepted_at[:16].replace("T", " "),
        row.accepted_by if wide else cut(row.accepted_by, 24),
        str(len(row.passed)),
        f"{facts} {row.digest}" if wide else facts,
    ]


def _firmware(row: BaselineRow, before: BaselineRow | None, *, wide: bool) -> str:
    """BIOS and kernel, and the names of what else changed since the acceptance before it; all of
    it, and the agent's version, with `wide`."""
    parts = dict(line.partition(": ")[::2] for line in row.firmware)
    if not parts:
        return "not recorded"
    shown = parts if wide else {name: parts[name] for name in _PARTS if name in parts}
    said = ", ".join(f"{name} {value}" for name, value in shown.items())
    if wide:
        return f"{said}; agent {row.agent_version or 'not recorded'}"
    if before is None or not before.firmware:
        return said
    old = dict(line.partition(": ")[::2] for line in before.firmware)
    changed = [name for name in parts if name not in shown and old.get(name) != parts[name]]
    return f"{said}; other {', '.join(changed)}" if changed else said
