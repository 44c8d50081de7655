"""Mutes in the reducer: what one hides, what it never changes, and each way in which it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.state.cluster import Agent, Cluster, ask_for, store_text
from tests.unit.state.hosts import agent, cards
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.mute_views import MuteView
from vfio_contract.views import ClusterStatus, Decision, HealthItem
from vfio_coordinator.clock import SteadyClock
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.conditions import conditions_of
from vfio_coordinator.state.effects import Failure, Notify
from vfio_coordinator.state.events import MuteRequested, Now, SessionClosed, Tick
from vfio_coordinator.state.mutes import NEVER_MUTED, mute_views
from vfio_coordinator.state.reducer import apply
from vfio_coordinator.store.interface import Delete

CODE = "LINK_DOWNGRADED"
"""Any code of a finding about a function."""


class Wall:
    """The machine's clocks as the cluster has them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def now(self) -> Now:
        return self._cluster.now


def showing(name: str, verdict: Verdict = Verdict.WARN, code: str = CODE) -> Agent:
    one = agent(name, *cards(2))
    one.replaced = {("reset-capability", "function:0000:01:00.0"): (verdict, code)}
    return one


def with_code(*names: str, verdict: Verdict = Verdict.WARN) -> tuple[Cluster, list[Agent]]:
    cluster = Cluster()
    agents = [showing(name, verdict) for name in names or ("pve01",)]
    cluster.join(*agents)
    return cluster, agents


def status(cluster: Cluster) -> ClusterStatus:
    return report.status(cluster.state, cluster.now)


def item_of(cluster: Cluster, code: str = CODE) -> HealthItem:
    (item,) = [i for i in status(cluster).items if i.code == code]
    return item


def refuse(cluster: Cluster, code: str, node: str = "", **terms: str) -> Failure:
    before = cluster.store.revision()
    failure = cluster.mute(Failure, code, node, **terms)
    assert cluster.store.revision() == before
    assert mute_views(cluster.state) == ()
    return failure


def mute_rows(cluster: Cluster) -> list[tuple[str, str]]:
    rows, _ = report.list_events(cluster.state)
    return [(row.code, row.text) for row in rows if row.code.startswith("MUTE_")]


# --- what one does, and does not -----------------------------------------------------------------


def test_a_muted_code_stays_visible_and_counts_in_nothing() -> None:
    cluster, _ = with_code("pve01", "pve02")
    before = status(cluster)
    assert (before.health, item_of(cluster).muted) == ("HEALTH_WARN", "")
    view = cluster.mute(MuteView, CODE, until="6h")
    assert (view.level, view.nodes, view.hides) == ("WARN", 2, 2)
    after = status(cluster)
    assert (after.health, after.next) == ("HEALTH_OK", "")
    assert item_of(cluster).muted == f"by ann until {view.until}: known"
    assert replace(after.items[0], muted="") == before.items[0]
    assert [n.state for n in after.nodes] == [n.state for n in before.nodes]
    assert [n.verdict for n in after.nodes] == [n.verdict for n in before.nodes]
    cluster.unmute(MuteView, CODE)
    assert (status(cluster).health, status(cluster).items) == (before.health, before.items)


def test_a_mute_changes_no_decision_about_placement() -> None:
    cluster, _ = with_code(verdict=Verdict.FAIL)
    asked = ask_for("vm1", "nic=2", dry_run=True)
    before = cluster.place(Decision, asked).refusal
    cluster.mute(MuteView, CODE)
    after = cluster.place(Decision, asked).refusal
    assert before is not None
    assert after is not None
    assert after.stages == before.stages


def test_a_mute_of_one_node_leaves_the_others_loud() -> None:
    cluster, _ = with_code("pve01", "pve02")
    cluster.mute(MuteView, CODE, "pve01")
    loud, muted = [i for i in status(cluster).items if i.code == CODE]
    assert (loud.scope, loud.muted) == ("1 node", "")
    assert loud.text.startswith("pve02")
    assert muted.text.startswith("pve01")
    assert muted.muted
    assert status(cluster).health == "HEALTH_WARN"


def test_the_worst_that_counts_makes_the_word() -> None:
    cluster = Cluster()
    cluster.join(showing("pve01", Verdict.FAIL), showing("pve02", code="OTHER_CODE"))
    assert status(cluster).health == "HEALTH_ERR"
    cluster.mute(MuteView, CODE)
    found = status(cluster)
    assert found.health == "HEALTH_WARN"
    assert [bool(i.muted) for i in found.items] == [False, True]
    assert found.next == found.items[0].next


def test_a_mute_survives_a_restart_and_hides_again() -> None:
    cluster, agents = with_code("pve01", "pve02")
    view = cluster.mute(MuteView, CODE)
    cluster.restart()
    cluster.join(*agents)
    assert mute_views(cluster.state) == (view,)
    assert item_of(cluster).muted


def test_before_planned_work_a_node_can_be_muted_for_what_is_to_come() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.place(Decision, ask_for("vm1"))
    view = cluster.mute(MuteView, "NODE_LOST", "pve01", until="2h")
    assert (view.level, view.hides, view.vms) == ("", 0, ("vm1",))
    cluster.send(SessionClosed(one.name, one.session))
    cluster.wait(120)
    assert item_of(cluster, "NODE_LOST").muted
    assert status(cluster).health == "HEALTH_OK"
    assert cluster.last(Notify) == []


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(NEVER_MUTED))
def test_what_puts_all_else_in_doubt_is_never_muted(code: str) -> None:
    cluster, _ = with_code()
    failure = refuse(cluster, code)
    assert failure.code is ErrorCode.BAD_REQUEST
    assert "is never muted" in failure.detail


@pytest.mark.parametrize(
    ("code", "node", "terms", "said"),
    [
        ("NODE_LSOT", "", {}, "is no code that is shown; shown are"),
        ("no code", "pve01", {}, "is no code that is shown"),
        ("NODE_LOST", "", {}, "nothing shows NODE_LOST now; before planned work"),
        (CODE, "", {"reason": " "}, "reason: it is empty"),
        (CODE, "", {"reason": "a\nb"}, "control characters"),
        (CODE, "", {"until": "91d"}, "91 days away; at most 90"),
        (CODE, "", {"until": "2026-11-21"}, "is not after now"),
        (CODE, "", {"until": "soon"}, "is no end"),
    ],
)
def test_a_mute_that_says_too_little_is_refused(
    code: str, node: str, terms: dict[str, str], said: str
) -> None:
    cluster, _ = with_code()
    assert said in refuse(cluster, code, node, **terms).detail


def test_an_unknown_node_or_mute_is_named() -> None:
    cluster, _ = with_code()
    assert refuse(cluster, CODE, "pve77").code is ErrorCode.UNKNOWN_NODE
    failure = cluster.unmute(Failure, CODE)
    assert (failure.code, failure.detail) == (ErrorCode.UNKNOWN_MUTE, f"mute of {CODE}")


def test_there_are_at_most_so_many() -> None:
    cluster, _ = with_code("pve01", "pve02")
    cluster.state = replace(cluster.state, limits=replace(cluster.limits, mutes_kept=1))
    cluster.mute(MuteView, CODE, "pve01")
    assert "1 mutes are in force" in cluster.mute(Failure, CODE, "pve02").detail
    cluster.mute(MuteView, CODE, "pve01", reason="again")


# --- what ends one -------------------------------------------------------------------------------


def test_the_usual_time_is_four_hours_and_then_it_counts_again() -> None:
    cluster, agents = with_code()
    view = cluster.mute(MuteView, CODE)
    assert (view.muted_at, view.until) == ("2026-11-22T00:16:40Z", "2026-11-22T04:16:40Z")
    cluster.set_wall(view.until)
    cluster.send(Tick())
    assert item_of(cluster).muted
    cluster.wait(1)
    cluster.observe(agents[0])
    assert item_of(cluster).muted == ""
    assert mute_rows(cluster)[-1] == (
        "MUTE_EXPIRED",
        f"mute of {CODE} of ann expired, until {view.until}",
    )
    assert store_text(cluster.store, keys.MUTES) == []


def test_an_end_waits_while_the_clock_is_not_believed() -> None:
    cluster, _ = with_code()
    cluster.mute(MuteView, CODE, until="90d")
    clock = SteadyClock(Wall(cluster))
    clock.now()
    cluster.set_wall("2027-06-01T00:00:00Z")
    doubting, _ = apply(cluster.state, Tick(), clock.now())
    assert doubting.clock_doubt
    assert len(mute_views(doubting)) == 1
    believing, _ = apply(cluster.state, Tick(), cluster.now)
    assert mute_views(believing) == ()


def test_more_nodes_break_it() -> None:
    cluster, _ = with_code("pve01")
    cluster.mute(MuteView, CODE)
    cluster.join(showing("pve02"))
    assert item_of(cluster).muted == ""
    assert mute_rows(cluster)[-1] == (
        "MUTE_BROKEN",
        f"mute of {CODE} of ann broke: 2 nodes show it, 1 did",
    )
    assert store_text(cluster.store, keys.MUTES) == []


def test_fewer_nodes_do_not_nor_the_same_ones_again() -> None:
    cluster, agents = with_code("pve01", "pve02")
    cluster.mute(MuteView, CODE)
    was, agents[0].replaced = agents[0].replaced, {}
    cluster.observe(agents[0])
    assert item_of(cluster).muted
    agents[0].replaced = was
    cluster.restart()
    cluster.join(*agents)
    assert item_of(cluster).muted
    assert item_of(cluster).count == 2


def test_another_node_breaks_it_where_one_that_showed_it_is_well() -> None:
    cluster, agents = with_code("pve01", "pve02")
    cluster.mute(MuteView, CODE, until="90d")
    for one in agents:
        one.replaced = {}
        cluster.observe(one)
    cluster.join(showing("pve03"))
    assert item_of(cluster).muted == ""
    assert mute_rows(cluster)[-1] == (
        "MUTE_BROKEN",
        f"mute of {CODE} of ann broke: pve03 shows it and did not",
    )


@pytest.mark.parametrize("node", ["", "pve01"])
def test_a_level_that_rises_breaks_it(node: str) -> None:
    cluster, (one,) = with_code("pve01")
    cluster.mute(MuteView, CODE, node)
    one.replaced = {("reset-capability", "function:0000:01:00.0"): (Verdict.FAIL, CODE)}
    cluster.observe(one)
    assert status(cluster).health == "HEALTH_ERR"
    assert mute_rows(cluster)[-1][1].endswith("broke: it was WARN and is ERR now")


@pytest.mark.parametrize("node", ["", "pve01"])
def test_another_vm_at_risk_breaks_it(node: str) -> None:
    cluster = Cluster()
    one = showing("pve01", Verdict.FAIL)
    one.replaced = {}
    cluster.join(one)
    for vm in ("vm1", "vm2"):
        cluster.place(Decision, ask_for(vm))
    first, second = (("reset-capability", f"function:0000:0{bus}:00.0") for bus in (1, 2))
    one.replaced = {first: (Verdict.FAIL, CODE)}
    cluster.observe(one)
    view = cluster.mute(MuteView, CODE, node)
    assert len(view.vms) == 1
    cluster.observe(one)
    assert mute_views(cluster.state) == (view,)
    one.replaced[second] = (Verdict.FAIL, CODE)
    cluster.observe(one)
    (other,) = {"vm1", "vm2"} - set(view.vms)
    assert mute_rows(cluster)[-1][1].endswith(f"broke: {other} came to be at risk")
    assert status(cluster).health == "HEALTH_ERR"


def test_what_broke_hides_nothing_before_its_end_is_written() -> None:
    cluster, _ = with_code("pve01")
    cluster.mute(MuteView, CODE)
    cluster.held = True
    cluster.join(showing("pve02"))
    assert item_of(cluster).muted == ""
    assert mute_views(cluster.state) == ()
    cluster.restart()
    # The end was never written: it is in force again, and breaks again.
    assert len(mute_views(cluster.state)) == 1
    cluster.held = False
    cluster.join(showing("pve01"), showing("pve02"))
    assert mute_views(cluster.state) == ()


def test_a_mute_is_not_believed_before_it_is_stored() -> None:
    cluster, _ = with_code()
    cluster.held = True
    ticket = cluster.ask_later(_request)
    assert status(cluster).health == "HEALTH_WARN"
    assert ticket not in cluster.replies
    again = cluster.replies[cluster.ask_later(_request)]
    assert isinstance(again, Failure)
    assert again.code is ErrorCode.CONFLICT
    cluster.lose_answer(landed=True)
    assert isinstance(cluster.replies[ticket], MuteView)
    assert status(cluster).health == "HEALTH_OK"


def test_what_gets_worse_while_a_mute_is_written_breaks_it() -> None:
    cluster, _ = with_code()
    cluster.held = True
    ticket = cluster.ask_later(_request)
    cluster.join(showing("pve02"))
    cluster.held = False
    cluster.settle_store()
    assert isinstance(cluster.replies[ticket], MuteView)
    cluster.wait(1)
    assert mute_views(cluster.state) == ()
    assert [code for code, _ in mute_rows(cluster)] == ["MUTE_ADDED", "MUTE_BROKEN"]


def test_each_end_is_written_in_the_transaction_that_deletes_it() -> None:
    cluster, _ = with_code()
    cluster.mute(MuteView, CODE)
    cluster.held = True
    cluster.join(showing("pve02"))
    (txn,) = [t for _, t in cluster.queue if Delete(keys.mute_key(CODE, "")) in t.ops]
    assert any(op.key.startswith(keys.EVENTS) for op in txn.ops)
    assert cluster.state.fence in txn.compares


# --- notification --------------------------------------------------------------------------------


def test_muted_codes_tell_nobody_until_the_mute_ends() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.mute(MuteView, "NODE_LOST", "pve01")
    cluster.close(one)
    cluster.wait(120)
    assert any(c.code == "NODE_LOST" for c in conditions_of(cluster.state.nodes["pve01"]))
    assert cluster.last(Notify) == []
    cluster.unmute(MuteView, "NODE_LOST", "pve01")
    told = [e for e in cluster.last(Notify) if isinstance(e, Notify)]
    assert [(e.incident.code, e.reason) for e in told] == [("NODE_LOST", "opened")]


def _request(ticket: int) -> MuteRequested:
    return MuteRequested(ticket=ticket, code=CODE, node="", reason="known", until="4h", actor="ann")
