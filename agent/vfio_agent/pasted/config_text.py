"""Configuration that people paste: modprobe.d, /etc/default/grub, driverctl, free and meminfo.

Recognised by what the lines say. A pasted file is one of many, so it shows what was wished, never
that nothing else is configured: only intentions are taken from modprobe.d, and boot options only
from a whole /etc/default/grub. Values come from the collectors, which read the text as the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfio_agent.collect.boot_options import GRUB, collect_boot_options
from vfio_agent.collect.intents import collect_intents
from vfio_agent.collect.reader import Reader
from vfio_agent.pasted.memory_root import MemoryRoot
from vfio_agent.pasted.recognise import MODPROBE_LINE, Kind, Text
from vfio_contract.address import parse_address
from vfio_contract.intention import VFIO_DRIVERS
from vfio_contract.model import BootOptions, Intent

_GREP = re.compile(r"(/\S{1,200}?\.conf):(?:\d+:)?")
_GRUB = re.compile(r"\s*(?:export\s+)?GRUB_[A-Z_]+\+?=")
_BOTH = ("GRUB_CMDLINE_LINUX=", "GRUB_CMDLINE_LINUX_DEFAULT=")
_OVERRIDE = re.compile(
    r"([0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]) ([\w-]{1,40})(?: \[\*\])?(?: \(.*\))?$"
)
_MEMINFO = re.compile(r"[A-Z]\w{2,30}(?:\(\w+\))?:\s+\d+(?: kB)?$")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)(?:([KMGT])i?)?B?$")
_UNITS = {"K": 1, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}
_LEAST_KIB = 4 << 20
"""A total of fewer units is no host's in KiB, so that `free -m` is not read as `free`."""


@dataclass(frozen=True, slots=True)
class ConfigText:
    """What was found; `files` are by path as on the host, `left_out` (kind, reason)."""

    intents: tuple[Intent, ...] = ()
    boot_options: tuple[BootOptions, ...] | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    left_out: tuple[tuple[Kind, str], ...] = ()


def parse_config_text(text: Text, kinds: tuple[Kind, ...], *, source: str) -> ConfigText:
    """All configuration in one text; linear in it."""
    left_out: list[tuple[Kind, str]] = []
    intents: list[Intent] = []
    files: list[tuple[str, bytes]] = []
    options = None
    if Kind.MODPROBE in kinds:
        intents += _read_modprobe(text, source)
    if Kind.DRIVERCTL in kinds:
        intents += _read_overrides(text, source)
    if Kind.GRUB in kinds:
        options = _read_grub(text, source, left_out)
    if Kind.MEMINFO in kinds:
        files += _read_meminfo(text, left_out)
    if Kind.FREE in kinds and not files:
        files += _read_free(text, left_out)
    return ConfigText(tuple(dict.fromkeys(intents)), options, tuple(files), tuple(left_out))


def _read_modprobe(text: Text, source: str) -> list[Intent]:
    """`options vfio-pci ids=...`, each at the line of the paste or of the file that grep names."""
    rows: list[str] = []
    for line in text.lines:
        named = _GREP.match(line)
        body = line[named.end() :] if named is not None else line
        rows.append(body if MODPROBE_LINE.match(body) else "")
    if text.open_end and rows:
        rows[-1] = ""
    path = "/etc/modprobe.d/pasted.conf"
    root = MemoryRoot({path: ("\n".join(rows) + "\n").encode("utf-8", "replace")})
    found = collect_intents(Reader(root), None) or ()
    short = path.removeprefix("/etc/")
    return [
        Intent(i.kind, i.value, f"{source}:{i.source.removeprefix(f'{short}:')}") for i in found
    ]


def _read_overrides(text: Text, source: str) -> list[Intent]:
    found = []
    for number, line in enumerate(text.lines, start=1):
        match = _OVERRIDE.match(line)
        if match is not None and match[2] in VFIO_DRIVERS:
            found.append(Intent("driverctl", parse_address(match[1]), f"{source}:{number}"))
    return found


def _read_grub(
    text: Text, source: str, left_out: list[tuple[Kind, str]]
) -> tuple[BootOptions, ...] | None:
    rows = [line if _GRUB.match(line) else "" for line in text.lines]
    said = "\n".join(row.strip() for row in rows)
    if any(name not in said for name in _BOTH) or (text.open_end and rows[-1]):
        left_out.append((Kind.GRUB, f"not whole: paste all of it: cat {GRUB}"))
        return None
    root = MemoryRoot({GRUB: ("\n".join(rows) + "\n").encode("utf-8", "replace")})
    reader = Reader(root)
    found = collect_boot_options(reader)
    if not found or any(gap.path.startswith(f"{GRUB}:") for gap in reader.gaps):
        left_out.append((Kind.GRUB, "a value that only a shell can tell"))
        return None
    return tuple(
        BootOptions(row.loader, f"{source}:{row.source.rpartition(':')[2]}", row.options)
        for row in found
    )


def _read_meminfo(text: Text, left_out: list[tuple[Kind, str]]) -> list[tuple[str, bytes]]:
    rows = [line for line in text.lines if _MEMINFO.match(line)]
    if text.open_end and rows and rows[-1] == text.lines[-1]:
        rows.pop()
    if not any(row.startswith("MemTotal:") for row in rows):
        left_out.append((Kind.MEMINFO, "it has no MemTotal"))
        return []
    return [("/proc/meminfo", ("\n".join(rows) + "\n").encode())]


def _read_free(text: Text, left_out: list[tuple[Kind, str]]) -> list[tuple[str, bytes]]:
    for number, line in enumerate(text.lines):
        names = line.split()
        following = text.lines[number + 1] if number + 1 < len(text.lines) else ""
        if names[:3] != ["total", "used", "free"] or not following.startswith("Mem:"):
            continue
        values = dict(zip(names, map(_kib, following.split()[1:]), strict=False))
        total, available = values.get("total"), values.get("available")
        if total is None or total < _LEAST_KIB:
            left_out.append((Kind.FREE, "its unit is not shown: free -h, or cat /proc/meminfo"))
            return []
        rows = [f"MemTotal: {total} kB"]
        if available is not None:
            rows.append(f"MemAvailable: {available} kB")
        return [("/proc/meminfo", ("\n".join(rows) + "\n").encode())]
    return []


def _kib(word: str) -> int | None:
    match = _SIZE.match(word)
    return None if match is None else int(float(match[1]) * _UNITS[match[2] or "K"])
