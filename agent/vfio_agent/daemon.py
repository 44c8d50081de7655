"""The node agent: collect, judge, tell the coordinator, again and again.

Two threads. The main one looks at the host every interval and offers what it saw; the other keeps a
session with the coordinator and says the latest. It must never stop looking because nobody listens,
nor queue what nobody took, nor go on after a fault of its own: an agent that half works looks like
one that has nothing to report, so `run` raises and whoever supervises it starts it again.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from vfio_agent.checks import checks_version
from vfio_agent.collect.root import Root, open_root
from vfio_agent.inspect import observe
from vfio_agent.journal import Journal
from vfio_agent.session.backoff import Backoff
from vfio_agent.session.conversation import Speaker, Terms
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Outbox, Packer, seconds_up
from vfio_contract.model import Snapshot

log = logging.getLogger("vfio-agent")

DEFAULT_INTERVAL_S = 60.0
"""Between looks until a coordinator says otherwise."""

MIN_REST_S = 1.0
"""Between two looks, however long they take and whatever the interval: reading costs the host."""

JOURNAL_FILE = "journal.db"

_CLOSING_S = 5.0
"""How long a clean end waits for the session's thread."""


class RootError(Exception):
    """The root that is looked at cannot be opened; the text names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an agent is started. `root` is `/` or a captured host that is replayed."""

    node: str
    endpoint: str
    bundle: Path
    state: Path
    root: str


class _Stop:
    """Asks the main thread to end."""


_STOP = _Stop()


class Daemon:
    """One running agent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox()
        self._inbox: queue.SimpleQueue[_Stop | Terms | BaseException] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._interval_s = DEFAULT_INTERVAL_S

    def stop(self) -> None:
        """Ask for a clean end, from any thread."""
        self._inbox.put(_STOP)

    def run(self) -> None:
        """Look and tell until stopped.

        JournalError and RootError name what is wrong with a file; anything else is our own fault.
        """
        settings = self._settings
        journal = Journal.open(settings.state / JOURNAL_FILE)
        try:
            link = Link(
                endpoint=settings.endpoint,
                bundle=settings.bundle,
                speaker=Speaker(settings.node, journal.state_id, version("vfioctl")),
                outbox=self._outbox,
                fences=journal,
                on_terms=self._inbox.put,
            )
            speaking = threading.Thread(
                target=self._speak, args=(link,), name="session", daemon=True
            )
            try:
                self._look(journal, speaking)
            finally:
                self._ending.set()
                link.close()
                if speaking.ident is not None:
                    speaking.join(_CLOSING_S)
        finally:
            journal.close()

    def _look(self, journal: Journal, speaking: threading.Thread) -> None:
        packer = Packer()
        root: Root | None = None
        previous: Snapshot | None = None
        asked = False
        while not asked:
            began, at_s = time.monotonic(), seconds_up()
            if root is None or not root.live:
                root = self._open_root()
            seen = observe(root, journal, previous)
            previous = seen.snapshot
            self._outbox.offer(
                packer.pack(
                    seen.snapshot,
                    seen.report.findings,
                    checks_version=checks_version(),
                    at_s=at_s,
                )
            )
            if speaking.ident is None:
                speaking.start()  # Hello tells of this host, so it waits for the first look
            asked = self._rest(began)

    def _open_root(self) -> Root:
        """The host, once: it remembers which reads are blocked. A capture each time anew, because
        it may have been replaced by one of the next boot."""
        try:
            return open_root(self._settings.root)
        except OSError as error:
            raise RootError(f"{self._settings.root}: {error.strerror or error}") from error

    def _rest(self, began: float) -> bool:
        """Wait for the next look; True when asked to end. A fault of the session is raised here."""
        earliest = time.monotonic() + MIN_REST_S
        while True:
            left = max(began + self._interval_s, earliest) - time.monotonic()
            try:
                word = self._inbox.get(timeout=max(0.0, left))
            except queue.Empty:
                return False
            match word:
                case _Stop():
                    return True
                case Terms():
                    self._take_terms(word)
                case _:
                    raise word

    def _take_terms(self, terms: Terms) -> None:
        log.info("in session with cluster %s, epoch %d", terms.cluster_id, terms.epoch)
        self._interval_s = terms.observation_interval_s or DEFAULT_INTERVAL_S

    def _speak(self, link: Link) -> None:
        backoff = Backoff(random.uniform)
        said = ""
        try:
            while not self._ending.is_set():
                ended = link.run()
                if self._ending.is_set():
                    return
                if ended.useful:
                    backoff.succeed()
                if ended.useful or ended.reason != said:
                    log.warning("session ended: %s", ended.reason)
                    said = ended.reason
                self._ending.wait(backoff.next_delay(slow=ended.slow))
        except BaseException as error:
            self._inbox.put(error)
