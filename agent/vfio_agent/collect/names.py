"""Device names for people, from the pci.ids of the machine that this program runs on.

Never our own copy, never part of the evidence: a host without pci.ids simply shows ids. Only wanted
ids are looked up, by searching the text, because the whole file has 40,000 lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

PCI_IDS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")
"""Debian's and Fedora's place; Debian's `update-pciids` writes the first."""

_LIMIT_BYTES = 16 << 20
"""The file had 1.5 MB in 2026."""

_NEXT_VENDOR = re.compile(rb"\n[^\t#\n]")
"""A vendor's part ends where a line begins with neither a tab nor a comment."""


def find_names(ids: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(`vvvv:dddd`, name) of each known one, sorted; () where the machine has no pci.ids."""
    found = ((pair, _name(pair)) for pair in sorted(set(ids)))
    return tuple((pair, name) for pair, name in found if name)


@cache
def _database() -> bytes:
    for path in PCI_IDS:
        try:
            with open(path, "rb") as file:
                return b"\n" + file.read(_LIMIT_BYTES)
        except OSError:
            # names are a courtesy; the ids stand beside them
            continue
    return b""


@cache
def _vendor(vendor: str) -> tuple[str, int, int]:
    """(name, start, end) of a vendor's part of the file; start -1 when it has none."""
    data = _database()
    start = data.find(f"\n{vendor}  ".encode())
    if start < 0:
        return "", -1, -1
    name_end = data.find(b"\n", start + 1)
    end = _NEXT_VENDOR.search(data, start + 1)
    return _decode(data[start + 7 : name_end]), start, len(data) if end is None else end.start()


@cache
def _name(pair: str) -> str:
    vendor, _, device = pair.partition(":")
    if len(vendor) != 4 or len(device) != 4 or "?" in pair:
        return ""
    maker, start, end = _vendor(vendor)
    if start < 0:
        return ""
    data = _database()
    place = data.find(f"\n\t{device}  ".encode(), start, end)
    if place < 0:
        return f"{maker} [{pair}]"
    line_end = data.find(b"\n", place + 1)
    return f"{maker} {_decode(data[place + 8 : line_end if line_end >= 0 else None])}"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()
