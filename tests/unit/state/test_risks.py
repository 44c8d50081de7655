"""Risk decisions in the reducer: what they permit, how they end, and what survives.

Length: one table of situations around a decision; each is a few lines, and they are read side by
side.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.state.cluster import Agent, Cluster, ask_for, risk_request, store_text
from tests.unit.state.hosts import agent, cards
from vfio_contract.artifact import decode, encode
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.views import (
    ClusterStatus,
    Decision,
    HealthItem,
    NodeView,
    Placement,
    PlaceRequest,
    Refusal,
    RiskView,
)
from vfio_coordinator.scheduler.gates import ALLOWS
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.effects import Commit, Failure, Reply
from vfio_coordinator.state.events import PlaceRequested, RiskRevokeRequested, Tick
from vfio_coordinator.state.records import Claim, RiskRecord
from vfio_coordinator.state.restore import RestoreError
from vfio_coordinator.store.interface import Put, Txn
from vfio_coordinator.store.memory import MemoryStore

CODE = "ACS_OVERRIDE"
ALLOWED = ("acs-override",)
COMMAND = "vfioctl risk accept --node {} --code ACS_OVERRIDE --reason TEXT --until DATE"
LAST = "2027-03-01T23:59:59Z"
AFTER = "2027-03-02T00:00:00Z"

SUBJECTS = {
    "ACS_OVERRIDE": ("group-isolation", "group:1"),
    "UNSAFE_INTERRUPTS": ("interrupt-remapping", "node"),
    "RESET_ONE_SHOT": ("reset-history", "function:0000:01:00.0"),
}


def risky(name: str = "pve01", code: str = CODE) -> Agent:
    """One card, with this risk."""
    one = agent(name, *cards(1))
    one.replaced = {SUBJECTS[code]: (Verdict.WARN, code)}
    return one


def with_risk(*names: str, code: str = CODE) -> Cluster:
    cluster = Cluster()
    cluster.join(*(risky(name, code) for name in names or ("pve01",)))
    return cluster


def want(vm: str = "vm1", **changes: object) -> PlaceRequest:
    return ask_for(vm, **({"allow": ALLOWED} | changes))


def placed(decision: Decision) -> Placement:
    assert decision.refusal is None, decision.refusal
    assert decision.placement is not None
    return decision.placement


def refused(decision: Decision) -> Refusal:
    assert decision.placement is None, decision.placement
    assert decision.refusal is not None
    return decision.refusal


def reason_of(refusal: Refusal) -> str:
    (row,) = refusal.nodes
    assert row.stage == "isolation"
    return row.reason


def health(cluster: Cluster) -> dict[str, HealthItem]:
    return {item.code: item for item in status(cluster).items}


def status(cluster: Cluster) -> ClusterStatus:
    return report.status(cluster.state, cluster.now)


def stored(cluster: Cluster, node: str = "pve01", code: str = CODE) -> RiskRecord:
    item = cluster.store.get(keys.risk_key(node, code))
    assert item is not None
    return decode(RiskRecord, item.value)


# --- what a decision permits ---------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(ALLOWS))
def test_refused_then_accepted_then_placed_with_the_decision_in_the_proof(code: str) -> None:
    cluster = with_risk(code=code)
    asked = want(allow=(ALLOWS[code],))
    before = refused(cluster.place(Decision, asked))
    (row,) = before.nodes
    assert "no risk decision recorded" in row.reason
    assert COMMAND.format("pve01").replace(CODE, code) in row.reason
    assert [near.command for near in before.nearest] == [
        COMMAND.format("pve01").replace(CODE, code)
    ]
    view = cluster.accept_risk(RiskView, "pve01", code=code, actor="ops")
    assert (view.state, view.accepted_by, view.until) == ("accepted", "ops", LAST)
    assert (view.seen, view.vms) == ("yes", ())
    lacking = refused(cluster.place(Decision, replace(asked, allow=())))
    assert lacking.stages[0].stage == before.stages[0].stage
    assert "request lacks --allow" in lacking.nodes[0].reason
    assert "risk decision" not in lacking.nodes[0].reason
    placement = placed(cluster.place(Decision, asked))
    (proof,) = [p for p in placement.units[0].proof if p.gate == "risk-decision"]
    assert (proof.verdict, proof.code) == (Verdict.WARN, code)
    assert "risk accepted by ops until 2027-03-01: one tenant" in proof.evidence[0]
    assert view.id in proof.evidence[0]
    claim = cluster.state.claims[("vm1", 1)].claim
    assert claim.risks == (code,)
    assert cluster.revoke_risk(RiskView, node="pve01", code=code).vms == ("vm1",)


def test_a_decision_is_for_its_node_and_its_code() -> None:
    cluster = with_risk("pve01", "pve02")
    cluster.accept_risk(RiskView, "pve02")
    cluster.accept_risk(RiskView, "pve01", code="RESET_ONE_SHOT")
    assert placed(cluster.place(Decision, want())).node == "pve02"
    assert "no risk decision recorded" in reason_of(
        refused(cluster.place(Decision, want("vm2", node="pve01")))
    )


def test_a_unit_without_the_risk_needs_no_decision() -> None:
    cluster = Cluster()
    one = agent("pve01", *cards(2))
    one.replaced = {SUBJECTS[CODE]: (Verdict.WARN, CODE)}
    cluster.join(one)
    placement = placed(cluster.place(Decision, ask_for("vm1")))
    assert placement.units[0].assign == ("0000:02:00.0",)
    assert "risk-decision" not in {p.gate for p in placement.units[0].proof}
    assert cluster.state.claims[("vm1", 1)].claim.risks == ()


def test_a_decision_never_lets_a_failing_gate_pass() -> None:
    cluster = Cluster()
    one = risky()
    one.replaced = {**one.replaced, ("group-isolation", "group:1"): (Verdict.FAIL, "GROUP_DIRTY")}
    cluster.join(one)
    for code in ALLOWS:
        cluster.accept_risk(RiskView, "pve01", code=code)
    everything = tuple(sorted(ALLOWS.values()))
    assert refused(cluster.place(Decision, want(allow=everything))).stages[0].stage == "isolation"


def test_a_decision_may_come_before_the_risk_is_seen() -> None:
    cluster = Cluster()
    one = agent("pve01", *cards(1))
    cluster.join(one)
    assert cluster.accept_risk(RiskView, "pve01").seen == "no"
    one.replaced = {SUBJECTS[CODE]: (Verdict.WARN, CODE)}
    cluster.observe(one)
    assert placed(cluster.place(Decision, want()))
    cluster.close(one)
    (view,) = report.risk_views(cluster.state)
    assert view.seen == "unknown"


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"node": "pve09"}, ErrorCode.UNKNOWN_NODE, "pve09"),
        ({"node": "pve0"}, ErrorCode.BAD_REQUEST, "fits several"),
        ({"node": ""}, ErrorCode.UNKNOWN_NODE, "''"),
        ({"code": "GROUP_DIRTY"}, ErrorCode.BAD_REQUEST, "code: 'GROUP_DIRTY'"),
        ({"reason": " "}, ErrorCode.BAD_REQUEST, "reason: it is empty"),
        ({"reason": "a\x1b"}, ErrorCode.BAD_REQUEST, "reason: it holds control"),
        ({"until": "forever"}, ErrorCode.BAD_REQUEST, "end: 'forever'"),
        ({"until": "2026-11-21"}, ErrorCode.BAD_REQUEST, "end: '2026-11-21' is not after"),
    ],
)
def test_what_is_no_decision_is_refused_and_changes_nothing(
    changes: dict[str, str], code: ErrorCode, words: str
) -> None:
    cluster = with_risk("pve01", "pve02")
    before = cluster.state
    failure = cluster.accept_risk(Failure, **({"node": "pve01"} | changes))
    assert (failure.code, words in failure.detail) == (code, True), failure
    assert cluster.state == before


def test_a_node_may_be_named_by_a_unique_prefix() -> None:
    cluster = with_risk("pve01", "other")
    assert cluster.accept_risk(RiskView, "pv").node == "pve01"
    assert cluster.revoke_risk(RiskView, node="p", code=CODE).node == "pve01"


def test_a_new_decision_takes_the_place_of_the_last_and_the_log_keeps_both() -> None:
    cluster = with_risk()
    first = cluster.accept_risk(RiskView, "pve01", actor="ann")
    second = cluster.accept_risk(RiskView, "pve01", actor="bob", until="2027-06-01", reason="more")
    assert second.id != first.id
    assert [(v.id, v.accepted_by) for v in report.risk_views(cluster.state)] == [(second.id, "bob")]
    assert store_text(cluster.store, keys.RISKS) == [keys.risk_key("pve01", CODE)]
    rows, _ = report.list_events(cluster.state, node="pve01")
    told = [(r.actor, r.text) for r in rows if r.code == "RISK_ACCEPTED"]
    assert [actor for actor, _ in told] == ["user:ann", "user:bob"]
    assert f"{CODE}: risk accepted until 2027-03-01: one tenant ({first.id})" == told[0][1]
    assert f"instead of {first.id} of ann, until 2027-03-01" in told[1][1]
    gone = cluster.revoke_risk(Failure, id=first.id)
    assert gone.code is ErrorCode.UNKNOWN_RISK


def test_a_revocation_names_who_and_permits_nothing_more() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    view = cluster.revoke_risk(RiskView, node="pve01", code=CODE, actor="eve")
    assert (view.state, view.ended_by, view.ended_at) == ("revoked", "eve", cluster.now.utc)
    rows, _ = report.list_events(cluster.state, node="pve01")
    assert (rows[-1].code, rows[-1].actor) == ("RISK_REVOKED", "user:eve")
    text = reason_of(refused(cluster.place(Decision, want())))
    assert "the risk decision of ann was revoked by eve" in text
    again = cluster.revoke_risk(Failure, node="pve01", code=CODE)
    assert again.code is ErrorCode.UNKNOWN_RISK
    assert "was revoked by eve" in again.detail
    assert cluster.accept_risk(RiskView, "pve01").state == "accepted"
    assert placed(cluster.place(Decision, want()))


def test_ids_may_be_shortened_while_they_name_one_decision() -> None:
    cluster = with_risk("pve01", "pve02")
    one = cluster.accept_risk(RiskView, "pve01")
    two = cluster.accept_risk(RiskView, "pve02")
    both = cluster.revoke_risk(Failure, id="risk-")
    assert both.code is ErrorCode.BAD_REQUEST
    assert one.id in both.detail
    assert two.id in both.detail
    short = next(
        two.id[:n] for n in range(6, 14) if not one.id.startswith(two.id[:n])
    ).removeprefix("risk-")
    assert cluster.revoke_risk(RiskView, id=short).node == "pve02"
    # what has ended is not in the way of what is in force
    assert cluster.revoke_risk(RiskView, id="risk-").node == "pve01"


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({}, ErrorCode.BAD_REQUEST),
        ({"node": "pve01"}, ErrorCode.BAD_REQUEST),
        ({"code": CODE}, ErrorCode.BAD_REQUEST),
        ({"id": "risk-", "node": "pve01"}, ErrorCode.BAD_REQUEST),
        ({"node": "pve01", "code": "NONSENSE"}, ErrorCode.BAD_REQUEST),
        ({"node": "pve09", "code": CODE}, ErrorCode.UNKNOWN_NODE),
        ({"node": "pve01", "code": "RESET_ONE_SHOT"}, ErrorCode.UNKNOWN_RISK),
        ({"id": "risk-zzzz"}, ErrorCode.UNKNOWN_RISK),
    ],
)
def test_what_names_no_one_decision_cannot_be_revoked(
    named: dict[str, str], code: ErrorCode
) -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    before = cluster.state
    assert cluster.revoke_risk(Failure, **named).code is code
    assert cluster.state == before


# --- the end -------------------------------------------------------------------------------------


def expiries(cluster: Cluster) -> list[str]:
    rows, _ = report.list_events(cluster.state)
    return [row.text for row in rows if row.code == "RISK_EXPIRED"]


def test_a_decision_holds_through_its_last_second_and_not_one_more() -> None:
    cluster = with_risk()
    view = cluster.accept_risk(RiskView, "pve01")
    cluster.set_wall(LAST)
    assert placed(cluster.place(Decision, want("vm1", dry_run=True)))
    cluster.set_wall(AFTER)
    # no tick in between: the end is looked at before the request
    text = reason_of(refused(cluster.place(Decision, want())))
    assert "the risk decision of ann expired 2027-03-01" in text
    assert COMMAND.format("pve01") in text
    assert expiries(cluster) == [f"{CODE}: {view.id} of ann ended, until 2027-03-01"]
    assert stored(cluster).ended == "expired"
    cluster.send(Tick())
    cluster.wait(1)
    assert len(expiries(cluster)) == 1


def test_a_decision_that_ended_while_nobody_ran_ends_at_the_start_once() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    placed(cluster.place(Decision, want()))
    cluster.set_wall("2027-04-01T00:00:00Z")
    cluster.restart()
    assert len(expiries(cluster)) == 1
    assert "still used by vm1" in expiries(cluster)[0]
    assert cluster.revoke_risk(Failure, id="risk-").code is ErrorCode.UNKNOWN_RISK
    cluster.restart()
    assert len(expiries(cluster)) == 1
    cluster.join(risky())
    assert refused(cluster.place(Decision, want("vm2")))


def test_one_that_ended_stays_ended_when_the_clock_goes_back() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.set_wall(AFTER)
    cluster.send(Tick())
    cluster.set_wall("2026-12-01T00:00:00Z")
    assert refused(cluster.place(Decision, want()))
    cluster.restart()
    cluster.join(risky())
    assert refused(cluster.place(Decision, want()))
    assert len(expiries(cluster)) == 1


def test_an_end_permits_nothing_before_it_is_durable_and_is_told_once_whatever_the_store_does() -> (
    None
):
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.held = True
    cluster.set_wall(AFTER)
    cluster.send(Tick())
    assert not stored(cluster).ended
    assert expiries(cluster) == []
    assert refused(cluster.place(Decision, want(dry_run=True)))
    cluster.lose_answer(landed=False)
    assert refused(cluster.place(Decision, want(dry_run=True)))
    cluster.lose_answer(landed=True)
    cluster.settle_store()
    assert len(expiries(cluster)) == 1
    assert stored(cluster).ended == "expired"


def test_a_crash_before_the_end_is_durable_tells_it_after_the_restart() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.held = True
    cluster.set_wall(AFTER)
    cluster.send(Tick())
    cluster.restart()
    cluster.held = False
    cluster.settle_store()
    assert len(expiries(cluster)) == 1


def test_an_extension_on_its_way_is_no_end() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.set_wall(LAST)
    cluster.held = True
    ticket = cluster.ask_later(lambda t: risk_request(t, "pve01", until="2027-06-01"))
    cluster.set_wall(AFTER)
    cluster.send(Tick())
    assert refused(cluster.place(Decision, want(dry_run=True)))
    cluster.held = False
    cluster.settle_store()
    view = cluster.replies[ticket]
    assert isinstance(view, RiskView)
    assert view.state == "accepted"
    assert placed(cluster.place(Decision, want()))
    assert expiries(cluster) == []


def test_several_ends_at_once_are_each_told() -> None:
    cluster = with_risk("pve01", "pve02")
    for name in ("pve01", "pve02"):
        for code in ALLOWS:
            cluster.accept_risk(RiskView, name, code=code)
    cluster.accept_risk(RiskView, "pve01", code=CODE, until="2027-06-01")
    cluster.set_wall(AFTER)
    cluster.wait(0)
    assert len(expiries(cluster)) == 5
    states = {(v.node, v.code): v.state for v in report.risk_views(cluster.state)}
    assert states.pop(("pve01", CODE)) == "accepted"
    assert set(states.values()) == {"expired"}
    assert cluster.state.next_end == "2027-06-01T23:59:59Z"


# --- claims --------------------------------------------------------------------------------------


def test_an_end_stops_nothing_and_is_shown_with_what_stands_on_it() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01", actor="ops")
    placed(cluster.place(Decision, want("train-9")))
    line = health(cluster)[CODE]
    assert (line.level, line.scope) == ("WARN", "1 node")
    assert line.text == "pve01, risk accepted by ops until 2027-03-01"
    cluster.set_wall(AFTER)
    cluster.send(Tick())
    assert ("train-9", 1) in cluster.state.claims
    lines = health(cluster)
    assert lines["RISK_EXPIRED"].level == "WARN"
    assert "train-9 uses ACS_OVERRIDE" in lines["RISK_EXPIRED"].text
    assert lines["RISK_EXPIRED"].next == "vfioctl risk list --node pve01"
    assert "the risk decision of ops expired 2027-03-01" in lines[CODE].text
    assert lines[CODE].next == COMMAND.format("pve01")
    view = cluster.view("pve01")
    assert view.state == "ready"
    assert [r.code for r in view.reasons] == ["RISK_EXPIRED"]
    assert [(r.state, r.vms) for r in view.risks] == [("expired", ("train-9",))]
    (vm,) = status(cluster).vms
    assert vm.at_risk.startswith("RISK_EXPIRED: ACS_OVERRIDE")
    decision, _ = report.explain(cluster.state, "train-9", cluster.now)
    (proof,) = [p for p in placed(decision).units[0].proof if p.gate == "risk-decision"]
    assert proof.verdict is Verdict.FAIL
    assert COMMAND.format("pve01") in proof.evidence[0]
    cluster.accept_risk(RiskView, "pve01", until="90d")
    assert "RISK_EXPIRED" not in health(cluster)
    assert status(cluster).vms[0].at_risk == ""


def test_a_revocation_under_a_claim_is_shown_until_the_claim_goes() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    placed(cluster.place(Decision, want("train-9")))
    assert cluster.revoke_risk(RiskView, id="risk-").vms == ("train-9",)
    assert "revoked by bob" in health(cluster)["RISK_REVOKED"].text
    cluster.restart()
    cluster.join(risky())
    assert "RISK_REVOKED" in health(cluster)
    cluster.release(object, "train-9")
    assert "RISK_REVOKED" not in health(cluster)


def test_health_tells_accepted_from_not_accepted_on_lines_of_their_own() -> None:
    cluster = with_risk("pve01", "pve02", "pve03")
    cluster.accept_risk(RiskView, "pve03", actor="ops", until="2027-03-01")
    cluster.accept_risk(RiskView, "pve02", actor="ann", until="2027-05-01")
    lines = [item for item in status(cluster).items if item.code == CODE]
    assert [(i.scope, i.level) for i in lines] == [("2 nodes", "WARN"), ("1 node", "WARN")]
    assert lines[0].text == (
        "pve03 pve02, risks accepted; first to end: pve03, risk accepted by ops until 2027-03-01"
    )
    assert lines[1].text.startswith("pve01: group 1; no risk decision recorded")
    assert lines[1].next == COMMAND.format("pve01")


def test_the_node_and_its_units_say_whether_the_risk_is_carried() -> None:
    cluster = with_risk()
    view = cluster.view("pve01")
    assert view.risks == ()
    assert "no risk decision recorded" in view.units[0].why
    (finding,) = view.findings
    assert finding.decision.startswith(f"No risk decision recorded: {COMMAND.format('pve01')}.")
    assert finding.decision.endswith("what to do about ACS_OVERRIDE")
    cluster.accept_risk(RiskView, "pve01", actor="ops")
    view = cluster.view("pve01")
    assert view.units[0].why.endswith("risk accepted by ops until 2027-03-01")
    assert view.units[0].needs == ("acs-override",)
    assert view.findings[0].decision.startswith("Risk accepted by ops until 2027-03-01: one tenant")
    assert [r.accepted_by for r in view.risks] == ["ops"]


# --- the store -----------------------------------------------------------------------------------


def test_nothing_is_permitted_before_the_decision_is_durable() -> None:
    cluster = with_risk()
    cluster.held = True
    ticket = cluster.ask_later(lambda t: risk_request(t, "pve01"))
    assert ticket not in cluster.replies
    assert refused(cluster.place(Decision, want(dry_run=True)))
    assert report.risk_views(cluster.state) == ()
    cluster.held = False
    cluster.settle_store()
    assert isinstance(cluster.replies[ticket], RiskView)
    assert placed(cluster.place(Decision, want()))


def test_a_revocation_in_front_of_a_claim_takes_the_claim_with_it() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.held = True
    cluster.ask_later(
        lambda t: RiskRevokeRequested(ticket=t, node="pve01", code=CODE, id="", actor="bob")
    )
    # Decided while the revocation has no outcome: its transaction compares the decision.
    ticket = cluster.place_later(want())
    assert [w for w in cluster.state.pending.values() if type(w).__name__ == "ClaimWrite"]
    cluster.held = False
    cluster.settle_store()
    answer = cluster.replies[ticket]
    assert "was revoked by bob" in reason_of(refused(answer))
    assert store_text(cluster.store, keys.CLAIMS) == []


def test_a_claim_in_front_of_a_revocation_stays() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.held = True
    ticket = cluster.place_later(want())
    cluster.ask_later(
        lambda t: RiskRevokeRequested(ticket=t, node="pve01", code=CODE, id="", actor="bob")
    )
    cluster.held = False
    cluster.settle_store()
    placed(cluster.replies[ticket])
    assert "RISK_REVOKED" in health(cluster)


def test_requests_on_one_node_wait_for_each_other_and_are_each_answered() -> None:
    cluster = with_risk()
    cluster.held = True
    first = cluster.ask_later(lambda t: risk_request(t, "pve01", actor="a"))
    second = cluster.ask_later(lambda t: risk_request(t, "pve01", actor="b"))
    third = cluster.ask_later(
        lambda t: RiskRevokeRequested(ticket=t, node="pve01", code=CODE, id="", actor="c")
    )
    fourth = cluster.ask_later(
        lambda t: RiskRevokeRequested(ticket=t, node="pve01", code=CODE, id="", actor="d")
    )
    cluster.held = False
    cluster.settle_store()
    states = [cluster.replies[t] for t in (first, second, third)]
    assert [s.state for s in states] == ["accepted", "accepted", "revoked"]
    assert cluster.replies[fourth].code is ErrorCode.UNKNOWN_RISK
    rows, _ = report.list_events(cluster.state)
    actors = [r.actor for r in rows if r.code.startswith("RISK_")]
    assert actors == ["user:a", "user:b", "user:c"]


def test_a_decision_that_another_writer_changed_is_learned_and_decided_again() -> None:
    cluster = with_risk()
    other = RiskRecord("risk-other000", "pve01", CODE, "r", "eve", cluster.now.utc, LAST)
    cluster.store.commit(
        [Txn(compares=(), ops=(Put(keys.risk_key("pve01", CODE), encode(other)),))]
    )
    view = cluster.accept_risk(RiskView, "pve01", actor="ann")
    assert view.accepted_by == "ann"
    rows, _ = report.list_events(cluster.state)
    assert "instead of risk-other000 of eve" in rows[-1].text


def test_an_unknown_outcome_is_read_back() -> None:
    for landed in (True, False):
        cluster = with_risk()
        cluster.held = True
        ticket = cluster.ask_later(lambda t: risk_request(t, "pve01"))
        cluster.lose_answer(landed=landed)
        cluster.held = False
        cluster.settle_store()
        assert isinstance(cluster.replies[ticket], RiskView)
        assert cluster.codes().count("RISK_ACCEPTED") == 1


def test_all_of_it_comes_back_after_a_restart() -> None:
    cluster = with_risk("pve01", "pve02")
    cluster.accept_risk(RiskView, "pve01")
    placed(cluster.place(Decision, want()))
    cluster.accept_risk(RiskView, "pve02")
    cluster.revoke_risk(RiskView, node="pve02", code=CODE)
    before = cluster.state
    cluster.restart()
    for name in ("pve01", "pve02"):
        assert dict(cluster.state.nodes[name].risks) == dict(before.nodes[name].risks)
    assert cluster.state.claims[("vm1", 1)].claim.risks == (CODE,)
    assert cluster.state.next_end == LAST
    cluster.join(risky("pve01"), risky("pve02"))
    assert refused(cluster.place(Decision, want("vm2", node="pve02")))
    cluster.release(object, "vm1")
    assert placed(cluster.place(Decision, want("vm2"))).node == "pve01"


def test_a_damaged_record_stops_the_start_and_a_claim_of_before_stands_on_nothing() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    placed(cluster.place(Decision, want()))
    item = cluster.store.get(keys.claim_key("vm1", 1))
    assert item is not None
    old = encode(replace(decode(Claim, item.value), risks=()))
    assert decode(Claim, old.replace(b'"risks":[],', b"")).risks == ()
    cluster.store.commit([Txn(compares=(), ops=(Put(keys.risk_key("pve01", CODE), b"{"),))])
    with pytest.raises(RestoreError, match=f"risks/pve01/{CODE}"):
        cluster.restart()


def test_a_coordinator_that_was_replaced_writes_no_decision() -> None:
    store = MemoryStore()
    cluster = Cluster(store=store)
    cluster.join(risky())
    cluster.accept_risk(RiskView, "pve01")
    Cluster(store=store)
    failure = cluster.accept_risk(Failure, "pve01")
    assert failure.code is ErrorCode.SHUTTING_DOWN
    assert cluster.stepped_down
    cluster.set_wall(AFTER)
    before = len([e for e in cluster.effects if isinstance(e, Commit)])
    cluster.send(Tick())
    assert len([e for e in cluster.effects if isinstance(e, Commit)]) == before


# --- any order -----------------------------------------------------------------------------------


@given(st.permutations([("pve01", CODE), ("pve01", "RESET_ONE_SHOT"), ("pve02", CODE)]))
def test_decisions_about_different_risks_come_to_the_same_in_any_order(
    order: list[tuple[str, str]],
) -> None:
    cluster = with_risk("pve01", "pve02")
    for node, code in order:
        cluster.accept_risk(RiskView, node, code=code, until=f"2027-0{len(code) % 5 + 2}-01")
    found = [replace(v, id="") for v in report.risk_views(cluster.state)]
    assert [(v.node, v.code, v.state) for v in found] == sorted(
        (node, code, "accepted") for node, code in order
    )
    assert cluster.state.next_end == min(v.until for v in found)
    offers = [o.shape for e in cluster.state.index.entries.values() for o in e.offers]
    assert all(permitted for shape in offers for _, _, permitted in shape.needs)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.sampled_from(("1h", "2d", "30d", "2027-03-01"))),
        st.tuples(st.just("revoke"), st.just("")),
        st.tuples(st.just("clock"), st.sampled_from(("30m", "3h", "10d", "90d", "-20d"))),
        st.tuples(st.just("tick"), st.just("")),
        st.tuples(st.just("hold"), st.just("")),
        st.tuples(st.just("settle"), st.just("")),
        st.tuples(st.just("lose"), st.sampled_from(("landed", "lost"))),
        st.tuples(st.just("restart"), st.just("")),
        st.tuples(st.just("place"), st.just("")),
    ),
    max_size=25,
)
HOURS = {"30m": 0.5, "3h": 3, "10d": 240, "90d": 2160, "-20d": -480}


@given(STEPS)
def test_whatever_happens_every_decision_ends_once_and_none_outlives_its_day(
    steps: list[tuple[str, str]],
) -> None:
    cluster = with_risk()
    for number, (what, how) in enumerate(steps):
        match what:
            case "accept":
                cluster.ask_later(lambda t, how=how: risk_request(t, "pve01", until=how))
            case "revoke":
                cluster.ask_later(
                    lambda t: RiskRevokeRequested(
                        ticket=t, node="pve01", code=CODE, id="", actor="bob"
                    )
                )
            case "clock":
                cluster.ahead += type(cluster.ahead)(hours=HOURS[how])
            case "tick":
                cluster.send(Tick())
            case "hold":
                cluster.held = True
            case "settle":
                cluster.held = False
                cluster.settle_store()
            case "lose" if cluster.queue:
                cluster.lose_answer(landed=how == "landed")
            case "restart":
                cluster.restart()
                cluster.join(risky())
            case "place":
                ticket = cluster.ask_later(
                    lambda t, vm=f"vm{number}": PlaceRequested(
                        ticket=t, request=want(vm, dry_run=True), actor="ann"
                    )
                )
                check_answer(cluster, cluster.replies[ticket])
    cluster.held = False
    cluster.settle_store()
    rows, _ = report.list_events(cluster.state)
    ends: dict[str, int] = {}
    accepted = {r.text.rpartition("(risk-")[2][:8] for r in rows if r.code == "RISK_ACCEPTED"}
    for row in rows:
        if row.code in ("RISK_EXPIRED", "RISK_REVOKED"):
            number = int(row.text.partition("risk-")[2][:8], 16)
            ends[f"{number:08x}"] = ends.get(f"{number:08x}", 0) + 1
    assert all(count == 1 for count in ends.values()), ends
    assert len(accepted) == len([r for r in rows if r.code == "RISK_ACCEPTED"])
    (node,) = [n for n in cluster.state.nodes.values() if n.name == "pve01"]
    for held in node.risks.values():
        assert held.record == stored(cluster)
        assert (held.record.id.removeprefix("risk-") in ends) == bool(held.record.ended)


def check_answer(cluster: Cluster, answer: object) -> None:
    assert isinstance(answer, Decision)
    (held,) = cluster.state.nodes["pve01"].risks.values() or (None,)
    live = held is not None and held.decision.in_force
    if held is not None and live:
        assert cluster.now.utc <= held.record.until
    if answer.placement is not None:
        assert live


def test_replies_are_one_each() -> None:
    cluster = with_risk()
    cluster.accept_risk(RiskView, "pve01")
    cluster.cordon(NodeView, "pve01")
    assert len([e for e in cluster.effects if isinstance(e, Reply)]) == 2
