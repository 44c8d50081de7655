"""What a new process reads back, and what it refuses to guess."""

from __future__ import annotations

import pytest

from tests.unit.state.cluster import Cluster, ask_for, store_text
from tests.unit.state.hosts import agent, cards, snapshot
from vfio_contract.artifact import decode
from vfio_contract.ledger import ResetState
from vfio_contract.model import ResetSummary
from vfio_contract.views import BaselineView, Decision, NodeView, Placement
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.baseline_history import split_chunks
from vfio_coordinator.state.bootstrap import open_cluster
from vfio_coordinator.state.effects import Failure, RefuseSession, Reply
from vfio_coordinator.state.events import NodeHello, Now, PlaceRequested, Tick
from vfio_coordinator.state.model import start
from vfio_coordinator.state.records import AdminRecord, ClusterRecord, EpochRecord, LedgerRecord
from vfio_coordinator.state.reducer import apply
from vfio_coordinator.state.restore import RestoreError
from vfio_coordinator.store.interface import MAX_VALUE_BYTES, Delete, Put, Txn
from vfio_coordinator.store.memory import MemoryStore


def everything(cluster: Cluster) -> Placement:
    cluster.join(agent("pve01"), agent("pve02"))
    cluster.accept(BaselineView, "pve01")
    cluster.cordon(NodeView, "pve02", reason="fan", actor="bob")
    decision = cluster.place(Decision, ask_for("vm1"))
    assert decision.placement is not None
    return decision.placement


def test_all_that_is_durable_comes_back() -> None:
    cluster = Cluster()
    everything(cluster)
    before = cluster.state
    log, _ = report.list_events(before)
    cluster.restart()
    after = cluster.state
    assert dict(after.claims) == dict(before.claims)
    assert dict(after.vms) == dict(before.vms)
    for name, node in before.nodes.items():
        again = after.nodes[name]
        assert (again.admin, again.admin_revision) == (node.admin, node.admin_revision)
        assert again.baseline == node.baseline
        assert dict(again.held) == dict(node.held)
        assert (again.session, again.inventory, again.observation) == (None, None, None)
    rows, _ = report.list_events(after)
    assert rows[: len(log)] == log
    assert rows[-1].code == "COORDINATOR_STARTED"
    assert after.epoch == before.epoch + 1
    assert all(view.units_free == 0 for view in report.node_views(after, cluster.now))


def test_drift_is_found_again_after_a_restart() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    cluster.restart()
    one.snapshot = snapshot(*cards(2), boot=1, bios="F11")
    cluster.join(one)
    assert [r.code for r in cluster.view("pve01").reasons] == ["FIRMWARE_CHANGED"]


@pytest.mark.parametrize(
    "prefix",
    [keys.NODES, keys.CLAIMS, keys.UNITS, keys.VMS, keys.BASELINES, keys.EVENTS],
)
@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_record_stops_the_start_and_is_named(prefix: str, value: bytes) -> None:
    cluster = Cluster()
    everything(cluster)
    key = store_text(cluster.store, prefix)[0]
    cluster.store.commit([Txn((), (Put(key, value),))])
    with pytest.raises(RestoreError) as stopped:
        cluster.restart()
    assert stopped.value.key == key
    assert key in str(stopped.value)
    item = cluster.store.get(key)
    assert item is not None
    assert item.value == value


def test_a_baseline_without_its_facts_stops_the_start() -> None:
    cluster = Cluster()
    everything(cluster)
    (chunk,) = store_text(cluster.store, keys.CHUNKS)
    cluster.store.commit([Txn((), (Delete(chunk),))])
    with pytest.raises(RestoreError):
        cluster.restart()


def test_a_large_baseline_is_stored_in_parts_and_replaced_whole() -> None:
    cluster = Cluster()
    one = agent("pve01")
    cluster.join(one)
    parts = split_chunks(b"x" * (MAX_VALUE_BYTES + 1))
    assert [len(part) for part in parts] == [MAX_VALUE_BYTES, 1]
    cluster.accept(BaselineView, "pve01")
    first = store_text(cluster.store, keys.CHUNKS)
    cluster.accept(BaselineView, "pve01")
    assert store_text(cluster.store, keys.CHUNKS) == first
    cluster.change(one, snapshot(*cards(3)))
    cluster.accept(BaselineView, "pve01")
    second = store_text(cluster.store, keys.CHUNKS)
    assert len(second) == 1
    assert second != first


def test_a_unit_key_without_a_claim_is_still_somebodys() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01", *cards(1)))
    cluster.place(Decision, ask_for("vm1"))
    (claim,) = store_text(cluster.store, keys.CLAIMS)
    cluster.store.commit([Txn((), (Delete(claim),))])
    cluster.restart()
    cluster.join(agent("pve01", *cards(1)))
    assert cluster.place(Decision, ask_for("vm2")).placement is None


def test_each_start_has_a_higher_epoch_and_one_cluster_id() -> None:
    store = MemoryStore()
    seen = []
    for number in range(3):
        opening = open_cluster(
            store.get(keys.META_CLUSTER),
            store.get(keys.META_EPOCH),
            new_cluster_id=f"id-{number}",
            utc="t",
        )
        (result,) = store.commit([opening.txn])
        assert result.succeeded
        seen.append((opening.cluster.cluster_id, opening.cluster.incarnation, opening.epoch.epoch))
        item = store.get(keys.META_CLUSTER)
        assert item is not None
        assert decode(ClusterRecord, item.value) == opening.cluster
    assert seen == [("id-0", 1, 1), ("id-0", 1, 2), ("id-0", 1, 3)]


def test_two_starts_at_once_never_share_an_epoch() -> None:
    store = MemoryStore()
    one, two = (open_cluster(None, None, new_cluster_id=name, utc="t") for name in ("one", "two"))
    results = store.commit([one.txn, two.txn])
    assert [r.succeeded for r in results] == [True, False]
    item = store.get(keys.META_EPOCH)
    assert item is not None
    assert decode(EpochRecord, item.value).epoch == 1


def test_a_damaged_epoch_is_named() -> None:
    store = MemoryStore()
    store.commit([Txn((), (Put(keys.META_EPOCH, b"nonsense"),))])
    with pytest.raises(RestoreError) as stopped:
        open_cluster(None, store.get(keys.META_EPOCH), new_cluster_id="x", utc="t")
    assert stopped.value.key == keys.META_EPOCH


def test_nothing_is_decided_before_the_store_was_read() -> None:
    now = Now(1.0, "t")
    state = start()
    _, effects = apply(state, PlaceRequested(ticket=1, request=ask_for("vm1"), actor="a"), now)
    (reply,) = effects
    assert isinstance(reply, Reply)
    assert isinstance(reply.answer, Failure)
    one = agent("pve01")
    hello = NodeHello(
        node="pve01",
        session=1,
        boot_id=one.boot_id,
        product_uuid="",
        agent_state_id="",
        agent_version="",
        inventory_digest="",
        cluster_id="",
        highest_incarnation=0,
        highest_epoch=0,
    )
    _, effects = apply(state, hello, now)
    assert isinstance(effects[0], RefuseSession)
    assert apply(state, Tick(), now)[1] == ()


# --- reset histories -----------------------------------------------------------------------------


def wedged(cluster: Cluster, *, attempts: int = 2, state: ResetState = ResetState.WEDGED) -> str:
    """An agent that tells of a reset, and the identity it tells of."""
    one = agent("pve01", *cards(1))
    cluster.join(one)
    identity = cluster.state.nodes["pve01"].standings[0].layout.keys[0]
    told = ResetSummary(str(identity), str(state), attempts, 1, "wedged", "not ready 65535ms")
    one.snapshot = snapshot(*cards(1), ledger=(told,))
    cluster.hello(one)
    cluster.observe(one)
    return str(identity)


def test_the_coordinators_copy_gates_when_the_agent_forgot() -> None:
    cluster = Cluster()
    identity = wedged(cluster)
    item = cluster.store.get(keys.ledger_key("pve01", identity))
    assert item is not None
    assert decode(LedgerRecord, item.value).state == "wedged"
    assert "RESET_WEDGED" in cluster.codes("pve01")
    for _ in range(2):
        forgetful = agent("pve01", *cards(1))
        cluster.join(forgetful)
        (unit,) = cluster.view("pve01").units
        assert (unit.state, "65535ms" in unit.why) == ("unfit", True)
        cluster.restart()


def test_what_the_agent_knows_better_replaces_the_copy() -> None:
    cluster = Cluster()
    wedged(cluster)
    wedged(cluster, attempts=3, state=ResetState.CAPABLE)
    assert [u.state for u in cluster.view("pve01").units] == ["free"]
    rows = len(store_text(cluster.store, keys.EVENTS))
    wedged(cluster, attempts=3, state=ResetState.CAPABLE)
    assert len(store_text(cluster.store, keys.EVENTS)) == rows


def test_a_new_boot_is_not_condemned_by_the_copy() -> None:
    cluster = Cluster()
    wedged(cluster)
    one = agent("pve01", *cards(1), boot=1)
    cluster.join(one)
    assert [u.state for u in cluster.view("pve01").units] == ["free"]


def test_records_ignore_what_a_newer_version_added() -> None:
    record = decode(
        AdminRecord,
        b'{"node":"n","product_uuid":"","boot_id":"","joined_at":"t","mood":"fine"}',
    )
    assert record == AdminRecord("n", "", "", "t")
