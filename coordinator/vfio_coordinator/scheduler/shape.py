"""Choosing units on one node: does a demand fit, with which units, and how tightly.

A `UnitClass` is all that the choice looks at; a `Profile` is a node's units as a sorted multiset of
classes. Nodes with equal profiles are interchangeable for a demand, so the answer is computed once
per profile and remembered; that is what makes placement independent of the number of nodes. Equal
profiles are one object, so that remembering costs a look-up by address; nothing can tell but the
clock. The result depends on the arguments alone: no randomness, no order of arrival, no search over
combinations. Several items of one kind are matched by augmenting paths, which is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

from vfio_contract.views import PlaceRequest
from vfio_coordinator.scheduler.gates import ORDER, PASSED, STAGES

NUMA_UNKNOWN = -2
"""A unit whose NUMA node is not known; -1 is a host whose kernel knows none at all."""

_WORD = re.compile(r"[a-z0-9]+")
_IDS = re.compile(r"[0-9a-f?]{4}:[0-9a-f?]{4}")


class UnitClass(NamedTuple):
    """What choosing looks at. `refused` are stages in order.

    `needs` are (stage, word of `--allow`, whether a decision of the node permits it).

    Made as alike as possible, so that many nodes share a profile: see `index.offer`.
    """

    kind: str
    model: str
    ids: str
    numa: int
    refused: tuple[str, ...]
    needs: tuple[tuple[str, str, bool], ...]


class Profile:
    """A sorted multiset of classes. Make one with `profile_of`: equal ones are the same object."""

    __slots__ = ("__weakref__", "kinds", "units")

    def __init__(self, units: tuple[UnitClass, ...]) -> None:
        self.units = units
        self.kinds = frozenset(unit.kind for unit in units)

    def __repr__(self) -> str:
        return f"Profile({self.units!r})"


_PROFILES: WeakValueDictionary[tuple[UnitClass, ...], Profile] = WeakValueDictionary()


def profile_of(units: Iterable[UnitClass]) -> Profile:
    """The profile of these units, in whatever order they come."""
    key = tuple(sorted(units))
    found = _PROFILES.get(key)
    if found is None:
        found = _PROFILES[key] = Profile(key)
    return found


class Item(NamedTuple):
    """So many units of a kind; `model` as normalised by `demand_of`, "" for any."""

    kind: str
    model: str
    number: int


class Demand(NamedTuple):
    """What is asked of one node. Items differ in (kind, model); `allow` is sorted.

    `assumed` are words for which a decision is taken to be in force, to try what one would change;
    no request has any.
    """

    items: tuple[Item, ...]
    same_numa: bool
    allow: tuple[str, ...]
    assumed: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds asked for, each once, in the request's order."""
        return tuple(dict.fromkeys(item.kind for item in self.items))


class Choice(NamedTuple):
    """It fits: indices into the units, in the order of the items, and a rank (lower is tighter).

    The rank: passing units of each asked kind that stay on the node, NUMA nodes used, passing
    units that stay on that NUMA node.
    """

    picks: tuple[int, ...]
    rank: tuple[int, ...]


class Miss(NamedTuple):
    """It does not fit: the first stage at which an item falls short, and by how much."""

    stage: str
    item: Item
    have: int
    numas: tuple[int, ...] = ()


def demand_of(request: PlaceRequest) -> Demand:
    """The demand of a request; items of equal kind and model are added up."""
    counts: dict[tuple[str, str], int] = {}
    for device in request.devices:
        model = device.model.strip().lower()
        if _IDS.fullmatch(model) is None:
            model = " ".join(_WORD.findall(model))
        key = (device.kind.strip().lower(), model)
        counts[key] = counts.get(key, 0) + device.count
    return Demand(
        items=tuple(Item(kind, model, count) for (kind, model), count in counts.items()),
        same_numa=request.same_numa,
        allow=tuple(sorted(set(request.allow))),
    )


@lru_cache(maxsize=4096)
def matches_model(wanted: str, model: str, ids: str) -> bool:
    """Whether every word wanted is a word of the model's name, or it is the unit's `vvvv:dddd`."""
    if not wanted:
        return True
    if _IDS.fullmatch(wanted):
        return wanted == ids.lower()
    return set(wanted.split()) <= set(_WORD.findall(model.lower()))


def matches(item: Item, unit: UnitClass) -> bool:
    """Kind and model."""
    if item.kind != unit.kind:
        return False
    return not item.model or matches_model(item.model, unit.model, unit.ids)


def first_refusal(unit: UnitClass, demand: Demand) -> int:
    """Order number of the first stage that refuses the unit to a demand, PASSED for none.

    A need passes when the request allows it and a decision of the node permits it.
    """
    found = ORDER[unit.refused[0]] if unit.refused else PASSED
    for stage, word, permitted in unit.needs:
        passes = word in demand.allow and (permitted or word in demand.assumed)
        if not passes and ORDER[stage] < found:
            found = ORDER[stage]
    return found


_REMEMBERED = 20_000
"""Answers kept of one demand; far more profiles than a fleet has at a time."""


@lru_cache(maxsize=512)
def answers(demand: Demand) -> dict[Profile, Choice | Miss]:
    """What is remembered for a demand; `fit` fills it."""
    return {}


def fit(profile: Profile, demand: Demand) -> Choice | Miss:
    """`choose` for a profile, remembered."""
    known = answers(demand)
    found = known.get(profile)
    if found is None:
        if len(known) >= _REMEMBERED:
            known.clear()
        found = known[profile] = choose(profile.units, demand)
    return found


def choose(units: Sequence[UnitClass], demand: Demand) -> Choice | Miss:
    """The units that a demand gets on a node, or where it falls short.

    `units` come in the order in which equals are preferred. With `same_numa` all picks share one
    known NUMA node. Otherwise one NUMA node is preferred: the one left with the fewest; failing
    that, the fullest ones first, to use few.
    """
    ranks = [first_refusal(unit, demand) for unit in units]
    able = [i for i, rank in enumerate(ranks) if rank == PASSED]
    if _match(units, able, demand) is None:
        return _miss(units, ranks, demand)
    able.sort(key=lambda i: (len(units[i].needs), i))
    asked = [i for i in able if units[i].kind in demand.kinds]
    left = tuple(
        sum(units[i].kind == kind for i in asked)
        - sum(item.number for item in demand.items if item.kind == kind)
        for kind in demand.kinds
    )
    total = sum(item.number for item in demand.items)
    by_numa: dict[int, list[int]] = {}
    for i in asked:
        by_numa.setdefault(units[i].numa, []).append(i)
    for numa in sorted(by_numa, key=lambda n: (len(by_numa[n]), n)):
        if demand.same_numa and numa == NUMA_UNKNOWN and total > 1:
            continue
        picks = _match(units, by_numa[numa], demand)
        if picks is not None:
            return Choice(tuple(picks), (*left, 1, len(by_numa[numa]) - total))
    if demand.same_numa and total > 1:
        item = max(demand.items, key=lambda one: one.number)
        have = sum(matches(item, units[i]) for i in able)
        return Miss("topology", item, have, tuple(sorted(by_numa)))
    spread = [i for n in sorted(by_numa, key=lambda n: (-len(by_numa[n]), n)) for i in by_numa[n]]
    chosen = _match(units, spread, demand) or []
    used = {units[i].numa for i in chosen}
    kept = sum(len(by_numa[n]) for n in used) - total
    return Choice(tuple(chosen), (*left, len(used), kept))


def _miss(units: Sequence[UnitClass], ranks: Sequence[int], demand: Demand) -> Miss:
    for stage in STAGES[ORDER["model"] : ORDER["topology"]]:
        past = [i for i, rank in enumerate(ranks) if rank > ORDER[stage]]
        if _match(units, past, demand) is None:
            short = demand.items[0]
            for item in demand.items:
                have = sum(matches(item, units[i]) for i in past)
                if have < item.number:
                    return Miss(stage, item, have)
            # Each item alone would fit, but they want the same units.
            return Miss(stage, short, sum(matches(short, units[i]) for i in past))
    raise AssertionError("a demand that passes every stage is no miss")


def _match(units: Sequence[UnitClass], allowed: Sequence[int], demand: Demand) -> list[int] | None:
    """Units for all items in order, no unit twice, earlier ones of `allowed` first; or None."""
    candidates: list[list[int]] = []
    for item in demand.items:
        found = [i for i in allowed if matches(item, units[i])]
        if len(found) < item.number:
            return None
        candidates.append(found)
    if len(candidates) == 1:
        return candidates[0][: demand.items[0].number]
    slots = [
        found
        for item, found in zip(demand.items, candidates, strict=True)
        for _ in range(item.number)
    ]
    return _augment(slots)


def _augment(slots: Sequence[Sequence[int]]) -> list[int] | None:
    """A distinct index for each slot from its candidates, or None: Kuhn's augmenting paths."""
    taken: dict[int, int] = {}

    def seat(slot: int, tried: set[int]) -> bool:
        for index in slots[slot]:
            if index in tried:
                continue
            tried.add(index)
            if index not in taken or seat(taken[index], tried):
                taken[index] = slot
                return True
        return False

    for slot in range(len(slots)):
        if not seat(slot, set()):
            return None
    picks = sorted(taken.items(), key=lambda pair: pair[1])
    return [index for index, _ in picks]
