"""What is asked of a node: durable before it leaves, to the right host, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.commanding import (
    CARD,
    STARTED_MS,
    ask,
    ask_later,
    end,
    hello,
    joined,
    record,
    refusal,
    sent,
    tell,
)
from tests.unit.state.hosts import agent, cards
from vfio_contract.codes import HOSTD_AWAY
from vfio_contract.command import ACTS, SENDING_S, Order
from vfio_contract.durable import JournalStatus
from vfio_contract.errors import ErrorCode
from vfio_contract.views import Decision
from vfio_coordinator.state import report
from vfio_coordinator.state.command_waits import command_views
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.presence import AWAY


def test_a_command_leaves_after_its_commit_and_not_before() -> None:
    cluster, one = joined()
    cluster.held = True
    before = len(cluster.effects)
    ticket = ask_later(cluster)
    assert sent(cluster.effects[before:]) == []
    assert ticket not in cluster.replies
    cluster.settle_store()
    (word,) = sent(cluster.effects[before:])
    assert word.session == one.session
    command, kept = word.command, record(cluster)
    state = cluster.state
    assert (command.cluster_id, command.incarnation, command.epoch) == (
        *(state.cluster_id, state.incarnation, state.epoch),
    )
    assert (command.product_uuid, command.boot_id) == ("uuid-pve01", one.boot_id)
    assert (command.agent_state_id, command.node) == ("state-pve01", "pve01")
    assert (command.verb, command.address, command.sequence) == ("bind", CARD, kept.sequence)
    assert (kept.by, kept.outcome) == ("ann", "")
    assert cluster.replies[ticket].state == "sent"
    (row,) = [r for r in report.list_events(state)[0] if r.code == "COMMAND_SENT"]
    assert (row.actor, row.subject) == ("user:ann", "node:pve01")
    assert CARD in row.text
    assert kept.id in row.text


def test_the_deadline_is_in_the_agents_own_clock() -> None:
    cluster, _ = joined()
    cluster.wait(7.0)
    cluster.send(_heartbeat(cluster))
    ask(cluster)
    assert record(cluster).deadline_boottime_ms == STARTED_MS + int((7.0 + SENDING_S) * 1000)


def _heartbeat(cluster: Cluster) -> Any:
    from vfio_coordinator.state.events import Heartbeat

    node = cluster.state.nodes["pve01"]
    assert node.session is not None
    return Heartbeat(node.name, node.session.id)


def test_what_acts_carries_the_unit_as_it_was_seen() -> None:
    cluster, one = joined()
    ask(cluster)
    (word,) = sent(cluster.effects)
    unit = word.command.unit
    assert unit is not None
    (found,) = [u for u in _host(one).units if CARD in u.addresses]
    assert (unit.keys, unit.assign, unit.hold) == (found.keys, found.assign, found.hold)


def _host(one: Agent) -> Any:
    from vfio_contract.host import Host

    return Host(one.snapshot)


@pytest.mark.parametrize("verb", [Order.RESCAN, Order.CHECK, Order.COLLECT])
def test_a_look_is_about_no_function(verb: Order) -> None:
    cluster, _ = joined()
    ask(cluster, verb)
    (word,) = sent(cluster.effects)
    assert (word.command.verb, word.command.address, word.command.unit) == (verb, "", None)


def test_a_silent_node_is_told_as_such() -> None:
    cluster, one = joined()
    cluster.close(one)
    found = refusal(cluster)
    assert found.code is ErrorCode.NODE_UNHEARD
    assert "last 0s ago" in found.detail
    hello(cluster, one)
    cluster.wait(cluster.limits.lost_after_s + 1)
    assert refusal(cluster).code is ErrorCode.NODE_UNHEARD


@pytest.mark.parametrize("verb", list(Order))
def test_of_a_host_that_nobody_looks_at_nothing_is_asked(verb: Order) -> None:
    cluster, one = joined()
    cluster.say_journal(one, JournalStatus(HOSTD_AWAY.name, "away"))
    found = refusal(cluster, verb)
    assert found.code is ErrorCode.HOSTD_AWAY
    assert AWAY in found.detail
    cluster.say_journal(one, JournalStatus())
    assert ask(cluster, verb).state == "sent"


def test_an_agent_that_takes_no_commands_is_told_as_such() -> None:
    cluster, _ = joined(commands=0)
    found = refusal(cluster)
    assert (found.code, "0.1.0" in found.detail) == (ErrorCode.AGENT_TOO_OLD, True)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"node": "pve09"}, ErrorCode.UNKNOWN_NODE),
        ({"verb": "drain"}, ErrorCode.BAD_REQUEST),
        ({"verb": ""}, ErrorCode.BAD_REQUEST),
        ({"address": "nonsense"}, ErrorCode.BAD_REQUEST),
        ({"address": ""}, ErrorCode.BAD_REQUEST),
        ({"address": "0000:77:00.0"}, ErrorCode.UNKNOWN_DEVICE),
    ],
)
def test_what_cannot_be_asked(changes: dict[str, str], code: ErrorCode) -> None:
    cluster, _ = joined()
    verb = changes.pop("verb", Order.BIND.value)
    assert refusal(cluster, verb, **changes).code is code


def test_before_its_inventory_nothing_acts_on_a_node() -> None:
    cluster, one = Cluster(), agent("pve01", *cards(2))
    hello(cluster, one)
    assert refusal(cluster).code is ErrorCode.NO_INVENTORY
    assert ask(cluster, Order.CHECK).state == "sent"


def test_one_at_a_time_acts_on_a_node_and_looks_go_beside_it() -> None:
    cluster, one = joined()
    cluster.held = True
    ask_later(cluster)
    second = cluster.replies[ask_later(cluster, Order.UNBIND, 2)]
    assert second.code is ErrorCode.NODE_BUSY, "while the first is being written"
    cluster.held = False
    cluster.settle_store()
    found = refusal_of(cluster, Order.RESET_TEST, 3)
    assert (found.code, "bind 0000:01:00.0 of ann" in found.detail) == (ErrorCode.NODE_BUSY, True)
    assert ask(cluster, Order.CHECK, 4).state == "sent"
    tell(cluster, one, 1, end())
    assert ask(cluster, Order.UNBIND, 5).state == "sent"
    numbers = [word.command.sequence for word in sent(cluster.effects)]
    assert numbers == sorted(set(numbers))


def refusal_of(cluster: Cluster, verb: str, number: int) -> Failure:
    found = cluster.replies[ask_later(cluster, verb, number)]
    assert isinstance(found, Failure)
    return found


def test_what_a_vm_holds_is_not_acted_on() -> None:
    cluster, _ = joined()
    placed = cluster.place(Decision, ask_for("vm1")).placement
    assert placed is not None
    (card,) = placed.units[0].assign
    for number, verb in enumerate(sorted(ACTS), 1):
        found = cluster.replies[ask_later(cluster, verb, number, address=card)]
        assert (found.code, "VM vm1" in found.detail) == (ErrorCode.DEVICE_CLAIMED, True)
    assert command_views(cluster.state, "") == ()
    other = "0000:01:00.0" if card != CARD else "0000:02:00.0"
    assert ask(cluster, Order.UNBIND, 9, address=other).state == "sent"


def test_another_unit_than_the_asker_saw_is_not_acted_on() -> None:
    cluster, one = joined()
    (seen,) = [unit for unit in _host(one).units if CARD in unit.addresses]
    found = refusal(cluster, Order.BIND, unit="nic-00000000")
    assert (found.code, seen.id in found.detail) == (ErrorCode.UNKNOWN_DEVICE, True)
    assert ask(cluster, unit=seen.id).state == "sent"


def test_looks_leave_a_place_for_what_acts() -> None:
    cluster, _ = joined(Limits(looks_open=3))
    for number in range(1, 4):
        ask(cluster, Order.CHECK, number)
    assert ask(cluster, Order.BIND, 4).state == "sent"


def test_open_looks_of_a_node_are_bounded() -> None:
    cluster, _ = joined(Limits(looks_open=3))
    for number in range(1, 4):
        ask(cluster, Order.CHECK, number)
    assert refusal_of(cluster, Order.CHECK, 4).code is ErrorCode.NODE_BUSY


def test_a_restored_store_numbers_above_all_that_was_sent() -> None:
    cluster, _ = joined()
    ask(cluster)
    first = record(cluster).sequence
    cluster.state = replace(cluster.state, incarnation=cluster.state.incarnation + 1)
    ask(cluster, Order.CHECK, 2)
    assert record(cluster, 2).sequence > first + 1_000_000
