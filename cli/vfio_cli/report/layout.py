"""Where each box of the picture goes: bridges from left to right, functions in one column, in rows.

    host bridge |- root port -|- upstream port -|- downstream port -|- function     group
                |                               `- downstream port -|- function     group
                `---------------------------------------------------- function      group

A bridge stands beside the first function below it, so that a row reads like the way of a DMA
request. A tree that is too deep for the page's width goes downwards instead: each bridge in a row
of its own. Pure arithmetic: nothing here knows what is written into a box.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from vfio_cli.report.forest import Forest, Slot, Tree
from vfio_cli.report.geometry import Line, Rect
from vfio_cli.report.outlines import PAD, TAB, Outline, find_outlines, has_group, reserve
from vfio_contract.address import Address
from vfio_contract.model import PciFunction

WIDTH = 1200
"""Of the picture; the page shows it at this size on a screen of 1280 pixels."""

HIGH, LOW = 46, 28
"""Heights of a box with two lines and with one."""

_LEFT = 40
_TOP = 12
_TRUNK = 24
"""From a line down to the boxes at its right."""

_MARGIN = 14
"""Right of the last outline."""

_BRACKET = 11
"""From a slot's bracket to its boxes."""

_WIDEST = 720
"""A function's box is not wider: name and verdict would stand too far apart."""

_BRIDGE = 134
"""Width of a bridge's box: `downstream port` and an address behind a VMD fit."""

_DEEPEST = 3
"""Bridges above each other that fit beside each other and leave room for a function's words."""

_INDENT = 48
"""From a bridge to what is below it where the tree goes downwards."""

_BAND = 240
"""Heights at which a picture may be cut for printing lie at least so far apart."""


class Shape(StrEnum):
    """What a box has room for."""

    BRIDGE = "bridge"
    """Narrow, two lines; also of other functions in a bridge's slot."""

    FULL = "full"
    """Wide, two lines."""

    LOW = "low"
    """Wide, one line: a function that is never passed."""


@dataclass(frozen=True, slots=True)
class Box:
    """One function's place."""

    address: Address
    rect: Rect
    shape: Shape


@dataclass(frozen=True, slots=True)
class Bracket:
    """Beside the functions of one slot, where there are several."""

    slot: str
    line: Line


@dataclass(frozen=True, slots=True)
class Panel:
    """One tree of the forest, drawn. `cuts` are heights at which no box, outline or slot is."""

    tree: Tree
    boxes: tuple[Box, ...]
    brackets: tuple[Bracket, ...]
    lines: tuple[Line, ...]
    outlines: tuple[Outline, ...]
    cuts: tuple[float, ...]
    height: float


def lay_out(forest: Forest, *, low: Collection[Address]) -> tuple[Panel, ...]:
    """A panel for each tree. `low` are functions for which one line is enough."""
    columns = _Columns(forest)
    panels = [_Sheet(forest, tree, columns, low).panel() for tree in forest.trees]
    return _count_parts(panels)


def _count_parts(panels: list[Panel]) -> tuple[Panel, ...]:
    """The same panels with each outline's part numbered through the whole picture."""
    total: dict[int | None, int] = {}
    for panel in panels:
        for outline in panel.outlines:
            total[outline.group] = total.get(outline.group, 0) + 1
    seen: dict[int | None, int] = {}
    made = []
    for panel in panels:
        rows = []
        for outline in panel.outlines:
            seen[outline.group] = seen.get(outline.group, 0) + 1
            number = seen[outline.group]
            rows.append(replace(outline, part=number, parts=total[outline.group]))
        made.append(replace(panel, outlines=tuple(rows)))
    return tuple(made)


class _Columns:
    """Widths that all panels share, so that their columns stand below each other."""

    def __init__(self, forest: Forest) -> None:
        self.depths = _depths(forest)
        deepest = max((d for d in self.depths.values() if d <= _DEEPEST), default=0)
        self.step = _BRIDGE + PAD + TAB + _TRUNK + 10
        self.right = WIDTH - PAD - TAB - _MARGIN
        self.end = max(_LEFT + self.step * deepest, self.right - _WIDEST)

    def indent(self, depth: int) -> float:
        """From a bridge to the next below it, in a tree of this depth that goes downwards."""
        return min(_INDENT, (self.end - _LEFT) / depth)


def _depths(forest: Forest) -> dict[Address, int]:
    """For each topmost function, how many bridges stand above each other from it downwards."""
    depths: dict[Address, int] = {}
    for tree in forest.trees:
        for slot in tree.slots:
            for top in slot.functions:
                depth, row = 0, [top]
                while row := [f for f in row if f.address in forest.below]:
                    depth += 1
                    row = [f for b in row for s in forest.below[b.address] for f in s.functions]
                depths[top.address] = depth
    return depths


@dataclass(slots=True)
class _Open:
    """A bridge (or the tree itself) whose slots are being drawn; `before` is of the same slot."""

    slots: Iterator[Slot]
    trunk: float
    x: float
    start: float
    beside: bool
    indent: float
    box: Rect | None = None
    last: float | None = None
    functions: Iterator[PciFunction] | None = None
    slot: Slot | None = None
    column: float = 0
    before: PciFunction | None = None


class _Sheet:
    """Draws one tree, row after row, without recursion: evidence may nest deeper than Python."""

    def __init__(
        self, forest: Forest, tree: Tree, columns: _Columns, low: Collection[Address]
    ) -> None:
        self._forest, self._tree, self._columns, self._low = forest, tree, columns, low
        self._boxes: list[Box] = []
        self._groups: dict[Address, int | None] = {}
        self._brackets: list[Bracket] = []
        self._lines: list[Line] = []
        self._floor = float(_TOP - PAD)
        self._fresh = True

    def panel(self) -> Panel:
        """The finished drawing."""
        self._draw()
        outlines = find_outlines([(b.address, b.rect) for b in self._boxes], self._groups)
        height = self._floor + _TOP - PAD
        return Panel(
            tree=self._tree,
            boxes=tuple(self._boxes),
            brackets=tuple(self._brackets),
            lines=tuple(self._lines),
            outlines=outlines,
            cuts=_cuts(outlines, self._brackets, height),
            height=height,
        )

    def _draw(self) -> None:
        trunk = float(_LEFT - _TRUNK)
        root = _Open(iter(self._tree.slots), trunk, float(_LEFT), 0.0, beside=True, indent=0)
        todo = [root]
        while todo:
            level = todo[-1]
            function = next(level.functions, None) if level.functions else None
            if function is not None:
                below = self._place(level, function)
                if below is not None:
                    todo.append(below)
                continue
            self._end_slot(level)
            level.slot = next(level.slots, None)
            if level.slot is None:
                todo.pop()
                self._end_level(level)
                continue
            level.functions = iter(level.slot.functions)
            level.before = None
            bridged = any(
                f.address in self._forest.below or f.is_bridge for f in level.slot.functions
            )
            level.column = level.x if bridged else float(self._columns.end)

    def _place(self, level: _Open, function: PciFunction) -> _Open | None:
        """Put one function's box; what hangs below it, if anything does."""
        slots = self._forest.below.get(function.address, ())
        shape = self._shape(level, function)
        x = level.column
        width = _BRIDGE if shape is Shape.BRIDGE else self._columns.right - x
        height = LOW if shape is Shape.LOW else HIGH
        rect = Rect(x, self._next_row(level, function, height), width, height)
        self._boxes.append(Box(function.address, rect, shape))
        self._groups[function.address] = function.group
        if level.before is None:
            several = level.slot is not None and len(level.slot.functions) > 1
            end = x - _BRACKET if several else x
            self._lines.append(Line(level.trunk, rect.middle, end, rect.middle))
            level.last = rect.middle
        cell = reserve(rect, function.group)
        level.before = function
        if not slots:
            self._floor = max(self._floor, cell.bottom)
            return None
        return self._open(level, function, slots, rect)

    def _open(
        self, level: _Open, function: PciFunction, slots: tuple[Slot, ...], rect: Rect
    ) -> _Open:
        depth = self._columns.depths.get(function.address, 0)
        top = level.box is None
        beside = depth <= _DEEPEST if top else level.beside
        indent = self._columns.indent(depth) if top and not beside else level.indent
        self._fresh = beside
        if beside:
            x = rect.x + self._columns.step
            trunk = x - _TRUNK
            self._lines.append(Line(rect.right, rect.middle, trunk, rect.middle))
            return _Open(iter(slots), trunk, x, rect.middle, beside=True, indent=0, box=rect)
        self._floor = max(self._floor, reserve(rect, function.group).bottom)
        trunk = rect.x + min(12.0, indent / 2)
        x = rect.x + indent
        return _Open(iter(slots), trunk, x, rect.bottom, beside=False, indent=indent, box=rect)

    def _shape(self, level: _Open, function: PciFunction) -> Shape:
        if function.address in self._forest.below or function.is_bridge:
            return Shape.BRIDGE
        if function.address not in self._low:
            return Shape.FULL
        return Shape.BRIDGE if level.column != self._columns.end else Shape.LOW

    def _next_row(self, level: _Open, function: PciFunction, height: float) -> float:
        """The next box's upper edge: beside its bridge, or below all that was drawn."""
        fresh, self._fresh = self._fresh, False
        if fresh and level.box is not None:
            return level.box.middle - height / 2
        before, below = level.before, self._forest.below
        # what stands beside a bridge may have an outline even where the bridge has none
        above = PAD if has_group(function.group) or function.address in below else 0
        if before is None:
            return self._floor + (10 if self._boxes else 5) + above
        if before.group == function.group and not {before.address, function.address} & below.keys():
            # one outline will surround both, or none
            return self._floor - above + 4
        return self._floor + (2 if above or has_group(before.group) else 4) + above

    def _end_slot(self, level: _Open) -> None:
        slot = level.slot
        if slot is None or len(slot.functions) < 2:
            return
        names = {f.address for f in slot.functions}
        rects = [b.rect for b in self._boxes[-self._span(names) :] if b.address in names]
        x = level.column - _BRACKET
        line = Line(x, min(r.y for r in rects), x, max(r.bottom for r in rects))
        self._brackets.append(Bracket(slot.name, line))

    def _span(self, names: set[Address]) -> int:
        """How many of the last boxes hold all of these."""
        for back in range(1, len(self._boxes) + 1):
            names = names - {self._boxes[-back].address}
            if not names:
                return back
        return len(self._boxes)

    def _end_level(self, level: _Open) -> None:
        if level.last is not None and level.last > level.start:
            self._lines.append(Line(level.trunk, level.start, level.trunk, level.last))
        if level.box is not None:
            self._floor = max(self._floor, level.box.bottom + PAD)
        self._fresh = False


def _cuts(
    outlines: tuple[Outline, ...], brackets: list[Bracket], height: float
) -> tuple[float, ...]:
    """Heights that cross nothing but lines, from 0 to `height`, as near to `_BAND` as can be."""
    spans = [(o.rect.y, o.rect.bottom) for o in outlines]
    spans += [(b.line.y1, b.line.y2) for b in brackets]
    cuts = [0.0]
    floor = 0.0
    for top, bottom in sorted(spans):
        if top > floor and floor - cuts[-1] >= _BAND:
            cuts.append((floor + top) // 2)
        floor = max(floor, bottom)
    return (*cuts, height)
