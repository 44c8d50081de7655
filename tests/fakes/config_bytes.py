"""Configuration spaces made of named parts, for tests that need bytes and not a device.

Offsets follow include/uapi/linux/pci_regs.h. Nothing of the product's parser is used here: the
two must agree because both follow the specification.
"""

from __future__ import annotations

from collections.abc import Sequence


def make_config(
    *,
    size: int = 4096,
    vendor: int = 0x8086,
    device: int = 0x10D3,
    header_type: int = 0,
    multifunction: bool = False,
    buses: tuple[int, int] = (0, 0),
    plain: Sequence[tuple[int, bytes]] = (),
    extended: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """`plain` and `extended` are (id, body after the 2- or 4-byte header), linked in order."""
    data = bytearray(4096)
    data[0:4] = vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
    data[0x0E] = header_type | (0x80 if multifunction else 0)
    if header_type:
        data[0x19], data[0x1A] = buses
    if plain:
        data[0x06] |= 0x10
    link, offset = 0x14 if header_type == 2 else 0x34, 0x40
    for number, body in plain:
        data[link] = offset
        data[offset] = number
        data[offset + 2 : offset + 2 + len(body)] = body
        link = offset + 1
        offset = offset + 2 + len(body) + 3 & ~3
    offset, before = 0x100, None
    for number, body in extended:
        if before is not None:
            header = int.from_bytes(data[before : before + 4], "little") | offset << 20
            data[before : before + 4] = header.to_bytes(4, "little")
        data[offset : offset + 4] = (number | 1 << 16).to_bytes(4, "little")
        data[offset + 4 : offset + 4 + len(body)] = body
        before = offset
        offset = offset + 4 + len(body) + 3 & ~3
    return bytes(data[:size])


def pcie(
    *, port_type: int = 0, flr: bool = False, slot: bool = False, speed: int = 3, width: int = 8
) -> tuple[int, bytes]:
    """PCI Express capability, version 2, its link up at full speed (codes 1 to 6) and width."""
    flags = 2 | port_type << 4 | (0x100 if slot else 0)
    devcap = 1 << 28 if flr else 0
    body = bytearray(0x3A)
    body[0:2] = flags.to_bytes(2, "little")
    body[2:6] = devcap.to_bytes(4, "little")
    body[0x0A:0x0E] = (speed | width << 4).to_bytes(4, "little")
    body[0x10:0x12] = (speed | width << 4).to_bytes(2, "little")
    body[0x2A:0x2E] = ((1 << speed) - 1 << 1).to_bytes(4, "little")
    return 0x10, bytes(body)


def af(*, tp: bool = True, flr: bool = True) -> tuple[int, bytes]:
    """Advanced Features."""
    return 0x13, bytes((6, (1 if tp else 0) | (2 if flr else 0), 0, 0))


def pm(*, no_soft_reset: bool = False) -> tuple[int, bytes]:
    """Power Management."""
    return 0x01, bytes((3, 0, 8 if no_soft_reset else 0, 0, 0, 0))


def msix(vectors: int) -> tuple[int, bytes]:
    """MSI-X with so many vectors."""
    return 0x11, (vectors - 1).to_bytes(2, "little") + bytes(8)


def msi() -> tuple[int, bytes]:
    """MSI, 64-bit."""
    return 0x05, bytes((0x80, 0, *bytes(12)))


def acs(*, capability: int = 0x1F, control: int = 0x1D) -> tuple[int, bytes]:
    """Access Control Services."""
    return 0x0D, capability.to_bytes(2, "little") + control.to_bytes(2, "little")


def sriov(
    *, total: int = 7, initial: int = 7, enabled: int = 0, vf_device: int = 0x10CA
) -> tuple[int, bytes]:
    """SR-IOV."""
    body = bytearray(0x3C)
    body[0x08:0x0A] = initial.to_bytes(2, "little")
    body[0x0A:0x0C] = total.to_bytes(2, "little")
    body[0x0C:0x0E] = enabled.to_bytes(2, "little")
    body[0x16:0x18] = vf_device.to_bytes(2, "little")
    return 0x10, bytes(body)


def rebar(*rows: tuple[int, int, int]) -> tuple[int, bytes]:
    """Resizable BARs as (index, code of the current size, bits of the possible sizes in MiB)."""
    body = bytearray()
    for index, size, sizes in rows:
        low, high = (sizes & (1 << 28) - 1) << 4, sizes >> 28
        control = index | len(rows) << 5 | size << 8 | high << 16
        body += low.to_bytes(4, "little") + control.to_bytes(4, "little")
    return 0x15, bytes(body)


def dsn(serial: str) -> tuple[int, bytes]:
    """Device Serial Number from its lspci form, most significant byte first."""
    return 0x03, bytes.fromhex(serial.replace("-", ""))[::-1]
