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
from vfio_agent.collect.config_space import Link
from vfio_agent.collect.holders import HELD_NODE
from vfio_agent.collect.pci_place import DEVICES, Above, locate_functions
from vfio_agent.collect.pci_values import Attributes
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import Names, NotCaptured
from vfio_contract.address import Address
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
_LINK = (*_MAX_LINK, "current_link_speed", "current_link_width")
_ASKED = frozenset({*_OPTIONAL, *_LINKS, *_LINK, "config", "reset", "vfio-dev", "power"})

_ALL = _ASKED | frozenset(_REQUIRED)

_MATTERS = frozenset({*_REQUIRED, *_OPTIONAL[:6], *_LINKS, "config", "reset", "vfio-dev"})
"""Attributes that some check reads: not having captured one is a gap."""

_BUS_NAMES = frozenset({"pci_bus", "secondary_bus_number"})
"""What only a bridge has: its bus, and (since Linux 5.4) the bus's number."""

_BUS_NUMBER_SINCE = (5, 4)

_POWER, _STATUS = "power_state", "power/runtime_status"
_NO_SUCH = "no-such-attribute"

_VIRTUAL = re.compile(r"virtfn[0-9]{1,5}")
_ASLEEP = frozenset({b"D1", b"D2", b"D3hot", b"D3cold"})


@dataclass(frozen=True, slots=True)
class Collected:
    """All functions by address, or None when the list itself could not be read."""

    functions: tuple[PciFunction, ...] | None
    readings: tuple[FunctionReading, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What functions with the same attributes have in common.

    `names` are all attributes, `absent` those of interest that are known not to be there, `reads`
    and `links` what to read of them, `virtual` the links to virtual functions. `whole` is True when
    any name that is not there is known to be absent.
    """

    names: frozenset[str]
    absent: frozenset[str]
    reads: tuple[str, ...]
    links: tuple[str, ...]
    virtual: tuple[str, ...]
    whole: bool


_NO_SHAPE = _Shape(frozenset(), frozenset(), (), (), (), whole=False)
"""Of a function whose directory could not be listed: nothing is read, nothing is known."""


@dataclass(slots=True)
class _Device:
    """One function while it is being read. `directory` is canonical where that is known."""

    address: Address
    directory: str
    above: Above
    shape: _Shape = _NO_SHAPE
    values: dict[str, bytes | OSError] = field(default_factory=dict)
    links: dict[str, str | OSError] = field(default_factory=dict)
    vfio_nodes: Names | OSError = field(default_factory=list)
    awake: bool = True
    link: Link | None = None

    def has(self, name: str) -> bool | None:
        """Whether this function has the attribute; None when nobody knows."""
        if name in self.shape.names:
            return True
        return False if name in self.shape.absent else None

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
    devices = [_Device(*row) for row in locate_functions(reader, names)]
    _find_attributes(reader, devices)
    _read_quiet(reader, devices)
    before = _by_address(previous)
    _read_waking(reader, devices, _held(devices, holders), before)
    roots = _root_paths(reader, devices)
    indexes = _vf_indexes(reader, devices)
    # the directory of a function in which another function's lies belongs to a bridge
    above = {posixpath.dirname(device.directory) for device in devices}
    functions = []
    readings = []
    for device in devices:
        attributes = Attributes(
            reader=reader,
            address=device.address,
            values=device.values,
            links=device.links,
            absent=device.shape.absent,
            link=device.link,
            awake=device.awake,
            has_bus=device.directory in above or _shows_bus(device, kernel),
        )
        nodes = None if device.has("vfio-dev") is None else device.vfio_nodes
        functions.append(
            pci_values.make_function(
                attributes,
                kernel=kernel,
                above=device.above,
                root_path=roots.get(device.above.root_directory),
                reset_file=device.has("reset"),
                vfio_nodes=nodes,
                vf_index=indexes.get(device.address),
                before=before.get(device.address),
            )
        )
        readings.append(pci_values.make_reading(attributes, nodes))
    return Collected(functions=tuple(functions), readings=tuple(readings))


def _shows_bus(device: _Device, kernel: Kernel) -> bool | None:
    """Whether its attributes are those of a bridge; None where nobody listed them all."""
    if _BUS_NAMES & device.shape.names:
        return True
    version = kernel.version
    whole = device.shape.whole and version is not None and version >= _BUS_NUMBER_SINCE
    return False if whole else None


# --- beside the functions ----------------------------------------------------------------------


def _root_paths(reader: Reader, devices: Iterable[_Device]) -> dict[str, str | None]:
    """ACPI path by host bridge directory; "" where the platform gives none (VMD, device tree)."""
    directories = sorted({d.above.root_directory for d in devices if d.above.root})
    paths = reader.optional_texts([f"{d}/firmware_node/path" for d in directories])
    return dict(zip(directories, paths, strict=True))


def _vf_indexes(reader: Reader, devices: Iterable[_Device]) -> dict[Address, int]:
    """VF number by the VF's address, from the links `virtfnN` of physical functions."""
    rows = [
        (f"{device.directory}/{name}", int(name.removeprefix("virtfn")))
        for device in devices
        for name in device.shape.virtual
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
    listings = root.list_many([device.directory for device in devices])
    listed: list[tuple[_Device, tuple[str, ...]]] = []
    for device, names in zip(devices, listings, strict=True):
        if isinstance(names, OSError):
            reader.gap(f"{DEVICES}/{device.address}", names)
        else:
            listed.append((device, tuple(names)))
    captured = frozenset[str]().union(*{have for _, have in listed})
    shapes: dict[tuple[tuple[str, ...], bool], _Shape] = {}
    for device, have in listed:
        proof = root.live or root.authoritative(f"{device.directory}/{_NO_SUCH}")
        if (have, proof) not in shapes:
            shapes[have, proof] = _make_shape(have, _ALL if proof else captured, whole=proof)
        device.shape = shapes[have, proof]
    if not all(proof for _, proof in shapes):
        for name in sorted(_MATTERS - captured):
            path = f"{DEVICES}/*/{name}"
            reader.gap(path, "not captured for any function", f"ls -ld {path}")


def _make_shape(names: Sequence[str], known: frozenset[str], *, whole: bool) -> _Shape:
    """`known` are the attributes whose absence from `names` is one.

    Of the required ones an absent one is read too, so that its error becomes the gap.
    """
    have = frozenset(names)
    return _Shape(
        names=have,
        absent=(_ASKED & known) - have,
        reads=(*(n for n in _REQUIRED if n in known), *(n for n in _OPTIONAL if n in have)),
        links=tuple(n for n in _LINKS if n in have),
        virtual=tuple(n for n in names if _VIRTUAL.fullmatch(n)),
        whole=whole,
    )


# --- reading -------------------------------------------------------------------------------------


def _read_quiet(reader: Reader, devices: Sequence[_Device]) -> None:
    """What neither wakes a device nor its parents."""
    _read(reader, [(device, name) for device in devices for name in device.shape.reads])
    links = [(device, name) for device in devices for name in device.shape.links]
    targets = reader.root.link_many([f"{device.directory}/{name}" for device, name in links])
    for (device, name), target in zip(links, targets, strict=True):
        device.links[name] = target
    lists = [device for device in devices if "vfio-dev" in device.shape.names]
    nodes = reader.root.list_many([f"{device.directory}/vfio-dev" for device in lists])
    for device, found in zip(lists, nodes, strict=True):
        device.vfio_nodes = found
    _judge_sleep(reader, devices)


def _judge_sleep(reader: Reader, devices: Sequence[_Device]) -> None:
    """Asleep is D1 to D3cold; `unknown`, the state of what no driver touched, needs a second look.

    What is in D0 is not asked for its runtime status.
    """
    unclear = [d for d in devices if "power" in d.shape.names and d.state(_POWER) != b"D0"]
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
    _read_configs(reader, [d for d in allowed if "config" in d.shape.names])
    if live:
        # one reading of all ones may be a device that was just coming up (facts: Reading)
        _read_configs(reader, [d for d in allowed if d.awake and _is_dead(d)])
    # without privilege config ends before the link registers, and the kernel tells
    for device in allowed:
        device.link = pci_values.find_link(device.values.get("config"))
    _read(
        reader,
        [
            (device, name)
            for device in allowed
            if device.link is None
            for name in (_LINK if device.awake else _MAX_LINK)
            if name in device.shape.names
        ],
    )


def _read_configs(reader: Reader, devices: Sequence[_Device]) -> None:
    paths = [f"{device.directory}/config" for device in devices]
    for device, content in zip(devices, reader.root.read_config_many(paths), strict=True):
        device.values["config"] = content


def _is_dead(device: _Device) -> bool:
    config = device.values.get("config")
    return isinstance(config, bytes) and bool(config) and not config.strip(b"\xff")


def _held(devices: Iterable[_Device], holders: tuple[Holder, ...] | None) -> dict[Address, str]:
    """Who holds, or may hold, each function through /dev/vfio."""
    if holders == ():
        return {}
    groups: dict[str, Holder] = {}
    nodes: dict[str, Holder] = {}
    for holder in holders or ():
        match = HELD_NODE.fullmatch(holder.path)
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
