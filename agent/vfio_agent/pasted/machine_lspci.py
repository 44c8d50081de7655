"""`lspci -mm` and `lspci -vmm`, whose rows are for programs, as the rows shown to people.

Everything that reads lspci then reads these too. A row or block that may be cut stays as it is,
and so is not recognised. Source: lspci(8), Machine readable output.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vfio_agent.pasted.recognise import ADDRESS, Text

_ROW = re.compile(
    rf'({ADDRESS}) "([^"]{{1,200}})" "([^"]{{1,300}})" "([^"]{{1,300}})"'
    r'(?: -r([0-9a-f]{2}))?(?: -p([0-9a-f]{2}))?(?: "([^"]{0,300})" "([^"]{0,300})")?$'
)
_SLOT = re.compile(rf"Slot:\t({ADDRESS})$")
_TAG = re.compile(r"([A-Z]\w{1,20}):\t(.*)$")
_ENDING = re.compile(r"^(.*?) ?\[?([0-9a-f]{4})\]?$")
_TAGS = re.compile(
    "Class|Vendor|Device|SVendor|SDevice|PhySlot|Rev|ProgIf|Driver|Module|NUMANode|IOMMUGroup|DTNode"
)


def rewrite_rows(text: Text) -> Text:
    """The text with such rows as plain ones; the same number of lines."""
    if not any(line.startswith("Slot:\t") or '" "' in line for line in text.lines):
        return text
    lines = list(text.lines)
    place = 0
    while place < len(lines):
        if '" "' in lines[place]:
            lines[place] = _rewrite_row(lines[place])
        elif _SLOT.match(lines[place]):
            end = place + 1
            while end < len(lines) and _is_tag(lines[end]):
                end += 1
            if end < len(lines) or not text.open_end:
                lines[place:end] = _rewrite_block(lines[place:end])
            place = end - 1
        place += 1
    return replace(text, lines=tuple(lines))


def _is_tag(line: str) -> bool:
    match = _TAG.match(line)
    return match is not None and _TAGS.fullmatch(match[1]) is not None


def _rewrite_row(line: str) -> str:
    match = _ROW.match(line)
    if match is None:
        return line
    address, kind, vendor, device, revision, interface, _, _ = match.groups()
    return _header(address, kind, vendor, device, revision or "", interface or "")


def _rewrite_block(lines: Sequence[str]) -> list[str]:
    """A header, the rows that are known, and as many rows without meaning as are left over."""
    values: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":\t")
        values.setdefault(name, value)
    made = [
        _header(
            values["Slot"],
            values.get("Class", ""),
            values.get("Vendor", ""),
            values.get("Device", ""),
            values.get("Rev", ""),
            values.get("ProgIf", ""),
        )
    ]
    sub_vendor, sub_device = _split(values.get("SVendor", "")), _split(values.get("SDevice", ""))
    if sub_vendor[1] and sub_device[1]:
        made.append(f"\tSubsystem: {sub_device[0]} [{sub_vendor[1]}:{sub_device[1]}]")
    for name, row in (
        ("NUMANode", "NUMA node"),
        ("IOMMUGroup", "IOMMU group"),
        ("Driver", "Kernel driver in use"),
        ("Module", "Kernel modules"),
    ):
        if name in values:
            made.append(f"\t{row}: {values[name]}")
    return made + ["\t-"] * (len(lines) - len(made))


def _header(
    address: str, kind: str, vendor: str, device: str, revision: str, interface: str
) -> str:
    class_name, class_code = _split(kind)
    (maker, vendor_id), (product, device_id) = _split(vendor), _split(device)
    name = f"{maker} {product}".strip() or "device"
    if not class_name:
        # `lspci -n`: numbers alone
        return f"{address} {class_code}: {vendor_id}:{device_id}" + _tail(revision, interface)
    code = f" [{class_code}]" if class_code else ""
    ids = f" [{vendor_id}:{device_id}]" if vendor_id and device_id else ""
    return f"{address} {class_name}{code}: {name}{ids}{_tail(revision, interface)}"


def _tail(revision: str, interface: str) -> str:
    shown = f" (rev {revision})" if revision else ""
    return shown + (f" (prog-if {interface})" if interface else "")


def _split(text: str) -> tuple[str, str]:
    """(name, id) of `NVIDIA Corporation [10de]`; "" for a half that is not there."""
    match = _ENDING.match(text) if text.endswith("]") or len(text) == 4 else None
    return (text, "") if match is None else (match[1].strip(), match[2])
