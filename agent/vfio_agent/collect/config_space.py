"""PCI configuration space, parsed by us from the bytes of sysfs `config`.

Pure: bytes of any length in, a `ConfigSpace` out; nothing here raises or reads. Only what the bytes
prove is stated: a 64-byte read proves no capability absent, a 256-byte read of a PCIe function no
extended one. Broken lists (loops, pointers into the header, all ones) end the walk and are named in
`faults`. Ids are never taken from here: a virtual function's read as ffff (facts: Reading).
Sources: include/uapi/linux/pci_regs.h; PCI Express Base Specification chapter 7.
"""

from __future__ import annotations

from struct import Struct

from vfio_contract.model import Acs, ConfigSpace, PcieCapability, SriovCapability

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_HEADER = Struct("<I").unpack_from

_HEADER_BYTES = 0x40
_PLAIN_BYTES = 0x100
_FULL_BYTES = 0x1000

# ids of capabilities
_PM, _MSI, _PCIX, _PCIE, _MSIX, _AF = 0x01, 0x05, 0x07, 0x10, 0x11, 0x13
# ids of extended capabilities
_DSN, _ACS, _SRIOV = 0x0003, 0x000D, 0x0010

_ROOT_COMPLEX_INTEGRATED = (9, 10)
"""Port types without a link: their link registers mean nothing."""

Found = list[tuple[int, int]]
"""(id, offset) of each capability in the order of the list."""


def parse_config(data: bytes) -> ConfigSpace:
    """What these bytes prove; `length` 0 proves nothing."""
    length = len(data)
    if length and not data.strip(b"\xff"):
        return _unknown(length, dead=True)
    if length <= 0x0E:
        return _unknown(length, dead=False)
    faults: list[str] = []
    header_type = data[0x0E] & 0x7F
    plain = _walk_plain(data, header_type, faults)
    extended = _walk_extended(data, plain, faults)
    # of two capabilities with the same id the first counts, as in the kernel
    at = dict(reversed(plain or ()))
    above = dict(reversed(extended or ()))
    fields = _Fields(data, faults)
    secondary = subordinate = None
    if header_type == 0:
        secondary = subordinate = 0
    elif length > 0x1A:
        secondary, subordinate = data[0x19], data[0x1A]
    return ConfigSpace(
        length=length,
        dead=False,
        header_type=header_type,
        multifunction=bool(data[0x0E] & 0x80),
        secondary_bus=secondary,
        subordinate_bus=subordinate,
        capabilities=None if plain is None else tuple(found for found, _ in plain),
        extended=None if extended is None else tuple(found for found, _ in extended),
        pcie=fields.pcie(at.get(_PCIE)),
        af_flr=fields.af_flr(at.get(_AF)),
        pm_no_soft_reset=fields.pm_no_soft_reset(at.get(_PM)),
        msi=None if plain is None else _MSI in at,
        msix_vectors=fields.msix_vectors(at.get(_MSIX)),
        acs=fields.acs(above.get(_ACS)),
        sriov=fields.sriov(above.get(_SRIOV)),
        serial_number=fields.serial_number(above.get(_DSN)),
        faults=tuple(faults),
    )


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


def _walk_plain(data: bytes, header_type: int, faults: list[str]) -> Found | None:
    """The capability list; None where the bytes end before the list does."""
    length = len(data)
    if length < _HEADER_BYTES:
        return None
    if not data[0x06] & 0x10:  # PCI_STATUS_CAP_LIST
        return []
    pointer = data[0x14 if header_type == 2 else 0x34] & 0xFC
    found: Found = []
    seen: set[int] = set()
    while pointer:
        if pointer < _HEADER_BYTES:
            faults.append(f"capability pointer 0x{pointer:02x} leads into the header")
            break
        if pointer in seen:
            faults.append(f"capability list loops at 0x{pointer:02x}")
            break
        if pointer + 2 > length:
            return None
        number = data[pointer]
        if number == 0xFF:
            faults.append(f"capability at 0x{pointer:02x} reads as ff")
            break
        seen.add(pointer)
        found.append((number, pointer))
        pointer = data[pointer + 1] & 0xFC
    return found


def _walk_extended(data: bytes, plain: Found | None, faults: list[str]) -> Found | None:
    """The extended list; () for a function that cannot have one, None where it is out of reach."""
    length = len(data)
    if plain is None:
        return None
    if not any(number in (_PCIE, _PCIX) for number, _ in plain):
        # a broken list may hide the capability that says there is more
        return None if faults else []
    if length < _PLAIN_BYTES + 4:
        only_pcix = all(number != _PCIE for number, _ in plain)
        return [] if only_pcix and length == _PLAIN_BYTES else None
    found: Found = []
    seen: set[int] = set()
    pointer = _PLAIN_BYTES
    while pointer:
        if pointer < _PLAIN_BYTES:
            faults.append(f"extended capability pointer 0x{pointer:03x} leads below 0x100")
            break
        if pointer in seen:
            faults.append(f"extended capability list loops at 0x{pointer:03x}")
            break
        if pointer + 4 > length:
            return None
        header: int = _HEADER(data, pointer)[0]
        if header in (0, 0xFFFFFFFF):
            if pointer != _PLAIN_BYTES:
                faults.append(f"extended capability at 0x{pointer:03x} reads as {header:08x}")
            break
        seen.add(pointer)
        found.append((header & 0xFFFF, pointer))
        pointer = header >> 20 & 0xFFC
    return found


class _Fields:
    """Fields of single capabilities; an offset of None (absent) gives None, a cut one a fault."""

    def __init__(self, data: bytes, faults: list[str]) -> None:
        self._data = data
        self._faults = faults

    def _holds(self, offset: int | None, size: int, name: str) -> bool:
        if offset is None:
            return False
        limit = min(len(self._data), _PLAIN_BYTES if offset < _PLAIN_BYTES else _FULL_BYTES)
        if offset + size > limit:
            self._faults.append(f"{name} capability at 0x{offset:02x} is cut short")
            return False
        return True

    def pcie(self, offset: int | None) -> PcieCapability | None:
        if offset is None or not self._holds(offset, 0x10, "PCI Express"):
            return None
        flags: int = _U16(self._data, offset + 2)[0]
        link: int = _U32(self._data, offset + 0x0C)[0]
        port_type = flags >> 4 & 0xF
        linked = port_type not in _ROOT_COMPLEX_INTEGRATED
        return PcieCapability(
            port_type=port_type,
            flr=bool(_U32(self._data, offset + 4)[0] & 1 << 28),
            slot_implemented=bool(flags & 0x100),
            max_link_speed=link & 0xF if linked else 0,
            max_link_width=link >> 4 & 0x3F if linked else 0,
        )

    def af_flr(self, offset: int | None) -> bool | None:
        """Both TP and FLR, as the kernel asks (drivers/pci/pci.c, pci_af_flr)."""
        if offset is None or not self._holds(offset, 6, "Advanced Features"):
            return None
        return self._data[offset + 3] & 0x03 == 0x03

    def pm_no_soft_reset(self, offset: int | None) -> bool | None:
        if offset is None or not self._holds(offset, 8, "Power Management"):
            return None
        return bool(self._data[offset + 4] & 0x08)

    def msix_vectors(self, offset: int | None) -> int | None:
        if offset is None or not self._holds(offset, 12, "MSI-X"):
            return None
        control: int = _U16(self._data, offset + 2)[0]
        return (control & 0x7FF) + 1

    def acs(self, offset: int | None) -> Acs | None:
        if offset is None or not self._holds(offset, 8, "ACS"):
            return None
        return Acs(
            capability=_U16(self._data, offset + 4)[0], control=_U16(self._data, offset + 6)[0]
        )

    def sriov(self, offset: int | None) -> SriovCapability | None:
        if offset is None or not self._holds(offset, 0x40, "SR-IOV"):
            return None
        return SriovCapability(
            total_vfs=_U16(self._data, offset + 0x0E)[0],
            initial_vfs=_U16(self._data, offset + 0x0C)[0],
            num_vfs=_U16(self._data, offset + 0x10)[0],
            vf_device=_U16(self._data, offset + 0x1A)[0],
        )

    def serial_number(self, offset: int | None) -> str | None:
        """Most significant byte first, as lspci prints it: `00-11-22-33-44-55-66-77`."""
        if offset is None or not self._holds(offset, 12, "Device Serial Number"):
            return None
        return self._data[offset + 4 : offset + 12][::-1].hex("-")
