"""The kernel's side of a write into sysfs, for a tree of files: `pci_kernel.py TOP PATH TEXT`.

It takes the place of the process that writes into the real one: prints the errno, and moves the
links and files of the tree as drivers/base/bus.c and drivers/pci/pci-sysfs.c would. What fits which
function is in `TOP/fits` (lines `ADDRESS DRIVER`). Where `TOP/script` says `before 3`, the
third call kills who asked and has no effect; `hang ADDRESS` never answers an unbind of it, and
`TOP/hanging` has the pid of who waits.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

NULL = "(null)\n"


def answer(top: Path, path: Path, text: str) -> int:
    """The errno of this write, 0 for one that had its effect."""
    devices, drivers = top / "sys/bus/pci/devices", top / "sys/bus/pci/drivers"
    if path.name == "driver_override":
        path.write_text(text if text.strip() else NULL)
        return 0
    if path.name == "remove_id":
        return errno.ENODEV
    link = devices / text / "driver"
    if path.name == "unbind":
        if not link.is_symlink():
            return errno.ENODEV
        link.unlink()
        return 0
    driver = path.parent.name if path.name == "bind" else _match(top, text)
    if link.is_symlink():
        return errno.EBUSY if path.name == "bind" else 0
    if driver and driver == _match(top, text) and (drivers / driver).is_dir():
        link.symlink_to(drivers / driver)
        return 0
    return errno.ENODEV if path.name == "bind" else 0


def _match(top: Path, address: str) -> str:
    override = (top / "sys/bus/pci/devices" / address / "driver_override").read_text()
    if override != NULL:
        return override.strip()
    rows = (line.split() for line in (top / "fits").read_text().splitlines())
    return next((driver for known, driver in rows if known == address), "")


def main(top: Path, path: Path, text: str) -> None:
    """One call, with whatever the script has for it."""
    calls = top / "calls"
    number = len(calls.read_text().splitlines()) + 1 if calls.exists() else 1
    with calls.open("a") as file:
        file.write(f"{path.relative_to(top)} {text.strip()}\n")
    script = top / "script"
    when, _, which = script.read_text().partition(" ") if script.exists() else ("", "", "")
    if when == "hang" and path.name == "unbind" and text == which:
        (top / "hanging").write_text(str(os.getpid()))
        signal.pause()
    if when == "before" and number == int(which):
        os.kill(os.getppid(), signal.SIGKILL)
        return
    print(answer(top, path, text))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
