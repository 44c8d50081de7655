"""Where VMs would go if a version failed: placed again, dry, each on units of its own."""

from __future__ import annotations

from typing import Any

from tests.unit.state.cluster import Cluster
from tests.unit.state.hosts import cards
from tests.unit.state.versions import ask, fleet, host, place, widened
from vfio_contract.forecast_views import ForecastMove, ForecastView
from vfio_contract.views import VmView


def move(view: ForecastView, vm: str) -> ForecastMove:
    (found,) = [row for row in view.moves if row.vm == vm]
    return found


def bad_fleet(**hosts: Any) -> Cluster:
    """F11 is known bad of the board: `first` shows it. The others run F10."""
    cluster, agents = fleet(first=host(), **hosts)
    widened(cluster, agents["first"])
    return cluster


def test_vms_of_known_bad_nodes_are_placed_again_each_on_units_of_its_own() -> None:
    cluster = bad_fleet(pve01=host(), pve02=host(), epyc01=host(bios="F11", board="H12SSL"))
    place(cluster, "vm1", "pve01")
    place(cluster, "vm2", "pve02", "nic=2")
    place(cluster, "vm3", "pve01")
    view = ask(cluster, bios="F11")
    assert [(m.vm, m.node, m.outcome, m.to) for m in view.moves] == [
        ("vm1", "pve01", "bad", "epyc01"),
        ("vm3", "pve01", "bad", "epyc01"),
        ("vm2", "pve02", "bad", ""),
    ]
    assert move(view, "vm2").why == "2 nodes refuse: admitted 1, free 1"
    counts = [(stage.stage, stage.nodes) for stage in move(view, "vm2").stages]
    assert counts == [("admitted", 1), ("free", 1)]
    assert (view.untried, view.nodes[0].vms) == (0, ("vm1", "vm3"))


def test_a_home_holds_no_more_than_it_has() -> None:
    cluster = bad_fleet(pve01=host(), pve02=host(), epyc01=host(bios="F11", board="H12SSL"))
    for vm, on in (("vm1", "pve01"), ("vm2", "pve01"), ("vm3", "pve02")):
        place(cluster, vm, on)
    moves = ask(cluster, bios="F11").moves
    assert [(m.vm, m.to) for m in moves] == [("vm1", "epyc01"), ("vm2", "epyc01"), ("vm3", "")]


def test_nodes_that_may_fail_too_are_no_home() -> None:
    """pve02 has room and would get the same BIOS; pve09 is not asked about and keeps its own."""
    cluster = bad_fleet(pve01=host(), pve02=host(), pve09=host())
    place(cluster, "vm1", "pve01")
    assert move(ask(cluster, bios="F11"), "vm1").to == ""
    assert move(ask(cluster, "pve01", "pve02", bios="F11"), "vm1").to == "pve09"


def test_vms_of_unknown_nodes_come_after_and_say_so() -> None:
    cluster = bad_fleet(
        pve02=host(), epyc01=host(board="H12SSL"), spare=host(*cards(1), board="Z9", bios="F11")
    )
    place(cluster, "at-risk", "epyc01")
    place(cluster, "loses", "pve02")
    view = ask(cluster, "pve02", "epyc01", bios="F11")
    assert [(m.vm, m.outcome, m.to) for m in view.moves] == [
        ("loses", "bad", "spare"),
        ("at-risk", "unknown", ""),
    ]


def test_the_original_request_decides_where_a_vm_fits() -> None:
    cluster = bad_fleet(pve01=host(), epyc01=host(bios="F11", board="H12SSL"))
    place(cluster, "pinned", "pve01", "nic", node="pve01")
    place(cluster, "picky", "pve01", "nic", same_numa=True)
    view = ask(cluster, bios="F11")
    assert (move(view, "pinned").to, move(view, "pinned").why) == ("", "its request names pve01")
    assert move(view, "picky").to == "epyc01"


def test_a_vm_that_left_is_not_asked_for_a_home() -> None:
    cluster = bad_fleet(pve01=host())
    place(cluster, "vm1", "pve01")
    cluster.release(VmView, "vm1")
    assert ask(cluster, bios="F11").moves == ()
