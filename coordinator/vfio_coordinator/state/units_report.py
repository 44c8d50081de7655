"""Units as people see them: state, why, and counts that add up.

Counted are intended units and claimed ones; candidates are listed with what they would need, and
counted nowhere (CHECKS.md, Intended devices). A unit is `free` only where placement could take it
now without accepting a risk: on a cordoned node it is unfit, and on a node that is not heard or not
validated it is unknown, whatever was known before. total = free + claimed + foreign + unfit +
unknown; a pending claim counts as claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vfio_contract.ledger import WORST_FIRST
from vfio_contract.views import UnitCount, UnitView
from vfio_coordinator.scheduler.index import (
    CLAIMED,
    FOREIGN,
    FREE,
    PENDING,
    UNFIT,
    UNKNOWN,
    Entry,
)
from vfio_coordinator.scheduler.standing import Offer
from vfio_coordinator.state.judge import claims_on
from vfio_coordinator.state.model import Node, State
from vfio_coordinator.state.records import ClaimedUnit
from vfio_coordinator.state.reset_history import state_of

_KIND_ORDER = ("gpu", "accel", "nic", "nvme", "storage", "usb", "audio", "crypto", "other")


def unit_views(state: State, node: Node) -> tuple[UnitView, ...]:
    """Every unit of the node by address, then claimed ones that its inventory does not show."""
    entry = state.index.entries.get(node.name)
    offers = entry.offers if entry is not None else ()
    rows = [_view(node, entry, o) for o in sorted(offers, key=lambda o: o.primary)]
    return (*rows, *(_lost_view(node, unit, vm) for unit, vm in _unseen(state, node)))


def intended_states(state: State, node: Node) -> Iterator[tuple[str, str]]:
    """(kind, state) of each unit that counts."""
    entry = state.index.entries.get(node.name)
    for offer in entry.offers if entry is not None else ():
        shown = _state(node, offer)
        if shown in (CLAIMED, PENDING) or offer.standing.layout.intended:
            yield offer.shape.kind, shown
    for unit, _ in _unseen(state, node):
        yield unit.kind, CLAIMED


def count_units(states: Iterable[tuple[str, str]]) -> tuple[UnitCount, ...]:
    """Counts by kind, in the order of kinds; kinds without units are left out."""
    counts: dict[str, dict[str, int]] = {}
    for kind, state in states:
        row = counts.setdefault(kind, {})
        name = CLAIMED if state == PENDING else state
        row[name] = row.get(name, 0) + 1
    return tuple(_count(kind, counts[kind]) for kind in sorted(counts, key=_kind_rank))


def _kind_rank(kind: str) -> tuple[int, str]:
    rank = _KIND_ORDER.index(kind) if kind in _KIND_ORDER else len(_KIND_ORDER)
    return rank, kind


def _count(kind: str, row: Mapping[str, int]) -> UnitCount:
    return UnitCount(
        kind=kind,
        total=sum(row.values()),
        free=row.get(FREE, 0),
        claimed=row.get(CLAIMED, 0),
        foreign=row.get(FOREIGN, 0),
        unfit=row.get(UNFIT, 0),
        unknown=row.get(UNKNOWN, 0),
    )


def _state(node: Node, offer: Offer) -> str:
    judgement = node.judgement
    if offer.state in (CLAIMED, PENDING) or judgement is None or not judgement.stage:
        return offer.state
    if judgement.state == "cordoned" and judgement.fresh:
        return offer.state if offer.state in (FOREIGN, UNKNOWN) else UNFIT
    return UNKNOWN


def _view(node: Node, entry: Entry | None, offer: Offer) -> UnitView:
    layout = offer.standing.layout
    state = _state(node, offer)
    why = offer.why
    if entry is not None and entry.stage and state not in (CLAIMED, PENDING):
        why = why or entry.why
    return UnitView(
        id=layout.id,
        kind=layout.kind,
        model=offer.standing.model,
        ids=layout.ids,
        addresses=layout.addresses,
        numa_node=-1 if layout.numa_node is None else layout.numa_node,
        intended=layout.intended or bool(offer.vm),
        state=state,
        why=why,
        needs=tuple(dict.fromkeys(need.word for need in offer.standing.needs)),
        vm=offer.vm,
        reset=_worst_reset(node, layout.keys),
    )


def _worst_reset(node: Node, identities: Iterable[str]) -> str:
    found = {state_of(node, identity) for identity in identities}
    return next((str(state) for state in WORST_FIRST if state in found), "")


def _unseen(state: State, node: Node) -> Iterator[tuple[ClaimedUnit, str]]:
    """Claimed units of which the present inventory shows no function."""
    if not node.held:
        return
    seen = {key for standing in node.standings for key in standing.layout.keys}
    for claim in claims_on(state, node.name):
        for unit in claim.units:
            if not seen.intersection(unit.keys):
                yield unit, claim.vm


def _lost_view(node: Node, unit: ClaimedUnit, vm: str) -> UnitView:
    return UnitView(
        id=unit.unit,
        kind=unit.kind,
        model=unit.model,
        ids="",
        addresses=(*unit.assign, *unit.hold),
        numa_node=unit.numa_node,
        intended=True,
        state=CLAIMED,
        why=f"claimed by {vm}; {node.name} shows it in no inventory now",
        needs=(),
        vm=vm,
    )
