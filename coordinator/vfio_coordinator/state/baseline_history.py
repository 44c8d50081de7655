"""The acceptances of a node that are kept: which one is in force, and what gives way to a new one.

Facts are kept for the newest acceptance of each firmware, so that a node which goes back to an
earlier one is compared with what was accepted there; the rows of the others tell who accepted what.
Facts are stored once for each content, however many rows name them, and go with the last that does.
Pure: what the store must do follows from the history before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from sys import intern

from vfio_contract.artifact import ArtifactError, encode
from vfio_contract.firmware import firmware_tuple
from vfio_contract.model import Facts
from vfio_coordinator.state import keys
from vfio_coordinator.state.drift import unpack_facts
from vfio_coordinator.state.model import Baseline
from vfio_coordinator.state.records import BaselineRecord
from vfio_coordinator.store.interface import (
    MAX_VALUE_BYTES,
    Compare,
    Delete,
    ModRevisionIs,
    Op,
    Put,
)

MAX_ROWS = 32
"""Acceptances of one node; the oldest without facts goes first."""

MAX_TUPLES = 8
"""Firmware tuples of one node whose facts are kept, the newest ones."""

Parts = tuple[tuple[str, str | None], ...]


def parts_of(facts: Facts) -> Parts:
    """The firmware tuple; equal texts are one object, however many nodes and rows have them."""
    return _interned(firmware_tuple(facts))


def intern_firmware(record: BaselineRecord) -> BaselineRecord:
    """The record, its firmware likewise."""
    return replace(record, firmware=_interned(record.firmware))


def _interned(parts: Parts) -> Parts:
    return tuple((name, None if text is None else intern(text)) for name, text in parts)


def is_same_firmware(one: Parts, other: Parts) -> bool:
    """True where some part is known on both sides and none that is differs."""
    both = _known_on_both(one, other)
    return bool(both) and all(text == present for text, present in both)


def is_other_firmware(one: Parts, other: Parts) -> bool:
    """True where a part that is known on both sides differs; not the opposite of the same."""
    return any(text != present for text, present in _known_on_both(one, other))


def _known_on_both(one: Parts, other: Parts) -> list[tuple[str, str]]:
    now = dict(other)
    pairs = [(text, now.get(name)) for name, text in one]
    return [(t, present) for t, present in pairs if t is not None and present is not None]


def choose(baselines: Sequence[Baseline], present: Parts) -> Baseline | None:
    """The one in force: the newest of the present firmware, else the last; None without any."""
    for baseline in reversed(baselines):
        if baseline.facts_zlib is not None and is_same_firmware(baseline.record.firmware, present):
            return baseline
    return baselines[-1] if baselines else None


def add(
    baselines: Sequence[Baseline], record: BaselineRecord, facts_zlib: bytes
) -> tuple[Baseline, ...]:
    """With one acceptance more; its number and the parts of its facts are set here."""
    rows = [_with_firmware(baseline) for baseline in baselines]
    same = next((row for row in rows if _has(row, record.digest)), None)
    chunks = len(split_chunks(facts_zlib))
    if same is not None and same.facts_zlib is not None:
        # stored already, in whichever parts it was compressed then
        facts_zlib, chunks = same.facts_zlib, same.record.chunks
    number = max((row.record.number for row in rows), default=0) + 1
    record = replace(record, number=number, chunks=chunks)
    rows.append(Baseline(record, 0, facts_zlib))
    kept: list[Parts] = []
    for index in range(len(rows) - 1, -1, -1):
        row = rows[index]
        if row.facts_zlib is None:
            continue
        if row.record.firmware in kept or not row.record.firmware or len(kept) == MAX_TUPLES:
            rows[index] = _without_facts(row)
        else:
            kept.append(row.record.firmware)
    while len(rows) > MAX_ROWS:
        rows.remove(next(row for row in rows if row.facts_zlib is None))
    return tuple(rows)


def _has(row: Baseline, digest: str) -> bool:
    return row.facts_zlib is not None and row.record.digest == digest


def _with_firmware(row: Baseline) -> Baseline:
    """One from before tuples were recorded gets its own; facts that cannot be read have none."""
    if row.record.firmware or row.facts_zlib is None:
        return row
    try:
        parts = parts_of(unpack_facts(row.facts_zlib))
    except ArtifactError:
        return row
    return replace(row, record=replace(row.record, firmware=parts))


def _without_facts(row: Baseline) -> Baseline:
    return replace(row, record=replace(row.record, chunks=0), facts_zlib=None)


def changes(
    node: str, before: Iterable[Baseline], after: Iterable[Baseline]
) -> tuple[list[Compare], list[Op], frozenset[int]]:
    """What takes the store from one history to the other, and the numbers of the rows written."""
    old = {row.record.number: row for row in before}
    new = {row.record.number: row for row in after}
    written = frozenset(
        number
        for number, row in new.items()
        if number not in old or old[number].record != row.record
    )
    compares: list[Compare] = []
    ops: list[Op] = []
    for number in sorted(written | (old.keys() - new.keys())):
        key = keys.baseline_key(node, number)
        compares.append(ModRevisionIs(key, old[number].revision if number in old else 0))
        ops.append(Put(key, encode(new[number].record)) if number in new else Delete(key))
    held, wanted = _with_facts(old.values()), _with_facts(new.values())
    for digest in sorted(wanted.keys() - held.keys()):
        parts = split_chunks(wanted[digest].facts_zlib or b"")
        ops += [Put(keys.chunk_key(node, digest, i), part) for i, part in enumerate(parts)]
    for digest in sorted(held.keys() - wanted.keys()):
        count = held[digest].record.chunks
        ops += [Delete(keys.chunk_key(node, digest, i)) for i in range(count)]
    return compares, ops, written


def _with_facts(rows: Iterable[Baseline]) -> dict[str, Baseline]:
    return {row.record.digest: row for row in rows if row.facts_zlib is not None}


def split_chunks(facts_zlib: bytes) -> list[bytes]:
    """Parts that fit into a value each."""
    size = MAX_VALUE_BYTES
    return [facts_zlib[i : i + size] for i in range(0, len(facts_zlib), size)]
