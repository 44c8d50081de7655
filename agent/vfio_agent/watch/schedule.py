"""When to read what: signals are gathered for a moment, then each part is read, never too often.

Pure: time is an argument and randomness a function. Nothing that was noted is ever forgotten or put
off for ever: it is due when it has been quiet for `QUIET_S`, at the latest `GATHER_S` after it was
first noted, and as soon as its part's bucket has a token. Without any signal the whole host is read
once in an interval, because not every change has a signal. It must never exceed the buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

from vfio_agent.watch.bucket import Bucket
from vfio_agent.watch.signals import NOTHING, Part, Wanted, want
from vfio_contract.address import Address

QUIET_S = 0.05
GATHER_S = 0.25
"""A driver that is bound gives some ten uevents within a few ms, 64 VFs give 200 in 0.5 s."""

CONFIRM_S = 2.0
"""Until the second reading: before Linux 6.9 the PF's `change` is sent before the number of VFs is
set (drivers/pci/iov.c sriov_enable()), and `remove` before the function is gone."""

MAX_FUNCTIONS = 32
"""More than these one by one cost as much as the whole host."""

EARLIEST = 0.8
"""A rescan comes between this fraction of the interval and the whole of it, each time anew: hosts
that started together do not stay together, and none is later than it was told to be."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many readings of a part at once, and per second in the long run."""

    burst: int
    per_s: float


LIMITS: Mapping[Part, Limit] = MappingProxyType(
    {
        Part.WHOLE: Limit(5, 0.5),
        Part.FUNCTIONS: Limit(10, 2.0),
        Part.HOLDERS: Limit(10, 2.0),
        Part.VMS: Limit(5, 0.5),
        Part.KERNEL_LOG: Limit(3, 0.1),  # device events do not wait for it
        Part.HOST_USE: Limit(5, 0.5),
    }
)


@dataclass(slots=True)
class _Noted:
    first_s: float
    last_s: float

    def due_at(self) -> float:
        return min(self.last_s + QUIET_S, self.first_s + GATHER_S)


class Schedule:
    """`uniform(low, high)` is the random source. The first rescan is a full interval away: who
    starts to watch has just read the whole host, or calls `note` for it."""

    def __init__(
        self,
        *,
        interval_s: float,
        now_s: float,
        uniform: Callable[[float, float], float],
        limits: Mapping[Part, Limit] = LIMITS,
    ) -> None:
        self._uniform = uniform
        self._buckets = {
            part: Bucket(burst=limit.burst, per_s=limit.per_s) for part, limit in limits.items()
        }
        self._noted: dict[Part, _Noted] = {}
        self._functions: set[Address] = set()
        self._again = NOTHING
        self._again_s = inf
        self._interval_s = interval_s
        self._read_s = now_s
        self._rescan_s = self._next_rescan()

    def set_interval(self, interval_s: float) -> None:
        """Between two readings of the whole host; counted from the last one."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._rescan_s = self._next_rescan()

    def read_by(self, at_s: float) -> None:
        """Read the whole host at this moment, unless its turn comes before."""
        self._rescan_s = min(self._rescan_s, at_s)

    def note(self, wanted: Wanted, now_s: float, *, confirm: bool = False) -> None:
        """Something may have changed; with `confirm` it is read a second time `CONFIRM_S` later."""
        if not wanted:
            return
        self._functions |= wanted.functions
        for part in wanted.parts:
            self._note_part(part, now_s)
        if len(self._functions) > MAX_FUNCTIONS:
            self._note_part(Part.WHOLE, now_s)
            self._functions.clear()
            del self._noted[Part.FUNCTIONS]
        if confirm:
            self._again |= wanted
            self._again_s = now_s + CONFIRM_S

    def take(self, now_s: float) -> Wanted:
        """What is to be read now, NOTHING if that is nothing; whoever takes it reads it."""
        if now_s >= self._again_s:
            again, self._again, self._again_s = self._again, NOTHING, inf
            self.note(again, now_s)
        ready = {part for part in Part if now_s >= self._due_at(part)}
        if Part.WHOLE in ready:
            self._buckets[Part.WHOLE].take(now_s)
            self._noted.clear()
            self._functions.clear()
            self._read_s = now_s
            self._rescan_s = self._next_rescan()
            return want(Part.WHOLE)
        functions: set[Address] = set()
        for part in ready:
            self._buckets[part].take(now_s)
            del self._noted[part]
            if part is Part.FUNCTIONS:
                functions, self._functions = self._functions, functions
        return Wanted(frozenset(ready), frozenset(functions))

    def due_at(self) -> float:
        """When `take` has something to give, unless more is noted."""
        return min(self._again_s, *(self._due_at(part) for part in Part))

    def _note_part(self, part: Part, now_s: float) -> None:
        noted = self._noted.get(part)
        if noted is None:
            self._noted[part] = _Noted(now_s, now_s)
        else:
            noted.last_s = now_s

    def _due_at(self, part: Part) -> float:
        noted = self._noted.get(part)
        due = noted.due_at() if noted is not None else inf
        if part is Part.WHOLE:
            due = min(due, self._rescan_s)
        return max(due, self._buckets[part].ready_at())

    def _next_rescan(self) -> float:
        return self._read_s + self._interval_s * self._uniform(EARLIEST, 1.0)
