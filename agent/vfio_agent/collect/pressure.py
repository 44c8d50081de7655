"""Pressure stall information: how much of the time tasks waited for cpu, io and memory.

/proc/pressure is there since Linux 4.20 and may be switched off (psi=0); then its folder is missing
or its files cannot be read. Source: Linux Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import Reader
from vfio_contract.model import Pressure

FOLDER = "/proc/pressure"
RESOURCES = ("cpu", "io", "memory")

_LINE = re.compile(
    r"(some|full) avg10=(\d+\.\d+) avg60=(\d+\.\d+) avg300=(\d+\.\d+) total=\d+", re.ASCII
)


def collect_pressure(reader: Reader) -> tuple[Pressure, ...] | None:
    """A row for each resource; () when the kernel does not measure it."""
    names = reader.optional_names(FOLDER)
    if names is None:
        return None
    found: list[Pressure] = []
    for resource in RESOURCES:
        if resource not in names:
            continue
        path = f"{FOLDER}/{resource}"
        text = reader.text(path)
        if text is None:
            return None
        row = parse_pressure(resource, text)
        if row is None:
            reader.gap(path, f"not pressure: {text[:60]!r}")
            return None
        found.append(row)
    return tuple(found)


def parse_pressure(resource: str, text: str) -> Pressure | None:
    """One file; None for anything that is none."""
    rows: dict[str, tuple[float, float, float]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return None
        rows[match[1]] = (float(match[2]), float(match[3]), float(match[4]))
    if "some" not in rows:
        return None
    return Pressure(resource, rows["some"], rows.get("full"))
