"""Incidents as the store holds them, put into the state: at start, and after a failed compare.

Which nodes are in one is believed from their records until they are heard; the record's own count
may be of a moment at which the last of them were not written yet.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_coordinator.state.incident_index import Incident, put_incident, put_member
from vfio_coordinator.state.incident_records import IncidentNodeRecord, IncidentRecord
from vfio_coordinator.state.turn import Turn


def keep_incident(turn: Turn, record: IncidentRecord, revision: int) -> None:
    """The store holds this record. Its nodes follow."""
    known = turn.state.incidents.held.get(record.number)
    if known is None:
        incident = Incident(draft=replace(record, nodes=0, vms=0), record=record, revision=revision)
    else:
        # what is known of it since then waits to be written onto this
        draft = replace(known.draft, change=record.change)
        incident = replace(known, draft=draft, record=record, revision=revision)
    incidents = put_incident(turn.state.incidents, incident)
    turn.state = replace(turn.state, incidents=incidents)


def keep_member(turn: Turn, member: IncidentNodeRecord) -> None:
    """The store holds this node as one of an incident whose record was read before."""
    incident = turn.state.incidents.held.get(member.number)
    if incident is None:
        raise ValueError(f"incident {member.number} of {member.node} has no record")
    draft = incident.draft
    draft = replace(draft, nodes=draft.nodes + 1, vms=draft.vms + len(member.vms))
    incident = replace(
        incident,
        draft=draft,
        members=incident.members.set(member.node, member),
        wanted=incident.wanted.set(member.node, member),
    )
    incidents = put_incident(turn.state.incidents, incident)
    incidents = put_member(incidents, member.node, draft.code, member.number)
    turn.state = replace(turn.state, incidents=incidents)
