"""Who hangs below whom, as the evidence says it: host bridges, slots, functions, and what is loose.

A function hangs where its `parent` says. One whose parent is not known, not in the evidence, or
part of a circle becomes the top of a tree of its own, marked with why. This module must never use a
bus number to guess a parent; where a place is not known it only says which bus the function is on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vfio_contract.address import Address, address_key, bus_of, slot_of
from vfio_contract.host import Host
from vfio_contract.model import PciFunction


class Place(StrEnum):
    """What is known about the place of a tree's topmost functions."""

    HOST_BRIDGE = "host-bridge"
    """Directly below the host bridge that `Tree.name` names ("" when its name is not known)."""

    BUS = "bus"
    """On the bus that `Tree.name` names; below which bridge is not known."""

    ABSENT = "absent"
    """Below the function that `Tree.name` names, which the evidence does not hold."""

    CIRCLE = "circle"
    """The evidence names these functions as each other's parents; `Tree.name` is ""."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Functions of one slot, by address, with the same parent."""

    name: str
    functions: tuple[PciFunction, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """A host bridge, or a place that is not known, with the slots that hang directly from it."""

    place: Place
    name: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Forest:
    """All functions of a host, each exactly once: trees, and the slots below each bridge."""

    trees: tuple[Tree, ...]
    below: Mapping[Address, tuple[Slot, ...]]

    def members(self, tree: Tree) -> tuple[PciFunction, ...]:
        """The functions of a tree in the order in which they are drawn."""
        found: list[PciFunction] = []
        todo = [f for slot in reversed(tree.slots) for f in reversed(slot.functions)]
        while todo:
            function = todo.pop()
            found.append(function)
            slots = self.below.get(function.address, ())
            todo += [f for slot in reversed(slots) for f in reversed(slot.functions)]
        return tuple(found)


def plant(host: Host) -> Forest:
    """The forest of a host; host bridges first, then what is loose, each by address."""
    children: dict[Address, list[PciFunction]] = {}
    tops: dict[tuple[Place, str], list[PciFunction]] = {}
    for function in host.by_address.values():
        if function.parent is None:
            tops.setdefault((Place.BUS, bus_of(function.address)), []).append(function)
        elif function.parent == "":
            tops.setdefault((Place.HOST_BRIDGE, function.root), []).append(function)
        elif function.parent in host.by_address:
            children.setdefault(function.parent, []).append(function)
        else:
            tops.setdefault((Place.ABSENT, function.parent), []).append(function)
    reached = _reach((f for rows in tops.values() for f in rows), children)
    circle = [f for f in host.by_address.values() if f.address not in reached]
    if circle:
        tops[Place.CIRCLE, ""] = circle
    trees = [Tree(place, name, _slots(rows)) for (place, name), rows in tops.items()]
    order = tuple(Place)
    return Forest(
        trees=tuple(sorted(trees, key=lambda t: (order.index(t.place), _first(t), t.name))),
        below={a: _slots(rows) for a, rows in children.items() if a in reached},
    )


def _reach(
    tops: Iterable[PciFunction], children: Mapping[Address, Sequence[PciFunction]]
) -> set[Address]:
    """All that hangs from these functions; a circle hangs from nothing."""
    reached: set[Address] = set()
    todo = list(tops)
    while todo:
        function = todo.pop()
        reached.add(function.address)
        todo += children.get(function.address, ())
    return reached


def _slots(functions: Iterable[PciFunction]) -> tuple[Slot, ...]:
    found: dict[str, list[PciFunction]] = {}
    for function in functions:
        found.setdefault(slot_of(function.address), []).append(function)
    return tuple(Slot(name, tuple(rows)) for name, rows in found.items())


def _first(tree: Tree) -> tuple[int, int, int, int]:
    return address_key(tree.slots[0].functions[0].address)
