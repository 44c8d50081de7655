"""A process that carries one operation out on a tree, to be killed by a test at any moment.

Run as a program: `actuate_runner.py TOP FOLDER WHEN NUMBER`. TOP is the tree, or `/` for the host
itself. The operation is in `FOLDER/operation`, the diary in `FOLDER/diary`. WHEN is `before` the
diary's NUMBERth line, where the process kills itself, or `never`; it prints how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from vfio_agent.actuate.execution import Outcome, resume
from vfio_agent.actuate.hands import Hands, Tools
from vfio_agent.actuate.records import Entry, Operation, State
from vfio_agent.actuate.steps import decode_plan, encode_plan

KERNEL = Path(__file__).resolve().parents[1] / "fakes" / "pci_kernel.py"
BOOT = "boot-1"


class FileDiary:
    """One JSON line a record, each on disk before the call returns."""

    def __init__(self, path: Path, *, when: str = "never", number: int = 0) -> None:
        self._path = path
        self._when, self._number = when, number
        self._written = 0

    def begin(self, operation: Operation) -> None:
        if not self._path.exists():
            self._append({"operation": operation.id})

    def note(self, entry: Entry) -> None:
        self._append(asdict(entry))

    def entries(self) -> list[Entry]:
        if not self._path.exists():
            return []
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [Entry(**row | {"state": State(row["state"])}) for row in rows if "state" in row]

    def _append(self, row: dict[str, object]) -> None:
        self._written += 1
        if (self._when, self._written) == ("before", self._number):
            os.kill(os.getpid(), signal.SIGKILL)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, (json.dumps(row) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hands_on(top: Path, *, deadline_s: float = 30.0) -> Hands:
    """Hands on a tree of files, with the kernel of `tests/fakes/pci_kernel.py` behind it.

    On `/` those of the product.
    """
    if top == Path("/"):
        return Hands(deadline_s=deadline_s)
    write = (sys.executable, "-I", "-S", str(KERNEL), str(top))
    return Hands(top, tools=Tools(write=write, modprobe=("true",)), deadline_s=deadline_s)


def save(folder: Path, operation: Operation) -> None:
    """Put the operation where the program finds it."""
    text = json.dumps([operation.id, operation.boot_id, encode_plan(operation.plan)])
    (folder / "operation").write_text(text)


def run(top: Path, diary: FileDiary, *, folder: Path | None = None, boot_id: str = BOOT) -> Outcome:
    """Go on with the operation in `folder`, else in `top`, whatever was done of it before."""
    number, boot, plan = json.loads(((folder or top) / "operation").read_text())
    operation = Operation(number, boot, decode_plan(plan))
    return resume(operation, diary.entries(), hands_on(top), diary, boot_id=boot_id)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    kept = FileDiary(place / "diary", when=sys.argv[3], number=int(sys.argv[4]))
    print(run(Path(sys.argv[1]), kept, folder=place).state)
