"""Baselines, drift, automatic cordons and how they end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import FULL_ACS, config_space, nic, nvme, unread
from tests.unit.state.cluster import Cluster, ask_for
from tests.unit.state.hosts import accepted, agent, cards, owners, reboot, snapshot
from vfio_contract.artifact import decode, encode
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.model import Acs, PciFunction
from vfio_contract.views import BaselineView, Decision, NodeView, Reason, VmView
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import BaselineAcceptRequested, CordonRequested
from vfio_coordinator.state.records import AdminRecord, Cordon
from vfio_coordinator.store.interface import Put, Txn


def moved(*functions: PciFunction, by: int) -> tuple[PciFunction, ...]:
    """The same cards in the same slots, on other bus numbers."""
    rows = []
    for f in functions:
        if f.parent:
            bus = int(f.address[5:7], 16) + by
            rows.append(replace(f, address=f"0000:{bus:02x}:{f.address[8:]}"))  # type: ignore[arg-type]
        else:
            rows.append(f)
    return tuple(rows)


def test_a_baseline_needs_fresh_evidence() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one)
    assert cluster.accept(Failure, "pve01").code is ErrorCode.NO_INVENTORY
    assert cluster.accept(Failure, "nobody").code is ErrorCode.UNKNOWN_NODE
    cluster.inventory(one)
    cluster.observe(one)
    view = cluster.accept(BaselineView, "pve")
    assert view.node == "pve01"
    assert view.digest == one.digest
    assert len(view.intended_units) == 2
    assert view.drift == ()
    assert cluster.view("pve01").baseline == one.digest


def test_accepting_while_the_node_is_being_written_is_tried_again() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.held = True
    cordon = cluster.ask_later(
        lambda t: CordonRequested(ticket=t, node="pve01", actor="ann", reason="r")
    )
    accept = cluster.ask_later(
        lambda t: BaselineAcceptRequested(ticket=t, node="pve01", actor="ann")
    )
    cluster.settle_store()
    assert isinstance(cluster.replies[cordon], NodeView)
    assert isinstance(cluster.replies[accept], BaselineView)


def test_an_inventory_without_functions_is_no_baseline() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.snapshot = snapshot(*cards(2), functions=None)
    cluster.join(one)
    assert cluster.accept(Failure, "pve01").code is ErrorCode.NO_INVENTORY


def test_without_a_baseline_gates_apply_and_nothing_is_a_regression() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    one.replaced = {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "NOT_BOUND")}
    cluster.observe(one)
    view = cluster.view("pve01")
    assert (view.state, view.baseline, view.units_free) == ("ready", "", 1)


def test_a_new_firmware_alone_is_flagged_and_the_node_returns() -> None:
    cluster, one = accepted(*cards(2))
    view = reboot(cluster, one, *cards(2), bios="F11")
    assert view.state == "ready"
    assert [r.code for r in view.reasons] == ["FIRMWARE_CHANGED"]
    assert "F10" in view.reasons[0].text
    assert "F11" in view.reasons[0].text
    assert "FIRMWARE_CHANGED" in cluster.codes("pve01")


def test_renumbered_and_moved_return_by_themselves() -> None:
    cluster, one = accepted(*cards(2))
    rows = moved(*(replace(f, group=(f.group or 0) + 7) for f in cards(2)), by=3)
    view = reboot(cluster, one, *rows)
    assert view.state == "ready", view.reasons
    assert {d.code for d in view.drift} == {"DEVICE_MOVED", "GROUP_RENUMBERED"}


def test_a_claim_that_names_a_moved_address_holds_the_node() -> None:
    cluster, one = accepted(*cards(2))
    assert cluster.place(Decision, ask_for("vm1")).placement is not None
    view = reboot(cluster, one, *moved(*cards(2), by=3))
    assert view.state == "revalidating"
    assert "VM_ADDRESS_STALE" in [r.code for r in view.reasons]
    (vm,) = report.vm_views(cluster.state, cluster.now)
    assert vm.at_risk.startswith("VM_ADDRESS_STALE")
    cluster.release(VmView, "vm1")
    assert cluster.view("pve01").state == "ready"


def widened() -> tuple[PciFunction, ...]:
    """The first card shares its group with a disk now."""
    return (*cards(2), *(nvme("0000:09:00.0", group=1, driver="nvme"),))


def test_a_widened_group_cordons_and_names_the_vm() -> None:
    cluster, one = accepted(*cards(2))
    cluster.place(Decision, ask_for("train-2", "nic=2"))
    view = reboot(cluster, one, *widened(), bios="F11")
    assert view.state == "cordoned"
    (reason,) = [r for r in view.reasons if r.code == "GROUP_WIDENED"]
    assert reason.owner == "auto:GROUP_WIDENED"
    assert "0000:09:00.0" in reason.text
    assert "train-2" in reason.text
    (vm,) = report.vm_views(cluster.state, cluster.now)
    assert "GROUP_WIDENED" in vm.at_risk
    shown = report.status(cluster.state, cluster.now)
    assert shown.health == "HEALTH_ERR"
    assert shown.items[0].code == "GROUP_WIDENED"
    rows, _ = report.list_events(cluster.state, node="pve01")
    assert [r for r in rows if r.code == "GROUP_WIDENED" and r.actor == "auto:GROUP_WIDENED"]


def test_the_cordon_lifts_itself_when_the_cause_is_gone() -> None:
    cluster, one = accepted(*cards(2))
    assert reboot(cluster, one, *widened()).state == "cordoned"
    view = reboot(cluster, one, *cards(2))
    assert (view.state, view.reasons) == ("ready", ())
    assert cluster.codes("pve01")[-2:] == ["NODE_UNCORDONED", "NODE_VALIDATED"]


def test_accepting_what_is_there_lifts_the_cordon_too() -> None:
    cluster, one = accepted(*cards(2))
    assert reboot(cluster, one, *widened()).state == "cordoned"
    cluster.accept(BaselineView, "pve01", force=True, reason="the card is for one VM anyway")
    assert cluster.view("pve01").state == "ready"


def test_a_cordon_survives_silence_restart_and_missing_evidence() -> None:
    cluster, one = accepted(*cards(2))
    reboot(cluster, one, *widened())
    cluster.close(one)
    assert owners(cluster.view("pve01"))
    judgement = cluster.state.nodes["pve01"].judgement
    assert judgement is not None
    assert judgement.causes == ()
    cluster.restart()
    assert cluster.view("pve01").reasons[1].owner == "auto:GROUP_WIDENED"
    # The same boot again, but nobody could read in which group the card is.
    blind = tuple(unread(f, "group") if f.address == "0000:01:00.0" else f for f in cards(2))
    view = reboot(cluster, one, *blind)
    assert "auto:GROUP_WIDENED" in owners(view)
    view = reboot(cluster, one, *cards(2))
    assert view.state == "ready"


def test_a_person_lifts_an_automatic_cordon_and_it_stays_lifted() -> None:
    cluster, one = accepted(*cards(2))
    reboot(cluster, one, *widened())
    view = cluster.uncordon(NodeView, "pve01")
    assert view.state == "ready"
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
    assert "GROUP_WIDENED" in [i.code for i in report.status(cluster.state, cluster.now).items]
    # Gone once, it counts again.
    reboot(cluster, one, *cards(2))
    assert reboot(cluster, one, *widened()).state == "cordoned"


def test_an_admin_write_compares_the_record_that_it_replaces() -> None:
    cluster, _ = accepted(*cards(2))
    cluster.held = True
    ticket = cluster.ask_later(
        lambda t: CordonRequested(ticket=t, node="pve01", actor="ann", reason="r")
    )
    key = keys.node_key("pve01")
    item = cluster.store.get(key)
    assert item is not None
    record = decode(AdminRecord, item.value)
    theirs = Cordon("NODE_CORDONED", "user:bob", "fan", "t")
    changed = encode(replace(record, cordons=(theirs,)))
    cluster.store.commit([Txn((), (Put(key, changed),))])
    cluster.settle_store()
    assert isinstance(cluster.replies[ticket], NodeView)
    owners_now = [r.owner for r in cluster.view("pve01").reasons]
    assert owners_now == ["user:ann", "user:bob"]


def test_a_baselines_transaction_compares_what_it_rests_on() -> None:
    cluster, _ = accepted(*cards(2))
    cluster.held = True
    cluster.ask_later(lambda t: BaselineAcceptRequested(ticket=t, node="pve01", actor="ann"))
    ((_, txn),) = cluster.queue
    assert {c.key for c in txn.compares} == {
        keys.META_EPOCH,
        keys.node_key("pve01"),
        keys.baseline_key("pve01", 1),  # gives its facts up
        keys.baseline_key("pve01", 2),
    }


def test_automation_never_lifts_a_persons_cordon() -> None:
    cluster, one = accepted(*cards(2))
    cluster.cordon(NodeView, "pve01", reason="new fan", actor="bob")
    reboot(cluster, one, *widened())
    reboot(cluster, one, *cards(2))
    view = cluster.view("pve01")
    assert view.state == "cordoned"
    (reason,) = view.reasons
    assert reason.since
    assert replace(reason, since="") == Reason("NODE_CORDONED", "user:bob", "new fan")


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("BINDING_LOST", {"driver": "igb", "vfio_device": False}),
        ("RESET_LOST", {"reset_methods": ("bus",)}),
    ],
)
def test_what_a_unit_relied_on_is_lost(code: str, change: dict[str, object]) -> None:
    cluster, one = accepted(*cards(2))
    rows = tuple(
        replace(f, **change) if f.address == "0000:01:00.0" else f  # type: ignore[arg-type]
        for f in cards(2)
    )
    gate = {"BINDING_LOST": "driver-binding", "RESET_LOST": "reset-capability"}[code]
    one.replaced = {(gate, "function:0000:01:00.0"): (Verdict.FAIL, "WHATEVER")}
    view = reboot(cluster, one, *rows)
    assert owners(view)[0] == f"auto:{code}"
    assert "auto:WHATEVER" not in owners(view)
    assert view.state == "cordoned"


@pytest.mark.parametrize(
    ("code", "lost", "unknown"),
    [
        ("BINDING_LOST", {"driver": "igb", "vfio_device": False}, {"driver": None}),
        ("RESET_LOST", {"reset_methods": ("bus",)}, {"reset_methods": None}),
    ],
)
def test_what_cannot_be_read_any_more_lifts_nothing(
    code: str, lost: dict[str, object], unknown: dict[str, object]
) -> None:
    def changed(change: dict[str, object]) -> tuple[PciFunction, ...]:
        return tuple(
            replace(f, **change) if f.address == "0000:01:00.0" else f  # type: ignore[arg-type]
            for f in cards(2)
        )

    cluster, one = accepted(*cards(2))
    gate = {"BINDING_LOST": "driver-binding", "RESET_LOST": "reset-capability"}[code]
    one.replaced = {(gate, "function:0000:01:00.0"): (Verdict.FAIL, "WHATEVER")}
    assert owners(reboot(cluster, one, *changed(lost)))[0] == f"auto:{code}"
    one.replaced = {}
    blind = {"vfio_device": None, "config": None, **unknown}
    assert f"auto:{code}" in owners(reboot(cluster, one, *changed(blind)))
    assert reboot(cluster, one, *cards(2)).state == "ready"


def test_a_binding_that_the_gate_accepts_is_not_lost() -> None:
    cluster, one = accepted(*cards(2))
    rows = tuple(
        replace(f, driver="igb", vfio_device=False) if f.address == "0000:01:00.0" else f
        for f in cards(2)
    )
    one.replaced = {("driver-binding", "function:0000:01:00.0"): (Verdict.WARN, "BINDING_DEFERRED")}
    assert reboot(cluster, one, *rows).state == "ready"


def test_acs_cleared_on_the_way_up_concerns_the_unit_below() -> None:
    cluster, one = accepted(*cards(2))
    cleared = config_space(header_type=1, port_type=4, acs=Acs(FULL_ACS.capability, 0))
    rows = tuple(replace(f, config=cleared) if f.address == "0000:00:01.0" else f for f in cards(2))
    cluster.change(one, snapshot(*rows))
    view = cluster.view("pve01")
    assert owners(view)[0] == "auto:ACS_CLEARED"
    blind = config_space(header_type=1, port_type=4, acs=None)
    rows = tuple(replace(f, config=blind) if f.address == "0000:00:01.0" else f for f in cards(2))
    cluster.change(one, snapshot(*rows))
    assert owners(cluster.view("pve01"))[0] == "auto:ACS_CLEARED"
    cluster.change(one, snapshot(*cards(2)))
    assert cluster.view("pve01").state == "ready"


def test_a_vanished_device_of_a_vm_without_any_baseline() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.place(Decision, ask_for("vm1", "nic=2"))
    cluster.change(one, snapshot(*cards(1)))
    view = cluster.view("pve01")
    assert owners(view)[0] == "auto:DEVICE_VANISHED"
    assert "vm1" in view.reasons[0].text
    assert view.units_total == 2
    assert [u.state for u in view.units if u.intended] == ["claimed", "claimed"]


def test_an_unreadable_list_of_functions_is_no_vanished_device() -> None:
    cluster, one = accepted(*cards(2))
    cluster.place(Decision, ask_for("vm1"))
    cluster.change(one, snapshot(*cards(2), functions=None))
    view = cluster.view("pve01")
    assert view.state == "revalidating"
    assert not [r for r in view.reasons if r.code == "DEVICE_VANISHED"]


def test_narrowed_groups_wait_for_a_person() -> None:
    pair = (nic("0000:01:00.0", group=1), nic("0000:02:00.0", group=1, device=0x1533))
    cluster, one = accepted(*pair)
    split = (pair[0], replace(pair[1], group=2))
    view = reboot(cluster, one, *split)
    assert (view.state, view.reasons[0].code) == ("revalidating", "GROUP_SPLIT")
    admin = cluster.state.nodes["pve01"].admin
    assert admin is not None
    assert admin.boot_id != one.boot_id
    cluster.accept(BaselineView, "pve01")
    assert cluster.view("pve01").state == "ready"


def test_a_new_device_elsewhere_is_only_flagged() -> None:
    cluster, one = accepted(*cards(2))
    view = reboot(cluster, one, *cards(3))
    assert view.state == "ready"
    assert "DEVICE_APPEARED" in {d.code for d in view.drift}


def test_a_candidate_that_goes_away_harms_nobody() -> None:
    disk = nvme("0000:09:00.0", group=9, driver="nvme")
    cluster, one = accepted(*cards(2), disk)
    assert reboot(cluster, one, *cards(2)).state == "ready"


def test_an_agent_without_privilege_does_not_free_what_is_claimed() -> None:
    """Serial numbers live in config space that only root reads: identities change their form."""
    serial = "00-11-22-33-44-55-66-77"
    rows = [
        replace(f, config=config_space(flr=True, serial_number=serial))
        if f.address == "0000:01:00.0"
        else f
        for f in cards(1)
    ]
    cluster, one = accepted(*rows)
    assert cluster.place(Decision, ask_for("vm1")).placement is not None
    blind = config_space(flr=True, length=256, extended=None)
    rows = [replace(f, config=blind) if f.address == "0000:01:00.0" else f for f in cards(1)]
    cluster.change(one, snapshot(*rows))
    view = cluster.view("pve01")
    assert [u.state for u in view.units if u.intended] == ["claimed"]
    assert not [r for r in view.reasons if r.code in ("DEVICE_VANISHED", "VM_ADDRESS_STALE")]
    assert cluster.place(Decision, ask_for("vm2")).placement is None
