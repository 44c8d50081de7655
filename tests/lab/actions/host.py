"""The guest as its owner sees it: what vfioctl says, what the kernel says, and their hands."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEVICES = Path("/sys/bus/pci/devices")
DRIVERS = Path("/sys/bus/pci/drivers")


NOBODY = 65534


def vfioctl(
    *, arguments: list[str], within_s: float = 150, as_nobody: bool = False
) -> dict[str, Any]:
    """Run the command line: {"status", "out", "err"}; status None if it never ended.

    As root, or as a user who may read next to nothing.

    One that does not end is left alone: a process in an uninterruptible call cannot be killed, and
    waiting for it would take this scenario along.
    """
    if as_nobody:
        _let_others_in()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "vfio_cli.main", *arguments],
            stdout=out,
            stderr=err,
            user=NOBODY if as_nobody else None,
            group=NOBODY if as_nobody else None,
            extra_groups=[] if as_nobody else None,
        )
        try:
            status: int | None = process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = None
        out.seek(0)
        err.seek(0)
        return {"status": status, "out": out.read(), "err": err.read()}


def _let_others_in() -> None:
    """Let everyone through to Python, which may live in root's home; a matter of this overlay."""
    for path in (Path(sys.executable), Path(sys.executable).resolve()):
        for folder in path.parents:
            if not (mode := folder.stat().st_mode) & 0o001:
                folder.chmod(mode | 0o001)


def check(*, out: str, within_s: float = 150, as_nobody: bool = False) -> int | None:
    """`vfioctl check -o json` into a file of the share; its exit code, None if it never ended."""
    done = vfioctl(arguments=["check", "-o", "json"], within_s=within_s, as_nobody=as_nobody)
    if not done["out"]:
        raise RuntimeError(f"no report, status {done['status']}: {done['err']}")
    Path(out).write_text(json.dumps(json.loads(done["out"])))
    status: int | None = done["status"]
    return status


def kernel_lines() -> list[str]:
    """The kernel's lines as it wrote them: with their time stamps."""
    done = subprocess.run(["dmesg"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def kernel_log(*, since: float = 0.0) -> list[str]:
    """The kernel's lines after that many seconds of its own clock."""
    lines = []
    for line in kernel_lines():
        stamp, _, rest = line.partition("] ")
        if float(stamp.strip("[ ") or 0) >= since:
            lines.append(rest)
    return lines


def await_log(*, texts: list[str], since: float, within_s: float = 60) -> list[str]:
    """The kernel's lines after `since` that hold one of these texts, as soon as there is one.

    TimeoutError after `within_s` seconds.
    """
    end = time.monotonic() + within_s
    while not (found := [line for line in kernel_log(since=since) if _holds(line, texts)]):
        if time.monotonic() > end:
            raise TimeoutError(f"the kernel said none of {texts} within {within_s:g} s")
        time.sleep(0.2)
    return found


def _holds(line: str, texts: list[str]) -> bool:
    return any(text in line for text in texts)


def kernel_time() -> float:
    """Seconds on the clock of the kernel's log."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def endpoints() -> dict[str, str]:
    """Base class and subclass (`0200`) by address: every PCI function that has no bus below it."""
    found = {}
    for path in sorted(DEVICES.iterdir()):
        with (path / "config").open("rb") as file:
            header = file.read(15)[14] & 0x7F
        if header == 0:
            found[path.name] = (path / "class").read_text()[2:6]
    return found


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
