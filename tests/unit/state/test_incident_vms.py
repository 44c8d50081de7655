"""Incidents: the VMs that one puts at risk are named, first and later ones."""

from __future__ import annotations

from tests.fakes.vms import make_device, make_vm
from tests.unit.state.cluster import Agent, ask_for
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.test_drift import moved
from tests.unit.state.troubles import Fleet
from vfio_contract.views import BaselineView, Decision, VmView

WIDENED = "GROUP_WIDENED"
KERNEL = {"wide": True, "kernel": "6.8.12-5"}
BIOS = {"wide": True, "bios": "F11"}


def test_its_vms_are_named() -> None:
    fleet = Fleet("pve01")
    fleet.place(Decision, ask_for("vm1"))
    fleet.place(Decision, ask_for("vm2"))
    fleet.boot("pve01", **KERNEL)
    shown = fleet.show("INC-1")
    (member,) = shown.members
    assert member.vms == ("vm2",), "the one whose card shares its group now"
    assert shown.vms == 1
    fleet.silence("pve01")
    lost = next(view for view in fleet.open() if view.code == "NODE_LOST")
    assert fleet.show(lost.id).members[0].vms == ("vm1", "vm2")


def test_the_headline_is_of_the_nodes_and_vms_of_now() -> None:
    fleet = Fleet("pve01")
    fleet.place(Decision, ask_for("vm1"))
    fleet.place(Decision, ask_for("vm2"))
    fleet.add("pve02")
    fleet.place(Decision, ask_for("vm3"))
    fleet.place(Decision, ask_for("vm4"))
    fleet.boot("pve01", "pve02", **KERNEL)
    (one,) = fleet.open()
    assert "vm2" in one.text
    fleet.release(VmView, "vm2")
    (one,) = fleet.open()
    assert "vm2" not in one.text + str(fleet.show(one.id).members)
    fleet.boot("pve01")
    (one,) = fleet.open()
    (member,) = fleet.show(one.id).members
    assert (member.node, member.text) == ("pve02", one.text)
    assert member.vms[0] in one.text


def test_the_hosts_own_vm_with_a_line_to_edit_is_counted() -> None:
    vms = (make_vm(make_device("0000:01:00.0", line=4)),)
    fleet = Fleet()
    fleet.agents["pve01"] = one = Agent("pve01", snapshot(*cards(2), vms=vms))
    fleet.join(one)
    fleet.accept(BaselineView, "pve01")
    one.snapshot = snapshot(*moved(*cards(2), by=3), vms=vms, boot=1)
    fleet.join(one)
    (incident,) = fleet.open()
    assert (incident.code, incident.vms) == ("VM_ADDRESS_STALE", 1)
    assert fleet.show(incident.id).members[0].vms == ("101",)


def test_silence_with_one_vm_says_so() -> None:
    fleet = Fleet("pve01")
    fleet.place(Decision, ask_for("vm1"))
    fleet.silence("pve01")
    assert fleet.open()[0].text == "its agent is silent; its VM may still run"
