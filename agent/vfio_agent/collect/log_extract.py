"""The extract of a kernel log of any size, made from blocks as they are read.

Floods are why this is no loop over lines: a log of 100 MB is mostly one message with other numbers
in it. Lines that differ in their digits alone have one shape and are understood once; only shapes
not seen before are searched for marks; and a line's text is made only when it is kept. None of that
may change what is kept: the tests compare it with the plain loop.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from vfio_agent.collect.log_kinds import DIGIT_MARKS, FOREIGN_LEVEL, KINDS, MARKED, rank_of
from vfio_agent.collect.log_line import LINE_BYTES, parse_line
from vfio_contract.model import KernelLog, LogLine

KEEP_FIRST = 300
KEEP_LAST = 300
"""Lines kept of one kind; the largest captured boot puts 281 functions into groups."""

BLOCK_BYTES = 1 << 20
"""How much is searched at a time, so that only small copies of the log are made."""

STYLE_LINES = 2000
"""Lines at the head, within the first block, in which a prefix is looked for."""

_DROPPED = re.compile(r"\*\* \d+ printk messages dropped")
"""Written by a console that could not keep up, without any prefix."""

_BOOT = re.compile(r"Linux version \S+ \(")
"""`Linux version 6.1.0 (builder@host) (gcc ...`: the banner, not a sentence about a version."""

_OTHER_BOOT = (b"-- Boot ", b"-- Reboot --")
"""journalctl's line between two boots."""

_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_KERNEL_LEVEL = re.compile(rb"<[0-7]>")
_PROCESS_LEVEL = re.compile(rb"<(?:[89]|[1-9][0-9]{1,3})>")
_SHAPES_KEPT = 1 << 15
_SHAPE_BYTES = 256

_ALONE = rb"(?![0-9A-Za-z_]|\S{0,80}:)"
_ADDRESS = re.compile(
    rb"0x(?<![0-9A-Za-z_.\[]0x)(?<!mem 0x)[0a-f]{1,40}" + _ALONE  # `[mem 0x00...` is a mark
)
_HEX = re.compile(
    rb"[0a-f](?<![0-9A-Za-z_.\[].)"
    rb"(?:(?<=[a-f])[0a-f]{2,40}|(?<=0)0{0,40}[a-f][0a-f]{0,40})" + _ALONE
)
"""Hexadecimal numbers in a shape, in no place where a prefix may be; no mark can reach into one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sense:
    """What matters of a line: its kind's place in KINDS (-1: none), what it says of the boot.

    `plain` is True for a kernel's line that changes nothing but what is kept of its kind.
    """

    rank: int
    stamped: bool
    foreign: bool
    init_ran: bool
    boot: bool
    dropped: bool
    plain: bool


_make_sense = cache(_Sense)
"""One object for equal senses, so that they are compared by what they are."""

_NONE = _make_sense(-1, False, False, False, False, False, False)
_BETWEEN = _make_sense(-2, False, False, False, False, False, False)
"""Says nothing; and is the journal's line between two boots."""


class _Window:
    """The first and the last lines of one kind, as (number, row)."""

    __slots__ = ("first", "last", "seen")

    def __init__(self) -> None:
        self.first: list[tuple[int, bytes]] = []
        self.last: deque[tuple[int, bytes]] = deque(maxlen=KEEP_LAST)
        self.seen = 0

    def add(self, number: int, row: bytes) -> None:
        self.seen += 1
        kept = self.last if self.seen > KEEP_FIRST else self.first
        kept.append((number, row[:LINE_BYTES]))

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        yield from self.first
        yield from self.last

    @property
    def omitted(self) -> int:
        return self.seen - len(self.first) - len(self.last)


class LogExtract:
    """Takes a log in pieces of any size and keeps what `KernelLog` holds of it.

    Of a line only its first `LINE_BYTES` count. `boots` is how many boots begin in it.
    """

    def __init__(self) -> None:
        self.boots = 0
        self._from_boot = False
        self._reached_userspace = False
        self._stamped: bool | None = None
        self._windows = [_Window() for _ in KINDS]
        self._shapes: dict[bytes, _Sense] = {}
        self._lines = 0
        self._rest = b""
        self._open_end = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the log. The first piece should hold `STYLE_LINES` lines, or all."""
        for start in range(0, len(data), BLOCK_BYTES):
            self._feed_block(data[start : start + BLOCK_BYTES])

    def _feed_block(self, data: bytes) -> None:
        end = data.rfind(b"\n") + 1
        self._open_end = end < len(data)
        data = data.replace(b"\0", b"") if b"\0" in data else data
        end = data.rfind(b"\n") + 1
        if end:
            self._look_at_head(self._rest + data)
            self._take(self._rest + data[:end])
            self._rest = b""
        if len(self._rest) < LINE_BYTES:
            self._rest = (self._rest + data[end:])[:LINE_BYTES]

    def _look_at_head(self, data: bytes) -> None:
        """Without a prefix anywhere, lines cannot be told from prose."""
        if self._stamped is None:
            rows = data.split(b"\n", STYLE_LINES)[:STYLE_LINES]
            self._stamped = any(parse_line(row).stamped for row in rows)

    def finish(self, source: str) -> KernelLog:
        """The extract; nothing may be fed afterwards."""
        if self._open_end:
            self._look_at_head(self._rest)
            self._take(self._rest + b"\n")
        kept = sorted(pair for window in self._windows for pair in window)
        return KernelLog(
            source=source,
            from_boot=self._from_boot,
            reached_userspace=self._reached_userspace,
            total_lines=self._lines,
            lines=tuple(_make_line(number, row) for number, row in kept),
            omitted_lines=sum(window.omitted for window in self._windows),
        )

    # --- one block ----------------------------------------------------------------------------

    def _take(self, block: bytes) -> None:
        """A block of whole lines."""
        if not block.strip():
            self._lines += block.count(b"\n")
            return
        rows = block.split(b"\n")
        rows.pop()
        senses = self._understand(block, rows)
        number = self._lines
        self._lines += len(rows)
        told = set(senses)
        told.discard(_NONE)
        windows = self._windows
        if all(s.plain and windows[s.rank].seen >= KEEP_FIRST for s in told):
            self._add_flood(number, senses, rows, told)
            return
        for sense, row in zip(senses, rows, strict=True):
            number += 1
            if sense is _NONE:
                continue
            if sense.plain:
                windows[sense.rank].add(number, row)
            else:
                self._take_line(number, row, sense)
                windows = self._windows

    def _add_flood(
        self, number: int, senses: Sequence[_Sense], rows: list[bytes], told: set[_Sense]
    ) -> None:
        """Rows of kinds whose first lines are known: all are counted, the last ones kept."""
        left: dict[int, int] = {}
        for sense in told:
            count = senses.count(sense)
            self._windows[sense.rank].seen += count
            left[sense.rank] = min(KEEP_LAST, left.get(sense.rank, 0) + count)
        kept: list[tuple[int, int]] = []
        place = len(rows)
        wanted = sum(left.values())
        while len(kept) < wanted:
            place -= 1
            rank = senses[place].rank
            if rank >= 0 and left[rank]:
                left[rank] -= 1
                kept.append((place, rank))
        for place, rank in reversed(kept):
            self._windows[rank].last.append((number + place + 1, rows[place][:LINE_BYTES]))

    def _take_line(self, number: int, row: bytes, sense: _Sense) -> None:
        if sense is _BETWEEN:
            self._from_boot = self._reached_userspace = False
            self._windows = [_Window() for _ in KINDS]
            return
        if sense.dropped:
            self._from_boot = self._from_boot and self._reached_userspace
        elif sense.boot and not sense.foreign:
            self.boots += 1
            self._from_boot, self._reached_userspace = True, False
            self._stamped = sense.stamped
            self._windows = [_Window() for _ in KINDS]
        elif self._stamped and not sense.stamped:
            return
        self._reached_userspace = self._reached_userspace or sense.init_ran
        if not sense.foreign and sense.rank >= 0:
            self._windows[sense.rank].add(number, row)

    def _understand(self, block: bytes, rows: list[bytes]) -> Sequence[_Sense]:
        """What each row says, found out once for each shape."""
        shapes = _shape(block).split(b"\n")[:-1]
        if len(self._shapes) > _SHAPES_KEPT:
            self._shapes.clear()
        known = list(map(self._shapes.get, shapes))
        if None not in known:
            return known  # type: ignore[return-value]  # no None is left
        new = {shapes[place]: place for place, sense in enumerate(known) if sense is None}
        # of a log in which every line is another, the useless ones are not worth keeping
        often = 2 * len(new) < len(rows)
        fresh = dict.fromkeys(new, _NONE)
        by_digits: set[bytes] = set()
        marked = _find_marked(list(new))
        digits = DIGIT_MARKS.search(b"\n".join(marked).lower()) is not None
        for shape, loose in zip(marked, _loosen(marked), strict=True):
            if b"<0" in shape or (digits and DIGIT_MARKS.search(shape.lower())):
                by_digits.add(shape)
                continue
            sense = self._shapes.get(loose)
            if sense is None:
                sense = self._shapes[loose] = _understand_row(rows[new[shape]])
            fresh[shape] = sense
        found = [
            sense or self._understand_digits(row, shape)
            if shape in by_digits
            else sense or fresh[shape]
            for sense, shape, row in zip(known, shapes, rows, strict=True)
        ]
        for shape in by_digits:
            del fresh[shape]
        self._shapes.update(
            (shape, sense)
            for shape, sense in fresh.items()
            if (often or sense is not _NONE) and len(shape) <= _SHAPE_BYTES
        )
        return found

    def _understand_digits(self, row: bytes, shape: bytes) -> _Sense:
        """A row of which more is to be known than its shape: its marks with their digits."""
        if b"<0" in shape:
            return _understand_row(row)
        # a shape has no newline, so that no other key is like this one
        key = b"\n".join((shape, *DIGIT_MARKS.findall(row.lower())))
        sense = self._shapes.get(key)
        if sense is None:
            sense = self._shapes[key] = _understand_row(row)
        return sense


def _shape(block: bytes) -> bytes:
    """The lines with every digit as 0, but for what a digit decides: who wrote the line."""
    if b"<" in block:
        block = _PROCESS_LEVEL.sub(FOREIGN_LEVEL, _KERNEL_LEVEL.sub(b"<\0>", block))
    block = block.translate(_TO_ZERO)
    return _ADDRESS.sub(b"\0x", block) if b"0x" in block else block


def _find_marked(shapes: Sequence[bytes]) -> list[bytes]:
    """Those that may be of use, in their order."""
    ends = list(accumulate(len(shape) + 1 for shape in shapes))
    text = b"\n".join(shapes).lower()
    places = {bisect_right(ends, match.start()) for match in MARKED.finditer(text)}
    return [shapes[place] for place in sorted(places)]


def _loosen(shapes: Sequence[bytes]) -> list[bytes]:
    """The shapes with hexadecimal numbers of any value and length as one: no mark has any."""
    return _HEX.sub(b"\0h", b"\n".join(shapes)).split(b"\n") if shapes else []


def _understand_row(row: bytes) -> _Sense:
    if row.lstrip(b"> ").startswith(_OTHER_BOOT):
        return _BETWEEN
    line = parse_line(row)
    rank = rank_of(line.text.lower())
    if rank < 0 and not line.init_ran:
        return _NONE
    boot = _BOOT.match(line.text) is not None
    dropped = _DROPPED.match(line.text) is not None
    special = line.foreign or line.init_ran or boot or dropped
    plain = line.stamped and rank >= 0 and not special
    return _make_sense(rank, line.stamped, line.foreign, line.init_ran, boot, dropped, plain)


def _make_line(number: int, row: bytes) -> LogLine:
    line = parse_line(row)
    return LogLine(number, line.seconds, line.text)
