"""Why nothing fits: nodes counted by the first stage that refuses them, and what comes nearest.

Counts come from the buckets and cost nothing per node; the list of every node is made on demand.
The counts always add up to all nodes. A refusal is an answer with evidence, never an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vfio_contract.views import NodeRefusal, PlaceRequest, Refusal, StageCount
from vfio_coordinator.scheduler.gates import ALLOWS, ORDER, RISKS, STAGES
from vfio_coordinator.scheduler.index import Entry, Index, Rows, profiles
from vfio_coordinator.scheduler.names import Names, smallest
from vfio_coordinator.scheduler.nearest import find_nearest
from vfio_coordinator.scheduler.risk import accept_command, describe_risk
from vfio_coordinator.scheduler.shape import (
    Choice,
    Demand,
    Item,
    Miss,
    answers,
    demand_of,
    first_refusal,
    fit,
    matches,
)
from vfio_coordinator.scheduler.standing import Need, Offer, Refusing

_NAMED = 3
"""Nodes named in a stage's line; the rest is a number."""


def refuse(index: Index, request: PlaceRequest, *, at: str, revision: int, detail: bool) -> Refusal:
    """The refusal of a request that fits on no node (or not on the node it names)."""
    demand = demand_of(request)
    names = _considered(index, request)
    rows = [] if request.node else profiles(index, demand.kinds)
    counted = _count_pinned(index, request) if request.node else _count(index, demand, rows)
    stages = []
    for stage in STAGES:
        if stage in counted:
            number, named = counted[stage]
            stages.append(StageCount(stage, number, _why(index, demand, named, number)))
    listed = names if detail or request.node else ()
    return Refusal(
        vm=request.vm,
        revision=revision,
        at=at,
        nodes_total=len(names),
        stages=tuple(stages),
        nearest=find_nearest(index, request, demand, rows),
        nodes=tuple(explain_node(index.entries[n], demand) for n in sorted(listed)),
    )


def _considered(index: Index, request: PlaceRequest) -> Collection[str]:
    """The nodes that a request may go to: all, or the one it names."""
    if request.node:
        return (request.node,) if request.node in index.entries else ()
    return index.entries


_Counted = dict[str, tuple[int, tuple[str, ...]]]
"""Stage -> how many nodes, and the first few of them by name."""


def _count(index: Index, demand: Demand, rows: Rows) -> _Counted:
    sets: dict[str, list[Names]] = {stage: [] for stage in STAGES}
    for stage, names in index.aside.items():
        sets[stage].append(names)
    known = answers(demand)
    kinds = demand.kinds
    for profile, names in rows:
        found = known.get(profile) or fit(profile, demand)
        if type(found) is not Miss:
            raise ValueError(f"{names.first} fits this request")
        sets[found.stage].append(names)
    counted = {
        stage: (sum(names.size for names in found), smallest(found, _NAMED))
        for stage, found in sets.items()
        if found
    }
    missing = len(index.entries) - sum(number for number, _ in counted.values())
    if missing:
        # Of several kinds every node has a profile; of one, those without it are in no bucket.
        number, named = counted.get("model", (0, ()))
        without = _without_kind(index, kinds[0], _NAMED)
        counted["model"] = (number + missing, tuple(sorted({*named, *without}))[:_NAMED])
    return counted


def _without_kind(index: Index, kind: str, count: int) -> Iterator[str]:
    """The first nodes with no unit of the kind at all, from the buckets of whole shapes."""
    sets = [names for profile, names in profiles(index, ()) if kind not in profile.kinds]
    yield from smallest(sets, count)


def _count_pinned(index: Index, request: PlaceRequest) -> _Counted:
    entry = index.entries.get(request.node)
    if entry is None:
        return {}
    return {explain_node(entry, demand_of(request)).stage: (1, (entry.node,))}


def _why(index: Index, demand: Demand, named: tuple[str, ...], number: int) -> str:
    """One line for a stage: its first nodes by name, and the first one's reason."""
    more = f" and {number - len(named)} more" if number > len(named) else ""
    reason = explain_node(index.entries[named[0]], demand).reason
    return f"{' '.join(named)}{more}: {reason}"


def explain_node(entry: Entry, demand: Demand) -> NodeRefusal:
    """One node's first refusing stage, with numbers and evidence. ValueError if it fits."""
    if entry.stage:
        return NodeRefusal(entry.node, entry.stage, entry.why, entry.evidence)
    found = fit(entry.profile_for(demand.kinds), demand)
    if isinstance(found, Choice):
        raise ValueError(f"{entry.node} fits this request")
    offers = entry.offers_of(demand.kinds)
    reason, evidence = _explain_miss(found, offers, demand, node=entry.node)
    return NodeRefusal(entry.node, found.stage, reason, evidence)


def _explain_miss(
    miss: Miss, offers: list[Offer], demand: Demand, *, node: str
) -> tuple[str, tuple[str, ...]]:
    item = miss.item
    wanted = [o for o in offers if matches(item, o.shape)]
    short = f"{miss.have} of {item.number}"
    if miss.stage == "model":
        name = describe_item(item)
        return (f"no {name}" if not wanted else f"{short} {name}"), ()
    if miss.stage == "topology":
        numas = ", ".join(_numa(n) for n in miss.numas)
        return f"{miss.have} free, on {numas}; no one NUMA node has {item.number}", ()
    refused = [o for o in wanted if first_refusal(o.shape, demand) == ORDER[miss.stage]]
    if not refused:
        return f"{short} left for {describe_item(item)} beside the other devices", ()
    first = refused[0]
    reason, evidence = _explain_offer(first, miss.stage, demand, node=node)
    return f"{short} {'free' if miss.stage == 'free' else 'pass'}; {reason}", evidence


def _explain_offer(
    offer: Offer, stage: str, demand: Demand, *, node: str
) -> tuple[str, tuple[str, ...]]:
    standing = offer.standing
    for refusing in standing.refusing:
        if refusing.stage == stage:
            return refusing.reason + _not_allowed(refusing, demand), refusing.evidence
    for need in standing.needs:
        lacks = _lacking(need, offer, demand, node)
        if need.stage == stage and lacks:
            return "; ".join((need.reason, *lacks)), need.evidence
    if not offer.vm and standing.busy is not None:
        return standing.busy.reason, standing.busy.evidence
    return offer.why, ()


def _not_allowed(refusing: Refusing, demand: Demand) -> str:
    """What the request's --allow is about, where one may take it for what refuses here."""
    code = RISKS.get(refusing.gate, "")
    word = ALLOWS.get(code, "")
    if not word or word not in demand.allow:
        return ""
    found = f"{refusing.code} ({refusing.verdict})"
    return f"; --allow {word} is about {code} (WARN), not {found}"


def _lacking(need: Need, offer: Offer, demand: Demand, node: str) -> list[str]:
    """What a risk still wants: the request's word, the node's decision, or both."""
    lacks = []
    if need.word not in demand.allow:
        lacks.append(f"request lacks --allow {need.word}")
    decision = offer.decision_about(need.code)
    if decision is None or not decision.in_force:
        lacks.append(f"{describe_risk(decision)}: {accept_command(node, need.code)}")
    return lacks


def describe_item(item: Item) -> str:
    """`gpu:a5000`, or `gpu` for any model."""
    return f"{item.kind}:{item.model}" if item.model else item.kind


def _numa(node: int) -> str:
    return f"NUMA {node}" if node >= 0 else "no known NUMA node"
