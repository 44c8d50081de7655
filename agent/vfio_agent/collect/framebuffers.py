"""Which address ranges the boot framebuffer still holds: /proc/iomem.

Without privilege the kernel shows every address as 0, and such a file says nothing.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import REMEDY_ROOT, Reader
from vfio_contract.model import ConfigLine

IOMEM = "/proc/iomem"

_ROW = re.compile(r"([0-9a-f]{8,16})-([0-9a-f]{8,16}) : (.*)")
_NAMES = ("bootfb", "efifb", "simplefb", "simple-framebuffer", "vesafb", "simpledrm", "efidrmfb")


def collect_framebuffers(reader: Reader) -> tuple[ConfigLine, ...] | None:
    """Ranges as `start-end` in hex with the holder's name; None when addresses were not shown."""
    text = reader.text(IOMEM)
    if text is None:
        return None
    rows = [m for m in (_ROW.fullmatch(line.strip()) for line in text.splitlines()) if m]
    if not any(int(m[2], 16) for m in rows):
        reader.gap(IOMEM, "addresses are hidden", REMEDY_ROOT if reader.root.live else "")
        return None
    return tuple(
        ConfigLine(f"{m[1]}-{m[2]}", m[3]) for m in rows if m[3].lower().startswith(_NAMES)
    )
