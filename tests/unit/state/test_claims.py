"""Placing and releasing through the store: idempotence, conflicts, unknown outcomes, restarts.

Length: one table of situations around a claim; each is a few lines, and they are read side by side.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import config_space
from tests.unit.state.cluster import Cluster, ask_for, store_text
from tests.unit.state.hosts import agent, cards, graphics
from vfio_contract.artifact import decode
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.model import Holder
from vfio_contract.views import Decision, Placement, PlaceRequest, Refusal, VmView
from vfio_coordinator.scheduler.gates import GATES
from vfio_coordinator.state import explain, keys, report
from vfio_coordinator.state.effects import Commit, Failure
from vfio_coordinator.state.events import CordonRequested, ReleaseRequested
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.records import Claim, VmRecord
from vfio_coordinator.store.interface import MAX_TXN_KEYS, Put, Txn


def ready(*names: str, count: int = 2) -> Cluster:
    cluster = Cluster()
    cluster.join(*(agent(name, *cards(count)) for name in names or ("pve01",)))
    return cluster


def placed(decision: Decision) -> Placement:
    assert decision.refusal is None, decision.refusal
    assert decision.placement is not None
    return decision.placement


def refused(decision: Decision) -> Refusal:
    assert decision.placement is None, decision.placement
    assert decision.refusal is not None
    return decision.refusal


def test_a_claim_is_durable_complete_and_proved() -> None:
    cluster = ready()
    placement = placed(cluster.place(Decision, ask_for("vm1")))
    assert (placement.node, placement.generation) == ("pve01", 1)
    (unit,) = placement.units
    gates = [proof.gate for proof in unit.proof]
    assert gates == ["heard", "admitted", *(gate.check for gate in GATES), "free"]
    assert all(proof.verdict is Verdict.PASS and proof.evidence for proof in unit.proof)
    item = cluster.store.get(keys.claim_key("vm1", 1))
    assert item is not None
    claim = decode(Claim, item.value)
    assert claim.units[0].proof == unit.proof
    assert claim.token == placement.token
    assert claim.boot_id == cluster.state.nodes["pve01"].boot_id
    assert store_text(cluster.store, keys.UNITS) == [
        keys.unit_key("pve01", key) for key in claim.keys
    ]
    assert cluster.codes()[-1] == "VM_PLACED"
    view = cluster.view("pve01")
    assert (view.units_free, view.vms) == (1, ("vm1",))


def test_a_claims_transaction_compares_what_it_rests_on() -> None:
    cluster = ready()
    cluster.held = True
    cluster.place_later(ask_for("vm1"))
    ((_, txn),) = cluster.queue
    compared = {c.key for c in txn.compares}
    units = {key for key in compared if key.startswith(keys.UNITS)}
    assert compared - units == {
        keys.META_EPOCH,
        keys.node_key("pve01"),
        keys.claim_key("vm1", 1),
        keys.vm_key("vm1"),
    }
    assert units == {op.key for op in txn.ops if op.key.startswith(keys.UNITS)}
    assert [op.key for op in txn.ops if op.key.startswith(keys.EVENTS)]


def test_a_releases_transaction_compares_the_claim_that_it_takes_away() -> None:
    cluster = ready()
    cluster.place(Decision, ask_for("vm1"))
    cluster.held = True
    cluster.ask_later(lambda t: _release(t, "vm1"))
    ((_, txn),) = cluster.queue
    assert {c.key for c in txn.compares} == {
        keys.META_EPOCH,
        keys.claim_key("vm1", 1),
        keys.vm_key("vm1"),
    }


def test_pending_units_are_taken_at_once_and_replies_come_after_the_commit() -> None:
    cluster = ready()
    cluster.held = True
    first = cluster.place_later(ask_for("vm1"))
    second = cluster.place_later(ask_for("vm2"))
    third = cluster.place_later(ask_for("vm3"))
    assert first not in cluster.replies
    assert refused(cluster.replies[third]).stages[0].stage == "free"
    assert [u.state for u in cluster.view("pve01").units if u.intended] == ["pending"] * 2
    cluster.settle_store()
    one, two = placed(cluster.replies[first]), placed(cluster.replies[second])
    assert one.units[0].unit != two.units[0].unit
    assert two.token > one.token


def test_a_retry_gets_the_same_claim() -> None:
    cluster = ready()
    request = ask_for("vm1", request_id="r1")
    one = placed(cluster.place(Decision, request))
    assert placed(cluster.place(Decision, request)) == one
    cluster.restart()
    assert placed(cluster.place(Decision, request)) == one
    assert len(store_text(cluster.store, keys.CLAIMS)) == 1


def test_a_retry_while_the_first_is_being_written_gets_the_same_claim() -> None:
    cluster = ready()
    cluster.held = True
    request = ask_for("vm1", request_id="r1")
    tickets = [cluster.place_later(request) for _ in range(3)]
    other = cluster.place_later(replace(request, request_id="r2"))
    assert cluster.replies[other].code is ErrorCode.CONFLICT
    cluster.settle_store()
    assert len({placed(cluster.replies[t]).token for t in tickets}) == 1


def test_another_request_for_a_vm_with_a_claim_is_refused() -> None:
    cluster = ready()
    cluster.place(Decision, ask_for("vm1", request_id="r1"))
    assert cluster.place(Failure, ask_for("vm1", request_id="r2")).code is ErrorCode.VM_EXISTS
    assert cluster.place(Failure, ask_for("vm1")).code is ErrorCode.VM_EXISTS


def test_a_dry_run_reserves_nothing() -> None:
    cluster = ready()
    first = len(cluster.effects)
    placement = placed(cluster.place(Decision, ask_for("vm1", dry_run=True)))
    assert (placement.token, placement.generation) == (0, 0)
    assert not [e for e in cluster.effects[first:] if isinstance(e, Commit)]
    assert cluster.view("pve01").units_free == 2


def test_release_frees_and_generations_are_never_reused() -> None:
    cluster = ready()
    one = placed(cluster.place(Decision, ask_for("vm1")))
    view = cluster.release(VmView, "vm1")
    assert (view.name, view.generation) == ("vm1", 1)
    assert not store_text(cluster.store, keys.UNITS)
    assert not store_text(cluster.store, keys.CLAIMS)
    assert cluster.view("pve01").units_free == 2
    cluster.restart()
    cluster.join(agent("pve01"))
    two = placed(cluster.place(Decision, ask_for("vm1")))
    assert two.generation == 2
    assert two.token > one.token
    assert cluster.release(Failure, "nobody").code is ErrorCode.UNKNOWN_VM


def test_units_stay_claimed_until_the_release_is_durable() -> None:
    cluster = ready(count=1)
    cluster.place(Decision, ask_for("vm1"))
    cluster.held = True
    ticket = cluster.ask_later(lambda t: _release(t, "vm1"))
    assert refused(cluster.replies[cluster.place_later(ask_for("vm2"))])
    again = cluster.ask_later(lambda t: _release(t, "vm1"))
    assert cluster.replies[again].code is ErrorCode.CONFLICT
    cluster.settle_store()
    assert isinstance(cluster.replies[ticket], VmView)
    cluster.held = False
    assert placed(cluster.place(Decision, ask_for("vm2")))


def _release(ticket: int, vm: str) -> ReleaseRequested:
    return ReleaseRequested(ticket=ticket, vm=vm, actor="ann")


@pytest.mark.parametrize("landed", [True, False])
def test_an_unknown_outcome_stays_pending_until_it_was_read_back(landed: bool) -> None:
    cluster = ready(count=1)
    cluster.held = True
    ticket = cluster.place_later(ask_for("vm1"))
    cluster.lose_answer(landed=landed)
    cluster.settle_store()
    # Not landed: it was decided again, on a unit that was freed first.
    assert placed(cluster.replies[ticket]).node == "pve01"
    assert len(list(store_text(cluster.store, keys.CLAIMS))) == 1


def test_a_failed_compare_teaches_and_is_decided_again() -> None:
    cluster = ready("pve01", "pve02", count=1)
    cluster.held = True
    ticket = cluster.place_later(ask_for("vm1"))
    node = cluster.store.get(keys.node_key("pve01"))
    assert node is not None
    cordoned = node.value.replace(
        b'"cordons":[]',
        b'"cordons":[{"at":"","causes":[],"code":"NODE_CORDONED","owner":"user:x","text":"t"}]',
    )
    cluster.store.commit([Txn((), (Put(node.key, cordoned),))])
    cluster.settle_store()
    assert placed(cluster.replies[ticket]).node == "pve02"
    assert cluster.view("pve01").state == "cordoned"


def test_endless_conflicts_end() -> None:
    cluster = Cluster(limits=Limits(place_attempts=2))
    cluster.join(agent("pve01", *cards(3)))
    cluster.held = True
    ticket = cluster.place_later(ask_for("vm1"))
    while cluster.queue:
        _, txn = cluster.queue[0]
        units = [op.key for op in txn.ops if op.key.startswith(keys.UNITS)]
        taken = b'{"generation":1,"identity":"%s","node":"pve01","token":1,"vm":"thief"}'
        for key in units:
            value = taken.replace(b"%s", key.removeprefix("units/pve01/").encode())
            cluster.store.commit([Txn((), (Put(key, value.replace(b"\\", b"\\\\")),))])
        cluster.commit_one()
    assert cluster.replies[ticket].code is ErrorCode.CONFLICT
    assert cluster.view("pve01").units_free == 1


def test_another_leader_ends_this_one() -> None:
    cluster = ready()
    cluster.held = True
    ticket = cluster.place_later(ask_for("vm1"))
    cluster.store.commit([Txn((), (Put(keys.META_EPOCH, b"{}"),))])
    cluster.settle_store()
    assert cluster.stepped_down
    assert cluster.replies[ticket].code is ErrorCode.SHUTTING_DOWN
    assert not list(store_text(cluster.store, keys.CLAIMS))
    assert cluster.place(Failure, ask_for("vm2")).code is ErrorCode.SHUTTING_DOWN
    cluster.wait(100)
    assert not cluster.queue


def test_a_restart_keeps_claims_and_frees_nothing_unheard() -> None:
    cluster = ready("pve01", "pve02")
    one = placed(cluster.place(Decision, ask_for("vm1", "nic=2")))
    cluster.restart()
    view = cluster.view(one.node)
    assert [u.state for u in view.units] == ["claimed", "claimed"]
    (vm,) = report.vm_views(cluster.state, cluster.now)
    assert (vm.state, vm.node) == ("unknown", one.node)
    cluster.join(agent("pve01"), agent("pve02"))
    two = placed(cluster.place(Decision, ask_for("vm2", "nic=2")))
    assert two.node != one.node
    assert refused(cluster.place(Decision, ask_for("vm3")))


def test_tokens_grow_across_restarts() -> None:
    cluster = ready(count=8)
    last = 0
    for number in range(6):
        token = placed(cluster.place(Decision, ask_for(f"vm{number}"))).token
        assert token > last
        last = token
        if number % 2:
            cluster.restart()
            cluster.join(agent("pve01", *cards(8)))


def test_every_interruption_point_of_a_placement_leaves_all_or_nothing() -> None:
    for commits in range(3):
        cluster = ready(count=1)
        cluster.held = True
        cluster.place_later(ask_for("vm1"))
        for _ in range(commits):
            if cluster.queue:
                cluster.commit_one()
        cluster.held = False
        cluster.restart()
        cluster.join(agent("pve01", *cards(1)))
        claims = list(store_text(cluster.store, keys.CLAIMS))
        held = list(store_text(cluster.store, keys.UNITS))
        assert bool(claims) == bool(held) == bool(commits)
        assert cluster.view("pve01").units_free == (0 if claims else 1)


def test_a_held_unit_is_foreign_and_not_given() -> None:
    cluster = Cluster()
    one = agent("pve01")
    readings = one.snapshot.readings
    one.snapshot = replace(
        one.snapshot, readings=replace(readings, holders=(Holder("/dev/vfio/1", 77, "qemu"),))
    )
    cluster.join(one)
    assert [u.state for u in cluster.view("pve01").units] == ["foreign", "free"]
    assert placed(cluster.place(Decision, ask_for("vm1"))).units[0].assign == ("0000:02:00.0",)
    assert refused(cluster.place(Decision, ask_for("vm2"))).stages[0].stage == "free"


def test_our_own_vm_that_runs_is_claimed_not_foreign() -> None:
    cluster = ready(count=1)
    cluster.place(Decision, ask_for("vm1"))
    one = agent("pve01", *cards(1))
    readings = one.snapshot.readings
    one.snapshot = replace(
        one.snapshot, readings=replace(readings, holders=(Holder("/dev/vfio/1", 77, "qemu"),))
    )
    cluster.join(one)
    assert [u.state for u in cluster.view("pve01").units] == ["claimed"]
    assert cluster.view("pve01").state == "ready"


@pytest.mark.parametrize(
    "request_",
    [
        ask_for("Bad Name"),
        replace(ask_for("vm1"), devices=()),
        ask_for("vm1", "gpu=0"),
        ask_for("vm1", "gpu=-3"),
        ask_for("vm1", "toaster=1"),
        ask_for("vm1", "nic=65"),
        ask_for("vm1", allow=("everything",)),
    ],
)
def test_bad_requests(request_: PlaceRequest) -> None:
    cluster = ready()
    assert cluster.place(Failure, request_).code is ErrorCode.BAD_REQUEST


def test_an_unknown_pin_and_a_prefix() -> None:
    cluster = ready("pve01", "pve02")
    answer = cluster.place(Failure, ask_for("vm1", node="nowhere"))
    assert answer.code is ErrorCode.UNKNOWN_NODE
    assert cluster.place(Failure, ask_for("vm1", node="pve")).code is ErrorCode.BAD_REQUEST
    assert placed(cluster.place(Decision, ask_for("vm1", node="pve02"))).node == "pve02"


def test_a_request_of_too_many_keys_is_refused_with_that_reason() -> None:
    cluster = Cluster()
    config = config_space(multifunction=True)
    rows = [
        replace(f, config=replace(config, serial_number=f"00-00-00-00-00-00-00-{n:02x}"))
        if f.parent
        else f
        for n in range(1, 31)
        for f in graphics(n, group=n)
    ]
    cluster.join(agent("pve01", *rows))
    answer = cluster.place(Failure, ask_for("vm1", "gpu=30"))
    assert answer.code is ErrorCode.BAD_REQUEST
    assert str(MAX_TXN_KEYS) in answer.detail
    assert cluster.view("pve01").units_free == 30
    assert placed(cluster.place(Decision, ask_for("vm1", "gpu=8")))


def test_a_host_with_odd_text_in_its_identities_can_be_claimed() -> None:
    cluster = Cluster()
    rows = [replace(f, root_path="\\_SB .\xff " + "x" * 600) for f in cards(1)]
    one = agent("pve01", *rows)
    cluster.join(one)
    assert placed(cluster.place(Decision, ask_for("vm1")))
    cluster.restart()
    cluster.join(one)
    assert refused(cluster.place(Decision, ask_for("vm2")))


def test_a_cordon_between_decision_and_commit_wins() -> None:
    cluster = ready()
    cluster.held = True
    cluster.ask_later(lambda t: CordonRequested(ticket=t, node="pve01", actor="a", reason="r"))
    ticket = cluster.place_later(ask_for("vm1"))
    assert refused(cluster.replies[ticket])
    cluster.settle_store()
    assert cluster.view("pve01").state == "cordoned"


def test_explain_says_where_a_vm_is_and_why_another_is_not() -> None:
    cluster = ready("pve01", "pve02", count=1)
    cluster.place(Decision, ask_for("vm1"))
    cluster.place(Decision, ask_for("vm2"))
    refusal = refused(cluster.place(Decision, ask_for("vm3", "nic=1")))
    assert sum(s.nodes for s in refusal.stages) == refusal.nodes_total == len(refusal.nodes) == 2
    decision, view = report.explain(cluster.state, "vm1", cluster.now)
    assert view is not None
    assert placed(decision).node == view.node
    assert {p.verdict for u in placed(decision).units for p in u.proof} == {Verdict.PASS}
    decision, view = report.explain(cluster.state, "vm3", cluster.now)
    assert view is None
    assert [n.node for n in refused(decision).nodes] == ["pve01", "pve02"]
    cluster.release(VmView, "vm1")
    decision, _ = report.explain(cluster.state, "vm3", cluster.now)
    assert placed(decision).token == 0
    assert placed(cluster.place(Decision, ask_for("vm3")))


def test_explain_shows_a_claimed_unit_that_would_be_refused_now() -> None:
    cluster = ready(count=1)
    cluster.place(Decision, ask_for("vm1"))
    one = agent("pve01", *cards(1))
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_WEDGED")}
    cluster.join(one)
    decision, view = report.explain(cluster.state, "vm1", cluster.now)
    assert view is not None
    assert "RESET_WEDGED" in view.at_risk
    (proof,) = placed(decision).units[0].proof
    assert (proof.gate, proof.verdict) == ("reset-history", Verdict.FAIL)
    cluster.close(one)
    decision, _ = report.explain(cluster.state, "vm1", cluster.now)
    assert placed(decision).units[0].proof[0].verdict is Verdict.UNKNOWN


def test_the_proof_of_a_placement_never_stands_among_the_evidence_of_now() -> None:
    cluster = ready(count=1)
    cluster.place(Decision, ask_for("vm1"))
    then = explain.placed_as(cluster.state, "vm1")
    assert then is not None
    assert {p.verdict for p in then.units[0].proof} == {Verdict.PASS}
    cluster.restart()
    decision, view = report.explain(cluster.state, "vm1", cluster.now)
    assert view is not None
    (row,) = placed(decision).units[0].proof
    assert (row.gate, row.verdict, row.age_s) == ("heard", Verdict.UNKNOWN, -1.0)
    assert row.evidence == ("not heard since the coordinator's start",)
    assert explain.placed_as(cluster.state, "vm1") == then
    assert explain.placed_as(cluster.state, "vm2") is None


def test_a_claimed_unit_that_is_in_no_inventory_is_unknown_on_a_node_that_is_heard() -> None:
    cluster = ready(count=1)
    cluster.place(Decision, ask_for("vm1"))
    cluster.join(agent("pve01", *cards(1)[:1]))
    decision, _ = report.explain(cluster.state, "vm1", cluster.now)
    rows = [(p.gate, p.verdict) for p in placed(decision).units[0].proof]
    assert rows == [("admitted", Verdict.FAIL), ("model", Verdict.UNKNOWN)]


def test_remembered_refusals_are_bounded() -> None:
    cluster = Cluster(limits=Limits(refusals_kept=3))
    for number in range(6):
        cluster.place(Decision, ask_for(f"vm{number}"))
    assert set(cluster.state.refused) == {"vm3", "vm4", "vm5"}


def test_the_event_log_is_bounded_in_memory_and_store() -> None:
    cluster = Cluster(limits=Limits(events_kept=10))
    cluster.join(agent("pve01", *cards(1)))
    for _ in range(12):
        cluster.place(Decision, ask_for("vm1"))
        cluster.release(VmView, "vm1")
    assert len(list(store_text(cluster.store, keys.EVENTS))) == 10
    rows, last = report.list_events(cluster.state)
    assert len(rows) == 10
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    assert last == rows[-1].seq
    cluster.restart()
    again, later = report.list_events(cluster.state)
    assert later == last + 1
    assert again[:-1] == rows[1:]


def test_an_old_log_is_trimmed_at_the_start() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01", *cards(1)))
    for _ in range(20):
        cluster.place(Decision, ask_for("vm1"))
        cluster.release(VmView, "vm1")
    cluster.limits = Limits(events_kept=5)
    cluster.restart()
    assert len(list(store_text(cluster.store, keys.EVENTS))) <= 5


def test_the_vm_record_names_owner_and_last_generation() -> None:
    cluster = ready()
    cluster.place(Decision, ask_for("vm1"))

    def record() -> VmRecord:
        item = cluster.store.get(keys.vm_key("vm1"))
        assert item is not None
        return decode(VmRecord, item.value)

    assert (record().node, record().generation, record().last_generation) == ("pve01", 1, 1)
    cluster.release(VmView, "vm1")
    assert (record().node, record().generation, record().last_generation) == ("", 0, 1)


def test_identical_inputs_give_identical_effects() -> None:
    def run() -> list[object]:
        cluster = ready("pve03", "pve01", "pve02")
        for number in range(4):
            cluster.place(Decision, ask_for(f"vm{number}"))
        return list(cluster.effects)

    assert run() == run()


def test_the_old_state_is_untouched() -> None:
    cluster = ready()
    before = cluster.state
    entries = dict(before.index.entries)
    cluster.place(Decision, ask_for("vm1"))
    assert not before.claims
    assert not before.nodes["pve01"].held
    assert dict(before.index.entries) == entries
