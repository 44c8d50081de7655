"""What would make a refused request fit: one change, one node, and the exact command.

Each suggestion is tried with the same choice as a real decision, so none is given that would not
work. Looks at a bounded number of nodes. It must never suggest what would weaken a gate other than
by the request's own `--allow`, or by a decision on a risk that the request already allows.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import lru_cache

from vfio_contract.views import Nearest, PlaceRequest
from vfio_coordinator.scheduler.gates import ALLOWS
from vfio_coordinator.scheduler.index import Entry, Index, Rows
from vfio_coordinator.scheduler.names import Names, smallest
from vfio_coordinator.scheduler.risk import accept_command
from vfio_coordinator.scheduler.shape import (
    Choice,
    Demand,
    Profile,
    UnitClass,
    choose,
    fit,
    profile_of,
)
from vfio_coordinator.scheduler.standing import Offer

_SHOWN = 3
_REMEMBERED = 20_000

_TRIED = 64
"""Nodes that take no placement and are tried as if they did: the first by name."""


def find_nearest(
    index: Index, request: PlaceRequest, demand: Demand, rows: Rows
) -> tuple[Nearest, ...]:
    """Up to three nodes that fit after one change, by name; `rows` are the profiles to look at."""
    found: dict[str, Nearest] = {}
    if request.node:
        entry = index.entries.get(request.node)
        found = {n.node: n for n in _on_node(entry, request, demand)} if entry else {}
    else:
        for name in index.aside.get("admitted", Names()).head(_TRIED):
            entry = index.entries[name]
            for nearest in _on_node(entry, request, demand) if entry.lift else ():
                found.setdefault(nearest.node, nearest)
        for name in _promising(demand, rows):
            for nearest in _on_node(index.entries[name], request, demand):
                found.setdefault(nearest.node, nearest)
    return tuple(found[name] for name in sorted(found))[:_SHOWN]


def _promising(demand: Demand, rows: Rows) -> tuple[str, ...]:
    """The first nodes, by name, whose profile fits after one change."""
    known = _remembered(demand)
    sets = []
    for profile, names in rows:
        promising = known.get(profile)
        if promising is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            promising = known[profile] = _would_fit(profile, demand)
        if promising:
            sets.append(names)
    return smallest(sets, _SHOWN)


@lru_cache(maxsize=128)
def _remembered(demand: Demand) -> dict[Profile, bool]:
    """Profiles that fit after one change, for a demand, as found before."""
    return {}


def _would_fit(profile: Profile, demand: Demand) -> bool:
    asked = sum(item.number for item in demand.items)
    if sum(unit.kind in demand.kinds for unit in profile.units) < asked:
        return False
    relaxed = (other for other, _, _ in _relaxations(demand))
    return any(isinstance(fit(profile, other), Choice) for other in relaxed) or any(
        _fits(changed, demand) for changed in _bound(profile.units)
    )


def _relaxations(demand: Demand) -> Iterator[tuple[Demand, str, str]]:
    """Demands that ask for less, what changed in words, and the code of a risk to decide on."""
    for word in sorted(set(ALLOWS.values()) - set(demand.allow)):
        allow = tuple(sorted((*demand.allow, word)))
        yield demand._replace(allow=allow), f"fits if the request accepts {word}", ""
    if demand.same_numa:
        yield demand._replace(same_numa=False), "fits without --same-numa", ""
    for code, word in ALLOWS.items():
        if word in demand.allow:
            yield demand._replace(assumed=(word,)), f"fits once the risk {code} is accepted", code


def _bound(units: Sequence[UnitClass]) -> Iterator[list[UnitClass]]:
    """The units with one of those bound that only their binding refuses; equals once."""
    tried = set()
    for i, unit in enumerate(units):
        if unit.refused == ("binding",) and unit not in tried:
            tried.add(unit)
            yield [*units[:i], unit._replace(refused=()), *units[i + 1 :]]


def _fits(units: Sequence[UnitClass], demand: Demand) -> bool:
    return isinstance(choose(units, demand), Choice)


def _on_node(entry: Entry, request: PlaceRequest, demand: Demand) -> Iterator[Nearest]:
    offers = entry.offers_of(demand.kinds)
    units = [o.shape for o in offers]
    if entry.stage:
        if entry.lift and isinstance(fit(profile_of(units), demand), Choice):
            yield Nearest(entry.node, f"fits once admitted: {entry.why}", entry.lift)
        return
    for i, unit in enumerate(units):
        if unit.refused == ("binding",) and offers[i].standing.layout.unbound:
            changed = [*units[:i], unit._replace(refused=()), *units[i + 1 :]]
            if _fits(changed, demand):
                yield _bind(entry.node, offers[i])
                return
    for other, change, code in _relaxations(demand):
        if _fits(units, other):
            command = accept_command(entry.node, code) if code else render_request(request, other)
            yield Nearest(entry.node, change, command)
            return


def _bind(node: str, offer: Offer) -> Nearest:
    addresses = offer.standing.layout.unbound
    listed = " ".join(addresses)
    # one of them is enough: the host binds the whole unit
    command = f"vfioctl device bind {node} {addresses[0]}"
    return Nearest(node, f"fits if {listed} is bound to vfio-pci", command)


def render_request(request: PlaceRequest, demand: Demand) -> str:
    """The command line that asks for this demand in the request's place."""
    words = ["vfioctl", "vm", "claim" if request.external else "place", request.vm]
    for device in request.devices:
        model = f":{device.model}" if device.model else ""
        words += ["--device", f"{device.kind}{model}={device.count}"]
    if demand.same_numa:
        words.append("--same-numa")
    for word in demand.allow:
        words += ["--allow", word]
    if request.node:
        words += ["--node", request.node]
    return shlex.join(words)
