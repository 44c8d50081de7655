"""A deadline for every read: sysfs can block for as long as someone holds a device.

Whatever is known to wait where nothing can interrupt it is read by another process
(`reader_process`); this is for all the rest. A whole batch is handed to one daemon worker at once
and the caller only watches that it moves on; an item that does not return in time becomes an error
and a new worker goes on with the rest. The stuck thread is left alone: a thread in an
uninterruptible read cannot be ended. This module must never start a second read of a path whose
first one has not come back.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")

DEADLINE_S = 2.0
"""Seconds that one read may take; a config read that wakes a device from D3cold takes 0.1 s."""

LATER_DEADLINE_S = 0.5
"""Seconds for further reads of a batch in which one has blocked: the cause is mostly the same.

Worst case of a batch is therefore 2 s + 0.5 s for each further blocked read.
"""


class _Run(Generic[T]):
    """One hand-over of paths to a worker; `results` grows by one for each path done."""

    __slots__ = ("abandoned", "failure", "finished", "operation", "paths", "results", "since")

    def __init__(self, operation: Callable[[str], T], paths: Sequence[str]) -> None:
        self.operation = operation
        self.paths = paths
        self.results: list[T | OSError] = []
        self.failure: BaseException | None = None
        self.abandoned = False
        self.finished = Event()
        self.since = monotonic()

    def perform(self) -> None:
        operation, append = self.operation, self.results.append
        try:
            for path in self.paths:
                if self.abandoned:
                    break
                self.since = monotonic()
                try:
                    append(operation(path))
                except OSError as error:
                    # a traceback would keep this run, its operation and the root it is of
                    append(error.with_traceback(None))
                except ValueError as error:
                    # a NUL in a path is an answer about the path, not about us
                    append(OSError(errno.EINVAL, str(error), path))
        except BaseException as error:  # re-raised in the thread that waits
            self.failure = error
        finally:
            self.finished.set()


class _Worker:
    """A daemon thread that takes one run after the other until one of them was abandoned."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[_Run[object] | None] = SimpleQueue()
        Thread(target=self._work, name="collect-read", daemon=True).start()

    def give(self, run: _Run[T]) -> None:
        self._inbox.put(run)  # type: ignore[arg-type]  # results are only ever read by the giver

    def dismiss(self) -> None:
        self._inbox.put(None)

    def _work(self) -> None:
        while (run := self._inbox.get()) is not None:
            run.perform()
            if run.abandoned:
                return
            del run  # its operation would keep the root alive, and with it this thread


_stuck: dict[tuple[str, str], Event] = {}
"""By (scope, path) what a thread of this process still waits for; set when it came back.

Kept for the process and not for a root, because a daemon may open the same root again and again
while one device stays wedged for days.
"""

_stuck_lock = Lock()


class Deadline:
    """Runs batches of path operations so that none can block the caller for long.

    `scope` tells the same path of two roots apart.
    """

    def __init__(self, seconds: float = DEADLINE_S, *, scope: str = "") -> None:
        self._seconds = seconds
        self._scope = scope
        self._lock = Lock()
        self._worker: _Worker | None = None

    def close(self) -> None:
        """Let the idle worker end; the object stays usable."""
        with self._lock:
            if self._worker is not None:
                self._worker.dismiss()
                self._worker = None

    def __del__(self) -> None:
        if self._worker is not None:
            self._worker.dismiss()

    def run(self, operation: Callable[[str], T], paths: Sequence[str]) -> list[T | OSError]:
        """One result or OSError per path, in order; ETIMEDOUT for what did not come back.

        Any other exception of `operation` is raised here.
        """
        with self._lock:
            blocked = self._still_stuck(paths) if _stuck else frozenset[str]()
            if not blocked:
                return self._run(operation, paths)
            free = iter(self._run(operation, [p for p in paths if p not in blocked]))
            return [time_out(p, "still blocked") if p in blocked else next(free) for p in paths]

    def _still_stuck(self, paths: Sequence[str]) -> frozenset[str]:
        with _stuck_lock:
            for key in [key for key, back in _stuck.items() if back.is_set()]:
                del _stuck[key]
            return frozenset(p for p in paths if (self._scope, p) in _stuck)

    def _run(self, operation: Callable[[str], T], paths: Sequence[str]) -> list[T | OSError]:
        results: list[T | OSError] = []
        patience = self._seconds
        while len(results) < len(paths):
            run = _Run(operation, paths[len(results) :])
            if self._worker is None:
                self._worker = _Worker()
            self._worker.give(run)
            if _watch(run, patience):
                results += run.results
                break
            run.abandoned = True
            self._worker = None
            results += run.results[:]
            if len(results) == len(paths):
                break
            path = paths[len(results)]
            with _stuck_lock:
                _stuck[self._scope, path] = run.finished
            results.append(time_out(path, f"blocked for {patience:g} s"))
            patience = min(patience, LATER_DEADLINE_S)
        return results


def run_here(operation: Callable[[str], T], paths: Sequence[str]) -> list[T | OSError]:
    """The same answers without a worker, for operations that cannot block."""
    results: list[T | OSError] = []
    for path in paths:
        try:
            results.append(operation(path))
        except OSError as error:
            results.append(error.with_traceback(None))
    return results


def _watch(run: _Run[T], patience: float) -> bool:
    """Wait until the run has finished; False as soon as one item takes longer than `patience`."""
    while not run.finished.wait(max(0.0, run.since + patience - monotonic())):
        if monotonic() - run.since >= patience:
            return False
    if run.failure is not None:
        raise run.failure
    return True


def time_out(path: str, reason: str) -> OSError:
    """What stands in the place of an answer that did not come."""
    return OSError(errno.ETIMEDOUT, reason, path)
