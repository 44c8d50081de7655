"""From the bytes of sysfs attributes to the fields of one PCI function.

Every attribute has a shape (a hex number of so many digits, a decimal, a link to a numbered group);
content of another shape is half-written or not what it claims to be, and becomes None and a gap
that quotes it. Nothing here reads a file or raises for what a file can hold.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from vfio_agent.collect.bars import parse_bars
from vfio_agent.collect.config_space import Link, parse_config, parse_link
from vfio_agent.collect.config_witness import (
    find_contradiction,
    find_other_class,
    find_stranger,
)
from vfio_agent.collect.pci_place import DEVICES, Above
from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.root import Names
from vfio_contract.address import Address, is_address
from vfio_contract.model import (
    NO_GROUP,
    Bar,
    ConfigSpace,
    FunctionReading,
    Kernel,
    PciFunction,
)

_RESET_METHOD_SINCE = (5, 15)
"""First kernel with the attribute `reset_method` (commit d88f521da3ef)."""

_HEX2 = re.compile(rb"\s*0x([0-9a-fA-F]{2})\s*")
_HEX4 = re.compile(rb"\s*0x([0-9a-fA-F]{4})\s*")
_HEX6 = re.compile(rb"\s*0x([0-9a-fA-F]{6})\s*")
_DECIMAL = re.compile(rb"\s*(-?[0-9]{1,10})\s*")
_FLAG = re.compile(rb"\s*([01])\s*")
_TOTAL = re.compile(rb"^TOTAL_ERR_\w+ ([0-9]{1,20})$", re.MULTILINE)

_USUAL_LENGTHS = frozenset({64, 256, 4096})
_QUOTED_BYTES = 40


@lru_cache(maxsize=1024)
def _parse_number(data: bytes, shape: re.Pattern[bytes], base: int) -> int | None:
    """Kept because the functions of a host share most of their values."""
    match = shape.fullmatch(data)
    return None if match is None else int(match[1], base)


@lru_cache(maxsize=1024)
def _parse_config(data: bytes) -> tuple[ConfigSpace, Link | None]:
    """Kept because most config spaces are the same again when the host is looked at again."""
    return parse_config(data), parse_link(data)


def find_link(config: bytes | OSError | None) -> Link | None:
    """The link, where this config space was read and shows it."""
    return _parse_config(config)[1] if isinstance(config, bytes) else None


@dataclass(frozen=True, slots=True)
class Attributes:
    """What was read of one function; `absent` holds the names it is known not to have.

    `link` is what its config space says of the link, None where that does not say it. `has_bus`
    tells whether the kernel made it a bridge, None where sysfs does not show that.
    """

    reader: Reader
    address: Address
    values: Mapping[str, bytes | OSError]
    links: Mapping[str, str | OSError]
    absent: frozenset[str]
    link: Link | None
    awake: bool
    has_bus: bool | None

    def gap(self, name: str, cause: OSError | str) -> None:
        """Record that this attribute could not be read or understood."""
        self.reader.gap(f"{DEVICES}/{self.address}/{name}", cause)

    def raw(self, name: str) -> bytes | None:
        """The bytes; None when absent, not read, or unreadable (which leaves a gap)."""
        value = self.values.get(name)
        if value is None or isinstance(value, bytes):
            return value
        self.gap(name, value)
        return None

    def number(self, name: str, shape: re.Pattern[bytes], *, base: int = 10) -> int | None:
        """A number of this shape; None + gap for anything else."""
        data = self.raw(name)
        if data is None:
            return None
        value = _parse_number(data, shape, base)
        if value is None:
            self.malformed(name, data)
        return value

    def optional_number(
        self, name: str, shape: re.Pattern[bytes] = _DECIMAL, *, absent: int
    ) -> int | None:
        """Like `number`, but `absent` when the function is known not to have the attribute."""
        return absent if name in self.absent else self.number(name, shape)

    def optional_text(self, name: str) -> str | None:
        """Stripped text, "" when known to be absent; None + gap for an empty or unreadable file."""
        if name in self.absent:
            return ""
        data = self.raw(name)
        return None if data is None else decode(data)

    def link_name(self, name: str) -> str | None:
        """Last part of a link's target, "" when known to be absent."""
        if name in self.absent:
            return ""
        target = self.links.get(name)
        if isinstance(target, OSError):
            self.gap(name, target)
            return None
        return None if target is None else posixpath.basename(target)

    def exists(self, name: str) -> bool | None:
        """True when the function has the attribute at all; None when nobody knows."""
        if name in self.absent:
            return False
        return True if name in self.values or name in self.links else None

    def malformed(self, name: str, data: bytes) -> None:
        """Record content that has not the attribute's shape."""
        if not data.strip():
            self.gap(name, "empty")
            return
        shown = decode(data[:_QUOTED_BYTES])
        more = "..." if len(data) > _QUOTED_BYTES else ""
        self.gap(name, f"not what this attribute holds: {shown!r}{more}")


def make_function(
    attributes: Attributes,
    *,
    kernel: Kernel,
    above: Above,
    root_path: str | None,
    reset_file: bool | None,
    vfio_nodes: Names | OSError | None,
    vf_index: int | None,
    before: PciFunction | None,
) -> PciFunction:
    """One function's facts.

    `vfio_nodes` are the names in `vfio-dev/`, None when it is not known whether there is any.
    `before` is the same address in an earlier snapshot of this boot; what was left alone this time
    is taken from it if it is the same device.
    """
    a = attributes
    vendor = a.number("vendor", _HEX4, base=16)
    device = a.number("device", _HEX4, base=16)
    subsystem_vendor = a.number("subsystem_vendor", _HEX4, base=16)
    subsystem_device = a.number("subsystem_device", _HEX4, base=16)
    if before is not None and (
        (before.vendor, before.device, before.subsystem_vendor, before.subsystem_device)
        != (vendor, device, subsystem_vendor, subsystem_device)
    ):
        before = None
    config = _config(a, before=before)
    physfn = _physfn(a)
    if isinstance(vfio_nodes, OSError):
        a.gap("vfio-dev", vfio_nodes)
        vfio_nodes = None
    method_file, methods = _reset_methods(a, kernel)
    return PciFunction(
        address=a.address,
        parent=above.parent,
        root=above.root,
        root_path=root_path,
        vendor=vendor,
        device=device,
        subsystem_vendor=subsystem_vendor,
        subsystem_device=subsystem_device,
        class_code=_class_code(a),
        revision=a.number("revision", _HEX2, base=16),
        driver=_driver(a),
        driver_override=_driver_override(a),
        group=_group(a),
        vfio_device=None if vfio_nodes is None else bool(vfio_nodes),
        reset_method_file=method_file,
        reset_methods=methods,
        reset_file=reset_file,
        numa_node=a.optional_number("numa_node", absent=-1),
        boot_vga=_boot_vga(a),
        sriov_total_vfs=a.optional_number("sriov_totalvfs", absent=0),
        sriov_num_vfs=a.optional_number("sriov_numvfs", absent=0),
        physfn=physfn,
        vf_index=-1 if physfn == "" else vf_index if physfn else None,
        bars=_bars(a),
        max_link_speed=_link_speed(a, before),
        max_link_width=_link_width(a, before),
        config=config,
    )


def make_reading(
    attributes: Attributes, vfio_nodes: Names | OSError | None = None
) -> FunctionReading:
    """What changes about the function by itself.

    An error counter is None also where the function has no AER: nobody counted. The current link
    is None while the function sleeps, because asking would wake it. A function in D0 is not asked
    for its runtime status.
    """
    a = attributes
    return FunctionReading(
        address=a.address,
        power_state=a.optional_text("power_state"),
        runtime_status=a.optional_text("power/runtime_status"),
        link_speed=_current_link_speed(a),
        link_width=_current_link_width(a),
        aer_fatal=_total(a, "aer_dev_fatal"),
        aer_nonfatal=_total(a, "aer_dev_nonfatal"),
        aer_correctable=_total(a, "aer_dev_correctable"),
        vfio_nodes=tuple(vfio_nodes) if isinstance(vfio_nodes, list) else None,
    )


def _config(a: Attributes, *, before: PciFunction | None) -> ConfigSpace | None:
    data = a.raw("config")
    if data is None:
        return before.config if before is not None and "config" not in a.values else None
    if not data:
        a.gap("config", "empty: 0 bytes")
        return None
    config, _ = _parse_config(data)
    wrong = find_stranger(data, a.raw("vendor"), a.raw("device")) or find_contradiction(
        config, a.raw("class"), has_bus=a.has_bus
    )
    if wrong:
        a.gap("config", wrong)
        return None
    if config.dead and not a.awake:
        a.gap("config", f"all {len(data)} bytes read ff, but the function is asleep")
        return before.config if before is not None else None
    reasons = list(config.faults)
    if config.dead:
        reasons.append(f"all {len(data)} bytes read ff: the device does not answer")
    if config.length not in _USUAL_LENGTHS:
        reasons.append(f"{config.length} bytes instead of 64, 256 or 4096")
    if reasons:
        a.gap("config", "; ".join(reasons))
    return config


def _driver(a: Attributes) -> str | None:
    target = a.links.get("driver")
    if isinstance(target, str) and posixpath.basename(posixpath.dirname(target)) != "drivers":
        a.gap("driver", f"not a link to a driver: {target[:_QUOTED_BYTES]!r}")
        return None
    return a.link_name("driver")


def _class_code(a: Attributes) -> int | None:
    other = find_other_class(a.values.get("config"), a.raw("class"))
    if other:
        a.gap("class", other)
        return None
    return a.number("class", _HEX6, base=16)


def _physfn(a: Attributes) -> Address | None:
    name = a.link_name("physfn")
    if name is None:
        data = a.values.get("config")
        if "physfn" not in a.links and isinstance(data, bytes) and len(data) >= 4:
            # a VF's own ids read as ffff (SR-IOV 3.4.1.1), so one that has ids is none
            return Address("") if data[:4] != b"\xff\xff\xff\xff" else None
        return None
    if not name and _lost_its_owner(a):
        a.gap("physfn", "no such link, yet its ids read ffff as a VF's: it is being removed")
        return None
    if name and not is_address(name):
        a.gap("physfn", f"not a link to a PCI function: {name!r}")
        return None
    return Address(name)


def _lost_its_owner(a: Attributes) -> bool:
    """True for a VF that the kernel has begun to remove: `physfn` goes first (drivers/pci/iov.c).

    A VF's own ids read as ffff (SR-IOV 3.4.1.1), and nothing else that answers has such.
    """
    data = a.values.get("config")
    answers = isinstance(data, bytes) and len(data) > 4 and bool(data.strip(b"\xff"))
    return answers and isinstance(data, bytes) and data[:4] == b"\xff\xff\xff\xff"


def _group(a: Attributes) -> int | None:
    name = a.link_name("iommu_group")
    if name is None:
        return None
    if not name:
        return NO_GROUP
    if not (name.isascii() and name.isdecimal() and len(name) <= 9):
        a.gap("iommu_group", f"not a link to a numbered group: {name!r}")
        return None
    return int(name)


def _driver_override(a: Attributes) -> str | None:
    text = a.optional_text("driver_override")
    return "" if text == "(null)" else text


def _boot_vga(a: Attributes) -> bool | None:
    number = a.optional_number("boot_vga", _FLAG, absent=0)
    return None if number is None else bool(number)


def _reset_methods(a: Attributes, kernel: Kernel) -> tuple[bool | None, tuple[str, ...] | None]:
    exists = a.exists("reset_method")
    if exists:
        data = a.raw("reset_method")
        return True, None if data is None else tuple(decode(data).split())
    version = kernel.version
    if exists is False and version is not None and version >= _RESET_METHOD_SINCE:
        return False, ()
    return exists, None


def _bars(a: Attributes) -> tuple[Bar, ...] | None:
    data = a.raw("resource")
    if data is None:
        return None
    found = parse_bars(data)
    if isinstance(found, bytes):
        a.malformed("resource", found)
        return None
    return found


def _link_speed(a: Attributes, before: PciFunction | None) -> str | None:
    if a.link is not None:
        return a.link.max_speed
    text = a.optional_text("max_link_speed")
    if text is None and before is not None and "max_link_speed" not in a.values:
        return before.max_link_speed
    return text


def _link_width(a: Attributes, before: PciFunction | None) -> int | None:
    if a.link is not None:
        return a.link.max_width
    width = a.optional_number("max_link_width", absent=0)
    if width is None and before is not None and "max_link_width" not in a.values:
        return before.max_link_width
    return width


def _current_link_speed(a: Attributes) -> str | None:
    if not a.awake:
        return None
    return a.optional_text("current_link_speed") if a.link is None else a.link.speed


def _current_link_width(a: Attributes) -> int | None:
    if not a.awake:
        return None
    return a.optional_number("current_link_width", absent=0) if a.link is None else a.link.width


def _total(a: Attributes, name: str) -> int | None:
    data = a.raw(name)
    if data is None:
        return None
    match = _TOTAL.search(data)
    if match is None:
        a.malformed(name, data)
        return None
    return int(match[1])
