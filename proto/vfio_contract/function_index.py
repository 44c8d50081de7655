"""A host's functions by address, with what hangs below and beside each: built once, asked often.

Units, checks and drift ask for the same neighbourhoods of the same functions; searching all
functions for each answer is quadratic on a 256-function host. An index must never be changed once
it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TypeVar

from vfio_contract.address import Address, address_key, slot_of
from vfio_contract.identity import ancestors
from vfio_contract.model import PciFunction

Key = TypeVar("Key")


class FunctionIndex(dict[Address, PciFunction]):
    """Function by address; the other views are computed at most once."""

    @classmethod
    def of(cls, functions: Iterable[PciFunction]) -> FunctionIndex:
        """The index of these functions."""
        return cls((f.address, f) for f in functions)

    @cached_property
    def below(self) -> Mapping[Address, tuple[Address, ...]]:
        """By bridge all functions whose way to the host bridge leads through it, by address."""
        found: dict[Address, list[Address]] = {}
        for function in self.values():
            for bridge in ancestors(function, self):
                found.setdefault(bridge, []).append(function.address)
        return {b: tuple(sorted(rows, key=address_key)) for b, rows in found.items()}

    @cached_property
    def children(self) -> Mapping[Address, tuple[PciFunction, ...]]:
        """By bridge the functions directly below it."""
        return _grouped((f.parent, f) for f in self.values() if f.parent)

    @cached_property
    def virtual(self) -> Mapping[Address, tuple[PciFunction, ...]]:
        """By physical function its virtual ones."""
        return _grouped((f.physfn, f) for f in self.values() if f.physfn)

    @cached_property
    def slots(self) -> Mapping[str, tuple[PciFunction, ...]]:
        """By slot (`0000:01:00`) its functions."""
        return _grouped((slot_of(f.address), f) for f in self.values())


def index(by_address: Mapping[Address, PciFunction]) -> FunctionIndex:
    """The index itself, or a new one of a plain mapping."""
    return by_address if isinstance(by_address, FunctionIndex) else FunctionIndex(by_address)


def _grouped(rows: Iterable[tuple[Key, PciFunction]]) -> Mapping[Key, tuple[PciFunction, ...]]:
    found: dict[Key, list[PciFunction]] = {}
    for key, function in rows:
        found.setdefault(key, []).append(function)
    return {key: tuple(functions) for key, functions in found.items()}
