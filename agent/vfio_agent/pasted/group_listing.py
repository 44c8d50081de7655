"""The group listings that people paste: loops over /sys/kernel/iommu_groups in their common shapes.

One line at a time: does it open a group, name members, or tell where a function is? Shapes: `IOMMU
Group 3:` with or without the member behind it, paths of `find` and `compgen`, `ls -l` with link
targets, `ls` of the devices folders, and tables with the group in the first column. This module
must never read a sentence about a group as a listing of it: only addresses are members.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfio_agent.pasted.recognise import ADDRESS
from vfio_contract.address import Address, parse_address

MAX_GROUP = 1 << 20

_MEMBER = re.compile(r"/iommu_groups/(\d{1,7})/devices/([\w:.-]{1,64})")
_FOLDER = re.compile(r"\s*\S{0,80}/iommu_groups/(\d{1,7})(?:/devices/?)?:\s*$")
_LINK = re.compile(rf"({ADDRESS})/iommu_group -> \S{{0,80}}/iommu_groups/(\d{{1,7}})")
_READ_LINK = re.compile(
    rf"\s*\S{{0,60}}?\b({ADDRESS}):?(?: ->)?\s+(?:\.\./|/)\S{{0,80}}/iommu_groups/(\d{{1,7}})\s*$"
)
_ENTRY = re.compile(rf"\s*l[rwx-]{{9}}\S?\s.{{1,80}}\s({ADDRESS}) -> \S{{0,400}}\b\1\s*$")
"""A row of `ls -l` in a group's folder, which leads to the function of the same name."""

_PLACE = re.compile(rf"devices/(pci[0-9a-f]{{4,8}}:[0-9a-f]{{2}})((?:/{ADDRESS}){{1,32}})\b")
_HEAD = re.compile(
    r"[^\w/]{0,16}(?:iommu[ _]*)?group[ :#]{0,12}(\d{1,7})\b[\s:#=>|.-]{0,16}(.*)", re.IGNORECASE
)
_LIST_OF = re.compile(rf"\s*{ADDRESS}(?:\s+{ADDRESS}){{0,64}}\s*$")
_EACH = re.compile(ADDRESS)
_TABLE = re.compile(
    rf"(\d{{1,7}})\t({ADDRESS})\t([0-9a-f]{{4}}):([0-9a-f]{{4}})\t0x([0-9a-f]{{6}})(?:\t(.*))?$"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function hangs: its host bridge's name and the bridges down to it."""

    address: Address
    root: str
    parent: str


@dataclass(frozen=True, slots=True)
class GroupLine:
    """What one line says. `opens` is a group whose members follow, -1 for none.

    `rest` is the text behind the group's number, in which an lspci line may stand.
    """

    opens: int = -1
    members: tuple[tuple[int, str], ...] = ()
    places: tuple[Place, ...] = ()
    rest: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table with group, address, ids and class."""

    group: int
    address: Address
    vendor: int
    device: int
    class_code: int
    name: str


def parse_group_line(line: str, *, inside: int = -1) -> GroupLine | None:
    """What the line says about groups; None for nothing. `inside` is the group that is open."""
    if "iommu_group" in line:
        found = _parse_paths(line)
        if found is not None:
            return found
    if "roup" in line or "ROUP" in line:
        head = _HEAD.match(line)
        if head is not None:
            return GroupLine(opens=_number(head[1]), rest=head[2])
    entry = _ENTRY.match(line) if inside >= 0 and " -> " in line else None
    if entry is not None:
        member = (inside, parse_address(entry[1]))
        return GroupLine(members=(member,), places=tuple(_find_places(line)))
    if inside >= 0 and _LIST_OF.match(line):
        members = tuple((inside, parse_address(a)) for a in _EACH.findall(line))
        return GroupLine(members=members)
    return None


def _parse_paths(line: str) -> GroupLine | None:
    folder = _FOLDER.match(line)
    if folder is not None:
        return GroupLine(opens=_number(folder[1]))
    members = [(_number(n), _member_name(name)) for n, name in _MEMBER.findall(line)]
    members += [(_number(n), parse_address(a)) for a, n in _LINK.findall(line)]
    if not members and (read := _READ_LINK.match(line)) is not None:
        members = [(_number(read[2]), parse_address(read[1]))]
    kept = tuple(m for m in members if m[0] >= 0)
    if not kept:
        return None
    return GroupLine(members=kept, places=tuple(_find_places(line)))


def _find_places(line: str) -> list[Place]:
    found = []
    for root, chain in _PLACE.findall(line):
        parts = [parse_address(part) for part in chain.split("/") if part]
        parents: list[str] = ["", *parts]
        found += [Place(a, root, parents[i]) for i, a in enumerate(parts)]
    return found


def _member_name(text: str) -> str:
    """A PCI address in full; any other device by the name that it has."""
    try:
        return parse_address(text)
    except ValueError:
        return text


def _number(text: str) -> int:
    number = int(text)
    return number if number <= MAX_GROUP else -1


def parse_table_row(line: str) -> TableRow | None:
    """`3<TAB>0000:01:00.0<TAB>10de:1b80<TAB>0x030000<TAB>name`."""
    match = _TABLE.match(line)
    if match is None or _number(match[1]) < 0:
        return None
    return TableRow(
        group=int(match[1]),
        address=parse_address(match[2]),
        vendor=int(match[3], 16),
        device=int(match[4], 16),
        class_code=int(match[5], 16),
        name=match[6] or "",
    )
