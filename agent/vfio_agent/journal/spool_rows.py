"""The spool's rows inside one transaction: placing an event, making room, and gaps.

A row is an event or a gap; the numbers of both together are without a hole. Gaps are merged with
their neighbours, so there are never more of them than there are events, and they do not count
against the bounds. It must never drop a critical event, nor a number.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vfio_contract.durable import (
    CRITICAL,
    DurableEvent,
    EventsLost,
    KindCount,
    Stamp,
    decode_event,
    encode_event,
    kind_of,
)

RESERVED_BYTES = 192 * 1024
"""Held back for the record of one action: nine fields of 1,024 characters, each 12 bytes as JSON
at worst, and a packed report as base64."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the spool. Actions are refused when what cannot be dropped reaches `action_share`: the
    rest is for what happens without being asked."""

    events: int = 50_000
    bytes: int = 32 * 1024 * 1024
    action_share: float = 0.75


@dataclass(slots=True)
class Usage:
    """How much the events take up; `fixed` are those that cannot be dropped. Gaps are left out."""

    last: int
    events: int
    bytes: int
    fixed_events: int
    fixed_bytes: int
    reserved: int


class Rows:
    """See the module; `usage` is kept up to date."""

    def __init__(self, db: sqlite3.Connection, usage: Usage, bounds: Bounds) -> None:
        self._db = db
        self._bounds = bounds
        self.usage = usage

    @staticmethod
    def measure(db: sqlite3.Connection) -> Usage:
        """What is there now."""
        (last,) = db.execute("SELECT value FROM meta WHERE key = 'spool_last'").fetchone()
        (reserved,) = db.execute("SELECT count(*) FROM reservations").fetchone()
        return Usage(int(last), *_sums(db, "gap = 0"), reserved)

    def place(self, event: DurableEvent) -> bool:
        """Give it the next number; False, with nothing done, for a critical one without room.

        Another one without room becomes part of a gap.
        """
        body = encode_event(event)
        critical = isinstance(event.payload, CRITICAL)
        if self._make_room(len(body)):
            self.usage.last += 1
            self._insert(self.usage.last, self.usage.last, body, critical=critical, gap=False)
            self.usage.events += 1
            self.usage.bytes += len(body)
            self.usage.fixed_events += critical
            self.usage.fixed_bytes += critical * len(body)
            return True
        if critical:
            return False
        self.lose({_kind(event): 1}, event.at)
        return True

    def lose(self, kinds: Mapping[str, int], at: Stamp) -> None:
        """The next numbers are lost; `at` is the moment of the last of them."""
        count = sum(kinds.values())
        first = self.usage.last + 1
        self.usage.last += count
        self._put_gap(first, self.usage.last, Counter(kinds), at)

    def hold_back(self) -> None:
        """Room for one action more; the caller has checked that what must stay leaves it."""
        self.usage.reserved += 1
        most_events, most_bytes = self._limits()
        while self.usage.events > most_events or self.usage.bytes > most_bytes:
            self._drop_oldest()

    def forget(self, upto: int) -> None:
        """Everything up to that number is held elsewhere; a gap that goes on beyond it stays."""
        events, size, fixed, fixed_size = _sums(self._db, "gap = 0 AND seq <= ?", upto)
        self.usage.events -= events
        self.usage.bytes -= size
        self.usage.fixed_events -= fixed
        self.usage.fixed_bytes -= fixed_size
        self._db.execute("DELETE FROM spool WHERE seq <= ?", (upto,))

    def clear(self) -> list[tuple[int, int, DurableEvent]]:
        """Take everything out, as (first, seq, event); numbers begin at 1 again."""
        rows = self._db.execute("SELECT first, seq, body FROM spool ORDER BY seq").fetchall()
        self._db.execute("DELETE FROM spool")
        self.usage = Usage(0, 0, 0, 0, 0, self.usage.reserved)
        return [(first, seq, decode_event(body)) for first, seq, body in rows]

    def _make_room(self, size: int) -> bool:
        """For one more event; False where only dropping what must stay would do."""
        most_events, most_bytes = self._limits()
        usage = self.usage
        if usage.fixed_events + 1 > most_events or usage.fixed_bytes + size > most_bytes:
            return False
        while usage.events + 1 > most_events or usage.bytes + size > most_bytes:
            self._drop_oldest()
        return True

    def _limits(self) -> tuple[int, int]:
        """What events may take up, beside the reservations."""
        held = self.usage.reserved
        return self._bounds.events - held, self._bounds.bytes - held * RESERVED_BYTES

    def _drop_oldest(self) -> None:
        seq, body = self._db.execute(
            "SELECT seq, body FROM spool WHERE critical = 0 ORDER BY seq LIMIT 1"
        ).fetchone()
        event = decode_event(body)
        self._db.execute("DELETE FROM spool WHERE seq = ?", (seq,))
        self.usage.events -= 1
        self.usage.bytes -= len(body)
        self._put_gap(seq, seq, Counter({_kind(event): 1}), event.at)

    def _put_gap(self, first: int, seq: int, kinds: Counter[str], at: Stamp) -> None:
        """One gap with those that it touches."""
        for near, later in (("seq = ?", first - 1), ("gap = 1 AND first = ?", seq + 1)):
            row = self._db.execute(
                f"SELECT first, seq, body FROM spool WHERE gap = 1 AND {near}", (later,)
            ).fetchone()
            if row is None:
                continue
            event = decode_event(row[2])
            self._db.execute("DELETE FROM spool WHERE seq = ?", (row[1],))
            kinds.update(lost_kinds(event))
            at = event.at if row[1] > seq else at
            first, seq = min(first, row[0]), max(seq, row[1])
        counts = tuple(KindCount(kind, count) for kind, count in sorted(kinds.items()))
        gap = DurableEvent(at, "", "", EventsLost(first, counts))
        self._insert(first, seq, encode_event(gap), critical=True, gap=True)

    def _insert(self, first: int, seq: int, body: bytes, *, critical: bool, gap: bool) -> None:
        row = (seq, first, int(critical), int(gap), body)
        self._db.execute("INSERT INTO spool VALUES (?, ?, ?, ?, ?)", row)


def lost_kinds(event: DurableEvent) -> dict[str, int]:
    """What is lost if this row is: itself, or all that a gap stands for."""
    if isinstance(event.payload, EventsLost):
        return {row.kind: row.count for row in event.payload.kinds}
    return {_kind(event): 1}


def _kind(event: DurableEvent) -> str:
    if event.payload is None:
        raise ValueError("an event without a payload cannot be spooled")
    return kind_of(event.payload)


def _sums(db: sqlite3.Connection, where: str, *values: int) -> tuple[int, int, int, int]:
    found = db.execute(
        "SELECT count(*), total(length(body)), total(critical), total(critical * length(body))"
        f" FROM spool WHERE {where}",
        values,
    ).fetchone()
    count, size, fixed, fixed_size = map(int, found)
    return count, size, fixed, fixed_size
