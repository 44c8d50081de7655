"""A process that records resets without end and says what was acknowledged, to be killed by a test.

Run as a program: `journal_writer.py JOURNAL`. It prints `ready STATE_ID`, then `NUMBER` for each
attempt once it is recorded; every fifth number it also obeys the fence of that epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vfio_agent.journal import Fence, Journal
from vfio_contract.ledger import Outcome, ResetAttempt

BOOT = "boot-of-the-writer"
DEVICES = 3


def attempt(number: int) -> ResetAttempt:
    """Attempt `number` of the writer's devices in turn."""
    return ResetAttempt(
        key=f"line-{number}",
        identity=f"device-{number % DEVICES}",
        firmware="F10",
        boot_id=BOOT,
        method="flr",
        outcome=Outcome.FAILED,
        evidence=f"attempt {number} " + "x" * 200,
    )


def main(path: Path) -> None:
    journal = Journal.open(path)
    print("ready", journal.state_id, flush=True)
    number = sum(tried for tried, _ in journal.totals().values())
    while True:
        number += 1
        journal.record([attempt(number)], boot_id=BOOT)
        if number % 5 == 0:
            journal.obey(Fence("cluster", 1, number))
        print(number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
