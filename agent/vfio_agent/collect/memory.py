"""Memory as /proc/meminfo counts it: all, available, and huge pages of the default size.

A line that is missing is not zero: it is None.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import Reader
from vfio_contract.model import Memory

_COUNT = re.compile(r"[0-9]{1,20}")

_MEMINFO = "/proc/meminfo"


def collect_memory_total(reader: Reader) -> int | None:
    """Bytes of memory that the kernel manages."""
    text = reader.text(_MEMINFO)
    return None if text is None else parse_meminfo(text).get("MemTotal")


def collect_memory(reader: Reader) -> Memory | None:
    """What moves: available bytes and huge pages."""
    text = reader.text(_MEMINFO)
    if text is None:
        return None
    values = parse_meminfo(text)
    return Memory(
        available_bytes=values.get("MemAvailable"),
        hugepages_total=values.get("HugePages_Total"),
        hugepages_free=values.get("HugePages_Free"),
        hugepage_size_bytes=values.get("Hugepagesize"),
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """Value by name; `kB` are KiB and become bytes, the rest are counts."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        name, colon, rest = line.partition(":")
        words = rest.split()
        if not colon or not words or not _COUNT.fullmatch(words[0]):
            continue
        unit = 1024 if words[1:] == ["kB"] else 1
        found[name.strip()] = int(words[0]) * unit
    return found
