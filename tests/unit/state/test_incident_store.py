"""Incidents: what the store holds of them, and what a restart finds of that again."""

from __future__ import annotations

import pytest

from tests.unit.state.troubles import Fleet
from vfio_contract.artifact import decode
from vfio_coordinator.state.effects import Commit
from vfio_coordinator.state.incident_records import IncidentRecord
from vfio_coordinator.state.invariants import check_invariants
from vfio_coordinator.state.model import IncidentWrite, Limits
from vfio_coordinator.state.restore import RestoreError
from vfio_coordinator.store.interface import Delete, Put, Txn

WIDENED = "GROUP_WIDENED"
KERNEL = {"wide": True, "kernel": "6.8.12-5"}
BIOS = {"wide": True, "bios": "F11"}


def writes(fleet: Fleet) -> list[Txn]:
    """All transactions so far that touch incidents."""
    return [
        e.txn
        for e in fleet.effects
        if isinstance(e, Commit) and any("incidents/" in op.key for op in e.txn.ops)
    ]


def test_many_nodes_at_once_are_few_writes() -> None:
    names = [f"pve{n:03}" for n in range(70)]
    fleet = Fleet()
    fleet.checked = False
    fleet.add(*names)
    fleet.held = True
    before = len(writes(fleet))
    fleet.boot(*names, **KERNEL)
    fleet.settle_store()
    assert len(writes(fleet)) - before == 3, "the first alone, then 56 at a time"
    assert len(fleet.store.range("incidents/0000000001/")) == 70
    fleet.heal(*names)
    while fleet.queue:
        _, txn = fleet.queue[0]
        fleet.commit_one()
        if not any(op.key.startswith("incidents/") for op in txn.ops):
            continue
        record, *members = fleet.store.range("incidents/0000000001")
        closed = decode(IncidentRecord, record.value).closed_at
        assert not (closed and members), "a crash now would leave nodes in a closed one"
    assert fleet.all()[0].state == "closed"
    assert not fleet.store.range("incidents/0000000001/")
    check_invariants(fleet.state)


def test_one_that_ends_before_it_was_written_never_was() -> None:
    fleet = Fleet("pve01")
    one = fleet.agents["pve01"]
    fleet.held = True
    fleet.boot("pve01", **KERNEL)
    fleet.heal("pve01")
    assert fleet.open() == []
    fleet.settle_store()
    assert [(v.id, v.state) for v in fleet.all()] == [("INC-1", "closed")]
    assert fleet.rows("INCIDENT_CLOSED")
    assert fleet.told == []
    assert fleet.view(one.name).state == "ready"


@pytest.mark.parametrize("landed", [True, False])
def test_an_outcome_that_is_lost_is_read_back(landed: bool) -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.held = True
    fleet.boot("pve01", "pve02", **KERNEL)
    lost = 0
    while fleet.queue:
        txn_id, _ = fleet.queue[0]
        if isinstance(fleet.state.pending[txn_id], IncidentWrite) and lost < 2:
            lost += 1
            fleet.lose_answer(landed=landed)
        else:
            fleet.commit_one()
    assert lost == 2
    assert fleet.nodes_of("INC-1") == ["pve01", "pve02"]
    assert len(fleet.store.range("incidents/")) == 3


def test_a_process_that_dies_after_any_commit_finds_the_same_again() -> None:
    def story(fleet: Fleet) -> None:
        fleet.boot("pve01", "pve02", wide=True, kernel="6.8.12-5", bios="F11")
        fleet.boot("pve03", **KERNEL)
        fleet.heal("pve01")

    whole = Fleet("pve01", "pve02", "pve03")
    whole.held = True
    story(whole)
    steps = 0
    while whole.queue:
        whole.commit_one()
        steps += 1
    assert whole.nodes_of("INC-1") == ["pve02", "pve03"]
    for died in range(steps + 1):
        fleet = Fleet("pve01", "pve02", "pve03")
        fleet.held = True
        story(fleet)
        for _ in range(died):
            fleet.commit_one()
        fleet.held = False
        fleet.restart()
        for view in fleet.open():
            stored = fleet.store.range(f"incidents/{int(view.id[4:]):010}/")
            assert view.nodes == len(stored) > 0
        for name in ("pve01", "pve02", "pve03"):
            fleet.join(fleet.agents[name])
        assert [view.id for view in fleet.all()] == ["INC-1"], f"died after {died}"
        assert fleet.nodes_of("INC-1") == ["pve02", "pve03"]
        assert len(fleet.store.range("incidents/")) == 3


def test_members_are_believed_until_they_are_heard() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", "pve02", **KERNEL)
    fleet.restart()
    assert fleet.nodes_of("INC-1") == ["pve01", "pve02"]
    fleet.join(fleet.agents["pve01"])
    assert fleet.nodes_of("INC-1") == ["pve01", "pve02"]
    fleet.heal("pve01")
    assert fleet.nodes_of("INC-1") == ["pve02"]
    assert fleet.all()[0].peak == 2


def test_a_record_that_another_wrote_is_believed_and_written_onto() -> None:
    fleet = Fleet("pve01", "pve02")
    fleet.boot("pve01", **KERNEL)
    key = "incidents/0000000001"
    (item,) = fleet.store.range(key)[:1]
    fleet.store.commit([Txn(compares=(), ops=(Put(key, item.value),))])
    fleet.boot("pve02", **KERNEL)
    assert fleet.nodes_of("INC-1") == ["pve01", "pve02"]
    assert len(fleet.store.range("incidents/")) == 3


def test_a_node_without_its_incident_stops_the_start() -> None:
    fleet = Fleet("pve01")
    fleet.boot("pve01", **KERNEL)
    fleet.store.commit([Txn(compares=(), ops=(Delete("incidents/0000000001"),))])
    with pytest.raises(RestoreError, match="incidents/0000000001/pve01"):
        fleet.restart()


def test_the_oldest_that_are_closed_give_way_and_no_number_comes_twice() -> None:
    fleet = Fleet("pve01", "pve02", limits=Limits(incidents_kept=3))
    fleet.boot("pve02", **KERNEL)
    for number in range(30):
        fleet.boot("pve01", wide=True, bios=f"G{number}")
        fleet.deliver()
        fleet.heal("pve01")
    kept = [view.id for view in fleet.all()]
    assert "INC-1" in kept, "the open one stays"
    assert kept[0] == "INC-31"
    assert len(kept) <= 1 + 3 + 20
    assert len(fleet.store.range("incidents/")) == len(kept) + 1
    fleet.restart()
    for one in fleet.agents.values():
        fleet.join(one)
    fleet.boot("pve01", wide=True, bios="H1")
    assert fleet.all()[0].id == "INC-32"
