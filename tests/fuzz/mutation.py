"""Text and bytes as broken evidence has them: real ones, cut, doubled, swapped, spliced, flipped.

Mutations of what parsers understand reach deeper than random bytes, which mostly fail at the first
test of a format. Every step is drawn, so that a failure shrinks to few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

TOKENS = (
    b"\0",
    b"\n",
    b"\r",
    b"> ",
    b"\xff",
    b"\xc3",
    b"\x1b[31m",
    b"\xe2\x80\xae",
    b"9" * 40,
    b"-1",
    b"0x",
    b"''\"",
    b"${x}",
    b"\\\n",
    b"[[[[",
    b"{" * 60,
    b"<!DOCTYPE a>",
    b"&a;",
    b"0000:00:00.0",
    b"ffffffff:ff:1f.7",
    b"IOMMU Group 99999999:\n",
    b"\xd9\xa1\xd9\xa2",
    "²³".encode(),
)
MAX_BYTES = 64 << 10

Steps = Sequence[tuple[str, int, int, int]]
_KINDS = ("cut", "head", "tail", "double", "swap", "drop", "flip", "insert", "splice")


@dataclass(frozen=True, slots=True)
class Broken:
    """Broken evidence, shown as what was done to which seed."""

    seed: int
    steps: Steps
    data: bytes = field(repr=False)


@st.composite
def mutations(draw: st.DrawFn, seeds: Sequence[bytes]) -> Broken:
    """A seed after up to eight steps."""
    place = st.integers(0, 1 << 16)
    step = st.tuples(st.sampled_from(_KINDS), place, place, place)
    number = draw(st.integers(0, len(seeds) - 1))
    steps = draw(st.lists(step, max_size=8))
    return Broken(number, steps, _apply(seeds, number, steps))


def _apply(seeds: Sequence[bytes], number: int, steps: Steps) -> bytes:
    data = seeds[number][:MAX_BYTES]
    for kind, one, other, third in steps:
        data = _mutate(data, kind, one, other, third, seeds)[: 2 * MAX_BYTES]
    return data


def _mutate(
    data: bytes, kind: str, one: int, other: int, third: int, seeds: Sequence[bytes]
) -> bytes:
    size = len(data) + 1
    low, high = sorted((one % size, other % size))
    if kind == "cut":
        return data[:low] + data[high:]
    if kind == "head":
        return data[:high]
    if kind == "tail":
        return data[low:]
    if kind == "double":
        return data[:high] + data[low:high] * (1 + third % 3) + data[high:]
    if kind == "flip":
        return data[:low] + bytes([third % 256]) + data[low + 1 :]
    if kind == "insert":
        return data[:low] + TOKENS[third % len(TOKENS)] + data[low:]
    if kind == "splice":
        guest = seeds[third % len(seeds)]
        return data[:low] + guest[high % (len(guest) + 1) :][:4096] + data[low:]
    lines = data.split(b"\n")
    first, second = one % len(lines), other % len(lines)
    if kind == "swap":
        lines[first], lines[second] = lines[second], lines[first]
    else:
        del lines[first : first + 1 + third % 4]
    return b"\n".join(lines)
