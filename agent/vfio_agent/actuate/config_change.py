"""What a reset changed in config space, and whether that is what a reset may change.

Pure: bytes before and after, raw as sysfs gives them to root. The kernel saves and restores most
of it around a reset (pci_save_state), so that what identifies a function, where its BARs are and
which capabilities it has must come back as it was. Status, power, interrupt and error registers
move by themselves. This module must never call a function that answers all ones unchanged.

Source: PCI Local Bus 3.0 (6.1), PCI Express 5.0 (7.5), Linux include/uapi/linux/pci_regs.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_BAR, _BAR_END = 0x10, 0x28
_STATUS, _CAPABILITY_LIST = 0x06, 0x10
_FIRST_POINTER = 0x34
_FIRST_EXTENDED = 0x100
_STEPS = 48
"""More capabilities than fit into 256 bytes: a list that loops ends here."""

_PM, _MSI, _PCIE, _MSIX, _AER = 0x01, 0x05, 0x10, 0x11, 0x0001

_MOVING = {
    _PM: (range(4, 8),),
    _MSI: (range(2, 24),),
    _MSIX: (range(2, 4),),
    _PCIE: (range(8, 12), range(16, 20), range(24, 36), range(40, 44), range(48, 52)),
}
"""Bytes of a capability that hold control and status: power, messages, link, errors."""

_MOVING_EXTENDED = {_AER: (range(4, 0x48),)}


class Register(StrEnum):
    """What a changed byte belongs to.

    MOVING may differ. IDENTITY (ids, class, header, subsystem), BAR and CAPABILITY (the list and
    its ids) must not. OTHER is reported and judged by nobody: vendors keep what they like there.
    """

    MOVING = "moving"
    IDENTITY = "identity"
    BAR = "bar"
    CAPABILITY = "capability"
    OTHER = "other"


BROKEN = frozenset({Register.IDENTITY, Register.BAR, Register.CAPABILITY})


@dataclass(frozen=True, slots=True)
class Change:
    """A byte that differs."""

    offset: int
    before: int
    after: int
    register: Register

    def __str__(self) -> str:
        return f"0x{self.offset:03x}: {self.before:02x} -> {self.after:02x} ({self.register})"


def is_dead(config: bytes) -> bool:
    """True when nothing but ones answers; a VF's ids alone read so."""
    return bool(config) and set(config) == {0xFF}


def compare_config(before: bytes, after: bytes) -> tuple[Change, ...]:
    """Every byte that differs, by offset; ValueError for two lengths, which compare nothing."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} bytes of config space")
    kinds = dict(_classify(before))
    return tuple(
        Change(offset, old, new, kinds.get(offset, Register.OTHER))
        for offset, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    )


def _classify(config: bytes) -> Iterator[tuple[int, Register]]:
    yield from ((o, Register.IDENTITY) for o in (*range(4), *range(8, 12), 0x0E))
    yield from ((o, Register.IDENTITY) for o in range(0x2C, 0x30))
    # command and status; cache line, latency and self test; interrupt line
    yield from ((o, Register.MOVING) for o in (*range(4, 8), 0x0C, 0x0D, 0x0F, 0x3C))
    yield from ((o, Register.BAR) for o in (*range(_BAR, _BAR_END), *range(0x30, 0x34)))
    yield (_FIRST_POINTER, Register.CAPABILITY)
    for offset, number in _capabilities(config):
        yield from ((o, Register.CAPABILITY) for o in (offset, offset + 1))
        yield from _moving(offset, _MOVING.get(number, ()))
    for offset, number in _extended(config):
        yield from ((o, Register.CAPABILITY) for o in range(offset, offset + 4))
        yield from _moving(offset, _MOVING_EXTENDED.get(number, ()))


def _moving(offset: int, ranges: tuple[range, ...]) -> Iterator[tuple[int, Register]]:
    yield from ((offset + o, Register.MOVING) for part in ranges for o in part)


def _capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    if len(config) < 0x40 or not config[_STATUS] & _CAPABILITY_LIST:
        return
    offset, steps = config[_FIRST_POINTER] & 0xFC, 0
    while 0x40 <= offset < len(config) - 1 and steps < _STEPS:
        yield offset, config[offset]
        offset, steps = config[offset + 1] & 0xFC, steps + 1


def _extended(config: bytes) -> Iterator[tuple[int, int]]:
    offset, seen = _FIRST_EXTENDED, set[int]()
    while _FIRST_EXTENDED <= offset <= len(config) - 4 and offset not in seen:
        seen.add(offset)
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header in (0, 0xFFFFFFFF):
            return
        yield offset, header & 0xFFFF
        offset = header >> 20 & 0xFFC
