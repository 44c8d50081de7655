"""Waiting for a command, and what is shown of it."""

from __future__ import annotations

import pytest

from tests.unit.state.cluster import Cluster
from tests.unit.state.commanding import answer, ask, end, joined, tell, view, wait
from tests.unit.state.hosts import cards, reboot
from vfio_contract.command import AnswerState, Order
from vfio_contract.errors import ErrorCode
from vfio_coordinator.state.command_waits import artifact_of
from vfio_coordinator.state.events import CommandAwaited


def test_a_look_has_its_end_once_the_state_holds_what_it_saw() -> None:
    cluster, one = joined()
    ask(cluster, Order.COLLECT)
    ticket = wait(cluster)
    cluster.observe(one, began_boottime_ms=4_000)
    tell(cluster, one, 1, end("collect", looked_at_ms=5_000))
    assert ticket not in cluster.replies, "that one began before it"
    assert not view(cluster).seen
    with pytest.raises(Exception, match="NO_ARTIFACT"):
        artifact_of(cluster.state, "00000001")
    cluster.observe(one, began_boottime_ms=5_000)
    assert cluster.replies[ticket].seen


def test_a_look_that_was_not_made_is_not_waited_for() -> None:
    cluster, one = joined()
    ask(cluster, Order.CHECK)
    ticket = wait(cluster)
    answer(cluster, one, AnswerState.REFUSED, code="COMMAND_STALE", text="old")
    assert cluster.replies[ticket].outcome == "refused"


def test_whoever_waits_too_long_gets_it_as_it_stands() -> None:
    cluster, _ = joined()
    ask(cluster)
    ticket = wait(cluster, 5.0)
    cluster.wait(4.0)
    assert ticket not in cluster.replies
    cluster.wait(1.0)
    assert cluster.replies[ticket].state == "sent"


@pytest.mark.parametrize("id", ["", "77"])
def test_a_command_that_is_not_kept_is_told_as_such(id: str) -> None:
    cluster, _ = joined()
    ask(cluster)
    ticket = cluster.ask_later(lambda t: CommandAwaited(ticket=t, id=id, wait_s=1.0))
    assert cluster.replies[ticket].code is ErrorCode.UNKNOWN_COMMAND


def test_a_prefix_names_a_command_where_it_fits_one() -> None:
    cluster, _ = joined()
    ask(cluster, Order.CHECK, 0x10)
    ask(cluster, Order.CHECK, 0x20)
    assert cluster.replies[wait(cluster, 0.0, 0x10)].id == "00000010"
    ticket = cluster.ask_later(lambda t: CommandAwaited(ticket=t, id="000000", wait_s=1.0))
    assert cluster.replies[ticket].code is ErrorCode.BAD_REQUEST


def test_a_node_shows_its_commands() -> None:
    cluster, one = joined()
    ask(cluster, Order.CHECK, 1)
    ask(cluster, Order.BIND, 2)
    assert [c.id for c in cluster.view("pve01").commands] == ["00000002", "00000001"]
    reboot(cluster, one, *cards(2))


def test_who_waits_is_told_when_another_coordinator_takes_over() -> None:
    cluster, one = joined()
    ask(cluster, Order.CHECK)
    ticket = wait(cluster, 15.0)
    other = Cluster(store=cluster.store)
    assert other.state.epoch > cluster.state.epoch
    answer(cluster, one, AnswerState.REFUSED, code="COMMAND_STALE", text="old")
    assert cluster.stepped_down
    assert cluster.replies[ticket].code is ErrorCode.SHUTTING_DOWN
