"""Durable events over real gRPC, each side alone: what an agent sends, what is taken of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.agent_side import SPEAKER, House, make_house, observe
from tests.cluster.agents import Agent, Cluster
from tests.cluster.users import DEADLINE_S
from tests.fakes.durable import line, moment, numbers_in, reset
from tests.fakes.recording_coordinator import RecordingCoordinator, Stream
from vfio_agent.journal import Journal, JournalError
from vfio_agent.session.delivery import Events
from vfio_agent.session.ending import Ended
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Outbox
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import event_from_message, event_to_message
from vfio_contract.durable import (
    MAX_SEQ,
    DurableEvent,
    EventsLost,
    JournalStatus,
    Mark,
    Spooled,
    SpoolUnavailable,
)
from vfio_coordinator.api.messages import MAX_EVENTS
from vfioctl.v1 import session_pb2
from vfioctl.v1.durable_pb2 import DurableEvent as Message
from vfioctl.v1.session_pb2 import EventBatch, EventsHeld, RescanWanted, SessionResponse

NODE = "pve01"
SPOOL = "a" * 32


# --- the agent -----------------------------------------------------------------------------------


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


class Session:
    """One session of an agent with a journal, on a thread."""

    def __init__(
        self, house: House, endpoint: str, journal: Journal, *, events: Events | None = None
    ) -> None:
        self.reasons: list[str] = []
        outbox = Outbox()
        outbox.offer(observe())
        self.link = Link(
            endpoint=endpoint,
            bundle=lambda: load_bundle(house.node, now=datetime.now(UTC)),
            speaker=SPEAKER,
            outbox=outbox,
            fences=journal,
            on_terms=lambda terms: None,
            events=events or journal.spool,
            on_rescan=self.reasons.append,
        )
        self.results: list[Ended] = []
        self._thread = threading.Thread(target=lambda: self.results.append(self.link.run()))
        self._thread.start()

    def ended(self) -> Ended:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return self.results[0]

    def close(self) -> None:
        self.link.close()
        self.ended()


@pytest.fixture
def session(house: House, coordinator: RecordingCoordinator, journal: Journal) -> Iterator[Session]:
    with closing(Session(house, coordinator.endpoint, journal)) as begun:
        yield begun


def begin(coordinator: RecordingCoordinator) -> tuple[Stream, str]:
    """The stream up to its first observation, and the spool that Hello named."""
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    stream.welcome(held=True)
    stream.hear("observation")
    return stream, hello.spool_id


def hold(stream: Stream, spool: str, seq: int, *, at: int = 0, window: int = 128) -> None:
    stamp = moment(at) if at else None
    stream.say(
        SessionResponse(
            events_held=EventsHeld(
                spool_id=spool,
                seq=seq,
                boot_id=stamp.boot_id if stamp else "",
                boottime_ms=stamp.boottime_ms if stamp else 0,
                wall_ms=stamp.wall_ms if stamp else 0,
                window_events=window,
            )
        )
    )


def heard(stream: Stream) -> list[int]:
    batch = stream.hear("events")
    return [event.seq for event in batch.events]


def test_nothing_is_sent_before_the_mark_and_no_more_than_the_window(
    coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    journal.spool.extend([line(n) for n in range(1, 8)])
    stream, spool = begin(coordinator)
    assert spool == journal.spool.id
    assert stream.silent
    hold(stream, spool, 0, window=3)
    assert heard(stream) == [1, 2, 3]
    hold(stream, spool, 2, at=2, window=3)
    assert heard(stream) == [4, 5]
    assert [row.seq for row in journal.spool.after(0, 9)] == [3, 4, 5, 6, 7]
    hold(stream, spool, 7, at=7)
    journal.spool.append(reset(8))
    assert heard(stream) == [8]


def test_a_batch_arrives_as_it_was_spooled(
    coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    journal.spool.extend([line(1), reset(2)])
    stream, spool = begin(coordinator)
    hold(stream, spool, 0)
    batch = stream.hear("events")
    assert batch.spool_id == spool
    assert [event_from_message(event) for event in batch.events] == journal.spool.after(0, 9)


def test_what_was_not_acknowledged_is_sent_again_by_the_next_session(
    house: House, coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    journal.spool.extend([line(1), line(2)])
    stream, spool = begin(coordinator)
    hold(stream, spool, 0)
    assert heard(stream) == [1, 2]
    session.close()
    with closing(Session(house, coordinator.endpoint, journal)):
        stream, spool = begin(coordinator)
        hold(stream, spool, 1, at=1)
        assert heard(stream) == [2]


def test_a_copy_of_the_journal_begins_a_new_spool(
    coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    journal.spool.append(line(1))
    stream, spool = begin(coordinator)
    hold(stream, spool, 9, at=9)
    assert "an older copy of itself: a new spool begins" in session.ended().reason
    assert journal.spool.id != spool
    assert [row.seq for row in journal.spool.after(0, 9)] == [1]


def test_a_mark_of_another_spool_ends_the_session(
    coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    stream, _ = begin(coordinator)
    hold(stream, "f" * 32, 9, at=9)
    assert "holds spool 'ffff" in session.ended().reason


def test_a_wanted_look_is_asked_for(
    coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    stream, spool = begin(coordinator)
    stream.say(SessionResponse(rescan_wanted=RescanWanted(reason="events\x1b were lost")))
    hold(stream, spool, 0)
    journal.spool.append(line(1))
    assert heard(stream) == [1]
    assert session.reasons == ["events were lost"]


def test_a_journal_that_fails_is_told_and_the_session_goes_on(
    coordinator: RecordingCoordinator, journal: Journal, session: Session
) -> None:
    journal.spool.append(line(1))
    stream, spool = begin(coordinator)
    journal.close()
    hold(stream, spool, 0)
    status = stream.hear("journal")
    assert status.code == "JOURNAL_FAILED"
    assert "was closed" in status.text
    assert session.results == []
    with pytest.raises(JournalError):
        journal.spool.append(line(2))


# --- the coordinator -----------------------------------------------------------------------------


async def greet(cluster: Cluster) -> tuple[Agent, EventsHeld]:
    agent = await cluster.agent(NODE)
    await agent.greet(spool_id=SPOOL)
    return agent, await agent.stream.hear_one("events_held")


def batch(*numbers: int, **changes: Any) -> EventBatch:
    events = [event_to_message(Spooled(n, line(n))) for n in numbers]
    return EventBatch(**({"spool_id": SPOOL, "events": events} | changes))


async def test_events_are_in_the_log_before_they_are_acknowledged(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        agent, mark = await greet(cluster)
        assert (mark.spool_id, mark.seq, mark.window_events) == (SPOOL, 0, 128)
        await agent.stream.say(events=batch(1, 2, 3))
        mark = await agent.stream.hear_one("events_held")
        assert (mark.seq, mark.boottime_ms) == (3, moment(3).boottime_ms)
        assert numbers_in(await admin.events()) == [1, 2, 3]


async def test_a_restart_tells_the_mark_and_takes_nothing_twice(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent, _ = await greet(cluster)
        await agent.stream.say(events=batch(1, 2, 3))
        await agent.stream.hear_one("events_held")
        await cluster.restart()
        agent, mark = await greet(cluster)
        assert mark.seq == 3
        await agent.stream.say(events=batch(2, 3, 4))
        assert (await agent.stream.hear_one("events_held")).seq == 4
        assert numbers_in(await (await cluster.admin()).events()) == [1, 2, 3, 4]


async def test_a_loss_asks_for_a_look_at_the_host(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent, _ = await greet(cluster)
        gap = DurableEvent(moment(5), "", "", EventsLost(2, ()))
        lost = [event_to_message(Spooled(1, line(1))), event_to_message(Spooled(5, gap))]
        await agent.stream.say(events=batch(events=lost))
        assert (await agent.stream.hear_one("events_held")).seq == 5
        assert "4 events" in (await agent.stream.hear_one("rescan_wanted")).reason


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "out of order": ({"events": batch(1, 3)}, "event 3 to 3 where 2 comes next"),
    "reordered": ({"events": batch(2, 1)}, "event 1 to 1 where 3 comes next"),
    "twice": ({"events": batch(1, 1)}, "event 1 to 1 where 2 comes next"),
    "another spool": ({"events": batch(1, spool_id="b" * 32)}, "Hello said 'aaaa"),
    "number 0": ({"events": batch(events=[Message(seq=0)])}, "events.seq: 0 to 0"),
    "negative": ({"events": batch(events=[Message(seq=-1)])}, "events.seq: -1 to -1"),
    "huge number": ({"events": batch(events=[Message(seq=MAX_SEQ + 1)])}, "events.seq"),
    "gap backwards": (
        {"events": batch(events=[{"seq": 3, "events_lost": {"first": 4}}])},
        "events.seq: 4 to 3",
    ),
    "no moment": ({"events": batch(events=[Message(seq=1, wall_ms=1 << 60)])}, "no moment"),
    "too many": ({"events": batch(*range(1, MAX_EVENTS + 2))}, f"at most {MAX_EVENTS}"),
    "beyond the window": ({"events": batch(*range(1, 130))}, "the window is 128"),
    "too large": (
        {"events": batch(events=[Message(seq=1, identity="x" * (1 << 20))])},
        "at most 256 of 1048576",
    ),
    "a wild code": (
        {"journal": session_pb2.JournalStatus(code="ALL_IS_WELL")},
        "journal.code: 'ALL_IS_WELL'",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_no_agent_says_ends_its_session_and_leaves_no_trace(
    state: Path, what: str
) -> None:
    said, complaint = BAD[what]
    async with Cluster(state) as cluster:
        agent, _ = await greet(cluster)
        await agent.stream.say(**said)
        refused = await agent.stream.end()
        assert (refused.code, refused.status) == ("BAD_REQUEST", grpc.StatusCode.INVALID_ARGUMENT)
        assert complaint in refused.message
        assert numbers_in(await (await cluster.admin()).events()) == []
        agent, mark = await greet(cluster)
        assert mark.seq == 0
        await agent.stream.say(events=batch(1))
        assert (await agent.stream.hear_one("events_held")).seq == 1


async def test_text_of_a_stranger_is_cut_before_it_is_kept(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent, _ = await greet(cluster)
        wild = Message(seq=1, identity="\U0001f4a5" * 100_000, address="a\x1b[2J" * 1000)
        wild.kernel_line.line = "\x00\x1b]0;" * 50_000
        await agent.stream.say(events=batch(events=[wild]))
        assert (await agent.stream.hear_one("events_held")).seq == 1
        (row,) = [r for r in await (await cluster.admin()).events() if r.code == "KERNEL_LINE"]
        assert len(row.text) < 600


async def test_a_newer_session_gets_what_the_older_had_not_applied(state: Path) -> None:
    async with Cluster(state) as cluster:
        old, _ = await greet(cluster)
        await old.stream.say(events=batch(1, 2))
        await old.stream.hear_one("events_held")
        new, mark = await greet(cluster)
        assert mark.seq == 2
        assert (await old.stream.end()).code == "SESSION_REPLACED"
        await new.stream.say(events=batch(3))
        assert (await new.stream.hear_one("events_held")).seq == 3


class Away:
    """The events of a hostd that is not there: its journal's state is all that is known."""

    id = "0" * 32

    def after(self, seq: int, limit: int) -> Sequence[Spooled]:
        raise SpoolUnavailable("hostd is away")

    def acknowledge(self, mark: Mark) -> bool:
        raise SpoolUnavailable("hostd is away")

    def status(self) -> JournalStatus:
        return JournalStatus("HOSTD_AWAY", "hostd is away")

    def attach(self, wake: Callable[[], None] | None) -> None:
        """Nothing ever wakes it."""


def test_that_nobody_looks_at_the_host_is_told_before_what_was_seen(
    house: House, coordinator: RecordingCoordinator, journal: Journal
) -> None:
    with closing(Session(house, coordinator.endpoint, journal, events=Away())):
        stream = coordinator.next_stream()
        stream.hear("hello")
        stream.welcome(held=True)
        assert stream.hear("journal").code == "HOSTD_AWAY"
        stream.hear("observation")
