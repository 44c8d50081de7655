"""A firmware update, boot by boot: the same machine, asked as one node of a cluster each time.

F10r only gives groups other numbers. F10a puts a switch ahead of everything: every bus moves and
the groups get other numbers, and no group gains a member. F11 does the same and drops the slots'
ACS, so that the network card and the disk share a group; and the graphics card has another BAR. The
coordinator must let the first back by itself, the second as soon as nobody names
an old address any more, and stop the third; and each kernel must show that it was right: with F11
the two cannot go to two VMs any more. Another node of the same make stays with F10: what is wrong
with the first one is an incident that names what only the first one has.

Length: one story of boots that build on each other; two modules would boot each of them twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import Cluster, serving
from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import Row
from vfio_contract.views import BaselineView, Decision, Event, NodeView, UnitView, VmView

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

NODE, PEER = "gpubox", "gpubox2"
MOVED = {
    "0000:01:00.0": "0000:04:00.0",
    "0000:02:00.0": "0000:05:00.0",
    "0000:03:00.0": "0000:06:00.0",
    "0000:03:00.1": "0000:06:00.1",
}
NIC, DISK, GPU = "0000:04:00.0", "0000:05:00.0", "0000:06:00.0"
OLD = tuple(old for old, now in MOVED.items() if now in (NIC, DISK))
HARMLESS = {"FIRMWARE_CHANGED", "DEVICE_MOVED", "GROUP_RENUMBERED"}
# A node's life without a cordon or a drain: those are events of other codes.
PEACEFUL = {
    *("COORDINATOR_STARTED", "NODE_JOINED", "NODE_IDENTIFIED", "NODE_BOOTED", "NODE_VALIDATED"),
    *("NODE_LOST", "NODE_RETURNED", "BASELINE_ACCEPTED"),
    # What a host tells of itself while its VMs and the guest's program work; when, is its own.
    *("HOLDER_CHANGED", "BINDING_CHANGED", "VM_STARTED", "VM_STOPPED"),
    *("RESET_ATTEMPT", "RESET_CLEAN"),
    *HARMLESS,
}
COLLECT_LIMIT_S = 150


@dataclass(frozen=True, slots=True)
class Life:
    """What was seen of the node in one boot.

    `decision` is about one more VM. `groups` are the kernel's numbers for the network card and the
    disk. `waiting` and `refused` are the node and the answer before its VM's configuration was
    edited. `disk` is what VFIO answered for the disk while a VM had the network card. `status` is
    the cluster's screen, `incidents` what it tells of each by its code, `events` its log so far.
    """

    view: NodeView
    evidence: Path
    decision: Decision
    events: tuple[Event, ...]
    groups: tuple[str, str]
    waiting: NodeView | None = None
    refused: Decision | None = None
    disk: str = ""
    vms: tuple[VmView, ...] = ()
    status: str = ""
    incidents: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("update") / "c", NODE, PEER) as found:
        yield found


@pytest.fixture(scope="module")
def f10(cluster: Cluster, boot: Boot) -> Life:
    """The machine as it is known to be good; its facts are accepted as the baseline. Its peer is
    seen once, and gone after that."""
    with boot(scenarios.UPDATE_F10) as guest, boot(scenarios.PEER) as other:
        cluster.join(guest, NODE)
        cluster.join(other, PEER)
        cluster.until_state(PEER, "ready")
        cluster.leave(other, PEER)
        evidence = collect(guest)
        cluster.until_state(NODE, "ready")
        assert isinstance(cluster.ask().accept_baseline(NODE), BaselineView)
        view = cluster.until_state(NODE, "ready")
        decision = cluster.place("train-9", "nic", node=NODE, dry_run=True)
        groups = groups_of(guest, *OLD)
        cluster.leave(guest, NODE)
    return Life(view, evidence, decision, events_of(cluster), groups)


@pytest.fixture(scope="module")
def f10r(cluster: Cluster, boot: Boot, f10: Life) -> Life:
    """After the update that only renumbers groups."""
    with boot(scenarios.UPDATE_F10R) as guest:
        cluster.join(guest, NODE)
        evidence = collect(guest)
        view = cluster.until_state(NODE, "ready")
        decision = cluster.place("train-9", "nic", node=NODE, dry_run=True)
        groups = groups_of(guest, *OLD)
        cluster.leave(guest, NODE)
    return Life(view, evidence, decision, events_of(cluster), groups)


@pytest.fixture(scope="module")
def f10a(cluster: Cluster, boot: Boot, f10r: Life) -> Life:
    """After the update that only moves things; a VM gets the network card there."""
    with boot(scenarios.UPDATE_F10A) as guest:
        cluster.join(guest, NODE)
        evidence = collect(guest)
        # its facts come before its findings: the reason to wait is there with both
        waiting = cluster.until(
            NODE,
            lambda view: any(reason.code == "VM_ADDRESS_STALE" for reason in view.reasons),
            what="waiting",
        )
        refused = cluster.place("train-9", "nic", node=NODE, dry_run=True)
        config = guest.call("host.read", path=scenarios.VM_CONFIG)
        edited = f"{config}\n".replace(OLD[0], NIC)
        assert guest.call("host.write", path=scenarios.VM_CONFIG, text=edited) == ""
        view = cluster.until_state(NODE, "ready")
        events = events_of(cluster)
        decision = cluster.place("train-9", "nic", node=NODE)
        groups = groups_of(guest, NIC, DISK)
        disk = try_the_disk(guest)
        cluster.leave(guest, NODE)
    return Life(view, evidence, decision, events, groups, waiting, refused, disk)


@pytest.fixture(scope="module")
def f11(cluster: Cluster, boot: Boot, f10a: Life) -> Life:
    """After the update that merges groups."""
    with boot(scenarios.UPDATE_F11) as guest:
        cluster.join(guest, NODE)
        evidence = collect(guest)
        view = cluster.until_state(NODE, "cordoned")
        decision = cluster.place("train-10", "gpu", node=NODE)
        vms, status = cluster.ask().list_vms(), cluster.vfioctl("status", "--cluster").text
        incidents = incidents_of(cluster)
        groups = groups_of(guest, NIC, DISK)
        disk = try_the_disk(guest)
        cluster.leave(guest, NODE)
    return Life(
        *(view, evidence, decision, events_of(cluster), groups),
        disk=disk,
        vms=vms,
        status=status,
        incidents=incidents,
    )


def events_of(cluster: Cluster) -> tuple[Event, ...]:
    """What was told of the node itself."""
    return tuple(event for event in cluster.events() if event.subject == f"node:{NODE}")


def incidents_of(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """`vfioctl incident show` of each of the node's, by code."""
    rows = json.loads(cluster.vfioctl("incident", "list", "-o", "json").out)["incidents"]
    shown = (
        json.loads(cluster.vfioctl("incident", "show", r["id"], "-o", "json").out) for r in rows
    )
    return {s["incident"]["code"]: s["incident"] for s in shown}


def collect(guest: Guest) -> Path:
    """`vfioctl collect` in the guest: its evidence as a document."""
    name = "evidence.json"
    done = guest.call(
        "host.vfioctl",
        arguments=["collect", "-o", f"{guest.out_inside}/{name}"],
        limit_s=COLLECT_LIMIT_S + 30,
        within_s=COLLECT_LIMIT_S,
    )
    assert done["status"] == 0, done
    return guest.out / name


def groups_of(guest: Guest, nic: str, disk: str) -> tuple[str, str]:
    """The kernel's group numbers of the two."""
    one, other = (str(guest.call("hotplug.group_of", address=a)) for a in (nic, disk))
    return one, other


def try_the_disk(guest: Guest) -> str:
    """Give the network card to a QEMU and ask for the disk: "opened", or where VFIO stopped."""
    got = guest.call("nested.start", name="train-9", addresses=[NIC])
    assert got["started"], got
    answer = guest.call("vfio.attempt", address=DISK)
    guest.call("nested.stop", name="train-9")
    return f"{answer['step']} {answer['errno']}".strip()


def diff(cluster: Cluster, before: Life, after: Life) -> tuple[int, list[dict[str, Any]]]:
    """`vfioctl diff` of two boots' evidence, on the host: exit code and changes."""
    answer = cluster.vfioctl("diff", str(before.evidence), str(after.evidence), "-o", "json")
    changes = json.loads(answer.text)["changes"]
    assert isinstance(changes, list)
    return answer.status, changes


def units_of(view: NodeView) -> dict[str, UnitView]:
    """Units by their identity."""
    return {unit.id: unit for unit in view.units}


def moves(changes: list[dict[str, Any]]) -> dict[str, str]:
    return {c["before"]: c["after"] for c in changes if c["code"] == "DEVICE_MOVED"}


# --- before --------------------------------------------------------------------------------------


def test_before_the_update_the_node_is_ready(f10: Life) -> None:
    assert f10.view.units_free == f10.view.units_total == 3
    assert f10.view.drift == ()
    assert f10.decision.placement is not None
    assert f10.decision.placement.units[0].assign == ("0000:01:00.0",)


# --- F10r: only renumbered -----------------------------------------------------------------------


def test_the_kernel_swapped_the_groups(f10: Life, f10r: Life) -> None:
    """Without it the next tests would prove nothing."""
    assert f10r.groups == f10.groups[::-1]


def test_diff_says_renumbered_and_nothing_else(cluster: Cluster, f10: Life, f10r: Life) -> None:
    status, changes = diff(cluster, f10, f10r)

    assert status == 1
    assert {c["code"] for c in changes} == {"FIRMWARE_CHANGED", "GROUP_RENUMBERED"}
    assert {c["address_after"] for c in changes if c["code"] == "GROUP_RENUMBERED"} == set(OLD)
    assert not any(c["harms"] for c in changes)


def test_a_renumbered_node_comes_back_by_itself(f10: Life, f10r: Life) -> None:
    drift = f10r.view.drift

    assert f10r.view.boot_id != f10.view.boot_id
    assert f10r.view.firmware == "F10r 02/03/2025"
    assert {c.code for c in drift} == {"FIRMWARE_CHANGED", "GROUP_RENUMBERED"}
    assert {c.address_after for c in drift if c.code == "GROUP_RENUMBERED"} == set(OLD)
    assert not any(c.harms for c in drift)
    # To placement nothing changed: the same units, as free as before.
    assert units_of(f10r.view) == units_of(f10.view)
    assert_never_cordoned(f10r, boots=2)


def test_a_vm_gets_the_same_device_as_before(f10: Life, f10r: Life) -> None:
    assert f10.decision.placement is not None
    assert f10r.decision.placement is not None
    (before,), (now,) = f10.decision.placement.units, f10r.decision.placement.units
    assert (now.unit, now.assign) == (before.unit, before.assign)


def assert_never_cordoned(life: Life, *, boots: int) -> None:
    """Each boot was let in, and there was nothing that would have had to be lifted."""
    codes = [event.code for event in life.events]
    assert codes.count("NODE_VALIDATED") == boots
    assert set(codes) <= PEACEFUL


# --- F10a: only moved ----------------------------------------------------------------------------


def test_diff_says_moved_and_which_line_to_edit(cluster: Cluster, f10: Life, f10a: Life) -> None:
    answer = cluster.vfioctl("diff", str(f10.evidence), str(f10a.evidence))
    status, changes = diff(cluster, f10, f10a)

    # The line that is to be edited makes it a failure; nothing was taken from the devices.
    assert (answer.status, status) == (2, 2)
    assert f"{scenarios.VM_CONFIG}:3" in answer.text
    assert "hostpci0: 0000:01:00.0 -> 0000:04:00.0" in answer.text
    assert moves(changes) == MOVED
    assert {c["code"] for c in changes} <= HARMLESS
    assert not any(c["harms"] for c in changes)


def test_a_moved_node_waits_while_a_vm_names_an_old_address(f10a: Life) -> None:
    """Where the card was there is the switch now: a start would take the wrong thing, or none."""
    assert f10a.waiting is not None
    assert f10a.refused is not None
    (line,) = f10a.waiting.stale

    assert f10a.waiting.state == "revalidating"
    assert (line.code, line.owner, line.file) == (
        "VM_ADDRESS_STALE",
        "vm 101",
        scenarios.VM_CONFIG,
    )
    assert line.edit == "hostpci0: 0000:01:00.0 -> 0000:04:00.0"
    assert line.means_now == "a bridge is at 0000:01:00.0 now"
    assert any(line.edit in reason.text for reason in f10a.waiting.reasons)
    assert f10a.refused.placement is None


def test_a_moved_node_comes_back_once_the_line_is_edited(f10: Life, f10a: Life) -> None:
    drift = f10a.view.drift
    before, after = units_of(f10.view), units_of(f10a.view)

    assert f10a.view.boot_id != f10.view.boot_id
    # The same devices at other addresses.
    assert {unit: tuple(MOVED.get(a, a) for a in before[unit].addresses) for unit in before} == {
        unit: after[unit].addresses for unit in before
    }
    assert f10a.view.firmware == "F10a 03/04/2025"
    assert {c.code for c in drift} == HARMLESS
    assert {c.before: c.after for c in drift if c.code == "DEVICE_MOVED"} == MOVED
    assert not any(c.harms for c in drift)
    assert f10a.view.stale == ()
    assert {reason.owner for reason in f10a.view.reasons} <= {f"auto:{code}" for code in HARMLESS}
    assert_never_cordoned(f10a, boots=3)


def test_what_is_placed_after_the_move_starts_at_the_new_address(
    f10a: Life, table: list[Row]
) -> None:
    table.append(Row(scenarios.UPDATE_F10A.name, "NIC held", DISK, "open", "opened", f10a.disk))

    assert f10a.decision.placement is not None
    assert f10a.decision.placement.units[0].assign == (NIC,)
    # Two groups: the disk is free for another VM.
    assert f10a.disk == "opened"


# --- F11: widened --------------------------------------------------------------------------------


def test_diff_says_moved_and_merged(cluster: Cluster, f10: Life, f11: Life) -> None:
    status, changes = diff(cluster, f10, f11)
    widened = [c for c in changes if c["code"] == "GROUP_WIDENED"]

    assert status == 2
    assert moves(changes) == MOVED
    assert {(c["address_after"], c["detail"]) for c in widened} == {
        (NIC, "merged"),
        (DISK, "merged"),
    }
    assert {c["code"] for c in changes if c["harms"]} == {"GROUP_WIDENED"}


def test_diff_names_the_bar_of_another_size(cluster: Cluster, f10: Life, f11: Life) -> None:
    (change,) = [c for c in diff(cluster, f10, f11)[1] if c["code"] == "BAR_CHANGED"]

    assert change["address_after"] == GPU
    assert (change["before"], change["after"]) == ("BAR 0: 16 MiB", "BAR 0: 32 MiB")
    assert not change["harms"]


def test_diff_of_the_two_updates_says_merged_alone(cluster: Cluster, f10a: Life, f11: Life) -> None:
    status, changes = diff(cluster, f10a, f11)

    assert status == 2
    assert moves(changes) == {}
    assert {c["code"] for c in changes if c["harms"]} >= {"GROUP_WIDENED"}


def test_a_widened_group_cordons_the_node(f11: Life) -> None:
    (cordon,) = [r for r in f11.view.reasons if r.owner == "auto:GROUP_WIDENED"]
    widened = [c for c in f11.view.drift if c.code == "GROUP_WIDENED"]
    (vm,) = f11.vms

    # What tells a cordon from a node that was let in.
    assert {event.code for event in f11.events} - PEACEFUL == {"GROUP_WIDENED", "BAR_CHANGED"}
    assert "merged" in cordon.text
    assert NIC in cordon.text
    assert DISK in cordon.text
    assert "affects train-9" in cordon.text
    assert {(c.address_after, c.detail) for c in widened} == {(NIC, "merged"), (DISK, "merged")}
    assert vm.name == "train-9"
    assert vm.at_risk.startswith("GROUP_WIDENED")
    assert "GROUP_WIDENED" in f11.status
    assert "train-9" in f11.status


def test_it_is_an_incident_whose_factor_the_peer_does_not_have(f11: Life) -> None:
    incident = f11.incidents["GROUP_WIDENED"]
    factor = incident["factors"][0]

    assert (incident["state"], incident["first_node"]) == ("open", NODE)
    assert [member["node"] for member in incident["members"]] == [NODE]
    assert incident["members"][0]["vms"] == ["101", "train-9"], "101 has a line to edit"
    assert "VM_ADDRESS_STALE" not in f11.incidents
    assert factor["part"] == "BIOS"
    assert (factor["before"], factor["after"]) == ("F10 01/02/2025", "F11 06/07/2025")
    assert (incident["waiting"], incident["unaffected"]) == ([PEER], [])
    assert incident["id"] in f11.status


def test_each_line_to_edit_is_named(f11: Life) -> None:
    edits = {line.file: line for line in f11.view.stale}

    assert edits[scenarios.VM_CONFIG].edit == "hostpci0: 0000:01:00.0 -> 0000:04:00.0"
    mapping = edits[scenarios.MAPPINGS]
    assert (mapping.code, mapping.line) == ("MAPPING_STALE", 2)
    assert "path=0000:02:00.0 -> 0000:05:00.0" in mapping.edit
    assert f"iommugroup=11 -> {f11.groups[1]}" in mapping.edit


def test_no_vm_is_placed_on_the_cordoned_node(f11: Life) -> None:
    refusal = f11.decision.refusal

    assert refusal is not None
    assert [stage.stage for stage in refusal.stages] == ["admitted"]
    assert "GROUP_WIDENED" in refusal.stages[0].why


def test_the_kernel_agrees_that_isolation_is_lost(f11: Life, table: list[Row]) -> None:
    """One group, one VM: who has the network card has the disk's group."""
    table.append(Row(scenarios.UPDATE_F11.name, "NIC held", DISK, "open", "group EBUSY", f11.disk))

    assert f11.disk == "group EBUSY"
