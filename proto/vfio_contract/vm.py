"""What a VM's configuration asks for, whoever wrote it: Proxmox, libvirt or a QEMU command line.

One value for the three, so that a check about VMs is written once. Each device entry and each
setting that a check may name carries its line. As in the model, None means "not known" and a known
absence is explicit: "" for a setting that the configuration leaves to the hypervisor's default.
Nothing here may hold a secret: parsers redact before they make these values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vfio_contract.address import Address, slot_of

PROXMOX, LIBVIRT, QEMU = "proxmox", "libvirt", "qemu"
"""Values of `VmConfig.kind`. `qemu` is a running process, which no configuration file describes."""

SOURCE_ADDRESS = "source/address."
"""How `VmDevice.options` names the parts of the host's address that libvirt's XML has as attributes
(`source/address.bus`)."""

_WRITTEN = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-9a-f]))?")


@dataclass(frozen=True, slots=True)
class VmSetting:
    """One setting as it is written, its secret parts replaced; `line` as in `VmDevice`."""

    key: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class VmDevice:
    """One entry that gives a host device to the VM.

    `key` is what the file calls it (`hostpci0`, `hostdev 2`, `-device hostdev0`), `line` its line
    from 1 (of a command line the place of the argument, the program being 0).
    `addresses` are complete with their domain; without a function number they mean the whole slot.
    `mapping` is the name of a Proxmox resource mapping, of whose entries one is taken; `mdev` the
    type or UUID of a mediated device. "" where there is none.
    `pcie` is True when the guest sees it on a PCI Express port, None where the hypervisor decides.
    `managed` is True when the hypervisor takes it from its host driver at start, False when the
    operator must have bound it. `rom_bar` is None when not stated.
    `options` are all options as written, known or not, in their order.
    """

    key: str
    line: int
    addresses: tuple[str, ...]
    mapping: str
    mdev: str
    pcie: bool | None
    managed: bool
    primary_display: bool
    rom_file: str
    rom_bar: bool | None
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class VmDisk:
    """A block device of the host that the VM gets as a disk; `path` as written, `line` as above."""

    line: int
    path: str


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One VM. `name` is unique on its host (VMID, libvirt name); `title` is for people.

    `machine`, `firmware` (`ovmf`, `seabios`), `cpu` and `guest` (the OS type) are "" when not
    stated. `accelerated` is False for plain emulation. `disguises` are the words that hide from the
    guest what it runs on. `balloon_bytes` is what the guest may be shrunk to, equal to
    `memory_bytes` when it never is, 0 when it has no balloon at all. `hugepages` is the page size
    in bytes, 0 for none, -1 for any size. `autostart` None: not known.
    `faults` are (line, what is wrong) of entries that could not be understood.
    `settings` are all others, known or not. `raw_disks` are block devices of the host that the VM
    gets as disks; None also where an older version read the configuration.
    """

    name: str
    kind: str
    source: str
    title: str
    machine: str
    firmware: str
    cpu: str
    accelerated: bool
    disguises: tuple[str, ...]
    guest: str
    memory_bytes: int | None
    balloon_bytes: int | None
    hugepages: int
    autostart: bool | None
    template: bool
    devices: tuple[VmDevice, ...]
    settings: tuple[VmSetting, ...]
    faults: tuple[tuple[int, str], ...]
    raw_disks: tuple[VmDisk, ...] | None = None

    def line_of(self, *keys: str) -> int:
        """The line of the first of these settings that is written, 0 when none is."""
        for key in keys:
            for setting in self.settings:
                if setting.key == key:
                    return setting.line
        return 0


@dataclass(frozen=True, slots=True)
class MappingEntry:
    """One `map` line: on `node` these functions stand for the mapping.

    `ids` and `subsystem_ids` are `vvvv:dddd`, "" when not stated; `group` is -1 when not stated.
    """

    node: str
    addresses: tuple[str, ...]
    ids: str
    subsystem_ids: str
    group: int
    line: int


@dataclass(frozen=True, slots=True)
class PciMapping:
    """A Proxmox resource mapping; its entries of one node are alternatives.

    `live_migration` is True when the operator declared the devices able to live-migrate, `mediated`
    when VMs get mediated devices of them and the functions stay with the host.
    """

    name: str
    source: str
    line: int
    live_migration: bool
    mediated: bool
    entries: tuple[MappingEntry, ...]
    faults: tuple[tuple[int, str], ...] = ()


def complete_address(text: str) -> str:
    """`01:00.0` as `0000:01:00.0` and `01:00` as `0000:01:00`; "" when it is neither.

    What is written is believed, also a device number that no bus can have.
    """
    match = _WRITTEN.fullmatch(text.strip().lower())
    if match is None:
        return ""
    domain, bus, device, number = match.groups()
    slot = f"{domain or '0000'}:{bus}:{device}"
    return slot if number is None else f"{slot}.{number}"


def covers(written: str, address: Address) -> bool:
    """True when this written address or slot means that function."""
    return written in (address, slot_of(address))


def overlap(written: Iterable[str]) -> tuple[str, ...]:
    """Addresses that were there before, or whose slot was, or as slots a function of theirs."""
    slots: set[str] = set()
    functions: set[str] = set()
    used: set[str] = set()
    found = []
    for text in written:
        slot = text.partition(".")[0]
        whole = slot == text
        if slot in slots or text in functions or (whole and slot in used):
            found.append(text)
        (slots if whole else functions).add(text)
        used.add(slot)
    return tuple(found)


def entries_for(mapping: PciMapping, host: str) -> tuple[MappingEntry, ...]:
    """The entries of one node; a host's name may carry its domain."""
    short = host.partition(".")[0]
    return tuple(e for e in mapping.entries if e.node in (host, short))


def choices(
    device: VmDevice, mappings: Iterable[PciMapping] | None, host: str
) -> tuple[tuple[str, ...], ...] | None:
    """The alternatives of written addresses that this entry may stand for.

    One alternative for addresses, one per entry of the node for a mapping, none for a mapping that
    has no entry here or does not exist; None when the mappings are not known.
    """
    if not device.mapping:
        return (device.addresses,) if device.addresses else ()
    if mappings is None:
        return None
    for mapping in mappings:
        if mapping.name == device.mapping:
            return tuple(e.addresses for e in entries_for(mapping, host))
    return ()


def covered_by(
    device: VmDevice, mappings: Iterable[PciMapping] | None, host: str, address: Address
) -> bool:
    """True when this entry may give that whole function to its VM (not a mediated part of it)."""
    return not device.mdev and any(
        covers(written, address)
        for alternative in choices(device, mappings, host) or ()
        for written in alternative
    )
