"""Baselines that cannot be compared: of another machine, of another version, or not to be read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import behind, bridge, nic
from tests.fakes.vms import make_device, make_vm
from tests.unit.state.cluster import Cluster, ask_for, store_text
from tests.unit.state.hosts import accepted, agent, cards, owners, reboot, snapshot
from vfio_contract.artifact import compress, decompress, encode
from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.codes import CLUSTER_CODES
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.model import Snapshot
from vfio_contract.policy import PolicyView
from vfio_contract.views import BaselineView, Decision
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.baseline_report import baseline_view
from vfio_coordinator.state.effects import RefuseSession
from vfio_coordinator.state.events import Heartbeat
from vfio_coordinator.store.interface import Put, Txn

BLANK = "00000000-0000-0000-0000-000000000000"
REAL = "4c4c4544-0035-3010-8052-b4c04f4a4d32"


def on_board(made: Snapshot, **firmware: Any) -> Snapshot:
    return replace(
        made, facts=replace(made.facts, firmware=replace(made.facts.firmware, **firmware))
    )


def rewrite_facts(cluster: Cluster, change: Any) -> None:
    """The stored facts of the one baseline become others, as another version would write them."""
    (key,) = store_text(cluster.store, keys.CHUNKS)
    item = cluster.store.get(key)
    assert item is not None
    plain = json.loads(decompress(item.value))
    change(plain)
    cluster.store.commit([Txn((), (Put(key, compress(json.dumps(plain).encode())),))])


# --- another machine -----------------------------------------------------------------------------


def test_a_baseline_of_another_board_is_not_compared_and_waits_for_a_person() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.snapshot = on_board(one.snapshot, product_uuid=None, board_name="X570")
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    other = on_board(snapshot(*cards(1), boot=1), product_uuid=None, board_name="B650")
    one.snapshot = other
    cluster.join(one)
    view = cluster.view("pve01")
    assert (view.state, view.drift) == ("revalidating", ())
    reason = next(r for r in view.reasons if r.code == "BASELINE_FOREIGN")
    assert "board X570 -> B650" in reason.text
    assert "waits for: vfioctl baseline accept pve01" in reason.text
    assert cluster.place(Decision, ask_for("vm1")).placement is None
    shown = baseline_view(cluster.state, "pve01")
    assert (shown.compared, shown.doubt.partition(":")[0]) == (False, "BASELINE_FOREIGN")
    lines = {item.code: item for item in report.status(cluster.state, cluster.now).items}
    assert lines["BASELINE_FOREIGN"].level == "WARN"
    assert cluster.codes("pve01").count("BASELINE_FOREIGN") == 1
    cluster.observe(one)
    cluster.inventory(one)
    assert cluster.codes("pve01").count("BASELINE_FOREIGN") == 1, "told once"
    cluster.accept(BaselineView, "pve01")
    assert cluster.view("pve01").state == "ready"


def test_the_policy_never_accepts_another_machine() -> None:
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto")
    one = agent("pve01")
    one.snapshot = on_board(one.snapshot, product_uuid=None, board_name="X570")
    cluster.join(one)
    cluster.observe(one)
    one.snapshot = on_board(snapshot(*cards(2), boot=1), product_uuid=None, board_name="B650")
    cluster.join(one)
    cluster.observe(one)
    assert len(cluster.state.nodes["pve01"].baselines) == 1


def test_a_cordon_stays_while_its_baseline_cannot_be_compared() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.snapshot = on_board(one.snapshot, product_uuid=None, board_name="X570")
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    one.snapshot = on_board(snapshot(*cards(1), boot=1), product_uuid=None, board_name="X570")
    cluster.join(one)
    assert owners(cluster.view("pve01"))[0] == "auto:DEVICE_VANISHED"
    one.snapshot = on_board(snapshot(*cards(2), boot=2), product_uuid=None, board_name="B650")
    cluster.join(one)
    view = cluster.view("pve01")
    assert view.state == "cordoned"
    assert "auto:DEVICE_VANISHED" in owners(view)
    refused = cluster.accept(BaselineRefusal, "pve01")
    assert {problem.code for problem in refused.problems} == {"DEVICE_VANISHED"}
    cluster.accept(BaselineView, "pve01", force=True, reason="new board")
    assert cluster.view("pve01").state == "ready"


# --- two boards with one serial ------------------------------------------------------------------


@pytest.mark.parametrize("uuid", [BLANK, "03000200-0400-0500-0006-000700080009", ""])
def test_boards_whose_uuid_nobody_set_are_no_clones_and_no_strangers(uuid: str) -> None:
    cluster = Cluster()
    one, two = agent("pve01"), agent("pve02", boot=2)
    for each in (one, two):
        each.snapshot = on_board(each.snapshot, product_uuid=uuid)
        each.uuid = uuid or "-"
        cluster.join(each)
        cluster.accept(BaselineView, each.name)
        admin = cluster.state.nodes[each.name].admin
        assert admin is not None
        assert admin.product_uuid in ("", "-")
    assert [cluster.view(n).state for n in ("pve01", "pve02")] == ["ready", "ready"]
    # an update of the firmware fills it in: still the same machine, which is known from now on
    one.snapshot = on_board(snapshot(*cards(2), boot=1), product_uuid=REAL)
    one.uuid = REAL
    if uuid:
        cluster.join(one)
        admin = cluster.state.nodes["pve01"].admin
        assert admin is not None
        assert admin.product_uuid == REAL
        assert cluster.view("pve01").state == "ready"


def test_a_store_that_holds_a_blank_uuid_learns_the_real_one() -> None:
    cluster, one = accepted(*cards(2))
    node = cluster.state.nodes["pve01"]
    assert node.admin is not None
    old = replace(node.admin, product_uuid=BLANK)
    cluster.store.commit([Txn((), (Put(keys.node_key("pve01"), encode(old)),))])
    cluster.restart()
    one.uuid = REAL
    cluster.join(one)
    node = cluster.state.nodes["pve01"]
    assert node.admin is not None
    assert node.admin.product_uuid == REAL
    refused = cluster.hello(one, product_uuid="4c4c4544-0035-3010-8052-b4c04f4a4d99")
    (effect,) = (e for e in refused if isinstance(e, RefuseSession))
    assert effect.code is ErrorCode.NODE_CLONED


def test_two_nodes_with_one_serial_keep_their_own_baselines() -> None:
    cluster = Cluster()
    one, two = agent("pve01"), agent("pve02", *cards(3), boot=1)
    for each in (one, two):
        each.uuid = REAL
        each.snapshot = on_board(each.snapshot, product_uuid=REAL, board_name="X570")
        cluster.join(each)
        cluster.accept(BaselineView, each.name)
    cluster.seconds += cluster.limits.lost_after_s + 1
    for each in (one, two):  # heard side by side: two machines
        cluster.send(Heartbeat(each.name, each.session))
        cluster.observe(each)
    cluster.observe(one)
    for name, count in (("pve01", 2), ("pve02", 3)):
        view = cluster.view(name)
        assert (view.state, view.drift, view.units_total) == ("ready", (), count)


# --- other versions ------------------------------------------------------------------------------


def test_facts_of_an_older_schema_are_compared_as_far_as_both_know() -> None:
    cluster, one = accepted(*cards(2))

    def make_older(plain: dict[str, Any]) -> None:
        for name in ("boot_options", "module_rules", "vms", "mappings", "boot_path"):
            plain.pop(name, None)
        for function in plain["functions"]:
            for name in ("resizable", "resizable_bars", "vfio_device"):
                function.pop(name, None)

    rewrite_facts(cluster, make_older)
    cluster.restart()
    view = reboot(cluster, one, *cards(2))
    assert (view.state, view.drift, view.reasons) == ("ready", (), ())


def test_facts_of_a_newer_schema_that_only_adds_are_compared_too() -> None:
    cluster, one = accepted(*cards(2))

    def make_newer(plain: dict[str, Any]) -> None:
        plain["what_comes_later"] = {"a": [1, 2]}
        for function in plain["functions"]:
            function["lanes_of_tomorrow"] = 32

    rewrite_facts(cluster, make_newer)
    cluster.restart()
    view = reboot(cluster, one, *cards(2)[:2])
    assert [change.code for change in view.drift] == ["DEVICE_VANISHED"]


def make_unreadable(plain: dict[str, Any]) -> None:
    plain["functions"] = {"by_slot": plain["functions"]}


def test_facts_that_cannot_be_read_are_no_absence_of_drift() -> None:
    cluster, one = accepted(*cards(2))
    rewrite_facts(cluster, make_unreadable)
    cluster.restart()
    view = reboot(cluster, one, *cards(1))
    assert view.state == "revalidating"
    reason = next(r for r in view.reasons if r.code == "BASELINE_UNREADABLE")
    assert "functions" in reason.text
    assert cluster.place(Decision, ask_for("vm1")).placement is None
    shown = baseline_view(cluster.state, "pve01")
    assert (shown.compared, shown.intended_units) == (False, ())
    assert "BASELINE_UNREADABLE" in cluster.codes("pve01")
    cluster.accept(BaselineView, "pve01")
    assert cluster.view("pve01").state == "ready"
    cluster.restart()
    assert len(store_text(cluster.store, keys.CHUNKS)) == 1, "the unreadable facts gave way"


def test_an_unreadable_baseline_that_is_the_present_facts_needs_no_reading() -> None:
    cluster, one = accepted(*cards(2))
    rewrite_facts(cluster, make_unreadable)
    cluster.restart()
    cluster.join(one)
    assert cluster.view("pve01").state == "ready"


def test_a_record_of_a_newer_version_is_read_as_far_as_this_one_knows() -> None:
    cluster, one = accepted(*cards(2))
    (key,) = store_text(cluster.store, keys.BASELINES)
    item = cluster.store.get(key)
    assert item is not None
    plain = json.loads(item.value) | {"signed_by": "tpm"}
    cluster.store.commit([Txn((), (Put(key, encode(plain)),))])
    cluster.restart()
    cluster.join(one)
    assert cluster.view("pve01").state == "ready"


def test_the_codes_of_this_page_are_health_codes_that_say_what_to_do() -> None:
    codes = {code.name: code for code in CLUSTER_CODES}
    for name in ("BASELINE_FOREIGN", "BASELINE_UNREADABLE"):
        assert codes[name].verdict is Verdict.WARN
        assert "vfioctl baseline accept NODE" in codes[name].decision


# --- back to an earlier firmware, with configurations of the later one ---------------------------


def host_with_vm(bus: int, written: str, *, boot: int, bios: str) -> Snapshot:
    """One card behind one port, on this bus, and a VM whose configuration says where it is."""
    functions = behind(bridge("0000:00:01.0", group=9), nic(f"0000:{bus:02x}:00.0", group=2))
    made = snapshot(*functions, boot=boot, bios=bios)
    return replace(made, facts=replace(made.facts, vms=(make_vm(make_device(written)),)))


def test_a_configuration_edited_under_a_later_firmware_holds_the_node_when_it_goes_back() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.snapshot = host_with_vm(1, "0000:01:00.0", boot=0, bios="F10")
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    # F11 moves the card; the line is edited, and that is accepted
    one.snapshot = host_with_vm(4, "0000:04:00.0", boot=1, bios="F11")
    cluster.join(one)
    assert cluster.view("pve01").state == "ready"
    cluster.accept(BaselineView, "pve01")
    # back to F10: nothing differs from what was accepted there, but the line means nothing now
    one.snapshot = host_with_vm(1, "0000:04:00.0", boot=2, bios="F10")
    cluster.join(one)
    view = cluster.view("pve01")
    assert (view.state, view.drift) == ("revalidating", ())
    reason = next(r for r in view.reasons if r.code == "VM_ADDRESS_STALE")
    assert "/etc/pve/qemu-server/101.conf:6" in reason.text
    assert "waits for: the edit" in reason.text
    refused = cluster.accept(BaselineRefusal, "pve01")
    assert [(p.code, p.subject) for p in refused.problems] == [("VM_ADDRESS_STALE", "vm 101")]
    cluster.change(one, host_with_vm(1, "0000:01:00.0", boot=2, bios="F10"))
    assert cluster.view("pve01").state == "ready"


def test_going_back_with_configurations_that_went_back_too_needs_nobody() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.snapshot = host_with_vm(1, "0000:01:00.0", boot=0, bios="F10")
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    one.snapshot = host_with_vm(4, "0000:04:00.0", boot=1, bios="F11")
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    one.snapshot = host_with_vm(1, "0000:01:00.0", boot=2, bios="F10")
    cluster.join(one)
    assert (cluster.view("pve01").state, cluster.view("pve01").reasons) == ("ready", ())


def test_the_policy_never_accepts_with_a_line_to_edit() -> None:
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto")
    one = agent("pve01")
    one.snapshot = host_with_vm(1, "0000:01:00.0", boot=0, bios="F10")
    cluster.join(one)
    cluster.observe(one)
    one.snapshot = host_with_vm(4, "0000:01:00.0", boot=1, bios="F11")
    cluster.join(one)
    cluster.observe(one)
    assert cluster.view("pve01").state == "revalidating"
    assert len(cluster.state.nodes["pve01"].baselines) == 1
    cluster.change(one, host_with_vm(4, "0000:04:00.0", boot=1, bios="F11"))
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
    assert len(cluster.state.nodes["pve01"].baselines) == 2
