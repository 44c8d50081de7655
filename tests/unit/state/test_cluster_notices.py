"""What puts the cluster itself in doubt is told, once, and again until somebody took it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.state.cluster import Agent
from tests.unit.state.test_mutes import Wall
from tests.unit.state.troubles import Fleet, host
from vfio_coordinator.clock import SteadyClock
from vfio_coordinator.state.cluster_notices import TOLD
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import NotifyEnded, Tick
from vfio_coordinator.state.mutes import NEVER_MUTED
from vfio_coordinator.state.reducer import apply


def cloned() -> Fleet:
    fleet = Fleet("pve01")
    twin = Agent("pve01", host())
    fleet.hello(twin, product_uuid="uuid-of-another", agent_state_id="another-state")
    fleet.wait(1)
    return fleet


def told(fleet: Fleet, code: str) -> list[Notify]:
    return [notice for notice in fleet.told if notice.incident.code == code]


def test_a_second_host_under_one_name_is_told_once() -> None:
    fleet = cloned()
    fleet.wait(1)
    (notice,) = told(fleet, "NODE_CLONED")
    view = notice.incident
    assert (view.id, view.level, view.first_node, notice.reason) == ("", "ERR", "pve01", "began")
    assert "said this name" in view.text
    assert view.next == "vfioctl node show pve01"
    assert fleet.open() == []


def test_a_store_that_lost_what_it_knew_is_told() -> None:
    fleet = Fleet("pve01", "pve02")
    one = fleet.agents["pve01"]
    fleet.hello(one, cluster_id=fleet.state.cluster_id, highest_incarnation=7, highest_epoch=1)
    fleet.wait(1)
    (notice,) = told(fleet, "STORE_REWOUND")
    assert (notice.incident.level, notice.incident.nodes) == ("ERR", 0)


def test_a_clock_that_is_not_believed_is_told() -> None:
    fleet = Fleet("pve01")
    clock = SteadyClock(Wall(fleet))
    clock.now()
    fleet.set_wall("2027-06-01T00:00:00Z")
    _, effects = apply(fleet.state, Tick(), clock.now())
    codes = [e.incident.code for e in effects if isinstance(e, Notify)]
    assert codes == ["CLOCK_JUMP"]


@pytest.mark.parametrize("ok", [True, False])
def test_what_nobody_took_comes_again_under_the_same_stamp(ok: bool) -> None:
    fleet = cloned()
    (first,) = told(fleet, "NODE_CLONED")
    fleet.send(NotifyEnded(incident="", stamp=first.stamp, ok=ok, detail="" if ok else "refused"))
    fleet.state = replace(fleet.state, limits=replace(fleet.limits, clone_shown_s=7_200.0))
    fleet.wait(500)
    assert len(told(fleet, "NODE_CLONED")) == 1
    fleet.wait(101)
    stamps = [notice.stamp for notice in told(fleet, "NODE_CLONED")]
    assert stamps == [first.stamp] * (1 if ok else 2)


def test_what_was_gone_for_a_while_is_told_anew() -> None:
    fleet = cloned()
    fleet.deliver()
    fleet.wait(fleet.limits.clone_shown_s + 1)
    assert fleet.state.alarms
    fleet.wait(1_801)
    assert not fleet.state.alarms
    fleet.hello(
        Agent("pve01", host()), product_uuid="uuid-of-another", agent_state_id="another-state"
    )
    fleet.wait(1)
    first, second = told(fleet, "NODE_CLONED")
    assert first.stamp != second.stamp


def test_what_is_told_so_can_be_muted_by_nobody() -> None:
    assert TOLD <= NEVER_MUTED
