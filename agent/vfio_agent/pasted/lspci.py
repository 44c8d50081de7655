"""One function as `lspci` prints it: the header line and the rows below it, in every common form.

Forms: -n, -nn, -k, -v, -vv and up, -x to -xxxx, with `-D` or `-PP` addresses, and the two orders in
which loops print ids. What a form does not show is None; a row that is not there proves something
only where the form would have printed it and the function's text is whole. Ids are taken from a hex
dump only where it holds real ones (a virtual function's read as ffff).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from vfio_agent.collect.config_space import parse_config
from vfio_agent.pasted.class_names import CODES
from vfio_agent.pasted.lspci_config import BUSES, UNREAD, describe_header, parse_words
from vfio_agent.pasted.recognise import ADDRESS
from vfio_contract.address import Address, parse_address
from vfio_contract.model import ConfigSpace


class Form(IntEnum):
    """How much lspci was asked for: header lines only, `-k`, `-v`, `-vv` and more."""

    PLAIN = 0
    DRIVERS = 1
    V = 2
    VV = 3


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a function. `above` are bridges named before it (`lspci -PP`)."""

    address: Address
    above: tuple[Address, ...]
    class_code: int | None
    vendor: int | None
    device: int | None
    revision: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One function of one paste.

    `group` is None where the text shows none; `virtual` True where its name says that it is a VF.
    `hotplug` is True for a port that may reserve bus numbers for what is not there yet, `link` for
    a root or downstream port, below which is one device.
    `whole` is False where the text may end inside the function.
    """

    header: Header
    form: Form
    subsystem_vendor: int | None
    subsystem_device: int | None
    group: int | None
    driver: str | None
    numa_node: int | None
    config: ConfigSpace | None
    virtual: bool
    hotplug: bool
    link: bool
    whole: bool

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.header.address


_HEADER = re.compile(
    rf"\s{{0,32}}(?:\[R(?:ESET)?\]\s{{1,8}})?({ADDRESS}(?:/{ADDRESS}){{0,16}})\s{{1,8}}(\S.*)"
)
_IDS_FIRST = re.compile(
    rf"\s{{0,32}}\[([0-9a-f]{{4}}):([0-9a-f]{{4}})\]\s{{1,8}}(?:\[R\]\s{{1,8}})?({ADDRESS})"
    r"\s{1,8}(\S.{1,62}?)\s{2,}(.*)"
)
_NAMED = re.compile(r"([A-Z0-9][^\[\]:\"]{1,62}?)(?: \[([0-9a-f]{4})\])?: (.*)")
_NUMERIC = re.compile(r"(?:Class )?([0-9a-f]{4}): ([0-9a-f]{4}):([0-9a-f]{4})\b(.*)")
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]")
_REVISION = re.compile(r"\(rev ([0-9a-f]{2})\)")
_INTERFACE = re.compile(r"\(prog-if ([0-9a-f]{2})")
_SUBSYSTEM = re.compile(r"\s*Subsystem: (?:.{0,300}\[)?([0-9a-f]{4}):([0-9a-f]{4})\]?\s*$")
_GROUP_VV = re.compile(r"\s*IOMMU group: (\d{1,7})\s*$")
_GROUP_V = re.compile(r"\s*Flags: .{0,300}\bIOMMU group (\d{1,7})\b")
_DRIVER = re.compile(r"\s*Kernel driver in use:\s*(\S{1,64})\s*$")
_DRIVER_FORM = re.compile(r"\s*Kernel (?:driver in use|modules):")
_V_FORM = re.compile(r"\s*Flags: .{0,200}\bdevsel\b")
_VV_FORM = re.compile(r"\s*Control: I/O[+-] Mem[+-]")
_NODE = re.compile(r"\s*NUMA node: (\d{1,5})\s*$")
_HEX = re.compile(r"\s{0,32}([0-9a-f]{2,3}): ((?:[0-9a-f]{2} ){0,15}[0-9a-f]{2})\s*$")
_LINK_PORT = re.compile(r"\s*Capabilities: .{0,20}Express (?:\(v\d\) )?(?:Root|Downstream) Port\b")
_HOTPLUG = re.compile(r"\bHotPlug\+")
_VIRTUAL = re.compile(r"virtual function|\bVF\b", re.IGNORECASE)
_DEAD = "!!! Unknown header type"

_CONFIG_BYTES = 4096


def parse_header(line: str) -> Header | None:
    """The header line of a function, None for any other line."""
    first = _IDS_FIRST.match(line)
    if first is not None:
        return Header(
            address=parse_address(first[3]),
            above=(),
            class_code=_class_of(first[4].strip(), None, ""),
            vendor=int(first[1], 16),
            device=int(first[2], 16),
            revision=None,
            name=first[5].strip(),
        )
    match = _HEADER.match(line)
    if match is None:
        return None
    rest = match[2]
    numeric = _NUMERIC.match(rest)
    if numeric is not None:
        code, vendor, device, name = numeric[1], numeric[2], numeric[3], ""
        class_code = _class_of("", code, rest)
    else:
        named = _NAMED.match(rest)
        if named is None:
            return None
        class_code, name = _class_of(named[1], named[2], rest), named[3]
        ids = _IDS.findall(name)
        vendor, device = ids[-1] if ids else ("", "")
    *above, address = _addresses(match[1])
    revision = _REVISION.search(rest)
    return Header(
        address=address,
        above=tuple(above),
        class_code=class_code,
        vendor=int(vendor, 16) if vendor else None,
        device=int(device, 16) if device else None,
        revision=None if revision is None else int(revision[1], 16),
        name=name,
    )


def _addresses(path: str) -> list[Address]:
    """Of `0000:00:1c.3/08:00.0` only the first names the domain."""
    parts = path.split("/")
    domain = parts[0].split(":")[0] + ":" if parts[0].count(":") == 2 else ""
    return [parse_address(part if part.count(":") == 2 else domain + part) for part in parts]


def _class_of(name: str, code: str | None, rest: str) -> int | None:
    number = int(code, 16) if code else CODES.get(name)
    if number is None:
        return None
    interface = _INTERFACE.search(rest)
    return number << 8 | (int(interface[1], 16) if interface is not None else 0)


def form_of(rows: Sequence[str]) -> Form:
    """Which form these rows below a header show."""
    form = Form.PLAIN
    for row in rows:
        if _VV_FORM.match(row):
            return Form.VV
        if _V_FORM.match(row):
            form = Form.V
        elif form is Form.PLAIN and _DRIVER_FORM.match(row):
            form = Form.DRIVERS
    return form


def describe(header: Header, rows: Sequence[str], *, form: Form, whole: bool) -> Listed:
    """The function that these rows tell of. `form` is the paste's, for rows that are not there."""
    dump = _dump(rows)
    subsystem = _first(_SUBSYSTEM, rows)
    group = _first(_GROUP_VV, rows) or _first(_GROUP_V, rows)
    driver = _first(_DRIVER, rows)
    node = _first(_NODE, rows)
    none = "" if whole and form >= Form.DRIVERS else None
    sub_vendor, sub_device = (
        (int(subsystem[1], 16), int(subsystem[2], 16)) if subsystem is not None else (None, None)
    )
    if subsystem is None and len(dump) >= 64 and dump[0x0E] & 0x7F == 0:
        sub_vendor, sub_device = _u16(dump, 0x2C), _u16(dump, 0x2E)
    return Listed(
        header=_complete(header, dump),
        form=form,
        subsystem_vendor=sub_vendor,
        subsystem_device=sub_device,
        group=None if group is None else int(group[1]),
        driver=driver[1] if driver is not None else none,
        numa_node=None if node is None else int(node[1]),
        config=_config(header, rows, dump, form=form, whole=whole),
        virtual=_VIRTUAL.search(header.name) is not None or dump[:4] == b"\xff" * 4 != dump,
        hotplug=any(_HOTPLUG.search(row) for row in rows),
        link=any(_LINK_PORT.match(row) for row in rows),
        whole=whole,
    )


def _first(pattern: re.Pattern[str], rows: Sequence[str]) -> re.Match[str] | None:
    return next((m for row in rows if (m := pattern.match(row)) is not None), None)


def _u16(data: bytes, offset: int) -> int:
    return data[offset] | data[offset + 1] << 8


def _dump(rows: Sequence[str]) -> bytes:
    """The bytes of -x rows as far as they follow each other from zero."""
    data = bytearray()
    for row in rows:
        match = _HEX.match(row)
        if match is None:
            continue
        if int(match[1], 16) != len(data) or len(data) >= _CONFIG_BYTES:
            break
        data += bytes.fromhex(match[2])
    return bytes(data)


def _complete(header: Header, dump: bytes) -> Header:
    """Ids and class from the bytes, where the line has none and the bytes are no virtual's."""
    if len(dump) < 64 or dump[:2] in (b"\xff\xff", b"\0\0"):
        return header
    return Header(
        address=header.address,
        above=header.above,
        class_code=dump[0x0B] << 16 | dump[0x0A] << 8 | dump[0x09]
        if header.class_code is None
        else header.class_code,
        vendor=_u16(dump, 0) if header.vendor is None else header.vendor,
        device=_u16(dump, 2) if header.device is None else header.device,
        revision=dump[8] if header.revision is None else header.revision,
        name=header.name,
    )


def _config(
    header: Header, rows: Sequence[str], dump: bytes, *, form: Form, whole: bool
) -> ConfigSpace | None:
    if any(_DEAD in row for row in rows) and len(dump) < 64:
        return None  # gone, or asleep in D3cold: the text does not tell which
    if len(dump) >= 64:
        config = parse_config(dump)
        if len(dump) >= 256 or config.dead or form < Form.VV or not whole:
            return config
        words = parse_words(config.header_type, rows)
        return words if words.capabilities is not None else config
    kind = _header_type(header, rows, form=form, whole=whole)
    if form is Form.VV and whole:
        return parse_words(kind, rows)
    found = describe_header(kind, rows)
    return None if found == UNREAD else found


def _header_type(header: Header, rows: Sequence[str], *, form: Form, whole: bool) -> int | None:
    """1 where bus numbers are shown; else by class, but never for what only looks like a bridge."""
    if any(BUSES.search(row) for row in rows):
        return 2 if _sub_class(header) == 0x0607 else 1
    if form >= Form.V:
        # lspci -v prints the bus numbers of every function whose header has them
        return 0 if whole else None
    sub_class = _sub_class(header)
    if sub_class is None or sub_class == 0x0680:
        return None  # an NVSwitch says 0680 and has a bridge's header
    return {0x0604: 1, 0x0609: 1, 0x0607: 2}.get(sub_class, 0)


def _sub_class(header: Header) -> int | None:
    return None if header.class_code is None else header.class_code >> 8
