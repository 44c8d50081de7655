"""Incidents of what nodes came with, and what is told with what it follows from."""

from __future__ import annotations

from tests.fakes.snapshots import behind, bridge, nic, nvme
from tests.fakes.vms import make_device, make_vm
from tests.unit.state.cluster import Agent, ask_for
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.test_drift import moved
from tests.unit.state.troubles import Fleet, host
from vfio_contract.durable import JournalStatus
from vfio_contract.findings import Verdict
from vfio_contract.model import PciFunction, Snapshot
from vfio_contract.views import BaselineView, Decision
from vfio_coordinator.state.incident_matters import MAX_TEXT, add_codes
from vfio_coordinator.state.incident_notices import QUIET

OFF = {("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF")}
WIDENED = "GROUP_WIDENED"
STALE = "VM_ADDRESS_STALE"


def codes(fleet: Fleet) -> list[str]:
    return sorted(view.code for view in fleet.open())


# --- nodes that were never accepted --------------------------------------------------------------


def arrive(fleet: Fleet, name: str, made: Snapshot | None = None) -> Agent:
    """A node that nobody accepts, with the IOMMU off."""
    one = fleet.agents[name] = Agent(name, made or host(), dict(OFF))
    fleet.join(one)
    return one


def test_what_every_new_node_came_with_is_one_incident_however_long_they_take_to_come() -> None:
    fleet = Fleet()
    for number in range(12):
        arrive(fleet, f"pve{number:02}")
        if number % 4 == 3:
            fleet.seconds += 2 * QUIET.total_seconds()
            for other in fleet.agents.values():
                fleet.observe(other)
    (one,) = fleet.open()
    assert (one.code, one.level, one.nodes, one.peak) == ("IOMMU_OFF", "ERR", 12, 12)
    assert one.text == "/evidence/iommu-active: node is FAIL"
    assert one.factors == (), "there is nobody without it"
    assert one.next == (
        "vfioctl explain IOMMU_OFF; or take it as it is: "
        "vfioctl baseline accept pve00 --force --reason TEXT"
    )
    fleet.restart()
    arrive(fleet, "pve12")
    assert fleet.open()[0].nodes == 13


def test_what_they_share_and_others_do_not_is_the_factor() -> None:
    fleet = Fleet()
    fleet.checked = False
    for number in range(24):
        name = f"pve{number:02}"
        fleet.agents[name] = Agent(name, host())
        fleet.join(fleet.agents[name])
    for number in range(24, 28):
        arrive(fleet, f"pve{number:02}", host(bios="F8"))
    first = fleet.open()[0].factors[0]
    assert (first.part, first.before, first.after) == ("BIOS", "", "F8 01/01/2025")
    assert not first.changed
    arrive(fleet, "pve28")
    assert fleet.open()[0].factors == (), "this one has another BIOS"


def test_devices_that_nobody_wants_to_pass_through_make_none() -> None:
    fleet = Fleet()
    port = bridge("0000:00:01.0", group=101)
    used = behind(port, nic("0000:01:00.0", group=1, driver="ixgbe"))
    one = arrive(fleet, "pve01", snapshot(*used))
    one.replaced = OFF | {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "NOT_BOUND")}
    fleet.observe(one)
    assert [f.verdict for f in fleet.state.nodes["pve01"].standings] == [Verdict.FAIL]
    assert fleet.open() == []


def test_evidence_that_is_too_old_is_news_of_nothing() -> None:
    fleet = Fleet()
    one = fleet.agents["pve01"] = Agent("pve01", host(), dict(OFF))
    fleet.hello(one)
    fleet.inventory(one)
    fleet.observe(one, age_s=fleet.limits.evidence_max_age_s + 1)
    assert fleet.open() == []
    fleet.observe(one)
    assert codes(fleet) == ["IOMMU_OFF"]


def test_a_one_shot_device_that_was_used_is_no_news() -> None:
    fleet = Fleet()
    one = arrive(fleet, "pve01")
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_SPENT")}
    fleet.observe(one)
    assert fleet.open() == []


def test_who_accepts_a_node_as_it_is_takes_it_out_and_what_changes_later_is_another_one() -> None:
    fleet = Fleet()
    for name in ("pve01", "pve02"):
        arrive(fleet, name)
    fleet.accept(BaselineView, "pve01", force=True, reason="no cards yet")
    fleet.observe(fleet.agents["pve01"])
    assert fleet.nodes_of("INC-1") == ["pve02"]
    fleet.add("pve03")
    fleet.agents["pve03"].replaced = OFF
    fleet.observe(fleet.agents["pve03"])
    assert fleet.nodes_of("INC-2") == ["pve03"], "it passed once"


def test_resets_that_failed_are_news_of_their_moment() -> None:
    fleet = Fleet()
    failed = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_WEDGED")}
    first = arrive(fleet, "pve01")
    first.replaced = failed
    fleet.observe(first)
    fleet.seconds += 2 * QUIET.total_seconds()
    fleet.observe(first)
    second = arrive(fleet, "pve02")
    second.replaced = failed
    fleet.observe(second)
    assert [view.code for view in fleet.open()] == ["RESET_WEDGED", "RESET_WEDGED"]


# --- what follows --------------------------------------------------------------------------------

VMS = (make_vm(make_device("0000:01:00.0", line=4)),)


def widened(*functions: PciFunction) -> tuple[PciFunction, ...]:
    """The second card shares its group with a disk."""
    return (*functions, nvme("0000:09:00.0", group=2, driver="nvme"))


def with_vm() -> tuple[Fleet, Agent]:
    """Two nodes; the first has a VM of its own that names a card."""
    fleet = Fleet("pve02")
    fleet.agents["pve01"] = one = Agent("pve01", snapshot(*cards(2), vms=VMS))
    fleet.join(one)
    fleet.accept(BaselineView, "pve01")
    return fleet, one


def test_lines_to_edit_are_told_with_the_harm_that_came_with_them() -> None:
    fleet, one = with_vm()
    one.snapshot = snapshot(*widened(*moved(*cards(2), by=3)), vms=VMS, boot=1)
    fleet.join(one)
    (incident,) = fleet.open()
    assert (incident.code, incident.vms) == (WIDENED, 1)
    assert incident.text.endswith(f"; with it {STALE}")
    (member,) = fleet.show(incident.id).members
    assert (member.vms, member.text) == (("101",), incident.text)
    fleet.restart()
    assert fleet.show(incident.id).members[0].vms == ("101",)
    assert fleet.open()[0].text == incident.text, "also while it is not heard"
    fleet.join(one)
    assert codes(fleet) == [WIDENED]


def test_lines_that_are_left_when_the_harm_is_gone_are_an_incident_of_their_own() -> None:
    fleet, one = with_vm()
    one.snapshot = snapshot(*widened(*moved(*cards(2), by=3)), vms=VMS, boot=1)
    fleet.join(one)
    fleet.change(one, snapshot(*moved(*cards(2), by=3), vms=VMS, boot=1))
    assert codes(fleet) == [STALE]
    fleet.change(one, snapshot(*widened(*moved(*cards(2), by=3)), vms=VMS, boot=1))
    assert codes(fleet) == [WIDENED, STALE], "what is told as its own stays that"
    fleet.change(one, snapshot(*cards(2), vms=VMS, boot=1))
    assert fleet.open() == []


def test_a_stale_claim_is_told_with_the_harm_too() -> None:
    fleet, one = with_vm()
    fleet.close(fleet.agents["pve02"])
    fleet.place(Decision, ask_for("vm1"))
    fleet.place(Decision, ask_for("vm2"))
    one.snapshot = snapshot(*widened(*moved(*cards(2), by=3)), boot=1)
    fleet.join(one)
    (incident,) = (view for view in fleet.open() if view.code != "NODE_LOST")
    assert incident.code == WIDENED
    assert fleet.show(incident.id).members[0].vms == ("vm1", "vm2")


def test_a_journal_that_fails_because_hostd_died_is_hostds_death() -> None:
    fleet = Fleet("pve01", "pve02")
    one = fleet.agents["pve01"]
    fleet.say_journal(one, JournalStatus("JOURNAL_FAILED", "hostd does not answer"))
    assert codes(fleet) == ["JOURNAL_FAILED"]
    fleet.say_journal(one, JournalStatus("HOSTD_AWAY", "no answer"))
    assert codes(fleet) == ["HOSTD_AWAY"]
    fleet.say_journal(one, JournalStatus("JOURNAL_FAILED", "hostd does not answer"))
    assert codes(fleet) == ["HOSTD_AWAY"], "nobody has looked at the host yet"
    fleet.pass_hold()
    assert [notice.incident.code for notice in fleet.told] == ["HOSTD_AWAY"]
    fleet.observe(one)
    assert codes(fleet) == ["JOURNAL_FAILED"], "that is left of it"
    fleet.say_journal(one, JournalStatus())
    fleet.seconds += 1
    fleet.observe(one)
    assert fleet.open() == []


def test_a_host_that_goes_down_is_lost_and_nothing_less() -> None:
    fleet = Fleet("pve01", "pve02")
    one = fleet.agents["pve01"]
    fleet.say_journal(one, JournalStatus("HOSTD_AWAY", "no answer"))
    fleet.silence("pve01")
    assert codes(fleet) == ["NODE_LOST"]
    fleet.hello(one)
    fleet.say_journal(one, JournalStatus("HOSTD_AWAY", "no answer"))
    assert codes(fleet) == ["HOSTD_AWAY"]
    assert fleet.nodes_of("INC-1") == ["pve01"], "the same one again"


def test_a_node_without_harm_has_its_lines_as_before() -> None:
    fleet, one = with_vm()
    one.snapshot = snapshot(*moved(*cards(2), by=3), vms=VMS, boot=1)
    fleet.join(one)
    assert codes(fleet) == [STALE]


def test_a_text_that_is_cut_says_so() -> None:
    assert add_codes("short", ()) == "short"
    cut = add_codes("x" * 300, (STALE,))
    assert len(cut) == MAX_TEXT
    assert cut.endswith(f"xx ...; with it {STALE}")
