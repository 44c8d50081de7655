"""Whom the agent obeys: fences that only grow, refusals it respects, certificates it presents."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.cluster.agent_side import NOW, House, MakeAgent, agents, in_session, make_house, observe
from tests.fakes.recording_coordinator import (
    CLUSTER,
    DEADLINE_S,
    RecordingCoordinator,
)
from vfio_agent.journal import NO_FENCE, Fence, Journal, JournalError
from vfio_contract.errors import ErrorCode
from vfio_coordinator.pki import Authority


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def coordinator(house: House) -> Iterator[RecordingCoordinator]:
    with RecordingCoordinator(house.server) as server:
        yield server


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal.open(tmp_path / "journal.db")) as opened:
        yield opened


@pytest.fixture
def make_agent(
    house: House, coordinator: RecordingCoordinator, journal: Journal
) -> Iterator[MakeAgent]:
    with agents(house, coordinator.endpoint, journal) as make:
        yield make


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
    assert f"{code}: because of a test" in ended.reason
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
