"""The terminal: colour only where it is wanted, a watch that goes on, a pipe that is closed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vfio_cli import terminal
from vfio_cli.exits import PipeClosed, Stop
from vfio_cli.main import run
from vfio_cli.output import tell_stop
from vfio_cli.screens.layout import Line

IOMMU_OFF = str(Path(__file__).resolve().parents[2] / "data" / "hosts" / "iommu-off.tar.gz")


class Tty:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


LINES = [Line("FAIL  x", "bad", 0, 4)]


def test_colour_only_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal.show(LINES)
    assert capsys.readouterr().out == "FAIL  x\n"
    screen = Tty()
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.show(LINES)
    assert screen.text == "\x1b[31;1mFAIL\x1b[0m  x\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_declined(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, value)
    screen = Tty()
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.show(LINES)
    assert screen.text == "FAIL  x\n"


def test_a_watch_outlives_an_answer_that_cannot_be_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look() -> int:
        looks.append(1)
        if len(looks) == 2:
            raise Stop("cannot be reached")
        terminal.write(f"look {len(looks)}\n")
        return 0

    def pause() -> None:
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "pause", pause)
    with pytest.raises(KeyboardInterrupt):
        terminal.repeat(look, watch=True, tell=tell_stop("table"))
    assert capsys.readouterr().out == "look 1\n\ncannot be reached\n\nlook 3\n\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def pause() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "pause", pause)
    assert run(["check", "--root", IOMMU_OFF, "--watch"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("reading"):
        pass
    assert capsys.readouterr().err == ""


def test_a_broken_pipe_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Tty):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(PipeClosed):
        terminal.write("x")


def test_a_mistake_is_folded_on_a_terminal_and_one_line_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["check", "--root", f"/no/{'such/' * 20}root\x1b[2J"]
    assert run(words) == 64
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Error:")]
    assert len(line) > 100
    screen = Tty()
    monkeypatch.setattr(sys, "stderr", screen)
    assert run(words) == 64
    assert "\x1b" not in screen.text
    shown = [x for x in screen.text.splitlines() if "such/such" not in x]
    assert max(map(len, shown)) <= 80
    assert f"/no/{'such/' * 20}root" in screen.text  # a path stays whole, to be copied
