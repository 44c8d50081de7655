"""PCI addresses and the names that cross the wire.

What an address looks like is decided here once: always with its domain, lower case, and a domain
that may be longer than four hex digits (`10000:e1:00.0` behind Intel VMD). This module must never
guess a missing domain for evidence; `parse_address` completes the short form a person types.
"""

import re
from functools import lru_cache
from typing import NewType

Address = NewType("Address", str)
"""`DDDD[D...]:BB:DD.F`, lower-case hex, domain always present. Source: Linux `pci_name()`."""

Identity = NewType("Identity", str)
"""What a function is across renumbering; see `vfio_contract.identity`."""

NodeName = NewType("NodeName", str)
VmName = NewType("VmName", str)

_FULL = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_SHORT = re.compile(r"([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_address(text: str) -> bool:
    """True for a full lower-case address with its domain."""
    return _FULL.fullmatch(text) is not None


def parse_address(text: str) -> Address:
    """The address a person typed; `01:00.0` means domain 0000. ValueError names what is wrong."""
    lowered = text.strip().lower()
    if _SHORT.fullmatch(lowered):
        lowered = f"0000:{lowered}"
    if not _FULL.fullmatch(lowered):
        raise ValueError(f"not a PCI address: {text!r} (expected like 0000:01:00.0)")
    return Address(lowered)


@lru_cache(1 << 14)
def address_key(address: str) -> tuple[int, int, int, int]:
    """(domain, bus, device, function) as numbers, for sorting as `lspci` does.

    Kept for as many as the hosts of a fleet have in common: each is asked for five times a host.
    """
    match = _FULL.fullmatch(address)
    if match is None:
        raise ValueError(f"not a PCI address: {address!r}")
    domain, bus, device, function = (int(part, 16) for part in match.groups())
    return domain, bus, device, function


def slot_of(address: Address) -> str:
    """The address without its function number: `0000:01:00`."""
    return address.rpartition(".")[0]


def bus_of(address: Address) -> str:
    """Domain and bus: `0000:01`."""
    return address.rpartition(":")[0]


def devfn_of(address: Address) -> str:
    """Device and function on its bus: `00.0`; what survives a renumbering of buses."""
    return address.rpartition(":")[2]


def function_number(address: Address) -> int:
    """The function within its slot, 0 to 7."""
    return int(address[-1])


def check_name(text: str, *, field: str) -> str:
    """A node or VM name, or ValueError that names the field and the rule (facts: safety, Trust)."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{field} {text!r} is not a valid name: use 1 to 63 of a-z 0-9 . _ - "
            "and begin with a letter or digit"
        )
    return text
