"""Accepting a node's present facts as known-good, and keeping the gates' results beside them.

A person accepts facts, on a broken host only with a reason; the policy accepts where nothing speaks
against it (`acceptance`); and automation records anew which units pass when a new version of the
checks judges otherwise: that is no regression of the node (facts: safety, Regression). Each
acceptance is a row of its own, and its facts, the rows that give way to it and the event row are
one transaction: a crash leaves the history before or after it, never part of one.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.baseline_views import SHORTEST_DIGEST, BaselineRefusal
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Verdict
from vfio_coordinator.state import keys
from vfio_coordinator.state.acceptance import find_problems, is_due, passing_units
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.baseline_history import add, changes, is_same_firmware
from vfio_coordinator.state.baseline_report import baseline_view
from vfio_coordinator.state.events import BaselineAcceptRequested, CommitOutcome, Outcome
from vfio_coordinator.state.evidence import renew_drift
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import Baseline, BaselineWrite, Inventory, Node, Observation
from vfio_coordinator.state.records import BaselineRecord
from vfio_coordinator.state.risk_terms import check_reason
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import ModRevisionIs, StoreError

POLICY_ACTOR = "auto:POLICY"


def accept_baseline(turn: Turn, event: BaselineAcceptRequested, *, attempt: int = 1) -> None:
    """Accept for a person; a broken host is refused with what is broken. Raises ClusterError."""
    name = find_node(turn.state, event.node)
    node = turn.state.nodes[name]
    inventory, observation = _require_evidence(node)
    reason = check_reason(event.reason) if event.force else ""
    if event.reason and not event.force:
        raise ClusterError(ErrorCode.BAD_REQUEST, "reason: only a forced baseline has one")
    if event.digest and len(event.digest) < SHORTEST_DIGEST:
        detail = f"digest: at least {SHORTEST_DIGEST} characters of it"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    if not inventory.digest.startswith(event.digest):
        detail = f"node {name}: its facts are not those that were shown: {inventory.digest}"
        raise ClusterError(ErrorCode.CONFLICT, detail)
    if node.baseline_txn or node.admin is None:
        raise ClusterError(ErrorCode.CONFLICT, f"node {name}: another write is under way")
    problems = find_problems(node)
    if problems and not event.force:
        turn.reply((event.ticket,), BaselineRefusal(name, problems))
        return
    record = _make_record(turn, node, inventory, observation)
    record = replace(record, accepted_by=event.actor, reason=reason)
    spoken = ""
    if event.force:
        against = f"against {problems[0].code} and {len(problems) - 1} more" if problems else ""
        spoken = f"; forced{' ' if against else ''}{against}: {reason}"
    try:
        # a second attempt is for the facts of the first
        asked = replace(event, digest=inventory.digest)
        _accept(turn, node, record, f"user:{event.actor}", spoken, request=asked, attempt=attempt)
    except StoreError as error:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"node {name}: {error}") from error


def _require_evidence(node: Node) -> tuple[Inventory, Observation]:
    inventory, observation, judgement = node.inventory, node.observation, node.judgement
    if inventory is None or observation is None or judgement is None or not judgement.fresh:
        why = judgement.why if judgement is not None else "it was never heard"
        raise ClusterError(ErrorCode.NO_INVENTORY, f"node {node.name}: {why}")
    if not inventory.complete:
        detail = f"node {node.name}: the list of its PCI functions could not be read"
        raise ClusterError(ErrorCode.NO_INVENTORY, detail)
    return inventory, observation


def accept_by_policy(turn: Turn, name: str) -> None:
    """Accept what the policy says needs no person."""
    node = turn.state.nodes[name]
    if not is_due(turn.state, node):
        return
    inventory, observation = _require_evidence(node)
    record = _make_record(turn, node, inventory, observation)
    record = replace(record, accepted_by=POLICY_ACTOR, policy=True)
    try:
        _accept(turn, node, record, POLICY_ACTOR, "")
    except StoreError:
        # Too large for one transaction; a person who accepts is told so.
        return


def _make_record(
    turn: Turn, node: Node, inventory: Inventory, observation: Observation
) -> BaselineRecord:
    return BaselineRecord(
        node=node.name,
        digest=inventory.digest,
        chunks=0,
        passed=passing_units(node),
        checks_version=observation.checks_version,
        accepted_by="",
        accepted_at=turn.now.utc,
        firmware=inventory.firmware_parts,
        board=turn.state.cohorts.board_of(node.name),
        agent_version=node.session.agent_version if node.session is not None else "",
    )


def _accept(
    turn: Turn,
    node: Node,
    record: BaselineRecord,
    actor: str,
    spoken: str,
    *,
    request: BaselineAcceptRequested | None = None,
    attempt: int = 1,
) -> None:
    facts_zlib = node.inventory.facts_zlib if node.inventory is not None else b""
    passed = len(record.passed)
    text = f"baseline accepted: {record.digest[:19]}, {_passing(passed)}{spoken}"
    note = Note(f"node:{node.name}", "BASELINE_ACCEPTED", text, actor)
    history = add(node.baselines, record, facts_zlib)
    _write(turn, node, history, note, request=request, attempt=attempt)


def _passing(count: int) -> str:
    return f"{count} unit passes every gate" if count == 1 else f"{count} units pass every gate"


def recheck_baseline(turn: Turn, name: str) -> None:
    """Record which units pass under a new version of the checks, on the same accepted facts.

    A unit that cannot be judged now, or for which the node is cordoned, keeps its place: a new
    version must not make a known regression disappear. Where the firmware now is another, the row
    says so, for that tells nothing of its own; it is recorded anew once the node is back there.
    """
    node = turn.state.nodes[name]
    baseline, observation, judgement = node.baseline, node.observation, node.judgement
    if baseline is None or observation is None or judgement is None or node.baseline_txn:
        return
    version, old = observation.checks_version, baseline.record
    present = node.inventory.firmware_parts if node.inventory is not None else ()
    own = not old.firmware or is_same_firmware(old.firmware, present)
    is_news = version != old.checks_version or (own and old.passed_elsewhere)
    if not judgement.fresh or node.doubt or not is_news:
        return
    regressed = {cause.unit for cause in judgement.causes if cause.unit}
    unknown = {s.layout.id for s in node.standings if s.verdict is Verdict.UNKNOWN}
    kept = set(old.passed) & set(map(node.accepted_id, regressed | unknown))
    passed = tuple(sorted(kept.union(map(node.accepted_id, passing_units(node)))))
    elsewhere = bool(passed) and not own and (old.passed_elsewhere or not old.passed)
    record = replace(old, passed=passed, checks_version=version, passed_elsewhere=elsewhere)
    why = "new version of the checks" if version != old.checks_version else "its firmware is back"
    text = f"{why}: {_passing(len(passed))} on the accepted facts"
    note = Note(f"node:{name}", "BASELINE_RECHECKED", text, "auto:BASELINE_RECHECKED")
    history = tuple(
        replace(row, record=record) if row.record.number == record.number else row
        for row in node.baselines
    )
    _write(turn, node, history, note)


def _write(
    turn: Turn,
    node: Node,
    history: tuple[Baseline, ...],
    note: Note,
    *,
    request: BaselineAcceptRequested | None = None,
    attempt: int = 1,
) -> None:
    compares, ops, numbers = changes(node.name, node.baselines, history)
    txn_id = turn.next_txn()
    write = BaselineWrite(
        txn_id=txn_id,
        rows=turn.number_rows([note]),
        tickets=() if request is None else (request.ticket,),
        attempt=attempt,
        node=node.name,
        baselines=history,
        numbers=numbers,
        request=request,
    )
    present = ModRevisionIs(keys.node_key(node.name), node.admin_revision)
    turn.commit(write, compares=(*compares, present), ops=ops)
    turn.put_node(replace(node, baseline_txn=txn_id))


def finish_baseline(turn: Turn, write: BaselineWrite, event: CommitOutcome) -> None:
    """Believe it, compare anew, and let automation lift what has no cause any more."""
    node = replace(turn.state.nodes[write.node], baseline_txn=0)
    if event.outcome is Outcome.OK:
        history = tuple(
            replace(row, revision=event.revision) if row.record.number in write.numbers else row
            for row in write.baselines
        )
        turn.put_node(replace(node, baselines=history))
        renew_drift(turn, write.node)
        settle(turn, write.node)
        if write.tickets:
            turn.reply(write.tickets, baseline_view(turn.state, write.node))
        return
    turn.put_node(node)
    settle(turn, write.node)
    if write.request is not None and write.attempt < turn.state.limits.place_attempts:
        accept_baseline(turn, write.request, attempt=write.attempt + 1)
        return
    detail = f"the record of {write.node} kept changing"
    turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
