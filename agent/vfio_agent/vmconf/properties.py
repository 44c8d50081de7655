"""The small languages inside VM configurations: property strings, switches, sizes.

Proxmox and QEMU both write `value,key=value,...`; QEMU doubles a comma to mean one. Total: what
does not fit is kept as it stands.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"([0-9]{1,18})\s*([a-zA-Z]{0,5})")
_ON = frozenset({"1", "on", "yes", "true", "y"})
_OFF = frozenset({"0", "off", "no", "false", "n"})
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}

Properties = tuple[tuple[str, str], ...]


def split_properties(text: str, *, first: str) -> Properties:
    """(key, value) pairs in order; a leading word without `=` gets the key `first`.

    Later words without `=` get the value "". `,,` is one comma of a value.
    """
    found: list[tuple[str, str]] = []
    for number, part in enumerate(_split_commas(text)):
        key, equals, value = part.partition("=")
        if not equals:
            if part:
                found.append((first, part) if number == 0 else (part, ""))
            continue
        found.append((key.strip(), value))
    return tuple(found)


def _split_commas(text: str) -> list[str]:
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def find_property(properties: Properties, *keys: str) -> str:
    """The value of the last property of one of these names, "" when there is none."""
    for key, value in reversed(properties):
        if key in keys:
            return value
    return ""


def parse_switch(text: str) -> bool | None:
    """True, False, or None for what is neither."""
    lowered = text.strip().lower()
    if lowered in _ON:
        return True
    return False if lowered in _OFF else None


def parse_size(text: str, *, unit: str) -> int | None:
    """Bytes of `4096`, `16G`, `219136 KiB`; a bare number counts `unit` (`M`). None for no size.

    Powers of 1024, as QEMU and Proxmox count; libvirt's `KB` (1000) is distinguished from `KiB`.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    number, suffix = int(match[1]), (match[2] or unit).lower()
    if suffix in ("bytes", "byte"):
        return number
    if len(suffix) == 2 and suffix.endswith("b") and suffix[0] in _UNITS:
        return int(number * 1000 ** (_UNITS[suffix[0]] // 10))
    shift = _UNITS.get(suffix.removesuffix("ib"))
    return None if shift is None else number << shift
