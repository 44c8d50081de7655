"""Which nodes have what in common: board, firmware, versions, cards, isolation.

Each node has a value for some parts, and each value of a part its nodes; a change costs its parts
alone, never the cluster. A part that is not known has no value: such a node is neither with a value
nor without it. All of it is what agents said since the start of this process, and stays as last
known when a node falls silent: a node that was not heard since then is in no set, and nothing here
may be read as "has not got it". Whether a node is heard now is for its judgement to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from sys import intern

from immutables import Map

from vfio_contract.firmware import firmware_tuple
from vfio_contract.host import Host
from vfio_contract.machine import given_name
from vfio_contract.model import Firmware
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.state.isolation import ASPECTS, cards_of, digest_table, isolation_of

BOARD, CARDS, COHORT = "board", "cards", "cohort"
BIOS, KERNEL = "BIOS", "kernel"
AGENT, CHECKS = "agent", "checks"

_SHARED = (BOARD, BIOS, KERNEL, CARDS)
"""What makes nodes a cohort: those of which the isolation should be the same."""

Alike = Map[tuple[str, str], Map[str, Names]]


@dataclass(frozen=True, slots=True)
class Traits:
    """The known parts of one node: those of `firmware_tuple` by their names there, `board`,
    `cards`, `agent` and `checks` (versions), `cohort`, and the aspects of `isolation` as digests.
    """

    parts: Map[str, str] = field(default_factory=Map)

    def value(self, part: str) -> str | None:
        """None where it is not known."""
        return self.parts.get(part)


@dataclass(frozen=True, slots=True)
class Cohorts:
    """See the module.

    `alike` says by (cohort, aspect) which digests there are, each with its nodes; `uneven` are the
    keys of it that have more than one.
    """

    traits: Map[str, Traits] = field(default_factory=Map)
    names: Map[tuple[str, str], Names] = field(default_factory=Map)
    alike: Alike = field(default_factory=Map)
    uneven: frozenset[tuple[str, str]] = frozenset()

    def traits_of(self, node: str) -> Traits | None:
        """None for a node that was not heard since the start."""
        return self.traits.get(node)

    def nodes_with(self, part: str, value: str) -> Names:
        """All nodes of which this part is known to have this value, by name."""
        return self.names.get((part, value), Names())

    def count(self, part: str, value: str) -> int:
        """How many nodes those are."""
        return self.nodes_with(part, value).size

    def board_of(self, node: str) -> str:
        """Maker and name of its board, "" for one that is not known."""
        traits = self.traits.get(node)
        return (traits.value(BOARD) or "") if traits is not None else ""


def learn(cohorts: Cohorts, node: str, told: Mapping[str, str | None]) -> Cohorts:
    """With these parts of a node as told, None for not known; itself where nothing changes."""
    old = cohorts.traits.get(node, Traits())
    changed = {part: value for part, value in told.items() if old.parts.get(part) != value}
    if not changed:
        return cohorts
    parts = old.parts
    for part, value in changed.items():
        if value is not None:
            parts = parts.set(intern(part), intern(value))
        elif part in parts:
            parts = parts.delete(part)
    names = cohorts.names
    for part in changed:
        names = _moved(names, node, part, old.parts.get(part), parts.get(part))
    new = Traits(parts)
    known = replace(cohorts, traits=cohorts.traits.set(node, new), names=names)
    return _realign(known, node, old, new)


def traits_of_host(host: Host) -> dict[str, str | None]:
    """What an inventory tells, for `learn`."""
    facts = host.facts
    told: dict[str, str | None] = dict(firmware_tuple(facts))
    told[BOARD] = name_board(facts.firmware)
    cards = cards_of(host)
    told[CARDS] = None if cards is None else digest_table({place: () for place in cards})
    shared = [told[part] for part in _SHARED]
    told[COHORT] = None if None in shared else " / ".join(s for s in shared if s is not None)
    for aspect, table in isolation_of(host).items():
        told[aspect] = None if table is None else digest_table(table)
    return told


def name_board(firmware: Firmware) -> str | None:
    """Vendor and name of the board, the product's where the board has none; None for unnamed."""
    vendor = given_name(firmware.system_vendor)
    name = given_name(firmware.board_name) or given_name(firmware.product_name)
    return f"{vendor} {name}" if vendor and name else None


def _moved(
    names: Map[tuple[str, str], Names], node: str, part: str, before: str | None, after: str | None
) -> Map[tuple[str, str], Names]:
    """Out of the set of the one value, into that of the other; None has no set."""
    if before is not None:
        left = names[(part, before)].remove(node)
        names = names.set((part, before), left) if left else names.delete((part, before))
    if after is not None:
        names = names.set((part, after), names.get((part, after), Names()).add(node))
    return names


def _realign(cohorts: Cohorts, node: str, old: Traits, new: Traits) -> Cohorts:
    """With the node among those of its cohort that are isolated as it is."""
    for aspect in ASPECTS:
        before = (old.value(COHORT), old.value(aspect))
        after = (new.value(COHORT), new.value(aspect))
        if before != after:
            cohorts = _aligned(cohorts, node, aspect, *before, there=False)
            cohorts = _aligned(cohorts, node, aspect, *after, there=True)
    return cohorts


def _aligned(
    cohorts: Cohorts, node: str, aspect: str, cohort: str | None, digest: str | None, *, there: bool
) -> Cohorts:
    if cohort is None or digest is None:
        return cohorts
    key = (cohort, aspect)
    inner = cohorts.alike.get(key, Map())
    names = inner.get(digest, Names())
    names = names.add(node) if there else names.remove(node)
    inner = inner.set(digest, names) if names else inner.delete(digest)
    alike = cohorts.alike.set(key, inner) if inner else cohorts.alike.delete(key)
    uneven = cohorts.uneven
    if (len(inner) > 1) != (key in uneven):
        uneven = uneven ^ {key}
    return replace(cohorts, alike=alike, uneven=uneven)
