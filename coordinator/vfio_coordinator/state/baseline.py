"""Accepting a node's present facts as known-good, and keeping the gates' results beside them.

A person accepts facts; automation only records anew which units pass, when a new version of the
checks judges otherwise: that is no regression of the node (facts: safety, Regression). The facts
are stored compressed in chunks, in one transaction with the record that names them.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Verdict
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.events import BaselineAcceptRequested, CommitOutcome, Outcome
from vfio_coordinator.state.evidence import renew_drift
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import Baseline, BaselineWrite, Node
from vfio_coordinator.state.records import BaselineRecord
from vfio_coordinator.state.report import baseline_view
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import (
    MAX_VALUE_BYTES,
    Delete,
    ModRevisionIs,
    Op,
    Put,
    StoreError,
)


def accept_baseline(turn: Turn, event: BaselineAcceptRequested, *, attempt: int = 1) -> None:
    """Accept for a person. Raises ClusterError."""
    name = find_node(turn.state, event.node)
    node = turn.state.nodes[name]
    inventory, observation, judgement = node.inventory, node.observation, node.judgement
    if inventory is None or observation is None or judgement is None or not judgement.fresh:
        why = judgement.why if judgement is not None else "it was never heard"
        raise ClusterError(ErrorCode.NO_INVENTORY, f"node {name}: {why}")
    if not inventory.complete:
        detail = f"node {name}: the list of its PCI functions could not be read"
        raise ClusterError(ErrorCode.NO_INVENTORY, detail)
    if node.baseline_txn or node.admin is None:
        raise ClusterError(ErrorCode.CONFLICT, f"node {name}: another write is under way")
    parts = split_chunks(inventory.facts_zlib)
    record = BaselineRecord(
        node=name,
        digest=inventory.digest,
        chunks=len(parts),
        passed=tuple(sorted(passing_units(node))),
        checks_version=observation.checks_version,
        accepted_by=event.actor,
        accepted_at=turn.now.utc,
    )
    ops: list[Op] = [
        Put(keys.chunk_key(name, record.digest, i), part) for i, part in enumerate(parts)
    ]
    old = node.baseline.record if node.baseline is not None else None
    if old is not None and (old.digest, old.chunks) != (record.digest, record.chunks):
        first = len(parts) if old.digest == record.digest else 0
        ops += [Delete(keys.chunk_key(name, old.digest, i)) for i in range(first, old.chunks)]
    text = f"baseline accepted: {record.digest[:19]}, {len(record.passed)} units pass every gate"
    note = Note(f"node:{name}", "BASELINE_ACCEPTED", text, f"user:{event.actor}")
    baseline = Baseline(record, 0, inventory.facts_zlib)
    try:
        _write(turn, node, baseline, ops, note, request=event, attempt=attempt)
    except StoreError as error:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"node {name}: {error}") from error


def recheck_baseline(turn: Turn, name: str) -> None:
    """Record which units pass under a new version of the checks, on the same accepted facts.

    A unit that cannot be judged now, or for which the node is cordoned, keeps its place: a new
    version must not make a known regression disappear.
    """
    node = turn.state.nodes[name]
    baseline, observation, judgement = node.baseline, node.observation, node.judgement
    if baseline is None or observation is None or judgement is None or node.baseline_txn:
        return
    version = observation.checks_version
    if not judgement.fresh or version == baseline.record.checks_version:
        return
    regressed = {cause.unit for cause in judgement.causes if cause.unit}
    unknown = {s.layout.id for s in node.standings if s.verdict is Verdict.UNKNOWN}
    kept = set(baseline.record.passed) & (regressed | unknown)
    passed = tuple(sorted(kept | set(passing_units(node))))
    record = replace(baseline.record, passed=passed, checks_version=version)
    text = f"new version of the checks: {len(passed)} units pass every gate on the accepted facts"
    note = Note(f"node:{name}", "BASELINE_RECHECKED", text, "auto:BASELINE_RECHECKED")
    _write(turn, node, replace(baseline, record=record), [], note)


def passing_units(node: Node) -> list[str]:
    """Intended or claimed units that pass every gate, with a WARN or without."""
    return [
        s.layout.id
        for s in node.standings
        if s.verdict in (Verdict.PASS, Verdict.WARN)
        and (s.layout.intended or any(key in node.held for key in s.layout.keys))
    ]


def split_chunks(facts_zlib: bytes) -> list[bytes]:
    """Parts that fit into a value each."""
    size = MAX_VALUE_BYTES
    return [facts_zlib[i : i + size] for i in range(0, len(facts_zlib), size)]


def _write(
    turn: Turn,
    node: Node,
    baseline: Baseline,
    ops: list[Op],
    note: Note,
    *,
    request: BaselineAcceptRequested | None = None,
    attempt: int = 1,
) -> None:
    key = keys.baseline_key(node.name)
    known = node.baseline.revision if node.baseline is not None else 0
    txn_id = turn.next_txn()
    write = BaselineWrite(
        txn_id=txn_id,
        rows=turn.number_rows([note]),
        tickets=() if request is None else (request.ticket,),
        attempt=attempt,
        node=node.name,
        baseline=baseline,
        request=request,
    )
    turn.commit(
        write,
        compares=(
            ModRevisionIs(key, known),
            ModRevisionIs(keys.node_key(node.name), node.admin_revision),
        ),
        ops=(Put(key, encode(baseline.record)), *ops),
    )
    turn.put_node(replace(node, baseline_txn=txn_id))


def finish_baseline(turn: Turn, write: BaselineWrite, event: CommitOutcome) -> None:
    """Believe it, compare anew, and let automation lift what has no cause any more."""
    node = replace(turn.state.nodes[write.node], baseline_txn=0)
    if event.outcome is Outcome.OK:
        node = replace(node, baseline=replace(write.baseline, revision=event.revision))
    turn.put_node(node)
    if event.outcome is Outcome.OK:
        renew_drift(turn, write.node)
        settle(turn, write.node)
        if write.tickets:
            turn.reply(write.tickets, baseline_view(turn.state, write.node))
        return
    settle(turn, write.node)
    if write.request is not None and write.attempt < turn.state.limits.place_attempts:
        accept_baseline(turn, write.request, attempt=write.attempt + 1)
        return
    detail = f"the record of {write.node} kept changing"
    turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
