"""Rectangles and lines of the picture, in CSS pixels at the picture's own width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rect:
    """`x`, `y` are the upper left corner; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """The height halfway down."""
        return self.y + self.height / 2

    def overlaps(self, other: Rect) -> bool:
        """True when they share more than an edge."""
        return (
            self.x < other.right
            and other.x < self.right
            and self.y < other.bottom
            and other.y < self.bottom
        )

    def holds(self, other: Rect) -> bool:
        """True when the other one is wholly inside."""
        return (
            self.x <= other.x
            and other.right <= self.right
            and self.y <= other.y
            and other.bottom <= self.bottom
        )

    def grow(self, *, left: float, top: float, right: float, bottom: float) -> Rect:
        """The same rectangle with room around it."""
        return Rect(
            self.x - left, self.y - top, self.width + left + right, self.height + top + bottom
        )


def bound(rects: Iterable[Rect]) -> Rect:
    """The smallest rectangle around these; ValueError for none."""
    rows = list(rects)
    x, y = min(r.x for r in rows), min(r.y for r in rows)
    return Rect(x, y, max(r.right for r in rows) - x, max(r.bottom for r in rows) - y)


@dataclass(frozen=True, slots=True)
class Line:
    """A line across (`y1` == `y2`) or down (`x1` == `x2`)."""

    x1: float
    y1: float
    x2: float
    y2: float

    def within(self, top: float, bottom: float) -> Line | None:
        """The part of it between two heights, None when nothing is there."""
        if self.y2 < top or self.y1 >= bottom:
            return None
        if self.y1 == self.y2:
            return self
        return Line(self.x1, max(self.y1, top), self.x2, min(self.y2, bottom))
