"""Copies of one machine with one name and one DMI UUID: told, refused, and nobody is locked out."""

from __future__ import annotations

import pytest

from tests.unit.state.cluster import Agent, CloseSession, Cluster, RefuseSession
from tests.unit.state.hosts import BOOTS, agent, cards, snapshot
from vfio_contract.errors import ErrorCode
from vfio_coordinator.state import report
from vfio_coordinator.state.effects import Effect
from vfio_coordinator.state.events import Heartbeat


def copies(cluster: Cluster) -> tuple[Agent, Agent]:
    """Two machines with one name, one DMI UUID and one agent database; the first has joined."""
    first = agent("pve01", boot=0)
    second = agent("pve01", boot=1)
    cluster.join(first)
    return first, second


def refusals(effects: list[Effect]) -> list[ErrorCode]:
    return [e.code for e in effects if isinstance(e, RefuseSession)]


def test_copies_with_one_uuid_do_not_take_turns_for_ever() -> None:
    cluster = Cluster()
    first, second = copies(cluster)
    # The second one's first word could be the first one's reboot.
    effects = cluster.hello(second)
    assert [e for e in effects if isinstance(e, CloseSession)]
    kept = second.session
    for _ in range(3):
        cluster.send(Heartbeat("pve01", kept))
        assert refusals(cluster.hello(first)) == [ErrorCode.NODE_CLONED]
        cluster.wait(3)
    session = cluster.state.nodes["pve01"].session
    assert session is not None
    assert session.id == kept
    assert cluster.codes("pve01").count("NODE_CLONED") == 1
    shown = report.status(cluster.state, cluster.now)
    assert shown.items[0].code == "NODE_CLONED"
    assert f"its earlier boot {BOOTS[0]}" in shown.items[0].text


def test_a_copy_gets_in_once_the_other_is_gone_or_silent() -> None:
    for gone in (True, False):
        cluster = Cluster()
        first, second = copies(cluster)
        cluster.hello(second)
        if gone:
            cluster.close(second)
        else:
            cluster.wait(cluster.limits.lost_after_s + 1)
        assert refusals(cluster.hello(first)) == []
        # and now it is the other one whose boot was left
        assert refusals(cluster.hello(second)) == [ErrorCode.NODE_CLONED]


def test_a_second_agent_of_the_same_boot_is_refused_while_the_first_is_heard() -> None:
    cluster = Cluster()
    first = agent("pve01")
    cluster.join(first)
    other = agent("pve01")
    assert refusals(cluster.hello(other, agent_state_id="another")) == [ErrorCode.NODE_CLONED]
    # the same agent again: its stream broke and nobody has noticed yet
    assert refusals(cluster.hello(first)) == []
    cluster.close(first)
    assert refusals(cluster.hello(other, agent_state_id="another")) == []


@pytest.mark.parametrize("closed", [True, False])
def test_neither_a_reboot_nor_a_reinstalled_agent_is_locked_out(closed: bool) -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    for boot in range(1, 8):
        if closed:
            cluster.close(one)
        one.snapshot = snapshot(*cards(2), boot=boot)
        assert refusals(cluster.hello(one, agent_state_id=f"reinstalled-{boot}")) == []
        cluster.send(Heartbeat("pve01", one.session))
    assert "NODE_CLONED" not in cluster.codes("pve01")


def test_a_boot_that_is_not_known_proves_nothing() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one, boot_id="")
    assert refusals(cluster.hello(one, boot_id="", agent_state_id="another")) == []
    assert refusals(cluster.hello(one)) == []
    assert refusals(cluster.hello(one, boot_id="")) == []
