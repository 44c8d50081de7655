"""The terminal: whether to colour, progress on stderr, and screens that are drawn again.

The only module that asks what stdout and stderr are. Colour and progress go to a terminal only,
and `NO_COLOR` (any value but the empty one, no-color.org) turns colour off.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vfio_cli.exits import OutputLost, PipeClosed, Stop
from vfio_cli.screens.layout import WIDTH, Line, Lines, clean, painted, plain

WATCH_INTERVAL_S = 2.0
"""Between two looks of `--watch`."""

PROGRESS_AFTER_S = 1.0
_CLEAR_SCREEN = "\x1b[H\x1b[2J\x1b[3J"
_CLEAR = "\x1b[H\x1b[2J"
_WRAP_OFF, _WRAP_ON = "\x1b[?7l", "\x1b[?7h"
_CLEAR_LINE = "\r\x1b[K"


def may_colour() -> bool:
    """True when stdout is a terminal that understands colour and nobody asked for none."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


def show(lines: Lines) -> None:
    """Print a screen."""
    write(painted(lines) if may_colour() else plain(lines))


class Canvas:
    """A screen on a terminal that is drawn again in place: only lines that changed are written.

    Nothing is cleared in between, so nothing flickers. What does not fit is counted on the last
    line; a line that is too long is cut by the terminal.
    """

    def __init__(self) -> None:
        self._size: os.terminal_size | None = None
        self._drawn: list[str] = []

    def draw(self, lines: Lines) -> None:
        """These lines in place of the last ones."""
        size = shutil.get_terminal_size()
        parts = []
        if size != self._size:
            self._size, self._drawn = size, []
            parts.append(_CLEAR)
        rows = _fit(lines, max(size.lines - 1, 1))
        for number, row in enumerate(rows):
            if number >= len(self._drawn) or self._drawn[number] != row:
                # Cleared first: after a full line the cursor still stands on its last letter.
                parts.append(f"\x1b[{number + 1};1H\x1b[K{row}")
        if len(rows) < len(self._drawn):
            parts.append(f"\x1b[{len(rows) + 1};1H\x1b[J")
        self._drawn = rows
        if parts:
            parts.append(f"\x1b[{len(rows) + 1};1H")
            write(f"{_WRAP_OFF}{''.join(parts)}{_WRAP_ON}")


def _fit(lines: Lines, room: int) -> list[str]:
    if len(lines) > room:
        hidden = len(lines) - room + 1
        lines = [*lines[: room - 1], Line(f".. {hidden} more lines: enlarge the terminal")]
    text = painted(lines) if may_colour() else plain(lines)
    return text.split("\n")[:-1]


def write(text: str) -> None:
    """Print text as it is; a closed pipe ends the command quietly, a full disk with one line."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosed from None
    except OSError as error:
        raise OutputLost(f"the output cannot be written: {error.strerror}") from error


def note(text: str) -> None:
    """Lines on stderr, for people: folded on a terminal, whole for whoever reads them from a pipe.

    Words are never broken, so that a path can be copied; nothing in them moves the cursor.
    """
    if sys.stderr.isatty():
        text = "\n".join(fold(line) for line in text.split("\n"))
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def fold(line: str) -> str:
    """The line within the width of a screen, later lines indented."""
    line = clean(line)
    if len(line) <= WIDTH:
        return line
    return textwrap.fill(
        line,
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def progress(what: str) -> Iterator[None]:
    """While the body runs: after a second, a line on stderr that counts, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_count, args=(what, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _count(what: str, done: threading.Event) -> None:
    if done.wait(PROGRESS_AFTER_S):
        return
    began = time.monotonic() - PROGRESS_AFTER_S
    while not done.wait(0.2):
        sys.stderr.write(f"{_CLEAR_LINE}{what} .. {int(time.monotonic() - began)}s")
        sys.stderr.flush()
    sys.stderr.write(_CLEAR_LINE)
    sys.stderr.flush()


def pause() -> None:
    """Wait between two looks; Ctrl-C ends it."""
    time.sleep(WATCH_INTERVAL_S)


def repeat(once: Callable[[], int], *, watch: bool, tell: Callable[[Stop], None]) -> int:
    """Run once, or again and again until Ctrl-C: on a terminal each look replaces the last.

    An answer that cannot be had is shown with `tell` and asked for again: a watch outlives a
    restart of the coordinator.
    """
    if not watch:
        return once()
    while True:
        if sys.stdout.isatty():
            write(_CLEAR_SCREEN)
        try:
            once()
        except OutputLost:
            raise
        except Stop as stop:
            tell(stop)
        if not sys.stdout.isatty():
            write("\n")
        pause()
