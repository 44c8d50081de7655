"""What an acceptance never takes: facts that nobody saw, and risks that nobody carries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.vms import make_device, make_vm
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import accepted, agent, cards, graphics, snapshot
from tests.unit.state.test_acceptance import accepted_by
from vfio_contract.address import Address
from vfio_contract.baseline_views import SHORTEST_DIGEST
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.model import Snapshot
from vfio_contract.policy import PolicyView
from vfio_contract.views import BaselineView
from vfio_coordinator.state import keys
from vfio_coordinator.state.baseline_report import baseline_view
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import BaselineAcceptRequested
from vfio_coordinator.store.interface import Put, Txn


def with_memory(one: Agent, gib: int) -> Snapshot:
    """Other facts that no drift sees."""
    facts = replace(one.snapshot.facts, memory_total_bytes=gib << 30)
    return replace(one.snapshot, facts=facts)


def test_a_person_accepts_what_was_shown_and_nothing_newer() -> None:
    cluster, one = accepted(*graphics(1, group=1))
    apart = [replace(f, group=2) if f.address.endswith("00.1") else f for f in graphics(1, group=1)]
    cluster.change(one, snapshot(*apart))
    shown = baseline_view(cluster.state, "pve01")
    assert shown.present_digest == one.digest != shown.digest
    cluster.change(one, with_memory(one, 3))
    before = cluster.state
    refused = cluster.accept(Failure, "pve01", digest=shown.present_digest[:SHORTEST_DIGEST])
    assert refused.code is ErrorCode.CONFLICT
    assert one.digest in refused.detail
    assert cluster.state == before
    now = baseline_view(cluster.state, "pve01").present_digest[:SHORTEST_DIGEST]
    refused = cluster.accept(Failure, "pve01", digest=now[:-1])
    assert refused.code is ErrorCode.BAD_REQUEST
    assert cluster.accept(BaselineView, "pve01", digest=now).digest == one.digest


def test_a_second_attempt_is_for_the_facts_of_the_first() -> None:
    cluster, one = accepted(*cards(2))
    cluster.held = True
    ticket = cluster.ask_later(lambda t: BaselineAcceptRequested(ticket=t, node="pve01", actor="a"))
    cluster.inventory(replace(one, snapshot=with_memory(one, 3)))
    one.snapshot = with_memory(one, 3)
    cluster.observe(one)
    key = keys.node_key("pve01")
    item = cluster.store.get(key)
    assert item is not None
    cluster.store.commit([Txn((), (Put(key, item.value),))])
    cluster.held = False
    cluster.settle_store()
    answer = cluster.replies[ticket]
    assert isinstance(answer, Failure)
    assert answer.code is ErrorCode.CONFLICT
    assert len(cluster.state.nodes["pve01"].baselines) == 1


@pytest.mark.parametrize("code", ["RESET_ONE_SHOT", "ACS_OVERRIDE"])
def test_the_policy_carries_no_risk_that_nobody_accepted(code: str) -> None:
    cluster = Cluster()
    cluster.set_policy(PolicyView, "baseline=auto")
    one = agent("pve01", *cards(2))
    check, subject = {
        "RESET_ONE_SHOT": ("reset-history", "function:0000:01:00.0"),
        "ACS_OVERRIDE": ("group-isolation", "group:1"),
    }[code]
    one.replaced = {(check, subject): (Verdict.WARN, code)}
    cluster.join(one)
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
    assert accepted_by(cluster) == []
    cluster.accept_risk(object, "pve01", code=code)
    cluster.observe(one)
    assert accepted_by(cluster) == ["auto:POLICY"]


def test_lines_that_were_right_at_the_last_acceptance_are_not_held_against_an_older_one() -> None:
    """One more acceptance is looked at, however many there are."""
    vms = (make_vm(make_device("0000:01:00.0", line=4)),)
    cluster, one = Cluster(), Agent("pve01", snapshot(*cards(2), vms=vms))
    cluster.join(one)
    cluster.accept(BaselineView, "pve01", force=True, reason="r")
    there = {"0000:01:00.0": "0000:02:00.0", "0000:02:00.0": "0000:01:00.0"}
    swapped = [replace(f, address=Address(there.get(f.address, f.address))) for f in cards(2)]
    for number, bios in enumerate(("F11", "F12", "F10"), 1):
        rows = swapped if bios == "F11" else cards(2)
        one.snapshot = snapshot(*rows, vms=vms, boot=number, bios=bios)
        one.snapshot = with_memory(one, number)
        cluster.join(one)
        if bios != "F10":
            cluster.accept(BaselineView, "pve01", force=True, reason="r")
    assert cluster.view("pve01").stale == ()
    assert cluster.view("pve01").state == "ready"
