"""When people are told of an incident: once when it opened, and again only when it got worse.

What is to be told waits `HOLD_S` first, so that what comes of the same cause meanwhile is in the
same message; what is over by then is told to nobody, unless it comes back. After a start nothing
waits: how long it stood before is not known.

Worse is a level that rose, the first VM that it concerns, or twice the nodes or VMs of the last
telling. What counts as then is what was left of it, where it grows again a while after that
telling: an incident that was closed and opens again is told as such, and one that somebody
acknowledged yesterday keeps quiet about nothing new. Who comes and goes within that while is told
once. How bad it was then is durable with the telling's number, written after it was delivered: a
crash in between tells it once more under the same stamp, and loses nothing. Acknowledging counts as
having been told; getting worse takes that back. A closed incident is told to nobody. What is muted
is told when its mute has ended.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from immutables import Map

from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.state.conditions import ERR
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.incident_index import Incident, Remark, put_incident
from vfio_coordinator.state.incident_records import IncidentRecord, Telling
from vfio_coordinator.state.incident_report import incident_view
from vfio_coordinator.state.model import State
from vfio_coordinator.state.mutes import is_silenced
from vfio_coordinator.state.turn import Turn

_GREW = 2

QUIET = timedelta(minutes=30)
"""Longer than a host that reboots again and again takes, shorter than anybody's watch."""

HOLD_S = 20.0
"""Longer than the nodes of one switch take to be lost one after another (10 s), shorter than
anybody takes to look: who looks sees it at once."""

_AT_ONCE = 32
"""Incidents of which people are being told; the next ones follow as these are delivered."""


def find_reason(record: IncidentRecord) -> str:
    """Why people are to be told, in words; "" where there is no reason."""
    told = record.told
    if record.closed_at:
        return ""
    if told is None:
        return "opened"
    if not told.nodes:
        return "opened again"
    if record.level == ERR and told.level != ERR:
        return f"worse: {ERR} now"
    if record.vms and not told.vms:
        return "worse: the first VM is affected"
    if record.nodes >= _GREW * told.nodes:
        return f"worse: {told.nodes} nodes, now {record.nodes}"
    if told.vms and record.vms >= _GREW * told.vms:
        return f"worse: {told.vms} VMs, now {record.vms}"
    return ""


def measure(record: IncidentRecord, *, number: int, utc: str) -> Telling:
    """How bad the incident is now."""
    return Telling(number, record.level, record.nodes, record.vms, utc)


def lower_told(draft: IncidentRecord, utc: str) -> IncidentRecord:
    """What it is compared with when it grows now: no more than is left of it, a while after people
    were told."""
    told = draft.told
    if told is None or not is_quiet_since(told.at, utc):
        return draft
    nodes, vms = min(told.nodes, draft.nodes), min(told.vms, draft.vms)
    return replace(draft, told=replace(told, nodes=nodes, vms=vms))


def is_quiet_since(at: str, utc: str) -> bool:
    """True where that moment is so long ago that what comes now is something new."""
    return datetime.fromisoformat(utc) - datetime.fromisoformat(at) > QUIET


def clear_ack(incident: Incident) -> Incident:
    """Without its acknowledgement where it is worse than what was acknowledged."""
    draft = incident.draft
    reason = find_reason(draft) if draft.acked_by else ""
    if not reason:
        return incident
    text = f"{draft.id} is {reason}; {draft.acked_by} had acknowledged it before"
    remark = Remark("INCIDENT_WORSE", text, f"auto:{draft.code}")
    draft = replace(draft, acked_by="", acked_at="", ack_reason="")
    return replace(incident, draft=draft, remarks=(*incident.remarks, remark))


def is_full(state: State) -> bool:
    """True while no more can be told at once."""
    return len(state.incidents.telling) >= _AT_ONCE


def notify(turn: Turn, number: int) -> None:
    """Have people told after a while, if there is a reason that is in the store and they are not
    being told."""
    if not _is_news(turn.state, number):
        return
    due, now_s = turn.state.incidents.due, turn.now.monotonic_s
    if number not in due:
        _put_due(turn, due.set(number, now_s + HOLD_S))
    elif due[number] <= now_s:
        _tell(turn, number)  # it was over when its time came, and is back


def notify_due(turn: Turn) -> None:
    """Those that have waited long enough. One that is over stays due, for a while: a host that
    flaps must not be silent by chance."""
    now_s = turn.now.monotonic_s
    for number, at_s in sorted(turn.state.incidents.due.items()):
        incident = turn.state.incidents.held.get(number)
        closed = incident is not None and not incident.is_open
        if at_s <= now_s and (not closed or now_s - at_s > QUIET.total_seconds()):
            _put_due(turn, turn.state.incidents.due.delete(number))
            _tell(turn, number)


def _is_news(state: State, number: int) -> bool:
    """True where there is a reason that is in the store, and nobody is being told."""
    incident = state.incidents.held.get(number)
    if incident is None or incident.record is None or incident.telling is not None:
        return False
    if incident.record.told != incident.draft.told or incident.draft.closed_at:
        return False  # the write of that is under way, and this is looked at again after it
    return bool(find_reason(incident.record)) and not state.stopped


def _tell(turn: Turn, number: int) -> None:
    """Have people told now, if there is news; in its turn, where too many are being told."""
    if not _is_news(turn.state, number):
        return
    if is_full(turn.state):
        _put_untold(turn, turn.state.incidents.untold.add(_untold_key(number)))
        return
    incident = turn.state.incidents.held[number]
    record = incident.record
    if record is None or is_silenced(turn.state, record.code, incident.wanted):
        return
    count = record.told.number + 1 if record.told is not None else 1
    telling = measure(record, number=count, utc=turn.now.utc)
    incidents = put_incident(turn.state.incidents, replace(incident, telling=telling))
    if number in incidents.due:
        incidents = replace(incidents, due=incidents.due.delete(number))
    turn.state = replace(turn.state, incidents=incidents)
    view = incident_view(turn.state, number)
    turn.emit(Notify(view, f"{record.id}/{count}", find_reason(record)))


def notify_waiting(turn: Turn) -> None:
    """Those that waited until fewer are being told, the oldest first."""
    while (untold := turn.state.incidents.untold) and not is_full(turn.state):
        _put_untold(turn, untold.remove(untold.first))
        _tell(turn, int(untold.first))


def notify_all(turn: Turn) -> None:
    """Everything that nobody is known to have been told of, the oldest first, some at a time."""
    numbers = sorted(
        incident.draft.number
        for incident in turn.state.incidents.list_open()
        if find_reason(incident.draft)
    )
    untold = Names()
    for number in numbers:
        untold = untold.add(_untold_key(number))
    _put_untold(turn, untold)
    notify_waiting(turn)


def _put_due(turn: Turn, due: Map[int, float]) -> None:
    turn.state = replace(turn.state, incidents=replace(turn.state.incidents, due=due))


def _put_untold(turn: Turn, untold: Names) -> None:
    turn.state = replace(turn.state, incidents=replace(turn.state.incidents, untold=untold))


def _untold_key(number: int) -> str:
    """Sorted as the number is."""
    return f"{number:010}"
