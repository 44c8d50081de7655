"""One open connection to hostd, as the network process has it: ask, listen, and nothing else.

It must never wait without a deadline, nor run a callback that waits for an answer: the thread that
listens is the one that brings it.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from vfio_agent.hostd.frames import CHUNK_BYTES, FrameReader, to_frame
from vfio_agent.hostd.messages import (
    ANSWER_LIMIT_BYTES,
    ANSWERS,
    PUSHED,
    Done,
    Ping,
    Refused,
    read_message,
    write_message,
)
from vfio_agent.hostd.peer import credentials_of

ANSWER_S = 5.0
"""For hostd to answer anything. Its slowest verb writes one row to disk."""

_LATE = f"hostd did not answer within {ANSWER_S:g} s"

_CLOSED = "hostd closed the connection"

Kind = TypeVar("Kind")


class Heard(Enum):
    """What ended a wait."""

    SOMETHING = auto()
    NOTHING = auto()
    WAKE = auto()


class HostdError(Exception):
    """hostd did not do what was asked: it is away, or refused; the text says which."""


class HostdRefused(HostdError):
    """hostd is there and will not; nothing was done."""


@dataclass(slots=True)
class _Question:
    """A request that waits; `answer` stays None when the connection ends before."""

    answered: threading.Event = field(default_factory=threading.Event)
    answer: object = None


def connect(path: Path) -> socket.socket:
    """A connection to the hostd that listens there: root's, or our own. OSError, HostdRefused."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(os.fspath(path))
        connection.settimeout(None)
        owner = credentials_of(connection).uid
        if owner not in (0, os.geteuid()):
            raise HostdRefused(f"{path} belongs to uid {owner}, neither root nor our own")
    except BaseException:
        connection.close()
        raise
    return connection


class Line:
    """One open connection: requests out, answers and pushes in.

    `ask` is for any thread but the one that listens, which has `ask_here`.
    """

    def __init__(
        self,
        connection: socket.socket,
        wakes: socket.socket,
        on_push: Callable[[object], None],
    ) -> None:
        """What `wakes` gets to read ends a wait early. `on_push` must not wait for an answer."""
        self._connection = connection
        self._on_push = on_push
        self._reader = FrameReader(ANSWER_LIMIT_BYTES)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(wakes, select.POLLIN)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        # Below: guarded by _lock.
        self._questions: dict[int, _Question] = {}
        self._over = False

    def ask(self, request: object, kind: type[Kind]) -> Kind:
        """Wait for the answer while another thread listens; HostdError where there is none."""
        question = self._send(request)
        if not question.answered.wait(ANSWER_S):
            raise HostdError(_LATE)
        return _expect(question.answer, kind)

    def ask_here(self, request: object, kind: type[Kind]) -> Kind:
        """Listen until the answer is there; HostdError where there is none."""
        question = self._send(request)
        due = time.monotonic() + ANSWER_S
        while not question.answered.is_set():
            if time.monotonic() >= due:
                raise HostdError(_LATE)
            if self.listen(due) is Heard.WAKE:
                raise HostdError("closed by the agent")
        return _expect(question.answer, kind)

    def ask_patiently(self, request: object, kind: type[Kind], *, ping_s: float) -> Kind:
        """Listen until the answer is there, however long that takes while hostd answers pings;
        HostdError where it is gone."""
        question = self._send(request)
        while not question.answered.is_set():
            if self.listen(time.monotonic() + ping_s) is Heard.NOTHING:
                self.ask_here(Ping(), Done)
        return _expect(question.answer, kind)

    def listen(self, until_s: float) -> Heard:
        """Take what comes next, waiting for it until then."""
        ready = dict(self._poll.poll(max(0.0, until_s - time.monotonic()) * 1000))
        if not ready:
            return Heard.NOTHING
        if self._connection.fileno() not in ready:
            return Heard.WAKE
        try:
            data = self._connection.recv(CHUNK_BYTES, socket.MSG_DONTWAIT)
        except ConnectionError:
            data = b""  # it was killed with our words unread
        if not data:
            raise HostdError(_CLOSED)
        self._reader.feed(data)
        while (body := self._reader.take()) is not None:
            self._take(body)
        return Heard.SOMETHING

    def end(self) -> None:
        """Close it; whoever waits is told that there is no answer."""
        with self._lock:
            self._over = True
            waiting, self._questions = self._questions, {}
            self._connection.close()
        for question in waiting.values():
            question.answered.set()

    def _send(self, request: object) -> _Question:
        question = _Question()
        with self._lock:
            if self._over:
                raise HostdError("hostd is away")
            id = next(self._ids)
            frame = to_frame(write_message(id, request))
            try:
                sent = self._connection.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except ConnectionError:
                raise HostdError(_CLOSED) from None
            except OSError as error:
                raise HostdError(f"hostd takes nothing: {error.strerror or error}") from None
            if sent < len(frame):
                self._connection.shutdown(socket.SHUT_RDWR)  # what follows would be no frame
                raise HostdError("hostd takes nothing")
            self._questions[id] = question
        return question

    def _take(self, body: bytes) -> None:
        envelope = read_message(body, ANSWERS)
        if envelope.id == PUSHED:
            self._on_push(envelope.message)
            return
        with self._lock:
            question = self._questions.pop(envelope.id, None)
        if question is not None:  # else who asked has given up
            question.answer = envelope.message
            question.answered.set()


def _expect(answer: object, kind: type[Kind]) -> Kind:
    if isinstance(answer, Refused):
        raise HostdRefused(f"hostd refused: {answer.reason}")
    if answer is None:
        raise HostdError("hostd went away before it answered")
    if not isinstance(answer, kind):
        raise HostdError(f"hostd answered with {type(answer).__name__}, not {kind.__name__}")
    return answer
