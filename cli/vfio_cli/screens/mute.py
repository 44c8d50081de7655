"""The screens of `vfioctl mute`: what nobody wants to hear of, who said so, and what ends it."""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clean,
    cut,
    plural,
    table,
    wrap,
)
from vfio_cli.screens.risk import until_words
from vfio_contract.mute_views import MuteView

_NONE = "Nothing is muted. Mute a code for a while: vfioctl mute add --help"


def list_screen(mutes: Sequence[MuteView], *, wide: bool = False) -> Lines:
    """A line a mute, below it why. With `wide` all of that is on the line."""
    width = UNLIMITED if wide else WIDTH
    if not mutes:
        return wrap("", _NONE, width=width)
    headers = ["CODE", "NODE", "UNTIL", "BY", "HIDES"]
    if wide:
        headers += ["MUTED", "LEVEL", "COVERS", "VMS", "REASON"]
    rows = table(headers, [_cells(mute, wide=wide) for mute in mutes], width=UNLIMITED)
    if wide:
        return rows
    lines = rows[:1]
    for row, mute in zip(rows[1:], mutes, strict=True):
        lines += [row, *wrap("    ", mute.reason)]
    return lines


def _cells(mute: MuteView, *, wide: bool) -> list[str]:
    hides = plural(mute.hides, "node")
    if not wide:
        code, node = cut(mute.code, 24), cut(mute.node or "all", 16)
        return [code, node, cut(until_words(mute.until), 17), cut(mute.muted_by, 10), hides]
    front = [mute.code, mute.node or "all", mute.until, mute.muted_by, hides, mute.muted_at]
    covers = plural(mute.nodes, "node")
    return [*front, mute.level or "-", covers, " ".join(mute.vms) or "-", mute.reason]


def added_screen(mute: MuteView, *, instead_of: MuteView | None = None) -> Lines:
    """What was muted, until when, what ends it before that, and which mute gave way to it."""
    lines = _head("MUTED", "warn", mute)
    lines += wrap("  until   ", until_words(mute.until))
    lines += wrap("  by      ", mute.muted_by)
    lines += wrap("  reason  ", mute.reason)
    lines += wrap("  covers  ", _covers(mute))
    lines += wrap("  breaks  ", _breaks(mute))
    return lines if instead_of is None else [*lines, *wrap("  was     ", _was(instead_of))]


def _was(mute: MuteView) -> str:
    return f"by {mute.muted_by} until {until_words(mute.until)}: {mute.reason}"


def _covers(mute: MuteView) -> str:
    if not mute.level:
        text = f"nothing yet: {mute.node} does not show it now"
    elif mute.node:
        text = f"{mute.level} on {mute.node}"
    else:
        text = f"{mute.level} on {plural(mute.nodes, 'node')}"
    return f"{text}; {plural(len(mute.vms), 'VM')} on it may be at risk" if mute.vms else text


def _breaks(mute: MuteView) -> str:
    reasons = ["another VM is at risk"]
    if mute.level == "WARN":
        reasons.insert(0, "it becomes ERR")
    if not mute.node:
        reasons.insert(0, "another node shows it")
    *first, last = reasons
    return f"when {', '.join(first)}{' or ' if first else ''}{last}"


def removed_screen(mute: MuteView) -> Lines:
    """What counts again."""
    lines = _head("NO LONGER MUTED", "good", mute)
    lines += wrap("  was     ", _was(mute))
    if mute.hides:
        lines += wrap("  counts  ", f"{plural(mute.hides, 'node')} again: vfioctl status --cluster")
    return lines


def _head(word: str, tone: str, mute: MuteView) -> Lines:
    where = f"on {clean(mute.node)}" if mute.node else "on all nodes"
    return [Line(f"{word}  {clean(mute.code)} {where}", tone, 0, len(word))]
