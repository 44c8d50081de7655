"""The screen of `vfioctl forecast`: what is known of a version, and whom it would concern.

Worst first: boards, then nodes, then VMs that would need another home. What was never seen says so
with the versions that were; it is never shown as good.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clock,
    cut,
    plural,
    table,
    title,
    toned,
    two_ends,
    wrap,
)
from vfio_contract.forecast_views import (
    BAD,
    FAILS,
    GOOD,
    MIXED,
    THERE,
    UNKNOWN,
    ForecastBoard,
    ForecastMove,
    ForecastNode,
    ForecastView,
)

_WORDS = {BAD: "KNOWN BAD", MIXED: "MIXED", UNKNOWN: "UNKNOWN", GOOD: "KNOWN GOOD"}
_TONES = {BAD: "bad", FAILS: "bad", MIXED: "warn", UNKNOWN: "unsure", GOOD: "good", THERE: "faint"}

_NAMED = 3
"""Nodes named in a line; -o wide names them all."""

_MOVES = 20
"""VMs shown of each kind; -o wide shows them all."""


def forecast_screen(found: ForecastView, *, wide: bool = False) -> Lines:
    """All of it; wide ones name every node and VM."""
    width = UNLIMITED if wide else WIDTH
    asked = " and ".join(
        f"{what} {text}" for what, text in (("BIOS", found.bios), ("kernel", found.kernel)) if text
    )
    seen = f"revision {found.revision}, {clock(found.at)}"
    head = two_ends(f"FORECAST  {cut(asked, 44)}", seen, width=width)
    lines: Lines = [title(head)]
    for board in found.boards:
        lines += [Line(""), *_board(board, wide=wide)]
    lines += [Line(""), *_nodes(found, wide=wide)]
    lost = [move for move in found.moves if move.outcome == BAD]
    risked = [move for move in found.moves if move.outcome != BAD]
    lines += _moves(lost, "would lose {} home", wide=wide)
    lines += _moves(risked, "at risk if it fails there", wide=wide)
    if found.untried:
        text = f"{plural(found.untried, 'more VM')} concerned; no place was looked for: use --nodes"
        lines += [Line(""), *wrap("", text, width=width)]
    if found.moves:
        lines += [Line(""), *wrap("", "Nothing was reserved.", width=width)]
    if found.next:
        lines += [Line(""), *wrap("Next: ", found.next, width=width)]
    return lines


def _board(board: ForecastBoard, *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    word = _WORDS.get(board.outcome, _WORDS[UNKNOWN])
    name = board.board or "board not known"
    lines: Lines = [
        toned(
            word, _TONES.get(board.outcome, "unsure"), f"  {cut(name, 48)}, {_count(board.nodes)}"
        )
    ]
    versions = (("BIOS", board.bios), ("kernel", board.kernel))
    asked = " and ".join(f"{what} {text}" for what, text in versions if text)
    if not board.board:
        asked = "nothing can be said of nodes whose board is not known"
    elif not (board.passed or board.failed or board.unjudged):
        asked += ": never seen on this board"
    lines += wrap("  with     ", asked, width=width)
    if board.failed:
        shown = "; ".join(", ".join(part) for part in (board.codes, board.incidents) if part)
        text = f"on {_count(len(board.failed))}: {_list(board.failed, wide=wide)} ({shown})"
        lines += wrap("  failed   ", text, width=width)
    if board.passed:
        text = f"on {_count(len(board.passed))}: {_list(board.passed, wide=wide)}"
        lines += wrap("  passed   ", text, width=width)
    if board.unjudged:
        text = f"on {_count(len(board.unjudged))}, not judged: "
        lines += wrap("  runs     ", text + _list(board.unjudged, wide=wide), width=width)
    for text in board.weaker:
        lines += wrap("  weaker   ", text, width=width)
    if board.known:
        listed = _list(board.known, wide=wide, separator=", ")
        lines += wrap("  seen     ", f"on this board: {listed}", width=width)
    return lines


def _nodes(found: ForecastView, *, wide: bool) -> Lines:
    silent = len(found.nodes) - found.heard
    head = f"NODES {len(found.nodes)}"
    if silent:
        head += f", {silent} not heard since the coordinator's start"
    lines: Lines = [title(head)]
    if wide:
        rows = [
            [row.outcome, row.node, row.board or "?", row.bios or "?", row.kernel or "?", row.why]
            for row in found.nodes
        ]
        headers = ["", "NODE", "BOARD", "BIOS", "KERNEL", "WHY"]
        tones = [_TONES.get(row.outcome, "unsure") for row in found.nodes]
        return lines + table(headers, rows, indent=2, width=UNLIMITED, tones=tones)
    groups: dict[tuple[str, str], list[ForecastNode]] = {}
    for row in found.nodes:
        groups.setdefault((row.outcome, row.why), []).append(row)
    cells = [
        [outcome, str(len(rows)), _list([row.node for row in rows]), why]
        for (outcome, why), rows in groups.items()
    ]
    tones = [_TONES.get(outcome, "unsure") for outcome, _ in groups]
    return lines + table(["", "", "", ""], cells, indent=2, right=(1,), tones=tones)


def _moves(moves: Sequence[ForecastMove], what: str, *, wide: bool) -> Lines:
    if not moves:
        return []
    homes = sum(bool(move.to) for move in moves)
    one = len(moves) == 1
    head = f"{plural(len(moves), 'VM')} {what.format('its' if one else 'their')}"
    fits = f"; {homes} of {len(moves)} {'fits' if homes == 1 else 'fit'} elsewhere"
    order = sorted(moves, key=lambda move: bool(move.to))
    shown = order if wide else order[:_MOVES]
    rows = [
        [
            cut(move.vm, 24),
            cut(move.node, 20),
            f"-> {cut(move.to, 20)}" if move.to else "no home",
            "" if move.to else move.why,
        ]
        for move in shown
    ]
    lines: Lines = [Line(""), title(head + fits)]
    lines += table(
        ["", "", "", ""],
        rows,
        indent=2,
        width=UNLIMITED if wide else WIDTH,
        tones=["good" if move.to else "bad" for move in shown],
        tone_column=2,
    )
    if len(order) > len(shown):
        lines += wrap("  ", f"and {len(order) - len(shown)} more: -o wide")
    return lines


def _count(number: int) -> str:
    return plural(number, "node")


def _list(names: Sequence[str], *, wide: bool = False, separator: str = " ") -> str:
    """The first few; of one more than that, all, because `and 1 more` is no shorter."""
    if wide or len(names) <= _NAMED + 1:
        return separator.join(names)
    return f"{separator.join(names[:_NAMED])} and {len(names) - _NAMED} more"
