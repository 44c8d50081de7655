"""Reads that the kernel may hold up for days, done by a process that can be left alone.

`sriov_numvfs` and `driver_override` wait for the device's lock, which a removal keeps until the
last holder has let go; `config` waits out a reset (facts: Reading). Such a wait cannot be
interrupted, and a process with one thread in it cannot end. So one helper process does these reads
for all roots of this process: it is killed when it does not answer, ends by itself when the kernel
lets it go, and never keeps us from ending. Nothing but these reads is done there. This module must
never wait for a process that it has given up, nor ask a second one for a path that still keeps it.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, cast
from weakref import finalize

from vfio_agent.collect import attribute_reads
from vfio_agent.collect.attribute_reads import ANSWER, READY
from vfio_agent.collect.deadline import LATER_DEADLINE_S, time_out

if TYPE_CHECKING:
    from importlib.abc import InspectLoader

START_S = 30.0
"""Seconds for the helper's start: 20 ms on hardware, a second and more in an emulated guest."""

_BOOTSTRAP = "import marshal, sys; exec(compile(marshal.load(sys.stdin.buffer), 'reader', 'exec'))"
"""Takes source and not bytecode: the interpreter may have been upgraded under a running agent."""

_BATCH = 128
"""Paths in one request: at some 100 bytes each far less than a pipe holds (64 KiB), so that sending
it does not wait for the helper."""

_SECOND_LOOK_S = 0.05
"""After the deadline, for an answer that came while this whole process stood still."""

_GRACE_S = 0.2
"""Seconds in which a killed process ends, unless the kernel keeps it."""

_CHUNK = 1 << 16

_GONE = "the process that read it has ended"

Answers = list[bytes | OSError]


class _Ended(Exception):
    """The helper is gone: killed, or it could not be started. The text says why."""


class _Helper:
    """One process that reads; `answers` are taken in the order of the request."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        if not sys.executable:
            raise _Ended("no process to read it with: the interpreter does not know its own path")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, "vfioctl-reader"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise _Ended(f"no process to read it with: {error.strerror}") from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests = self.process.stdin
        self._out = self.process.stdout
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._buffer = bytearray()
        self._end = finalize(self, _end, self.process, self._owner)
        try:
            self._send(_load_program())
            if not self._receive(START_S):
                raise _Ended(f"the process to read it with did not start in {START_S:g} s")
        except BaseException:
            self._end()
            raise
        del self._buffer[: len(READY)]

    @property
    def usable(self) -> bool:
        """False in a forked child, which must not talk to its parent's helper."""
        return self._owner == os.getpid() and self.process.poll() is None

    def ask(self, kind: str, paths: Sequence[str]) -> None:
        self._send(marshal.dumps((kind, list(paths))))

    def take(self, patience: float) -> bytes | OSError | None:
        """The next answer; None when nothing came for `patience` seconds."""
        while len(self._buffer) < ANSWER.size:
            if not self._receive(patience):
                return None
        number, length = ANSWER.unpack_from(self._buffer)
        while len(self._buffer) < ANSWER.size + length:
            if not self._receive(patience):
                return None
        data = bytes(self._buffer[ANSWER.size : ANSWER.size + length])
        del self._buffer[: ANSWER.size + length]
        return OSError(number, data.decode("utf-8", "replace")) if number else data

    def give_up(self) -> bool:
        """End it, or leave it to itself; True when the kernel keeps it."""
        return self._end() is False

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[self._requests.write(data) or 0 :]
        except OSError as error:
            raise _Ended(_GONE) from error

    def _receive(self, patience: float) -> bool:
        if not (self._poll.poll(patience * 1_000) or self._poll.poll(_SECOND_LOOK_S * 1_000)):
            return False
        data = os.read(self._out.fileno(), _CHUNK)
        if not data:
            raise _Ended(_GONE)
        self._buffer += data
        return True


class ReaderProcess:
    """The helper of this process, started when it is first needed and anew after one was lost."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._helper: _Helper | None = None
        self._stuck: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, kind: str, paths: Sequence[str], *, seconds: float) -> Answers:
        """One answer or OSError per path, in order; ETIMEDOUT for what took longer than `seconds`.

        Worst case of a call is `seconds` plus 0.7 s for each further path that blocks, and the
        start of as many helpers; other threads wait that long, too. A path that blocked before
        costs nothing while the kernel still keeps who asked for it, which is one process for each.
        """
        with self._lock:
            for path in [p for p, process in self._stuck.items() if process.poll() is not None]:
                del self._stuck[path]
            left = frozenset(self._stuck).intersection(paths)
            answers = iter(self._run(kind, [p for p in paths if p not in left], seconds))
            return [time_out(p, "still blocked") if p in left else next(answers) for p in paths]

    def close(self) -> None:
        """End the idle helper; the object stays usable."""
        with self._lock:
            self._drop()

    def _run(self, kind: str, paths: Sequence[str], patience: float) -> Answers:
        answers: Answers = []
        while len(answers) < len(paths):
            before = len(answers)
            batch = paths[before : before + _BATCH]
            fresh = self._helper is None or not self._helper.usable
            try:
                self._answer(kind, batch, patience, answers)
            except _Ended as error:
                lost = paths[len(answers)]
                self._leave(lost)
                answers.append(OSError(errno.EIO, str(error), lost))
                if fresh and len(answers) == before + 1:
                    # a new one gave not even one answer: the next would not fare better
                    answers += [OSError(errno.EIO, str(error), p) for p in paths[before + 1 :]]
            except BaseException:
                # who knows which answer would come next
                self._leave(paths[min(len(answers), len(paths) - 1)])
                raise
            else:
                if len(answers) < before + len(batch):
                    path = paths[len(answers)]
                    self._leave(path)
                    answers.append(time_out(path, f"blocked for {patience:g} s"))
                    patience = min(patience, LATER_DEADLINE_S)
        return answers

    def _answer(self, kind: str, paths: Sequence[str], patience: float, answers: Answers) -> None:
        """Append one answer after the other, up to the first that does not come in time."""
        if self._helper is None or not self._helper.usable:
            self._helper = _Helper()
        self._helper.ask(kind, paths)
        for path in paths:
            answer = self._helper.take(patience)
            if answer is None:
                return
            if isinstance(answer, OSError):
                answer.filename = path
            answers.append(answer)

    def _leave(self, path: str) -> None:
        helper, self._helper = self._helper, None
        if helper is not None and helper.give_up():
            self._stuck[path] = helper.process

    def _drop(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.give_up()


def _load_program() -> bytes:
    """The source of `attribute_reads`, from a file or out of an archive."""
    # of a file and of an archive alike; the general type promises less
    loader = cast("InspectLoader", attribute_reads.__loader__)
    source = loader.get_source(attribute_reads.__name__)
    if source is None:
        raise _Ended("no process to read it with: its program came without source")
    return marshal.dumps(source)


def _end(process: subprocess.Popen[bytes], owner: int) -> bool:
    """Kill it; False when it does not end now: then the kernel keeps it and will end it later."""
    if owner != os.getpid():
        return True  # a forked child lets its parent's helper be
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


READER_PROCESS = ReaderProcess()
"""One for the whole process: roots come and go, and a wedged device stays wedged."""
