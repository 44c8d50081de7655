"""One coordinator and one agent as children: started in order, stopped in order, never orphaned.

The coordinator must listen before the agent starts; on SIGINT or SIGTERM the agent stops first. If
either ends by itself the other is stopped too, and that is a failure, or wrong usage where that is
what it said. Everything the children say goes to stderr as they say it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vfio_cli.exits import FAILURE, OK, USAGE, Stop

GRACE_S = 15.0
"""From SIGTERM to SIGKILL. The coordinator lets open calls go on for 3 s, the agent for 5 s."""

START_S = 60.0
"""For the coordinator to listen: its store is checked first, and that takes long on a big one."""

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""

_STOPPING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@dataclass(slots=True)
class Child:
    """A running child and what to call it."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def ending(self) -> str:
        """How it ended, in words; "" while it runs."""
        status = self.process.poll()
        if status is None:
            return ""
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"


class Signals:
    """Signals of this process as bytes in a pipe, so that waiting for them has no races."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self.stopping = False

    def wait(self, others: Sequence[int], timeout_s: float | None) -> list[int]:
        """Sleep until a signal, a readable descriptor among `others`, or the timeout."""
        ready, _, _ = select.select([self._reader, *others], [], [], timeout_s)
        if self._reader in ready:
            numbers = os.read(self._reader, 512)
            self.stopping |= any(number in _STOPPING for number in numbers)
        return [fd for fd in ready if fd != self._reader]


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Within it, stopping signals and the end of a child only wake `Signals.wait`."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # nohup means it: a hangup that is ignored stays ignored.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [n for n in (*_STOPPING, signal.SIGCHLD) if n != signal.SIGHUP or not ignored]
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield Signals(reader)
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def supervise(
    coordinator: Sequence[str],
    agent: Callable[[str], Sequence[str]],
    *,
    on_ready: Callable[[str], None],
) -> int:
    """Run both until stopped (0) or until one ends by itself (2, said in one line).

    One that ends with 64, wrong usage, makes it 64: what it was given is what the user typed.
    `agent` makes the agent's argv from the endpoint on which the coordinator listens.
    """
    children: list[Child] = []
    with catch_signals() as signals:
        try:
            children.append(_start("coordinator", coordinator, stdout=subprocess.PIPE))
            endpoint = _await_endpoint(children[0], signals)
            if endpoint:
                children.append(_start("agent", agent(endpoint), stdout=None))
                on_ready(endpoint)
                _await_end(children, signals)
        finally:
            ended = [(child.name, child.ending) for child in children if child.ending]
            misused = any(child.process.returncode == USAGE for child in children)
            killed = _stop_all(children, signals)
    if ended and not signals.stopping:
        words = " and ".join(f"the {name} {ending}" for name, ending in ended)
        rest = "; the other was stopped" if len(ended) < len(children) else ""
        status = USAGE if misused else FAILURE
        raise Stop(f"{words}{rest}. What it said stands above.", status=status)
    if killed:
        raise Stop(f"{' and '.join(killed)} did not stop within {GRACE_S:.0f}s and was killed")
    return OK


def child_environment() -> dict[str, str]:
    """Ours, with gRPC's own log off unless somebody asked for it: the children say what fails."""
    return {"GRPC_VERBOSITY": "NONE", **os.environ}


def _start(name: str, argv: Sequence[str], *, stdout: int | None) -> Child:
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    # Safe in the child of a fork: this process runs no other thread.
    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the prctl
            os._exit(FAILURE)

    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            process_group=0,  # so that Ctrl-C reaches the supervisor alone, which keeps the order
            preexec_fn=die_with_parent,
            env=child_environment(),
        )
    except OSError as error:
        raise Stop(f"the {name} cannot be started: {argv[0]}: {error.strerror}") from error
    return Child(name, process)


def _await_endpoint(child: Child, signals: Signals) -> str:
    """The endpoint it says it listens on; "" if it ends before, or we are stopped."""
    stream = child.process.stdout
    if stream is None:
        raise AssertionError("the coordinator's stdout is a pipe")
    deadline = time.monotonic() + START_S
    said = b""
    while not signals.stopping:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Stop(f"the coordinator does not listen after {START_S:.0f}s; it was stopped")
        if not signals.wait([stream.fileno()], left):
            continue
        data = os.read(stream.fileno(), 4096)
        said += data
        for line in said.decode("utf-8", errors="replace").splitlines(keepends=True):
            if line.startswith("listening ") and line.endswith("\n"):
                return line.removeprefix("listening ").strip()
        if not data:
            # It closed its output before it listened: it is ending, and its end is what counts.
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(GRACE_S)
            return ""
    return ""


def _await_end(children: Sequence[Child], signals: Signals) -> None:
    while not signals.stopping and not any(child.ending for child in children):
        signals.wait([], None)


def _stop_all(children: Sequence[Child], signals: Signals) -> list[str]:
    """Stop the youngest first; names of those that had to be killed."""
    killed = []
    for child in reversed(children):
        process = child.process
        if process.poll() is None:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        while process.poll() is None and (left := deadline - time.monotonic()) > 0:
            signals.wait([], left)
        if process.poll() is None:
            process.kill()
            process.wait()
            killed.append(f"the {child.name}")
        if process.stdout is not None:
            process.stdout.close()
    return killed
