"""Where VMs would find another home, decided dry: nothing is reserved, and nobody is asked.

Each VM's own request is placed again on the index without the nodes concerned, one after another,
so that two VMs never count on the same unit. What fits nowhere is said with the stages that refuse
it. This module must never change the state: it works on an index of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from vfio_contract.forecast_views import ForecastMove, ForecastNode
from vfio_contract.views import PlaceRequest, StageCount
from vfio_coordinator.scheduler.index import Index, put, remove
from vfio_coordinator.scheduler.place import Chosen, decide
from vfio_coordinator.scheduler.refusal import refuse
from vfio_coordinator.state.admin import entry_of
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.judge import claims_on
from vfio_coordinator.state.model import Holding, Node, State
from vfio_coordinator.state.records import Claim

NOBODY = "no other node is left"

TRIED = 2_000
"""VMs for which a place is looked for: a second's work with ten thousand nodes."""


@dataclass(slots=True)
class _Room:
    """What is left: the index, nodes whose units were given away, and requests that fit nowhere.

    The room only shrinks, so what was refused once is refused again.
    """

    index: Index
    taken: dict[str, Node]
    refused: dict[PlaceRequest, tuple[StageCount, ...]]


def find_moves(
    state: State, leaving: Sequence[ForecastNode], now: Now
) -> tuple[tuple[ForecastMove, ...], int]:
    """A move for each VM on these nodes, in their order, and how many more were not tried."""
    names = {row.node for row in leaving}
    rows = [(row, claim) for row in leaving for claim in claims_on(state, row.node)]
    room = _Room(_without(state.index, names), {}, {})
    moves = tuple(_move(state, room, row, claim, now) for row, claim in rows[:TRIED])
    return moves, max(0, len(rows) - TRIED)


def _without(index: Index, names: Collection[str]) -> Index:
    if 2 * len(names) < len(index.entries):
        for name in sorted(names):
            index = remove(index, name)
        return index
    left = Index()
    for name, entry in index.entries.items():
        if name not in names:
            left = put(left, entry)
    return left


def _move(state: State, room: _Room, row: ForecastNode, claim: Claim, now: Now) -> ForecastMove:
    request = replace(claim.request, vm="", request_id="", dry_run=True)
    stages: tuple[StageCount, ...] = ()
    chosen = None
    if request.node and request.node not in room.index.entries:
        why = f"its request names {request.node}"
    elif request in room.refused:
        stages = room.refused[request]
        why = describe_stages(stages)
    else:
        chosen = decide(room.index, request)
        why = ""
        if chosen is None:
            found = refuse(room.index, request, at=now.utc, revision=state.revision, detail=False)
            stages = room.refused[request] = found.stages
            why = describe_stages(stages)
    if chosen is not None:
        _take(state, room, chosen, claim)
    return ForecastMove(
        vm=claim.vm,
        node=row.node,
        outcome=row.outcome,
        to=chosen.entry.node if chosen is not None else "",
        why=why,
        stages=stages,
    )


def _take(state: State, room: _Room, chosen: Chosen, claim: Claim) -> None:
    """The units are this VM's from here on."""
    name = chosen.entry.node
    node = room.taken.get(name, state.nodes[name])
    holding = Holding(claim.vm, claim.generation, True)
    keys = [key for offer in chosen.offers for key in offer.standing.layout.keys]
    node = replace(node, held=node.held.update(dict.fromkeys(keys, holding)))
    room.taken[name] = node
    room.index = put(room.index, entry_of(node, known=chosen.entry))


def describe_stages(stages: Sequence[StageCount]) -> str:
    """`12 nodes refuse: isolation 3, free 9`, the stages being those of a placement."""
    total = sum(row.nodes for row in stages)
    listed = ", ".join(f"{row.stage} {row.nodes}" for row in stages)
    return f"{total} node{'s refuse' if total > 1 else ' refuses'}: {listed}" if total else NOBODY
