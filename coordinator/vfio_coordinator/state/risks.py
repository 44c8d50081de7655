"""Risk decisions: accepting, revoking, and their end, each with one row of the event log.

A decision is durable under a key of its own; a claim that stands on it compares that key, so none
lands on a decision that has ended. The record of an ended decision stays, and says how it ended,
until a new one takes its place. Its end is looked at before every event and after a restart: from
that moment it permits nothing, whatever the store says yet, and the row is written in the
transaction that marks the record, so exactly once. Wall clock: a decision names a day. Once ended
it stays ended, also when the clock goes back. Nothing here touches a claim or a VM.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from vfio_contract import codes
from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.scheduler.risk import (
    EXPIRED,
    REVOKED,
    RiskDecision,
    describe_end,
    describe_risk,
)
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.events import (
    CommitOutcome,
    Outcome,
    RiskAcceptRequested,
    RiskRevokeRequested,
)
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import Node, RiskHeld, RiskRequest, RiskWrite, State
from vfio_coordinator.state.records import RiskRecord
from vfio_coordinator.state.risk_report import find_standing, risk_view
from vfio_coordinator.state.risk_terms import check_code, check_reason, read_end
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import ModRevisionIs, Put

_AUTO = f"auto:{codes.RISK_EXPIRED.name}"


def request_risk(turn: Turn, event: RiskRequest) -> None:
    """Accept or revoke for a person. Raises ClusterError."""
    if isinstance(event, RiskRevokeRequested):
        event = _named(turn.state, event)
    else:
        event = replace(event, node=find_node(turn.state, event.node))
    node = turn.state.nodes[event.node]
    if node.risk_txn:
        turn.put_node(replace(node, risk_queue=(*node.risk_queue, event)))
    else:
        _decide(turn, event, attempt=1)


def _decide(turn: Turn, event: RiskRequest, *, attempt: int) -> None:
    """A request whose node and decision are named in full, while nothing is being written."""
    node, code = turn.state.nodes[event.node], check_code(event.code)
    if isinstance(event, RiskRevokeRequested):
        record, note = _revoked(turn, node, event)
    else:
        if node.admin is None:
            detail = f"node {node.name} has no record; it never joined"
            raise ClusterError(ErrorCode.UNKNOWN_NODE, detail)
        record, note = _accepted(turn, node, event, code)
    _write(turn, node, record, note, attempt=attempt, request=event)


def _accepted(
    turn: Turn, node: Node, event: RiskAcceptRequested, code: str
) -> tuple[RiskRecord, Note]:
    now = turn.now.utc
    reason = check_reason(event.reason)
    until = read_end(event.until, now_utc=now)
    # The row's number makes it another one than any before, also within one second.
    text = f"{node.name} {code} {now} {turn.state.epoch} {turn.state.next_seq}"
    number = sha256(text.encode()).hexdigest()[:8]
    record = RiskRecord(f"risk-{number}", node.name, code, reason, event.actor, now, until)
    old = node.risks.get(code)
    instead = ""
    if old is not None and old.decision.in_force:
        instead = f"; instead of {old.record.id} of {old.record.by}, {_until(old.record)}"
    text = f"{code}: risk accepted {_until(record)}: {reason} ({record.id}){instead}"
    return record, Note(f"node:{node.name}", "RISK_ACCEPTED", text, f"user:{event.actor}")


def _revoked(turn: Turn, node: Node, event: RiskRevokeRequested) -> tuple[RiskRecord, Note]:
    held = node.risks.get(event.code)
    if held is None or not held.decision.in_force:
        known = describe_risk(held.decision if held is not None else None)
        detail = f"node {node.name}, {event.code}: {known}"
        raise ClusterError(ErrorCode.UNKNOWN_RISK, detail)
    if event.id and held.record.id != event.id:
        detail = f"{event.id}: {held.record.id} has taken its place"
        raise ClusterError(ErrorCode.UNKNOWN_RISK, detail)
    old = held.record
    record = replace(old, ended=REVOKED, ended_by=event.actor, ended_at=turn.now.utc)
    text = (
        f"{old.code}: revoked {old.id} of {old.by}, {_until(old)}{_affects(turn.state, node, old)}"
    )
    return record, Note(f"node:{node.name}", codes.RISK_REVOKED.name, text, f"user:{event.actor}")


def _named(state: State, event: RiskRevokeRequested) -> RiskRevokeRequested:
    """With the node's full name, the code and the full id of the decision that it means."""
    if not event.id:
        if not event.node or not event.code:
            detail = "id: name one decision, by its id or by node and code: vfioctl risk list"
            raise ClusterError(ErrorCode.BAD_REQUEST, detail)
        return replace(event, node=find_node(state, event.node))
    if event.node or event.code:
        detail = "id: give the id, or node and code, not both"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    found = [
        held
        for node in state.nodes.values()
        for held in node.risks.values()
        if held.record.id.startswith(event.id)
        or held.record.id.removeprefix("risk-").startswith(event.id)
    ]
    live = [held for held in found if held.decision.in_force] or found
    if not live:
        raise ClusterError(ErrorCode.UNKNOWN_RISK, f"id {event.id[:40]!r}")
    if len(live) > 1:
        listed = " ".join(sorted(held.record.id for held in live)[:5])
        detail = f"id {event.id[:40]!r} fits several: {listed}"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    record = live[0].record
    return replace(event, node=record.node, code=record.code, id=record.id)


def _until(record: RiskRecord) -> str:
    return f"until {describe_end(record.until)}"


def _affects(state: State, node: Node, record: RiskRecord) -> str:
    vms = find_standing(state, node.name, record.code)
    return f"; still used by {' '.join(vms)}" if vms else ""


# --- the end -------------------------------------------------------------------------------------


def end_risks(turn: Turn) -> None:
    """Decisions whose last second is over permit nothing from now on; that is written down."""
    state, utc = turn.state, turn.now.utc
    if not state.next_end or utc <= state.next_end or state.stopped:
        return
    for node in state.nodes.values():
        due = {
            code: replace(held, decision=_expired(held.decision))
            for code, held in node.risks.items()
            if held.decision.in_force and utc > held.record.until
        }
        if due:
            turn.put_node(replace(turn.state.nodes[node.name], risks=node.risks.update(due)))
            _go_on(turn, node.name)
            settle(turn, node.name)
    ends = [
        held.record.until
        for node in turn.state.nodes.values()
        for held in node.risks.values()
        if held.decision.in_force
    ]
    turn.state = replace(turn.state, next_end=min(ends, default=""))


def _expired(decision: RiskDecision) -> RiskDecision:
    return replace(decision, ended=EXPIRED, ended_by=_AUTO, ended_at=decision.until)


def _go_on(turn: Turn, name: str) -> None:
    """Write the next end that is not in the store yet, else the next request that waited."""
    node = turn.state.nodes[name]
    if node.risk_txn:
        return
    for _, held in sorted(node.risks.items()):
        if held.decision.ended == EXPIRED and not held.record.ended:
            old = held.record
            record = replace(old, ended=EXPIRED, ended_by=_AUTO, ended_at=old.until)
            affects = _affects(turn.state, node, old)
            text = f"{old.code}: {old.id} of {old.by} ended, {_until(old)}{affects}"
            note = Note(f"node:{name}", codes.RISK_EXPIRED.name, text, _AUTO)
            _write(turn, node, record, note, attempt=1)
            return
    while node.risk_queue and not node.risk_txn:
        request = node.risk_queue[0]
        turn.put_node(replace(node, risk_queue=node.risk_queue[1:]))
        try:
            _decide(turn, request, attempt=1)
        except ClusterError as error:
            turn.fail((request.ticket,), error.code, error.detail)
        node = turn.state.nodes[name]


# --- the store -----------------------------------------------------------------------------------


def _write(
    turn: Turn,
    node: Node,
    record: RiskRecord,
    note: Note,
    *,
    attempt: int,
    request: RiskRequest | None = None,
) -> None:
    txn_id = turn.next_txn()
    write = RiskWrite(
        txn_id=txn_id,
        rows=turn.number_rows([note]),
        tickets=() if request is None else (request.ticket,),
        attempt=attempt,
        node=node.name,
        record=record,
        request=request,
    )
    key = keys.risk_key(node.name, record.code)
    known = node.risks.get(record.code)
    turn.commit(
        write,
        compares=(ModRevisionIs(key, known.revision if known is not None else 0),),
        ops=(Put(key, encode(record)),),
    )
    turn.put_node(replace(turn.state.nodes[node.name], risk_txn=txn_id))


def finish_risk(turn: Turn, write: RiskWrite, event: CommitOutcome) -> None:
    """Believe the outcome, or decide again on what the store holds."""
    turn.put_node(replace(turn.state.nodes[write.node], risk_txn=0))
    request = write.request
    if event.outcome is Outcome.OK:
        keep_risk(turn, write.record, event.revision)
        end_risks(turn)
        settle(turn, write.node)
        turn.reply(write.tickets, risk_view(turn.state, write.node, write.record.code))
    elif request is not None and write.attempt < turn.state.limits.place_attempts:
        try:
            _decide(turn, request, attempt=write.attempt + 1)
        except ClusterError as error:
            turn.fail(write.tickets, error.code, error.detail)
    else:
        detail = f"the risk decisions of {write.node} kept changing"
        turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
    # An end that failed to be written is tried anew here, on what the failure taught.
    _go_on(turn, write.node)


def keep_risk(turn: Turn, record: RiskRecord, revision: int) -> None:
    """The store holds this decision; one whose end has come is ended by the next `end_risks`."""
    node = turn.state.nodes[record.node]
    decision = RiskDecision(
        code=record.code,
        id=record.id,
        reason=record.reason,
        by=record.by,
        until=record.until,
        ended=record.ended,
        ended_by=record.ended_by,
        ended_at=record.ended_at,
    )
    held = node.risks.get(record.code)
    if held is not None and held.record == record and held.decision.ended:
        # the same one, of which we know already that its end has come
        decision = held.decision
    risks = node.risks.set(record.code, RiskHeld(record, revision, decision))
    turn.put_node(replace(node, risks=risks))
    if decision.in_force and (not turn.state.next_end or record.until < turn.state.next_end):
        turn.state = replace(turn.state, next_end=record.until)


def forget_risk(turn: Turn, name: str, code: str) -> None:
    """The store holds no such decision."""
    node = turn.state.nodes.get(name)
    if node is not None and code in node.risks:
        turn.put_node(replace(node, risks=node.risks.delete(code)))
