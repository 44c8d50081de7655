"""Correlation: the same trouble on many nodes is one incident, opened, followed and closed here.

A node that shows something that matters joins the open incident of the same code with which it
shares a suspect: something that changed on both since their baselines. The incident keeps what all
its nodes share. Where nothing is suspected, time is all that nodes can share: it joins the one of
which nothing is suspected either and that a node joined lately; else a new incident begins. Who has
joined stays until its node is heard and says otherwise; when the last one left, the incident is
closed, and the same trouble within a day opens it again. Same order of reports, same incidents;
which node reports first decides only what stands first.

Each change is put to the draft at once and written by `incident_writes`: a write in flight never
keeps a report from being counted. Nothing here looks at more than the incidents that share a
suspect, and nothing here tells anybody (`incident_notices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from vfio_coordinator.state.conditions import ERR
from vfio_coordinator.state.incident_index import (
    Incident,
    Incidents,
    Remark,
    drop_member,
    expire_suspicion,
    put_incident,
    put_member,
)
from vfio_coordinator.state.incident_matters import (
    Matter,
    can_tell,
    is_contained,
    is_shortened,
    matters_of,
    suspects_of,
    vms_of,
)
from vfio_coordinator.state.incident_notices import clear_ack, is_quiet_since, lower_told
from vfio_coordinator.state.incident_records import IncidentNodeRecord, IncidentRecord, Suspect
from vfio_coordinator.state.incident_writes import advance
from vfio_coordinator.state.model import Node, State
from vfio_coordinator.state.turn import Turn

REOPENED_FOR = timedelta(days=1)
"""So long after its end the same trouble is the same incident."""

_FORMER = 64
"""Nodes that left, named in the record."""

_WEAK = 4
"""Two nodes that each changed something else are not one incident because of what so many times
more nodes changed too without harm."""


def correlate_touched(turn: Turn, before: State) -> None:
    """Nodes that were judged anew in this turn join and leave incidents accordingly."""
    if not turn.state.restored:
        return
    for name in sorted(turn.touched):
        was, now = before.nodes.get(name), turn.state.nodes[name]
        same = was is not None and was.judgement is now.judgement
        if not (same and was is not None and was.observation is now.observation):
            _correlate(turn, name)


def _correlate(turn: Turn, name: str) -> None:
    state = turn.state
    node = state.nodes[name]
    if node.judgement is None:
        return
    found = matters_of(state, node)
    known = state.incidents.membership_of(name)
    if not found and not known:
        return
    shown = {*found, *known}
    for code in sorted(known):
        over = can_tell(node.judgement, code) or is_contained(node.judgement, code, shown)
        if code not in found and over:
            _leave(turn, node, state.incidents.held[known[code]])
    for code, matter in sorted(found.items()):
        if code in known:
            _go_on(turn, node, state.incidents.held[known[code]].draft.number, matter)
        else:
            _join(turn, node, code, matter)


def _join(turn: Turn, node: Node, code: str, matter: Matter) -> None:
    suspects = suspects_of(node, code)
    member = IncidentNodeRecord(
        number=0,
        node=node.name,
        at=turn.now.utc,
        level=matter.level,
        text=matter.text,
        suspects=suspects,
        vms=vms_of(turn.state, node, code, matter.also),
    )
    incident = _find(turn, node, code, suspects)
    if incident is None:
        incident = _open(turn, node, code, matter, suspects)
    elif not incident.is_open:
        incident = _reopened(turn, incident, node)
    else:
        incident = _narrowed(incident, node, suspects)
    number = incident.draft.number
    _put_member(turn, incident, replace(member, number=number))
    incidents = put_member(turn.state.incidents, node.name, code, number)
    turn.state = replace(turn.state, incidents=incidents)
    advance(turn, number)


def _find(turn: Turn, node: Node, code: str, suspects: Sequence[Suspect]) -> Incident | None:
    """The incident that this is part of: an open one first, then of those with most in common the
    largest, then the oldest."""
    chosen: tuple[tuple[bool, int, int, int], Incident] | None = None
    for incident in turn.state.incidents.suspected_of(code, suspects):
        draft = incident.draft
        if draft.closed_at and not _is_recent(draft, turn.now.utc):
            incidents = expire_suspicion(turn.state.incidents, draft.number)
            turn.state = replace(turn.state, incidents=incidents)
            continue
        same_node = node.name in (draft.first_node, *draft.former)
        if draft.closed_at and not suspects and not same_node:
            continue
        if incident.is_open and not suspects and is_quiet_since(_joined_at(draft), turn.now.utc):
            continue
        shared = _shared(draft.suspects, suspects)
        if suspects and _is_chance(turn.state, draft, suspects, shared):
            continue
        rank = (incident.is_open, len(shared), draft.nodes, -draft.number)
        if chosen is None or rank > chosen[0]:
            chosen = (rank, incident)
    return None if chosen is None else chosen[1]


def _joined_at(draft: IncidentRecord) -> str:
    return draft.joined_at or draft.opened_at


def _is_recent(draft: IncidentRecord, utc: str) -> bool:
    closed = datetime.fromisoformat(draft.closed_at)
    return datetime.fromisoformat(utc) - closed <= REOPENED_FOR


def _is_chance(
    state: State,
    draft: IncidentRecord,
    suspects: Sequence[Suspect],
    shared: Sequence[Suspect],
) -> bool:
    """True where each side has a suspect of its own that explains it far better than what both
    share: a new agent on every node of a fleet makes no two troubles one."""
    own = _without(suspects, shared)
    theirs = _without(draft.suspects, shared)
    if not own or not theirs:
        return False
    everyone = len(state.nodes)
    common = min(_fine_counts(state, shared, draft.nodes + 1), default=0)
    ours = min(_fine_counts(state, own, 1), default=everyone)
    others = min(_fine_counts(state, theirs, draft.nodes), default=everyone)
    return common > _WEAK * max(1 + ours, 1 + others)


def _fine_counts(state: State, suspects: Sequence[Suspect], affected: int) -> list[int]:
    """For each suspect, how many nodes have it beside those that are affected."""
    return [
        max(0, state.cohorts.count(s.part, s.after) - affected)
        for s in suspects
        if not is_shortened(s.after)
    ]


def _shared(ours: Sequence[Suspect], theirs: Sequence[Suspect]) -> tuple[Suspect, ...]:
    """What is suspected on both sides, in our order; without `before` where that differs."""
    befores = {(s.part, s.after): s.before for s in theirs}
    return tuple(
        s if befores[s.part, s.after] == s.before else replace(s, before="")
        for s in ours
        if (s.part, s.after) in befores
    )


def _without(suspects: Sequence[Suspect], shared: Sequence[Suspect]) -> tuple[Suspect, ...]:
    known = {(s.part, s.after) for s in shared}
    return tuple(s for s in suspects if (s.part, s.after) not in known)


def _open(
    turn: Turn, node: Node, code: str, matter: Matter, suspects: tuple[Suspect, ...]
) -> Incident:
    draft = IncidentRecord(
        number=turn.state.incidents.last + 1,
        code=code,
        level=matter.level,
        text=matter.text,
        suspects=suspects,
        first_node=node.name,
        opened_at=turn.now.utc,
    )
    text = f"{draft.id} opened: {code} on {node.name}: {matter.text}"
    remark = Remark("INCIDENT_OPENED", text, f"auto:{code}")
    return Incident(draft=draft, remarks=(remark,))


def _reopened(turn: Turn, incident: Incident, node: Node) -> Incident:
    draft = incident.draft
    text = f"{draft.id} opened again: {draft.code} on {node.name}"
    remark = Remark("INCIDENT_REOPENED", text, f"auto:{draft.code}")
    suspects = _shared(draft.suspects, suspects_of(node, draft.code))
    draft = replace(draft, closed_at="", suspects=suspects)
    return replace(incident, draft=draft, remarks=(*incident.remarks, remark))


def _narrowed(incident: Incident, node: Node, suspects: Sequence[Suspect]) -> Incident:
    draft = incident.draft
    shared = _shared(draft.suspects, suspects)
    if shared == draft.suspects:
        return incident
    gone = _without(draft.suspects, shared)
    incident = replace(incident, draft=replace(draft, suspects=shared))
    if not gone:
        return incident
    told = ", ".join(describe_suspect(s) for s in gone)
    text = f"{draft.id}: not {told}: {node.name} shows the same without it"
    remark = Remark("INCIDENT_NARROWED", text, f"auto:{draft.code}")
    return replace(incident, remarks=(*incident.remarks, remark))


def describe_suspect(suspect: Suspect) -> str:
    """`BIOS F10 -> F11`, or `kernel 6.8.12` where the nodes came from different ones."""
    if suspect.before:
        return f"{suspect.part} {suspect.before} -> {suspect.after}"
    return f"{suspect.part} {suspect.after}"


def _go_on(turn: Turn, node: Node, number: int, matter: Matter) -> None:
    """A node that is in it already: worse, or with more VMs, is written down."""
    incident = turn.state.incidents.held[number]
    member = incident.wanted[node.name]
    vms = vms_of(turn.state, node, incident.draft.code, matter.also)
    worse = matter.level == ERR and member.level != ERR
    more = tuple(vm for vm in vms if vm not in member.vms)
    if not worse and not more:
        return
    level = ERR if worse else member.level
    changed = replace(member, level=level, vms=tuple(sorted({*member.vms, *more})))
    _put_member(turn, incident, changed)
    advance(turn, number)


def _put_member(turn: Turn, incident: Incident, member: IncidentNodeRecord) -> None:
    """The draft with this node in it, as bad as it is with that."""
    old = incident.wanted.get(member.node)
    wanted = incident.wanted.set(member.node, member)
    draft = lower_told(incident.draft, turn.now.utc)
    draft = replace(
        draft,
        joined_at=draft.joined_at if old is not None else turn.now.utc,
        level=ERR if ERR in (draft.level, member.level) else draft.level,
        nodes=len(wanted),
        peak=max(draft.peak, len(wanted)),
        vms=draft.vms + len(member.vms) - (len(old.vms) if old is not None else 0),
        former=tuple(name for name in draft.former if name != member.node),
    )
    touched = incident.touched.add(member.node)
    _put(turn, clear_ack(replace(incident, draft=draft, wanted=wanted, touched=touched)))


def _leave(turn: Turn, node: Node, incident: Incident) -> None:
    """The node shows it no more; the last one closes it."""
    member = incident.wanted[node.name]
    wanted = incident.wanted.delete(node.name)
    draft = incident.draft
    former = (*(name for name in draft.former if name != node.name), node.name)
    draft = replace(
        draft,
        nodes=len(wanted),
        vms=draft.vms - len(member.vms),
        former=former[-_FORMER:],
        closed_at="" if wanted else turn.now.utc,
    )
    remarks = incident.remarks
    if not wanted:
        text = f"{draft.id} closed: no node shows {draft.code} any more; {draft.peak} did at most"
        remarks = (*remarks, Remark("INCIDENT_CLOSED", text, f"auto:{draft.code}"))
    touched = incident.touched.add(node.name)
    incident = replace(incident, draft=draft, wanted=wanted, touched=touched, remarks=remarks)
    _put(turn, incident)
    incidents = drop_member(turn.state.incidents, node.name, draft.code)
    turn.state = replace(turn.state, incidents=incidents)
    advance(turn, draft.number)


def _put(turn: Turn, incident: Incident) -> None:
    incidents: Incidents = put_incident(turn.state.incidents, incident)
    turn.state = replace(turn.state, incidents=incidents)
