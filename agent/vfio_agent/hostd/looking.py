"""The loop that looks at the host: every interval, and soon when somebody asks.

It is hostd's main thread. It must never look more often than the host can bear, nor go on after a
fault of its own: a hostd that half works looks like a host that has nothing to report, so `run`
raises and whoever supervises it starts it again.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from vfio_agent.checks import checks_version
from vfio_agent.collect.root import Root, open_root
from vfio_agent.inspect import observe
from vfio_agent.journal import Journal, JournalFull
from vfio_agent.session.outbox import Observed, Packer, seconds_up
from vfio_contract.model import Snapshot

log = logging.getLogger("vfio-hostd")

DEFAULT_INTERVAL_S = 60.0
"""Between looks until the network process says otherwise."""

MIN_INTERVAL_S = 1.0
MAX_INTERVAL_S = 600.0
"""Between looks: whoever asks can neither load the host nor blind it."""

MIN_REST_S = 1.0
"""Between two looks, however long they take and whatever was asked: reading costs the host."""


class RootError(Exception):
    """The root that is looked at cannot be opened; the text names it."""


class _Stop:
    """Asks the loop to end."""


class _Soon:
    """Asks for a look without waiting for the interval."""


@dataclass(frozen=True, slots=True)
class _Pace:
    interval_s: float


_STOP, _SOON = _Stop(), _Soon()


class Looking:
    """One host under observation; all methods but `run` may be called from any thread."""

    def __init__(self, root: str, journal: Journal, offer: Callable[[Observed], None]) -> None:
        """`offer` takes each observation, on the thread of `run`."""
        self._path = root
        self._journal = journal
        self._offer = offer
        self._inbox: queue.SimpleQueue[_Stop | _Soon | _Pace | BaseException] = queue.SimpleQueue()
        self._interval_s = DEFAULT_INTERVAL_S

    def stop(self) -> None:
        """Ask for a clean end."""
        self._inbox.put(_STOP)

    def fail(self, error: BaseException) -> None:
        """Have `run` raise this."""
        self._inbox.put(error)

    def look_soon(self) -> None:
        """Ask for a look; many before it are one."""
        self._inbox.put(_SOON)

    def set_pace(self, interval_s: float) -> None:
        """Seconds between looks, within the limits; 0 for the default."""
        asked = min(max(interval_s, MIN_INTERVAL_S), MAX_INTERVAL_S)
        self._inbox.put(_Pace(asked if interval_s > 0 else DEFAULT_INTERVAL_S))

    def run(self) -> None:
        """Look until stopped. JournalError and RootError name what is wrong with a file; anything
        else is our own fault."""
        packer = Packer()
        root: Root | None = None
        previous: Snapshot | None = None
        asked = False
        while not asked:
            began, at_s = time.monotonic(), seconds_up()
            if root is None or not root.live:
                root = self._open_root()
            try:
                seen = observe(root, self._journal, previous)
            except JournalFull as error:
                # What cannot be made durable is not reported: the last look grows old meanwhile.
                log.warning("this look is not reported: %s", error)
                asked = self._rest(began)
                continue
            previous = seen.snapshot
            self._offer(
                packer.pack(
                    seen.snapshot,
                    seen.report.findings,
                    checks_version=checks_version(),
                    at_s=at_s,
                )
            )
            del seen  # judged hosts are large, and the next look is a minute away
            asked = self._rest(began)

    def _open_root(self) -> Root:
        """The host, once: it remembers which reads are blocked. A capture each time anew, because
        it may have been replaced by one of the next boot."""
        try:
            return open_root(self._path)
        except OSError as error:
            raise RootError(f"{self._path}: {error.strerror or error}") from error

    def _rest(self, began: float) -> bool:
        """Wait for the next look; True when asked to end. What was given to `fail` is raised."""
        earliest = time.monotonic() + MIN_REST_S
        soon = False
        while True:
            due = earliest if soon else max(began + self._interval_s, earliest)
            left = due - time.monotonic()
            try:
                word = self._inbox.get(timeout=max(0.0, left))
            except queue.Empty:
                return False
            match word:
                case _Stop():
                    return True
                case _Soon():
                    soon = True
                case _Pace():
                    self._interval_s = word.interval_s
                case _:
                    raise word
