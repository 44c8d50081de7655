"""Incidents as people see them: a line, a list, one with all its nodes, and words for health.

What is not in the store yet is not shown. Lists count nodes only of the incident itself, so that
ten thousand incidents cost what they are; who else has the factor is counted where one incident is
asked for, and for the lines of health.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import nlargest, nsmallest

from vfio_contract import codes
from vfio_contract.firmware import shorten
from vfio_contract.incident_views import IncidentFactor, IncidentMember, IncidentView
from vfio_coordinator.state.conditions import ERR
from vfio_coordinator.state.incident_factors import Spread, count_factor, find_factors
from vfio_coordinator.state.incident_index import Incident
from vfio_coordinator.state.incident_lookup import find_incident
from vfio_coordinator.state.incident_matters import (
    NEVER_ACCEPTED,
    add_codes,
    can_tell,
    matters_of,
    told_with,
    vms_of,
)
from vfio_coordinator.state.incident_records import IncidentNodeRecord
from vfio_coordinator.state.judge import list_texts
from vfio_coordinator.state.model import State

MAX_LISTED = 500
"""Incidents in one answer."""

_BY_NAME = {code.name: code for code in codes.CLUSTER_CODES}


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """An open incident for a line of health.

    `common` is what its nodes have in common and how many peers wait for it, "" for nothing; `run`
    shows it.
    """

    id: str
    code: str
    level: str
    nodes: int
    acked_by: str
    opened_at: str
    common: str
    run: str


def incident_lines(state: State, code: str, *, most: int = 1) -> tuple[IncidentLine, ...]:
    """The open incidents of this code with the most nodes, at most so many, the worst first."""
    shown = [i for i in state.incidents.list_open(code) if i.record]
    return tuple(_line(state, incident) for incident in nsmallest(most, shown, key=_worst_first))


def list_incidents(
    state: State, *, closed: bool, limit: int
) -> tuple[tuple[IncidentView, ...], int]:
    """Open ones, worst first; or all, newest first. At most `limit`, and how many there are."""
    most = min(limit, MAX_LISTED) if limit > 0 else MAX_LISTED
    if closed:
        newest = nlargest(most, (n for n, i in state.incidents.held.items() if i.record))
        total = sum(1 for i in state.incidents.held.values() if i.record)
        return tuple(_view(state, state.incidents.held[n]) for n in newest), total
    found = [i for i in state.incidents.list_open() if i.record]
    return tuple(_view(state, i) for i in nsmallest(most, found, key=_worst_first)), len(found)


def show_incident(state: State, text: str) -> IncidentView:
    """The named one with its nodes and rows. Raises ClusterError."""
    incident = find_incident(state, text)
    view, spread = _counted(state, incident)
    subject = f"incident:{view.id}"
    rows = tuple(state.log[seq] for seq in sorted(state.log) if state.log[seq].subject == subject)
    return replace(
        view,
        members=tuple(_member(state, incident, name) for name in sorted(incident.wanted)),
        former=incident.draft.former,
        unaffected=spread.unaffected,
        waiting=spread.waiting,
        unknown=spread.unknown,
        events=rows,
    )


def incident_view(state: State, number: int) -> IncidentView:
    """One incident without its nodes, its first factor counted."""
    return _counted(state, state.incidents.held[number])[0]


def _counted(state: State, incident: Incident) -> tuple[IncidentView, Spread]:
    view = _view(state, incident)
    if not view.factors:
        return view, Spread((), (), ())
    first, spread = count_factor(state, incident, view.factors[0])
    return replace(view, factors=(first, *view.factors[1:])), spread


def _view(state: State, incident: Incident) -> IncidentView:
    draft = incident.draft
    return IncidentView(
        id=draft.id,
        code=draft.code,
        level=draft.level,
        state="closed" if draft.closed_at else "open",
        text=_text(state, incident),
        opened_at=draft.opened_at,
        closed_at=draft.closed_at,
        first_node=draft.first_node,
        nodes=draft.nodes,
        peak=draft.peak,
        vms=draft.vms,
        acked_by=draft.acked_by,
        acked_at=draft.acked_at,
        ack_reason=draft.ack_reason,
        factors=find_factors(state, incident),
        next=_next(incident),
    )


def _text(state: State, incident: Incident) -> str:
    """What a node that is in it shows now: the first one, or else the one that is in it longest."""
    draft, wanted = incident.draft, incident.wanted
    if not wanted or draft.closed_at:
        return draft.text
    record = wanted.get(draft.first_node) or min(wanted.values(), key=lambda r: (r.at, r.node))
    return _text_of(state, record, draft.code)


def _text_of(state: State, record: IncidentNodeRecord, code: str) -> str:
    """In the words of now where the node can tell, else as it was when it joined."""
    node = state.nodes.get(record.node)
    if node is None or node.judgement is None:
        return record.text
    causes = [cause.text for cause in node.judgement.causes if cause.code == code]
    if causes:  # a cordon's own words are those of its first moment
        return add_codes(list_texts(causes), told_with(state, node, code))
    matter = matters_of(state, node).get(code)
    return record.text if matter is None else matter.text


def _next(incident: Incident) -> str:
    """What to do about it: the decision of its code."""
    draft = incident.draft
    if draft.closed_at:
        return f"nothing: no node shows {draft.code} any more"
    code = _BY_NAME.get(draft.code)
    step = code.decision if code is not None else f"vfioctl explain {draft.code}"
    if draft.suspects != (NEVER_ACCEPTED,):
        return step
    # no node of it was ever accepted: this may be how they are meant to be
    node = draft.first_node if draft.first_node in incident.wanted else min(incident.wanted)
    return f"{step}; or take it as it is: vfioctl baseline accept {node} --force --reason TEXT"


def _member(state: State, incident: Incident, name: str) -> IncidentMember:
    record = incident.wanted[name]
    node = state.nodes.get(name)
    judgement = node.judgement if node is not None else None
    code, vms = incident.draft.code, record.vms
    heard = judgement is not None and (can_tell(judgement, code) or code == codes.NODE_LOST.name)
    if node is not None and heard:
        vms = vms_of(state, node, code, told_with(state, node, code))
    return IncidentMember(name, record.at, heard, _text_of(state, record, code), vms)


def _worst_first(incident: Incident) -> tuple[bool, bool, int, int]:
    draft = incident.draft
    return draft.level != ERR, bool(draft.acked_by), -draft.nodes, draft.number


def _line(state: State, incident: Incident) -> IncidentLine:
    draft = incident.draft
    view = _counted(state, incident)[0]
    return IncidentLine(
        id=draft.id,
        code=draft.code,
        level=draft.level,
        nodes=draft.nodes,
        acked_by=draft.acked_by,
        opened_at=draft.opened_at,
        common=describe_common(view.nodes, view.factors),
        run=f"vfioctl incident show {draft.id}",
    )


def describe_common(nodes: int, factors: Sequence[IncidentFactor]) -> str:
    """`common: BIOS F10 -> F11; 5 peers still on F10`; "" where nothing is common."""
    if nodes < 2 or not factors:
        return ""
    first = factors[0]
    before, after = shorten(first.before), shorten(first.after)
    change = f"{before} -> {after}" if before else after
    still = f"still on {before}" if before else f"not on {after} yet"
    many = "1 peer" if first.waiting == 1 else f"{first.waiting} peers"
    waits = f"; {many} {still}" if first.waiting and first.changed else ""
    fine = f"; {first.unaffected} with it are fine" if first.unaffected else ""
    return f"common: {first.part} {change}{waits}{fine}"
