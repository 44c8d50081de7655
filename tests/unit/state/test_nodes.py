"""Joining, hearing, losing and validating nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.state.cluster import (
    Acknowledge,
    CloseSession,
    Cluster,
    RefuseSession,
    WantInventory,
    ask_for,
)
from tests.unit.state.hosts import BOOTS, agent, cards, snapshot
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.views import Decision
from vfio_coordinator.state import report
from vfio_coordinator.state.effects import AcceptSession, Failure
from vfio_coordinator.state.events import Heartbeat, Tick
from vfio_coordinator.state.model import Limits


def test_a_node_joins_and_is_ready_after_fresh_evidence() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one)
    assert cluster.view("pve01").state == "revalidating"
    cluster.inventory(one)
    assert cluster.view("pve01").state == "revalidating"
    assert cluster.view("pve01").verdict is Verdict.UNKNOWN
    effects = cluster.observe(one)
    assert Acknowledge("pve01", one.session, 1) in effects
    view = cluster.view("pve01")
    assert (view.state, view.verdict, view.reasons) == ("ready", Verdict.PASS, ())
    assert (view.units_free, view.units_total) == (2, 2)
    assert cluster.codes("pve01") == ["NODE_JOINED", "NODE_VALIDATED"]


def test_the_first_join_is_written_before_anything_is_placed() -> None:
    cluster = Cluster()
    cluster.held = True
    one = agent("pve01")
    cluster.join(one)
    refused = cluster.place(Decision, ask_for("vm1"))
    assert refused.refusal is not None
    assert refused.refusal.stages[0].stage == "admitted"
    cluster.settle_store()
    assert cluster.view("pve01").state == "ready"


def test_an_observation_before_its_facts_waits_for_them() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one)
    effects = cluster.observe(one)
    assert WantInventory("pve01", one.session, one.digest) in effects
    assert not [e for e in effects if isinstance(e, Acknowledge)]
    effects = cluster.inventory(one)
    assert Acknowledge("pve01", one.session, 1) in effects
    assert cluster.view("pve01").state == "ready"


def test_an_older_observation_of_the_same_session_is_dropped() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    one.replaced = {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "NOT_BOUND")}
    cluster.observe(one)
    one.sequence, one.replaced = 0, {}
    assert cluster.observe(one) == []
    assert cluster.view("pve01").units_free == 1


def test_changed_facts_make_the_old_findings_worthless() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    one.snapshot = snapshot(*cards(3))
    cluster.inventory(one)
    assert cluster.view("pve01").state == "revalidating"
    assert cluster.view("pve01").units_free == 0
    cluster.observe(one)
    assert (cluster.view("pve01").state, cluster.view("pve01").units_free) == ("ready", 3)


def test_silence_is_unheard_then_lost_and_never_healthy() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=60))
    one = agent("pve01")
    cluster.join(one)
    cluster.wait(61)
    cluster.send(Heartbeat("pve01", one.session))
    cluster.close(one)
    view = cluster.view("pve01")
    assert (view.state, view.verdict) == ("revalidating", Verdict.UNKNOWN)
    assert view.reasons[0].code == "NODE_UNHEARD"
    assert {unit.state for unit in view.units} == {"unknown"}
    cluster.wait(11)
    view = cluster.view("pve01")
    assert (view.state, view.reasons[0].code) == ("lost", "NODE_LOST")
    assert cluster.codes("pve01")[-1] == "NODE_LOST"
    refused = cluster.place(Decision, ask_for("vm1")).refusal
    assert refused is not None
    assert [(s.stage, s.nodes) for s in refused.stages] == [("heard", 1)]
    assert "lost" in refused.stages[0].why
    cluster.join(one)
    assert cluster.view("pve01").state == "ready"
    assert cluster.codes("pve01")[-1] == "NODE_RETURNED"


def test_a_frozen_agent_with_an_open_stream_is_lost() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=0))
    one = agent("pve01")
    cluster.join(one)
    cluster.wait(9)
    assert cluster.view("pve01").state == "ready"
    cluster.wait(2)
    assert cluster.view("pve01").state == "lost"
    cluster.send(Heartbeat("pve01", one.session))
    assert cluster.view("pve01").state == "ready"


def test_placement_looks_at_the_deadline_even_before_the_tick() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10))
    cluster.join(agent("pve01"))
    cluster.seconds += 10.5
    answer = cluster.place(Decision, ask_for("vm1"))
    assert answer.placement is None


def test_old_evidence_refuses_although_the_agent_lives() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, evidence_max_age_s=30))
    one = agent("pve01")
    cluster.join(one)
    for _ in range(4):
        cluster.wait(8)
        cluster.send(Heartbeat("pve01", one.session))
    view = cluster.view("pve01")
    assert (view.state, view.verdict) == ("revalidating", Verdict.UNKNOWN)
    refused = cluster.place(Decision, ask_for("vm1")).refusal
    assert refused is not None
    assert refused.stages[0].stage == "heard"
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"


def test_evidence_ages_while_the_agent_is_not_even_due_to_speak() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=100, evidence_max_age_s=30))
    one = agent("pve01")
    cluster.hello(one)
    cluster.inventory(one)
    cluster.observe(one, age_s=5)
    cluster.wait(25)
    assert cluster.view("pve01").state == "ready"
    cluster.wait(0.5)
    assert cluster.view("pve01").state == "revalidating"


def test_nobody_is_lost_before_the_reconnect_window_has_passed() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=60))
    one = agent("pve01")
    cluster.join(one)
    cluster.close(one)
    cluster.wait(60)
    assert cluster.view("pve01").reasons[0].code == "NODE_UNHEARD"
    cluster.wait(1)
    assert cluster.view("pve01").state == "lost"


def test_after_a_restart_nothing_is_heard_and_nothing_is_lost_in_the_window() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=60))
    one, two = agent("pve01"), agent("pve02")
    cluster.join(one, two)
    cluster.wait(100)
    cluster.restart()
    assert cluster.view("pve01").reasons[0].code == "NODE_UNHEARD"
    cluster.wait(59)
    assert cluster.view("pve01").state == "revalidating"
    cluster.join(two)
    cluster.wait(2)
    assert cluster.view("pve01").state == "lost"
    assert cluster.view("pve02").state == "ready"
    assert cluster.view("pve01").heard_age_s == -1


def test_nobody_is_lost_while_agents_still_wait_to_be_let_in_but_not_for_ever() -> None:
    limits = Limits(lost_after_s=10, reconnect_window_s=60, reconnect_at_most_s=150)
    cluster = Cluster(limits=limits)
    cluster.join(agent("pve01"))
    cluster.restart()
    cluster.wait(50)
    cluster.send(Tick(crowded=True))
    cluster.wait(59)
    assert cluster.view("pve01").reasons[0].code == "NODE_UNHEARD"
    cluster.send(Tick(crowded=True))
    cluster.wait(40)
    cluster.send(Tick(crowded=True))
    assert cluster.view("pve01").state == "revalidating"
    cluster.wait(2)
    assert cluster.view("pve01").state == "lost"


def test_a_crowd_that_comes_after_the_window_hides_nobody() -> None:
    cluster = Cluster(limits=Limits(lost_after_s=10, reconnect_window_s=60))
    one = agent("pve01")
    cluster.join(one)
    cluster.wait(100)
    cluster.send(Heartbeat("pve01", one.session))
    cluster.close(one)
    cluster.wait(9)
    cluster.send(Tick(crowded=True))
    cluster.wait(2)
    assert cluster.view("pve01").state == "lost"


def test_a_newer_session_closes_the_older_whose_messages_are_dropped() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    old = one.session
    effects = cluster.hello(one)
    assert [e for e in effects if isinstance(e, CloseSession) and e.session == old]
    assert cluster.view("pve01").state == "revalidating"
    new, one.session = one.session, old
    assert cluster.observe(one) == []
    assert cluster.close(one) == []
    one.session, one.sequence = new, 0
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"


def test_the_same_facts_are_not_asked_for_again() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    effects = cluster.hello(one)
    assert AcceptSession("pve01", one.session, True) in effects


def test_a_clone_is_refused_and_the_first_machine_stays() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    clone = agent("pve01", *cards(1))
    clone.uuid = "another-machine"
    effects = cluster.hello(clone)
    (refused,) = [e for e in effects if isinstance(e, RefuseSession)]
    assert refused.code is ErrorCode.NODE_CLONED
    cluster.hello(clone)
    assert cluster.codes("pve01").count("NODE_CLONED") == 1
    assert cluster.view("pve01").state == "ready"
    shown = report.status(cluster.state, cluster.now)
    assert shown.items[0].code == "NODE_CLONED"
    assert shown.health == "HEALTH_ERR"


def test_two_clones_before_the_first_record_is_written() -> None:
    cluster = Cluster()
    cluster.held = True
    cluster.hello(agent("pve01"))
    clone = agent("pve01")
    clone.uuid = "another-machine"
    effects = cluster.hello(clone)
    assert [e for e in effects if isinstance(e, RefuseSession)]


def test_a_uuid_that_is_read_later_is_kept() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one, product_uuid="")
    cluster.hello(one)
    clone = agent("pve01")
    clone.uuid = "another-machine"
    assert [e for e in cluster.hello(clone) if isinstance(e, RefuseSession)]


def test_an_agent_that_knows_a_higher_epoch_stops_claims() -> None:
    cluster = Cluster()
    one, two = agent("pve01"), agent("pve02")
    cluster.join(two)
    effects = cluster.hello(one, cluster_id="cluster-1", highest_incarnation=1, highest_epoch=99)
    (refused,) = [e for e in effects if isinstance(e, RefuseSession)]
    assert refused.code is ErrorCode.STORE_REWOUND
    answer = cluster.place(Failure, ask_for("vm1"))
    assert answer.code is ErrorCode.STORE_REWOUND
    shown = report.status(cluster.state, cluster.now)
    assert (shown.items[0].code, shown.health) == ("STORE_REWOUND", "HEALTH_ERR")


def test_an_agent_of_an_older_epoch_is_welcome() -> None:
    cluster = Cluster()
    effects = cluster.hello(
        agent("pve01"), cluster_id="cluster-1", highest_incarnation=1, highest_epoch=1
    )
    assert [e for e in effects if isinstance(e, AcceptSession)]


def test_a_new_boot_revalidates_and_returns_by_itself() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    one.snapshot = snapshot(*cards(2), boot=1)
    cluster.hello(one)
    view = cluster.view("pve01")
    assert (view.state, view.boot_id) == ("revalidating", BOOTS[1])
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
    assert cluster.codes("pve01")[-2:] == ["NODE_BOOTED", "NODE_VALIDATED"]


def test_findings_of_another_boot_validate_nothing() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.hello(one, boot_id=BOOTS[3])
    cluster.observe(one)
    view = cluster.view("pve01")
    assert view.state == "revalidating"
    assert "not of this boot" in view.reasons[0].text


def test_a_host_whose_boot_id_is_not_known_never_qualifies() -> None:
    cluster = Cluster()
    one = agent("pve01")
    one.snapshot = replace(one.snapshot, readings=replace(one.snapshot.readings, boot_id=None))
    cluster.join(one)
    assert cluster.view("pve01").state == "revalidating"
    assert cluster.place(Decision, ask_for("vm1")).placement is None


@pytest.mark.parametrize("address", ["zz", "0000:00:00.9", "0000:00:1f.0\n"])
def test_facts_that_are_no_host_end_the_session(address: str) -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.hello(one)
    functions = one.snapshot.facts.functions or ()
    bad = (replace(functions[0], address=address), *functions[1:])  # type: ignore[arg-type]
    one.snapshot = replace(one.snapshot, facts=replace(one.snapshot.facts, functions=bad))
    effects = cluster.inventory(one)
    (closed,) = [e for e in effects if isinstance(e, CloseSession)]
    assert closed.code is ErrorCode.BAD_SNAPSHOT


def test_messages_of_an_unknown_node_change_nothing() -> None:
    cluster = Cluster()
    one = agent("pve01")
    before = cluster.state
    one.session = 7
    assert cluster.observe(one) == []
    assert cluster.inventory(one) == []
    assert cluster.close(one) == []
    assert cluster.state == before
