"""What watchers are told: the newest row of everything, and the last rows of the event log.

A watcher is a cursor and nothing else, so one that is slow costs no more than one that is not. Soft
rows are kept once each, in the order in which they last changed: whoever comes back gets what
changed since, each row once, as it is now. Events are kept one by one and never coalesced. Pure: no
time, no lock, no input or output. It must never pass over an event in silence: when a cursor asks
for one that is no longer kept, it says so.

Invariants (the tests hold them against a plain list):
 1. Changes applied from any cursor on give exactly the rows that are there now.
 2. Events that follow a cursor come once each, in order, or `Compacted` is raised.
 3. The work of `since` follows from what changed, not from what is there; memory is bounded by the
    rows that are there, and twice `gone_kept` and `events_kept`.
 4. A fresh list comes to its end however many rows went away before it began.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.views import (
    ClusterChange,
    ClusterStatus,
    Event,
    NodeView,
    VmKey,
    VmView,
    WatchCursor,
    WatchKind,
)

GONE_KEPT = 4_096
"""Rows that went away and are still told to whoever comes back; older cursors get a fresh list."""

EVENTS_KEPT = 10_000
"""As the state's own log (`Limits.events_kept`)."""

BATCH = 500
"""Rows, and events, in one change: about 200 KB of nodes."""

_SLACK = 1_024
"""Outdated places in the order that are not worth a clean-up."""

ALL_KINDS = frozenset(WatchKind)

Row = NodeView | VmView | ClusterStatus


@dataclass(frozen=True, slots=True)
class RowKey:
    """Whose row it is; `generation` is 0 for all but VMs."""

    kind: WatchKind
    name: str = ""
    generation: int = 0


SUMMARY_KEY = RowKey(WatchKind.SUMMARY)


class Compacted(ClusterError):
    """Events after the cursor are no longer kept; `resume` is the oldest place that still is."""

    def __init__(self, detail: str, resume: WatchCursor) -> None:
        super().__init__(ErrorCode.COMPACTED, detail)
        self.resume = resume


class Feed:
    """See the module. One incarnation and epoch; `event_floor` is the highest event not kept."""

    def __init__(
        self,
        *,
        incarnation: int,
        epoch: int,
        event_floor: int = 0,
        gone_kept: int = GONE_KEPT,
        events_kept: int = EVENTS_KEPT,
    ) -> None:
        self._incarnation = incarnation
        self._epoch = epoch
        self._gone_kept = gone_kept
        self._events_kept = events_kept
        self._seq = 0
        self._floor = 0
        self._rows: dict[RowKey, tuple[int, Row | None]] = {}
        self._gone: dict[RowKey, None] = {}
        # Places in the order of change; one is outdated once its key has a later one.
        self._places: list[int] = []
        self._keys: list[RowKey] = []
        self._event_floor = event_floor
        self._event_seq = event_floor
        self._events: list[Event] = []
        self._event_seqs: list[int] = []

    @property
    def newest(self) -> WatchCursor:
        """Where everything was told."""
        return WatchCursor(self._incarnation, self._epoch, self._seq, self._event_seq, self._floor)

    def row(self, key: RowKey) -> Row | None:
        """The row as it is, None where there is none."""
        return self._rows.get(key, (0, None))[1]

    def put(self, key: RowKey, row: Row) -> None:
        """The row is this now."""
        self._gone.pop(key, None)
        self._change(key, row)

    def drop(self, key: RowKey) -> None:
        """The row is there no more; nothing happens where it was not."""
        if self.row(key) is None:
            return
        self._change(key, None)
        self._gone[key] = None
        if len(self._gone) <= 2 * self._gone_kept:
            return
        # many at once: a fresh list that is being told begins again each time the floor moves
        while len(self._gone) > self._gone_kept:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._floor = self._rows.pop(oldest)[0]

    def append(self, event: Event) -> None:
        """A row of the event log that is durable; ValueError for one that is not newer."""
        if event.seq <= self._event_seq:
            raise ValueError(f"event {event.seq} after {self._event_seq}")
        self._event_seq = event.seq
        self._events.append(event)
        self._event_seqs.append(event.seq)
        if len(self._events) > 2 * self._events_kept:
            self._event_floor = self._event_seqs[-self._events_kept - 1]
            del self._events[: -self._events_kept]
            del self._event_seqs[: -self._events_kept]

    def since(
        self,
        cursor: WatchCursor | None,
        *,
        kinds: Collection[WatchKind] = ALL_KINDS,
        node: str = "",
        at: str = "",
        limit: int = BATCH,
    ) -> ClusterChange:
        """What follows the cursor, at most `limit` rows and events of it. Raises Compacted.

        No cursor is a fresh list and no event; one of another epoch a fresh list and the events
        that follow it. `node` picks the events about one node.
        """
        told = self._begin(cursor, kinds)
        reset = cursor is None or told != cursor
        rows, seq = self._rows_after(told.seq, kinds, limit)
        events, event_seq = self._events_after(told.event_seq, kinds, node, limit)
        newest = self.newest
        floor = told.floor if seq < self._floor else self._floor
        return ClusterChange(
            cursor=WatchCursor(self._incarnation, self._epoch, seq, event_seq, floor),
            reset=reset,
            current=seq == newest.seq and event_seq >= newest.event_seq,
            at=at,
            summary=next((r for _, r in rows if isinstance(r, ClusterStatus)), None),
            nodes=tuple(r for _, r in rows if isinstance(r, NodeView)),
            nodes_gone=tuple(k.name for k, r in rows if r is None and k.kind is WatchKind.NODES),
            vms=tuple(r for _, r in rows if isinstance(r, VmView)),
            vms_gone=tuple(
                VmKey(k.name, k.generation)
                for k, r in rows
                if r is None and k.kind is WatchKind.VMS
            ),
            events=events,
        )

    def _begin(self, cursor: WatchCursor | None, kinds: Collection[WatchKind]) -> WatchCursor:
        """Where to begin; `seq` 0 is a fresh list. Raises Compacted."""
        if cursor is None:
            return WatchCursor(self._incarnation, self._epoch, 0, self._event_seq, self._floor)
        if WatchKind.EVENTS in kinds:
            self._check_events(cursor)
        known = (cursor.incarnation, cursor.epoch) == (self._incarnation, self._epoch)
        # In a fresh list `seq` may be below the floor: rows that changed long ago are told first.
        complete = self._floor in (cursor.floor, min(cursor.seq, self._floor))
        kept = known and complete and cursor.seq <= self._seq
        seq, floor = (cursor.seq, cursor.floor) if kept else (0, self._floor)
        return WatchCursor(self._incarnation, self._epoch, seq, cursor.event_seq, floor)

    def _check_events(self, cursor: WatchCursor) -> None:
        floor = self._event_floor
        oldest = WatchCursor(self._incarnation, self._epoch, 0, floor)
        if cursor.incarnation not in (0, self._incarnation):
            raise Compacted(
                f"the cursor is of incarnation {cursor.incarnation}, the store was restored since "
                f"and is of incarnation {self._incarnation}: its events may be others",
                oldest,
            )
        if cursor.event_seq < floor:
            raise Compacted(f"events {cursor.event_seq + 1} to {floor}", oldest)

    def _change(self, key: RowKey, row: Row | None) -> None:
        self._seq += 1
        self._rows[key] = (self._seq, row)
        self._places.append(self._seq)
        self._keys.append(key)
        if len(self._places) > 2 * len(self._rows) + _SLACK:
            current = [
                (place, key)
                for place, key in zip(self._places, self._keys, strict=True)
                if self._is_current(place, key)
            ]
            self._places = [place for place, _ in current]
            self._keys = [key for _, key in current]

    def _is_current(self, place: int, key: RowKey) -> bool:
        known = self._rows.get(key)
        return known is not None and known[0] == place

    def _rows_after(
        self, seq: int, kinds: Collection[WatchKind], limit: int
    ) -> tuple[list[tuple[RowKey, Row | None]], int]:
        found: list[tuple[RowKey, Row | None]] = []
        for index in range(bisect_right(self._places, seq), len(self._places)):
            place, key = self._places[index], self._keys[index]
            if key.kind not in kinds or not self._is_current(place, key):
                continue
            if len(found) == limit:
                return found, seq
            row = self._rows[key][1]
            seq = place
            found.append((key, row))
        return found, self._seq

    def _events_after(
        self, seq: int, kinds: Collection[WatchKind], node: str, limit: int
    ) -> tuple[tuple[Event, ...], int]:
        # A number of the log may be asked for before it is there.
        newest = max(seq, self._event_seq)
        if WatchKind.EVENTS not in kinds:
            return (), newest
        found: list[Event] = []
        for index in range(bisect_right(self._event_seqs, seq), len(self._events)):
            event = self._events[index]
            if node and event.subject != f"node:{node}":
                continue
            if len(found) == limit:
                return tuple(found), found[-1].seq
            found.append(event)
        return tuple(found), newest
