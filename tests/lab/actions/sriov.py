"""Virtual functions made and taken away by writing a number, which may block.

The kernel lets nobody read or write `sriov_numvfs` while a removal waits for a VF's holder: a
process of its own writes, so that the scenario goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")

_writers: dict[str, subprocess.Popen[str]] = {}


def virtual_functions(*, address: str) -> list[str]:
    """The addresses of this physical function's VFs, in their order."""
    links = sorted(
        (DEVICES / address).glob("virtfn*"), key=lambda p: int(p.name.removeprefix("virtfn"))
    )
    return [os.path.basename(os.readlink(link)) for link in links]


def make(*, address: str, count: int) -> list[str]:
    """Ask for this many VFs and let no host driver take them; their addresses."""
    (DEVICES / address / "sriov_drivers_autoprobe").write_text("0")
    (DEVICES / address / "sriov_numvfs").write_text(str(count))
    return virtual_functions(address=address)


def begin_removal(*, address: str) -> None:
    """Write 0 in a process that may have to wait."""
    if address in _writers:
        raise RuntimeError(f"a removal of the VFs of {address} is under way")
    program = f"open({str(DEVICES / address / 'sriov_numvfs')!r}, 'w').write('0')"
    _writers[address] = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True
    )


def is_waiting(*, address: str) -> bool:
    """Whether the removal is still not done."""
    return _writers[address].poll() is None


def end_removal(*, address: str, within_s: float = 60) -> str:
    """Wait until the removal is done; what its process complained about, "" for nothing."""
    _, complaint = _writers.pop(address).communicate(timeout=within_s)
    return complaint


def write_rule(*, address: str, count: int) -> str:
    """A udev rule that makes the VFs at every boot; its path."""
    path = Path("/etc/udev/rules.d/70-sriov.rules")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{address}", ATTR{{sriov_numvfs}}="{count}"\n'
    )
    return str(path)
