"""Pasted values put where a recorded host has none: only gaps are filled, nothing is overruled.

The ground is a recorder's work and the paste a person's, so what the ground knows stays. A function
that the ground does not have is not added: its inventory is whole.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, TypeVar

from vfio_contract.model import Facts, Gap, PciFunction, Readings, Snapshot

Value = TypeVar("Value", Facts, Readings, PciFunction)

_OWN = frozenset({"gaps", "names", "collector", "live", "privileged", "host", "functions"})


def fill(ground: Snapshot, paste: Snapshot) -> Snapshot:
    """The ground with what it lacked, and without the gaps that are closed by it."""
    facts = _fill(ground.facts, paste.facts)
    for name in ("kernel", "firmware", "cpu"):
        facts = replace(
            facts, **{name: _fill_any(getattr(ground.facts, name), getattr(paste.facts, name))}
        )
    facts = replace(facts, functions=_fill_functions(ground.facts, paste.facts))
    readings = _fill(ground.readings, paste.readings)
    theirs, ours = paste.readings.kernel_log, ground.readings.kernel_log
    if theirs is not None and theirs.complete and (ours is None or not ours.complete):
        readings = replace(readings, kernel_log=theirs)
    return Snapshot(facts, replace(readings, gaps=_join_gaps(ground, paste)))


def _fill(ground: Value, paste: Value) -> Value:
    # a value of the same class comes back, which its field-by-field copy cannot say
    return _fill_any(ground, paste)  # type: ignore[no-any-return]


def _fill_any(ground: Any, paste: Any) -> Any:
    changes = {
        f.name: getattr(paste, f.name)
        for f in dataclasses.fields(ground)
        if f.name not in _OWN
        and getattr(ground, f.name) is None
        and getattr(paste, f.name) is not None
    }
    return replace(ground, **changes) if changes else ground


def _fill_functions(ground: Facts, paste: Facts) -> tuple[PciFunction, ...] | None:
    if ground.functions is None:
        return paste.functions
    rows = {f.address: f for f in paste.functions or ()}
    # another device at the address is another host's, or another time's: it says nothing
    return tuple(
        _fill(f, rows[f.address]) if f.address in rows and _is_same(f, rows[f.address]) else f
        for f in ground.functions
    )


def _is_same(one: PciFunction, other: PciFunction) -> bool:
    pairs = ((one.vendor, other.vendor), (one.device, other.device))
    return all(a is None or b is None or a == b for a, b in pairs)


def _join_gaps(ground: Snapshot, paste: Snapshot) -> tuple[Gap, ...]:
    """What both lack; and what the paste itself says of contradictions."""
    lacking = {gap.path for gap in paste.readings.gaps}
    kept = [g for g in ground.readings.gaps if g.path in lacking or not _is_pasteable(g.path)]
    said = [g for g in paste.readings.gaps if g.path == "--from"]
    return (*kept, *said)


def _is_pasteable(path: str) -> bool:
    return path in ("/dmesg", "/proc/cmdline", "/proc/cpuinfo", "/proc/interrupts", "/proc/modules")
