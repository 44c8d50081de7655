"""A sorted, immutable set of node names that is cheap to change and knows its first.

Kept in chunks: a change copies one chunk and the list of chunks, never the whole set, so that ten
thousand equal nodes in one bucket cost microseconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from operator import itemgetter

_MAX_CHUNK = 128
"""Names in a chunk before it is split; near the square root of the largest fleet."""

_first = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Names:
    """No chunk is empty; chunks and their names are in order."""

    chunks: tuple[tuple[str, ...], ...] = ()
    size: int = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            yield from chunk

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not self.chunks:
            return False
        chunk = self.chunks[self._at(name)]
        place = bisect_left(chunk, name)
        return place < len(chunk) and chunk[place] == name

    @property
    def first(self) -> str:
        """The smallest name; IndexError when empty."""
        return self.chunks[0][0]

    def head(self, count: int) -> tuple[str, ...]:
        """The smallest names, at most so many."""
        return tuple(islice(self, count))

    def add(self, name: str) -> Names:
        """With this name; itself if it is there."""
        if not self.chunks:
            return Names(((name,),), 1)
        at = self._at(name)
        chunk = self.chunks[at]
        place = bisect_left(chunk, name)
        if place < len(chunk) and chunk[place] == name:
            return self
        grown = (*chunk[:place], name, *chunk[place:])
        half = len(grown) // 2
        parts = (grown,) if len(grown) <= _MAX_CHUNK else (grown[:half], grown[half:])
        return Names((*self.chunks[:at], *parts, *self.chunks[at + 1 :]), self.size + 1)

    def remove(self, name: str) -> Names:
        """Without this name; itself if it is not there."""
        if name not in self:
            return self
        at = self._at(name)
        chunk = self.chunks[at]
        place = bisect_left(chunk, name)
        shrunk = (*chunk[:place], *chunk[place + 1 :])
        parts = (shrunk,) if shrunk else ()
        return Names((*self.chunks[:at], *parts, *self.chunks[at + 1 :]), self.size - 1)

    def _at(self, name: str) -> int:
        return max(0, bisect_right(self.chunks, name, key=_first) - 1)


def smallest(sets: Iterable[Names], count: int) -> tuple[str, ...]:
    """The smallest names of several sets that are not empty, at most so many.

    None of them can be in a set whose first name is not among the smallest first names.
    """
    chosen = nsmallest(count, sets, key=_first_of)
    return tuple(sorted(name for names in chosen for name in names.head(count))[:count])


def _first_of(names: Names) -> str:
    return names.chunks[0][0]
