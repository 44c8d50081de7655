"""Hands on slots and on the PCI tree: power, remove, rescan, and waiting for what follows."""

from __future__ import annotations

import os
import time
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
SLOTS = Path("/sys/bus/pci/slots")
# An attention button is waited out for 5 s, then the link and the driver; all slower when emulated.
LIMIT_S = 60


def below(*, port: str) -> list[str]:
    """The functions directly below a bridge."""
    return sorted(path.name for path in (DEVICES / port).glob("????:??:??.?"))


def await_below(*, port: str, count: int) -> list[str]:
    """The functions below a bridge as soon as there are `count`, each with its driver bound.

    TimeoutError after LIMIT_S seconds.
    """
    end = time.monotonic() + LIMIT_S
    while len(found := below(port=port)) != count or not all(_is_settled(a) for a in found):
        if time.monotonic() > end:
            raise TimeoutError(f"below {port} after {LIMIT_S} s: {found}")
        time.sleep(0.1)
    return found


def _is_settled(address: str) -> bool:
    # `enable` and the driver follow the function by some milliseconds: added is not yet probed.
    return (DEVICES / address / "driver").exists() or (DEVICES / address / "iommu_group").exists()


def group_of(*, address: str) -> str:
    """The number of the function's IOMMU group; "" for none."""
    link = DEVICES / address / "iommu_group"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def override_of(*, address: str) -> str:
    """The function's driver_override; "" for none."""
    text = (DEVICES / address / "driver_override").read_text().strip()
    return "" if text == "(null)" else text


def slot_of(*, address: str) -> str:
    """The name of the hot-plug slot whose address is this function's; "" for none."""
    for path in SLOTS.iterdir():
        if (path / "address").read_text().strip() == address.rpartition(".")[0]:
            return path.name
    return ""


def switch(*, slot: str, power: bool) -> None:
    """Switch a slot's power, as an operator's button does; back when the kernel is done."""
    (SLOTS / slot / "power").write_text("1" if power else "0")


def remove(*, address: str) -> None:
    """Take a function out of the kernel's tree; the hardware stays."""
    (DEVICES / address / "remove").write_text("1")


def rescan() -> None:
    """Look for what is there and not in the tree."""
    Path("/sys/bus/pci/rescan").write_text("1")
