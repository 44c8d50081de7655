"""IOMMU groups and IOMMU units as sysfs shows them.

A group's number is only where it is this boot; members and type are the evidence. An empty
directory is `()`, a proof that there are none; a directory that a capture lacks is None. This
module must never leave out a group that it could not read completely.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.root import ManyBytes
from vfio_contract.model import IommuGroup, ReservedRegion

GROUPS = "/sys/kernel/iommu_groups"
UNITS = "/sys/class/iommu"

_REGION = re.compile(r"0x([0-9a-fA-F]{1,16}) 0x([0-9a-fA-F]{1,16}) (\S+)")
_FILES = ("name", "type", "reserved_regions")


def collect_iommu_units(reader: Reader) -> tuple[str, ...] | None:
    """Names in /sys/class/iommu (`dmar0`, `ivhd0`, `smmu3.0x...`)."""
    return reader.optional_names(UNITS)


def collect_groups(reader: Reader) -> tuple[IommuGroup, ...] | None:
    """All groups by number.

    `name` is "" where the kernel gave none, `type` "" on kernels without the file (before 5.11).
    In a directory that somebody copied an attribute that no group has was not captured: None.
    """
    names = reader.optional_names(GROUPS)
    if names is None:
        return None
    numbers: list[int] = []
    for name in names:
        if name.isascii() and name.isdecimal() and len(name) <= 9:
            numbers.append(int(name))
        else:
            reader.gap(f"{GROUPS}/{name}", "not a group number")
    numbers.sort()
    contents = {
        name: reader.root.read_many([f"{GROUPS}/{number}/{name}" for number in numbers])
        for name in _FILES
    }
    members = reader.root.list_many([f"{GROUPS}/{number}/devices" for number in numbers])
    captured = {name for name in _FILES if any(isinstance(c, bytes) for c in contents[name])}
    groups: list[IommuGroup] = []
    for index, number in enumerate(numbers):
        found = members[index]
        if isinstance(found, OSError):
            reader.gap(f"{GROUPS}/{number}/devices", found)
            found = []
        texts = {
            name: _text(
                reader, f"{GROUPS}/{number}/{name}", contents[name], index, name in captured
            )
            for name in _FILES
        }
        groups.append(
            IommuGroup(
                number=number,
                name=texts["name"],
                type=texts["type"],
                members=tuple(found),
                reserved=_regions(reader, number, texts["reserved_regions"]),
            )
        )
    return tuple(groups)


def _text(reader: Reader, path: str, contents: ManyBytes, index: int, captured: bool) -> str | None:
    content = contents[index]
    if isinstance(content, bytes):
        return decode(content)
    if isinstance(content, FileNotFoundError):
        return ""
    if content.errno == 0:
        if captured:
            return ""  # other groups have it, so this one has none
        name = path.rpartition("/")[2]
        pattern = f"{GROUPS}/*/{name}"
        reader.gap(pattern, "not captured for any group", f"grep . {pattern}")
        return None
    reader.gap(path, content)
    return None


def _regions(reader: Reader, number: int, text: str | None) -> tuple[ReservedRegion, ...] | None:
    if text is None:
        return None
    found: list[ReservedRegion] = []
    for line in text.splitlines():
        match = _REGION.fullmatch(line.strip())
        if match is None:
            path = f"{GROUPS}/{number}/reserved_regions"
            reader.gap(path, f"not a reserved region: {line[:80]!r}")
            return None
        found.append(ReservedRegion(int(match[1], 16), int(match[2], 16), match[3]))
    return tuple(found)
