"""The decision: which node and units a request gets, or why none.

Best fit: the node left with the fewest free units of what was asked, then the tightest NUMA node,
then the smallest name. All or nothing. Only units that every gate passes are ever given, and the
result depends on the index and the request alone. This module must never reserve anything.
"""

from __future__ import annotations

from typing import NamedTuple

from immutables import Map

from vfio_contract.findings import Verdict
from vfio_contract.views import GateProof, PlacedUnit, Placement, PlaceRequest, Refusal
from vfio_coordinator.scheduler.index import Entry, Index, buckets
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.scheduler.qualify import read_proof
from vfio_coordinator.scheduler.refusal import refuse
from vfio_coordinator.scheduler.risk import GATE, accept_command, describe_risk
from vfio_coordinator.scheduler.shape import Demand, Miss, Profile, answers, choose, demand_of, fit
from vfio_coordinator.scheduler.standing import Offer


class Moment(NamedTuple):
    """When a decision is made: seconds of the monotonic clock, UTC, the store's revision."""

    monotonic_s: float
    utc: str
    revision: int


class Chosen(NamedTuple):
    """A node and its units, in the order of the request's devices."""

    entry: Entry
    offers: tuple[Offer, ...]


def place(
    index: Index, request: PlaceRequest, moment: Moment, *, detail: bool = False
) -> Placement | Refusal:
    """Decide without reserving; generation and token are 0. `detail` lists every refused node."""
    chosen = decide(index, request)
    if chosen is None:
        return refuse(index, request, at=moment.utc, revision=moment.revision, detail=detail)
    return describe(chosen, request, moment)


def decide(index: Index, request: PlaceRequest) -> Chosen | None:
    """The best node and its units, or None when no node fits."""
    demand = demand_of(request)
    if request.node:
        entry = index.entries.get(request.node)
        return None if entry is None or entry.stage else _on(entry, demand)
    known = answers(demand)
    best: tuple[int, ...] | None = None
    rows: list[Map[Profile, Names]] = []
    for able, inner in buckets(index, demand.kinds).items():
        found = known.get(able) or fit(able, demand)
        if isinstance(found, Miss):
            continue
        if best is None or found.rank < best:
            best, rows = found.rank, [inner]
        elif found.rank == best:
            rows.append(inner)
    if best is None:
        return None
    name = min(names.first for inner in rows for names in inner.values())
    return _on(index.entries[name], demand)


def _on(entry: Entry, demand: Demand) -> Chosen | None:
    offers = entry.offers_of(demand.kinds)
    found = choose([o.shape for o in offers], demand)
    if isinstance(found, Miss):
        return None
    return Chosen(entry, tuple(offers[i] for i in found.picks))


def describe(
    chosen: Chosen, request: PlaceRequest, moment: Moment, *, generation: int = 0, token: int = 0
) -> Placement:
    """The placement as people see it, each unit with its proof."""
    return Placement(
        vm=request.vm,
        node=chosen.entry.node,
        generation=generation,
        token=token,
        revision=moment.revision,
        units=tuple(_placed(chosen.entry, o, moment.monotonic_s) for o in chosen.offers),
    )


def _placed(entry: Entry, offer: Offer, now_s: float) -> PlacedUnit:
    layout = offer.standing.layout
    return PlacedUnit(
        unit=layout.id,
        kind=layout.kind,
        model=offer.standing.model,
        assign=layout.assign,
        hold=layout.hold,
        numa_node=-1 if layout.numa_node is None else layout.numa_node,
        proof=prove(entry, offer, now_s),
    )


def prove(entry: Entry, offer: Offer, now_s: float) -> tuple[GateProof, ...]:
    """Every gate of a unit that passes them all, with its evidence and that evidence's age."""
    age_s = max(0.0, now_s - entry.collected_s)
    layout = offer.standing.layout
    node = tuple(GateProof(gate, Verdict.PASS, "", (line,), age_s) for gate, line in entry.vouched)
    groups = ", ".join(f"/dev/vfio/{number}" for number in layout.groups)
    free = GateProof(
        "free", Verdict.PASS, "", (f"no claim on {layout.id}; nobody holds {groups}",), age_s
    )
    gates = read_proof(offer.standing.proof, age_s=age_s)
    return (*node, *gates, *prove_risks(entry, offer, age_s), free)


def prove_risks(entry: Entry, offer: Offer, age_s: float) -> tuple[GateProof, ...]:
    """A row for each risk that the unit carries: who decided, until when and why.

    FAIL where no decision is in force; such a unit is given to nobody, but a VM may still have it.
    """
    rows = []
    for code in dict.fromkeys(need.code for need in offer.standing.needs):
        decision = offer.decision_about(code)
        text = f"{code}: {describe_risk(decision)}"
        if decision is not None and decision.in_force:
            verdict, text = Verdict.WARN, f"{text}: {decision.reason} ({decision.id})"
        else:
            verdict, text = Verdict.FAIL, f"{text}: {accept_command(entry.node, code)}"
        rows.append(GateProof(GATE, verdict, code, (text,), age_s))
    return tuple(rows)
