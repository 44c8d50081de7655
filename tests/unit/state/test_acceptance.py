"""Who may accept a node as it is: a person in spite of what is broken, the policy never."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import behind, bridge, nic
from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import accepted, agent, cards, graphics, reboot
from vfio_contract.artifact import decode, encode
from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.policy import SETTINGS, PolicyView
from vfio_contract.views import BaselineView, Decision, NodeView
from vfio_coordinator.state import keys
from vfio_coordinator.state.baseline_report import baseline_rows, baseline_view
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import Heartbeat, PolicySetRequested
from vfio_coordinator.state.model import State
from vfio_coordinator.state.policy import policy_value, policy_view
from vfio_coordinator.state.records import LedgerRecord, PolicyRecord
from vfio_coordinator.store.interface import Put, Txn

CARD = "function:0000:01:00.0"


def set_policy(cluster: Cluster, *changes: str, kind: Any = PolicyView) -> Any:
    pairs = tuple((name, value) for name, _, value in (text.partition("=") for text in changes))
    return cluster.ask(kind, lambda t: PolicySetRequested(ticket=t, changes=pairs, actor="root"))


def automatic(*functions: Any) -> tuple[Cluster, Agent]:
    """A cluster that accepts by itself, and a node that was."""
    cluster = Cluster()
    set_policy(cluster, "baseline=auto")
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
    set_policy(cluster, "baseline=auto")
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
    set_policy(cluster, "baseline=auto")
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
    set_policy(cluster, "baseline=auto")
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
    set_policy(cluster, "baseline=auto", "baseline-resets=proven")
    one = agent("pve01", *cards(2))
    cluster.join(one)
    cluster.observe(one)
    assert cluster.state.nodes["pve01"].baselines == ()
    proven(cluster, all_of_them=all_of_them)
    cluster.restart()
    cluster.join(one)
    cluster.observe(one)
    assert accepted_by(cluster) == (["auto:POLICY"] if all_of_them else [])


# --- settings ------------------------------------------------------------------------------------


def test_a_setting_is_durable_and_says_who_and_when() -> None:
    cluster = Cluster()
    assert {s.value for s in policy_view(cluster.state).settings} == {"person", "any"}
    set_policy(cluster, "baseline=auto")
    before = policy_view(cluster.state)
    cluster.restart()
    assert policy_view(cluster.state) == before
    row = next(e for e in cluster.state.log.values() if e.code == "POLICY_SET")
    assert (row.subject, row.actor) == ("cluster", "user:root")
    assert row.text == "baseline=auto (was person)"
    shown = next(s for s in before.settings if s.name == "baseline")
    assert (shown.value, shown.by, bool(shown.at), bool(shown.meaning)) == (
        "auto",
        "root",
        True,
        True,
    )


def test_setting_what_is_so_already_writes_nothing() -> None:
    cluster = Cluster()
    before = cluster.codes()
    set_policy(cluster, "baseline=person")
    assert cluster.codes() == before


@pytest.mark.parametrize(
    "changes",
    [
        ("nonsense=1",),
        ("baseline=perhaps",),
        ("baseline=",),
        ("baseline=auto", "baseline=person"),
        ("baseline=auto", "baseline-resets=often"),
    ],
)
def test_one_wrong_setting_refuses_all_of_them(changes: tuple[str, ...]) -> None:
    cluster = Cluster()
    refused = set_policy(cluster, *changes, kind=Failure)
    assert refused.code is ErrorCode.BAD_REQUEST
    assert policies(cluster.state) == {}


def policies(state: State) -> dict[str, str]:
    return {name: held.record.value for name, held in state.policies.items()}


def test_a_policy_that_changed_underneath_is_read_before_it_is_set() -> None:
    cluster = Cluster()
    key = keys.policy_key("baseline")
    theirs = PolicyRecord("baseline", "auto", "eve", "t")
    cluster.store.commit([Txn((), (Put(key, encode(theirs)),))])
    set_policy(cluster, "baseline=auto")
    item = cluster.store.get(key)
    assert item is not None
    assert decode(PolicyRecord, item.value).by == "eve", "it was so already"


def test_a_value_of_a_newer_version_counts_as_the_default() -> None:
    cluster = Cluster()
    record = PolicyRecord("baseline", "sometimes", "eve", "t")
    other = PolicyRecord("what-comes-later", "on", "eve", "t")
    ops = tuple(Put(keys.policy_key(r.name), encode(r)) for r in (record, other))
    cluster.store.commit([Txn((), ops)])
    cluster.restart()
    assert policy_value(cluster.state, SETTINGS["baseline"]) == "person"
    assert len(policy_view(cluster.state).settings) == len(SETTINGS)
    set_policy(cluster, "baseline=auto")
    assert policy_value(cluster.state, SETTINGS["baseline"]) == "auto"


def test_every_setting_has_two_values_that_say_what_they_mean() -> None:
    for setting in SETTINGS.values():
        assert len(setting.values) >= 2
        assert all(meaning for _, meaning in setting.values)
