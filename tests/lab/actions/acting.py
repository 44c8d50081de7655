"""The hands through their own door: `vfioctl device ...` in the guest, whose agent acts.

And the agent's death on the way: an action is let go until the journal shows that it came so far,
then what is to die is killed. Nothing here decides or retries; every answer is the product's.
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.actions import agent
from vfio_cli.main import run

JOURNAL = agent.STATE / "journal.db"
# A command, a hostd that starts anew, and what both look at, on a busy host.
LIMIT_S = 180
POLL_S = 0.01
# A reset test is on record; what is told of it if nobody comes back is; the process that makes it
# runs; its end is on record.
RESET_STEPS = ("asked", "foreseen", "making", "ended")
CHILD = b"vfio_agent.actuate.reset_child"

_commands: list[subprocess.Popen[bytes]] = []


def device(*, verb: str, address: str, options: list[str]) -> dict[str, Any]:
    """`vfioctl device VERB ADDRESS -o json` in this process, which spares an emulated machine the
    start of another: {"status", "report", "err"}."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["device", verb, address, "-o", "json", *options])
    text = out.getvalue()
    return {"status": status, "report": json.loads(text or "{}"), "err": err.getvalue()}


def begin(*, verb: str, address: str) -> None:
    """Start `vfioctl device VERB ADDRESS -o json` as a process of its own."""
    out, err = Path("/tmp/acting.out"), Path("/tmp/acting.err")
    argv = ["vfio_cli.main", "device", verb, address, "-o", "json"]
    with out.open("w") as written, err.open("w") as said:
        _commands.append(
            subprocess.Popen([sys.executable, "-m", *argv], stdout=written, stderr=said)
        )


def end() -> dict[str, Any]:
    """What that command says in the end: {"status", "out", "err"}."""
    status = _commands.pop().wait(LIMIT_S)
    out, err = Path("/tmp/acting.out"), Path("/tmp/acting.err")
    return {"status": status, "out": out.read_text(), "err": err.read_text()}


def kill_at(*, before: str, step: int | None, which: list[str]) -> dict[str, Any]:
    """Once there is another action than `before` and its diary has a line of this step, -1 for its
    end, None for the intent of the whole: kill these of the agent's.

    {"id": the action's, "last": [[step, state]] of the last line then, [] for none}.
    """
    with _journal() as journal:
        limit = time.monotonic() + LIMIT_S
        while (id := _newest(journal)) == before or not _has_come_to(journal, id, step):
            if time.monotonic() > limit:
                raise TimeoutError(f"{id} has not come to {step}: {_lines(journal, id)}")
            time.sleep(POLL_S)
        for each in which:
            agent.kill(which=each)
        return {"id": id, "last": _lines(journal, id)[-1:]}


def kill_in_reset(*, before: str, step: str) -> dict[str, str]:
    """Once there is another action than `before`, a reset test, and it came to this step of
    RESET_STEPS: kill hostd. {"id": the action's, "last": the step at which it was found dead}."""
    with _journal() as journal:
        limit = time.monotonic() + LIMIT_S
        while (id := _newest(journal)) == before or not _is_at(journal, id, step):
            if time.monotonic() > limit:
                raise TimeoutError(f"{id} has not come to {step}")
            time.sleep(POLL_S)
        agent.kill(which=agent.HOSTD)
        return {"id": id, "last": [s for s in RESET_STEPS if _is_at(journal, id, s)][-1]}


def newest() -> str:
    """The id of the action that was asked for last, "" for none."""
    with _journal() as journal:
        return _newest(journal)


def kept(*, id: str) -> dict[str, Any]:
    """What the journal keeps of an action: {"reports", "operations", "attempts": how many}."""
    with _journal() as journal:
        return {
            "reports": _number(
                journal,
                "SELECT count(*) FROM actions WHERE id = ? AND report IS NOT NULL",
                id,
            ),
            "operations": _number(journal, "SELECT count(*) FROM operations WHERE id = ?", id),
            "attempts": _number(journal, "SELECT count(*) FROM attempts WHERE key = ?", id),
        }


def _newest(journal: sqlite3.Connection) -> str:
    rows = journal.execute("SELECT id FROM actions ORDER BY rowid DESC LIMIT 1").fetchall()
    return str(rows[0][0]) if rows else ""


def _has_come_to(journal: sqlite3.Connection, id: str, step: int | None) -> bool:
    return step is None or step in {at for at, _ in _lines(journal, id)}


def _is_at(journal: sqlite3.Connection, id: str, step: str) -> bool:
    asked, _, making, ended = RESET_STEPS
    if step == making:
        return any(CHILD in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))
    ((loss, report),) = journal.execute(
        "SELECT loss, report FROM actions WHERE id = ?", (id,)
    ).fetchall() or [(None, None)]
    if step == ended:
        return report is not None
    return step == asked or bool(loss and json.loads(loss)["attempts"])


def _lines(journal: sqlite3.Connection, id: str) -> list[tuple[int, str]]:
    return journal.execute(
        "SELECT step, state FROM operation_entries WHERE operation = ? ORDER BY seq", (id,)
    ).fetchall()


def _number(journal: sqlite3.Connection, query: str, id: str) -> int:
    return int(journal.execute(query, (id,)).fetchone()[0])


@contextmanager
def _journal() -> Iterator[sqlite3.Connection]:
    """The journal while its owner writes it."""
    with contextlib.closing(sqlite3.connect(f"file:{JOURNAL}?mode=ro", uri=True)) as journal:
        yield journal


def config_space(*, address: str) -> str:
    """The function's standard header and capabilities, 256 bytes, in hexadecimal."""
    return (Path("/sys/bus/pci/devices") / address / "config").read_bytes()[:256].hex()
