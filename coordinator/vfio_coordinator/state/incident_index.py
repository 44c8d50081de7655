"""Every incident that is kept, and the ways to find one: by number, by node, by what is suspected.

All of it is persistent maps, and a change costs what it touches: neither how many nodes there are
nor how many incidents are open matters to a report. Nothing here decides what is one cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from immutables import Map

from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.state.incident_records import (
    IncidentNodeRecord,
    IncidentRecord,
    Suspect,
    Telling,
)

SuspectKey = tuple[str, str, str]
"""(code of the incident, part, value after); part and value are "" for nothing suspected."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A row of the event log that waits for the incident's next write."""

    code: str
    text: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One incident: as the store holds it, and as it is to be.

    `record` is what the store holds, None before the first write; `members` are the nodes there.
    `draft` and `wanted` are both as they are known now; `touched` are the nodes of which the store
    does not know yet, `remarks` and `tickets` what goes with the next write. `txn` is the write in
    flight, 0 for none. `telling` is what people are being told, None for nothing.
    """

    draft: IncidentRecord
    record: IncidentRecord | None = None
    revision: int = 0
    members: Map[str, IncidentNodeRecord] = field(default_factory=Map)
    wanted: Map[str, IncidentNodeRecord] = field(default_factory=Map)
    touched: Names = field(default_factory=Names)
    remarks: tuple[Remark, ...] = ()
    tickets: tuple[int, ...] = ()
    txn: int = 0
    telling: Telling | None = None

    @property
    def is_open(self) -> bool:
        """True as long as a node is in it, as far as is known now."""
        return not self.draft.closed_at


@dataclass(frozen=True, slots=True)
class Incidents:
    """See the module.

    `open` are the numbers of the open ones by code, `closed` those of all others. `of_node` says by
    node and code which open incident a node is in. `suspected` finds open ones and those that were
    closed lately. `telling` are those of which people are being told, `untold` those that wait for
    that, as numbers of ten digits; `due` says from which monotonic second on people may be told.
    `last` is the highest number ever given.
    """

    held: Map[int, Incident] = field(default_factory=Map)
    open: Map[str, Map[int, None]] = field(default_factory=Map)
    closed: Map[int, None] = field(default_factory=Map)
    of_node: Map[str, Map[str, int]] = field(default_factory=Map)
    suspected: Map[SuspectKey, Map[int, None]] = field(default_factory=Map)
    telling: Map[int, None] = field(default_factory=Map)
    untold: Names = field(default_factory=Names)
    due: Map[int, float] = field(default_factory=Map)
    last: int = 0

    def list_open(self, code: str = "") -> Iterator[Incident]:
        """All open ones, or those of one code, in no particular order."""
        for numbers in (self.open.get(code, _NONE),) if code else self.open.values():
            for number in numbers:
                yield self.held[number]

    def membership_of(self, node: str) -> Map[str, int]:
        """By code, the open incidents that this node is in."""
        return self.of_node.get(node, _NOWHERE)

    def suspected_of(self, code: str, suspects: Iterable[Suspect]) -> list[Incident]:
        """Those that share a suspect; with no suspects, those that have none. By number."""
        found: set[int] = set()
        for key in suspect_keys(code, suspects):
            found.update(self.suspected.get(key, _NONE))
        return [self.held[number] for number in sorted(found)]


_NOWHERE: Map[str, int] = Map()
_NONE: Map[int, None] = Map()


def suspect_keys(code: str, suspects: Iterable[Suspect]) -> list[SuspectKey]:
    """Under which keys an incident of this code with these suspects is found."""
    return [(code, s.part, s.after) for s in suspects] or [(code, "", "")]


def put_incident(incidents: Incidents, incident: Incident) -> Incidents:
    """With this incident as given; its nodes are indexed by `put_member`."""
    draft = incident.draft
    number = draft.number
    old = incidents.held.get(number)
    if bool(incident.telling) != (number in incidents.telling):
        telling = incidents.telling
        telling = telling.set(number, None) if incident.telling else telling.delete(number)
        incidents = replace(incidents, telling=telling)
    held = incidents.held.set(number, incident)
    last = max(incidents.last, number)
    known = old is not None and (old.is_open, old.draft.suspects, old.draft.code) == (
        incident.is_open,
        draft.suspects,
        draft.code,
    )
    if known:
        return replace(incidents, held=held, last=last)
    found = _unlisted(incidents, old) if old is not None else incidents
    suspected = found.suspected
    for key in suspect_keys(draft.code, draft.suspects):
        suspected = suspected.set(key, suspected.get(key, _NONE).set(number, None))
    if incident.is_open:
        numbers = found.open.get(draft.code, _NONE).set(number, None)
        found = replace(found, open=found.open.set(draft.code, numbers))
    else:
        found = replace(found, closed=found.closed.set(number, None))
    return replace(found, held=held, last=last, suspected=suspected)


def drop_incident(incidents: Incidents, number: int) -> Incidents:
    """Without this incident and its nodes."""
    old = incidents.held.get(number)
    if old is None:
        return incidents
    if number in incidents.telling:
        incidents = replace(incidents, telling=incidents.telling.delete(number))
    for node in old.wanted:
        incidents = drop_member(incidents, node, old.draft.code)
    incidents = _unlisted(incidents, old)
    return replace(incidents, held=incidents.held.delete(number))


def expire_suspicion(incidents: Incidents, number: int) -> Incidents:
    """A closed incident that is too old to be opened again is found by its number only."""
    old = incidents.held[number]
    return replace(incidents, suspected=_unsuspected(incidents.suspected, old))


def put_member(incidents: Incidents, node: str, code: str, number: int) -> Incidents:
    """The node is in this open incident."""
    numbers = incidents.membership_of(node).set(code, number)
    return replace(incidents, of_node=incidents.of_node.set(node, numbers))


def drop_member(incidents: Incidents, node: str, code: str) -> Incidents:
    """The node is in no incident of this code."""
    numbers = incidents.membership_of(node)
    if code not in numbers:
        return incidents
    left = numbers.delete(code)
    of_node = incidents.of_node.set(node, left) if left else incidents.of_node.delete(node)
    return replace(incidents, of_node=of_node)


def _unlisted(incidents: Incidents, old: Incident) -> Incidents:
    code, number = old.draft.code, old.draft.number
    opened, closed = incidents.open, incidents.closed
    if old.is_open:
        left = opened.get(code, _NONE)
        left = left.delete(number) if number in left else left
        opened = opened.set(code, left) if left else opened.delete(code)
    elif number in closed:
        closed = closed.delete(number)
    suspected = _unsuspected(incidents.suspected, old)
    return replace(incidents, open=opened, closed=closed, suspected=suspected)


def _unsuspected(
    suspected: Map[SuspectKey, Map[int, None]], old: Incident
) -> Map[SuspectKey, Map[int, None]]:
    number = old.draft.number
    for key in suspect_keys(old.draft.code, old.draft.suspects):
        numbers = suspected.get(key, _NONE)
        if number in numbers:
            left = numbers.delete(number)
            suspected = suspected.set(key, left) if left else suspected.delete(key)
    return suspected
