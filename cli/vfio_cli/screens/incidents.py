"""The screens of `vfioctl incident`: what is one cause, on which nodes, and what to do about it.

A list has a line an incident, and below it what was seen and what its nodes have in common. One
incident says who is affected, what speaks for and against the common factor, who is still to be
updated, and what to do next, worst first. Names are bounded unless all are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.events import event_lines
from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    blank,
    clean,
    cut,
    moment,
    plural,
    table,
    title,
    toned,
    wrap,
)
from vfio_contract.firmware import shorten
from vfio_contract.incident_views import IncidentFactor, IncidentMember, IncidentView

_TONES = {"ERR": "bad", "WARN": "warn"}
_NAMED = 12
_MEMBERS = 20
_EVENTS = 12
_LABEL = 11


def list_screen(
    incidents: Sequence[IncidentView], *, total: int, at: str, closed: bool, wide: bool = False
) -> Lines:
    """A line an incident. `total` is how many there are, listed or not; `at` the present time."""
    if not incidents:
        text = "No incident is kept." if closed else "No incident is open."
        return [Line(text if closed else f"{text} Closed ones: vfioctl incident list --all")]
    headers = ["INCIDENT", "OPENED", "LEVEL", "CODE", "NODES", "VMS", "STATE"]
    if wide:
        headers += ["PEAK", "FIRST", "COMMON", "SEEN"]
    rows = table(
        headers,
        [_cells(view, at, wide=wide) for view in incidents],
        right=(4, 5),
        width=UNLIMITED,
        tones=[_tone(view) for view in incidents],
        tone_column=2,
    )
    lines = rows[:1]
    for row, view in zip(rows[1:], incidents, strict=True):
        lines.append(row)
        if not wide:
            lines += wrap("    ", _seen(view, at))
            lines += wrap("    ", common_words(view)) if view.factors else []
    if total > len(incidents):
        lines += wrap("", f"{total - len(incidents)} more; see them with --limit {total}.")
    unseen = [v.id for v in incidents if v.state == "open"]
    if unseen:
        blank(lines)
        lines.append(Line(f"Next: vfioctl incident show {clean(unseen[0])}"))
    return lines


def _cells(view: IncidentView, at: str, *, wide: bool) -> list[str]:
    state = view.state
    if view.state == "open" and view.acked_by:
        state = f"acked by {view.acked_by}"
    when = view.opened_at if wide else moment(view.opened_at, today=at)
    nodes = view.nodes if view.state == "open" else view.peak
    cells = [view.id, when, view.level, view.code if wide else cut(view.code, 20), str(nodes)]
    cells += [str(view.vms), state if wide else cut(state, 14)]
    if wide:
        cells += [str(view.peak), view.first_node, common_words(view) or "-", view.text]
    return cells


def _seen(view: IncidentView, at: str) -> str:
    if not view.closed_at:
        return view.text
    return f"{view.text}; closed {moment(view.closed_at, today=at)}"


def _tone(view: IncidentView) -> str:
    if view.state != "open":
        return "faint"
    return _TONES.get(view.level, "unsure")


def common_words(view: IncidentView) -> str:
    """What the nodes have in common in one line; "" where nothing is known."""
    if not view.factors:
        return ""
    first, *others = view.factors
    also = f" (also: {', '.join(f.part for f in others)})" if others else ""
    if view.peak < 2:
        return f"changed on it: {change_words(first)}{also}"
    return f"common: {change_words(first)}{also}"


def change_words(factor: IncidentFactor) -> str:
    """`BIOS F10 -> F11`; `kernel 6.8.12` where the nodes came from different ones."""
    after = shorten(factor.after)
    if factor.before:
        return f"{factor.part} {shorten(factor.before)} -> {after}"
    return f"{factor.part} {after}"


# --- one of them ---------------------------------------------------------------------------------


def show_screen(view: IncidentView, *, at: str, full: bool = False) -> Lines:
    """One incident; `full` names every node."""
    lines = _head(view, at)
    lines += _factor_lines(view, full=full)
    lines += _member_lines(view, at, full=full)
    if view.events:
        blank(lines)
        lines.append(title("EVENTS"))
        shown = view.events if full else view.events[-_EVENTS:]
        if len(shown) < len(view.events):
            lines.append(Line(f"  {len(view.events) - len(shown)} earlier ones: --all"))
        for event in shown:
            lines += event_lines(event)
    blank(lines)
    lines.append(title("NEXT"))
    for number, step in enumerate(_steps(view), 1):
        lines += wrap(f"  {number}. ", step)
    return lines


def acked_screen(view: IncidentView) -> Lines:
    """What was acknowledged, and what that means."""
    count = plural(view.nodes, "node")
    lines = [toned("ACKNOWLEDGED", "good", f"  {view.id}  {view.code} on {count}")]
    text = (
        "nobody is told of it again unless it gets worse: a higher level, its first VM, or twice "
        "as many nodes. It stays open until no node shows it."
    )
    return [*lines, *wrap("  ", text)]


def _head(view: IncidentView, at: str) -> Lines:
    count = view.nodes if view.state == "open" else view.peak
    word = view.level if view.state == "open" else "CLOSED"
    nodes = plural(count, "node")
    lines = [
        Line(
            f"{clean(view.id)}  {clean(word)}  {clean(view.code)} on {nodes}",
            _tone(view),
            len(clean(view.id)) + 2,
            len(clean(view.id)) + 2 + len(clean(word)),
        )
    ]
    lines += _entry("seen", view.text)
    most = f"; {plural(view.peak, 'node')} at most" if view.peak > 1 else ""
    lines += _entry("first", f"{view.first_node}, {moment(view.opened_at, today=at)}{most}")
    if view.closed_at:
        lines += _entry("closed", moment(view.closed_at, today=at))
    if view.acked_by:
        reason = f": {view.ack_reason}" if view.ack_reason else ""
        who = f"{view.acked_by}, {moment(view.acked_at, today=at)}{reason}"
        lines += _entry("acked", who)
    return lines


def _factor_lines(view: IncidentView, *, full: bool) -> Lines:
    if not view.factors:
        return _entry("common", _no_factor(view))
    first, *others = view.factors
    if view.peak < 2:
        lines = _entry("changed", f"{change_words(first)}, since its baseline")
        lines += _entry("", "on one node alone that proves nothing")
    elif first.changed:
        lines = _entry("common", f"{change_words(first)}, on every one since its baseline")
    else:
        text = f"{change_words(first)}: shared by all, rare elsewhere; it did not change on them"
        lines = _entry("common", text)
    if others:
        lines += _entry("also", "; ".join(change_words(f) for f in others))
    if first.unaffected:
        text = f"{_has(first.unaffected)} it and {_is(first.unaffected)} fine"
        lines += _entry("against", _named(text, view.unaffected, full=full))
    elif first.unaffected is not None:
        lines += _entry("against", "no node has it and is fine")
    if first.waiting and first.changed:
        text = f"{plural(first.waiting, 'peer')} of the same board still to be updated"
        lines += _entry("waiting", _named(text, view.waiting, full=full))
    elif first.waiting == 0 and first.changed:
        lines += _entry("waiting", "no peer of the same board is still to be updated")
    if first.unknown:
        text = f"{plural(first.unknown, 'node')} not heard well enough to tell"
        lines += _entry("unknown", _named(text, view.unknown, full=full))
    return lines


def _no_factor(view: IncidentView) -> str:
    if view.state != "open":
        return "nothing is known"
    if view.nodes < 2:
        return "one node: nothing to compare; nothing is known to have changed on it"
    return "nothing is known that these nodes share and others do not"


def _has(count: int) -> str:
    return f"{plural(count, 'node')} {'has' if count == 1 else 'have'}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _named(text: str, names: Sequence[str], *, full: bool) -> str:
    shown = names if full else names[:_NAMED]
    more = f" and {len(names) - len(shown)} more (--all)" if len(shown) < len(names) else ""
    return f"{text}: {' '.join(shown)}{more}" if shown else text


def _member_lines(view: IncidentView, at: str, *, full: bool) -> Lines:
    lines: Lines = []
    if view.members:
        blank(lines := [Line("")])
        lines.append(title(f"NODES {view.nodes}   {plural(view.vms, 'VM')} affected"))
        # those with VMs first: there somebody has work to do
        ranked = sorted(view.members, key=lambda m: (not m.vms, m.node))
        shown = ranked if full else ranked[:_MEMBERS]
        rows = [[cut(m.node, 24), moment(m.since, today=at), _words(m, view)] for m in shown]
        lines += table(["", "", ""], rows, indent=2)
        if len(shown) < len(ranked):
            lines.append(Line(f"  {len(ranked) - len(shown)} more: --all, or -o json"))
    if view.former:
        lines += [] if lines else [Line("")]
        text = "show it no more" if view.state == "open" else "had it"
        lines += _entry("left", _named(f"{len(view.former)} {text}", view.former, full=full))
    return lines


def _words(member: IncidentMember, view: IncidentView) -> str:
    parts = [] if member.heard else ["not heard since"]
    if member.vms:
        parts.append(f"{plural(len(member.vms), 'VM')}: {' '.join(member.vms)}")
    if member.text != view.text:
        parts.append(member.text)
    return "; ".join(parts) or "no VM of ours concerned"


def _steps(view: IncidentView) -> list[str]:
    if view.state != "open":
        return [view.next]
    steps: list[str] = []
    first = view.factors[0] if view.factors else None
    if first is not None and first.changed and first.waiting and view.peak > 1:
        wait = plural(first.waiting, "peer")
        text = f"Keep {first.part} {first.after} off the {wait} that wait until this is understood."
        steps.append(text)
    steps.append(view.next)
    steps.append(f"vfioctl node show {view.members[0].node if view.members else view.first_node}")
    if not view.acked_by:
        steps.append(f"vfioctl incident ack {view.id} --reason TEXT   (you are on it)")
    return steps


def _entry(label: str, text: str) -> Lines:
    return wrap(f"  {label}".ljust(_LABEL), text, width=WIDTH)
