"""Where PCI functions hang: from sysfs links to canonical directories, parents and host bridges.

Nothing here reads an attribute, and nothing is guessed where a link cannot be read.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from vfio_agent.collect.reader import Reader
from vfio_contract.address import Address, is_address

DEVICES = "/sys/bus/pci/devices"

_HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_USUAL_TARGET = "../../../devices/"


@dataclass(frozen=True, slots=True)
class Above:
    """What is above a function. `parent` is None when that is not known, "" for a host bridge.

    `root` is the host bridge's name, `root_directory` its place; both "" when not known.
    """

    parent: Address | None
    root: str
    root_directory: str


UNKNOWN = Above(parent=None, root="", root_directory="")


def locate_functions(reader: Reader, names: tuple[str, ...]) -> list[tuple[Address, str, Above]]:
    """(address, canonical directory, what is above) of each of these names that is a function.

    A function whose link cannot be followed keeps its place in /sys/bus/pci/devices, with a gap.
    """
    found: list[tuple[Address, str, Above]] = []
    known: dict[str, Above] = {}
    paths = [f"{DEVICES}/{name}" for name in names]
    for name, path, target in zip(names, paths, reader.root.link_many(paths), strict=True):
        if not is_address(name):
            reader.gap(path, "not a PCI address")
            continue
        if not isinstance(target, str):
            reader.gap(path, target)
            found.append((Address(name), path, UNKNOWN))
            continue
        directory = _resolve(target)
        folder = posixpath.dirname(directory)
        if folder not in known:
            known[folder] = find_above(folder)
        found.append((Address(name), directory, known[folder]))
    return found


def find_above(folder: str) -> Above:
    """What is above the functions in a canonical directory.

    `/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0`: the root is the innermost host bridge,
    `pci10000:e0`. The parent of a function directly below a nested host bridge (Intel VMD) is the
    function that makes that bridge, 0000:00:0e.0, so that the chain of devfns that an identity is
    made of passes through it and stays unique on a host with several VMDs.
    """
    parts = folder.split("/")
    parent, root, root_directory = "", "", ""
    for index in range(len(parts) - 1, 0, -1):
        part = parts[index]
        if not parent and is_address(part):
            parent = part
        elif not root and _HOST_BRIDGE.fullmatch(part):
            root, root_directory = part, "/".join(parts[: index + 1])
    return Above(Address(parent), root, root_directory) if root else UNKNOWN


def _resolve(target: str) -> str:
    """The canonical path of a link in /sys/bus/pci/devices."""
    if target.startswith(_USUAL_TARGET + "pci") and "/." not in target[len(_USUAL_TARGET) :]:
        return f"/sys/devices/{target[len(_USUAL_TARGET) :]}"
    return posixpath.normpath(f"{DEVICES}/{target}")
