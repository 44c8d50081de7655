"""Huge pages of every size, on the whole host and on each NUMA node.

A count that could not be read leaves the row out with a gap; a host without huge pages has none.
Source: Linux Documentation/admin-guide/mm/hugetlbpage.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vfio_agent.collect.reader import Reader
from vfio_contract.model import HugePages

HOST = "/sys/kernel/mm/hugepages"
NODES = "/sys/devices/system/node"

_SIZE = re.compile(r"hugepages-([0-9]{1,12})kB")
_NODE = re.compile(r"node([0-9]{1,4})")


def collect_hugepages(reader: Reader) -> tuple[HugePages, ...] | None:
    """Rows by size and node; None when the host's own counts could not be read."""
    folders = _folders(reader, HOST, -1)
    if folders is None:
        return None
    for name in _nodes(reader):
        node = int(name.removeprefix("node"))
        folders += _folders(reader, f"{NODES}/{name}/hugepages", node) or []
    files = ("nr_hugepages", "free_hugepages", "resv_hugepages")
    texts = iter(
        reader.optional_texts([f"{path}/{name}" for path, _, _ in folders for name in files])
    )
    found: list[HugePages] = []
    for path, size, node in folders:
        total, free, reserved = (_count(next(texts)) for _ in files)
        if total is None or free is None:
            reader.gap(path, "the number of huge pages could not be read", f"grep . {path}/*")
            if node < 0:
                return None
            continue
        found.append(HugePages(size, node, total, free, reserved))
    return tuple(sorted(found, key=lambda row: (row.size_bytes, row.node)))


def _folders(reader: Reader, top: str, node: int) -> list[tuple[str, int, int]] | None:
    names = reader.optional_names(top)
    if names is None:
        return None
    matches = [(name, _SIZE.fullmatch(name)) for name in names]
    return [(f"{top}/{name}", int(m[1]) << 10, node) for name, m in matches if m is not None]


def _nodes(reader: Reader) -> Iterator[str]:
    for name in reader.optional_names(NODES) or ():
        if _NODE.fullmatch(name):
            yield name


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None
