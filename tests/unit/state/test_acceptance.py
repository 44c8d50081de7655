"""Who may accept a node as it is: a person in spite of what is broken, the policy never."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import behind, bridge, nic
from tests.fakes.vms import make_device, make_vm
from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import accepted, agent, cards, graphics, reboot, snapshot
from vfio_contract.artifact import encode
from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.codes import GROUP_WIDENED
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.policy import PolicyView
from vfio_contract.views import BaselineView, Decision, NodeView
from vfio_coordinator.state import keys
from vfio_coordinator.state.baseline_report import baseline_rows, baseline_view
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import Heartbeat
from vfio_coordinator.state.records import LedgerRecord
from vfio_coordinator.store.interface import Put, Txn

CARD = "function:0000:01:00.0"


def automatic(*functions: Any) -> tuple[Cluster, Agent]:
    """A cluster that accepts by itself, and a node that was."""
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto")
    one = agent("pve01", *(functions or cards(2)))
    cluster.join(one)
    cluster.observe(one)
    return cluster, one


def accepted_by(cluster: Cluster) -> list[str]:
    node = cluster.state.nodes["pve01"]
    return [row.record.accepted_by for row in node.baselines]


# --- a person ------------------------------------------------------------------------------------


def test_a_gate_that_fails_is_a_problem_and_changes_nothing() -> None:
    cluster = Cluster()
    one = agent("pve01", *cards(2))
    one.replaced = {("reset-capability", CARD): (Verdict.FAIL, "RESET_NONE")}
    cluster.join(one)
    before = cluster.state
    refused = cluster.accept(BaselineRefusal, "pve0")
    assert refused.node == "pve01"
    assert [problem.code for problem in refused.problems] == ["RESET_NONE"]
    assert "0000:01:00.0" in refused.problems[0].text
    assert cluster.state == before


def test_a_gate_that_cannot_be_judged_is_a_problem_too() -> None:
    cluster = Cluster()
    one = agent("pve01", *cards(2))
    one.replaced = {("reset-history", CARD): (Verdict.UNKNOWN, "HISTORY_UNKNOWN")}
    cluster.join(one)
    refused = cluster.accept(BaselineRefusal, "pve01")
    assert [problem.code for problem in refused.problems] == ["HISTORY_UNKNOWN"]


def test_all_that_stands_in_the_way_is_named_worst_first_with_what_to_do() -> None:
    lines = (make_vm(make_device("0000:03:00.0", line=4)),)
    cluster = Cluster()
    one = Agent("pve01", snapshot(*graphics(1, group=1), *cards(3, first_bus=2), vms=lines))
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    card, mate, other = (f"function:0000:0{at}" for at in ("1:00.0", "1:00.1", "2:00.0"))
    one.replaced = {
        ("reset-history", card): (Verdict.UNKNOWN, "HISTORY_UNKNOWN"),
        ("reset-capability", card): (Verdict.FAIL, "RESET_NONE"),
        ("reset-capability", mate): (Verdict.FAIL, "RESET_NONE"),
        ("driver-binding", other): (Verdict.UNKNOWN, "BINDING_UNKNOWN"),
        ("host-critical", other): (Verdict.FAIL, "HOST_CRITICAL"),
    }
    changed = (
        *graphics(1, group=1),
        *cards(1, first_bus=2),
        *cards(1, first_bus=7),
        *(replace(f, config=None) if f.is_bridge else f for f in cards(1, first_bus=4)),
    )
    one.snapshot = snapshot(*changed, boot=1, vms=lines)
    cluster.join(one)
    cluster.observe(one)
    problems = cluster.accept(BaselineRefusal, "pve01").problems
    assert [p.code for p in problems] == [
        "RESET_NONE",
        "HOST_CRITICAL",
        "VM_ADDRESS_STALE",
        "EVIDENCE_LOST",
        "HISTORY_UNKNOWN",
        "BINDING_UNKNOWN",
    ]
    assert all(f"0000:01:00.{n}: " in problems[0].text for n in (0, 1))
    asked = [p.next for p in problems]
    assert asked[:4] == [
        "what to do about RESET_NONE",
        "what to do about HOST_CRITICAL",
        "Edit that line.",
        "See what is missing: vfioctl check --node pve01",
    ]
    widened = tuple(replace(f, group=1) if f.group == 2 else f for f in changed)
    one.snapshot = snapshot(*widened, boot=2, vms=lines)
    cluster.join(one)
    first, *_ = cluster.accept(BaselineRefusal, "pve01").problems
    assert (first.code, first.next) == ("GROUP_WIDENED", GROUP_WIDENED.decision)


def test_harm_against_the_baseline_is_named_with_the_vms() -> None:
    cluster, one = accepted(*cards(2))
    cluster.place(Decision, ask_for("vm1"))
    reboot(cluster, one, *cards(2)[:1])
    refused = cluster.accept(BaselineRefusal, "pve01")
    assert {problem.code for problem in refused.problems} == {"DEVICE_VANISHED"}
    assert any("vm1" in problem.text for problem in refused.problems)


def test_a_forced_one_keeps_its_reason_and_what_it_was_forced_against() -> None:
    cluster, one = accepted(*cards(2))
    reboot(cluster, one, *cards(1))
    view = cluster.accept(BaselineView, "pve01", force=True, reason="  card moved to pve03 ")
    assert view.reason == "card moved to pve03"
    assert cluster.view("pve01").state == "ready"
    assert baseline_rows(cluster.state, "pve01")[1][0].reason == "card moved to pve03"
    row = next(e for e in cluster.state.log.values() if "card moved" in e.text)
    assert (row.code, row.actor) == ("BASELINE_ACCEPTED", "user:ann")
    assert "DEVICE_VANISHED" in row.text
    cluster.restart()
    assert baseline_view(cluster.state, "pve01").reason == "card moved to pve03"


@pytest.mark.parametrize(
    "changes",
    [
        {"force": True},
        {"force": True, "reason": "   "},
        {"force": True, "reason": "two\nlines"},
        {"reason": "without force"},
    ],
)
def test_force_and_reason_come_together(changes: dict[str, object]) -> None:
    cluster, _ = accepted(*cards(2))
    before = cluster.state
    assert cluster.accept(Failure, "pve01", **changes).code is ErrorCode.BAD_REQUEST
    assert cluster.state == before


def test_a_split_group_waits_for_a_person_who_needs_no_force() -> None:
    cluster, one = accepted(*graphics(1, group=1))
    apart = tuple(
        replace(f, group=2) if f.address.endswith("00.1") else f for f in graphics(1, group=1)
    )
    view = reboot(cluster, one, *apart)
    assert view.state == "revalidating"
    assert "vfioctl baseline accept pve01" in next(
        r.text for r in view.reasons if r.code == "GROUP_SPLIT"
    )
    cluster.accept(BaselineView, "pve01")
    assert cluster.view("pve01").state == "ready"


# --- the policy ----------------------------------------------------------------------------------


def test_nobody_but_a_person_accepts_by_default() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01"))
    assert cluster.state.nodes["pve01"].baselines == ()


def test_the_policy_accepts_a_validated_node_once_and_says_so() -> None:
    cluster, one = automatic()
    assert accepted_by(cluster) == ["auto:POLICY"]
    for _ in range(3):
        cluster.observe(one)
        cluster.send(Heartbeat("pve01", one.session))
    assert accepted_by(cluster) == ["auto:POLICY"]
    row = next(e for e in cluster.state.log.values() if e.code == "BASELINE_ACCEPTED")
    assert row.actor == "auto:POLICY"
    (kept,) = cluster.state.nodes["pve01"].baselines
    assert kept.record.policy
    assert len(kept.record.passed) == 2


def test_the_policy_follows_a_firmware_update_that_lost_nothing() -> None:
    cluster, one = automatic()
    view = reboot(cluster, one, *cards(2), bios="F11")
    cluster.observe(one)
    view = cluster.view("pve01")
    assert (view.state, view.drift) == ("ready", ())
    assert len(accepted_by(cluster)) == 2


def test_facts_that_no_drift_sees_are_no_news() -> None:
    cluster, one = automatic()
    facts = replace(one.snapshot.facts, memory_total_bytes=1 << 30)
    cluster.change(one, replace(one.snapshot, facts=facts))
    cluster.observe(one)
    assert len(accepted_by(cluster)) == 1


def test_an_unknown_firmware_is_accepted_once_and_not_again_and_again() -> None:
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto")
    one = agent("pve01")
    firmware = replace(
        one.snapshot.facts.firmware,
        **dict.fromkeys(("bios_version", "bmc_revision", "microcode", "attributes")),
    )
    kernel = replace(one.snapshot.facts.kernel, release=None, build=None)
    facts = replace(one.snapshot.facts, firmware=firmware, kernel=kernel, cmdline=None)
    one.snapshot = replace(one.snapshot, facts=facts)
    cluster.join(one)
    for _ in range(4):
        cluster.observe(one)
    assert len(accepted_by(cluster)) == 1


@pytest.mark.parametrize(
    ("functions", "state"),
    [
        (cards(1), "cordoned"),
        (tuple(replace(f, group=2) if f.group == 1 else f for f in cards(2)), "cordoned"),
    ],
)
def test_the_policy_never_accepts_harm(functions: Any, state: str) -> None:
    cluster, one = automatic()
    reboot(cluster, one, *functions, bios="F11")
    cluster.observe(one)
    assert cluster.view("pve01").state == state
    assert len(accepted_by(cluster)) == 1


def test_the_policy_never_accepts_what_a_person_waived() -> None:
    cluster, one = automatic()
    reboot(cluster, one, *cards(1), bios="F11")
    cluster.uncordon(NodeView, "pve01")
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
    assert len(accepted_by(cluster)) == 1


def test_the_policy_never_ends_a_wait_for_a_person() -> None:
    cluster, one = automatic(*graphics(1, group=1))
    apart = tuple(
        replace(f, group=2) if f.address.endswith("00.1") else f for f in graphics(1, group=1)
    )
    reboot(cluster, one, *apart)
    cluster.observe(one)
    assert cluster.view("pve01").state == "revalidating"
    assert len(accepted_by(cluster)) == 1


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.UNKNOWN])
def test_the_policy_needs_every_intended_unit_to_pass(verdict: Verdict) -> None:
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto")
    one = agent("pve01", *cards(2))
    one.replaced = {("reset-capability", CARD): (verdict, "RESET_NONE")}
    cluster.join(one)
    cluster.observe(one)
    assert cluster.state.nodes["pve01"].baselines == ()
    one.replaced = {}
    cluster.observe(one)
    assert accepted_by(cluster) == ["auto:POLICY"]


def test_the_policy_never_accepts_a_loss_that_concerns_no_unit() -> None:
    port = bridge("0000:00:09.0", group=90)
    other = behind(port, nic("0000:09:00.0", group=91, device=0x10D3, driver="igb"))
    cluster, one = automatic(*cards(1), *other)
    view = reboot(cluster, one, *cards(1), bios="F11")
    cluster.observe(one)
    assert view.state == "ready"
    assert {c.code for c in view.drift} == {"DEVICE_VANISHED", "FIRMWARE_CHANGED"}
    assert len(accepted_by(cluster)) == 1


def test_the_policy_leaves_a_node_alone_that_a_person_cordoned() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.cordon(NodeView, "pve01", reason="new BIOS tonight")
    cluster.set_policy(PolicyView, "baseline=auto")
    cluster.observe(one)
    assert cluster.state.nodes["pve01"].baselines == ()
    cluster.uncordon(NodeView, "pve01")
    cluster.observe(one)
    assert accepted_by(cluster) == ["auto:POLICY"]


def proven(cluster: Cluster, *, all_of_them: bool) -> None:
    node = cluster.state.nodes["pve01"]
    assert node.inventory is not None
    rows = [place for unit in node.inventory.units for place in unit.places]
    for identity, _, _ in rows if all_of_them else rows[:1]:
        record = LedgerRecord("pve01", identity, "proven", 2, 0, "success", "", "", "t")
        digest = node.inventory.firmware_digest
        record = replace(record, firmware=digest, agent_state="state-pve01")
        key = keys.ledger_key("pve01", identity)
        cluster.store.commit([Txn((), (Put(key, encode(record)),))])


@pytest.mark.parametrize("all_of_them", [False, True])
def test_proven_resets_are_asked_of_every_intended_unit(all_of_them: bool) -> None:
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto", "baseline-resets=proven")
    one = agent("pve01", *cards(2))
    cluster.join(one)
    cluster.observe(one)
    assert cluster.state.nodes["pve01"].baselines == ()
    proven(cluster, all_of_them=all_of_them)
    cluster.restart()
    cluster.join(one)
    cluster.observe(one)
    assert accepted_by(cluster) == (["auto:POLICY"] if all_of_them else [])
