"""Where someone wrote that a device is meant for passthrough (CHECKS.md, Intended devices).

modprobe options, the kernel command line, the vfio_pci module's parameter and driverctl's folder; a
`driver_override` in force is read with the function itself. This module must never guess an
intention from a class or a name, and must say which line it stands on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.root import NotCaptured
from vfio_contract.address import is_address
from vfio_contract.intention import VFIO_DRIVERS
from vfio_contract.model import Intent

MODPROBE_FOLDERS = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
"""In order of precedence: a file hides files of its name in later folders (modprobe.d(5))."""

DRIVERCTL_FOLDER = "/etc/driverctl.d"
"""One file per device, `pci-0000:01:00.0`, holding the driver's name (driverctl(8))."""

MODULE_IDS = "/sys/module/vfio_pci/parameters/ids"

_ID = re.compile(r"[0-9a-f]{1,8}(?::[0-9a-f]{1,8}){1,5}")
_QUOTED = re.compile(r'(?:[^\s"]|"[^"]*"?)+')


def collect_intents(reader: Reader, cmdline: str | None) -> tuple[Intent, ...] | None:
    """All written intentions, sorted; None when no source could be read at all.

    `cmdline` is the running kernel's command line, None when not known.
    """
    found: list[Intent] = []
    sources = [
        _from_modprobe(reader, found),
        _from_driverctl(reader, found),
        _from_module(reader, found),
    ]
    if cmdline is not None:
        sources.append(True)
        _from_cmdline(reader, cmdline, found)
    if not any(sources):
        return None
    return tuple(sorted(set(found), key=lambda i: (i.kind, i.value, i.source)))


def _from_modprobe(reader: Reader, found: list[Intent]) -> bool:
    """Options for vfio-pci; False when no folder could be read."""
    seen: set[str] = set()
    paths: list[str] = []
    readable = False
    for folder in MODPROBE_FOLDERS:
        # of the folders only /etc's absence from a capture says that something is missing
        names = _names(reader, folder, quiet=folder != MODPROBE_FOLDERS[0])
        if names is None:
            continue
        readable = True
        for name in names:
            if name.endswith(".conf") and name not in seen:
                seen.add(name)
                paths.append(f"{folder}/{name}")
    for path, data in zip(paths, reader.contents(paths), strict=True):
        # not stripped: lines are counted from the first
        for line, words in _option_lines((data or b"").decode("utf-8", "backslashreplace")):
            source = f"{path.removeprefix('/etc/')}:{line}"
            for word in words:
                name, _, value = word.partition("=")
                if name == "ids":
                    _add_ids(reader, value, source, path, found)
    return readable


def _names(reader: Reader, folder: str, *, quiet: bool) -> tuple[str, ...] | None:
    """() for a folder that is known not to exist; `quiet` leaves no gap for one not captured."""
    try:
        return tuple(reader.root.list(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        if not (quiet and isinstance(error, NotCaptured)):
            return reader.names(folder)
        return None


def _option_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, words after the module's name) of each `options vfio-pci` line."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        words = [_unquote(word) for word in _QUOTED.findall(joined + line)]
        if words[:1] == ["options"] and len(words) > 2 and _is_vfio_pci(words[1]):
            yield first, words[2:]
        joined, first = "", 0


def _unquote(word: str) -> str:
    return word.replace('"', "")


def _is_vfio_pci(module: str) -> bool:
    return module.replace("_", "-") == "vfio-pci"


def _from_cmdline(reader: Reader, cmdline: str, found: list[Intent]) -> None:
    for word in map(_unquote, _QUOTED.findall(cmdline)):
        name, _, value = word.partition("=")
        module, _, parameter = name.partition(".")
        if parameter == "ids" and _is_vfio_pci(module):
            _add_ids(reader, value, "kernel command line", "/proc/cmdline", found)


def _from_module(reader: Reader, found: list[Intent]) -> bool:
    """The module's parameter; kernels hide it (its mode is 0), so no capture lacks anything."""
    try:
        text = decode(reader.root.read(MODULE_IDS))
    except OSError:
        return False
    _add_ids(reader, text, MODULE_IDS, MODULE_IDS, found)
    return True


def _from_driverctl(reader: Reader, found: list[Intent]) -> bool:
    names = _names(reader, DRIVERCTL_FOLDER, quiet=False)
    if names is None:
        return False
    wanted = [name for name in names if is_address(name.removeprefix("pci-"))]
    paths = [f"{DRIVERCTL_FOLDER}/{name}" for name in wanted]
    for name, path, driver in zip(wanted, paths, reader.texts(paths), strict=True):
        if driver is not None and _is_vfio_driver(driver):
            source = path.removeprefix("/etc/")
            found.append(Intent("driverctl", name.removeprefix("pci-"), source))
    return True


def _is_vfio_driver(driver: str) -> bool:
    return driver in VFIO_DRIVERS or driver.endswith(("vfio-pci", "vfio_pci"))


def _add_ids(reader: Reader, value: str, source: str, path: str, found: list[Intent]) -> None:
    """`10de:2204[:svvv:sddd[:class:mask]],...` as vfio-pci reads it (vfio_pci.c, `ids`)."""
    for item in _items(value):
        if _ID.fullmatch(item):
            found.append(Intent("vfio-ids", ":".join(item.split(":")[:4]), source))
        else:
            reader.gap(path, f"not a vfio-pci id: {item[:80]!r} ({source})")


def _items(value: str) -> Iterable[str]:
    return [item for part in value.lower().split(",") if (item := part.strip())]
