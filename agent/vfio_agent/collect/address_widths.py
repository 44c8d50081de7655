"""How many address bits the processor and the IOMMU have.

A guest's firmware may place device memory as high as the processor could address; what lies above
the IOMMU's own width cannot be mapped for DMA. Only Intel's units tell theirs and are ever narrower
than the processor in practice. Nothing is assumed for a unit that does not tell.
"""

from __future__ import annotations

import re

from vfio_agent.collect.groups import UNITS
from vfio_agent.collect.reader import Reader
from vfio_contract.model import AddressWidths

_CPUINFO = "/proc/cpuinfo"
_PHYSICAL = re.compile(r"^address sizes\s*: ([0-9]{2}) bits physical", re.MULTILINE)
_INTEL = re.compile(r"dmar[0-9]+")
_CAPABILITY = re.compile(r"[0-9a-f]{1,16}")


def collect_address_widths(reader: Reader, units: tuple[str, ...] | None) -> AddressWidths:
    """The first processor's width, and the width of each Intel unit among `units`."""
    text = reader.text(_CPUINFO)
    match = None if text is None else _PHYSICAL.search(text)
    intel = [unit for unit in units or () if _INTEL.fullmatch(unit)]
    paths = [f"{UNITS}/{unit}/intel-iommu/cap" for unit in intel]
    widths = []
    for unit, path, cap in zip(intel, paths, reader.texts(paths), strict=True):
        if cap is None:
            continue
        if _CAPABILITY.fullmatch(cap):
            widths.append((unit, _guest_width(int(cap, 16))))
        else:
            reader.gap(path, f"not a capability register: {cap[:40]!r}")
    return AddressWidths(
        cpu_bits=None if match is None else int(match[1]),
        iommu=None if units is None or len(widths) < len(intel) else tuple(widths),
    )


def _guest_width(capability: int) -> int:
    """Maximum Guest Address Width: bits 21 to 16, plus one (VT-d, Capability Register)."""
    return (capability >> 16 & 0x3F) + 1
