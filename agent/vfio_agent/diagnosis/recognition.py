"""Known messages in any text: which ones, how often, about what, and which explains which.

The text comes in blocks of bytes, as large as it likes: a pasted line, a mail, a log of 100 MB with
NULs, colours and broken encodings. It is read once, in linear time, and what is kept is bounded.
This module must never pass over what it does not know: it is counted and shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vfio_agent.collect.log_line import parse_line
from vfio_agent.diagnosis.catalogue import MESSAGES
from vfio_agent.diagnosis.message import ANY, Kind, Message
from vfio_agent.diagnosis.prefilter import SHAPE_BYTES, Prefilter, shape_of

PIECE_CHARS = 4096
"""Longer lines are looked at in pieces of this size; the longest wording has 400 characters."""

OVERLAP_CHARS = 512
BLOCK_BYTES = 1 << 20
"""How much is searched at a time; a text without line ends is cut there, with an overlap."""

MAX_SEEN = 3
"""Lines kept of one message and of what is not known."""

MAX_NAMED = 32
"""Addresses, groups and VMs kept of one message."""

UNWRAP_BYTES = 1 << 16
"""Up to this size, two lines that say nothing alone are also read as one broken line."""

MAX_CACHED = 4096

MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class Seen:
    """A line of the text without its prefixes; numbers begin at 1."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """One known message in a text.

    `seen` holds its first lines that differ, `count` is how many lines there are. `follows` are
    ids of messages in the same text that explain this one. `addresses` are as written, in lower
    case.
    """

    message: Message
    count: int
    seen: tuple[Seen, ...]
    addresses: tuple[str, ...]
    groups: tuple[str, ...]
    vms: tuple[str, ...]
    follows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says: known messages, the root cause first, and how much is not known.

    `unknown` holds the first of the lines that speak of passthrough without being known;
    `unknown_lines` counts all lines with text in which nothing was recognised.
    """

    sightings: tuple[Sighting, ...]
    lines: int
    unknown_lines: int
    unknown: tuple[Seen, ...]

    @property
    def root(self) -> Sighting | None:
        """The failure that the others follow from; None when no failure was recognised."""
        first = self.sightings[0] if self.sightings else None
        return first if first is not None and first.message.kind is Kind.FAULT else None

    @property
    def unproved(self) -> tuple[str, ...]:
        """Checks of which the text holds only what proves nothing."""
        found = {kind: self._checks(kind) for kind in (Kind.NO_PROOF, Kind.PROOF)}
        return tuple(c for c in found[Kind.NO_PROOF] if c not in found[Kind.PROOF])

    def _checks(self, kind: Kind) -> dict[str, None]:
        rows = (s.message for s in self.sightings if s.message.kind is kind)
        return dict.fromkeys(c.check for m in rows for c in m.causes)


_HINTS = ("vfio", "iommu", "passthrough", "pass-through", "hostpci", "/dev/kvm")
"""Words that make a line worth showing although it is not known."""

_ADDRESS = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7](?![\w.]*[0-9a-f]:|\d)", re.I
)
_GROUP = re.compile(r"(?:\bgroup |/dev/vfio/(?:noiommu-)?|iommu_groups/)(\d{1,6})\b", re.I)
_VM = re.compile(r"VMID [^\w\n]{0,2}(\d{1,9})|, domain [^\w\n]{0,2}([\w.-]{1,64})", re.I)
_COLOUR = re.compile(rb"\x1b\[[0-9;]{0,16}[A-Za-z]")
_STAMP = re.compile(
    rb"(?:<\d{1,4}>)?(?:\w{3} [ \d]\d \d\d:\d\d:\d\d [\w.-]{1,64} kernel: )?"
    rb"(?:\[ {0,12}\d{1,10}\.\d{3,9}\] )?"
)


_ROOTS = ("vfio", "iommu", "dmar", "amd-vi", "remap", "x2apic", "reset", "sriov", "errno")
"""Parts that many stems share: one word to search for instead of many."""


def _shortest(words: Iterable[str]) -> tuple[str, ...]:
    """Those of which every other one holds one."""
    known = set(words)
    return tuple(w for w in sorted(known) if not any(o != w and o in w for o in known))


_STEM_SHAPES = tuple(
    ((rank, stem), shape_of(stem.encode())) for rank, m in enumerate(MESSAGES) for stem in m.stems
)
_WORDS = _shortest((*_ROOTS, *_HINTS, *(stem for (_, stem), _ in _STEM_SHAPES)))


@dataclass(slots=True)
class _Tally:
    """What is kept of one message while the text is read."""

    count: int = 0
    seen: list[Seen] = field(default_factory=list)
    addresses: dict[str, None] = field(default_factory=dict)
    groups: dict[str, None] = field(default_factory=dict)
    vms: dict[str, None] = field(default_factory=dict)

    def add(self, number: int, row: bytes, place: int) -> None:
        self.count += 1
        if len(self.seen) < MAX_SEEN:
            self.seen.append(Seen(number, _show(row, place)))
        text = row[max(place - PIECE_CHARS // 2, 0) : place + PIECE_CHARS].decode("latin-1")
        if len(self.addresses) < MAX_NAMED:
            _keep(self.addresses, (m[0].lower() for m in _ADDRESS.finditer(text)))
        lowered = text.lower()
        # a look for a word is much cheaper than for a pattern
        if "group" in lowered or "/vfio/" in lowered:
            _keep(self.groups, (m[1] for m in _GROUP.finditer(text)))
        if "vmid" in lowered or "domain" in lowered:
            _keep(self.vms, (m[1] or m[2] for m in _VM.finditer(text)))


def _keep(kept: dict[str, None], found: Iterable[str]) -> None:
    for name in found:
        if len(kept) >= MAX_NAMED:
            return
        kept.setdefault(name)


def recognise(blocks: Iterable[bytes]) -> Reading:
    """All known messages in a text that is given in blocks of any size."""
    reader = _Reader()
    rest = b""
    for block in blocks:
        data = rest + block
        start = 0
        while len(data) - start > BLOCK_BYTES:
            end = data.rfind(b"\n", start, start + BLOCK_BYTES) + 1
            stop = end or start + BLOCK_BYTES
            reader.take(data[start:stop], ended=end > 0)
            # of a line without an end the next part begins a little earlier
            start = end or stop - OVERLAP_CHARS
        rest = data[start:]
    reader.take(rest, ended=True)
    return reader.finish()


class _Reader:
    """One pass over a text. `_cache` holds what a line's words gave, for floods of one line."""

    def __init__(self) -> None:
        self._tallies: dict[int, _Tally] = {}
        self._lines = 0
        self._filled = 0
        self._known = 0
        self._unknown: list[Seen] = []
        self._loose: list[tuple[int, bytes]] = []
        self._cache: dict[bytes, tuple[int, ...]] = {}
        self._short = True
        self._prefilter = Prefilter(_WORDS)
        self._stems: dict[bytes, Sequence[tuple[int, str]]] = {}

    def take(self, block: bytes, *, ended: bool) -> None:
        """A block of whole lines; `ended` is False for a part of a line that goes on."""
        if b"\0" in block:
            block = block.replace(b"\0", b"")
        if b"\x1b" in block:
            block = _COLOUR.sub(b"", block)
        if b"\r" in block:
            block = block.replace(b"\r", b" ")
        self._short = self._short and len(block) <= UNWRAP_BYTES and not self._lines
        for place, row, shape in self._prefilter.find(block):
            self._take_line(self._lines + 1 + place, row, shape)
        if self._short:
            self._keep_loose(block)
        else:
            self._filled += block.count(b"\n") - block.count(b"\n\n")
        self._lines += block.count(b"\n") + int(ended and block[-1:] not in (b"", b"\n"))

    def _take_line(self, number: int, row: bytes, shape: bytes) -> None:
        body = _body_of(row)
        hits = self._cache.get(body)
        if hits is not None:
            for rank in hits:
                self._tallies[rank].count += 1
            self._known += bool(hits)
            return
        found = self._look(number, row, self._stems_of(shape))
        self._known += bool(found)
        if not found and len(self._unknown) < MAX_SEEN and _is_about_passthrough(row):
            self._unknown.append(Seen(number, _show(row, 0)))
        if len(body) <= PIECE_CHARS:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[body] = tuple(found)

    def _stems_of(self, shape: bytes) -> Sequence[tuple[int, str]]:
        """(rank, stem) of the stems that a line of this shape may hold."""
        found = self._stems.get(shape)
        if found is None:
            found = tuple(pair for pair, stem in _STEM_SHAPES if stem in shape)
            if len(shape) <= SHAPE_BYTES:
                if len(self._stems) >= MAX_CACHED:
                    self._stems.clear()
                self._stems[shape] = found
        return found

    def _look(self, number: int, row: bytes, pairs: Sequence[tuple[int, str]]) -> list[int]:
        """Ranks of what this line says, each as often as it does."""
        # Latin-1 keeps one character for each byte; what is shown is decoded properly.
        text = row.lower().decode("latin-1")
        ranks = {rank for rank, stem in pairs if stem in text}
        found: list[int] = []
        for begin in range(0, max(len(text) - OVERLAP_CHARS, 1), PIECE_CHARS - OVERLAP_CHARS):
            seen = OVERLAP_CHARS if begin else 0
            for rank, place in _match(text[begin : begin + PIECE_CHARS], ranks, seen=seen):
                self._tallies.setdefault(rank, _Tally()).add(number, row, begin + place)
                found.append(rank)
        return found

    def _keep_loose(self, block: bytes) -> None:
        """Of a short text the lines in which nothing was recognised."""
        for number, row in enumerate(block.split(b"\n"), self._lines + 1):
            if row.strip(b" \t>"):
                self._filled += 1
                if not self._cache.get(_body_of(row)):
                    self._loose.append((number, row))

    def finish(self) -> Reading:
        """The reading, with lines that a terminal or a mail broke put together again."""
        if self._short:
            self._join_broken()
        sightings = [
            Sighting(
                message=MESSAGES[rank],
                count=tally.count,
                seen=tuple(tally.seen),
                addresses=tuple(tally.addresses),
                groups=tuple(tally.groups),
                vms=tuple(tally.vms),
            )
            for rank, tally in sorted(self._tallies.items())
        ]
        return Reading(
            sightings=tuple(_order(sightings)),
            lines=self._lines,
            unknown_lines=max(self._filled - self._known, 0),
            unknown=tuple(self._unknown),
        )

    def _join_broken(self) -> None:
        joined: set[int] = set()
        for (number, first), (following, second) in pairwise(self._loose):
            if following != number + 1 or number in joined:
                continue
            tail = second.lstrip(b" \t>")
            for row in (first.rstrip() + b" " + tail, first + tail):
                stems = self._stems_of(shape_of(row))
                if len(row) <= PIECE_CHARS and self._look(number, row, stems):
                    joined |= {number, following}
                    self._known += 2
                    break
        self._unknown = [s for s in self._unknown if s.line not in joined]


def _body_of(row: bytes) -> bytes:
    """The line without the kernel's or syslog's stamp, which differs in each line of a flood."""
    stamp = _STAMP.match(row)
    return row if stamp is None else row[stamp.end() :]


def _match(text: str, ranks: Iterable[int], *, seen: int) -> list[tuple[int, int]]:
    """(rank, place) of messages in a text; of wordings that overlap the longest counts.

    What ends within the first `seen` characters was counted in the piece before.
    """
    found: list[tuple[int, int, int]] = []
    for rank in ranks:
        match = next((m for m in MESSAGES[rank].pattern.finditer(text) if m.end() > seen), None)
        if match is not None:
            found.append((match.end() - match.start(), rank, match.start()))
    taken: list[tuple[int, int, int]] = []
    for length, rank, start in sorted(found, key=lambda hit: (-hit[0], hit[1])):
        if all(start + length <= s or s + n <= start for n, _, s in taken):
            taken.append((length, rank, start))
    return [(rank, start) for _, rank, start in taken]


def _is_about_passthrough(row: bytes) -> bool:
    lowered = row[:PIECE_CHARS].lower()
    return any(hint.encode() in lowered for hint in _HINTS)


def _show(row: bytes, place: int) -> str:
    """The line for people: prefixes off, its encoding restored, cut around what matched."""
    if len(row) <= MAX_TEXT:
        return parse_line(row).text
    begin = max(place - MAX_TEXT // 4, 0)
    shown = parse_line(row[begin : begin + MAX_TEXT]).text
    return ("..." if begin else "") + shown + ("..." if begin + MAX_TEXT < len(row) else "")


_KINDS = {kind: rank for rank, kind in enumerate(Kind)}


def _order(sightings: Sequence[Sighting]) -> Iterator[Sighting]:
    """Failures first, causes before what follows from them, then in the catalogue's order."""
    by_id = {s.message.id: s for s in sightings}
    explained = {
        s.message.id: tuple(c.message.id for c in _causes_of(s, sightings)) for s in sightings
    }

    def depth(name: str, above: frozenset[str] = frozenset()) -> int:
        causes = [c for c in explained[name] if c not in above]
        return max((depth(c, above | {name}) + 1 for c in causes), default=0)

    ranked = sorted(by_id.values(), key=lambda s: (_KINDS[s.message.kind], depth(s.message.id)))
    for s in ranked:
        yield Sighting(
            message=s.message,
            count=s.count,
            seen=s.seen,
            addresses=s.addresses,
            groups=s.groups,
            vms=s.vms,
            follows=explained[s.message.id],
        )


def _causes_of(sighting: Sighting, sightings: Sequence[Sighting]) -> Iterator[Sighting]:
    wanted = sighting.message.follows
    for other in sightings:
        if other.message.kind is not Kind.FAULT or other.message.id == sighting.message.id:
            continue
        if wanted == ANY:
            explains = other.message.follows != ANY
        else:
            explains = other.message.id in wanted and _same_place(sighting, other)
        if explains:
            yield other


def _same_place(one: Sighting, other: Sighting) -> bool:
    """False when both name devices and none of them sits in the same slot."""
    slots = [{_slot(a) for a in s.addresses} for s in (one, other)]
    return not slots[0] or not slots[1] or not slots[0].isdisjoint(slots[1])


def _slot(address: str) -> str:
    """`01:00` of `0000:01:00.0`: kernel lines often leave the domain out."""
    bus, _, device = address.rpartition(".")[0].rpartition(":")
    return f"{bus.rpartition(':')[2]}:{device}"
