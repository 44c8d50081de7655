"""Finding the incident that a person named, by its id, its number, or the beginning of one."""

from __future__ import annotations

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.state.incident_index import Incident
from vfio_coordinator.state.model import State

_NAMED = 5
_DIGITS = 10
_PREFIX = "INC-"


def find_incident(state: State, text: str) -> Incident:
    """The incident of that number, or the only open one whose number begins so.

    `INC-7`, `inc-7` and `7` are the same. One that is not in the store yet is none. Raises
    ClusterError: UNKNOWN_INCIDENT, or BAD_REQUEST for a beginning that fits several.
    """
    digits = text.upper().removeprefix(_PREFIX)
    shown = f"incident {text[:40]!r}"
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS):
        raise ClusterError(ErrorCode.UNKNOWN_INCIDENT, f"{shown}: an id is INC-7, or 7")
    held = state.incidents.held.get(int(digits))
    if held is not None and held.record is not None:
        return held
    found = [
        incident
        for incident in state.incidents.list_open()
        if incident.record is not None and str(incident.draft.number).startswith(digits)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClusterError(ErrorCode.UNKNOWN_INCIDENT, shown)
    listed = " ".join(f"{_PREFIX}{n}" for n in sorted(i.draft.number for i in found)[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    raise ClusterError(ErrorCode.BAD_REQUEST, f"{shown} fits several: {listed}{more}")
