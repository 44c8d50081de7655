"""One host's evidence with what follows from it: tree, identities, units, intentions.

`Host` is what a check, the drift comparison and the scheduler look at, so that the same derivation
is made once and is the same on both sides of the wire. It must never read anything but the
snapshot, and never turn "not known" into an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from vfio_contract.address import Address, address_key
from vfio_contract.function_index import FunctionIndex
from vfio_contract.identity import Identified, ancestors, identify
from vfio_contract.intention import find_intentions
from vfio_contract.model import (
    Facts,
    FunctionReading,
    IommuGroup,
    PciFunction,
    Readings,
    Snapshot,
)
from vfio_contract.units import Unit, derive_units


class Host:
    """A snapshot and its derivations; each is computed at most once."""

    def __init__(self, snapshot: Snapshot, *, claimed: Iterable[Address] = ()) -> None:
        """`claimed` are functions that the cluster has given to VMs: they count as intended."""
        self.snapshot = snapshot
        self._claimed = frozenset(claimed)

    @property
    def facts(self) -> Facts:
        """The half that is content-addressed."""
        return self.snapshot.facts

    @property
    def readings(self) -> Readings:
        """The half that moves by itself."""
        return self.snapshot.readings

    @cached_property
    def functions(self) -> tuple[PciFunction, ...]:
        """All PCI functions by address; () also when none could be read (see `facts`)."""
        rows = self.facts.functions or ()
        return tuple(sorted(rows, key=lambda f: address_key(f.address)))

    @cached_property
    def by_address(self) -> FunctionIndex:
        """Function by address, and its neighbourhoods."""
        return FunctionIndex.of(self.functions)

    @cached_property
    def reading_of(self) -> Mapping[Address, FunctionReading]:
        """What was read of each function at this moment."""
        return {reading.address: reading for reading in self.readings.functions}

    @cached_property
    def identities(self) -> Mapping[Address, Identified]:
        """Identity of each function."""
        return identify(self.functions)

    @cached_property
    def groups(self) -> Mapping[int, IommuGroup]:
        """IOMMU groups by number, those of no-IOMMU mode included."""
        return {g.number: g for g in self.facts.groups or ()}

    @cached_property
    def members(self) -> Mapping[int, tuple[PciFunction, ...]]:
        """PCI functions of each group, from either side of the link, by address."""
        found: dict[int, dict[Address, PciFunction]] = {}
        for function in self.functions:
            if function.group is not None and function.group >= 0:
                found.setdefault(function.group, {})[function.address] = function
        for group in self.groups.values():
            rows = found.setdefault(group.number, {})
            for member in group.members:
                known = self.by_address.get(Address(member))
                if known is not None:
                    rows[known.address] = known
        return {
            n: tuple(rows[a] for a in sorted(rows, key=address_key)) for n, rows in found.items()
        }

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Every unit of the host, by primary address."""
        return derive_units(self.functions, self.members, self.identities)

    @cached_property
    def unit_of(self) -> Mapping[Address, Unit]:
        """The unit that a function belongs to, as assigned or held."""
        return {a: unit for unit in self.units for a in (*unit.assign, *unit.hold)}

    @cached_property
    def intentions(self) -> Mapping[Address, tuple[str, ...]]:
        """Why each intended function is intended; functions that are not are absent."""
        return find_intentions(self.facts, self._claimed)

    def is_intended(self, addresses: Iterable[Address]) -> bool:
        """True when any of these functions is meant for passthrough."""
        return any(a in self.intentions for a in addresses)

    def ancestors(self, function: PciFunction) -> list[PciFunction]:
        """Upstream bridges that the snapshot holds, nearest first."""
        chain = ancestors(function, self.by_address)
        return [self.by_address[a] for a in chain if a in self.by_address]

    def name_of(self, function: PciFunction) -> str:
        """The device's name from the host's pci.ids, "" when it has none."""
        return self._names.get(function.ids, "")

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return dict(self.readings.names)
