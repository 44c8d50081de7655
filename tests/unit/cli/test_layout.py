"""Lines: nothing from outside moves a cursor, nothing is lost, nothing is wider than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_cli.screens.layout import (
    Line,
    age,
    clean,
    clock,
    cut,
    join_addresses,
    moment,
    painted,
    plain,
    table,
    toned,
    two_ends,
    wrap,
)

TEXT = st.text(max_size=200)
WORDS = st.lists(st.text(st.sampled_from("abc:/.0"), min_size=1, max_size=30), max_size=30)


@given(TEXT)
def test_cleaned_text_is_printable_ascii_and_stays_so(text: str) -> None:
    once = clean(text)
    assert once.isascii()
    assert once.isprintable()
    assert clean(once) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb", "a\\u202eb"),
        ("caf\xe9", "caf\\xe9"),
        ("\x00", "\\x00"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(TEXT)
def test_a_screen_has_as_many_lines_as_it_was_given(text: str) -> None:
    assert plain([Line(text), Line(text)]).count("\n") == 2
    assert painted([Line(text)]).count("\n") == 1
    assert "\x1b" not in painted([Line(text)])


@given(WORDS, st.integers(0, 30))
def test_wrapping_keeps_every_character_within_the_width(words: list[str], indent: int) -> None:
    lines = [line.text for line in wrap("x" * indent, " ".join(words), width=60)]
    assert all(len(line) <= 60 for line in lines)
    assert all(line.startswith(" " * indent) for line in lines[1:])
    joined = "".join(lines)[indent:].replace(" ", "")
    assert joined == "".join(words)


def test_a_long_word_is_broken_not_cut() -> None:
    lines = [line.text for line in wrap("  ", "z" * 100, width=40)]
    assert "".join(line.strip() for line in lines) == "z" * 100


@given(TEXT, st.integers(2, 40))
def test_what_is_cut_says_so(text: str, width: int) -> None:
    shown = cut(text, width)
    assert len(shown) <= width
    assert shown == clean(text) or shown.endswith("..")


def test_a_table_wraps_its_last_column_under_itself() -> None:
    rows = [["a", "1", "one two three four five"], ["bb", "22", "six"]]
    made = table(["NAME", "N", "WHY"], rows, right=(1,), width=30)
    assert [line.text for line in made] == [
        "NAME   N  WHY",
        "a      1  one two three four",
        "          five",
        "bb    22  six",
    ]


def test_a_last_column_without_room_goes_below() -> None:
    made = table(["", ""], [["x" * 50, "words that need some room"]], indent=2, width=60)
    assert [line.text.rstrip() for line in made] == [
        "  " + "x" * 50,
        "      words that need some room",
    ]


def test_the_tone_of_a_row_marks_exactly_its_cell() -> None:
    rows = [["pve01", "lost", "-"], ["p", "ready", "-"]]
    made = table(["", "", ""], rows, indent=2, tones=["bad", "good"], tone_column=1)
    marked = [line.text[line.start : line.end] for line in made]
    assert marked == ["lost", "ready"]
    assert "\x1b[31;1mlost\x1b[0m" in painted(made)


def test_a_table_cell_cannot_fake_a_row() -> None:
    made = table(["A", "B"], [["x\ny", "\x1b[2J\nPASS  all"]])
    assert len(made) == 2


def test_a_tone_never_changes_the_text() -> None:
    line = toned("FAIL", "bad", "  iommu-active")
    assert plain([line]) == "FAIL  iommu-active\n"
    assert painted([line]) == "\x1b[31;1mFAIL\x1b[0m  iommu-active\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "never"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (364, "6m04s"),
        (7500, "2h05m"),
        (86400 * 3 + 3600 * 4, "3d04h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_times_of_day() -> None:
    assert clock("2026-11-22T14:32:07Z") == "14:32:07Z"
    assert clock("2026-11-22T14:32:07.123456Z") == "14:32:07Z"
    assert clock("soon") == "soon"
    today = "2026-11-22T14:32:07Z"
    assert moment("2026-11-22T09:01:00Z", today=today) == "09:01"
    assert moment("2026-11-21T09:01:00Z", today=today) == "11-21 09:01"
    assert moment("", today=today) == ""


def test_functions_of_one_slot_are_written_short() -> None:
    assert join_addresses(["0000:41:00.0", "0000:41:00.1"]) == "0000:41:00.0+.1"
    assert join_addresses(["0000:41:00.0", "0000:42:00.1"]) == "0000:41:00.0 0000:42:00.1"
    assert join_addresses([]) == ""


def test_two_ends_never_touch() -> None:
    assert two_ends("left", "right", width=20) == "left           right"
    assert two_ends("l" * 18, "right", width=20) == "l" * 18 + "  right"
