"""Actions that are killed at each commit of the journal, and what a second start makes of them.

Run as a program: `acting_runner.py FOLDER VERB ADDRESS FIRST`. For commit FIRST and each later one
a process is killed just before it, and another one starts on the same journal and asks for the same
id again. Prints a line of JSON for each, the last one for the run that nobody killed. Children are
forked, so that each costs a look and no start of Python.

`acting_runner.py die TOP JOURNAL VERB ADDRESS` does it once, on the host at TOP, and is killed by a
reset, or by what `tests.fakes.pci_kernel` is told.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.fakes.acting_host import ActingHost
from vfio_agent.actuate.reset_trial import ResetResult
from vfio_agent.actuate.steps import Verb
from vfio_agent.hostd.acting import Acting
from vfio_agent.journal import Journal
from vfio_contract.action import ActionReport, unpack_report
from vfio_contract.address import Address
from vfio_contract.artifact import encode
from vfio_contract.durable import ActionEnded, ResetAttempted, encode_event
from vfio_contract.host import Host

ID = "0" * 31 + "1"


def act(
    journal: Journal, host: ActingHost, verb: Verb, address: Address, *, id: str = ID
) -> ActionReport:
    """Start, ask, and wait for the report; the action has the journal as long as that takes."""
    answers: SimpleQueue[ActionReport | BaseException] = SimpleQueue()
    acting = Acting(journal, host.reach(journal), on_end=lambda: None, on_fault=answers.put)
    acting.start()
    acting.submit(id=id, verb=verb, address=address, expected=None, done=answers.put)
    answer = answers.get(timeout=60)
    acting.close()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def tell(journal: Journal, host: ActingHost, report: ActionReport) -> dict[str, Any]:
    """What there is now, as JSON values."""
    events = [spooled.event.payload for spooled in journal.spool.after(0, 1000)]
    ends = [e for e in events if isinstance(e, ActionEnded)]
    keyed = [a.outcome.value for a in journal.attempts() if a.key == report.id]
    return {
        "outcome": report.outcome.value,
        "detail": report.detail,
        "states": [step.state for step in report.steps],
        "driver": host.driver(report.address),
        "files": host.written(),
        "resets": host.resets(),
        "attempts": keyed,
        "told": sum(isinstance(e, ResetAttempted) and e.key == report.id for e in events),
        "ends": [[e.id, e.outcome, unpack_report(e.report).outcome.value] for e in ends],
        "reserved": len(journal.spool.reservations()),
        "open": len(journal.actions.unfinished()),
        "spool": [
            [row.seq, encode_event(row.event).decode()] for row in journal.spool.after(0, 1000)
        ],
        "ledger": [encode(row).decode() for row in journal.attempts()],
    }


def kill_before_commit(journal: Journal, number: int) -> None:
    """Have SQLite's own word of a COMMIT end this process before it counts."""
    left = number

    def watch(statement: str) -> None:
        nonlocal left
        left -= statement == "COMMIT"
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    journal._database._db.set_trace_callback(watch)


def fork(body: Callable[[], None]) -> int:
    """Its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def main(folder: Path, verb: Verb, address: Address, begin: int) -> None:
    """See the module."""
    original = ActingHost(folder / "host").make()
    for number in range(begin, 100):
        place = folder / f"at-{number}"
        shutil.copytree(original.top, place / "host", symlinks=True)
        host = ActingHost(place / "host").relinked()

        def first(place: Path = place, host: ActingHost = host, number: int = number) -> None:
            with closing(Journal.open(place / "journal.db")) as journal:
                kill_before_commit(journal, number)
                act(journal, host, verb, address)

        def second(place: Path = place, host: ActingHost = host, number: int = number) -> None:
            with closing(Journal.open(place / "journal.db")) as journal:
                row = tell(journal, host, act(journal, host, verb, address))
                print(json.dumps({"killed_before": number} | row), flush=True)

        killed = fork(first)
        if fork(second):
            sys.exit(f"the second start failed after a kill before commit {number}")
        if not killed:
            return
        if not os.WIFSIGNALED(killed):
            sys.exit(f"was not killed before commit {number}, but failed")


def die(top: Path, path: Path, verb: Verb, address: Address) -> None:
    """See the module."""
    host = ActingHost(top)
    with closing(Journal.open(path)) as journal:
        reach = replace(host.reach(journal), reset=_kill)
        acting = Acting(journal, reach, on_end=lambda: None, on_fault=print)
        acting.submit(id=ID, verb=verb, address=address, expected=None, done=print)
        threading.Event().wait(60)


def _kill(host: Host, target: Address, *, operation: str) -> ResetResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0] == "die":
        die(Path(words[1]), Path(words[2]), Verb(words[3]), Address(words[4]))
    else:
        main(Path(words[0]), Verb(words[1]), Address(words[2]), int(words[3]))
