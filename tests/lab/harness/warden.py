"""Keeps one emulator for the run that started it, and outlives neither of them.

`warden.py LIMIT_S COMMAND...`: runs the command until it ends, the limit passes, a signal asks, or
standard input is closed, which is what happens when the run dies in whatever way. It takes the
command along even when it is itself killed. Only the standard library, no package: it is started
for every boot. It must never be given a terminal, whose Ctrl-C is the run's to handle.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from types import FrameType

# As timeout(1) has it.
LIMIT_PASSED = 124
POLL_S = 0.1
# From asking to insisting, seconds.
GRACE_S = 5.0


def keep(argv: list[str], *, limit_s: float) -> int:
    """The command's exit code, 128 and the signal's number, or LIMIT_PASSED."""
    end = time.monotonic() + limit_s
    # setpriv: the kernel ends the command when this process is gone, by whatever signal.
    command = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    # Standard input is the run's sign of life; the command must not hold it, nor read it.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if select.select([sys.stdin], [], [], POLL_S)[0]:
                return 128 + signal.SIGHUP
            if time.monotonic() > end:
                return LIMIT_PASSED
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    for wanted in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(wanted, _leave)
    sys.exit(keep(sys.argv[2:], limit_s=float(sys.argv[1])))
