"""A screen that is drawn again: only what changed is written, and nothing is cleared in between."""

from __future__ import annotations

import sys

import pytest

from tests.unit.cli.test_terminal import Tty
from vfio_cli.screens.layout import Line
from vfio_cli.terminal import Canvas


@pytest.fixture(autouse=True)
def _small_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "6")


def drawn(canvas: Canvas, *lines: str) -> str:
    """What is written to the terminal, but for line wrapping off and on."""
    screen = Tty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        canvas.draw([Line(line) for line in lines])
    return screen.text.removeprefix("\x1b[?7l").removesuffix("\x1b[?7h")


def test_only_lines_that_changed_are_written() -> None:
    canvas = Canvas()
    first = drawn(canvas, "a", "b", "c")
    assert first == "\x1b[H\x1b[2J\x1b[1;1H\x1b[Ka\x1b[2;1H\x1b[Kb\x1b[3;1H\x1b[Kc\x1b[4;1H"
    assert drawn(canvas, "a", "B", "c") == "\x1b[2;1H\x1b[KB\x1b[4;1H"
    assert drawn(canvas, "a", "B", "c") == ""
    assert drawn(canvas, "a") == "\x1b[2;1H\x1b[J\x1b[2;1H"


def test_what_does_not_fit_is_counted() -> None:
    text = drawn(Canvas(), *"abcdefgh")
    assert "\x1b[5;1H\x1b[K.. 4 more lines: enlarge the terminal" in text
    assert "\x1b[6;1H\x1b[Ke" not in text


def test_another_size_draws_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = Canvas()
    drawn(canvas, "a", "b")
    monkeypatch.setenv("LINES", "30")
    assert drawn(canvas, "a", "b").startswith("\x1b[H\x1b[2J\x1b[1;1H\x1b[Ka")


def test_the_last_letter_of_a_full_line_is_not_erased() -> None:
    # after it the cursor stands on column 80 still, and `erase to the end of line` would take it
    assert f"{'x' * 79}E\x1b[K" not in drawn(Canvas(), "x" * 79 + "E")


def test_a_host_s_text_cannot_move_the_cursor() -> None:
    assert "\\x1b[2J" in drawn(Canvas(), "evil \x1b[2J")
