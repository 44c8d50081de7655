"""Why the host may need a PCI function although nothing is known to: what could not be read.

Doubts go by kind: an unresolved disk source touches what may hold a disk, an unresolved network use
what may hold an interface. A function that a vfio driver has is beyond such doubts, because it
gives the host neither disk nor interface nor screen. This module must never turn an unread list
into "unused".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vfio_agent.checks.inventory import (
    DEVICES,
    describe_driver,
    find_remedy,
    lists_are_whole,
    missing_attribute,
    missing_groups,
    strangers,
    ungrouped,
)
from vfio_contract.address import Address, is_address
from vfio_contract.findings import Missing
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, PciFunction, StorageUse
from vfio_contract.units import resets_alone

_STORAGE, _NETWORK, _DISPLAY, _INPUT = 0x01, 0x02, 0x03, 0x09
"""Base classes (PCI Code and ID Assignment)."""

_FIREWIRE, _USB, _FIBRE_CHANNEL, _INFINIBAND, _FABRIC = 0x0C00, 0x0C03, 0x0C04, 0x0C06, 0x0C08
_SD_HOST = 0x0805
_VIRTIO_VENDOR = 0x1AF4

_MAY_HOLD_DISK = frozenset({_FIREWIRE, _USB, _FIBRE_CHANNEL, _SD_HOST})
_NETWORK_CARDS = frozenset({_INFINIBAND, _FABRIC})

_MOUNTS = "mounts and swap"
_BLOCK = "/sys/class/block"
_NET = "/sys/class/net"
_KEYBOARDS = "/proc/bus/input/devices"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A sentence part for people, and the evidence that would settle it."""

    why: str
    missing: Missing

    def behind(self, how: str) -> Doubt:
        """The same doubt, about a function that is tied to the one in question."""
        return Doubt(f"{how}: {self.why}", self.missing)


class Unresolved:
    """The host's uses that could not be traced to a function: `storage` and `network`."""

    def __init__(self, host: Host) -> None:
        self.storage: list[Doubt] = []
        self.network: list[Doubt] = []
        self._trace_mounts(host)
        self._trace_interfaces(host)

    def _trace_mounts(self, host: Host) -> None:
        if host.facts.storage_uses is None:
            missing = Missing(_MOUNTS, "findmnt; swapon --show")
            self.storage.append(Doubt("what is mounted could not be read", missing))
        stack = Missing(_BLOCK, find_remedy(host, _BLOCK) or "lsblk -s")
        for use in host.facts.storage_uses or ():
            if use.unresolved:
                kind = self.network if use.kind == "network" else self.storage
                kind.append(Doubt(f"{use.use}: {use.unresolved}", stack))
            elif not _is_resolved(host, use):
                why = f"{use.use}: the way down from {' '.join(use.devices)} is not known"
                self.storage.append(Doubt(why, stack))

    def _trace_interfaces(self, host: Host) -> None:
        missing = Missing(_NET, find_remedy(host, _NET) or "ip -br link; ip -br addr")
        if host.facts.network is None:
            self.network.append(Doubt("the network interfaces could not be read", missing))
        for device in host.facts.network or ():
            busy = bool(device.uppers or device.addresses or device.routes)
            if device.function is None and (busy or None in (device.addresses, device.routes)):
                why = f"the device under {device.name} could not be read"
                self.network.append(Doubt(why, missing))


def _is_resolved(host: Host, use: StorageUse) -> bool:
    blocks = {b.name: b for b in host.facts.block or ()}
    todo, seen = list(use.devices), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        block = blocks.get(name)
        if block is None or block.functions is None:
            return False
        todo.extend(block.parents)
    return True


def find_doubts(host: Host, function: PciFunction, unresolved: Unresolved) -> Iterator[Doubt]:
    """Why nothing rules out that the host needs this function itself."""
    if is_vfio_bound(function):
        return
    if function.class_code is None:
        why = "its class could not be read, so nothing rules out a disk or a network card"
        yield Doubt(why, missing_attribute(host, function, "class"))
        return
    if function.base_class == _DISPLAY and function.boot_vga is None:
        why = "whether it is the console's display could not be read"
        yield Doubt(why, missing_attribute(host, function, "boot_vga"))
    if function.boot_vga and function.driver is None:
        why = "it is the console's display unless vfio has it, and its driver could not be read"
        yield Doubt(why, missing_attribute(host, function, "driver"))
    if function.driver == "" and not _is_in_use(host, function):
        return
    if _may_hold_disk(function):
        yield from unresolved.storage
    may_type = function.sub_class == _USB or function.base_class == _INPUT
    if may_type and host.facts.keyboards is None:
        why = "whether it has the host's keyboard could not be read"
        yield Doubt(why, Missing(_KEYBOARDS, find_remedy(host, _KEYBOARDS) or f"cat {_KEYBOARDS}"))
    if _is_network_card(function):
        yield from _doubt_interfaces(host, function)
    if _is_network_card(function) or function.sub_class == _USB:
        yield from unresolved.network


def _is_in_use(host: Host, function: PciFunction) -> bool:
    """True when an interface or disk is on it: a copy without its `driver` link is no proof."""
    carries = any(d.function == function.address for d in host.facts.network or ())
    return carries or any(function.address in (b.functions or ()) for b in host.facts.block or ())


def _may_hold_disk(function: PciFunction) -> bool:
    """Disk controllers, buses that disks hang on, and virtio, which carries 9p and virtiofs too."""
    virtio = function.vendor in (None, _VIRTIO_VENDOR) and not _is_network_card(function)
    return virtio or function.base_class == _STORAGE or function.sub_class in _MAY_HOLD_DISK


def _is_network_card(function: PciFunction) -> bool:
    return function.base_class == _NETWORK or function.sub_class in _NETWORK_CARDS


def _doubt_interfaces(host: Host, function: PciFunction) -> Iterator[Doubt]:
    if host.facts.network is None:
        return
    names = {d.name: d for d in host.facts.network}
    own = [d for d in names.values() if d.function == function.address]
    if not own:
        # A namespace of its own hides an interface, and so does a userspace driver.
        command = f"ls {DEVICES}/{function.address}/net; sudo ip netns list"
        why = f"no interface of it is to be seen ({describe_driver(function)})"
        yield Doubt(why, Missing(f"{DEVICES}/{function.address}/net", command))
    for device in own:
        for carrier in (device, *(names[n] for n in device.uppers if n in names)):
            if carrier.addresses is None or carrier.routes is None:
                missing = Missing(f"addresses of {carrier.name}", f"ip addr show {carrier.name}")
                yield Doubt(f"the addresses of {carrier.name} could not be read", missing)


class Ties:
    """Why something that the host needs may be tied to a function unknown to us.

    What holds for the whole host (unread groups, places and PFs of the functions in `used`) is
    looked for once, because hosts with thousands of VFs ask `find_doubts` for each of them.
    """

    def __init__(self, host: Host, used: Collection[PciFunction]) -> None:
        self._host = host
        self._open = frozenset[Address]()
        if used and not lists_are_whole(host):
            self._open = frozenset(f.address for f in ungrouped(host))
        self._names = frozenset(f.address for f in used)
        self._lost = [f.address for f in used if f.address in self._open]
        self._unplaced = [f for f in used if f.parent is None]
        self._unowned = [f for f in used if f.physfn is None]

    def find_doubts(self, function: PciFunction) -> Iterator[Doubt]:
        """About this function; nothing where every tie is known."""
        host = self._host
        for name in strangers(host, -1 if function.group is None else function.group):
            if is_address(name):
                why = f"{name} shares its group and could not be read"
                yield Doubt(why, Missing(f"{DEVICES}/{name}", f"lspci -k -s {name}"))
        if self._names <= {function.address}:
            return
        lost = next((a for a in self._lost if a != function.address), None)
        if function.address in self._open:
            yield Doubt("its group could not be read, and so who shares it", missing_groups(host))
        elif lost is not None and function.group != NO_GROUP:
            yield Doubt(f"the group of {lost} could not be read", missing_groups(host))
        if not resets_alone(function):
            yield from self._doubt_places(function)
        if function.sriov_num_vfs != 0:
            for other in self._unowned:
                if other.address != function.address:
                    why = f"whether {other.address} is one of its VFs could not be read"
                    yield Doubt(why, missing_attribute(host, other, "physfn"))

    def _doubt_places(self, function: PciFunction) -> Iterator[Doubt]:
        if function.parent is None:
            why = "its place below the bridges could not be read, and so what its reset takes along"
            yield Doubt(why, Missing(f"{DEVICES}/{function.address}", "lspci -t"))
        elif function.parent:
            for other in self._unplaced:
                if other.address != function.address:
                    why = f"the place of {other.address} could not be read"
                    yield Doubt(why, Missing(f"{DEVICES}/{other.address}", "lspci -t"))
