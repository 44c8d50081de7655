"""Outlines around IOMMU groups: each holds exactly its members, and no two of them overlap.

Every box begins with an outline of its own. Outlines of one group are joined where the rectangle
around both holds no box and touches no outline of anything else; where that cannot be, the group
keeps several parts, each with the group's label. A function without a known group gets the label
only: an outline around it would say what nobody knows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfio_cli.report.geometry import Rect, bound
from vfio_contract.address import Address

PAD = 5
"""Between a box and its outline."""

TAB = 44
"""Width of the label at an outline's right end."""


@dataclass(frozen=True, slots=True)
class Outline:
    """One part of a group. `group` is None or NO_GROUP for a label without an outline.

    `part` counts from 1; `parts` is how many the group has in the whole picture. `rect` includes
    the label at its right end.
    """

    group: int | None
    rect: Rect
    members: tuple[Address, ...]
    part: int = 1
    parts: int = 1

    @property
    def known(self) -> bool:
        """True when there is a group to draw an outline around."""
        return has_group(self.group)


def has_group(group: int | None) -> bool:
    """True for a group's number."""
    return group is not None and group >= 0


def reserve(box: Rect, group: int | None) -> Rect:
    """What a box takes in the picture together with its own outline and label."""
    if not has_group(group):
        return box.grow(left=0, top=0, right=PAD + TAB, bottom=0)
    return box.grow(left=PAD, top=PAD, right=PAD + TAB, bottom=PAD)


def find_outlines(
    boxes: Sequence[tuple[Address, Rect]], groups: Mapping[Address, int | None]
) -> tuple[Outline, ...]:
    """Outlines of boxes given in the order drawn, by height. `part` and `parts` are not yet set."""
    field = _Field(boxes, groups)
    joined: list[Outline] = []
    members: dict[int, list[tuple[Address, Rect]]] = {}
    for address, rect in boxes:
        group = groups[address]
        if group is None or not has_group(group):
            joined.append(Outline(group, reserve(rect, group), (address,)))
        else:
            members.setdefault(group, []).append((address, rect))
    for group, rows in members.items():
        for part in field.join(group, rows):
            rect = reserve(bound(r for _, r in part), group)
            joined.append(Outline(group, rect, tuple(a for a, _ in part)))
    return tuple(sorted(joined, key=lambda o: (o.rect.y, o.rect.x)))


Part = list[tuple[Address, Rect]]


class _Field:
    """What stands in the way of joining: cells of other groups, and outlines already joined."""

    def __init__(
        self, boxes: Sequence[tuple[Address, Rect]], groups: Mapping[Address, int | None]
    ) -> None:
        cells = [(reserve(rect, groups[a]), groups[a]) for a, rect in boxes]
        self._cells = sorted(cells, key=lambda cell: cell[0].y)
        self._tops = [rect.y for rect, _ in self._cells]
        self._tallest = max((rect.height for rect, _ in self._cells), default=0)
        self._joined: list[tuple[Rect, int]] = []

    def join(self, group: int, rows: Part) -> list[Part]:
        """The members in as few parts as can be drawn."""
        parts: list[Part] = []
        rest = list(rows)
        while rest:
            part = [rest.pop(0)]
            grown = True
            while grown and rest:
                grown = False
                for candidate in rest:
                    wider = self._absorb([*part, candidate], rest, group)
                    if self._is_free(wider, group):
                        taken = {a for a, _ in wider}
                        part, rest = wider, [r for r in rest if r[0] not in taken]
                        grown = True
                        break
                    if len(rows) > _PATIENCE:
                        break
            parts.append(part)
            if len(rows) > 1:
                self._joined.append((reserve(bound(r for _, r in part), group), group))
        return parts

    def _absorb(self, part: Part, rest: Part, group: int) -> Part:
        """The part with every other member of the group that its rectangle would touch."""
        names = {a for a, _ in part}
        grown = True
        while grown:
            grown = False
            around = reserve(bound(r for _, r in part), group)
            for address, rect in rest:
                if address not in names and around.overlaps(reserve(rect, group)):
                    part, names = [*part, (address, rect)], names | {address}
                    grown = True
        order = {a: n for n, (a, _) in enumerate([*part, *rest])}
        return sorted(part, key=lambda row: (row[1].y, order[row[0]]))

    def _is_free(self, part: Part, group: int) -> bool:
        around = reserve(bound(r for _, r in part), group)
        first = bisect_left(self._tops, around.y - self._tallest)
        last = bisect_left(self._tops, around.bottom)
        for rect, other in self._cells[first:last]:
            if other != group and around.overlaps(rect):
                return False
        return not any(around.overlaps(rect) for rect, _ in self._joined)


_PATIENCE = 64
"""Members from which only the next one in order is tried: a group of hundreds is one block."""
