"""The node agent: collect, judge, tell the coordinator, again and again.

Two threads. The main one looks at the host every interval and offers what it saw; the other keeps a
session with the coordinator and sends the latest. It must never stop looking because nobody
listens, nor queue what nobody took.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from vfio_agent.checks import checks_version
from vfio_agent.collect.root import open_root
from vfio_agent.inspect import observe
from vfio_agent.journal import Journal
from vfio_agent.session.backoff import Backoff
from vfio_agent.session.link import Link, Terms
from vfio_agent.session.outbox import Outbox, pack
from vfio_contract.bundle import Bundle
from vfio_contract.model import Snapshot

log = logging.getLogger("vfio-agent")

DEFAULT_INTERVAL_S = 60.0
"""Between looks until a coordinator says otherwise."""

JOURNAL_FILE = "journal.db"

_CLOSING_S = 5.0
"""How long a clean end waits for the session's thread."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an agent is started. `root` is `/` or a captured host that is replayed."""

    node: str
    endpoint: str
    bundle: Bundle
    state: Path
    root: str


class Daemon:
    """One running agent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._interval_s = DEFAULT_INTERVAL_S
        self._link: Link | None = None

    def stop(self) -> None:
        """Ask for a clean end; safe in a signal handler."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Look and tell until stopped."""
        journal = Journal.open(self._settings.state / JOURNAL_FILE)
        speaker = threading.Thread(target=self._speak, args=(journal,), name="session", daemon=True)
        speaker.start()
        try:
            self._look(journal)
        finally:
            self.stop()
            link = self._link
            if link is not None:
                link.close()
            speaker.join(_CLOSING_S)
            journal.close()

    def _look(self, journal: Journal) -> None:
        previous: Snapshot | None = None
        while not self._stop.is_set():
            began = time.monotonic()
            # A captured root may have been replaced by one of the next boot.
            seen = observe(open_root(self._settings.root), journal, previous)
            previous = seen.snapshot
            findings, version_of_checks = seen.report.findings, checks_version()
            self._outbox.offer(
                pack(seen.snapshot, findings, checks_version=version_of_checks, at_s=began)
            )
            self._rest_until(began)

    def _rest_until(self, began: float) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            left = began + self._interval_s - time.monotonic()
            if left <= 0 or not self._wake.wait(left):
                return

    def _speak(self, journal: Journal) -> None:
        settings = self._settings
        backoff = Backoff(random.uniform)
        said = ""
        while not (self._stop.is_set() or self._outbox.wait_first(timeout_s=1.0)):
            continue
        while not self._stop.is_set():
            self._link = Link(
                node=settings.node,
                endpoint=settings.endpoint,
                bundle=settings.bundle,
                version=version("vfioctl"),
                state_id=journal.state_id,
                outbox=self._outbox,
                fences=journal,
                on_terms=self._take_terms,
            )
            ended = self._link.run()
            if self._stop.is_set():
                return
            if ended.welcomed:
                backoff.succeeded()
            if ended.reason != said:
                log.warning("session ended: %s", ended.reason)
                said = ended.reason
            self._stop.wait(backoff.next_delay(permanent=ended.permanent))

    def _take_terms(self, terms: Terms) -> None:
        log.info("in session with cluster %s, epoch %d", terms.cluster_id, terms.epoch)
        if terms.observation_interval_s > 0:
            self._interval_s = terms.observation_interval_s
            self._wake.set()
