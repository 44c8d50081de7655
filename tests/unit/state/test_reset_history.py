"""The cluster's copy of a reset history: what it tells of a function, and what it outlives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.durable import moment
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.test_drift import moved
from vfio_contract.artifact import to_plain
from vfio_contract.durable import DurableEvent, ResetAttempted, Spooled
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.host import Host
from vfio_contract.ledger import KEPT_ATTEMPTS, VM_CYCLE, VM_START, Outcome, firmware_digest
from vfio_contract.ledger_views import DeviceHistory
from vfio_contract.model import ResetSummary
from vfio_contract.views import BaselineView
from vfio_coordinator.state.events import EventsReceived
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.reset_history import report_history

SPOOLS = ("a" * 32, "b" * 32)
GONE = "dsn-gone.0"
METHODS = ("flr", VM_START, VM_CYCLE)


@pytest.fixture
def agent() -> Agent:
    return Agent("pve01", snapshot(*cards(1)))


def card_of(agent: Agent) -> tuple[str, str]:
    """Address and identity of its first endpoint."""
    host = Host(agent.snapshot)
    address = next(f.address for f in host.functions if not f.is_bridge)
    return str(address), str(host.identities[address].identity)


def event(
    number: int,
    outcome: str = "success",
    *,
    identity: str = GONE,
    address: str = "0000:fe:00.0",
    **changes: str,
) -> Spooled:
    payload = ResetAttempted(
        key=f"k{number}",
        firmware="F10",
        method="flr",
        outcome=outcome,
        evidence=f"line {number}",
        place="",
        boot_id="boot-0",
        firmware_text="BIOS F10",
    )
    payload = replace(payload, **changes)  # type: ignore[arg-type]
    return Spooled(number, DurableEvent(moment(number), identity, address, payload))


def tell(cluster: Cluster, agent: Agent, *events: Spooled, spool: str = SPOOLS[0]) -> None:
    cluster.hello(agent, spool_id=spool)
    told = EventsReceived(
        node=agent.name, session=agent.session, spool_id=spool, events=tuple(events)
    )
    cluster.send(told)


def ask(cluster: Cluster, device: str) -> DeviceHistory:
    return report_history(cluster.state, "pve", device)


def make_cluster() -> Cluster:
    return Cluster(limits=Limits(events_per_s=1e6, events_burst=1e6))


def test_a_history_outlives_the_function_the_node_and_the_coordinator(agent: Agent) -> None:
    cluster = make_cluster()
    cluster.join(agent)
    tell(cluster, agent, event(1), event(2, "wedged"))
    before = ask(cluster, GONE)
    cluster.restart()
    after = ask(cluster, "fe:00.0")
    assert replace(after, state="", tuples=()) == replace(before, state="", tuples=())
    assert (after.identity, after.address, after.gone) == (GONE, "0000:fe:00.0", True)
    (one,) = after.tuples
    assert (one.text, one.present, one.attempts, one.failures) == ("BIOS F10", False, 2, 1)
    assert [row.boot_id for row in one.newest] == ["boot-0"] * 2, "the attempt's own"
    assert [row.address for row in one.newest] == ["0000:fe:00.0"] * 2
    assert before.state == "probation", "it was another boot"


def test_what_gates_is_what_the_agent_says(agent: Agent) -> None:
    cluster = make_cluster()
    address, identity = card_of(agent)
    told = ResetSummary(identity, "wedged", 2, 1, "wedged", "not ready")
    agent.snapshot = snapshot(*cards(1), ledger=(told,))
    cluster.join(agent)
    tell(
        cluster, agent, event(1, identity=identity, firmware=firmware_digest(agent.snapshot.facts))
    )
    cluster.observe(agent)
    found = ask(cluster, address)
    assert (found.identity, found.address, found.gone) == (identity, address, False)
    assert (found.state, found.tuples[0].state) == ("wedged", "capable")
    assert found.tuples[0].present
    (unit,) = [u for u in cluster.view("pve01").units if address in u.addresses]
    assert unit.reset == "wedged"
    # in the next boot the copy alone is no proof of either
    other = Agent("pve01", snapshot(*cards(1), boot=1))
    cluster.join(other)
    assert ask(cluster, identity).state == "probation"


@pytest.mark.parametrize("device", ["0000:fd:00.0", "dsn-nobody.0", "", "\x00"])
def test_of_what_nothing_is_known_nothing_is_told(agent: Agent, device: str) -> None:
    cluster = make_cluster()
    cluster.join(agent)
    with pytest.raises(ClusterError) as refused:
        ask(cluster, device)
    assert refused.value.code is ErrorCode.UNKNOWN_DEVICE
    with pytest.raises(ClusterError) as refused:
        report_history(cluster.state, "nobody", GONE)
    assert refused.value.code is ErrorCode.UNKNOWN_NODE


def test_a_function_that_moved_is_found_by_its_address_at_the_baseline(agent: Agent) -> None:
    cluster = make_cluster()
    cluster.join(agent)
    cluster.accept(BaselineView, "pve01")
    old, identity = card_of(agent)
    agent.snapshot = snapshot(*moved(*cards(1), by=3), boot=1)
    cluster.join(agent)
    new, same = card_of(agent)
    assert (new != old, same) == (True, identity)
    found = ask(cluster, old)
    assert (found.identity, found.address, found.gone) == (identity, new, False)


def test_what_was_told_while_it_answered_no_serial_number_is_its_own(agent: Agent) -> None:
    cluster = make_cluster()
    cluster.join(agent)
    place = "8086:10c9@00.1/00.0"
    tell(
        cluster,
        agent,
        event(1, place=place),
        event(2, "wedged", identity=place, place=place),
        event(3, identity="dsn-another.0", place="elsewhere"),
    )
    (one,) = ask(cluster, GONE).tuples
    assert [row.outcome for row in one.newest] == ["success", "wedged"]
    assert (one.attempts, one.failures) == (2, 1)


def test_an_agent_before_said_neither_boot_nor_firmware(agent: Agent) -> None:
    cluster = make_cluster()
    cluster.join(agent)
    tell(cluster, agent, event(1, boot_id="", firmware_text="", outcome="melted"))
    (one,) = ask(cluster, GONE).tuples
    (row,) = one.newest
    assert (one.text, row.boot_id, row.outcome) == ("", moment(1).boot_id, "unobserved")


@settings(max_examples=25)
@given(st.lists(st.sampled_from([o.value for o in Outcome]), min_size=1, max_size=70))
def test_two_journals_that_tell_the_same_count_it_once(outcomes: list[str]) -> None:
    """A journal that was lost and begun anew reads the same kernel lines again."""
    agent = Agent("pve01", snapshot(*cards(1)))
    cluster = make_cluster()
    cluster.join(agent)
    events = [event(n, outcome, method=METHODS[n % 3]) for n, outcome in enumerate(outcomes, 1)]
    tell(cluster, agent, *events)
    once = to_plain(ask(cluster, GONE))
    assert len(once["tuples"][0]["newest"]) == min(len(outcomes), KEPT_ATTEMPTS)
    kept = {row["evidence"] for row in once["tuples"][0]["newest"]}
    again = [
        row
        for row in events
        if isinstance(row.event.payload, ResetAttempted) and row.event.payload.evidence in kept
    ]
    again = [replace(row, seq=number) for number, row in enumerate(again, 1)]
    tell(cluster, agent, *again, spool=SPOOLS[1])
    tell(cluster, agent, *again, spool=SPOOLS[1])
    assert to_plain(ask(cluster, GONE)) == once
