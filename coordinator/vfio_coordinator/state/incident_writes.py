"""Writing incidents down: one write an incident at a time, with all that gathered meanwhile.

A write holds the record, the nodes that joined and left since the last one, at most `_TOGETHER` of
them, and the rows of the event log: a thousand nodes that report within a second cost some twenty
transactions. An incident counts as closed in the store only with its last node's leave, so that a
crash in between leaves an open one, whose nodes say themselves how they are. Of closed incidents
the oldest give way.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import nsmallest

from vfio_contract.artifact import encode
from vfio_contract.errors import ErrorCode
from vfio_coordinator.state import keys
from vfio_coordinator.state.events import CommitOutcome, Outcome
from vfio_coordinator.state.incident_index import (
    Incident,
    Remark,
    drop_incident,
    expire_suspicion,
    put_incident,
)
from vfio_coordinator.state.incident_notices import notify
from vfio_coordinator.state.incident_report import incident_view
from vfio_coordinator.state.model import IncidentWrite
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Delete, ModRevisionIs, Op, Put

_TOGETHER = 56
"""Nodes in one write: a key each, beside 20 for what gives way and two for each of 8 rows."""

_ROWS = 8
_FORGOTTEN = 20


def advance(turn: Turn, number: int, *, attempt: int = 1) -> None:
    """Begin the incident's next write, if the store does not know something and none is in
    flight."""
    incident = turn.state.incidents.held[number]
    if incident.txn or turn.state.stopped:
        return
    if incident.record is None and not incident.wanted:
        # over before anything of it was written
        turn.state = replace(turn.state, incidents=drop_incident(turn.state.incidents, number))
        return
    if not _is_due(incident):
        return
    last = len(incident.touched) <= _TOGETHER
    names = incident.touched.head(_TOGETHER)
    record = replace(incident.draft, change=incident.draft.change + 1)
    if not last and incident.record is not None:
        record = replace(record, closed_at=incident.record.closed_at)
    elif not last:
        record = replace(record, closed_at="")
    said = incident.remarks[:_ROWS] if last else ()
    forgotten = _find_forgotten(turn, number) if record.closed_at else ()
    txn_id = turn.next_txn()
    subject = f"incident:{record.id}"
    write = IncidentWrite(
        txn_id=txn_id,
        rows=turn.number_rows([Note(subject, r.code, r.text, r.actor) for r in said]),
        tickets=incident.tickets,
        attempt=attempt,
        record=record,
        joined=tuple(incident.wanted[name] for name in names if name in incident.wanted),
        left=tuple(name for name in names if name not in incident.wanted),
        forgotten=forgotten,
    )
    for old in forgotten:
        # it must not be opened again while it goes
        turn.state = replace(turn.state, incidents=expire_suspicion(turn.state.incidents, old))
    turn.commit(
        write,
        compares=(ModRevisionIs(keys.incident_key(number), incident.revision),),
        ops=_ops(write),
    )
    touched = incident.touched
    for name in names:
        touched = touched.remove(name)
    incident = replace(
        incident,
        draft=replace(incident.draft, change=record.change),
        touched=touched,
        remarks=incident.remarks[len(said) :],
        tickets=(),
        txn=txn_id,
    )
    _put(turn, incident)


def _is_due(incident: Incident) -> bool:
    """True where the store does not know all of it."""
    waits = bool(incident.touched or incident.remarks or incident.tickets)
    return waits or incident.record != incident.draft


def _ops(write: IncidentWrite) -> list[Op]:
    number = write.record.number
    ops: list[Op] = [Put(keys.incident_key(number), encode(write.record))]
    ops += [Put(keys.incident_node_key(number, m.node), encode(m)) for m in write.joined]
    ops += [Delete(keys.incident_node_key(number, name)) for name in write.left]
    return [*ops, *(Delete(keys.incident_key(old)) for old in write.forgotten)]


def _find_forgotten(turn: Turn, number: int) -> tuple[int, ...]:
    """The oldest closed incidents, some at a time, where more are kept than may be."""
    state = turn.state
    if len(state.incidents.closed) <= state.limits.incidents_kept:
        return ()
    oldest = nsmallest(_FORGOTTEN, state.incidents.closed)
    held = state.incidents.held
    return tuple(n for n in oldest if n not in (number, state.incidents.last) and _rests(held[n]))


def _rests(incident: Incident) -> bool:
    return not (incident.txn or incident.members or incident.telling or _is_due(incident))


def finish_incident(turn: Turn, write: IncidentWrite, event: CommitOutcome) -> None:
    """The outcome: believe it, or write again on what the store holds."""
    number = write.record.number
    incident = turn.state.incidents.held.get(number)
    if incident is None:
        return  # forgotten meanwhile: there is nobody left whom it concerns
    if event.outcome is not Outcome.OK:
        _again(turn, replace(incident, txn=0), write)
        return
    members = incident.members
    for member in write.joined:
        members = members.set(member.node, member)
    for name in write.left:
        if name in members:
            members = members.delete(name)
    _put(
        turn,
        replace(incident, record=write.record, revision=event.revision, members=members, txn=0),
    )
    for old in write.forgotten:
        turn.state = replace(turn.state, incidents=drop_incident(turn.state.incidents, old))
    if write.tickets:
        turn.reply(write.tickets, incident_view(turn.state, number))
    advance(turn, number)
    notify(turn, number)


def _again(turn: Turn, incident: Incident, write: IncidentWrite) -> None:
    """Nothing was written. What the write held waits again, for a later one if it failed often."""
    touched = incident.touched
    for name in (*(m.node for m in write.joined), *write.left):
        touched = touched.add(name)
    said = tuple(Remark(row.code, row.text, row.actor) for row in write.rows)
    incident = replace(incident, touched=touched, remarks=(*said, *incident.remarks))
    number = incident.draft.number
    if write.attempt < turn.state.limits.place_attempts:
        _put(turn, replace(incident, tickets=(*write.tickets, *incident.tickets)))
        advance(turn, number, attempt=write.attempt + 1)
        return
    detail = f"the record of {incident.draft.id} kept changing"
    turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
    if incident.record is None:
        # its nodes show it again with their next report
        turn.state = replace(turn.state, incidents=drop_incident(turn.state.incidents, number))
    else:
        _put(turn, incident)


def _put(turn: Turn, incident: Incident) -> None:
    turn.state = replace(turn.state, incidents=put_incident(turn.state.incidents, incident))
