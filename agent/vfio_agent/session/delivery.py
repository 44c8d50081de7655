"""Durable events in one session: what is sent next, and what is forgotten.

The spool keeps; this only reads. Nothing is sent before the coordinator has said how far it holds
the spool, nor more than its window beyond that; what it holds is forgotten, and what a session took
with it when it ended is sent again by the next. It must never end a session because the spool
cannot be read: the journal's status is said instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from vfio_contract.codes import JOURNAL_FAILED
from vfio_contract.durable import JournalStatus, Mark, Spooled, SpoolUnavailable

BATCH_EVENTS = 64
"""At most in one message; the coordinator commits about 40 together."""


class Events(Protocol):
    """The spool, or its other end where it belongs to another process.

    Its methods raise SpoolUnavailable; `status` never raises.
    """

    @property
    def id(self) -> str:
        """Random, made with the spool."""

    def after(self, seq: int, limit: int) -> Sequence[Spooled]:
        """The oldest events beyond a number."""

    def acknowledge(self, mark: Mark) -> bool:
        """Forget what the cluster holds; False if the mark is not of this spool."""

    def status(self) -> JournalStatus:
        """How the journal is."""

    def attach(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` when there is something new or the status changed; None to stop."""


class Delivery:
    """One session's. Used by one thread at a time; the conversation sees to that."""

    def __init__(self, events: Events | None) -> None:
        self._events = events
        self.spool_id = ""
        self._failure = ""
        self._told = JournalStatus()
        self._window = 0
        self._sent = 0
        self._open: deque[int] = deque()

    def begin(self) -> str:
        """The spool's id for Hello, "" without one."""
        if self._events is not None:
            try:
                self.spool_id = self._events.id
            except SpoolUnavailable as error:
                self._failure = str(error)
        return self.spool_id

    def hear(self, mark: Mark, window: int) -> str:
        """The cluster holds everything up to this mark; why the session must end, or ""."""
        if self._events is None or not self.spool_id:
            return "the coordinator tells of durable events, and there are none"
        if mark.spool_id != self.spool_id:
            return f"the coordinator holds spool {mark.spool_id[:40]!r}, this is {self.spool_id}"
        try:
            known = self._events.acknowledge(mark)
        except SpoolUnavailable as error:
            known, self._failure = True, str(error)  # told again with the next mark
        if not known:
            return "this agent's journal is an older copy of itself: a new spool begins"
        self._window = window
        self._sent = max(self._sent, mark.seq)
        while self._open and self._open[0] <= mark.seq:
            self._open.popleft()
        return ""

    def next_batch(self) -> Sequence[Spooled]:
        """What to send now, () for nothing."""
        room = min(self._window - len(self._open), BATCH_EVENTS)
        if self._events is None or room <= 0:
            return ()
        try:
            batch = self._events.after(self._sent, room)
        except SpoolUnavailable as error:
            self._failure = str(error)
            return ()
        self._failure = ""
        if batch:
            self._sent = batch[-1].seq
            self._open.extend(event.seq for event in batch)
        return batch

    def next_status(self) -> JournalStatus | None:
        """How the journal is, if that was not said yet."""
        if self._events is None:
            return None
        status = self._events.status()
        if not status.code and self._failure:
            status = JournalStatus(JOURNAL_FAILED.name, self._failure)
        if status == self._told:
            return None
        self._told = status
        return status
