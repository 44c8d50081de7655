"""The interrupt chips in /proc/interrupts: evidence for interrupt remapping that does not age out.

On x86 a name that begins with `IR-` or `vIR-` is remapped; Arm shows its GIC and ITS. Counts and
device names are left out, so that the same host gives the same names.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import Reader

_INTERRUPTS = "/proc/interrupts"
_LIMIT_BYTES = 16 << 20
"""One line a vector with one column a processor: 512 processors and 2,000 vectors need 11 MiB."""

_DEVICE = re.compile(r"-(?:[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|[0-9a-f]{8,}\.\S+)$")
"""What kernels since 6.2 append to the chip of a device's own MSI domain."""

_FLOW = re.compile(r"-(?:edge|level|fasteoi)$")
"""What kernels before 3.19 append."""


def collect_interrupt_chips(reader: Reader) -> tuple[str, ...] | None:
    """Distinct chip names in order of the alphabet, per-device suffixes removed."""
    data = reader.data(_INTERRUPTS, limit=_LIMIT_BYTES)
    if data is None:
        return None
    return parse_chips(data.decode("utf-8", "backslashreplace"))


def parse_chips(text: str) -> tuple[str, ...]:
    """The chip column; its place follows from the number of processors in the first line."""
    lines = text.split("\n")
    processors = sum(1 for word in lines[0].split() if word.startswith("CPU"))
    found: set[str] = set()
    for line in lines[1:]:
        label, colon, rest = line.partition(":")
        if not colon or not label.strip().isdigit():
            continue
        words = rest.split(None, processors + 1)
        if len(words) > processors and words[processors] != "None":
            found.add(_FLOW.sub("", _DEVICE.sub("", words[processors])))
    return tuple(sorted(found))
