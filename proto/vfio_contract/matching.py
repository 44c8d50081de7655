"""Which function of one host is which of another: before and after a change of firmware or slots.

Surest evidence first: a trusted serial number, then the place in the PCI tree, for a VF its
physical function and number. Where a place is not known, or two functions have the same one, the
address decides. Of what is left, a whole slot that is the only one of its kind on both sides is
taken for the same, with that said. Two different trusted serial numbers are never one device, nor
are one with such a number and one that has none. This module must never call a device gone or new
while it may be one of which too little was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vfio_contract.address import Address, address_key, function_number, slot_of
from vfio_contract.fingerprint import Fingerprint, FunctionPrint

TWIN = "by place: it has a twin, neither has a serial number, they may have changed places"
SHARED = "by place: two boards have its serial number, they may have changed places"
AT_ADDRESS = "by address and ids: its place in the PCI tree is not known"
ALONE = "by kind: the only one of its kind on both sides"


@dataclass(frozen=True, slots=True)
class Pair:
    """The same function before and after. `confidence` is "" where that is certain, else words."""

    before: FunctionPrint
    after: FunctionPrint
    confidence: str = ""

    @property
    def is_bridge(self) -> bool:
        """True when either side knows it for a bridge."""
        return bool(self.before.bridge or self.after.bridge)


@dataclass(frozen=True, slots=True)
class Matching:
    """Pairs by address now; `gone` and `new` are on one side only, bridges included.

    `open_before` and `open_after` may be each other's counterparts: too little was read to tell.
    """

    pairs: tuple[Pair, ...]
    gone: tuple[FunctionPrint, ...]
    new: tuple[FunctionPrint, ...]
    open_before: tuple[FunctionPrint, ...] = ()
    open_after: tuple[FunctionPrint, ...] = ()


def match(before: Fingerprint, after: Fingerprint) -> Matching:
    """Match the functions of two fingerprints; one without a list of functions has none."""
    work = _Work(before.functions or (), after.functions or ())
    work.join(lambda f: f.identity if f.method == "dsn" else None)
    work.join(_place_key, words=_twins(work.left_before(), work.left_after()))
    work.follow()
    work.join(lambda f: f.address, AT_ADDRESS, vague=True)
    work.join_slots()
    work.follow()
    return work.finish()


Key = object
"""What two functions have in common when they are the same; None: this says nothing about it."""


def _place_key(function: FunctionPrint) -> Key:
    # a truncated place may be equal to another's whole one
    return None if function.method == "vf" else (function.place, function.placed)


Words = Callable[[FunctionPrint, FunctionPrint], str]
"""How certain it is that the first, before, is the second, after: as `Pair.confidence`."""


def _twins(*sides: list[FunctionPrint]) -> Words:
    """The words for a match by place: of several of one kind nobody knows which is which."""
    counts = [Counter(_kind_of(f) for f in side if f.method != "vf") for side in sides]

    def confidence(old: FunctionPrint, now: FunctionPrint) -> str:
        if now.bridge:
            return ""
        if old.shared_serial or now.shared_serial:
            return SHARED
        kind = _kind_of(now)
        return TWIN if any(count[kind] > 1 for count in counts) else ""

    return confidence


def _kind_of(function: FunctionPrint) -> tuple[str, str, int]:
    return function.ids, function.subsystem, function_number(function.address)


def _differ(one: FunctionPrint, other: FunctionPrint) -> bool:
    """True for what cannot be one device: other ids, two serial numbers that are trusted, or a
    trusted one and a list of capabilities that was read and has none."""
    if one.method == other.method == "dsn" and one.identity != other.identity:
        return True
    if any(a.method == "dsn" and b.without_serial for a, b in ((one, other), (other, one))):
        return True
    return any(
        a != b and "?" not in (a + b)
        for was, now in ((one.ids, other.ids), (one.subsystem, other.subsystem))
        for a, b in zip(was.split(":"), now.split(":"), strict=True)
    )


class _Work:
    """The functions of two sides that have no counterpart yet, and the pairs found so far."""

    def __init__(self, before: Iterable[FunctionPrint], after: Iterable[FunctionPrint]) -> None:
        self._before = {f.address: f for f in before}
        self._after = {f.address: f for f in after}
        self._vague_before = _vague(self._before.values())
        self._vague_after = _vague(self._after.values())
        self._pairs: dict[Address, Pair] = {}
        """By address before."""

    def left_before(self) -> list[FunctionPrint]:
        return list(self._before.values())

    def left_after(self) -> list[FunctionPrint]:
        return list(self._after.values())

    def join(
        self,
        key_of: Callable[[FunctionPrint], Key],
        words: Words | str = "",
        *,
        vague: bool = False,
    ) -> None:
        """Pair what has one key on both sides, and there only once each.

        With `vague` only where the place of one of them says nothing.
        """
        olds, news = _unique(self._before.values(), key_of), _unique(self._after.values(), key_of)
        for key, old in olds.items():
            now = news.get(key)
            if now is None or _differ(old, now):
                continue
            if not vague or self._is_vague(old, now):
                self._pair(old, now, words if isinstance(words, str) else words(old, now))

    def follow(self) -> None:
        """VFs go with their physical function."""
        owners = {pair.before.address: pair for pair in self._pairs.values()}
        news = {(f.owner, f.vf_index): f for f in self._after.values() if f.method == "vf"}
        for old in [f for f in self._before.values() if f.method == "vf"]:
            pair = owners.get(old.owner) if old.owner else None
            now = news.get((pair.after.address, old.vf_index)) if pair is not None else None
            known = old.vf_index is not None and old.vf_index >= 0
            if pair is not None and now is not None and known and not _differ(old, now):
                self._pair(old, now, pair.confidence)

    def join_slots(self) -> None:
        """Pair the functions of slots of which each side has exactly one of that kind left."""
        olds, news = _slots(self._before.values()), _slots(self._after.values())
        for kind, old_slot in olds.items():
            new_slot = news.get(kind)
            if not old_slot or not new_slot:
                continue
            rows = list(zip(old_slot, new_slot, strict=True))
            if not any(_differ(old, now) for old, now in rows):
                for old, now in rows:
                    self._pair(old, now, ALONE)

    def finish(self) -> Matching:
        pairs = sorted(self._pairs.values(), key=lambda p: address_key(p.after.address))
        gone, new = self.left_before(), self.left_after()
        open_before = [f for f in gone if any(self._may_be(f, other) for other in new)]
        open_after = [f for f in new if any(self._may_be(other, f) for other in gone)]
        return Matching(
            tuple(pairs),
            tuple(f for f in gone if f not in open_before),
            tuple(f for f in new if f not in open_after),
            tuple(open_before),
            tuple(open_after),
        )

    def _may_be(self, old: FunctionPrint, now: FunctionPrint) -> bool:
        return self._is_vague(old, now) and not _differ(old, now)

    def _is_vague(self, old: FunctionPrint, now: FunctionPrint) -> bool:
        return old.address in self._vague_before or now.address in self._vague_after

    def _pair(self, old: FunctionPrint, now: FunctionPrint, confidence: str) -> None:
        self._pairs[old.address] = Pair(old, now, confidence)
        del self._before[old.address]
        del self._after[now.address]


def _vague(functions: Iterable[FunctionPrint]) -> frozenset[Address]:
    """Where the functions are whose place is not known, or not theirs alone."""
    rows = list(functions)
    places = Counter(f.place for f in rows)
    return frozenset(f.address for f in rows if not f.placed or places[f.place] > 1)


def _unique(
    functions: Iterable[FunctionPrint], key_of: Callable[[FunctionPrint], Key]
) -> dict[Key, FunctionPrint]:
    found: dict[Key, list[FunctionPrint]] = {}
    for function in functions:
        key = key_of(function)
        if key is not None:
            found.setdefault(key, []).append(function)
    return {key: rows[0] for key, rows in found.items() if len(rows) == 1}


def _slots(functions: Iterable[FunctionPrint]) -> dict[Key, list[FunctionPrint]]:
    """By kind the functions of the only slot of that kind; [] where there are several."""
    slots: dict[str, list[FunctionPrint]] = {}
    for function in functions:
        if function.method != "vf":
            slots.setdefault(slot_of(function.address), []).append(function)
    found: dict[Key, list[FunctionPrint]] = {}
    for rows in slots.values():
        rows.sort(key=lambda f: function_number(f.address))
        kind = tuple(map(_kind_of, rows))
        if not any("?" in ids + subsystem for ids, subsystem, _ in kind):
            found[kind] = [] if kind in found else rows
    return found
