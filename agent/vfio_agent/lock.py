"""The lock on an agent's state: one agent at a time.

Two agents on one journal would speak for one node and record every reset twice. The lock is the
kernel's (`flock`), so that it ends with its process however that dies; the text in the file only
tells people who holds it. The file is never removed: a removed lock file can be held twice.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class AlreadyLocked(Exception):
    """Somebody else holds the lock; `holder` is what it wrote about itself, such as `pid 17`."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


class FileLock:
    """A held lock; make one with `FileLock.acquire`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> FileLock:
        """Lock the file, made if missing, without waiting. AlreadyLocked, or OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise AlreadyLocked(holder or "a process that has not named itself") from None
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give it up; a second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
