"""What the agent's processes have in common: how they are asked to end and how they say why.

A wrong argument, bundle or root ends a process with one line that names the fix and status 64, a
file or socket that cannot be used with one line and status 2. A fault of our own ends it with its
traceback and status 70, so that whoever supervises it starts it again.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

EXIT_FAILED = 2
EXIT_USAGE = 64
EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h, beside EX_USAGE."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""

_KEPT_BYTES = 256 * 1024
_APART_BYTES = 4 * 1024 * 1024
"""What the C library may keep at its heap's end, and from which size a block is the kernel's own: a
look's text of 0.1 MB that was would cost 5% more processor time."""


class Parser(argparse.ArgumentParser):
    """Wrong usage is one line and status 64, as everywhere in `vfioctl`."""

    def error(self, message: str) -> NoReturn:
        """See the class."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see: {self.prog} --help\n")


def start_log() -> None:
    """What happens, with its time, on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def spare_memory() -> None:
    """Have the C library give back what a look or a session needed for a moment.

    It would keep more each time that a large block is freed, and a heap of its own for every thread
    that allocates. For a process at its start; a C library without these settings stays as it is.
    """
    settle = getattr(ctypes.CDLL(None), "mallopt", None)
    if settle is not None:
        settle(_M_ARENA_MAX, 1)
        settle(_M_MMAP_THRESHOLD, _APART_BYTES)
        settle(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def say(program: str, error: object, status: int) -> int:
    """One line about what is wrong; the status."""
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def run_until_stopped(
    program: str,
    run: Callable[[], int | None],
    *,
    stop: Callable[[], None],
    expected: tuple[type[Exception], ...],
    silent: tuple[type[Exception], ...] = (),
) -> int:
    """Run until SIGTERM or SIGINT has `stop` called; the exit status, 0 where `run` names none.

    `expected` errors are one line, `silent` ones were told by somebody else; any other is a fault
    of our own.
    """
    _stop_on_signals(stop)
    try:
        status = run()
    except silent:
        return EXIT_FAILED
    except expected as error:
        return say(program, error, EXIT_FAILED)
    except Exception:
        logging.getLogger("vfio-agent").critical(
            "ending on a fault of the agent itself", exc_info=True
        )
        return EXIT_FAULT
    # Python gives its handlers back while it ends: one more SIGTERM would then kill a clean end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return status or 0


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and SIGINT ask for a clean end, whichever thread the kernel hands them to.

    Python runs a handler only on the main thread, and nothing wakes that one where another thread
    took the signal: it would wait for the next look at the host. The file descriptor is written by
    the C handler itself.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def watch() -> None:
        os.read(reading, 1)
        stop()

    threading.Thread(target=watch, name="signals", daemon=True).start()
