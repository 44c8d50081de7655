"""The network process's work: take what hostd saw, tell the coordinator, again and again.

Three threads. The main one waits; one holds the connection to hostd; one keeps a session with the
coordinator and says the latest. It must never look at the host itself, queue what nobody took, nor
go on after a fault of its own: an agent that half works looks like one that has nothing to report,
so `run` raises and whoever supervises it starts it again. While hostd is away the session goes on,
and what was seen last grows old.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vfio_agent.hostd.client import Client
from vfio_agent.hostd.line import HostdError
from vfio_agent.session.backoff import Backoff
from vfio_agent.session.conversation import Speaker, Terms
from vfio_agent.session.ending import Ended
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Outbox
from vfio_contract.bundle import Bundle
from vfio_contract.version import VERSION

log = logging.getLogger("vfio-agent")

_CLOSING_S = 5.0
"""How long a clean end waits for the session's thread."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network process is started.

    `hostd` is where hostd listens, or the connection that hostd made for its child. `bundle` loads
    the node's credentials; None: hostd has them.
    """

    node: str
    endpoint: str
    hostd: Path | socket.socket
    bundle: Callable[[], Bundle] | None


class _Stop:
    """Asks the main thread to end."""


class _News:
    """hostd has told something."""


_STOP, _NEWS = _Stop(), _News()


class Daemon:
    """One running network process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox()
        self._inbox: queue.SimpleQueue[_Stop | _News | Terms | BaseException] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._hostd = Client(
            settings.hostd,
            on_news=lambda: self._inbox.put(_NEWS),
            on_fault=self._inbox.put,
        )

    def stop(self) -> None:
        """Ask for a clean end, from any thread."""
        self._inbox.put(_STOP)

    def run(self) -> None:
        """Take and tell until stopped.

        HostdEnded and HostdReplaced say that this process has nothing more to do with that hostd;
        anything else is our own fault.
        """
        self._hostd.start()
        try:
            if self._wait(lambda: self._outbox.latest() is not None):
                self._converse()
        finally:
            self._hostd.close()

    def _converse(self) -> None:
        """Keep a session until stopped. Hello tells of this host, so the first look is there."""
        link = Link(
            endpoint=self._settings.endpoint,
            bundle=self._settings.bundle or self._hostd.bundle,
            speaker=Speaker(self._settings.node, self._hostd.state_id, VERSION),
            outbox=self._outbox,
            fences=self._hostd,
            on_terms=self._inbox.put,
            events=self._hostd,
            on_rescan=self._rescan,
            taker=self._hostd,
        )
        speaking = threading.Thread(target=self._speak, args=(link,), name="session", daemon=True)
        speaking.start()
        try:
            self._wait(lambda: False)
        finally:
            self._ending.set()
            link.close()
            speaking.join(_CLOSING_S)

    def _wait(self, enough: Callable[[], bool]) -> bool:
        """Pass on what comes until it is enough (True) or the end was asked for (False). What went
        wrong on another thread is raised here."""
        while not enough():
            word = self._inbox.get()
            match word:
                case _Stop():
                    return False
                case _News():
                    self._hostd.deliver(self._outbox.offer)
                case Terms():
                    self._take_terms(word)
                case _:
                    raise word
        return True

    def _take_terms(self, terms: Terms) -> None:
        log.info("in session with cluster %s, epoch %d", terms.cluster_id, terms.epoch)
        self._hostd.set_pace(terms.observation_interval_s)

    def _rescan(self, reason: str) -> None:
        log.info("the coordinator wants a look at the host: %s", reason)
        self._hostd.rescan()

    def _speak(self, link: Link) -> None:
        backoff = Backoff(random.uniform)
        said = ""
        try:
            while not self._ending.is_set():
                ended = _speak_once(link)
                if self._ending.is_set():
                    return
                if ended.useful:
                    backoff.succeed()
                if ended.useful or ended.reason != said:
                    log.warning("session ended: %s", ended.reason)
                    said = ended.reason
                self._ending.wait(backoff.next_delay(slow=ended.slow, named_s=ended.retry_after_s))
        except BaseException as error:
            self._inbox.put(error)


def _speak_once(link: Link) -> Ended:
    """One session. A fence that is not durable is not obeyed, so there is none without hostd."""
    try:
        return link.run()
    except HostdError as error:
        return Ended(str(error))
