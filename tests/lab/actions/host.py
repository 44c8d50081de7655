"""The guest as its owner sees it: what vfioctl says, what the kernel says, and their hands."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DEVICES = Path("/sys/bus/pci/devices")
DRIVERS = Path("/sys/bus/pci/drivers")


def vfioctl(*, arguments: list[str], limit_s: int = 100) -> dict[str, Any]:
    """Run the command line as root: {"status", "out", "err"}."""
    done = subprocess.run(
        [sys.executable, "-m", "vfio_cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def check(*, out: str) -> int:
    """`vfioctl check -o json` into a file of the share; its exit code."""
    done = vfioctl(arguments=["check", "-o", "json"])
    if not done["out"]:
        raise RuntimeError(done["err"])
    Path(out).write_text(json.dumps(json.loads(done["out"])))
    return int(done["status"])


def kernel_log(*, since: float = 0.0) -> list[str]:
    """The kernel's lines after that many seconds of its own clock."""
    text = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    lines = []
    for line in text.splitlines():
        stamp, _, rest = line.partition("] ")
        if float(stamp.strip("[ ") or 0) >= since:
            lines.append(rest)
    return lines


def kernel_time() -> float:
    """Seconds on the clock of the kernel's log."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def functions() -> list[str]:
    """The addresses of all PCI functions."""
    return sorted(path.name for path in DEVICES.iterdir())


def driver_of(*, address: str) -> str:
    """The driver's name, "" for none."""
    link = DEVICES / address / "driver"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def bind(*, address: str, driver: str = "vfio-pci") -> str:
    """Give a function to a driver, or to none with ""; the driver that it has afterwards."""
    if driver_of(address=address):
        (DEVICES / address / "driver/unbind").write_text(address)
    (DEVICES / address / "driver_override").write_text(f"{driver}\n")
    if driver:
        Path("/sys/bus/pci/drivers_probe").write_text(address)
    return driver_of(address=address)


def write(*, path: str, text: str) -> str:
    """Write a kernel file; "" or the name of the errno."""
    try:
        Path(path).write_text(text)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return ""


def read(*, path: str) -> str:
    """The text of a file."""
    return Path(path).read_text().strip()
