"""Acknowledging an incident, and what became of telling people: each ends in a write of its own.

Whoever acknowledges has seen it as it is now. A refused request changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.state.conditions import ERR
from vfio_coordinator.state.events import IncidentAckRequested, NotifyEnded
from vfio_coordinator.state.incident_index import Incident, Remark, put_incident
from vfio_coordinator.state.incident_lookup import find_incident
from vfio_coordinator.state.incident_notices import measure, notify_waiting
from vfio_coordinator.state.incident_writes import advance
from vfio_coordinator.state.turn import Turn


def acknowledge(turn: Turn, event: IncidentAckRequested) -> None:
    """Somebody has seen it. Raises ClusterError."""
    incident = find_incident(turn.state, event.id)
    draft = incident.draft
    if draft.closed_at:
        detail = f"{draft.id} is closed: there is nothing to acknowledge"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    told = draft.told.number if draft.told is not None else 0
    draft = replace(draft, told=measure(draft, number=told, utc=turn.now.utc))
    if event.reason or not draft.ack_reason:  # who says nothing erases nobody's words
        draft = replace(draft, acked_by=event.actor, acked_at=turn.now.utc, ack_reason=event.reason)
    said = f": {event.reason}" if event.reason else ""
    nodes = "1 node" if draft.nodes == 1 else f"{draft.nodes} nodes"
    text = f"{draft.id} acknowledged, {nodes}{said}"
    remark = Remark("INCIDENT_ACKED", text, f"user:{event.actor}")
    _put(
        turn,
        replace(
            incident,
            draft=draft,
            remarks=(*incident.remarks, remark),
            tickets=(*incident.tickets, event.ticket),
        ),
    )
    advance(turn, draft.number)


def hear_told(turn: Turn, event: NotifyEnded) -> None:
    """People were told, or could not be; an answer to no telling that is under way is dropped."""
    id, _, count = event.stamp.rpartition("/")
    number = id.removeprefix("INC-")
    incident = turn.state.incidents.held.get(int(number)) if number.isdecimal() else None
    telling = incident.telling if incident is not None else None
    if incident is None or telling is None or str(telling.number) != count:
        return
    incident = replace(incident, telling=None)
    if not event.ok:
        _put(turn, incident)
        return
    told = telling
    known = incident.draft.told
    if known is not None:
        # somebody may have acknowledged more than that meanwhile
        told = replace(
            telling,
            level=max(known.level, telling.level, key=lambda level: level == ERR),
            nodes=max(known.nodes, telling.nodes),
            vms=max(known.vms, telling.vms),
        )
    _put(turn, replace(incident, draft=replace(incident.draft, told=told)))
    advance(turn, incident.draft.number)
    notify_waiting(turn)


def _put(turn: Turn, incident: Incident) -> None:
    turn.state = replace(turn.state, incidents=put_incident(turn.state.incidents, incident))
