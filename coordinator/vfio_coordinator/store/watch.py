"""The watch of the stores that live in this process: a cursor over their kept history.

A watch holds no events of its own, so that a slow reader costs nothing and a lost one leaks
nothing. It must never skip a change: when the history has moved past it, it says so.
"""

import threading
import time
from typing import Protocol

from vfio_coordinator.store.interface import Compacted, Event, StoreClosed, prefix_end

WINDOW_REVISIONS = 1_000
"""Most revisions that one `poll` returns: bounds its memory and how long it holds the lock."""


class History(Protocol):
    """What a watch needs of its store. `changed` is the store's own lock, notified after every
    commit, failure and close; the other members are called while it is held."""

    changed: threading.Condition

    def check_usable(self) -> None:
        """Raises: StoreClosed, StoreFailed."""
        ...

    def bounds(self) -> tuple[int, int]:
        """The oldest revision that can be watched and the newest that exists."""
        ...

    def events(self, prefix: str, *, first: int, last: int) -> list[Event]:
        """Events of these revisions, both included, under the prefix, oldest first."""
        ...


class LocalWatch:
    """Implements `Watch` over a `History`. Raises Compacted, StoreClosed when it is made."""

    def __init__(self, history: History, prefix: str, from_revision: int) -> None:
        if from_revision < 1:
            raise ValueError(f"revisions begin at 1, not {from_revision}")
        prefix_end(prefix)  # refuses a prefix that no key can have
        self._history = history
        self._prefix = prefix
        self._next = from_revision
        self._closed = False
        with history.changed:
            history.check_usable()
            self._check_reach()

    def poll(self, timeout: float) -> list[Event]:
        deadline = time.monotonic() + timeout
        with self._history.changed:
            while True:
                events = self._advance()
                remaining = deadline - time.monotonic()
                if events or remaining <= 0:
                    return events
                self._history.changed.wait(remaining)

    def close(self) -> None:
        with self._history.changed:
            self._closed = True
            self._history.changed.notify_all()

    def _advance(self) -> list[Event]:
        if self._closed:
            raise StoreClosed("the watch was closed")
        self._history.check_usable()
        newest = self._check_reach()
        while self._next <= newest:
            last = min(newest, self._next + WINDOW_REVISIONS - 1)
            events = self._history.events(self._prefix, first=self._next, last=last)
            self._next = last + 1
            if events:
                return events
        return []

    def _check_reach(self) -> int:
        oldest, newest = self._history.bounds()
        if self._next < oldest:
            raise Compacted(oldest)
        return newest
