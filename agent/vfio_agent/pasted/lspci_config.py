"""The configuration space as `lspci -vv` tells it in words, where nobody dumped its bytes.

Only what the words prove: without privilege lspci prints `<access denied>`, and `-v` alone names
capabilities without their registers, so both leave them unknown. Ids of capabilities whose names
are not known here are left out of the lists; those that any check asks for are all known. Sources:
ls-caps.c and ls-ecaps.c of pciutils 3.6 to 3.13.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from vfio_agent.collect.config_space import parse_config
from vfio_contract.model import Acs, ConfigSpace, PcieCapability, SriovCapability

_PLAIN: tuple[tuple[str, int], ...] = (
    ("Power Management", 0x01),
    ("AGP", 0x02),
    ("Vital Product Data", 0x03),
    ("Slot ID", 0x04),
    ("MSI: ", 0x05),
    ("CompactPCI hot-swap", 0x06),
    ("PCI-X", 0x07),
    ("HyperTransport", 0x08),
    ("Vendor Specific Information", 0x09),
    ("Debug port", 0x0A),
    ("Hot-plug capable", 0x0C),
    ("Subsystem", 0x0D),
    ("Secure device", 0x0F),
    ("Express", 0x10),
    ("MSI-X", 0x11),
    ("SATA HBA", 0x12),
    ("PCI Advanced Features", 0x13),
    ("Enhanced Allocation", 0x14),
)
_EXTENDED: tuple[tuple[str, int], ...] = (
    ("Advanced Error Reporting", 0x01),
    ("Virtual Channel", 0x02),
    ("Device Serial Number", 0x03),
    ("Power Budgeting", 0x04),
    ("Vendor Specific Information", 0x0B),
    ("Access Control Services", 0x0D),
    ("Alternative Routing-ID Interpretation", 0x0E),
    ("Address Translation Service", 0x0F),
    ("Single Root I/O Virtualization", 0x10),
    ("Multicast", 0x12),
    ("Page Request Interface", 0x13),
    ("Physical Resizable BAR", 0x15),
    ("Resizable BAR", 0x15),
    ("Transaction Processing Hints", 0x17),
    ("Latency Tolerance Reporting", 0x18),
    ("Secondary PCI Express", 0x19),
    ("Process Address Space ID", 0x1B),
    ("Downstream Port Containment", 0x1D),
    ("L1 PM Substates", 0x1E),
    ("Precision Time Measurement", 0x1F),
    ("Data Link Feature", 0x25),
    ("Physical Layer 16.0 GT/s", 0x26),
    ("Lane Margining at the Receiver", 0x27),
)

_CAPABILITY = re.compile(r"Capabilities: \[([0-9a-f]{2,3})(?: v\d+)?\] ?(.*)")
_NUMBERED = re.compile(r"(?:#|Capability ID 0x|Extended Capability ID 0x)([0-9a-f]{2,4})\b")
_PORTS = (
    ("Root Complex Integrated Endpoint", 9),
    ("Root Complex Event Collector", 10),
    ("PCI-Express to PCI/PCI-X Bridge", 7),
    ("PCI/PCI-X to PCI-Express Bridge", 8),
    ("Root Port", 4),
    ("Upstream Port", 5),
    ("Downstream Port", 6),
    ("Legacy Endpoint", 1),
    ("Endpoint", 0),
)
_ENDS = frozenset({0, 1, 9})
"""Of these lspci always prints FLReset, with + or -."""

_LINK = re.compile(r"LnkCap:.{0,80}?Speed ([\d.]+)GT/s,? .{0,20}?Width x(\d+)")
_STEPS = {"2.5": 1, "5": 2, "5.0": 2, "8": 3, "8.0": 3, "16": 4, "16.0": 4, "32": 5, "64": 6}
_FLR = re.compile(r"\bFLReset([+-])")
_AF = re.compile(r"AFCap:\s+TP([+-]) FLR([+-])")
_SOFT_RESET = re.compile(r"\bNoSoftRst([+-])")
_COUNT = re.compile(r"Count=(\d+)")
_SERIAL = re.compile(r"Device Serial Number ((?:[0-9a-f]{2}-){7}[0-9a-f]{2})")
_ACS = re.compile(r"ACS(Cap|Ctl):\s*(.+)")
_ACS_BITS = (
    ("SrcValid", 0x01),
    ("TransBlk", 0x02),
    ("ReqRedir", 0x04),
    ("CmpltRedir", 0x08),
    ("UpstreamFwd", 0x10),
    ("EgressCtrl", 0x20),
    ("DirectTrans", 0x40),
)
_VFS = re.compile(r"Initial VFs: (\d+), Total VFs: (\d+), Number of VFs: (\d+)")
_VF_DEVICE = re.compile(r"Device ID: ([0-9a-f]{4})")
BUSES = re.compile(
    r"Bus: primary=([0-9a-f]{2}), secondary=([0-9a-f]{2}), subordinate=([0-9a-f]{2})"
)

UNREAD = parse_config(b"")
"""Nothing is known: the base on which known fields are put."""


@cache
def _plain_header(header_type: int | None) -> ConfigSpace:
    buses = 0 if header_type == 0 else None
    return replace(UNREAD, header_type=header_type, secondary_bus=buses, subordinate_bus=buses)


def describe_header(header_type: int | None, rows: Sequence[str]) -> ConfigSpace:
    """A config space of which only the header is known, in part."""
    config = _plain_header(header_type)
    if header_type == 0:
        return config
    for row in rows:
        buses = BUSES.search(row)
        if buses is not None:
            return replace(
                config, secondary_bus=int(buses[2], 16), subordinate_bus=int(buses[3], 16)
            )
    return config


def parse_words(header_type: int | None, rows: Sequence[str]) -> ConfigSpace:
    """The rows of one whole function of `lspci -vv`; unknown where access was denied."""
    config = describe_header(header_type, rows)
    if any("<access denied>" in row for row in rows):
        return replace(config, length=64)
    parts = _split(rows)
    plain = [part for part in parts if part[0] < 0x100]
    above = [part for part in parts if part[0] >= 0x100]
    pcie = _express(plain)
    serial = _SERIAL.search("\n".join(part[1] for part in above))
    return replace(
        config,
        length=4096 if above else 256,
        capabilities=_ids(plain, _PLAIN),
        # a function may have none, or its extended space was out of reach: the words do not tell
        extended=_ids(above, _EXTENDED) if above else None if _has(plain, "Express") else (),
        pcie=pcie,
        af_flr=_af(plain),
        pm_no_soft_reset=_soft_reset(plain),
        msi=_has(plain, "MSI: "),
        msix_vectors=_vectors(plain),
        acs=_access_control(above),
        sriov=_virtual_functions(above),
        serial_number=None if serial is None else serial[1],
    )


Part = tuple[int, str, tuple[str, ...]]
"""(offset, first line after it, lines that follow) of one capability."""


def _split(rows: Sequence[str]) -> list[Part]:
    parts: list[Part] = []
    for row in rows:
        match = _CAPABILITY.search(row)
        if match is not None:
            parts.append((int(match[1], 16), match[2], ()))
        elif parts:
            offset, head, tail = parts[-1]
            if len(tail) < 200:
                parts[-1] = (offset, head, (*tail, row))
    return parts


def _ids(parts: Sequence[Part], names: Sequence[tuple[str, int]]) -> tuple[int, ...]:
    found = []
    for _, head, _ in parts:
        number = _NUMBERED.match(head)
        if number is not None:
            found.append(int(number[1], 16))
            continue
        known = next((code for name, code in names if head.startswith(name)), None)
        if known is not None:
            found.append(known)
    return tuple(found)


def _find(parts: Sequence[Part], name: str) -> Part | None:
    return next((part for part in parts if part[1].startswith(name)), None)


def _has(parts: Sequence[Part], name: str) -> bool:
    return _find(parts, name) is not None


def _express(parts: Sequence[Part]) -> PcieCapability | None:
    """None also where the words leave out what the value must say (a cut or reshaped text)."""
    part = _find(parts, "Express")
    if part is None:
        return None
    kind = next((code for name, code in _PORTS if name in part[1]), None)
    text = "\n".join(part[2])
    flr, link = _FLR.search(text), _LINK.search(text)
    if kind is None or (flr is None and kind in _ENDS):
        return None
    return PcieCapability(
        port_type=kind,
        flr=flr is not None and flr[1] == "+",
        slot_implemented="(Slot+)" in part[1],
        max_link_speed=_STEPS.get(link[1], 0) if link is not None else 0,
        max_link_width=int(link[2]) if link is not None else 0,
    )


def _af(parts: Sequence[Part]) -> bool | None:
    part = _find(parts, "PCI Advanced Features")
    found = None if part is None else _AF.search("\n".join(part[2]))
    return None if found is None else (found[1], found[2]) == ("+", "+")


def _soft_reset(parts: Sequence[Part]) -> bool | None:
    part = _find(parts, "Power Management")
    found = None if part is None else _SOFT_RESET.search("\n".join(part[2]))
    return None if found is None else found[1] == "+"


def _vectors(parts: Sequence[Part]) -> int | None:
    part = _find(parts, "MSI-X")
    found = None if part is None else _COUNT.search(part[1])
    return None if found is None else int(found[1])


def _access_control(parts: Sequence[Part]) -> Acs | None:
    part = _find(parts, "Access Control Services")
    if part is None:
        return None
    values: dict[str, int] = {}
    for row in part[2]:
        match = _ACS.search(row)
        if match is not None:
            words = set(match[2].split())
            values[match[1]] = sum(bit for name, bit in _ACS_BITS if f"{name}+" in words)
    if len(values) < 2:
        return None
    return Acs(capability=values["Cap"], control=values["Ctl"])


def _virtual_functions(parts: Sequence[Part]) -> SriovCapability | None:
    part = _find(parts, "Single Root I/O Virtualization")
    if part is None:
        return None
    text = "\n".join(part[2])
    counts, device = _VFS.search(text), _VF_DEVICE.search(text)
    if counts is None or device is None:
        return None
    return SriovCapability(
        total_vfs=int(counts[2]),
        initial_vfs=int(counts[1]),
        num_vfs=int(counts[3]),
        vf_device=int(device[1], 16),
    )
