"""A node whose agent is heard and does not reach hostd: nobody looks at it, so nothing vouches."""

from __future__ import annotations

from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import agent
from vfio_contract.codes import HOSTD_AWAY, JOURNAL_FAILED
from vfio_contract.durable import JournalStatus
from vfio_contract.findings import Verdict
from vfio_contract.views import Decision, StageCount
from vfio_coordinator.state import report
from vfio_coordinator.state.effects import Effect, WantRescan
from vfio_coordinator.state.presence import AFTER_AWAY, AWAY, is_fresh


def tell(cluster: Cluster, one: Agent, code: str = HOSTD_AWAY.name) -> list[Effect]:
    return cluster.say_journal(one, JournalStatus(code, "in its words" if code else ""))


def joined() -> tuple[Cluster, Agent]:
    cluster, one = Cluster(), agent("pve01")
    cluster.join(one)
    assert cluster.view("pve01").state == "ready"
    return cluster, one


def shown(cluster: Cluster) -> tuple[str, str]:
    """The node's state, and the first reason for it."""
    view = cluster.view("pve01")
    reason = view.reasons[0] if view.reasons else None
    return view.state, f"{reason.code}: {reason.text}" if reason is not None else ""


def refused(cluster: Cluster) -> tuple[StageCount, ...]:
    refusal = cluster.place(Decision, ask_for("vm9")).refusal
    return refusal.stages if refusal is not None else ()


def test_it_takes_no_vm_from_the_moment_when_it_is_told() -> None:
    cluster, one = joined()
    tell(cluster, one)
    (stage,) = refused(cluster)
    assert (stage.stage, stage.nodes) == ("heard", 1)
    assert AWAY in stage.why
    assert shown(cluster) == ("revalidating", f"HOSTD_AWAY: {AWAY}")
    view = cluster.view("pve01")
    assert (view.verdict, view.units_free) == (Verdict.UNKNOWN, 0)


def test_its_claims_stay_and_are_at_risk() -> None:
    cluster, one = joined()
    cluster.place(Decision, ask_for("vm1"))
    tell(cluster, one)
    cluster.wait(5)
    (claim,) = report.vm_views(cluster.state, cluster.now)
    assert (claim.name, claim.node) == ("vm1", "pve01")
    assert claim.at_risk == f"HOSTD_AWAY: {AWAY}"


def test_health_says_it_once_and_as_a_failure() -> None:
    cluster, one = joined()
    tell(cluster, one)
    (item,) = report.status(cluster.state, cluster.now).items
    assert (item.level, item.code, item.text) == ("ERR", "HOSTD_AWAY", f"pve01: {AWAY}")
    assert cluster.codes("pve01").count("HOSTD_AWAY") == 1


def test_it_returns_by_itself_after_a_look_from_later() -> None:
    cluster, one = joined()
    tell(cluster, one)
    cluster.wait(5)
    effects = tell(cluster, one, "")
    assert WantRescan("pve01", one.session, AFTER_AWAY) in effects
    assert shown(cluster) == ("revalidating", f"REVALIDATING: {AFTER_AWAY}")
    cluster.observe(one, age_s=6)  # what hostd saw before it was away
    assert shown(cluster) == ("revalidating", f"REVALIDATING: {AFTER_AWAY}")
    cluster.observe(one, age_s=4)
    assert shown(cluster) == ("ready", "")
    assert not refused(cluster)


def test_a_look_alone_does_not_bring_it_back() -> None:
    cluster, one = joined()
    tell(cluster, one)
    cluster.wait(5)
    cluster.observe(one)
    assert shown(cluster) == ("revalidating", f"HOSTD_AWAY: {AWAY}")
    assert not [e for e in tell(cluster, one, "") if isinstance(e, WantRescan)]
    assert shown(cluster) == ("ready", "")


def test_a_new_session_does_not_make_the_old_look_young() -> None:
    cluster, one = joined()
    tell(cluster, one)
    cluster.wait(5)
    cluster.hello(one)
    cluster.observe(one, age_s=6)  # said before the session tells how the journal is
    assert shown(cluster)[0] == "revalidating"
    node = cluster.state.nodes["pve01"]
    assert not is_fresh(cluster.state, node, cluster.now)
    tell(cluster, one)
    assert shown(cluster) == ("revalidating", f"HOSTD_AWAY: {AWAY}")


def test_a_journal_that_fails_is_no_blindness() -> None:
    cluster, one = joined()
    tell(cluster, one, JOURNAL_FAILED.name)
    assert shown(cluster) == ("ready", "")


def test_silence_comes_before_what_was_said_last() -> None:
    cluster, one = joined()
    tell(cluster, one)
    cluster.wait(cluster.limits.lost_after_s + 1)
    view = cluster.view("pve01")
    assert view.state == "revalidating"
    assert [r.code for r in view.reasons] == ["NODE_UNHEARD"]
