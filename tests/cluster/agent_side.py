"""The agent's end of real sessions: a house of certificates, a link on a thread, observations.

The other end is `tests.fakes.recording_coordinator`. Nothing here may decide what a session does.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fakes.recording_coordinator import DEADLINE_S, RecordingCoordinator, Stream
from tests.fakes.snapshots import make_snapshot, nic
from vfio_agent.checks import judge
from vfio_agent.journal import Journal
from vfio_agent.session.conversation import Fences, Speaker, Terms
from vfio_agent.session.ending import Ended
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Observed, Outbox, Packer, seconds_up
from vfio_contract.bundle import Bundle, load_bundle
from vfio_contract.host import Host
from vfio_coordinator.pki import Authority

NOW = datetime.now(UTC)
SPEAKER = Speaker(node="pve07", state_id="5" * 32, version="0.1.0")


@dataclass(frozen=True, slots=True)
class House:
    """An authority, the coordinator's bundle and the directory of the node's."""

    authority: Authority
    server: Bundle
    node: Path


def make_house(top: Path) -> House:
    """A new authority below `top`, with a bundle for each side."""
    authority = Authority.open_or_create(top / "ca", now=NOW)
    server = load_bundle(authority.ensure_server(["localhost", "127.0.0.1"]))
    return House(authority, server, authority.ensure_node_bundle("pve07", top / "node"))


def observe(bios: str = "F10", *, boot: str = "boot-1", uptime: float = 1.0) -> Observed:
    """One collection of a host; `bios` is part of the facts, `uptime` of the readings."""
    snapshot = make_snapshot(nic("0000:01:00.0"), boot_id=boot, uptime_seconds=uptime)
    firmware = dataclasses.replace(snapshot.facts.firmware, bios_version=bios)
    facts = dataclasses.replace(snapshot.facts, firmware=firmware)
    snapshot = dataclasses.replace(snapshot, facts=facts)
    report = judge(Host(snapshot))
    return Packer().pack(snapshot, report.findings, checks_version="checks-1", at_s=seconds_up())


class Agent:
    """A link whose sessions run on a thread, and what they ended with."""

    def __init__(
        self, house: House, endpoint: str, fences: Fences, *, bundle: Path | None = None
    ) -> None:
        self.outbox = Outbox()
        self.terms: queue.SimpleQueue[Terms] = queue.SimpleQueue()
        self.link = Link(
            endpoint=endpoint,
            bundle=lambda: load_bundle(bundle or house.node, now=datetime.now(UTC)),
            speaker=SPEAKER,
            outbox=self.outbox,
            fences=fences,
            on_terms=self.terms.put,
        )
        self._ended: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def connect(self) -> None:
        """Begin a session."""

        def run() -> None:
            try:
                self._ended.put(self.link.run())
            except BaseException as error:
                self._ended.put(error)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def ended(self) -> Ended:
        """How the session ended; a fault of the agent is raised."""
        ended = self._ended.get(timeout=DEADLINE_S)
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def leave(self) -> None:
        self.link.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


MakeAgent = Callable[..., Agent]
"""`make_agent(*observed, fences=..., bundle=...)`: an agent that has begun a session."""


@contextmanager
def agents(house: House, endpoint: str, journal: Journal) -> Iterator[MakeAgent]:
    """Agents of one coordinator; all of them leave at the end."""
    made: list[Agent] = []

    def make(*observed: Observed, fences: Fences = journal, bundle: Path | None = None) -> Agent:
        agent = Agent(house, endpoint, fences, bundle=bundle)
        for item in observed or (observe(),):
            agent.outbox.offer(item)
        made.append(agent)
        agent.connect()
        return agent

    yield make
    for agent in made:
        agent.leave()


def in_session(coordinator: RecordingCoordinator, **welcome: Any) -> Stream:
    """A session that has come as far as its first observation."""
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(**welcome)
    if not welcome.get("held"):
        stream.hear("inventory")
    stream.hear("observation")
    return stream
