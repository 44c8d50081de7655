"""A gate for device events: a log storm becomes a few events that say how many lines there were.

Of each kind of message about each function the first ones pass at once; what comes faster is held
and told as one event with a count. Pure: time is an argument. It must never lose an event or its
count (what passed + what is held = what was offered), and never keep more than `keys` kinds apart,
whatever addresses the lines make up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from vfio_agent.watch.bucket import Bucket
from vfio_agent.watch.device_events import DeviceEvent

BURST = 3
PER_S = 0.1
"""Of one kind about one function: three at once, then one summary in 10 s."""

TOTAL_BURST = 100
TOTAL_PER_S = 10.0
"""Of all together; a GPU server with every device failing at once has fewer."""

KEYS = 512

_Key = tuple[str, str, bool]


@dataclass(slots=True)
class _Row:
    bucket: Bucket = field(default_factory=lambda: Bucket(burst=BURST, per_s=PER_S))
    held: DeviceEvent | None = None


class FloodGate:
    """Give it what `held` gave when the agent starts again: it goes on counting there."""

    def __init__(self, *, held: tuple[DeviceEvent, ...] = (), keys: int = KEYS) -> None:
        self._keys = keys
        self._total = Bucket(burst=TOTAL_BURST, per_s=TOTAL_PER_S)
        self._rows: dict[_Key, _Row] = {}
        self._waiting: dict[_Key, _Row] = {}
        self._swept_s = -inf
        for event in held:
            self._hold(self._key_of(event, -inf), event)

    def offer(self, event: DeviceEvent, now_s: float) -> DeviceEvent | None:
        """The event itself when it may pass now; None when it is held."""
        key = self._key_of(event, now_s)
        row = self._rows.setdefault(key, _Row())
        if key not in self._waiting and self._pass(row, now_s):
            return event
        self._hold(key, event)
        return None

    def due(self, now_s: float) -> list[DeviceEvent]:
        """Held events whose turn has come, the longest waiting first."""
        told: list[DeviceEvent] = []
        for key, row in list(self._waiting.items()):
            if row.held is not None and self._pass(row, now_s):
                told.append(row.held)
                row.held = None
                del self._waiting[key]
        return told

    def due_at(self) -> float:
        """When `due` will have something; inf when nothing is held."""
        if not self._waiting:
            return inf
        first = min(row.bucket.ready_at() for row in self._waiting.values())
        return max(first, self._total.ready_at())

    def held(self) -> tuple[DeviceEvent, ...]:
        """What has not been told yet, to be kept with the place in the log that was read."""
        return tuple(row.held for row in self._waiting.values() if row.held is not None)

    def _pass(self, row: _Row, now_s: float) -> bool:
        ready = max(row.bucket.ready_at(), self._total.ready_at())
        return now_s >= ready and row.bucket.take(now_s) and self._total.take(now_s)

    def _hold(self, key: _Key, event: DeviceEvent) -> None:
        row = self._rows.setdefault(key, _Row())
        row.held = event if row.held is None else _merge(row.held, event)
        if key != _key(row.held):
            row.held = replace(row.held, named="", function=None)
        self._waiting.setdefault(key, row)

    def _key_of(self, event: DeviceEvent, now_s: float) -> _Key:
        """Its own row, or the one for all functions when there are too many to tell apart."""
        key = _key(event)
        if key in self._rows or len(self._rows) < self._keys:
            return key
        if now_s >= self._swept_s + 1.0:
            self._swept_s = now_s
            self._forget(now_s)
        return key if len(self._rows) < self._keys else (event.message, "", event.foreign)

    def _forget(self, now_s: float) -> None:
        for key in [k for k, row in self._rows.items() if row.bucket.is_full(now_s)]:
            if key not in self._waiting:
                del self._rows[key]


def _key(event: DeviceEvent) -> _Key:
    return event.message, event.function or event.named, event.foreign


def _merge(first: DeviceEvent, later: DeviceEvent) -> DeviceEvent:
    """One event for both, with the text of the later one."""
    return replace(
        later,
        seq=first.seq,
        seconds=first.seconds,
        count=first.count + later.count,
    )
