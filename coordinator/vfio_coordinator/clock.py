"""The coordinator's two clocks, behind one interface so that tests bring their own.

Durations are measured on a clock that only runs forward; the wall clock is for people, and for what
ends at a date. Somebody may set that one: `SteadyClock` stands between and believes no step of more
than a minute until the clock is back or the coordinator starts again (docs/adr/019). Nothing in the
pure core may read a clock, and nothing here may decide what follows from a doubt.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Protocol

from vfio_coordinator.state.events import Now
from vfio_coordinator.state.presence import span

JUMP_S = 60.0
"""A step that is not believed. Nothing ends by the minute, and what NTP or a paused machine does to
a clock that is right stays far below."""


class Clock(Protocol):
    """Where the runtime takes the time from."""

    def now(self) -> Now:
        """This moment."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        """Seconds of CLOCK_BOOTTIME, which goes on while the machine is suspended as the wall clock
        does; and UTC to the second in ISO 8601."""
        return Now(time.clock_gettime(time.CLOCK_BOOTTIME), _utc(time.time()))


class SteadyClock:
    """`source` without the jumps of its wall clock, and what there is to say about one.

    Both clocks of a machine run at one pace, so their difference changes only when somebody sets
    the wall clock. After a jump UTC is counted on from before it. At the start there is nothing to
    compare with but `floor`, the newest moment that the store knows of ("" for none): UTC stands
    still there until the wall clock has reached it.
    """

    def __init__(self, source: Clock, floor: str = "") -> None:
        """ValueError where `floor` is no time."""
        self._source = source
        self._floor_s = _seconds(floor) if floor else -math.inf
        # Of the wall clock to the other: None before it was first believed.
        self._ahead_s: float | None = None
        self._doubted_s = math.nan
        self._doubt = ""

    def now(self) -> Now:
        """This moment, as far as it is believed."""
        raw = self._source.now()
        wall_s = _seconds(raw.utc)
        ahead_s = wall_s - raw.monotonic_s
        if self._ahead_s is None:
            counted_s, believed = self._floor_s, wall_s >= self._floor_s - JUMP_S
        else:
            counted_s = raw.monotonic_s + self._ahead_s
            believed = abs(wall_s - counted_s) <= JUMP_S
        if believed:
            self._ahead_s, self._doubted_s, self._doubt = ahead_s, math.nan, ""
            return raw
        # Said once for each jump: a text that changes with every look would be news each time.
        if not abs(ahead_s - self._doubted_s) <= JUMP_S:
            self._doubted_s = ahead_s
            self._doubt = self._describe(raw.utc, wall_s - counted_s, _utc(counted_s))
        return Now(raw.monotonic_s, _utc(counted_s), self._doubt)

    def _describe(self, wall: str, step_s: float, counted: str) -> str:
        # the wall clock is read in whole seconds
        size = f"{span(60 * round(abs(step_s) / 60))} {'ahead' if step_s > 0 else 'behind'}"
        if self._ahead_s is None:
            return f"the wall clock says {wall}, {size}: the newest record here is of {counted}"
        return f"the wall clock went to {wall} at {counted}, {size}"


def wall_time(clock: Clock) -> datetime:
    """UTC of this moment, to judge a certificate's dates by."""
    return datetime.fromisoformat(clock.now().utc)


def _seconds(utc: str) -> float:
    return datetime.fromisoformat(utc).timestamp()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
