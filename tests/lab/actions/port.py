"""A port's registers, written as somebody with setpci writes them: power for its slot, and ACS.

A slot without power is the lab's wedged card: config space answers nothing but ~0, the link seems
up, and the kernel, which was not told, waits for the function and gives up. With its power the
function is back as after a cold start, without BARs until the kernel restores them.
Source: PCI Express Base Specification, Slot Control (7.5.3.10) and ACS Control (7.7.11.3); QEMU
hw/pci/pcie.c, pcie_cap_update_power(): only a slot whose power indicator is off is unplugged too.
"""

from __future__ import annotations

import struct
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")

_CAPABILITIES, _NEXT_MASK = 0x34, 0xFC
_PCIE, _SLOT_CONTROL = 0x10, 0x18
_INDICATOR, _INDICATOR_ON, _POWER_OFF = 0x0300, 0x0100, 0x0400
_EXTENDED, _ACS, _ACS_CONTROL = 0x100, 0x000D, 0x06


def cut_power(*, port: str) -> str:
    """Take the power from the slot below this port; the slot control register afterwards."""
    at = _find_pcie(port) + _SLOT_CONTROL
    control = _read(port, at)
    return _write(port, at, control & ~_INDICATOR | _INDICATOR_ON | _POWER_OFF)


def give_power(*, port: str) -> str:
    """Give it back."""
    at = _find_pcie(port) + _SLOT_CONTROL
    return _write(port, at, (_read(port, at) | _INDICATOR) & ~_POWER_OFF)


def clear_acs(*, port: str) -> str:
    """Switch off all of the port's access control, as is done for peer-to-peer traffic; the
    register before."""
    at = _find_acs(port) + _ACS_CONTROL
    before = _read(port, at)
    _write(port, at, 0)
    return f"{before:#06x}"


def set_acs(*, port: str, control: str) -> str:
    """Write the register; what it holds afterwards."""
    return _write(port, _find_acs(port) + _ACS_CONTROL, int(control, 16))


def _find_pcie(port: str) -> int:
    at = _read(port, _CAPABILITIES) & _NEXT_MASK
    while at:
        head = _read(port, at)
        if head & 0xFF == _PCIE:
            return at
        at = head >> 8 & _NEXT_MASK
    raise ValueError(f"{port} has no PCI Express capability")


def _find_acs(port: str) -> int:
    at = _EXTENDED
    while at:
        if _read(port, at) == _ACS:
            return at
        at = _read(port, at + 2) >> 4 & 0xFFC
    raise ValueError(f"{port} has no ACS capability")


def _read(port: str, at: int) -> int:
    with (DEVICES / port / "config").open("rb", buffering=0) as file:
        file.seek(at)
        return int(struct.unpack("<H", file.read(2))[0])


def _write(port: str, at: int, value: int) -> str:
    with (DEVICES / port / "config").open("r+b", buffering=0) as file:
        file.seek(at)
        file.write(struct.pack("<H", value))
    return f"{_read(port, at):#06x}"
