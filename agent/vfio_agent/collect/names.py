"""Device names for people, from the pci.ids of the machine that this program runs on.

Never our own copy, never part of the evidence: a host without pci.ids simply shows ids. Only wanted
ids are looked up, by searching the text, because the whole file has 40,000 lines; and only what was
found is kept, because the file has 1.4 MB and is not asked for again until a device is new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

PCI_IDS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")
"""Debian's and Fedora's place; Debian's `update-pciids` writes the first."""

_LIMIT_BYTES = 16 << 20
"""The file had 1.5 MB in 2026."""

_NEXT_VENDOR = re.compile(rb"\n[^\t#\n]")
"""A vendor's part ends where a line begins with neither a tab nor a comment."""

_known: dict[str, str] = {}
"""Name by `vvvv:dddd`, "" for one that the file does not tell. For the life of the process."""


def find_names(ids: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(`vvvv:dddd`, name) of each known one, sorted; () where the machine has no pci.ids."""
    wanted = sorted(set(ids))
    new = [pair for pair in wanted if pair not in _known]
    if new:
        data = _database()
        for vendor, pairs in groupby(new, key=lambda pair: pair.partition(":")[0]):
            part = _part(data, vendor)
            _known.update((pair, _name(part, pair)) for pair in pairs)
    return tuple((pair, _known[pair]) for pair in wanted if _known[pair])


def _database() -> bytes:
    for path in PCI_IDS:
        try:
            with open(path, "rb") as file:
                return b"\n" + file.read(_LIMIT_BYTES)
        except OSError:
            # names are a courtesy; the ids stand beside them
            continue
    return b""


def _part(data: bytes, vendor: str) -> bytes:
    """A vendor's part of the file, from its name on; empty when it has none."""
    start = data.find(f"\n{vendor}  ".encode()) if len(vendor) == 4 else -1
    if start < 0:
        return b""
    following = _NEXT_VENDOR.search(data, start + 1)
    return data[start + 7 : None if following is None else following.start()]


def _name(part: bytes, pair: str) -> str:
    device = pair.partition(":")[2]
    if not part or len(device) != 4 or "?" in pair:
        return ""
    maker = _line(part, 0)
    place = part.find(f"\n\t{device}  ".encode())
    return f"{maker} [{pair}]" if place < 0 else f"{maker} {_line(part, place + 8)}"


def _line(part: bytes, start: int) -> str:
    """What is left of the line, for people."""
    return part[start:].partition(b"\n")[0].decode("utf-8", "replace").strip()
