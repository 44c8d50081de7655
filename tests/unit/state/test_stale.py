"""Lines of a host's own VMs that name another device now, and drift that waits for a person."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.vms import make_device, make_mapping, make_vm
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.test_drift import moved
from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.model import Bar, PciFunction
from vfio_contract.views import BaselineView, NodeView
from vfio_coordinator.state import report

VMS = (make_vm(make_device("0000:01:00.0", line=4)),)


def join(*functions: PciFunction, **changes: object) -> tuple[Cluster, Agent]:
    cluster = Cluster()
    one = Agent("pve01", snapshot(*functions, **changes))  # type: ignore[arg-type]
    cluster.join(one)
    cluster.accept(BaselineView, "pve01", force=True, reason="as it is")
    return cluster, one


def reboot(cluster: Cluster, one: Agent, *functions: PciFunction, **changes: object) -> NodeView:
    boot = int(one.boot_id[0])
    one.snapshot = snapshot(*functions, boot=boot, **changes)  # type: ignore[arg-type]
    cluster.join(one)
    return cluster.view("pve01")


def test_a_moved_device_that_a_vm_names_holds_the_node_until_the_edit() -> None:
    cluster, one = join(*cards(2), vms=VMS)
    view = reboot(cluster, one, *moved(*cards(2), by=3), vms=VMS)
    assert view.state == "revalidating"
    (reason,) = [r for r in view.reasons if r.code == "VM_ADDRESS_STALE"]
    assert "101.conf:4: hostpci0: 0000:01:00.0 -> 0000:04:00.0" in reason.text
    assert [s.edit for s in view.stale] == ["hostpci0: 0000:01:00.0 -> 0000:04:00.0"]
    items = {i.code: i.level for i in report.status(cluster.state, cluster.now).items}
    assert items["VM_ADDRESS_STALE"] == "ERR"
    edited = (make_vm(make_device("0000:04:00.0", line=4)),)
    view = reboot(cluster, one, *moved(*cards(2), by=3), vms=edited)
    assert (view.state, view.stale) == ("ready", ())


def test_it_is_found_again_after_a_restart() -> None:
    cluster, one = join(*cards(2), vms=VMS)
    reboot(cluster, one, *moved(*cards(2), by=3), vms=VMS)
    cluster.restart()
    cluster.join(one)
    view = cluster.view("pve01")
    assert (view.state, len(view.stale)) == ("revalidating", 1)


def test_a_renumbered_group_that_a_mapping_names_holds_it_too() -> None:
    mappings = (make_mapping("gpu", "0000:01:00.0", group=1),)
    cluster, one = join(*cards(2), mappings=mappings)
    rows = tuple(replace(f, group=(f.group or 0) + 7) for f in cards(2))
    view = reboot(cluster, one, *rows, mappings=mappings)
    assert view.state == "revalidating"
    assert [r.code for r in view.reasons if r.code == "MAPPING_STALE"]
    assert view.stale[0].edit == "iommugroup=1 -> 8"


def test_a_vm_that_was_written_after_the_move_is_listed_and_may_be_accepted() -> None:
    """Its address was another card's at the baseline: nobody but a person knows what it means."""
    cluster, one = join(*cards(2), vms=VMS)
    written = make_vm(make_device("0000:02:00.0", line=7), name="105")
    edited = make_vm(make_device("0000:02:00.0", line=4))
    swapped = moved(*cards(2), by=1)
    view = reboot(cluster, one, *swapped, vms=(edited, written))
    assert view.state == "revalidating"
    assert [(s.owner, s.line, s.newer) for s in view.stale] == [("vm 105", 7, True)]
    (reason,) = [r for r in view.reasons if r.code == "VM_ADDRESS_STALE"]
    assert "or where a line is right vfioctl baseline accept pve01 --force" in reason.text
    (problem,) = cluster.accept(BaselineRefusal, "pve01").problems
    assert "unless it means what is there now" in problem.next
    cluster.accept(BaselineView, "pve01", force=True, reason="105 is new")
    view = cluster.view("pve01")
    assert (view.state, view.stale) == ("ready", ())


@pytest.mark.parametrize("accepted", [False, True])
def test_a_line_of_some_acceptance_is_not_newer_than_all(accepted: bool) -> None:
    cluster, one = join(*cards(2), vms=())
    reboot(cluster, one, *cards(2), vms=VMS, bios="F11")
    if accepted:
        cluster.accept(BaselineView, "pve01")
    view = reboot(cluster, one, *moved(*cards(2), by=3), vms=VMS)
    assert [(s.owner, s.newer) for s in view.stale] == [("vm 101", not accepted)]


BARS = (Bar(0, 0xE0000000, 1 << 20, 0x200),)


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("BAR_CHANGED", {"bars": BARS}, {"bars": (replace(BARS[0], size_bytes=1 << 16),)}),
        ("LINK_DEGRADED", {"max_link_width": 8}, {"max_link_width": 1}),
        (
            "VF_COUNT_CHANGED",
            {"sriov_total_vfs": 7, "sriov_num_vfs": 0},
            {"sriov_total_vfs": 0, "sriov_num_vfs": 0},
        ),
    ],
)
def test_what_waits_for_a_person(
    code: str, before: dict[str, object], after: dict[str, object]
) -> None:
    def rows(changes: dict[str, object]) -> tuple[PciFunction, ...]:
        return tuple(
            replace(f, **changes) if f.address == "0000:01:00.0" else f  # type: ignore[arg-type]
            for f in cards(2)
        )

    cluster, one = join(*rows(before), vms=VMS)
    view = reboot(cluster, one, *rows(after), vms=VMS)
    assert view.state == "revalidating", view.reasons
    (reason,) = [r for r in view.reasons if r.code == code]
    assert "affects 101" in reason.text
    (change,) = [d for d in view.drift if d.code == code]
    assert (len(change.units), change.vms) == (1, ("101",))
    cluster.accept(BaselineView, "pve01")
    assert cluster.view("pve01").state == "ready"


def test_a_better_link_is_a_flag_and_the_node_returns() -> None:
    slow = tuple(replace(f, max_link_width=1) if not f.is_bridge else f for f in cards(2))
    cluster, one = join(*slow)
    view = reboot(cluster, one, *cards(2))
    assert view.state == "ready"
    assert {r.code for r in view.reasons} == {"LINK_IMPROVED"}
