"""Journals and their rows for tests, and the writer that tests kill."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from vfio_agent.journal import Journal
from vfio_contract.ledger import Outcome, ResetAttempt

BOOT = "boot-1"

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where thousands of syncs cost nothing: for what they order, not for what a disk keeps."""


def attempt(
    number: int = 1,
    outcome: Outcome = Outcome.FAILED,
    *,
    identity: str = "dsn-1.0",
    firmware: str = "F10",
    boot: str = BOOT,
) -> ResetAttempt:
    return ResetAttempt(
        key=f"line-{number}",
        identity=identity,
        firmware=firmware,
        boot_id=boot,
        method="flr",
        outcome=outcome,
        evidence=f"[{number:12.6f}] not ready",
        place=f"8086:10c9@\\_SB_.PCI0/{identity}",
    )


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    with closing(Journal.open(path)) as journal:
        yield journal


@contextmanager
def reading(path: Path) -> Iterator[Journal]:
    journal = Journal.open_readonly(path)
    assert journal is not None
    with closing(journal):
        yield journal


def contents(path: Path) -> dict[str, str]:
    """Digest by name of everything that belongs to the journal, its lock apart."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.parent.iterdir()
        if not file.name.endswith((".lock", "-shm"))
    }


def start_writer(path: Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("journal_writer.py")
    writer = subprocess.Popen(
        [sys.executable, str(script), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline().startswith("ready ")
    return writer


def kill_after(writer: subprocess.Popen[str], lines: int) -> int:
    """SIGKILL it once it printed that many numbers; the last that was acknowledged."""
    assert writer.stdout is not None
    printed = [writer.stdout.readline() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    with writer:
        printed += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return max(int(line) for line in printed if line.endswith("\n"))
