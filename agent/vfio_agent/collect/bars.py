"""The BARs of a function from its `resource` file: a line each, start, end and flags.

It must never drop a line that it does not understand.
"""

from __future__ import annotations

import re
from functools import lru_cache

from vfio_contract.model import Bar

_BAR = re.compile(rb"0x([0-9a-fA-F]{1,16}) 0x([0-9a-fA-F]{1,16}) 0x([0-9a-fA-F]{1,16})")
_EMPTY_BAR = b"0x0000000000000000 0x0000000000000000 0x0000000000000000"


@lru_cache(maxsize=1024)
def parse_bars(data: bytes) -> tuple[Bar, ...] | bytes:
    """The lines that are in use, or the first line that is none.

    Source: Linux drivers/pci/pci-sysfs.c, resource_show.
    """
    if not data.strip():
        return b""
    found: list[Bar] = []
    for index, line in enumerate(data.splitlines()):
        if line == _EMPTY_BAR:
            continue
        match = _BAR.fullmatch(line)
        if match is None:
            return line or b"?"
        start, end, flags = (int(part, 16) for part in match.groups())
        if start or end or flags:
            size = end - start + 1 if end >= start and end else 0
            found.append(Bar(index=index, start=start, size_bytes=size, flags=flags))
    return tuple(found)
