"""Durable events in the state: once, in order, with the mark, and not faster than is fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from tests.fakes.durable import line, moment, numbers_in, reset
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import cards, snapshot
from vfio_contract.artifact import decode, encode
from vfio_contract.durable import (
    NO_MOMENT,
    DurableEvent,
    EventsLost,
    JournalStatus,
    KindCount,
    Mark,
    Spooled,
)
from vfio_contract.errors import ErrorCode
from vfio_contract.ledger import KEPT_ATTEMPTS
from vfio_contract.views import Event as LogRow
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.effects import CloseSession, Effect, HoldEvents, WantRescan
from vfio_coordinator.state.event_batch import KEPT_HISTORIES
from vfio_coordinator.state.events import EventsReceived, JournalReported, Tick
from vfio_coordinator.state.health import find_health
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.records import AttemptsRecord, SpoolRecord
from vfio_coordinator.store.interface import Put, Txn

SPOOL = "a" * 32
FAST = Limits(events_per_s=1e6, events_burst=1e6)


@pytest.fixture
def agent() -> Agent:
    return Agent("pve01", snapshot(*cards(1)))


def batch(first: int, last: int) -> list[Spooled]:
    return [Spooled(n, line(n)) for n in range(first, last + 1)]


def gap(first: int, last: int) -> Spooled:
    kinds = (KindCount("kernel_line", last - first + 1),)
    return Spooled(last, DurableEvent(moment(last), "", "", EventsLost(first, kinds)))


def tell(
    cluster: Cluster, agent: Agent, events: Sequence[Spooled], spool: str = SPOOL
) -> list[Effect]:
    return cluster.send(
        EventsReceived(node=agent.name, session=agent.session, spool_id=spool, events=tuple(events))
    )


def held(effects: list[Effect]) -> list[int]:
    return [effect.mark.seq for effect in effects if isinstance(effect, HoldEvents)]


def rows(cluster: Cluster) -> list[LogRow]:
    return [decode(LogRow, item.value) for item in cluster.store.range(keys.EVENTS)]


def record(cluster: Cluster, agent: Agent) -> SpoolRecord:
    item = cluster.store.get(keys.spool_key(agent.name))
    assert item is not None
    return decode(SpoolRecord, item.value)


# --- once, in order ------------------------------------------------------------------------------


def test_events_become_rows_and_then_the_mark_is_told(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    (told,) = [e for e in cluster.hello(agent, spool_id=SPOOL) if isinstance(e, HoldEvents)]
    assert told.mark == Mark(SPOOL, 0, NO_MOMENT)
    assert told.window == FAST.events_window
    cluster.held = True
    assert held(tell(cluster, agent, batch(1, 3))) == [], "nothing is told before the commit"
    cluster.held = False
    cluster.settle_store()
    assert cluster.last(HoldEvents)[-1] == HoldEvents(
        agent.name, agent.session, Mark(SPOOL, 3, moment(3)), FAST.events_window
    )
    assert numbers_in(rows(cluster)) == [1, 2, 3]
    assert record(cluster, agent) == SpoolRecord(agent.name, SPOOL, 3, moment(3), applied=3, lost=0)


def test_an_agent_without_a_spool_is_told_nothing(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    assert held(cluster.hello(agent)) == []
    assert cluster.store.get(keys.spool_key(agent.name)) is None


def test_what_was_applied_is_passed_over_and_answered(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(1, 5))
    cluster.restart()
    assert held(cluster.hello(agent, spool_id=SPOOL)) == [5]
    assert held(tell(cluster, agent, batch(3, 4))) == [5]
    tell(cluster, agent, batch(5, 7))
    assert numbers_in(rows(cluster)) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_in_flight_and_is_sent_again_counts_once(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    cluster.held = True
    tell(cluster, agent, batch(1, 3))
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(1, 5))
    cluster.held = False
    cluster.settle_store()
    assert numbers_in(rows(cluster)) == [1, 2, 3, 4, 5]
    assert record(cluster, agent).applied == 5


@pytest.mark.parametrize("landed", [True, False])
def test_an_answer_that_was_lost_is_read_back(agent: Agent, landed: bool) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    cluster.held = True
    tell(cluster, agent, batch(1, 3))
    while len(cluster.queue) > 1:
        cluster.commit_one()
    cluster.lose_answer(landed=landed)
    cluster.held = False
    cluster.settle_store()
    assert numbers_in(rows(cluster)) == [1, 2, 3]
    assert record(cluster, agent).applied == 3


def test_a_write_rests_on_the_mark_that_the_store_has(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    cluster.held = True
    tell(cluster, agent, batch(1, 3))
    found = SpoolRecord(agent.name, SPOOL, 2, moment(2), applied=2)
    cluster.store.commit([Txn((), (Put(keys.spool_key(agent.name), encode(found)),))])
    cluster.held = False
    cluster.settle_store()
    assert numbers_in(rows(cluster)) == [3]
    assert record(cluster, agent) == replace(found, seq=3, at=moment(3), applied=3)


def test_an_older_sessions_messages_are_dropped(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    old = agent.session
    cluster.hello(agent, spool_id=SPOOL)
    late = EventsReceived(node=agent.name, session=old, spool_id=SPOOL, events=tuple(batch(1, 2)))
    assert cluster.send(late) == []
    assert numbers_in(rows(cluster)) == []


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (batch(2, 2), "event 2 to 2 where 3 comes next"),
        (batch(4, 4), "event 4 to 4 where 3 comes next"),
        ([*batch(3, 3), *batch(5, 5)], "event 5 to 5 where 4 comes next"),
        ([gap(4, 6)], "event 4 to 6 where 3 comes next"),
        (batch(3, 200), "198 events after 0: the window is 128"),
    ],
)
def test_a_session_out_of_order_or_beyond_its_window_ends_without_effect(
    agent: Agent, second: list[Spooled], complaint: str
) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(1, 2))
    effects = tell(cluster, agent, second)
    assert effects == [CloseSession(agent.name, agent.session, ErrorCode.BAD_REQUEST, complaint)]
    assert tell(cluster, agent, batch(3, 3)) == [], "the session is over for events"
    assert numbers_in(rows(cluster)) == [1, 2]


def test_events_of_another_spool_than_hello_said_end_the_session(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    (ended,) = tell(cluster, agent, batch(1, 1), spool="b" * 32)
    assert isinstance(ended, CloseSession)


# --- losses --------------------------------------------------------------------------------------


def test_a_gap_is_told_and_its_node_looked_at_again(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.join(agent)
    cluster.hello(agent, spool_id=SPOOL)
    cluster.observe(agent)
    assert cluster.view(agent.name).state == "ready"
    effects = tell(cluster, agent, [*batch(1, 1), gap(2, 4), *batch(5, 5)])
    assert any(isinstance(e, WantRescan) for e in cluster.effects), effects
    (row,) = [row for row in rows(cluster) if row.code == "EVENTS_LOST"]
    assert row.text == "3 events, numbers 2 to 4, did not fit on the host: 3 kernel_line"
    assert (record(cluster, agent).applied, record(cluster, agent).lost) == (2, 3)
    shown = cluster.view(agent.name)
    assert (shown.state, shown.reasons[0].code) == ("revalidating", "EVENTS_LOST")
    cluster.seconds += 5
    cluster.observe(agent, age_s=6)
    assert cluster.view(agent.name).state == "revalidating", "that look began before the loss"
    cluster.observe(agent)
    assert cluster.view(agent.name).state == "ready"


def test_a_gap_of_which_a_part_was_applied_counts_the_rest(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(1, 5))
    tell(cluster, agent, [gap(3, 8), *batch(9, 9)])
    assert (record(cluster, agent).applied, record(cluster, agent).lost) == (6, 3)


def test_a_jump_at_the_beginning_of_a_session_is_a_loss(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(1, 2))
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(7, 8))
    assert numbers_in(rows(cluster)) == [1, 2, 7, 8]
    (row,) = [row for row in rows(cluster) if row.code == "EVENTS_LOST"]
    assert "4 events, numbers 3 to 6" in row.text
    assert record(cluster, agent).lost == 4


def test_a_new_journal_is_told_of_at_once_and_an_old_one_goes_on_where_it_was(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, batch(1, 5))
    cluster.hello(agent, spool_id="b" * 32)
    assert [row.code for row in rows(cluster)][-1] == "EVENTS_LOST"
    assert "beyond event 5" in rows(cluster)[-1].text
    tell(cluster, agent, [Spooled(1, line(11))], spool="b" * 32)
    assert held(cluster.hello(agent, spool_id=SPOOL))[0] == 5
    tell(cluster, agent, [*batch(4, 6)])
    assert numbers_in(rows(cluster)) == [1, 2, 3, 4, 5, 11, 6]
    assert record(cluster, agent).former == (Mark("b" * 32, 1, moment(11)),)


# --- fairness ------------------------------------------------------------------------------------


def test_a_flood_waits_for_its_tokens_and_others_do_not(agent: Agent) -> None:
    cluster = Cluster(limits=Limits(events_per_s=10, events_burst=20, events_window=64))
    other = Agent("pve02", snapshot(*cards(1)))
    cluster.hello(agent, spool_id=SPOOL)
    cluster.hello(other, spool_id="b" * 32)
    tell(cluster, agent, batch(1, 60))
    assert record(cluster, agent).seq == 20
    tell(cluster, other, batch(1, 20), spool="b" * 32)
    assert record(cluster, other).seq == 20
    for _ in range(3):
        cluster.wait(1.0)
    assert record(cluster, agent).seq == 50
    cluster.wait(10.0)
    assert record(cluster, agent).seq == 60
    assert cluster.state.throttled == frozenset()


def test_a_new_session_brings_no_new_tokens(agent: Agent) -> None:
    cluster = Cluster(limits=Limits(events_per_s=10, events_burst=20, events_window=64))
    for _ in range(5):
        cluster.hello(agent, spool_id=SPOOL)
        done = cluster.state.intakes[agent.name].mark_of(SPOOL).seq
        tell(cluster, agent, batch(done + 1, 60))
    assert record(cluster, agent).seq == 20


def test_one_write_of_a_node_at_a_time(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    cluster.held = True
    before = len(cluster.queue)
    tell(cluster, agent, batch(1, 60))
    tell(cluster, agent, batch(61, 100))
    cluster.send(Tick())
    assert len(cluster.queue) == before + 1


# --- reset histories -----------------------------------------------------------------------------


def attempts(cluster: Cluster) -> list[AttemptsRecord]:
    return [decode(AttemptsRecord, item.value) for item in cluster.store.range(keys.ATTEMPTS)]


def test_resets_are_copied_with_their_totals(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, [Spooled(n, reset(3 * n)) for n in range(1, 101)])
    (copy,) = attempts(cluster)
    assert (copy.attempts, copy.failures, len(copy.newest)) == (100, 100, KEPT_ATTEMPTS)
    assert copy.newest[-1].evidence == "n=300"
    cluster.restart()
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, [Spooled(101, reset(303, "success"))])
    (copy,) = attempts(cluster)
    assert (copy.attempts, copy.failures, copy.newest[-1].outcome) == (101, 100, "success")


def test_histories_of_a_node_are_bounded(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    for n in range(1, KEPT_HISTORIES + 21):
        event = replace(reset(n), identity=f"dsn-{n}")
        tell(cluster, agent, [Spooled(n, event)])
    kept = {copy.identity for copy in attempts(cluster)}
    assert kept == {f"dsn-{n}" for n in range(21, KEPT_HISTORIES + 21)}
    assert len(cluster.state.intakes[agent.name].attempts) == KEPT_HISTORIES


def test_the_largest_events_fit_into_their_transactions(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    text = "\U0001f4a5" * 1024
    for start in range(1, 320, 40):
        events = []
        for n in range(start, start + 40):
            payload = replace(reset(n).payload, evidence=text, key=text, method=text, place=text)  # type: ignore[type-var]
            identity = f"{n % 5}{text}"[:1024]
            events.append(Spooled(n, replace(reset(n), identity=identity, payload=payload)))
        tell(cluster, agent, events)
    assert record(cluster, agent).applied == 320


# --- what else it says ---------------------------------------------------------------------------


def test_an_event_of_a_newer_version_is_counted(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)
    tell(cluster, agent, [Spooled(1, replace(line(1), payload=None)), *batch(2, 2)])
    assert [row.code for row in rows(cluster)][-2:] == ["EVENT_UNREADABLE", "KERNEL_LINE"]


def test_a_row_says_when_it_was_unless_that_is_now(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.set_wall("2026-11-20T00:00:00Z")
    cluster.hello(agent, spool_id=SPOOL)
    told_at = datetime.fromisoformat(cluster.now.utc)
    now = replace(moment(2), wall_ms=int(told_at.timestamp() * 1000) + 999)
    tell(cluster, agent, [Spooled(1, line(1)), Spooled(2, replace(line(2), at=now))])
    first, second = (row.text for row in rows(cluster)[-2:])
    assert first.startswith("0000:01:00.0 (dsn-1.0): aer: n=1 (at 2026-11-")
    assert first.endswith("Z by its clock)")
    assert second == "0000:01:00.0 (dsn-2.0): aer: n=2"


def test_a_journal_that_failed_is_a_health_matter_until_it_is_well(agent: Agent) -> None:
    cluster = Cluster(limits=FAST)
    cluster.hello(agent, spool_id=SPOOL)

    def report_journal(code: str) -> set[str]:
        status = JournalStatus(code, "/var/lib/x: disk full" if code else "")
        cluster.send(JournalReported(node=agent.name, session=agent.session, status=status))
        return {item.code for item in find_health(cluster.state, cluster.now)}

    assert "JOURNAL_FAILED" in report_journal("JOURNAL_FAILED")
    assert "JOURNAL_FAILED" in report_journal("JOURNAL_FAILED")
    assert cluster.codes(agent.name).count("JOURNAL_FAILED") == 1
    assert "JOURNAL_FAILED" not in report_journal("")
    assert report.list_events(cluster.state)[1] == len(rows(cluster))
