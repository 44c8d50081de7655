"""PCI configuration space, parsed by us from the bytes of sysfs `config`.

Pure: bytes of any length in, a `ConfigSpace` out; nothing here raises or reads. Only what the bytes
prove is stated: a 64-byte read proves no capability absent, a 256-byte read of a PCIe function no
extended one. Broken lists (loops, pointers into the header, all ones) end the walk and are named in
`faults`. Ids are never taken from here: a virtual function's read as ffff (facts: Reading).
Sources: include/uapi/linux/pci_regs.h; PCI Express Base Specification chapter 7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct

from vfio_agent.collect.attribute_reads import (
    ACS,
    DSN,
    EXTENDED_BYTES,
    FULL_BYTES,
    MAX_BARS,
    PCIE,
    PCIX,
    PLAIN_BYTES,
    REBAR,
    SRIOV,
    Found,
    walk_plain,
)
from vfio_contract.model import (
    Acs,
    ConfigSpace,
    PcieCapability,
    ResizableBar,
    SriovCapability,
)
from vfio_contract.quirks import has_wide_acs

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from

# ids of capabilities
_PM, _MSI, _MSIX, _AF = 0x01, 0x05, 0x11, 0x13

_LINKED = frozenset({0, 1, 4, 5, 6, 7, 8})
"""Port types with link registers (drivers/pci/access.c, pcie_cap_has_lnkctl); not 9 and 10."""

_PCIE1_BYTES, _PCIE2_BYTES = 0x14, 0x30
"""Of the capability up to and with LnkSta, which version 1 has, and LnkCap2, which came with 2."""

_SPEEDS = {
    1: "2.5 GT/s PCIe",
    2: "5.0 GT/s PCIe",
    3: "8.0 GT/s PCIe",
    4: "16.0 GT/s PCIe",
    5: "32.0 GT/s PCIe",
    6: "64.0 GT/s PCIe",
}
"""As sysfs prints them (drivers/pci/probe.c, pci_speed_string)."""


@dataclass(frozen=True, slots=True)
class Link:
    """What sysfs shows in max_link_speed, max_link_width, current_link_speed and _width."""

    max_speed: str
    max_width: int
    speed: str
    width: int


_HEADER_TYPES = frozenset({0, 1, 2})
"""Endpoint, PCI bridge, CardBus bridge (include/uapi/linux/pci_regs.h)."""

_ENDPOINT_PORTS = frozenset({0, 1, 9, 10})
"""Port types without a bus below them (PCI Express 7.5.3.2). A bridge is never assigned, so an
endpoint must not pass for one because a byte is wrong. The reverse exists: the DMI port of Intel
chipsets is a root port with header type 0."""


def parse_config(data: bytes) -> ConfigSpace:
    """What these bytes prove; `length` 0 proves nothing."""
    length = len(data)
    if length and not data.strip(b"\xff"):
        return _unknown(length, dead=True)
    if length <= 0x0E:
        return _unknown(length, dead=False)
    faults: list[str] = []
    header_type = data[0x0E] & 0x7F
    if header_type not in _HEADER_TYPES:
        # the kernel ignores such a device (pci_setup_device), so these bytes are not its own
        fault = f"header type 0x{header_type:02x} is none that exists"
        return replace(_unknown(length, dead=False), faults=(fault,))
    plain = walk_plain(data, header_type, faults)
    extended = _walk_extended(data, plain, faults)
    at = _first_offsets(plain)
    above = _first_offsets(extended)
    express = _pcie(data, at[PCIE], faults) if PCIE in at else None
    proven: int | None = header_type
    if header_type != 0 and express is not None and express.port_type in _ENDPOINT_PORTS:
        faults.append(f"header type {header_type} with PCI Express port type {express.port_type}")
        proven = None
    secondary = subordinate = None
    if header_type == 0:
        secondary = subordinate = 0
    elif length > 0x1A:
        secondary, subordinate = data[0x19], data[0x1A]
    return ConfigSpace(
        length=length,
        dead=False,
        header_type=proven,
        multifunction=bool(data[0x0E] & 0x80),
        secondary_bus=secondary,
        subordinate_bus=subordinate,
        capabilities=None if plain is None else tuple([found for found, _ in plain]),
        extended=None if extended is None else tuple([found for found, _ in extended]),
        pcie=express,
        af_flr=_af_flr(data, at[_AF], faults) if _AF in at else None,
        pm_no_soft_reset=_pm_no_soft_reset(data, at[_PM], faults) if _PM in at else None,
        msi=None if plain is None else _MSI in at,
        msix_vectors=_msix_vectors(data, at[_MSIX], faults) if _MSIX in at else None,
        acs=_acs(data, above[ACS], faults) if ACS in above else None,
        sriov=_sriov(data, above[SRIOV], faults) if SRIOV in above else None,
        serial_number=_serial_number(data, above[DSN], faults) if DSN in above else None,
        resizable=_resizable(data, extended, above.get(REBAR), faults),
        faults=tuple(faults),
    )


def parse_link(data: bytes) -> Link | None:
    """The link as sysfs would print it; None where these bytes do not hold link registers.

    Follows the kernel: the highest speed of LnkCap2, of LnkCap where that is empty
    (drivers/pci/pci.c, pcie_get_speed_cap); a code without meaning is `Unknown`.
    """
    if len(data) < PLAIN_BYTES or data[0x0E] & 0x7F not in _HEADER_TYPES:
        return None
    offset = _first_offsets(walk_plain(data, data[0x0E] & 0x7F, [])).get(PCIE)
    if offset is None or offset + _PCIE1_BYTES > PLAIN_BYTES:
        return None
    flags: int = _U16(data, offset + 2)[0]
    second = flags & 0xF > 1
    if flags >> 4 & 0xF not in _LINKED or (second and offset + _PCIE2_BYTES > PLAIN_BYTES):
        return None
    capability: int = _U32(data, offset + 0x0C)[0]
    capability2: int = _U32(data, offset + 0x2C)[0] if second else 0
    status: int = _U16(data, offset + 0x12)[0]
    if not capability:
        return None
    if capability2:
        code = (capability2 >> 1 & 0x3F).bit_length()
    else:
        code = capability & 0xF if capability & 0xF <= 2 else 0
    return Link(
        max_speed=_SPEEDS.get(code, "Unknown"),
        max_width=capability >> 4 & 0x3F,
        speed=_SPEEDS.get(status & 0xF, "Unknown"),
        width=status >> 4 & 0x3F,
    )


def _first_offsets(found: Found | None) -> dict[int, int]:
    """Offset by id; of two capabilities with the same id the first counts, as in the kernel."""
    offsets: dict[int, int] = {}
    for number, offset in found or ():
        offsets.setdefault(number, offset)
    return offsets


def _unknown(length: int, *, dead: bool) -> ConfigSpace:
    return ConfigSpace(
        length=length,
        dead=dead,
        header_type=None,
        multifunction=None,
        secondary_bus=None,
        subordinate_bus=None,
        capabilities=None,
        extended=None,
        pcie=None,
        af_flr=None,
        pm_no_soft_reset=None,
        msi=None,
        msix_vectors=None,
        acs=None,
        sriov=None,
        serial_number=None,
    )


def _walk_extended(data: bytes, plain: Found | None, faults: list[str]) -> Found | None:
    """The extended list; () for a function that cannot have one, None where it is out of reach."""
    length = len(data)
    if plain is None:
        return None
    if not any(number in (PCIE, PCIX) for number, _ in plain):
        # a broken list may hide the capability that says there is more
        return None if faults else []
    if length < PLAIN_BYTES + 4:
        only_pcix = all(number != PCIE for number, _ in plain)
        return [] if only_pcix and length == PLAIN_BYTES else None
    found: Found = []
    seen: set[int] = set()
    pointer = PLAIN_BYTES
    while pointer:
        if pointer < PLAIN_BYTES:
            faults.append(f"extended capability pointer 0x{pointer:03x} leads below 0x100")
            break
        if pointer in seen:
            faults.append(f"extended capability list loops at 0x{pointer:03x}")
            break
        if pointer + 4 > length:
            return None
        header: int = _U32(data, pointer)[0]
        if header in (0, 0xFFFFFFFF):
            if pointer != PLAIN_BYTES:
                faults.append(f"extended capability at 0x{pointer:03x} reads as {header:08x}")
            break
        seen.add(pointer)
        found.append((header & 0xFFFF, pointer))
        pointer = header >> 20 & 0xFFC
    return found


def _holds(data: bytes, offset: int, size: int, name: str, faults: list[str]) -> bool:
    limit = min(len(data), PLAIN_BYTES if offset < PLAIN_BYTES else FULL_BYTES)
    if offset + size <= limit:
        return True
    faults.append(f"{name} capability at 0x{offset:02x} is cut short")
    return False


def _pcie(data: bytes, offset: int, faults: list[str]) -> PcieCapability | None:
    if not _holds(data, offset, 0x10, "PCI Express", faults):
        return None
    flags: int = _U16(data, offset + 2)[0]
    link: int = _U32(data, offset + 0x0C)[0]
    port_type = flags >> 4 & 0xF
    linked = port_type in _LINKED
    return PcieCapability(
        port_type=port_type,
        flr=bool(data[offset + 7] & 0x10),  # DevCap bit 28
        slot_implemented=bool(flags & 0x100),
        max_link_speed=link & 0xF if linked else 0,
        max_link_width=link >> 4 & 0x3F if linked else 0,
    )


def _af_flr(data: bytes, offset: int, faults: list[str]) -> bool | None:
    """Both TP and FLR, as the kernel asks (drivers/pci/pci.c, pci_af_flr)."""
    if not _holds(data, offset, 6, "Advanced Features", faults):
        return None
    return data[offset + 3] & 0x03 == 0x03


def _pm_no_soft_reset(data: bytes, offset: int, faults: list[str]) -> bool | None:
    if not _holds(data, offset, 8, "Power Management", faults):
        return None
    return bool(data[offset + 4] & 0x08)


def _msix_vectors(data: bytes, offset: int, faults: list[str]) -> int | None:
    if not _holds(data, offset, 12, "MSI-X", faults):
        return None
    control: int = _U16(data, offset + 2)[0]
    return (control & 0x7FF) + 1


def _acs(data: bytes, offset: int, faults: list[str]) -> Acs | None:
    if not _holds(data, offset, 8, "ACS", faults):
        return None
    if has_wide_acs(_U16(data, 0)[0], _U16(data, 2)[0]):
        if not _holds(data, offset, 12, "ACS", faults):
            return None
        control: int = _U16(data, offset + 8)[0]
        return Acs(capability=_U16(data, offset + 4)[0], control=control, wide=True)
    return Acs(capability=_U16(data, offset + 4)[0], control=_U16(data, offset + 6)[0])


def _sriov(data: bytes, offset: int, faults: list[str]) -> SriovCapability | None:
    if not _holds(data, offset, EXTENDED_BYTES[SRIOV], "SR-IOV", faults):
        return None
    return SriovCapability(
        total_vfs=_U16(data, offset + 0x0E)[0],
        initial_vfs=_U16(data, offset + 0x0C)[0],
        num_vfs=_U16(data, offset + 0x10)[0],
        vf_device=_U16(data, offset + 0x1A)[0],
    )


def _resizable(
    data: bytes, extended: Found | None, offset: int | None, faults: list[str]
) -> tuple[ResizableBar, ...] | None:
    """PCI Express 7.8.6; () where the list is whole and has no such capability."""
    if offset is None:
        return None if extended is None or faults else ()
    if not _holds(data, offset, 12, "Resizable BAR", faults):
        return None
    count = min(data[offset + 8] >> 5, MAX_BARS)
    if not _holds(data, offset, 4 + 8 * count, "Resizable BAR", faults):
        return None
    found = []
    for place in range(offset + 4, offset + 4 + 8 * count, 8):
        low: int = _U32(data, place)[0]
        control: int = _U32(data, place + 4)[0]
        # sizes of 256 TiB and more are told by the upper half of the control register
        sizes = low >> 4 | (control >> 16) << 28
        found.append(ResizableBar(control & 7, 1 << 20 + (control >> 8 & 0x3F), sizes))
    return tuple(found)


def _serial_number(data: bytes, offset: int, faults: list[str]) -> str | None:
    """Most significant byte first, as lspci prints it: `00-11-22-33-44-55-66-77`."""
    if not _holds(data, offset, EXTENDED_BYTES[DSN], "Device Serial Number", faults):
        return None
    return data[offset + 4 : offset + 12][::-1].hex("-")
