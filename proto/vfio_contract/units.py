"""Units: the smallest sets of functions that may go to one VM.

A unit is closed over IOMMU group (the kernel hands over whole groups), companions (a GPU's audio,
USB and UCSI functions travel along even from their own group) and reset domain (without FLR the
VFIO hot reset takes every function below the upstream bridge). Units partition a host's endpoints:
two units never share a function, so a claim on one cannot break another. The `assign` set is passed
to the VM; the `hold` set is kept off host drivers and not passed. This module must never split what
the kernel or a reset would take together; without reset evidence it assumes the larger set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from vfio_contract.address import Address, Identity, address_key, function_number, slot_of
from vfio_contract.function_index import FunctionIndex, index
from vfio_contract.identity import Identified, ancestors
from vfio_contract.model import PciFunction

_FUNCTION_LEVEL = frozenset({"device_specific", "acpi", "flr", "af_flr"})
"""`reset_method` names that touch one function only. `pm` is weak, `bus` is not function-level."""

BROKEN_FLR = frozenset(
    {
        (0x1022, 0x1487),
        (0x1022, 0x148C),
        (0x1022, 0x149C),
        (0x1022, 0x7901),
        (0x8086, 0x1502),
        (0x8086, 0x1503),
        (0x14C3, 0x0616),
    }
)
"""Functions that advertise FLR and hang on it; kernels that know them do not use it (Linux
drivers/pci/quirks.c, quirk_no_flr; facts: Reset). An older kernel does."""

_BROKEN_BUS_RESET = frozenset(
    {
        *((0x168C, device) for device in (0x0030, 0x0032, 0x0033, 0x0034, 0x003C, 0x003E)),
        (0x104C, 0xB005),
        (0x10DE, 0x1EB8),
        (0x11C1, 0x5900),
        (0x11C1, 0x5901),
        (0x177D, 0xA100),
        (0x1B21, 0x1164),
    }
)
"""Functions that do not come back after a reset of their bus (Linux drivers/pci/quirks.c,
quirk_no_bus_reset, up to 6.19)."""

_COMPANION_CLASSES = frozenset({0x0403, 0x0C03, 0x0C80})
"""HD audio, USB controller, UCSI serial bus: the functions of a GPU's slot (DESIGN, companion)."""

_KINDS_BY_SUBCLASS = {0x0108: "nvme", 0x0C03: "usb", 0x0C06: "nic", 0x0B40: "accel"}
_KINDS_BY_CLASS = {
    0x00: "other",
    0x01: "storage",
    0x02: "nic",
    0x03: "gpu",
    0x04: "audio",
    0x10: "crypto",
    0x12: "accel",
    0xFF: "other",
}
KINDS = ("gpu", "accel", "nic", "nvme", "storage", "usb", "audio", "crypto", "other")
"""Every kind of unit, by which of its functions names it first."""

_PCIE_PORTS = frozenset({4, 5, 6})
"""Root, upstream and downstream ports: pcieport drives them and manages DMA for their group."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one VM gets or nobody does.

    `id` is `<kind>-<8 hex>` from the primary's identity, so it survives renumbering and widening.
    `keys` are the identities of every endpoint in assign and hold: claiming the unit claims them
    all. `numa_node` is the primary's, -1 for none.
    """

    id: str
    kind: str
    primary: Address
    identity: Identity
    assign: tuple[Address, ...]
    hold: tuple[Address, ...]
    keys: tuple[Identity, ...]
    ids: str
    numa_node: int
    switch: str

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All functions of the unit, assigned first."""
        return (*self.assign, *self.hold)


def kind_of(function: PciFunction) -> str:
    """gpu, accel, nic, nvme, storage, usb, audio, crypto, other; "" for what is never assigned.

    Never assigned: bridges of any class, class 06 (host and ISA bridges), 08 (IOMMU, timers), and
    platform helpers such as SMBus and management engines, which only ever travel as group mates.
    """
    if function.is_bridge or function.sub_class is None or function.base_class is None:
        return ""
    return _KINDS_BY_SUBCLASS.get(function.sub_class, _KINDS_BY_CLASS.get(function.base_class, ""))


def resets_alone(function: PciFunction) -> bool:
    """True when a reset of this function is known to take no other along."""
    if function.physfn:
        return True
    if _FUNCTION_LEVEL & set(function.reset_methods or ()):
        return True
    config = function.config
    if function.reset_methods is not None or config is None:
        return False
    if (function.vendor, function.device) in BROKEN_FLR:
        return False
    return bool((config.pcie is not None and config.pcie.flr) or config.af_flr)


def has_broken_bus_reset(function: PciFunction) -> bool:
    """True for ids that the kernel keeps from bus resets, NVIDIA's baseboard GPUs included."""
    ids = (function.vendor, function.device)
    baseboard = function.vendor == 0x10DE and (function.device or 0) & 0xFFC0 == 0x2340
    return baseboard or ids in _BROKEN_BUS_RESET


def reset_domain(
    function: PciFunction, by_address: Mapping[Address, PciFunction]
) -> tuple[Address, ...]:
    """Functions that a reset of this one takes along, itself included, by address.

    Below an upstream bridge that is the whole bus and what hangs below it; on a root bus there is
    no hot reset, so the domain is the function alone.
    """
    if resets_alone(function) or not function.parent:
        return (function.address,)
    below = index(by_address).below.get(function.parent, ())
    if function.address in below:
        return below
    return tuple(sorted({*below, function.address}, key=address_key))


def hot_resets(function: PciFunction, by_address: Mapping[Address, PciFunction]) -> bool | None:
    """True when the VFIO hot reset of this function's bus works; None when that is not known.

    It needs an upstream bridge, and no device below it may refuse a bus reset. The kernel tells of
    such a quirk by leaving `bus` out of the list of the first function there, which was alone when
    its list was made (facts: Reset); later functions never list `bus` and prove nothing.
    """
    if function.parent is None:
        return None
    above = by_address.get(function.parent)
    if not function.parent or (above is not None and above.is_bridge is False):
        return False
    if above is None or above.is_bridge is None:
        return None
    mates = index(by_address).children.get(function.parent, ())
    first = min((*mates, function), key=lambda f: address_key(f.address))
    if first.reset_methods is None or (first.reset_methods == () and first.reset_method_file):
        return None
    return "bus" in first.reset_methods


def companions(
    function: PciFunction, by_address: Mapping[Address, PciFunction]
) -> tuple[Address, ...]:
    """Functions of the same slot that must travel along with this display controller."""
    if function.base_class != 0x03:
        return ()
    return tuple(
        other.address
        for other in index(by_address).slots.get(slot_of(function.address), ())
        if other.address != function.address and other.sub_class in _COMPANION_CLASSES
    )


def derive_units(
    functions: Sequence[PciFunction],
    members: Mapping[int, tuple[PciFunction, ...]],
    identities: Mapping[Address, Identified],
) -> tuple[Unit, ...]:
    """All units of a host, by primary address."""
    by_address = FunctionIndex.of(functions)
    endpoints = [f for f in functions if not f.is_bridge]
    joined = _Joined(f.address for f in endpoints)
    for function in endpoints:
        for other in (
            *companions(function, by_address),
            *reset_domain(function, by_address),
            *(m.address for m in members.get(_group(function), ())),
        ):
            if other in joined.parent:
                joined.join(function.address, other)
    bridges = {
        number: tuple(m for m in rows if m.is_bridge and not _is_port(m))
        for number, rows in members.items()
    }
    units = []
    for addresses in joined.sets():
        unit = _make_unit([by_address[a] for a in addresses], bridges, by_address, identities)
        if unit is not None:
            units.append(unit)
    return tuple(sorted(units, key=lambda u: address_key(u.primary)))


def _make_unit(
    closure: Sequence[PciFunction],
    bridges: Mapping[int, tuple[PciFunction, ...]],
    by_address: Mapping[Address, PciFunction],
    identities: Mapping[Address, Identified],
) -> Unit | None:
    travelling = {c for f in closure for c in companions(f, by_address)}
    assign = [f for f in closure if kind_of(f) or f.address in travelling]
    if not assign or not any(kind_of(f) for f in assign):
        return None
    primary = min(
        (f for f in assign if kind_of(f)),
        key=lambda f: (
            KINDS.index(kind_of(f)),
            function_number(f.address),
            identities[f.address].identity,
        ),
    )
    held = {f.address for f in closure} - {f.address for f in assign}
    held |= {b.address for f in closure for b in bridges.get(_group(f), ())}
    identity = identities[primary.address].identity
    kind = kind_of(primary)
    chain = ancestors(primary, by_address)
    # an identity may hold text of the host, which need not be Unicode
    digest = sha256(identity.encode("utf-8", "backslashreplace")).hexdigest()
    return Unit(
        id=f"{kind}-{digest[:8]}",
        kind=kind,
        primary=primary.address,
        identity=identity,
        assign=_in_order(f.address for f in assign),
        hold=_in_order(held),
        keys=tuple(sorted(identities[f.address].identity for f in closure)),
        ids=primary.ids,
        numa_node=-1 if primary.numa_node is None else primary.numa_node,
        switch=chain[1] if len(chain) > 1 else "",
    )


def _in_order(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(addresses, key=address_key))


def _group(function: PciFunction) -> int:
    return -1 if function.group is None else function.group


def _is_port(function: PciFunction) -> bool:
    config = function.config
    return config is not None and config.pcie is not None and config.pcie.port_type in _PCIE_PORTS


class _Joined:
    """Disjoint sets of addresses."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self.parent = {a: a for a in addresses}

    def root(self, address: Address) -> Address:
        while self.parent[address] != address:
            self.parent[address] = self.parent[self.parent[address]]
            address = self.parent[address]
        return address

    def join(self, one: Address, other: Address) -> None:
        self.parent[self.root(other)] = self.root(one)

    def sets(self) -> Iterable[list[Address]]:
        found: dict[Address, list[Address]] = {}
        for address in self.parent:
            found.setdefault(self.root(address), []).append(address)
        return found.values()
