"""Whether a config space is the function's own: sysfs as the witness.

The kernel read ids, class and header type from the same space when it found the device. Bytes that
say something else are damaged, half-written or another function's, and nothing of them is believed:
an endpoint must not leave the report because one byte makes it a bridge. Nothing here reads a file.
"""

from __future__ import annotations

import re

from vfio_contract.model import ConfigSpace

_HEX4 = re.compile(rb"\s*0x([0-9a-fA-F]{4})\s*")
_HEX6 = re.compile(rb"\s*0x([0-9a-fA-F]{6})\s*")

_NO_IDS = b"\xff\xff\xff\xff"

_PCI_BRIDGE, _CARDBUS, _SEMI_TRANSPARENT = 0x0604, 0x0607, 0x0609
_PORTS_WITH_BUS = frozenset({4, 5, 6, 7, 8})
"""PCI Express port types of bridges (PCI Express 7.5.3.2)."""


def find_stranger(data: bytes, vendor: bytes | None, device: bytes | None) -> str:
    """What tells that these bytes are another function's, "" when nothing does.

    `vendor` and `device` are the contents of the attributes. A VF's own ids read as ffff (SR-IOV
    3.4.1.1), and so do those of a function that does not answer.
    """
    own = data[:4]
    if len(own) < 4 or own == _NO_IDS:
        return ""
    found = f"{int.from_bytes(own[:2], 'little'):04x}:{int.from_bytes(own[2:], 'little'):04x}"
    said = [_HEX4.fullmatch(text or b"") for text in (vendor, device)]
    expected = ":".join(match[1].decode().lower() for match in said if match is not None)
    return "" if None in said or found == expected else f"begins with {found}, sysfs: {expected}"


def find_contradiction(config: ConfigSpace, kind: bytes | None, *, has_bus: bool | None) -> str:
    """What tells that the header type is not the function's, "" when nothing does.

    `kind` is the content of `class`, `has_bus` whether the kernel made the function a bridge, None
    where sysfs does not show that. The kernel gives no other class the header of a CardBus bridge
    (drivers/pci/probe.c, pci_setup_device). A bridge of an unusual class needs a second witness:
    what is below it, or its own PCI Express port type.
    """
    header = config.header_type
    if header is None:
        return ""
    match = _HEX6.fullmatch(kind or b"")
    code = None if match is None else int(match[1], 16) >> 8
    if header == 0:
        wrong = has_bus or code in (_PCI_BRIDGE, _CARDBUS)
    elif header == 2:
        wrong = code not in (None, _CARDBUS) or has_bus is False
    else:
        port = config.pcie is not None and config.pcie.port_type in _PORTS_WITH_BUS
        seen = code in (_PCI_BRIDGE, _SEMI_TRANSPARENT) or bool(has_bus) or port
        wrong = not seen or code == _CARDBUS or has_bus is False
    if not wrong:
        return ""
    bus = {True: "a bus below it", False: "no bus below it", None: "nothing of a bus"}[has_bus]
    shown = "?" if code is None else f"{code:04x}"
    return f"header type {header}, but sysfs shows class {shown} and {bus}"


def find_other_class(data: bytes | OSError | None, kind: bytes | None) -> str:
    """What tells that `class` and these bytes are not of one function, "" when nothing does.

    Only the base class counts: the kernel corrects programming interfaces of some devices. 00 is
    for devices older than the codes, and proves nothing.
    """
    match = _HEX6.fullmatch(kind or b"")
    if not isinstance(data, bytes) or len(data) < 0x0C or match is None or not data.strip(b"\xff"):
        return ""
    base, said = data[0x0B], int(match[1], 16) >> 16
    return (
        "" if base in (0, said) else f"base class {said:02x}, but its config space says {base:02x}"
    )
