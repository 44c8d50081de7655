"""The agent's side of the stream: order, latest wins, new beginnings, and a clean end.

Real gRPC and real mutual TLS against a coordinator that does what the test says.

Length: one session is walked from its first word to its last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.agent_side import (
    SPEAKER,
    Agent,
    House,
    MakeAgent,
    agents,
    in_session,
    make_house,
    observe,
)
from tests.fakes.recording_coordinator import (
    CLUSTER,
    DEADLINE_S,
    RecordingCoordinator,
    Stream,
)
from vfio_agent.journal import Fence, Journal
from vfio_agent.session.conversation import (
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    Conversation,
    Terms,
)
from vfio_agent.session.ending import Ended
from vfio_agent.session.outbox import Outbox
from vfio_contract.artifact import ArtifactError, decode, decompress, digest_bytes
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import from_message
from vfio_contract.findings import Finding
from vfio_contract.model import SCHEMA, Facts, Readings
from vfio_contract.parts import pack_lines, rank, read_findings, read_lines
from vfioctl.v1.session_pb2 import SessionResponse, WholeWanted
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub


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
    findings = rank(read_findings(observed.lines()))
    assert tuple(from_message(Finding, f) for f in said.findings) == findings
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
    blob = b'readings/blob "' + os.urandom(4 << 20).hex().encode() + b'"\n'
    large = dataclasses.replace(observe(), parts_zlib=pack_lines([blob]))
    agent = make_agent(large)
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.stop_reading()
    stream.welcome(takes_parts=True)
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


# --- in parts --------------------------------------------------------------------------------


def names_in(said: Any) -> list[str]:
    return list(read_lines(said.parts_zlib))


def test_only_what_changed_since_the_acknowledged_one_is_said(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent(observe(uptime=1.0))
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(takes_parts=True)
    stream.hear("inventory")
    whole = stream.hear("observation")
    assert (whole.base_digest, whole.readings_zlib, len(whole.findings)) == ("", b"", 0)
    assert len(names_in(whole)) > 40
    agent.outbox.offer(observe(uptime=2.0))
    assert stream.hear("observation").base_digest == "", "nothing was acknowledged"
    agent.outbox.offer(observe(uptime=3.0))
    third = stream.hear("observation")
    stream.acknowledge(2)
    stream.acknowledge(3)
    stream.want_inventory(third.inventory_digest)  # when this is answered, all above was heard
    stream.hear("inventory")
    fourth = stream.hear("observation")
    assert (fourth.base_digest, fourth.digest) == (third.digest, third.digest)
    assert names_in(fourth) == []


def test_the_whole_is_said_again_when_it_is_wanted(
    coordinator: RecordingCoordinator, make_agent: MakeAgent
) -> None:
    agent = make_agent(observe())
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(takes_parts=True)
    stream.hear("inventory")
    whole = stream.hear("observation")
    stream.acknowledge(1)
    stream.say(SessionResponse(whole_wanted=WholeWanted()))
    again = stream.hear("observation")
    assert (again.sequence, again.base_digest) == (2, "")
    assert (again.digest, again.parts_zlib) == (whole.digest, whole.parts_zlib)
    agent.link.close()


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
            agent.outbox.offer(dataclasses.replace(observe(), facts_zlib=os.urandom(4 << 20)))
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
    broken = dataclasses.replace(observe(), parts_zlib=b"no zlib")
    agent = make_agent(broken)
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome(held=True)
    with pytest.raises(ArtifactError):
        agent.ended()
    assert stream.hear_the_end() == []
