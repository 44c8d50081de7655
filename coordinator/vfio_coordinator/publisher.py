"""Tells watchers that something changed: one look at the state for all of them, at a bounded pace.

Until somebody watches, nothing is done. From then on a change of the state is looked at soon, and
what that costs is bounded: neither the rows nor the summary, which looks at every node, take more
than one part in `SHARE` of the time. A watcher that does not read is never waited for. Lives on the
event loop; it must never change the state. When it fails itself, watchers are refused from then on
and nobody else notices: a cursor of this epoch could not be trusted again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.clock import Clock
from vfio_coordinator.feed import Feed
from vfio_coordinator.mirror import Mirror
from vfio_coordinator.state.model import State

log = logging.getLogger("vfio-coordinator")

PACE_S = 0.05
"""Between two looks at the least."""

SHARE = 20
"""What took 30 ms is done again after 0.6 s at the earliest."""


class Publisher:
    """See the module. `state` gives the state as it is now."""

    def __init__(self, state: Callable[[], State], clock: Clock, coordinator: str) -> None:
        self._state = state
        self._clock = clock
        self._coordinator = coordinator
        self._loop = asyncio.get_running_loop()
        self._mirror: Mirror | None = None
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at_s = 0.0
        self._summary_at_s = 0.0
        self._end: ClusterError | None = None

    @property
    def feed(self) -> Feed:
        """What there is to tell, as of the last look. ClusterError once it is over."""
        if self._end is not None:
            raise self._end
        if self._mirror is None:
            self._mirror = Mirror(self._state())
            self._look()
            if self._end is not None:
                raise self._end
        return self._mirror.feed

    @property
    def news(self) -> asyncio.Event:
        """Set when the feed has more than now, or is over; each event is for one time only."""
        return self._news

    def note_change(self) -> None:
        """The state is another one now."""
        if self._mirror is not None and self._timer is None and self._end is None:
            self._timer = self._loop.call_at(self._look_at_s, self._look)

    def end(self, error: ClusterError) -> None:
        """Every watcher, and each that still comes, is told why there is nothing any more."""
        if self._end is None:
            self._end = error
            self._cancel()
            self._wake()

    def _look(self) -> None:
        self._cancel()
        mirror = self._mirror
        if mirror is None:
            raise AssertionError("nobody watches")
        before = mirror.feed.newest
        try:
            self._compare(mirror)
        except Exception:
            log.exception("the watch failed")
            self.end(ClusterError(ErrorCode.INTERNAL, "the watch"))
        if mirror.feed.newest != before:
            self._wake()

    def _compare(self, mirror: Mirror) -> None:
        state, now, began = self._state(), self._clock.now(), self._loop.time()
        mirror.update(state, now)
        self._look_at_s = self._next_time(began)
        if not mirror.summary_is_old(state):
            return
        began = self._loop.time()
        if began < self._summary_at_s:
            self._timer = self._loop.call_at(self._summary_at_s, self._look)
            return
        mirror.update_summary(state, now, coordinator=self._coordinator)
        self._summary_at_s = self._next_time(began)

    def _next_time(self, began: float) -> float:
        ended = self._loop.time()
        return ended + max(PACE_S, SHARE * (ended - began))

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
