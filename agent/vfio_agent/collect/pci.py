"""PCI functions from sysfs: what is read, in which order, and what must be left alone.

Reading has side effects (facts: Reading). `config` and link attributes wake a sleeping device and
those above it, so on a live host they are read once per boot while nobody holds the function, then
taken from the previous snapshot, and read again only in D0. VPD and ROM are never read. Ids come
from sysfs and never from config. Everything is planned first and read in a few batches; a file that
cannot be read, or holds nonsense, becomes None and a gap, and no content may raise.

Absence: on the running host and in our own captures a missing attribute is a known absence. In a
directory that somebody copied it is one only if the same attribute was captured for some other
function; an attribute that no function has was not captured and stays unknown.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vfio_agent.collect import pci_values
from vfio_agent.collect.config_space import Link, parse_link
from vfio_agent.collect.pci_values import DEVICES, Attributes
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import Names, NotCaptured
from vfio_contract.address import Address, is_address
from vfio_contract.model import FunctionReading, Holder, Kernel, PciFunction, Snapshot

_REQUIRED = (
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "class",
    "revision",
    "resource",
)
"""Attributes that every function has (Documentation/ABI/testing/sysfs-bus-pci)."""

_OPTIONAL = (
    "driver_override",
    "numa_node",
    "reset_method",
    "boot_vga",
    "sriov_totalvfs",
    "sriov_numvfs",
    "power_state",
    "aer_dev_fatal",
    "aer_dev_nonfatal",
    "aer_dev_correctable",
)
_LINKS = ("driver", "iommu_group", "physfn")
_MAX_LINK = ("max_link_speed", "max_link_width")
_CURRENT_LINK = ("current_link_speed", "current_link_width")
_ASKED = frozenset(
    {*_OPTIONAL, *_LINKS, *_MAX_LINK, *_CURRENT_LINK, "config", "reset", "vfio-dev", "power"}
)

_MATTERS = frozenset({*_REQUIRED, *_OPTIONAL[:6], *_LINKS, "config", "reset", "vfio-dev"})
"""Attributes that some check reads: not having captured one is a gap."""

_POWER, _STATUS = "power_state", "power/runtime_status"
_NO_SUCH = "no-such-attribute"

_HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_ASLEEP = frozenset({b"D1", b"D2", b"D3hot", b"D3cold"})
_HELD_NODE = re.compile(r"/dev/vfio/(?:noiommu-)?(\d+)|/dev/vfio/devices/(\w+)")


@dataclass(frozen=True, slots=True)
class Collected:
    """All functions by address, or None when the list itself could not be read."""

    functions: tuple[PciFunction, ...] | None
    readings: tuple[FunctionReading, ...]


@dataclass(slots=True)
class _Device:
    """One function while it is being read. `directory` is canonical where that is known.

    `names` are its attributes, `absent` those it is known not to have, `required` those whose
    absence is a gap.
    """

    address: Address
    directory: str
    parent: Address | None
    root: str
    root_directory: str
    names: frozenset[str] | None = None
    absent: frozenset[str] = frozenset()
    required: Sequence[str] = ()
    values: dict[str, bytes | OSError] = field(default_factory=dict)
    links: dict[str, str | OSError] = field(default_factory=dict)
    vfio_nodes: Names | OSError = field(default_factory=list)
    awake: bool = True
    link: Link | None = None

    def has(self, name: str) -> bool | None:
        """Whether this function has the attribute; None when nobody knows."""
        if self.names is not None and name in self.names:
            return True
        return False if name in self.absent else None

    def state(self, name: str) -> bytes:
        """A stripped attribute, empty when it was not read."""
        value = self.values.get(name)
        return value.strip() if isinstance(value, bytes) else b""


def collect_functions(
    reader: Reader,
    *,
    kernel: Kernel,
    holders: tuple[Holder, ...] | None,
    previous: Snapshot | None,
) -> Collected:
    """Every PCI function of the host.

    `holders` (None when not known) and `previous` (only a snapshot of the same boot) decide what
    may be read of sleeping functions.
    """
    names = reader.optional_names(DEVICES)
    if names is None:
        return Collected(functions=None, readings=())
    devices = _locate(reader, names)
    _find_attributes(reader, devices)
    _read_quiet(reader, devices)
    before = _by_address(previous)
    _read_waking(reader, devices, _held(devices, holders), before)
    roots = _root_paths(reader, devices)
    indexes = _vf_indexes(reader, devices)
    functions = []
    readings = []
    for device in devices:
        attributes = Attributes(
            reader=reader,
            address=device.address,
            values=device.values,
            links=device.links,
            absent=device.absent,
            link=device.link,
            awake=device.awake,
        )
        functions.append(
            pci_values.make_function(
                attributes,
                kernel=kernel,
                parent=device.parent,
                root=device.root,
                root_path=roots.get(device.root_directory, "" if device.root else None),
                reset_file=device.has("reset"),
                vfio_nodes=None if device.has("vfio-dev") is None else device.vfio_nodes,
                vf_index=indexes.get(device.address),
                before=before.get(device.address),
            )
        )
        readings.append(pci_values.make_reading(attributes))
    return Collected(functions=tuple(functions), readings=tuple(readings))


# --- where functions are -------------------------------------------------------------------------


def _locate(reader: Reader, names: Sequence[str]) -> list[_Device]:
    found: list[_Device] = []
    paths = [f"{DEVICES}/{name}" for name in names]
    for name, path, target in zip(names, paths, reader.root.link_many(paths), strict=True):
        if not is_address(name):
            reader.gap(path, "not a PCI address")
            continue
        if isinstance(target, str):
            directory = posixpath.normpath(f"{DEVICES}/{target}")
            found.append(_place(Address(name), directory))
        else:
            reader.gap(path, target)
            found.append(_Device(Address(name), path, None, "", ""))
    return found


def _place(address: Address, directory: str) -> _Device:
    """Where a function hangs, from its canonical path.

    `/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0`: the root is the innermost
    host bridge, `pci10000:e0`. The parent of a function directly below a nested host bridge (Intel
    VMD) is the function that makes that bridge, 0000:00:0e.0, so that the chain of devfns that an
    identity is made of passes through it and stays unique on a host with several VMDs.
    """
    parts = directory.split("/")
    parent, root, root_directory = "", "", ""
    for index in range(len(parts) - 2, 0, -1):
        part = parts[index]
        if not parent and is_address(part):
            parent = part
        elif not root and _HOST_BRIDGE.fullmatch(part):
            root, root_directory = part, "/".join(parts[: index + 1])
        if parent and root:
            break
    known = Address(parent) if root else None
    return _Device(address, directory, known, root, root_directory)


def _root_paths(reader: Reader, devices: Iterable[_Device]) -> dict[str, str | None]:
    """ACPI path by host bridge directory; "" where the platform gives none (VMD, device tree)."""
    directories = sorted({d.root_directory for d in devices if d.root_directory})
    paths = reader.optional_texts([f"{d}/firmware_node/path" for d in directories])
    return dict(zip(directories, paths, strict=True))


def _vf_indexes(reader: Reader, devices: Iterable[_Device]) -> dict[Address, int]:
    """VF number by the VF's address, from the links `virtfnN` of physical functions."""
    rows = [
        (f"{device.directory}/{name}", int(name[6:]))
        for device in devices
        for name in device.names or ()
        if name.startswith("virtfn") and name[6:].isdecimal()
    ]
    found: dict[Address, int] = {}
    if rows:
        names = reader.link_names([path for path, _ in rows])
        for (_, index), name in zip(rows, names, strict=True):
            if name:
                found[Address(name)] = index
    return found


# --- which attributes there are ------------------------------------------------------------------


def _find_attributes(reader: Reader, devices: Sequence[_Device]) -> None:
    """Which attributes each function has, and which it is known not to have."""
    root = reader.root
    captured: set[str] = set()
    listings = root.list_many([device.directory for device in devices])
    for device, names in zip(devices, listings, strict=True):
        if isinstance(names, OSError):
            reader.gap(f"{DEVICES}/{device.address}", names)
        else:
            device.names = frozenset(names)
            captured |= device.names
    asked = frozenset(captured & _ASKED)
    required = [name for name in _REQUIRED if name in captured]
    partly = False
    for device in devices:
        if device.names is None:
            continue
        if root.live or root.authoritative(f"{device.directory}/{_NO_SUCH}"):
            device.absent, device.required = _ASKED - device.names, _REQUIRED
        else:
            device.absent, device.required = asked - device.names, required
            partly = True
    if partly:
        for name in sorted(_MATTERS - captured):
            path = f"{DEVICES}/*/{name}"
            reader.gap(path, "not captured for any function", f"ls -ld {path}")


# --- reading -------------------------------------------------------------------------------------


def _read_quiet(reader: Reader, devices: Sequence[_Device]) -> None:
    """What neither wakes a device nor its parents."""
    reads: list[tuple[_Device, str]] = []
    links: list[tuple[_Device, str]] = []
    lists: list[_Device] = []
    for device in devices:
        names = device.names
        if names is None:
            continue
        reads += [(device, n) for n in device.required]
        reads += [(device, n) for n in _OPTIONAL if n in names]
        links += [(device, n) for n in _LINKS if n in names]
        if "vfio-dev" in names:
            lists.append(device)
    _read(reader, reads)
    targets = reader.root.link_many([f"{device.directory}/{name}" for device, name in links])
    for (device, name), target in zip(links, targets, strict=True):
        device.links[name] = target
    nodes = reader.root.list_many([f"{device.directory}/vfio-dev" for device in lists])
    for device, found in zip(lists, nodes, strict=True):
        device.vfio_nodes = found
    _judge_sleep(reader, devices)


def _judge_sleep(reader: Reader, devices: Sequence[_Device]) -> None:
    """Asleep is D1 to D3cold; `unknown`, the state of what no driver touched, needs a second look.

    What is in D0 is not asked for its runtime status.
    """
    unclear = [d for d in devices if d.names and "power" in d.names and d.state(_POWER) != b"D0"]
    _read(reader, [(device, _STATUS) for device in unclear])
    for device in unclear:
        if isinstance(device.values[_STATUS], NotCaptured):
            del device.values[_STATUS]  # a reading that nothing stands on
        asleep = device.state(_POWER) in _ASLEEP or device.state(_STATUS) == b"suspended"
        device.awake = not asleep


def _read(reader: Reader, wanted: Sequence[tuple[_Device, str]]) -> None:
    contents = reader.root.read_many([f"{device.directory}/{name}" for device, name in wanted])
    for (device, name), content in zip(wanted, contents, strict=True):
        device.values[name] = content


def _read_waking(
    reader: Reader,
    devices: Sequence[_Device],
    held: dict[Address, str],
    before: dict[Address, PciFunction],
) -> None:
    """Config space and link attributes, where that disturbs nobody."""
    live = reader.root.live
    allowed: list[_Device] = []
    for device in devices:
        if device.names is None:
            continue
        if live and not device.awake:
            known = before.get(device.address)
            if known is not None and known.config is not None:
                continue
            holder = held.get(device.address)
            if holder is not None:
                reader.gap(
                    f"{DEVICES}/{device.address}/config",
                    f"asleep and {holder}: reading its config space would wake it",
                )
                continue
        allowed.append(device)
    _read(reader, [(d, "config") for d in allowed if d.names and "config" in d.names])
    if live:
        # one reading of all ones may be a device that was just coming up (facts: Reading)
        _read(reader, [(d, "config") for d in allowed if d.awake and _is_dead(d)])
    reads: list[tuple[_Device, str]] = []
    for device in allowed:
        config = device.values.get("config")
        device.link = parse_link(config) if isinstance(config, bytes) else None
        if device.link is None:
            # without privilege config ends before the link registers, and the kernel tells
            wanted = (*_MAX_LINK, *_CURRENT_LINK) if device.awake else _MAX_LINK
            reads += [(device, n) for n in wanted if device.names and n in device.names]
    _read(reader, reads)


def _is_dead(device: _Device) -> bool:
    config = device.values.get("config")
    return isinstance(config, bytes) and bool(config) and not config.strip(b"\xff")


def _held(devices: Iterable[_Device], holders: tuple[Holder, ...] | None) -> dict[Address, str]:
    """Who holds, or may hold, each function through /dev/vfio."""
    groups: dict[str, Holder] = {}
    nodes: dict[str, Holder] = {}
    for holder in holders or ():
        match = _HELD_NODE.fullmatch(holder.path)
        if match is not None and match[1] is not None:
            groups[match[1]] = holder
        elif match is not None:
            nodes[match[2]] = holder
    found: dict[Address, str] = {}
    for device in devices:
        group = device.links.get("iommu_group")
        by_group = groups.get(posixpath.basename(group)) if isinstance(group, str) else None
        vfio_nodes = device.vfio_nodes if isinstance(device.vfio_nodes, list) else []
        by_node = next((nodes[name] for name in vfio_nodes if name in nodes), None)
        who = by_group or by_node
        if who is not None:
            found[device.address] = f"held by {who.command} (pid {who.pid})"
        elif holders is None and _is_vfio_driven(device):
            found[device.address] = "perhaps held (the holders of /dev/vfio are not known)"
    return found


def _is_vfio_driven(device: _Device) -> bool:
    driver = device.links.get("driver")
    return bool(device.vfio_nodes) or (isinstance(driver, str) and "vfio" in driver)


def _by_address(previous: Snapshot | None) -> dict[Address, PciFunction]:
    if previous is None:
        return {}
    return {f.address: f for f in previous.facts.functions or ()}
