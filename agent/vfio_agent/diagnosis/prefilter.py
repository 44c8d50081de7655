"""Which lines of a block of text may say something: found fast, and never too few.

A log of 100 MB is mostly a few messages with other numbers in them. Lines that differ in their
digits alone have one shape, and a shape is searched for words once; before that, numbers of any
length are taken for one. This module must never decide
what a line says; it may only spare the looking at lines that hold none of the words.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate

SHAPES_KEPT = 1 << 15
SHAPE_BYTES = 256
"""Longer lines are searched each time, so that what is kept stays below 16 MB."""

_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_ZEROS = re.compile(rb"00+")
_ANCHORS = "/mqhtvbdina"
"""Letters that are rare in logs, of which nearly every word has one; the rarest first."""


class Prefilter:
    """Finds lines with any of `words` (lower case), in any case of theirs."""

    def __init__(self, words: Iterable[str]) -> None:
        self._pattern = _compile(frozenset(_loosen(shape_of(w.encode())).decode() for w in words))
        self._loose: dict[bytes, bool] = {}
        self._shapes: dict[bytes, bool] = {}

    def find(self, block: bytes) -> list[tuple[int, bytes, bytes]]:
        """(place from 0, line, shape) of lines that may hold a word; the shape alone decides."""
        shapes = shape_of(block).split(b"\n")
        known = self._shapes
        if len(known) > SHAPES_KEPT:
            known.clear()
        told = set(shapes)
        fresh = [shape for shape in told if shape not in known]
        marked = self._find_marked(fresh)
        useful = {shape for shape in told if shape in marked or known.get(shape)}
        known.update((s, s in marked) for s in fresh if len(s) <= SHAPE_BYTES)
        if not useful:
            return []
        rows = block.split(b"\n")
        return [(n, rows[n], shape) for n, shape in enumerate(shapes) if shape in useful]

    def _find_marked(self, shapes: Sequence[bytes]) -> set[bytes]:
        """Those that may hold a word."""
        if not shapes:
            return set()
        loose = _loosen(b"\n".join(shapes)).split(b"\n")
        known = self._loose
        if len(known) > SHAPES_KEPT:
            known.clear()
        fresh = [row for row in set(loose) if row not in known]
        marked = {fresh[place] for place in self._search(fresh)}
        useful = {row for row in loose if row in marked or known.get(row)}
        known.update((row, row in marked) for row in fresh if len(row) <= SHAPE_BYTES)
        return {shape for shape, row in zip(shapes, loose, strict=True) if row in useful}

    def _search(self, shapes: Sequence[bytes]) -> set[int]:
        ends = list(accumulate(len(shape) + 1 for shape in shapes))
        text = b"\n".join(shapes)
        return {bisect_right(ends, match.start()) for match in self._pattern.finditer(text)}


def shape_of(text: bytes) -> bytes:
    """In lower case, with every digit as 0."""
    return text.lower().translate(_TO_ZERO)


def _loosen(text: bytes) -> bytes:
    return _ZEROS.sub(b"0", text)


@cache
def _compile(words: frozenset[str]) -> re.Pattern[bytes]:
    """Any of the words; each alternative begins at a rare letter and looks back for the rest."""
    groups: dict[str, list[str]] = {}
    for word in sorted(words):
        anchor = next((letter for letter in _ANCHORS if letter in word), word[0])
        before, _, after = word.partition(anchor)
        back = f"(?<={re.escape(before + anchor + after)})" if before else ""
        groups.setdefault(anchor, []).append(re.escape(after) + back)
    branches = (f"{re.escape(a)}(?:{'|'.join(rests)})" for a, rests in groups.items())
    return re.compile("|".join(branches).encode())
