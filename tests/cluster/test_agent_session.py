"""The agent's side of the stream: order, latest wins, fences, refusals, and a clean end.

Real gRPC and real mutual TLS against a coordinator that does what the test says; `grpc_testing`
where the wire would only be in the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import grpc_testing
import pytest

from tests.fakes.recording_coordinator import (
    CLUSTER,
    DEADLINE_S,
    RecordingCoordinator,
    Stream,
)
from tests.fakes.snapshots import make_snapshot, nic
from vfio_agent.checks import judge
from vfio_agent.journal import NO_FENCE, Fence, Journal, JournalError
from vfio_agent.session.conversation import (
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    Conversation,
    Ended,
    Fences,
    Speaker,
    Terms,
)
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Observed, Outbox, Packer, seconds_up
from vfio_contract.artifact import decode, decompress, digest_bytes
from vfio_contract.bundle import Bundle, load_bundle
from vfio_contract.codec import from_message
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Finding
from vfio_contract.host import Host
from vfio_contract.model import SCHEMA, Facts, Readings
from vfio_coordinator.pki import Authority
from vfioctl.v1 import session_pb2
from vfioctl.v1.session_pb2 import SessionRequest, SessionResponse, Welcome
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

NOW = datetime.now(UTC)
SPEAKER = Speaker(node="pve07", state_id="5" * 32, version="0.1.0")


# --- the two sides ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class House:
    """An authority, the coordinator's bundle and the directory of the node's."""

    authority: Authority
    server: Bundle
    node: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    top = tmp_path_factory.mktemp("house")
    authority = Authority.open_or_create(top / "ca", now=NOW)
    server = load_bundle(authority.ensure_server(["localhost", "127.0.0.1"]))
    return House(authority, server, authority.ensure_node_bundle("pve07", top / "node"))


@pytest.fixture
def coordinator(house: House) -> Iterator[RecordingCoordinator]:
    with RecordingCoordinator(house.server) as server:
        yield server


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "journal.db")
    yield opened
    opened.close()


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
            bundle=bundle or house.node,
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


@pytest.fixture
def make_agent(
    house: House, coordinator: RecordingCoordinator, journal: Journal
) -> Iterator[MakeAgent]:
    agents: list[Agent] = []

    def make(*observed: Observed, fences: Fences = journal, **changes: Any) -> Agent:
        agent = Agent(house, changes.pop("endpoint", coordinator.endpoint), fences, **changes)
        for item in observed or (observe(),):
            agent.outbox.offer(item)
        agents.append(agent)
        agent.connect()
        return agent

    yield make
    for agent in agents:
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


# --- the order of a session ------------------------------------------------------------------


def test_hello_welcome_inventory_observation(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, journal: Journal
) -> None:
    observed = observe()
    agent = make_agent(observed)
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    assert (hello.protocol_min, hello.protocol_max) == (1, 1)
    assert (hello.node, hello.agent_state_id) == (SPEAKER.node, SPEAKER.state_id)
    assert (hello.boot_id, hello.agent_version) == ("boot-1", "0.1.0")
    assert hello.product_uuid == "00000000-0000-4000-8000-000000000001"
    assert hello.inventory_digest == observed.digest
    assert (hello.cluster_id, hello.highest_incarnation, hello.highest_epoch) == ("", 0, 0)
    assert stream.silent
    stream.welcome(epoch=7)
    inventory = stream.hear("inventory")
    facts = decompress(inventory.facts_zlib)
    assert (inventory.schema, inventory.digest) == (SCHEMA, digest_bytes(facts))
    assert decode(Facts, facts).firmware.bios_version == "F10"
    said = stream.hear("observation")
    assert (said.sequence, said.inventory_digest) == (1, observed.digest)
    assert said.checks_version == "checks-1"
    assert decode(Readings, decompress(said.readings_zlib)).boot_id == "boot-1"
    assert tuple(from_message(Finding, f) for f in said.findings) == observed.findings
    assert 0 <= said.age_ms < DEADLINE_S * 1000
    assert agent.terms.get(timeout=DEADLINE_S) == Terms(CLUSTER, 7, 60.0)
    assert journal.fence() == Fence(CLUSTER, 1, 7)


def test_no_inventory_where_it_is_held(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    make_agent()
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(held=True)
    assert stream.hear("observation", "inventory").sequence == 1


def test_inventory_if_the_facts_changed_since_hello(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent(observe("F10"))
    stream = coordinator.next_stream()
    stream.hear("hello")
    newer = observe("F11")
    agent.outbox.offer(newer)
    stream.welcome(held=True)
    assert stream.hear("inventory").digest == newer.digest
    assert stream.hear("observation").inventory_digest == newer.digest


def test_inventory_that_is_wanted_is_sent_again_with_its_observation(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    observed = observe()
    make_agent(observed)
    stream = in_session(coordinator, held=True)
    for sequence in (2, 3):
        stream.want_inventory(observed.digest)
        assert stream.hear("inventory").digest == observed.digest
        assert stream.hear("observation").sequence == sequence


def test_new_observations_are_said_and_facts_only_when_they_changed(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent(observe("F10"))
    stream = in_session(coordinator)
    agent.outbox.offer(observe("F10", uptime=2.0))
    said = stream.hear("observation")
    assert said.sequence == 2
    assert decode(Readings, decompress(said.readings_zlib)).uptime_seconds == 2.0
    agent.outbox.offer(observe("F11"))
    stream.hear("inventory")
    assert stream.hear("observation").sequence == 3


def test_a_heartbeat_when_nothing_else_is_said(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    stream = in_session(coordinator, heartbeat_interval_ms=100)
    assert stream.hear("heartbeat", beats=True).sequence == 1
    assert stream.hear("heartbeat", beats=True).sequence == 1
    agent.outbox.offer(observe(uptime=2.0))
    assert stream.hear("observation").sequence == 2
    assert stream.hear("heartbeat", beats=True).sequence == 2


def test_messages_that_this_version_does_not_know_are_passed_over(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    stream = in_session(coordinator)
    stream.say(SessionResponse())
    agent.outbox.offer(observe(uptime=2.0))
    assert stream.hear("observation").sequence == 2


@pytest.mark.parametrize(
    ("asked_ms", "taken_s"),
    [(0, 0.0), (1, MIN_INTERVAL_S), (30_000, 30.0), ((1 << 32) - 1, MAX_INTERVAL_S)],
)
def test_a_coordinator_can_neither_load_nor_blind_its_hosts(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, asked_ms: int, taken_s: float
) -> None:
    agent = make_agent()
    in_session(coordinator, observation_interval_ms=asked_ms)
    assert agent.terms.get(timeout=DEADLINE_S).observation_interval_s == taken_s


# --- latest wins -----------------------------------------------------------------------------


def test_a_blocked_stream_is_given_the_latest_observation_and_no_queue(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    """Messages far beyond the flow-control window, to a coordinator that does not read."""
    large = dataclasses.replace(observe(), readings_zlib=os.urandom(4 << 20))
    agent = make_agent(large)
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.stop_reading()
    stream.welcome()
    for number in range(50):
        agent.outbox.offer(dataclasses.replace(large, checks_version=f"checks-{number}"))
    stream.go_on_reading()
    stream.hear("inventory")
    heard = [stream.hear("observation")]
    while heard[-1].checks_version != "checks-49":
        heard.append(stream.hear("observation"))
    assert [said.sequence for said in heard] == list(range(1, len(heard) + 1))
    # one may have been on the wire and one in the hands of gRPC
    assert len(heard) <= 3
    agent.outbox.offer(dataclasses.replace(large, checks_version="checks-50"))
    assert stream.hear("observation").checks_version == "checks-50", "the last was said twice"


# --- ends and new beginnings -----------------------------------------------------------------


def test_the_next_session_says_the_latest_again(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent(observe("F10"))
    stream = in_session(coordinator)
    stream.acknowledge(1)
    agent.outbox.offer(observe("F11"))
    stream.hear("inventory")
    stream.hear("observation")
    stream.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    assert agent.ended() == Ended("UNAVAILABLE: gone", useful=True)
    newest = observe("F12")
    agent.outbox.offer(newest)
    agent.connect()
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    assert hello.inventory_digest == newest.digest
    assert (hello.cluster_id, hello.highest_incarnation, hello.highest_epoch) == (CLUSTER, 1, 1)
    stream.welcome(epoch=2)
    assert stream.hear("inventory").digest == newest.digest
    assert stream.hear("observation").sequence == 1


def test_a_killed_coordinator_is_found_again_at_its_port(house: House, journal: Journal) -> None:
    with RecordingCoordinator(house.server) as first:
        agent = Agent(house, first.endpoint, journal)
        agent.outbox.offer(observe())
        agent.connect()
        in_session(first)
    assert agent.ended().reason.startswith("UNAVAILABLE: ")
    with RecordingCoordinator(house.server, port=first.port) as second:
        agent.connect()
        in_session(second, epoch=2)
        agent.leave()


def test_a_coordinator_that_is_not_there(house: House, journal: Journal) -> None:
    with RecordingCoordinator(house.server) as server:
        endpoint = server.endpoint
    agent = Agent(house, endpoint, journal)
    agent.connect()
    ended = agent.ended()
    assert ended.reason.startswith("UNAVAILABLE: ")
    assert (ended.useful, ended.slow) == (False, False)


def test_the_end_in_good_order(coordinator: RecordingCoordinator, make_agent: MakeAgent) -> None:
    agent = make_agent()
    in_session(coordinator).end()
    assert agent.ended() == Ended("the coordinator ended the session")


def test_a_reboot_needs_a_new_hello(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent(observe(boot="boot-1"))
    stream = in_session(coordinator)
    unread = dataclasses.replace(observe(uptime=2.0), boot_id="")
    agent.outbox.offer(unread)
    stream.hear("observation")
    agent.outbox.offer(observe("F11", boot="boot-2"))
    assert agent.ended() == Ended("this host has rebooted")
    assert stream.hear_the_end() == []
    agent.connect()
    assert coordinator.next_stream().hear("hello").boot_id == "boot-2"


def test_a_coordinator_that_never_answers_is_left(
    house: House, coordinator: RecordingCoordinator, journal: Journal
) -> None:
    outbox = Outbox()
    outbox.offer(observe())
    conversation = Conversation(
        speaker=SPEAKER,
        outbox=outbox,
        fences=journal,
        on_terms=lambda terms: None,
        welcome_timeout_s=0.5,
    )
    with open_channel(house, coordinator.endpoint) as channel:
        ended = conversation.run(AgentSessionServiceStub(channel))
    assert ended == Ended("the coordinator did not answer within 0.5 s")
    stream = coordinator.next_stream()
    assert stream.hear_the_end() == ["hello"]


def open_channel(house: House, endpoint: str) -> grpc.Channel:
    bundle = load_bundle(house.node)
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
    return grpc.secure_channel(endpoint, credentials)


# --- fences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "offered"),
    [
        (Fence(CLUSTER, 1, 5), Fence(CLUSTER, 1, 4)),
        (Fence(CLUSTER, 2, 1), Fence(CLUSTER, 1, 9)),
        (Fence(CLUSTER, 1, 5), Fence("cluster-b", 1, 9)),
        (NO_FENCE, Fence("", 1, 1)),
    ],
)
def test_an_older_or_another_coordinator_is_never_obeyed(
    coordinator: RecordingCoordinator,
    make_agent: MakeAgent,
    journal: Journal,
    known: Fence,
    offered: Fence,
) -> None:
    if known != NO_FENCE:
        journal.obey(known)
    agent = make_agent()
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    assert Fence(hello.cluster_id, hello.highest_incarnation, hello.highest_epoch) == known
    stream.welcome(**dataclasses.asdict(offered))
    ended = agent.ended()
    assert (ended.slow, ended.useful) == (True, False)
    expected = {
        CLUSTER: "STORE_REWOUND: the coordinator is at incarnation 1 epoch",
        "cluster-b": "this agent belongs to cluster cluster-a, the coordinator speaks for ",
        "": "BAD_REQUEST: the coordinator names no cluster",
    }
    assert ended.reason.startswith(expected[offered.cluster_id])
    assert stream.hear_the_end() == [], "something was said to it"
    assert agent.terms.empty()
    assert journal.fence() == known


def test_a_coordinator_that_goes_back_within_a_session_is_left(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, journal: Journal
) -> None:
    agent = make_agent()
    stream = in_session(coordinator, epoch=5)
    stream.welcome(epoch=4)
    assert agent.ended().reason.startswith("STORE_REWOUND: ")
    assert journal.fence() == Fence(CLUSTER, 1, 5)


@pytest.mark.parametrize(
    "offered", [Fence(CLUSTER, 1, 5), Fence(CLUSTER, 1, 6), Fence(CLUSTER, 2, 1)]
)
def test_the_same_or_a_newer_coordinator_is_obeyed(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, journal: Journal, offered: Fence
) -> None:
    journal.obey(Fence(CLUSTER, 1, 5))
    make_agent()
    in_session(coordinator, **dataclasses.asdict(offered))
    assert journal.fence() == offered


class SlowJournal:
    """A journal whose disk takes until the test lets it go on."""

    def __init__(self, journal: Journal) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self._journal = journal

    def fence(self) -> Fence:
        return self._journal.fence()

    def obey(self, fence: Fence) -> None:
        self.asked.set()
        assert self.go_on.wait(DEADLINE_S)
        self._journal.obey(fence)


def test_nothing_is_said_before_the_fence_is_durable(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, journal: Journal
) -> None:
    slow = SlowJournal(journal)
    agent = make_agent(fences=slow)
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(epoch=3, heartbeat_interval_ms=100)
    assert slow.asked.wait(DEADLINE_S)
    agent.outbox.offer(observe("F11"))
    assert stream.silent
    assert agent.terms.empty()
    slow.go_on.set()
    stream.hear("inventory")
    assert journal.fence() == Fence(CLUSTER, 1, 3)


def test_a_journal_that_fails_ends_the_session_with_its_own_words(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, journal: Journal
) -> None:
    agent = make_agent()
    stream = coordinator.next_stream()
    stream.hear("hello")
    journal.close()
    stream.welcome()
    with pytest.raises(JournalError, match="was closed"):
        agent.ended()
    assert stream.hear_the_end() == []


# --- refusals --------------------------------------------------------------------------------

SLOW = {
    ErrorCode.BAD_REQUEST,
    ErrorCode.BAD_SNAPSHOT,
    ErrorCode.NODE_CLONED,
    ErrorCode.NODE_MISMATCH,
    ErrorCode.PERMISSION_DENIED,
    ErrorCode.PROTOCOL_UNSUPPORTED,
    ErrorCode.SESSION_REPLACED,
    ErrorCode.STORE_REWOUND,
    ErrorCode.UNAUTHENTICATED,
}
SOON = {ErrorCode.CONFLICT, ErrorCode.SHUTTING_DOWN, ErrorCode.STORE_UNAVAILABLE}


@pytest.mark.parametrize("code", sorted(SLOW | SOON))
def test_what_only_a_person_can_lift_is_asked_again_slowly(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, code: ErrorCode
) -> None:
    agent = make_agent()
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.refuse(code)
    ended = agent.ended()
    assert f"{code}: because of a test. " in ended.reason
    assert ended.slow == (code in SLOW)


@pytest.mark.parametrize(
    ("status", "slow"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (grpc.StatusCode.INTERNAL, False),
        (grpc.StatusCode.UNKNOWN, False),
        (grpc.StatusCode.CANCELLED, False),
    ],
)
def test_statuses_without_a_code_of_ours(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, status: grpc.StatusCode, slow: bool
) -> None:
    agent = make_agent()
    stream = in_session(coordinator)
    stream.abort(status, "line one\n\x1b[31m  " + "x" * 2000)
    ended = agent.ended()
    assert ended.slow is slow
    assert ended.reason == f"{status.name}: line one [31m " + "x" * 386


def test_a_protocol_that_this_agent_does_not_speak(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, journal: Journal
) -> None:
    agent = make_agent()
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(protocol=2)
    ended = agent.ended()
    assert ended.reason.startswith("PROTOCOL_UNSUPPORTED: the coordinator chose protocol 2")
    assert ended.slow
    assert journal.fence() == NO_FENCE


# --- certificates ----------------------------------------------------------------------------


def test_the_bundle_is_read_for_each_session(
    house: House, coordinator: RecordingCoordinator, make_agent: MakeAgent, tmp_path: Path
) -> None:
    directory = tmp_path / "node"
    agent = make_agent(bundle=directory)
    missing = agent.ended()
    assert missing.reason.startswith(f"{directory} does not exist")
    assert missing.slow
    house.authority.ensure_node_bundle("pve07", directory)
    agent.connect()
    in_session(coordinator)


def test_an_expired_certificate_is_named_before_it_is_tried(
    house: House, make_agent: MakeAgent, tmp_path: Path
) -> None:
    past = Authority.open_or_create(tmp_path / "ca", now=NOW - timedelta(days=200))
    agent = make_agent(bundle=past.ensure_node_bundle("pve07", tmp_path / "node"))
    ended = agent.ended()
    assert ended.reason.startswith("cert.pem expired on ")
    assert ended.slow


def test_a_coordinator_of_another_authority_hears_nothing(
    coordinator: RecordingCoordinator, make_agent: MakeAgent, tmp_path: Path
) -> None:
    other = Authority.open_or_create(tmp_path / "ca", now=NOW)
    agent = make_agent(bundle=other.ensure_node_bundle("pve07", tmp_path / "node"))
    assert agent.ended().reason.startswith("UNAVAILABLE: ")
    assert coordinator.idle


# --- closing, and faults of our own ----------------------------------------------------------


@contextlib.contextmanager
def no_thread_left() -> Iterator[None]:
    """Every thread that was started inside has ended."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), thread.name


def test_closing_ends_it_wherever_it_is(house: House, journal: Journal) -> None:
    def greeted(stream: Stream) -> None:
        stream.hear("hello")

    def welcomed(stream: Stream) -> None:
        stream.hear("hello")
        stream.welcome()
        stream.hear("inventory")
        stream.hear("observation")

    def unread(stream: Stream) -> None:
        stream.hear("hello")
        stream.stop_reading()
        stream.welcome()

    with no_thread_left(), RecordingCoordinator(house.server) as coordinator:
        for bring_to in (greeted, welcomed, unread):
            agent = Agent(house, coordinator.endpoint, journal)
            agent.outbox.offer(dataclasses.replace(observe(), readings_zlib=os.urandom(4 << 20)))
            agent.connect()
            stream = coordinator.next_stream()
            bring_to(stream)
            agent.link.close()
            assert agent.ended() == Ended("closed by the agent")
            stream.go_on_reading()
            assert stream.ended.wait(DEADLINE_S)
            agent.connect()
            assert agent.ended() == Ended("closed by the agent"), "it began again"
            agent.leave()


def test_closing_at_any_moment_of_the_beginning(house: House, journal: Journal) -> None:
    with no_thread_left(), RecordingCoordinator(house.server) as coordinator:
        for _ in range(20):
            agent = Agent(house, coordinator.endpoint, journal)
            agent.outbox.offer(observe())
            agent.connect()
            agent.link.close()
            assert agent.ended() == Ended("closed by the agent")
            agent.leave()


def test_a_fault_while_speaking_is_raised_and_not_retried(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    broken = dataclasses.replace(observe(), findings=(cast(Finding, "no finding"),))
    agent = make_agent(broken)
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(held=True)
    with pytest.raises(KeyError):
        agent.ended()
    assert stream.hear_the_end() == []


# --- without the wire ------------------------------------------------------------------------


class Scripted:
    """A conversation over a channel of `grpc_testing`, where each response arrives alone."""

    def __init__(self, fences: Fences) -> None:
        service = session_pb2.DESCRIPTOR.services_by_name["AgentSessionService"]
        channel = grpc_testing.channel([service], grpc_testing.strict_real_time())
        self.outbox = Outbox()
        self.outbox.offer(observe())
        self.terms: queue.SimpleQueue[Terms] = queue.SimpleQueue()
        self._conversation = Conversation(
            speaker=SPEAKER, outbox=self.outbox, fences=fences, on_terms=self.terms.put
        )
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        stub = AgentSessionServiceStub(channel)
        self._thread = threading.Thread(
            target=lambda: self._ended.put(self._conversation.run(stub)), daemon=True
        )
        self._thread.start()
        _, self.rpc = channel.take_stream_stream(service.methods_by_name["Session"])
        self.rpc.send_initial_metadata(())

    def hear(self) -> str:
        request: SessionRequest = self.rpc.take_request()
        return str(request.WhichOneof("body"))

    def say(self, **body: Any) -> None:
        self.rpc.send_response(SessionResponse(**body))

    def ended(self) -> Ended:
        ended = self._ended.get(timeout=DEADLINE_S)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return ended


WELCOME = Welcome(protocol=1, cluster_id=CLUSTER, incarnation=1, epoch=1)


def test_what_comes_before_welcome_waits_for_it(journal: Journal) -> None:
    script = Scripted(journal)
    assert script.hear() == "hello"
    script.say(inventory_wanted=session_pb2.InventoryWanted(digest="sha256:any"))
    script.say(welcome=WELCOME)
    assert [script.hear(), script.hear()] == ["inventory", "observation"]
    script.rpc.terminate((), grpc.StatusCode.OK, "")
    assert script.ended() == Ended("the coordinator ended the session")


def test_an_end_before_welcome(journal: Journal) -> None:
    script = Scripted(journal)
    assert script.hear() == "hello"
    script.rpc.terminate((), grpc.StatusCode.OK, "")
    assert script.ended() == Ended("the coordinator ended the session")
    assert script.terms.empty()


def test_a_second_welcome_renews_the_terms(journal: Journal) -> None:
    script = Scripted(journal)
    script.say(welcome=WELCOME)
    later = Welcome(
        protocol=1, cluster_id=CLUSTER, incarnation=1, epoch=1, observation_interval_ms=5000
    )
    script.say(welcome=later)
    asked = [script.terms.get(timeout=DEADLINE_S).observation_interval_s for _ in range(2)]
    assert asked == [0.0, 5.0]
    script.rpc.terminate((), grpc.StatusCode.ABORTED, "SESSION_REPLACED: a newer one. Closed.")
    ended = script.ended()
    assert ended.slow, "two agents of one name would take turns for ever"


def test_a_status_without_details(journal: Journal) -> None:
    script = Scripted(journal)
    script.say(welcome=WELCOME)
    assert [script.hear() for _ in range(3)] == ["hello", "inventory", "observation"]
    script.say(acknowledged=session_pb2.Acknowledged(sequence=1))
    script.say(inventory_wanted=session_pb2.InventoryWanted(digest="sha256:any"))
    assert [script.hear(), script.hear()] == ["inventory", "observation"]
    script.rpc.terminate((), grpc.StatusCode.UNAVAILABLE, "")
    assert script.ended() == Ended("UNAVAILABLE: ", useful=True)
