"""Whether a host's journal and the cluster hold the same resets of a function.

Both are documents of `vfioctl device history -o json` (`history`), one asked on the host itself and
one with NODE. What the two may differ in is how they class it and what runs: the cluster learns
that with the next look. They may never differ in an attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EVIDENCE = 256
"""Characters of a line that the cluster keeps."""

_COUNTS = ("attempts", "failures", "unobserved", "durations")


def compare_ends(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What differs between the host's history and the cluster's, a line each; [] for nothing."""
    found = [
        f"{name}: {here[name]!r} on the host, {there[name]!r} in the cluster"
        for name in ("identity",)
        if here[name] != there[name]
    ]
    ours = {row["firmware"]: row for row in here["tuples"]}
    theirs = {row["firmware"]: row for row in there["tuples"]}
    for firmware in sorted({*ours, *theirs}):
        one, other = ours.get(firmware), theirs.get(firmware)
        if one is None or other is None:
            where = "the host" if other is None else "the cluster"
            found.append(f"{firmware}: only {where} has it")
            continue
        for name in _COUNTS:
            if one[name] != other[name]:
                found.append(f"{firmware}: {name}: {one[name]!r} here, {other[name]!r} there")
        rows, others = ([_attempt(a) for a in tuple_["newest"]] for tuple_ in (one, other))
        if rows != others:
            found.append(f"{firmware}: attempts: {rows} here, {others} there")
    return found


def _attempt(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("boot_id", "method", "outcome", "address", "duration_ms", "told_at_ms")
    return (*(row[name] for name in names), row["evidence"][:EVIDENCE])
