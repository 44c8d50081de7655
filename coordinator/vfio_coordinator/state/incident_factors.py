"""What the nodes of an incident have in common, and how far other nodes have it too.

Of what changed on all of them the most telling is what the fewest others have without harm. Where
nothing changed, something they merely share is named only if it tells them from the others. One
node has nothing in common with anybody. Peers are nodes of the same boards: those without the
factor are still to be updated. A node is fine only while its evidence vouches for it; one that was
not heard since the start is nobody's peer and not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vfio_contract.findings import Verdict
from vfio_contract.incident_views import IncidentFactor
from vfio_coordinator.state.cohorts import BOARD, CARDS, COHORT
from vfio_coordinator.state.incident_index import Incident
from vfio_coordinator.state.incident_matters import NEVER_ACCEPTED, shorten
from vfio_coordinator.state.incident_records import Suspect
from vfio_coordinator.state.isolation import ASPECTS
from vfio_coordinator.state.model import State

_ENOUGH = 3
"""Nodes that must share what did not change on them before it is called a factor."""

_RARE = 10
"""At most one of so many other nodes may have it then."""

_NO_FACTOR = frozenset({CARDS, COHORT, *ASPECTS})
"""Traits that are digests of others, or that nobody can change back."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a factor lies over the nodes that are not affected; names are sorted."""

    unaffected: tuple[str, ...]
    waiting: tuple[str, ...]
    unknown: tuple[str, ...]


def find_factors(state: State, incident: Incident) -> tuple[IncidentFactor, ...]:
    """The most telling first; not counted yet (`count_factor`)."""
    if incident.draft.suspects not in ((), (NEVER_ACCEPTED,)):
        return _changed_factors(state, incident)
    return _shared_factors(state, incident)


def count_factor(
    state: State, incident: Incident, factor: IncidentFactor
) -> tuple[IncidentFactor, Spread]:
    """The factor with its counts, and the nodes. Costs time in proportion to the cluster."""
    spread = _spread_of(state, incident, factor)
    counted = replace(
        factor,
        unaffected=len(spread.unaffected),
        waiting=len(spread.waiting),
        unknown=len(spread.unknown),
    )
    return counted, spread


def _changed_factors(state: State, incident: Incident) -> tuple[IncidentFactor, ...]:
    others = {
        suspect: _count_others(state, incident, suspect.part, _raw(state, incident, suspect))
        for suspect in incident.draft.suspects
    }
    ranked = sorted(incident.draft.suspects, key=lambda suspect: others[suspect])
    return tuple(IncidentFactor(s.part, s.before, s.after, True) for s in ranked)


def _shared_factors(state: State, incident: Incident) -> tuple[IncidentFactor, ...]:
    """What all nodes share and few others have; () where that cannot be said of every node."""
    traits = [state.cohorts.traits_of(name) for name in incident.wanted]
    rest = len(state.cohorts.traits) - len(traits)
    if len(traits) < _ENOUGH or traits[0] is None or rest <= 0:
        return ()
    found: list[tuple[int, str, str]] = []
    for part, value in sorted(traits[0].parts.items()):
        if part in _NO_FACTOR or any(t is None or t.value(part) != value for t in traits):
            continue
        others = state.cohorts.count(part, value) - len(traits)
        if others * _RARE <= rest:
            found.append((others, part, value))
    found.sort()
    return tuple(IncidentFactor(part, "", shorten(value), False) for _, part, value in found)


def _count_others(state: State, incident: Incident, part: str, value: str) -> int:
    """Nodes with this value that are not in the incident, heard or not."""
    within = sum(1 for name in incident.wanted if _value_of(state, name, part) == value)
    return state.cohorts.count(part, value) - within


def _raw(state: State, incident: Incident, suspect: Suspect | IncidentFactor) -> str:
    """The value as the nodes say it; a long one stands as its digest in the record."""
    for name in incident.wanted:
        value = _value_of(state, name, suspect.part)
        if value is not None and shorten(value) == suspect.after:
            return value
    return suspect.after


def _value_of(state: State, name: str, part: str) -> str | None:
    traits = state.cohorts.traits_of(name)
    return None if traits is None else traits.value(part)


def _spread_of(state: State, incident: Incident, factor: IncidentFactor) -> Spread:
    value = _raw(state, incident, factor)
    members = incident.wanted
    having = set(state.cohorts.nodes_with(factor.part, value))
    unaffected: list[str] = []
    unknown: list[str] = []
    for name in having.difference(members):
        (unaffected if _is_fine(state, name) else unknown).append(name)
    peers: set[str] = set()
    for board in _boards(state, members):
        peers.update(state.cohorts.nodes_with(BOARD, board))
    waiting: list[str] = []
    for name in peers.difference(having, members):
        known = _value_of(state, name, factor.part) is not None
        (waiting if known else unknown).append(name)
    if len(state.cohorts.traits) < len(state.nodes):
        silent = (name for name in state.nodes if name not in state.cohorts.traits)
        unknown += (name for name in silent if name not in members)
    return Spread(tuple(sorted(unaffected)), tuple(sorted(waiting)), tuple(sorted(unknown)))


def _boards(state: State, members: Iterable[str]) -> list[str]:
    boards = {_value_of(state, name, BOARD) for name in members}
    return sorted(board for board in boards if board is not None)


def _is_fine(state: State, name: str) -> bool:
    """Evidence of now speaks against nothing on it: what has other trouble may only not show this
    one, as a host without an IOMMU shows no widened group."""
    node = state.nodes.get(name)
    judgement = node.judgement if node is not None else None
    if node is None or judgement is None or not judgement.fresh:
        return False
    failing = (s for s in node.standings if s.layout.intended and s.verdict is Verdict.FAIL)
    return not judgement.causes and not judgement.holds and next(failing, None) is None
