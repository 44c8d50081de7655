"""What drift compares: the facts of a host that matter for passthrough, and no others.

A fingerprint is derived from facts by this version of vfioctl, on both sides of a comparison, so
that an artifact of any age is read the same way. It holds no address of a BAR, no current link
speed, no counter: nothing that moves by itself. **None means "not known"** in every field, also
where an older artifact's schema did not have the fact; a fingerprint that lacks a field altogether
reads as None there. This module must never derive "absent" from what could not be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vfio_contract.address import Address, Identity, bus_of, slot_of
from vfio_contract.firmware import Parts, firmware_tuple
from vfio_contract.host import Host
from vfio_contract.identity import ancestors, shared_serials
from vfio_contract.intention import is_vfio_bound
from vfio_contract.isolation import is_artificial
from vfio_contract.model import NO_GROUP, NOIOMMU_NAME, Bar, Facts, PciFunction
from vfio_contract.next_boot import describe_next_boot, sort_parameters
from vfio_contract.quirks import has_wide_acs
from vfio_contract.units import hot_resets, resets_alone
from vfio_contract.vm import choices

VERSION = 1
"""Of the fingerprint's fields; a field that a later version adds is not known to this one."""

RESETS = ("none", "weak", "slot", "function")
"""Values of `FunctionPrint.reset`, worst first."""

VFIO, HOST, AT_START = "vfio", "host", "at start"
"""Values of `FunctionPrint.binding`. AT_START: a VM's hypervisor binds it, and gives it back."""

_ISOLATING = 0x01 | 0x04 | 0x08 | 0x10
"""ACSCtl SV, RR, CR, UF: the bits that a group relies on (facts: Isolation beyond groups)."""

_PCIE_ID, _AF_ID = 0x10, 0x13
"""Capability ids of PCI Express and Advanced Features (pci_regs.h)."""

_SERIAL_ID, _ACS_ID = 0x03, 0x0D
"""Extended capability ids of the Device Serial Number and of ACS (pci_regs.h)."""

_MEMORY, _UNSET = 0x200, 0x20000000
"""IORESOURCE_MEM, and IORESOURCE_UNSET: the kernel found no address (include/linux/ioport.h)."""

_LAST_BAR = 5
_SPEED = re.compile(r"([0-9]{1,4}(?:\.[0-9])?) ?GT/s.*")
_UNKNOWN_WIDTH = 255
"""What sysfs shows for the width of a link that the kernel does not know."""


@dataclass(frozen=True, slots=True)
class Link:
    """The most that one end of a link can do: GT/s per lane, and lanes."""

    speed: float
    width: int


@dataclass(frozen=True, slots=True)
class BarPrint:
    """One BAR: its number, its size in bytes, and whether it has an address."""

    index: int
    size_bytes: int
    assigned: bool


@dataclass(frozen=True, slots=True)
class FunctionPrint:
    """What of one function is compared, and what it is recognised by.

    `identity`, `place` and `method` are as in `identity.Identified`; `placed` is True when all that
    makes up the place was read. `owner` is the physical function's address of a VF, "" for what is
    none. `bridge` None: its header was not read. `group` is NO_GROUP when the kernel gave none, or
    none but that of vfio's no-IOMMU mode.
    `reset` is one of RESETS, `binding` VFIO, HOST or AT_START. `resizable` are (BAR, bytes) of
    those whose size can be set. `link` is its own end, `port_link` that of the bridge above it.
    `acs` are the bits that isolate and are on, `artificial` is True where its group rests on
    pcie_acs_override. `without_serial` and `without_acs` are True where the whole list of
    capabilities was read and that one is not in it, `shared_serial` where its serial number stands
    in another slot too.
    """

    address: Address
    identity: Identity
    place: Identity
    method: str
    placed: bool
    ids: str
    subsystem: str
    owner: Address | None = None
    vf_index: int | None = None
    bridge: bool | None = None
    group: int | None = None
    driver: str | None = None
    binding: str | None = None
    reset: str | None = None
    vfs: int | None = None
    total_vfs: int | None = None
    bars: tuple[BarPrint, ...] | None = None
    resizable: tuple[tuple[int, int], ...] | None = None
    link: Link | None = None
    port_link: Link | None = None
    acs: int | None = None
    artificial: bool | None = None
    without_serial: bool = False
    shared_serial: bool = False
    without_acs: bool = False


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The drift-relevant facts of one host.

    `running` and `next_boot` are the kernel parameters that bear on passthrough, of this boot and
    as the loader will pass them next, in sorted order. `functions` are by address, bridges
    included; None when they could not be listed.
    """

    version: int
    firmware: Parts
    running: str | None = None
    next_boot: str | None = None
    functions: tuple[FunctionPrint, ...] | None = field(default=None, repr=False)


def fingerprint(host: Host) -> Fingerprint:
    """The fingerprint of these facts; readings do not enter."""
    facts = host.facts
    functions = None
    if facts.functions is not None:
        groups = _groups_of(host)
        managed = _bound_at_start(facts)
        shared = shared_serials(host.functions)
        orphaned = frozenset(bus_of(f.address) for f in host.functions if f.parent is None)
        functions = tuple(
            replace(
                _print_function(host, f, groups, managed),
                reset=None if bus_of(f.address) in orphaned else _reset_of(host, f),
                shared_serial=f.address in shared,
            )
            for f in host.functions
        )
    return Fingerprint(
        version=VERSION,
        firmware=firmware_tuple(facts),
        running=None if facts.cmdline is None else sort_parameters(facts.cmdline),
        next_boot=describe_next_boot(facts),
        functions=functions,
    )


def reset_class(function: PciFunction, by_address: Mapping[Address, PciFunction]) -> str | None:
    """`function`, `slot` (VFIO hot reset), `weak` (power management only), `none`; None unknown."""
    if resets_alone(function):
        return "function"
    hot = hot_resets(function, by_address)
    if hot is None or function.reset_methods is None:
        return "slot" if hot else None
    if hot:
        return "slot"
    return "weak" if "pm" in function.reset_methods else "none"


def _reset_of(host: Host, function: PciFunction) -> str | None:
    """The class of its reset, where all that it goes by was read."""
    if function.physfn is None:
        return None
    if function.reset_methods is None and not function.physfn:
        config = function.config
        if function.reset_method_file is not False or config is None or config.capabilities is None:
            return None
        if (_PCIE_ID in config.capabilities and config.pcie is None) or (
            _AF_ID in config.capabilities and config.af_flr is None
        ):
            return None
    return reset_class(function, host.by_address)


def _print_function(
    host: Host,
    function: PciFunction,
    groups: Mapping[Address, int],
    managed: frozenset[str],
) -> FunctionPrint:
    found = host.identities[function.address]
    group = function.group if function.group is not None else groups.get(function.address)
    if group is not None and group in host.groups and host.groups[group].name == NOIOMMU_NAME:
        group = NO_GROUP
    above = host.by_address.get(function.parent) if function.parent else None
    return FunctionPrint(
        address=function.address,
        identity=found.identity,
        place=found.place,
        method=found.method,
        placed=_is_placed(host, function),
        ids=function.ids,
        subsystem=f"{_hex(function.subsystem_vendor)}:{_hex(function.subsystem_device)}",
        owner=function.physfn,
        vf_index=function.vf_index,
        bridge=function.is_bridge,
        group=group,
        driver=function.driver,
        binding=_binding_of(function, managed),
        vfs=function.sriov_num_vfs,
        total_vfs=function.sriov_total_vfs,
        bars=_bars_of(function),
        resizable=_resizable_of(function),
        link=_link_of(function),
        port_link=None if above is None else _link_of(above),
        acs=_acs_of(function),
        artificial=None if group is None or group < 0 else is_artificial(host, function),
        without_serial=_is_without(function, _SERIAL_ID),
        without_acs=_is_without(function, _ACS_ID),
    )


def _is_placed(host: Host, function: PciFunction) -> bool:
    """True when ids and the whole way up to a host bridge that has a name are known."""
    known = (function.vendor, function.device, function.subsystem_vendor, function.subsystem_device)
    if None in known or function.root_path is None or function.physfn is None:
        return False
    if function.physfn and (function.vf_index is None or function.vf_index < 0):
        return False
    chain = ancestors(function, host.by_address)
    top = host.by_address.get(chain[-1]) if chain else function
    return top is not None and top.parent == ""


def _groups_of(host: Host) -> dict[Address, int]:
    """Group by function as the directories of the groups have it."""
    return {f.address: number for number, rows in host.members.items() for f in rows}


def _bound_at_start(facts: Facts) -> frozenset[str]:
    """Addresses and slots that a hypervisor binds for a VM and gives back after it."""
    return frozenset(
        written
        for vm in facts.vms or ()
        for device in vm.devices
        if device.managed and not device.mdev
        for alternative in choices(device, facts.mappings, facts.host) or ()
        for written in alternative
    )


def _binding_of(function: PciFunction, managed: frozenset[str]) -> str | None:
    if function.address in managed or slot_of(function.address) in managed:
        return AT_START
    bound = is_vfio_bound(function)
    if bound is None:
        return None
    return VFIO if bound else HOST


def _bars_of(function: PciFunction) -> tuple[BarPrint, ...] | None:
    if function.bars is None:
        return None
    rows = (b for b in function.bars if b.index <= _LAST_BAR)
    return tuple(BarPrint(b.index, b.size_bytes, _is_assigned(b)) for b in rows)


def _resizable_of(function: PciFunction) -> tuple[tuple[int, int], ...] | None:
    if function.config is None or function.config.resizable is None:
        return None
    return tuple((r.index, r.size_bytes) for r in function.config.resizable)


def _is_assigned(bar: Bar) -> bool:
    return not (bar.flags & _MEMORY and (bar.flags & _UNSET or bar.start == 0))


def _link_of(function: PciFunction) -> Link | None:
    match = _SPEED.fullmatch(function.max_link_speed or "")
    width = function.max_link_width
    if match is None or width is None or not 0 < width < _UNKNOWN_WIDTH:
        return None
    return Link(float(match[1]), width)


def _acs_of(function: PciFunction) -> int | None:
    """Bits that are on. A capability that is gone shows in the groups, or in `artificial`."""
    config = function.config
    if config is None or config.acs is None:
        return None
    if has_wide_acs(function.vendor, function.device) and not config.acs.wide:
        return None  # an older version read it from the wrong place
    return config.acs.control & _ISOLATING


def _is_without(function: PciFunction, extended_id: int) -> bool:
    config = function.config
    if config is None or config.dead or config.faults or config.extended is None:
        return False
    return extended_id not in config.extended


def _hex(value: int | None) -> str:
    return "????" if value is None else f"{value:04x}"
