"""PCI functions that carry the boot keyboard: a USB controller whose loss takes the console.

Input devices with the console's `kbd` handler count; one that does not hang below a PCI function
(PS/2, power buttons, platform devices) names none.
"""

from __future__ import annotations

import re

from vfio_agent.collect.device_path import innermost_function
from vfio_agent.collect.reader import Reader
from vfio_contract.address import Address, address_key

_DEVICES = "/proc/bus/input/devices"
_LINE = re.compile(r"[A-Z]: ")


def collect_keyboards(reader: Reader) -> tuple[Address, ...] | None:
    """By address; () when the input layer exists without such a device or does not exist at all."""
    text = reader.optional(_DEVICES)
    if text is None:
        return None
    if not _is_whole(text):
        reader.gap(_DEVICES, "half-written or damaged", f"cat {_DEVICES}")
        return None
    return parse_input_devices(text)


def _is_whole(text: str) -> bool:
    """True when every line fits and every device tells its handlers: a lost one may be the one."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block.strip()]
    return all(
        all(_LINE.match(line) for line in block)
        and any(line.startswith("H: Handlers=") for line in block)
        for block in blocks
    )


def parse_input_devices(text: str) -> tuple[Address, ...]:
    """Blocks of `H: Handlers=...` and `S: Sysfs=...` lines (drivers/input/input.c)."""
    found: set[Address] = set()
    for block in text.split("\n\n"):
        place, handlers = "", ""
        for line in block.split("\n"):
            if line.startswith("S: Sysfs="):
                place = line.removeprefix("S: Sysfs=").strip()
            elif line.startswith("H: Handlers="):
                handlers = line.removeprefix("H: Handlers=")
        function = innermost_function(place)
        if function is not None and "kbd" in handlers.split():
            found.add(function)
    return tuple(sorted(found, key=address_key))
