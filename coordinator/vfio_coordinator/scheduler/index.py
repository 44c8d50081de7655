"""What placement looks at: nodes in buckets of equal profiles, changed one node at a time.

    entries    every node, with its units as offers
    aside      nodes that take no placement, by the stage that says so (`heard`, `admitted`)
    by_kind    kind -> profile of that kind's units -> nodes; asked for requests of one kind
    by_shape   profile of all units -> nodes; asked for requests of several kinds

A node is in `aside` or in the buckets, never in both. Everything is persistent: a change makes a
new index and shares the rest. The index holds no more than follows from its entries, so the order
in which nodes came does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from immutables import Map

from vfio_contract.findings import Verdict
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.scheduler.shape import NUMA_UNKNOWN, Profile, UnitClass
from vfio_coordinator.scheduler.standing import Offer, Standing

CLAIMED, PENDING, FREE = "claimed", "pending", "free"
FOREIGN, UNFIT, UNKNOWN = "foreign", "unfit", "unknown"

_Buckets = Map[Profile, Names]


class Holder(Protocol):
    """Who has a unit's key; `pending` until the claim is durable."""

    @property
    def vm(self) -> str:
        """The VM's name."""
        ...

    @property
    def pending(self) -> bool:
        """True while the claim's commit has no outcome."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One node. `stage` is "" when it takes placements, else `heard` or `admitted`.

    `why` and `evidence` say why not; `lift` is the command that would admit it, "" when there is
    none. `vouched` are lines for the proof of a placement. `collected_s` is when its evidence was
    collected, on the coordinator's monotonic clock. Offers are in the order of unit ids.
    """

    node: str
    stage: str
    why: str
    evidence: tuple[str, ...]
    lift: str
    vouched: tuple[tuple[str, str], ...]
    collected_s: float
    offers: tuple[Offer, ...]
    shape: Profile
    kinds: tuple[tuple[str, Profile], ...]

    def offers_of(self, kinds: tuple[str, ...]) -> list[Offer]:
        """The units of these kinds, by id."""
        return [o for o in self.offers if o.shape.kind in kinds]


@dataclass(frozen=True, slots=True)
class Index:
    """See the module."""

    entries: Map[str, Entry] = field(default_factory=Map)
    aside: Map[str, Names] = field(default_factory=Map)
    by_kind: Map[str, _Buckets] = field(default_factory=Map)
    by_shape: _Buckets = field(default_factory=Map)


def make_entry(
    node: str,
    offers: tuple[Offer, ...],
    *,
    stage: str = "",
    why: str = "",
    evidence: tuple[str, ...] = (),
    lift: str = "",
    vouched: tuple[tuple[str, str], ...] = (),
    collected_s: float = 0.0,
) -> Entry:
    """An entry with its profiles."""
    rows = tuple(sorted(offers, key=lambda o: (o.unit, o.primary)))
    kinds = sorted({o.shape.kind for o in rows})
    return Entry(
        node=node,
        stage=stage,
        why=why,
        evidence=evidence,
        lift=lift,
        vouched=vouched,
        collected_s=collected_s,
        offers=rows,
        shape=Profile(o.shape for o in rows),
        kinds=tuple((k, Profile(o.shape for o in rows if o.shape.kind == k)) for k in kinds),
    )


def offer(standing: Standing, held: Mapping[str, Holder]) -> Offer:
    """A unit as placement sees it; `held` maps claimed keys of the node to their holders.

    A claim outranks everything: whatever its gates say, the unit is that VM's. A VF is not free
    while its PF is claimed, because it vanishes with what the VM does to the PF.
    """
    layout = standing.layout
    refused = list(dict.fromkeys(r.stage for r in standing.refusing))
    holder = next((held[key] for key in layout.keys if key in held), None)
    owner = next((held[key] for key in layout.physfns if key in held), None)
    vm = holder.vm if holder else ""
    if holder is not None:
        state = PENDING if holder.pending else CLAIMED
        why = f"{layout.primary} is {state} by {holder.vm}"
    elif standing.foreign and standing.busy is not None:
        state, why = FOREIGN, standing.busy.reason
    elif standing.refusing:
        first = standing.refusing[0]
        state = UNFIT if standing.verdict is Verdict.FAIL else UNKNOWN
        why = first.reason
    elif owner is not None:
        state, why = UNFIT, f"the PF of {layout.primary} is claimed by {owner.vm}"
    elif standing.busy is not None:
        state = UNKNOWN if standing.busy.verdict is Verdict.UNKNOWN else UNFIT
        why = standing.busy.reason
    elif standing.needs:
        need = standing.needs[0]
        state, why = UNFIT, f"{need.reason}; needs --allow {need.word}"
    else:
        state, why = FREE, ""
    if holder or owner or standing.busy:
        refused.append("free")
    numa = layout.numa_node
    return Offer(
        standing=standing,
        state=state,
        vm=vm,
        why=why,
        shape=UnitClass(
            kind=layout.kind,
            model=standing.model,
            ids=layout.ids,
            numa=NUMA_UNKNOWN if numa is None else numa,
            refused=tuple(refused),
            needs=tuple(sorted({(n.stage, n.word) for n in standing.needs})),
        ),
    )


def buckets(index: Index, kinds: tuple[str, ...]) -> Iterable[tuple[Profile, Names]]:
    """Profiles and their nodes that hold all there is to know for a demand of these kinds.

    Of one kind: nodes that have no unit of it are in none of them.
    """
    if len(kinds) != 1:
        return index.by_shape.items()
    return index.by_kind.get(kinds[0], Map()).items()


def put(index: Index, entry: Entry) -> Index:
    """The index with this node as the entry says."""
    old = index.entries.get(entry.node)
    entries = index.entries.set(entry.node, entry)
    if old is not None and (old.stage, old.shape) == (entry.stage, entry.shape):
        return Index(entries, index.aside, index.by_kind, index.by_shape)
    base = index if old is None else remove(index, entry.node)
    if entry.stage:
        names = base.aside.get(entry.stage, Names()).add(entry.node)
        return Index(entries, base.aside.set(entry.stage, names), base.by_kind, base.by_shape)
    by_kind = base.by_kind
    for kind, profile in entry.kinds:
        by_kind = by_kind.set(kind, _added(by_kind.get(kind, Map()), profile, entry.node))
    return Index(entries, base.aside, by_kind, _added(base.by_shape, entry.shape, entry.node))


def remove(index: Index, node: str) -> Index:
    """The index without this node."""
    entry = index.entries.get(node)
    if entry is None:
        return index
    entries = index.entries.delete(node)
    if entry.stage:
        names = index.aside[entry.stage].remove(node)
        aside = index.aside.set(entry.stage, names) if names else index.aside.delete(entry.stage)
        return Index(entries, aside, index.by_kind, index.by_shape)
    by_kind = index.by_kind
    for kind, profile in entry.kinds:
        buckets = _removed(by_kind[kind], profile, node)
        by_kind = by_kind.set(kind, buckets) if buckets else by_kind.delete(kind)
    return Index(entries, index.aside, by_kind, _removed(index.by_shape, entry.shape, node))


def _added(buckets: _Buckets, profile: Profile, node: str) -> _Buckets:
    return buckets.set(profile, buckets.get(profile, Names()).add(node))


def _removed(buckets: _Buckets, profile: Profile, node: str) -> _Buckets:
    names = buckets[profile].remove(node)
    return buckets.set(profile, names) if names else buckets.delete(profile)
