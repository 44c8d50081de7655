"""People who watch the cluster from the lab's host: a terminal with the status, a pipe of events.

Both are real processes of the command line. What they said is kept whole, so that a scenario can
ask for the words on the screen now, and whether an event was told once. Nothing here asks the
coordinator itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.lab.cluster import NODE_LIMIT_S, Cluster
from vfio_contract.artifact import from_plain
from vfio_contract.views import Event

ROWS, COLUMNS = 150, 100
END_LIMIT_S = 30
_PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b]+)")


@dataclass(slots=True)
class Screen:
    """What stands on a terminal after these bytes; ValueError for a sequence not known here."""

    lines: list[str] = field(default_factory=lambda: [""] * ROWS)
    _row: int = 0
    _column: int = 0
    _rest: str = ""

    def take(self, text: str) -> None:
        """What was written next; it may end within a sequence."""
        text = self._rest + text
        whole, begun, tail = text.rpartition("\x1b")
        self._rest = "" if not begun or re.match(r"\[[0-9;?]*[A-Za-z]", tail) else begun + tail
        for match in _PIECE.finditer(whole if self._rest else text):
            arguments, command, plain = match.groups()
            if plain is not None:
                self._write(plain)
            else:
                self._obey(arguments, command)

    def text(self) -> str:
        """All of it, without the empty lines at its end."""
        return "\n".join(self.lines).rstrip()

    def _write(self, plain: str) -> None:
        for part in re.split(r"(\r?\n|\r)", plain):
            if part.endswith("\n"):
                self._row, self._column = min(self._row + 1, ROWS - 1), 0
            elif part == "\r":
                self._column = 0
            else:
                line = self.lines[self._row].ljust(self._column)
                end = self._column + len(part)
                self.lines[self._row] = line[: self._column] + part + line[end:]
                self._column = end

    def _obey(self, arguments: str, command: str) -> None:
        match command, arguments:
            case "H", _:
                row, _, column = (arguments or "1;1").partition(";")
                self._row, self._column = int(row) - 1, int(column) - 1
            case "K", "":
                self.lines[self._row] = self.lines[self._row][: self._column]
            case "J", "" | "2":
                first = 0 if arguments else self._row
                self.lines[first:] = [""] * (ROWS - first)
            case "h" | "l", "?7":
                pass  # long lines are cut: there are none in here
            case _:
                raise ValueError(f"\\e[{arguments}{command}")


class StatusWatch:
    """`vfioctl status --cluster --watch` on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self._screen = Screen()

    def until(self, pattern: str) -> str:
        """The screen's text once this stands on it, its blanks left out: lines are folded."""
        return self.until_so(
            lambda text: re.search(pattern, "".join(text.split())) is not None, what=pattern
        )

    def until_so(self, is_so: Callable[[str], bool], *, what: str) -> str:
        """The screen's text once it is so of it; AssertionError with the screen instead."""
        end = time.monotonic() + NODE_LIMIT_S
        while not is_so(text := self._screen.text()):
            left = end - time.monotonic()
            alive = left > 0 and self._read(left)
            assert alive, f"{what}: not so within {NODE_LIMIT_S} s:\n{text}"
        return text

    def _read(self, seconds: float) -> bool:
        """Take what comes within this time; False when nothing more will come."""
        if not select.select([self._terminal], [], [], min(seconds, 1.0))[0]:
            return self._process.poll() is None
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self._screen.take(data.decode())
        return bool(data)


class EventWatch:
    """`vfioctl events --follow -o json`: every row that it printed, in its order."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe = pipe
        self._rest = b""
        self.rows: list[Event] = []

    def until(self, code: str, *words: str) -> Event:
        """The first row of this code with these words in its text, as soon as it was printed."""
        end = time.monotonic() + NODE_LIMIT_S
        while not (found := self.find(code, *words)):
            left = end - time.monotonic()
            alive = left > 0 and self._read(left)
            assert alive, f"no {code} with {words} within {NODE_LIMIT_S} s: {self.rows}"
        return found[0]

    def find(self, code: str, *words: str) -> list[Event]:
        """All rows so far of this code with these words in their text."""
        return [e for e in self.rows if e.code == code and all(text in e.text for text in words)]

    def _read(self, seconds: float) -> bool:
        if not select.select([self._pipe], [], [], min(seconds, 1.0))[0]:
            return self._process.poll() is None
        data = os.read(self._pipe, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.rows += [from_plain(Event, json.loads(line), "event") for line in lines]
        return bool(data)


@contextmanager
def watching_status(cluster: Cluster) -> Iterator[StatusWatch]:
    """The cluster's screen, for the time of a `with`; Ctrl-C ends it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    try:
        process = _start(cluster, "status", "--cluster", "--watch", terminal=theirs)
        os.close(theirs)
        with _ended(process):
            yield StatusWatch(process, ours)
            # As a person ends it: the key, not the signal.
            os.write(ours, b"\x03")
            status = process.wait(END_LIMIT_S)
            assert status == 130, status
    finally:
        os.close(ours)


@contextmanager
def following_events(cluster: Cluster) -> Iterator[EventWatch]:
    """The event log from its first row on, for the time of a `with`."""
    process = _start(cluster, "events", "--follow", "--since", "0", "-o", "json")
    with _ended(process):
        assert process.stdout is not None
        yield EventWatch(process, process.stdout.fileno())


def _start(
    cluster: Cluster, *arguments: str, terminal: int | None = None
) -> subprocess.Popen[bytes]:
    environment = cluster.environment() | {"TERM": "linux"}
    for name in ("COLUMNS", "LINES"):  # the terminal's own size counts
        environment.pop(name, None)
    # The terminal is its own, so that a key in there reaches it, also where nobody types Ctrl-C
    # at this run: who runs in a shell's background ignores the signal, and its children with it.
    own = ("setsid", "-c", "env", "--default-signal=INT") if terminal is not None else ()
    return subprocess.Popen(
        [*own, sys.executable, "-m", "vfio_cli.main", *arguments],
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=terminal,
        env=environment,
    )


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    with process:
        try:
            yield
        finally:
            process.kill()
