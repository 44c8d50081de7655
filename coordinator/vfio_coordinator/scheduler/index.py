"""What placement looks at: nodes in buckets of equal profiles, changed one node at a time.

    entries    every node, with its units as offers
    aside      nodes that take no placement, by the stage that says so (`heard`, `admitted`)
    by_kind    kind -> buckets of that kind's units; asked for requests of one kind
    by_shape   buckets of all units; asked for requests of several kinds

Buckets are two steps deep: the profile of the units that nothing refuses, which alone decides what
fits, then the profile of all of them, which also says why not, then the nodes.

A node is in `aside` or in the buckets, never in both. Everything is persistent: a change makes a
new index and shares the rest. The index holds no more than follows from its entries, so the order
in which nodes came does not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from immutables import Map

from vfio_contract.findings import Verdict
from vfio_coordinator.scheduler.gates import ORDER, WEDGED
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.scheduler.risk import (
    NO_RISKS,
    RiskDecision,
    Risks,
    describe_risk,
    permits,
)
from vfio_coordinator.scheduler.shape import NUMA_UNKNOWN, Profile, UnitClass, profile_of
from vfio_coordinator.scheduler.standing import Offer, Standing

CLAIMED, PENDING, FREE = "claimed", "pending", "free"
FOREIGN, UNFIT, UNKNOWN = "foreign", "unfit", "unknown"

Buckets = Map[Profile, Map[Profile, Names]]

Rows = Sequence[tuple[Profile, Names]]
"""Full profiles and their nodes."""

_NOTHING = profile_of(())


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

    def profile_for(self, kinds: tuple[str, ...]) -> Profile:
        """The profile that buckets for these kinds know it by."""
        if len(kinds) != 1:
            return self.shape
        return next((profile for kind, profile in self.kinds if kind == kinds[0]), _NOTHING)

    def offers_of(self, kinds: tuple[str, ...]) -> list[Offer]:
        """The units of these kinds, by id."""
        return [o for o in self.offers if o.shape.kind in kinds]


@dataclass(frozen=True, slots=True)
class Index:
    """See the module."""

    entries: Map[str, Entry] = field(default_factory=Map)
    aside: Map[str, Names] = field(default_factory=Map)
    by_kind: Map[str, Buckets] = field(default_factory=Map)
    by_shape: Buckets = field(default_factory=Map)


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
        shape=profile_of(o.shape for o in rows),
        kinds=tuple((k, profile_of(o.shape for o in rows if o.shape.kind == k)) for k in kinds),
    )


def offer(standing: Standing, held: Mapping[str, Holder], risks: Risks = NO_RISKS) -> Offer:
    """A unit as placement sees it; `held` maps claimed keys of the node to their holders.

    `risks` are the node's decisions: a need without one in force refuses every request. A claim
    outranks everything: whatever its gates say, the unit is that VM's. A VF is not free while its
    PF is claimed, because it vanishes with what the VM does to the PF.
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
        open_needs = [need for need in standing.needs if not permits(risks, need.code)]
        need = (*open_needs, *standing.needs)[0]
        state, why = UNFIT, f"{need.reason}; {describe_risk(risks.get(need.code))}"
    else:
        state, why = FREE, ""
    if holder or owner or standing.busy:
        refused.append("free")
    return Offer(
        standing=standing,
        state=state,
        vm=vm,
        why=why,
        shape=_shape(standing, tuple(refused), risks),
        free_of_claims=holder is None and owner is None,
        risks=_about(standing, risks),
    )


def same_offer(
    known: Offer | None, standing: Standing, held: Mapping[str, Holder], risks: Risks = NO_RISKS
) -> Offer:
    """`offer`, or the known one of the very same standing when nobody has it then or now.

    The decisions about its needs must be the same too.
    """
    if known is not None and known.standing is standing and known.free_of_claims:
        layout = standing.layout
        taken = any(key in held for key in (*layout.keys, *layout.physfns))
        if not taken and (not standing.needs or known.risks == _about(standing, risks)):
            return known
    return offer(standing, held, risks)


def _about(standing: Standing, risks: Risks) -> tuple[RiskDecision, ...]:
    """The decisions about what a unit needs, each once."""
    codes = dict.fromkeys(need.code for need in standing.needs)
    return tuple(risks[code] for code in codes if code in risks)


def _shape(standing: Standing, refused: tuple[str, ...], risks: Risks) -> UnitClass:
    """The unit's class, without what cannot matter for a unit that some stage refuses.

    Where it sits matters only if it may be given, or might after it is bound; a need only if its
    stage comes before the one that refuses (none does for a wedged device); of the stages, the
    first and whether it is alone.
    """
    layout = standing.layout
    needs = {(n.stage, n.word, permits(risks, n.code)) for n in standing.needs}
    numa = layout.numa_node
    if refused:
        wedged = bool(standing.refusing) and standing.refusing[0].code == WEDGED
        earlier = {need for need in needs if ORDER[need[0]] < ORDER[refused[0]]}
        needs = set() if wedged else earlier
        numa = numa if refused == ("binding",) else None
    return UnitClass(
        kind=layout.kind,
        model=standing.model,
        ids=layout.ids,
        numa=NUMA_UNKNOWN if numa is None else numa,
        refused=refused[:2],
        needs=tuple(sorted(needs)),
    )


def buckets(index: Index, kinds: tuple[str, ...]) -> Buckets:
    """The buckets that hold all there is to know for a demand of these kinds.

    Of one kind: nodes that have no unit of it are in none of them.
    """
    if len(kinds) != 1:
        return index.by_shape
    return index.by_kind.get(kinds[0], Map())


def profiles(index: Index, kinds: tuple[str, ...]) -> list[tuple[Profile, Names]]:
    """Each full profile of those buckets, with its nodes."""
    rows: list[tuple[Profile, Names]] = []
    for inner in buckets(index, kinds).values():
        rows.extend(inner.items())
    return rows


def put(index: Index, entry: Entry) -> Index:
    """The index with this node as the entry says."""
    old = index.entries.get(entry.node)
    entries = index.entries.set(entry.node, entry)
    if old is not None and (old.stage, old.shape) == (entry.stage, entry.shape):
        return Index(entries, index.aside, index.by_kind, index.by_shape)
    if old is not None and not old.stage and not entry.stage:
        return Index(entries, index.aside, *_moved(index, old, entry))
    base = index if old is None else remove(index, entry.node)
    if entry.stage:
        names = base.aside.get(entry.stage, Names()).add(entry.node)
        return Index(entries, base.aside.set(entry.stage, names), base.by_kind, base.by_shape)
    by_kind = base.by_kind
    for kind, profile in entry.kinds:
        by_kind = by_kind.set(kind, _added(by_kind.get(kind, Map()), profile, entry.node))
    return Index(entries, base.aside, by_kind, _added(base.by_shape, entry.shape, entry.node))


def _moved(index: Index, old: Entry, new: Entry) -> tuple[Map[str, Buckets], Buckets]:
    """Only the kinds whose profile changed go to another bucket."""
    by_kind = index.by_kind
    before, after = dict(old.kinds), dict(new.kinds)
    for kind, profile in old.kinds:
        if after.get(kind) is not profile:
            rows = _removed(by_kind[kind], profile, old.node)
            by_kind = by_kind.set(kind, rows) if rows else by_kind.delete(kind)
    for kind, profile in new.kinds:
        if before.get(kind) is not profile:
            by_kind = by_kind.set(kind, _added(by_kind.get(kind, Map()), profile, new.node))
    return by_kind, _added(_removed(index.by_shape, old.shape, old.node), new.shape, new.node)


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
        rows = _removed(by_kind[kind], profile, node)
        by_kind = by_kind.set(kind, rows) if rows else by_kind.delete(kind)
    return Index(entries, index.aside, by_kind, _removed(index.by_shape, entry.shape, node))


def _added(rows: Buckets, profile: Profile, node: str) -> Buckets:
    able = _able(profile)
    inner: Map[Profile, Names] = rows.get(able, Map())
    return rows.set(able, inner.set(profile, inner.get(profile, Names()).add(node)))


def _removed(rows: Buckets, profile: Profile, node: str) -> Buckets:
    able = _able(profile)
    inner = rows[able]
    names = inner[profile].remove(node)
    inner = inner.set(profile, names) if names else inner.delete(profile)
    return rows.set(able, inner) if inner else rows.delete(able)


def _able(profile: Profile) -> Profile:
    """The profile of the units that no stage refuses."""
    return profile_of(unit for unit in profile.units if not unit.refused)
