"""The fast search finds what a plain loop over lines and words finds; it never finds less."""

from __future__ import annotations

import re
from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from vfio_agent.diagnosis import MESSAGES, recognise
from vfio_agent.diagnosis.prefilter import Prefilter, shape_of
from vfio_agent.diagnosis.recognition import UNWRAP_BYTES

EXAMPLES = [example for message in MESSAGES for example in message.examples]
STEMS = [stem for message in MESSAGES for stem in message.stems]
FILLER = b"-\n" * UNWRAP_BYTES
"""So much that lines are not joined, which is no part of the plain loop."""

words = st.lists(st.text("ab/mq10 _x", min_size=1, max_size=6), min_size=1, max_size=8)
noise = st.text("ab/mq109 _xAB\0", max_size=30)


@given(words, st.lists(noise, max_size=12), st.data())
def test_every_line_with_a_word_is_found(
    marks: list[str], lines: list[str], data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(0, 4))):
        word = data.draw(st.sampled_from(marks))
        lines.append(data.draw(noise) + word + data.draw(noise))
    found = Prefilter(marks)
    for _ in range(2):
        block = "\n".join(lines).encode()
        rows = found.find(block)
        assert all(block.split(b"\n")[place] == row for place, row, _ in rows)
        assert all(shape == shape_of(row) for _, row, shape in rows)
        places = {place for place, _, _ in rows}
        for place, line in enumerate(lines):
            if any(mark in line.lower() for mark in marks):
                assert place in places, line


def test_lines_without_any_word_are_not_found() -> None:
    found = Prefilter(["code 12", "vfio"])
    assert found.find(b"nothing here\nCODE 77\nmore\nvfi o\n") == [(1, b"CODE 77", b"code 00")]


def change_digits(draw: st.DrawFn, text: str) -> str:
    digits = iter(draw(st.lists(st.sampled_from("0123456789"), min_size=8, max_size=8)) * 60)
    return re.sub("[0-9]", lambda _: next(digits), text[:400])


@st.composite
def rows(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(EXAMPLES + STEMS))
    if draw(st.booleans()):
        text = change_digits(draw, text)
    if draw(st.integers(0, 3)) == 0:
        text = text.upper()
    stamp = draw(st.sampled_from(["", "[    7.123456] ", "Jun 03 10:04:12 pve1 kernel: ", "> "]))
    return stamp + draw(st.sampled_from(["", "00", "x "])) + text


def match_plainly(line: str) -> set[str]:
    """Ids of all messages whose wording is in the line, before the longest is chosen."""
    text = line.lower()
    return {m.id for m in MESSAGES if any(s in text for s in m.stems) and m.pattern.search(text)}


@given(st.lists(rows(), min_size=1, max_size=30))
@example(["Code 12", "Code 43", "Code 44"])
def test_a_log_says_what_its_lines_say_one_by_one(lines: list[str]) -> None:
    whole = recognise([FILLER, "".join(f"{line}\n" for line in lines).encode()])
    counts: Counter[str] = Counter()
    known = 0
    for line in lines:
        alone = recognise([line.encode()])
        counts.update({s.message.id: s.count for s in alone.sightings})
        known += bool(alone.sightings)
        told = {s.message.id for s in alone.sightings}
        plain = match_plainly(line)
        assert told <= plain
        assert bool(told) == bool(plain)
    assert {s.message.id: s.count for s in whole.sightings} == counts
    assert whole.unknown_lines == len(FILLER) // 2 + len(lines) - known
    for sighting in whole.sightings:
        named = [
            s
            for line in lines
            for s in recognise([line.encode()]).sightings
            if s.message.id == sighting.message.id
        ]
        for kind in ("addresses", "groups", "vms"):
            expected = list(dict.fromkeys(n for s in named for n in getattr(s, kind)))
            assert list(getattr(sighting, kind)) == expected[:32]
