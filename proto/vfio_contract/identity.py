"""What a function is across renumbering, from driver-independent evidence only.

An address is where a function was found this boot; a firmware update may move it. Its identity is
the PCIe Device Serial Number with the function number where that number is trustworthy, else
vendor, device, subsystem and the chain of device.function numbers down from the host bridge, with
no bus number in it. NVMe serials, MACs and board serials are never used: they vanish under vfio-pci
and the identity would flip on bind. A serial is rejected if it is all zeros, all ones, or seen in
two slots (facts: Identity); within one slot sharing is normal. A VF is its PF plus its index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfio_contract.address import Address, Identity, devfn_of, function_number, slot_of
from vfio_contract.model import PciFunction

_MAX_DEPTH = 64
"""Bridges above one function; far beyond any real tree, so that broken parents cannot loop."""


@dataclass(frozen=True, slots=True)
class Identified:
    """An identity, the place-based one beside it, and how it was made: `dsn`, `slot` or `vf`.

    `place` is what the identity would be without a serial number; it joins two snapshots of which
    only one could read extended config space.
    """

    identity: Identity
    place: Identity
    method: str


def ancestors(function: PciFunction, by_address: Mapping[Address, PciFunction]) -> list[Address]:
    """Upstream bridges from the nearest to the one below the host bridge; cycles end the walk."""
    chain: list[Address] = []
    parent = function.parent
    while parent and parent not in chain and len(chain) < _MAX_DEPTH:
        chain.append(parent)
        above = by_address.get(parent)
        parent = above.parent if above is not None else None
    return chain


def identify(functions: Sequence[PciFunction]) -> dict[Address, Identified]:
    """The identity of every function of one host."""
    by_address = {f.address: f for f in functions}
    roots = _root_keys(functions)
    trusted = _trusted_serials(functions)
    found: dict[Address, Identified] = {}
    for function in functions:
        if not function.physfn:
            found[function.address] = _identify_physical(function, by_address, roots, trusted)
    for function in functions:
        if not function.physfn:
            continue
        owner = by_address.get(function.physfn)
        if owner is None or owner.address not in found:
            found[function.address] = _identify_physical(function, by_address, roots, trusted)
            continue
        above = found[owner.address]
        index = function.vf_index
        suffix = f"/vf{index}" if index is not None and index >= 0 else f"/{function.address}"
        found[function.address] = Identified(
            identity=Identity(above.identity + suffix),
            place=Identity(above.place + suffix),
            method="vf",
        )
    return found


def shared_serials(functions: Sequence[PciFunction]) -> frozenset[Address]:
    """The functions whose serial number stands in another slot too, so that it names neither."""
    slots = _slots_by_serial(functions)
    return frozenset(f.address for f in functions if len(slots.get(_serial(f), ())) > 1)


def _identify_physical(
    function: PciFunction,
    by_address: Mapping[Address, PciFunction],
    roots: Mapping[str, str],
    trusted: Mapping[Address, str],
) -> Identified:
    chain = [devfn_of(function.address), *map(devfn_of, ancestors(function, by_address))]
    path = "/".join((roots.get(function.root, function.root), *reversed(chain)))
    subsystem = f"{_hex(function.subsystem_vendor)}:{_hex(function.subsystem_device)}"
    place = Identity(f"{function.ids}:{subsystem}@{path}")
    serial = trusted.get(function.address)
    if serial is None:
        return Identified(identity=place, place=place, method="slot")
    number = function_number(function.address)
    return Identified(identity=Identity(f"dsn-{serial}.{number}"), place=place, method="dsn")


def _trusted_serials(functions: Sequence[PciFunction]) -> dict[Address, str]:
    slots = _slots_by_serial(functions)
    return {
        f.address: serial
        for f in functions
        if (serial := _serial(f)) and len(slots[serial]) == 1 and not f.physfn
    }


def _slots_by_serial(functions: Sequence[PciFunction]) -> dict[str, set[str]]:
    slots: dict[str, set[str]] = {}
    for function in functions:
        serial = _serial(function)
        if serial:
            slots.setdefault(serial, set()).add(slot_of(function.address))
    return slots


def _serial(function: PciFunction) -> str:
    if function.config is None or not function.config.serial_number:
        return ""
    serial = function.config.serial_number
    digits = set(serial.replace("-", ""))
    return "" if digits in ({"0"}, {"f"}) else serial


def _root_keys(functions: Sequence[PciFunction]) -> dict[str, str]:
    """A name for each host bridge that holds no bus number: its ACPI path, else its rank."""
    by_domain: dict[str, list[str]] = {}
    acpi: dict[str, str] = {}
    for function in functions:
        domain = function.root.removeprefix("pci").partition(":")[0]
        rows = by_domain.setdefault(domain, [])
        if function.root not in rows:
            rows.append(function.root)
        if function.root_path:
            acpi[function.root] = function.root_path
    keys: dict[str, str] = {}
    for domain, rows in by_domain.items():
        for rank, root in enumerate(sorted(rows)):
            keys[root] = acpi.get(root, f"{domain}.{rank}")
    return keys


def _hex(value: int | None) -> str:
    return "????" if value is None else f"{value:04x}"
