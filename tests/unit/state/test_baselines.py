"""Acceptances of a node: which one is in force, what is kept of them, and what the store holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.state.cluster import Agent, Cluster, store_text
from tests.unit.state.hosts import accepted, agent, cards, owners, reboot, snapshot
from vfio_contract.artifact import compress, decode, encode
from vfio_contract.errors import ErrorCode
from vfio_contract.model import Snapshot
from vfio_contract.views import BaselineView, NodeView
from vfio_coordinator.state import keys
from vfio_coordinator.state.baseline_history import (
    MAX_ROWS,
    MAX_TUPLES,
    add,
    changes,
    choose,
    is_other_firmware,
    is_same_firmware,
)
from vfio_coordinator.state.baseline_report import baseline_rows, baseline_view
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import BaselineAcceptRequested
from vfio_coordinator.state.model import Baseline
from vfio_coordinator.state.records import BaselineRecord
from vfio_coordinator.store.interface import MAX_VALUE_BYTES, Delete, Put, Txn


def booted(cluster: Cluster, one: Agent, bios: str, *, count: int = 2) -> NodeView:
    """The machine after a reboot into this BIOS, with the same cards."""
    one.snapshot = snapshot(*cards(count), boot=int(one.boot_id[0]) % 8, bios=bios)
    cluster.join(one)
    return cluster.view(one.name)


def bios_of(baseline: Baseline | None) -> str:
    assert baseline is not None
    return dict(baseline.record.firmware)["BIOS"] or ""


def chunks_by_digest(cluster: Cluster) -> dict[str, int]:
    found: dict[str, int] = {}
    for key in store_text(cluster.store, keys.CHUNKS):
        digest = key.split("/")[2]
        found[digest] = found.get(digest, 0) + 1
    return found


def test_a_node_that_flips_between_two_accepted_firmwares_returns_by_itself_each_time() -> None:
    cluster, one = accepted(*cards(2))
    assert [r.code for r in booted(cluster, one, "F11").reasons] == ["FIRMWARE_CHANGED"]
    cluster.accept(BaselineView, "pve01")
    for bios in ("F10", "F11", "F10", "F11"):
        view = booted(cluster, one, bios)
        assert (view.state, view.reasons, view.drift) == ("ready", (), ())
        assert bios in bios_of(cluster.state.nodes["pve01"].baseline)


def test_an_unknown_firmware_is_compared_with_what_was_accepted_last() -> None:
    cluster, one = accepted(*cards(2))
    booted(cluster, one, "F11")
    cluster.accept(BaselineView, "pve01")
    view = booted(cluster, one, "F12")
    (change,) = (c for c in view.drift if c.detail == "BIOS")
    assert change.before.startswith("F11")
    assert "F11" in bios_of(cluster.state.nodes["pve01"].baseline)


def test_harm_under_an_accepted_firmware_is_told_against_what_was_accepted_there() -> None:
    cluster, one = accepted(*cards(2))
    booted(cluster, one, "F11")
    cluster.accept(BaselineView, "pve01")
    gone = reboot(cluster, one, *cards(1), bios="F10")
    assert owners(gone)[0] == "auto:DEVICE_VANISHED"
    assert "FIRMWARE_CHANGED" not in {change.code for change in gone.drift}


def test_facts_are_kept_once_for_each_content_and_go_with_the_last_row_that_names_them() -> None:
    cluster, one = accepted(*cards(2))
    cluster.accept(BaselineView, "pve01")
    cluster.accept(BaselineView, "pve01")
    _, rows = baseline_rows(cluster.state, "pve01")
    assert [(row.number, row.facts_kept) for row in rows] == [(3, True), (2, False), (1, False)]
    assert list(chunks_by_digest(cluster).values()) == [1]
    booted(cluster, one, "F11")
    cluster.accept(BaselineView, "pve01")
    assert sorted(chunks_by_digest(cluster).values()) == [1, 1]
    # other facts under the firmware of the first: those of the first give way
    reboot(cluster, one, *cards(3), bios="F10")
    cluster.accept(BaselineView, "pve01")
    kept = chunks_by_digest(cluster)
    digests = {
        row.record.digest.removeprefix("sha256:")
        for row in cluster.state.nodes["pve01"].baselines
        if row.facts_zlib is not None
    }
    assert set(kept) == digests
    assert len(digests) == 2


def test_the_history_says_who_when_and_which_firmware() -> None:
    cluster, one = accepted(*cards(2))
    booted(cluster, one, "F11")
    cluster.wait(60)
    cluster.join(one)
    cluster.accept(BaselineView, "pve01", actor="bob")
    name, (newest, first) = baseline_rows(cluster.state, "pve0")
    assert name == "pve01"
    assert (newest.accepted_by, first.accepted_by) == ("bob", "ann")
    assert newest.accepted_at > first.accepted_at
    assert any(line.startswith("BIOS: F11") for line in newest.firmware)
    assert any(line.startswith("BIOS: F10") for line in first.firmware)
    assert (newest.in_force, first.in_force) == (True, False)
    assert newest.agent_version == "0.1.0"
    assert len(newest.passed) == 2


def test_the_history_of_a_restarted_coordinator_is_the_same() -> None:
    cluster, one = accepted(*cards(2))
    booted(cluster, one, "F11")
    cluster.accept(BaselineView, "pve01")
    before = cluster.state.nodes["pve01"]
    cluster.restart()
    after = cluster.state.nodes["pve01"]
    assert after.baselines == before.baselines
    assert after.baseline == before.baselines[-1]
    view = booted(cluster, one, "F10")
    assert (view.state, view.reasons) == ("ready", ())


def test_rows_and_firmwares_are_bounded() -> None:
    cluster, one = accepted(*cards(1))
    for number in range(MAX_TUPLES + 2):
        cluster.change(one, snapshot(*cards(1), bios=f"G{number}"))
        for _ in range(4):
            cluster.accept(BaselineView, "pve01")
    node = cluster.state.nodes["pve01"]
    assert len(node.baselines) == MAX_ROWS
    facts = [bios_of(row) for row in node.baselines if row.facts_zlib is not None]
    assert len(facts) == MAX_TUPLES
    assert "F10" not in " ".join(facts), "the oldest firmware's facts gave way"
    assert len(chunks_by_digest(cluster)) == MAX_TUPLES
    assert len(store_text(cluster.store, keys.BASELINES)) == MAX_ROWS
    cluster.restart()
    assert cluster.state.nodes["pve01"].baselines == node.baselines


# --- a crash -------------------------------------------------------------------------------------


@pytest.mark.parametrize("landed", [False, True])
def test_a_crash_around_an_acceptance_leaves_the_history_before_or_after_it(landed: bool) -> None:
    cluster, one = accepted(*cards(2))
    before = cluster.state.nodes["pve01"].baselines
    reboot(cluster, one, *cards(3), bios="F10")
    cluster.held = True
    cluster.ask_later(lambda t: BaselineAcceptRequested(ticket=t, node="pve01", actor="ann"))
    if landed:
        ((_, txn),) = cluster.queue
        cluster.store.commit([txn])
    cluster.held = False
    cluster.restart()
    node = cluster.state.nodes["pve01"]
    cluster.join(one)
    if not landed:
        assert node.baselines == before
        assert "DEVICE_APPEARED" in {c.code for c in cluster.view("pve01").drift}
        return
    assert [row.record.number for row in node.baselines] == [1, 2]
    assert [row.facts_zlib is None for row in node.baselines] == [True, False]
    assert cluster.view("pve01").drift == ()
    assert list(chunks_by_digest(cluster).values()) == [1]


def test_an_answer_that_was_lost_is_read_back() -> None:
    cluster, one = accepted(*cards(2))
    reboot(cluster, one, *cards(3), bios="F10")
    cluster.held = True
    ticket = cluster.ask_later(
        lambda t: BaselineAcceptRequested(ticket=t, node="pve01", actor="ann")
    )
    second = cluster.ask_later(
        lambda t: BaselineAcceptRequested(ticket=t, node="pve01", actor="bob")
    )
    refused = cluster.replies[second]
    assert isinstance(refused, Failure)
    assert refused.code is ErrorCode.CONFLICT
    cluster.lose_answer(landed=True)
    cluster.held = False
    assert isinstance(cluster.replies[ticket], BaselineView)
    node = cluster.state.nodes["pve01"]
    last = node.baselines[-1]
    item = cluster.store.get(keys.baseline_key("pve01", last.record.number))
    assert item is not None
    assert item.mod_revision == last.revision
    cluster.accept(BaselineView, "pve01")


def test_a_history_that_changed_underneath_is_not_overwritten() -> None:
    cluster, one = accepted(*cards(2))
    booted(cluster, one, "F11")
    row = cluster.state.nodes["pve01"].baselines[0].record
    theirs = replace(row, number=2, accepted_by="eve", chunks=0)
    key = keys.baseline_key("pve01", 2)
    cluster.store.commit([Txn((), (Put(key, encode(theirs)),))])
    failed = cluster.accept(Failure, "pve01")
    assert failed.code is ErrorCode.CONFLICT
    item = cluster.store.get(key)
    assert item is not None
    assert decode(BaselineRecord, item.value).accepted_by == "eve"


# --- older stores --------------------------------------------------------------------------------


def test_a_baseline_from_before_there_was_a_history_counts_on() -> None:
    cluster, one = accepted(*cards(2))
    (row,) = cluster.state.nodes["pve01"].baselines
    old = {
        name: value
        for name, value in {
            "node": row.record.node,
            "digest": row.record.digest,
            "chunks": row.record.chunks,
            "passed": list(row.record.passed),
            "checks_version": row.record.checks_version,
            "accepted_by": "ann",
            "accepted_at": row.record.accepted_at,
        }.items()
    }
    cluster.store.commit(
        [
            Txn(
                (),
                (
                    Delete(keys.baseline_key("pve01", 1)),
                    Put(keys.baseline_key("pve01", 0), encode(old)),
                ),
            )
        ]
    )
    cluster.restart()
    cluster.join(one)
    assert cluster.view("pve01").drift == ()
    assert baseline_view(cluster.state, "pve01").of_this_firmware
    booted(cluster, one, "F11")
    cluster.accept(BaselineView, "pve01")
    assert [row.record.number for row in cluster.state.nodes["pve01"].baselines] == [0, 1]
    for bios in ("F10", "F11"):
        view = booted(cluster, one, bios)
        assert (view.state, view.reasons) == ("ready", ())
    cluster.restart()
    assert booted(cluster, one, "F10").reasons == ()


# --- firmware tuples -----------------------------------------------------------------------------

Parts = tuple[tuple[str, str | None], ...]
PARTS: st.SearchStrategy[Parts] = st.tuples(
    *(st.tuples(st.just(name), st.sampled_from(["a", "b", None])) for name in ("BIOS", "kernel"))
)


@given(PARTS, PARTS)
def test_what_one_side_does_not_know_is_neither_equal_nor_changed(one: Parts, other: Parts) -> None:
    same, differs = is_same_firmware(one, other), is_other_firmware(one, other)
    assert (same, differs) == (is_same_firmware(other, one), is_other_firmware(other, one))
    pairs = list(zip(one, other, strict=True))
    known = any(a is not None and b is not None for (_, a), (_, b) in pairs)
    assert [same, differs].count(True) == (1 if known else 0)


@settings(max_examples=60)
@given(st.lists(st.tuples(PARTS, st.integers(0, 3)), min_size=1, max_size=45), PARTS)
def test_a_history_keeps_its_promises_whatever_is_accepted(
    accepted_ones: list[tuple[Parts, int]], present: Parts
) -> None:
    history: tuple[Baseline, ...] = ()
    stored: dict[str, bytes] = {}
    for parts, content in accepted_ones:
        # facts hold their firmware: no two firmwares share a content
        data = f"{parts}{content}".encode()
        record = BaselineRecord("n", f"sha256:{data.hex()}", 0, (), "1", "ann", "t", firmware=parts)
        after = add(history, record, data)
        _, ops, written = changes("n", history, after)
        assert len({op.key for op in ops}) == len(ops)
        for op in ops:
            if isinstance(op, Put):
                stored[op.key] = op.value
            else:
                assert stored.pop(op.key, None) is not None, "nothing is deleted that is not there"
        history = after
        newest = history[-1]
        assert newest.record.number in written
        assert newest.facts_zlib == data
    with_facts = [row for row in history if row.facts_zlib is not None]
    assert len(history) <= MAX_ROWS
    assert len(with_facts) <= MAX_TUPLES
    assert len({row.record.firmware for row in with_facts}) == len(with_facts)
    rows = {keys.baseline_key("n", row.record.number): encode(row.record) for row in history}
    chunks = {keys.chunk_key("n", row.record.digest, 0): row.facts_zlib for row in with_facts}
    assert stored == rows | chunks
    chosen = choose(history, present)
    assert chosen is not None
    assert chosen.facts_zlib is not None
    fitting = [row for row in with_facts if is_same_firmware(row.record.firmware, present)]
    assert chosen == (fitting[-1] if fitting else history[-1])


def test_large_facts_are_stored_in_parts_that_go_together() -> None:
    big = bytes(MAX_VALUE_BYTES) + b"x"
    record = BaselineRecord("n", "sha256:aa", 0, (), "1", "ann", "t", firmware=(("BIOS", "F10"),))
    history = add((), record, big)
    _, ops, _ = changes("n", (), history)
    assert sum(op.key.startswith(keys.CHUNKS) for op in ops) == 2
    assert history[0].record.chunks == 2
    after = add(history, replace(record, digest="sha256:bb"), b"small")
    _, ops, _ = changes("n", history, after)
    gone = [op.key for op in ops if isinstance(op, Delete)]
    assert gone == [keys.chunk_key("n", "sha256:aa", i) for i in range(2)]


def test_the_same_content_compressed_otherwise_keeps_its_stored_parts() -> None:
    data = encode({"facts": 1})
    record = BaselineRecord("n", "sha256:aa", 0, (), "1", "ann", "t", firmware=(("BIOS", "F10"),))
    first = add((), record, compress(data))
    again = add(first, record, b"another compression")
    assert again[-1].facts_zlib == compress(data)
    _, ops, _ = changes("n", first, again)
    assert all(op.key.startswith(keys.BASELINES) for op in ops)


# --- an upgrade of the agent ---------------------------------------------------------------------


def test_an_upgrade_that_adds_a_check_rebaselines_the_row_in_force_alone() -> None:
    cluster, one = accepted(*cards(2))
    booted(cluster, one, "F11")
    cluster.accept(BaselineView, "pve01")
    booted(cluster, one, "F10")
    one.checks = "checks-2"
    cluster.observe(one)
    first, second = (row.record for row in cluster.state.nodes["pve01"].baselines)
    assert (first.checks_version, second.checks_version) == ("checks-2", "checks-1")
    assert cluster.view("pve01").state == "ready"
    assert "BASELINE_RECHECKED" in cluster.codes("pve01")
    cluster.restart()
    assert cluster.state.nodes["pve01"].baselines[0].record == first


def test_a_baseline_of_another_agent_version_is_no_drift() -> None:
    cluster, one = accepted(*cards(2))
    cluster.hello(one, agent_version="0.2.0")
    cluster.observe(one)
    view = cluster.view("pve01")
    assert (view.state, view.drift, view.agent) == ("ready", (), "0.2.0")
    assert cluster.state.nodes["pve01"].baselines[0].record.agent_version == "0.1.0"


def test_two_nodes_have_their_own_histories() -> None:
    cluster = Cluster()
    one, two = agent("pve01"), agent("pve02")
    cluster.join(one, two)
    cluster.accept(BaselineView, "pve01")
    assert baseline_rows(cluster.state, "pve01")[1]
    assert cluster.state.nodes["pve02"].baselines == ()
    assert same_facts(one.snapshot, two.snapshot)
    assert {key.split("/")[1] for key in store_text(cluster.store, keys.CHUNKS)} == {"pve01"}


def same_facts(one: Snapshot, two: Snapshot) -> bool:
    return encode(one.facts) == encode(two.facts)
