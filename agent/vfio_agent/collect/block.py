"""Block devices and what is under each, down to PCI functions.

Partitions stand on their disk; LVM, crypt, multipath and md devices on their `slaves`, however
deep; ZFS volumes on the disks of the pools; loop devices on what their file's mount stands on; NVMe
multipath devices on their controllers. A device whose way down cannot be followed has `functions`
None and leaves a gap: it must never look as if it stood on nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname

from vfio_agent.collect.device_path import innermost_function
from vfio_agent.collect.ground import NETWORK, NOTHING, Ground, Standing, unknown
from vfio_agent.collect.mounts import collect_mounts
from vfio_agent.collect.reader import Reader
from vfio_contract.address import Address, address_key
from vfio_contract.model import BlockDevice

_BLOCK = "/sys/class/block"
_DEVICES = "/sys/devices/"
_VIRTUAL = "/sys/devices/virtual/"

_IN_MEMORY = re.compile(r"(?:ram|zram|nullb)\d+")
_STACKED = re.compile(r"(?:dm-|md)[\w-]+")
_ZFS_VOLUME = re.compile(r"zd\d+")
_CONTROLLER = re.compile(r"nvme\d+")
_SESSION = re.compile(r"/session\d+/")

_NETWORK_LABELS = frozenset({"iscsi", "rbd", "nvme-tcp", "nvme-rdma"})
"""Disks that a server keeps; their `functions` are () because the network is their way."""


@dataclass(frozen=True, slots=True)
class _Disk:
    """What sysfs says of one device. `place` is its canonical path, "" when it is gone."""

    name: str
    number: str
    place: str
    whole: str
    label: str


def is_networked(device: BlockDevice) -> bool:
    """True when the device is a server's and reached over the network."""
    return device.label in _NETWORK_LABELS


def collect_block(reader: Reader) -> tuple[BlockDevice, ...] | None:
    """By name; loop and nbd devices that are not in use are left out."""
    names = reader.optional_names(_BLOCK)
    if names is None:
        return None
    disks = _collect_disks(reader, names)
    walk = _Walk(reader, disks)
    return tuple(
        BlockDevice(
            name=disk.name,
            number=disk.number,
            functions=walk.functions(disk.name),
            parents=walk.parents(disk.name),
            label=disk.label,
        )
        for disk in sorted(disks.values(), key=lambda d: d.name)
    )


def make_ground(reader: Reader, rows: Iterable[BlockDevice | _Disk]) -> Ground | None:
    """What resolves mounts over these devices; None when the mount table cannot be read."""
    table = collect_mounts(reader)
    if table is None:
        return None
    devices = list(rows)
    return Ground(
        reader,
        table,
        names={d.number: d.name for d in devices if d.number},
        mapped={d.label: d.name for d in devices if d.name.startswith("dm-") and d.label},
    )


def _collect_disks(reader: Reader, names: Sequence[str]) -> dict[str, _Disk]:
    places = reader.reals([f"{_BLOCK}/{name}" for name in names])
    numbers = reader.optional_texts([f"{_BLOCK}/{name}/dev" for name in names])
    known = frozenset(names)
    found: dict[str, _Disk] = {}
    for name, place, number in zip(names, places, numbers, strict=True):
        if place == "":
            continue  # gone since the listing
        above = basename(dirname(place or ""))
        whole = above if above in known else ""
        label = "" if whole else _label(reader, name, place or f"{_BLOCK}/{name}")
        if label is None:
            continue
        found[name] = _Disk(name, number or "", place or "", whole, label)
    return found


def _label(reader: Reader, name: str, place: str) -> str | None:
    """What sysfs calls a whole device; None for a loop or nbd device that is not in use."""
    if name.startswith("loop"):
        file = reader.optional(f"{place}/loop/backing_file")
        return None if file == "" else file or "loop"
    if name.startswith("nbd"):
        return None if reader.optional(f"{place}/pid") == "" else "nbd"
    if name.startswith("dm-"):
        return reader.optional(f"{place}/dm/name") or ""
    if name.startswith("md"):
        return reader.optional(f"{place}/md/level") or ""
    if name.startswith("rbd"):
        return "rbd"
    if _SESSION.search(place) and innermost_function(place) is None:
        return "iscsi"
    if "/nvme-fabrics/" in place:
        return _transport(reader, dirname(place))
    return ""


def _transport(reader: Reader, controller: str) -> str:
    return f"nvme-{reader.optional(f'{controller}/transport') or 'fabrics'}"


class _Walk:
    """The way down from each device, each walked once."""

    def __init__(self, reader: Reader, disks: Mapping[str, _Disk]) -> None:
        self._reader = reader
        self._disks = disks
        self._ground: Ground | None = None
        self._below: dict[str, Standing] = {}
        self._functions: dict[str, frozenset[Address] | None] = {}
        self._open: set[str] = set()

    def parents(self, name: str) -> tuple[str, ...]:
        """The devices directly below this one."""
        return tuple(sorted(self._directly_below(name).devices))

    def functions(self, name: str) -> tuple[Address, ...] | None:
        """The PCI functions at the end of every way down; None when one way has no known end."""
        found = self._follow(name)
        return None if found is None else tuple(sorted(found, key=address_key))

    def _follow(self, name: str) -> frozenset[Address] | None:
        if name in self._functions:
            return self._functions[name]
        if name in self._open or name not in self._disks:
            lost = "it is not there" if name not in self._disks else "it stands on itself"
            self._reader.gap(f"{_BLOCK}/{name}", lost)
            return None
        self._open.add(name)
        below = self._directly_below(name)
        found: frozenset[Address] | None = below.functions
        for reason in sorted(below.unresolved):
            self._reader.gap(f"{_BLOCK}/{name}", reason)
            found = None
        for device in sorted(below.devices):
            further = self._follow(device)
            found = None if found is None or further is None else found | further
        self._open.discard(name)
        self._functions[name] = found
        return found

    def _directly_below(self, name: str) -> Standing:
        if name not in self._below:
            self._below[name] = self._look_below(self._disks[name])
        return self._below[name]

    def _look_below(self, disk: _Disk) -> Standing:
        place = disk.place
        if not place.startswith(_DEVICES):
            return unknown("its place in /sys/devices could not be read")
        if disk.whole:
            return Standing(devices=frozenset({disk.whole}))
        if disk.label in _NETWORK_LABELS:
            return NETWORK
        if "/nvme-subsystem/" in place:
            return self._controllers(dirname(place))
        if not place.startswith(_VIRTUAL):
            return _on_bus(place)
        if _STACKED.fullmatch(disk.name):
            return self._slaves(place)
        if disk.name.startswith("loop"):
            return self._file(disk)
        if _IN_MEMORY.fullmatch(disk.name):
            return self._memory(disk)
        if _ZFS_VOLUME.fullmatch(disk.name):
            return self._zfs_volume()
        return unknown(f"what a device like {disk.name} stands on is not followed")

    def _slaves(self, place: str) -> Standing:
        slaves = self._reader.optional_names(f"{place}/slaves")
        if slaves is None:
            return unknown("its slaves could not be read")
        return Standing(devices=frozenset(slaves))

    def _controllers(self, subsystem: str) -> Standing:
        """NVMe multipath: the disk hangs below a virtual subsystem, its paths below controllers."""
        names = self._reader.optional_names(subsystem)
        controllers = [n for n in names or () if _CONTROLLER.fullmatch(n)]
        if not controllers:
            return unknown("the controllers of its NVMe subsystem could not be read")
        found = NOTHING
        for place in self._reader.reals([f"{subsystem}/{n}" for n in controllers]):
            if not place:
                found |= unknown("a controller of its NVMe subsystem could not be read")
            elif "/nvme-fabrics/" in place and _transport(self._reader, place) in _NETWORK_LABELS:
                found |= NETWORK
            else:
                found |= _on_bus(place)
        return found

    def _file(self, disk: _Disk) -> Standing:
        if not disk.label.startswith("/") or disk.label.endswith(" (deleted)"):
            return unknown("the file behind it cannot be found")
        ground = self._find_ground()
        if ground is None:
            return unknown("the mount that holds its file is not known")
        return ground.of_path(disk.label)

    def _find_ground(self) -> Ground | None:
        if self._ground is None:
            self._ground = make_ground(self._reader, self._disks.values())
        return self._ground

    def _zfs_volume(self) -> Standing:
        """sysfs does not say which pool a volume is in, so that it stands on all of them."""
        ground = self._find_ground()
        pools = ground.pools() if ground is not None else None
        if ground is None or not pools:
            return unknown("the ZFS pool that holds it is not known")
        found = NOTHING
        for pool in pools:
            found |= ground.of_pool(pool)
        return found

    def _memory(self, disk: _Disk) -> Standing:
        """zram may write back to a disk (Documentation/admin-guide/blockdev/zram.rst)."""
        if not disk.name.startswith("zram"):
            return NOTHING
        backing = self._reader.optional(f"{disk.place}/backing_dev")
        if backing in ("", "none"):
            return NOTHING
        name = basename(backing or "")
        if name in self._disks:
            return Standing(devices=frozenset({name}))
        return unknown(f"its backing device {backing or ''} is not followed")


def _on_bus(place: str) -> Standing:
    """A device of a real bus. Some kinds of host adapter are software over something else."""
    function = innermost_function(place)
    if function is not None:
        return Standing(functions=frozenset({function}))
    if place.startswith(_VIRTUAL) or "/vhci_hcd" in place or "/tcm_loop" in place:
        return unknown("the adapter is software over something that is not followed")
    return NOTHING
