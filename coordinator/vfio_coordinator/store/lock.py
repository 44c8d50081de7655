"""The lock on a state directory: one coordinator at a time.

Two coordinators on one directory would both believe in their epoch. The lock is the kernel's
(`flock`), so that it ends with its process however that dies; the text in the file only tells
people who holds it. It must never be judged by that text, and its file is never removed: a
removed lock file can be held twice.
"""

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from vfio_coordinator.store.interface import StoreInaccessible, StoreLocked

LOCK_NAME = "lock"


class StateLock:
    """A held lock on `directory`; make one with `StateLock.acquire`."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Lock the directory, making it (mode 0700) if it is missing. It does not wait.

        Raises: StoreLocked naming the holder; StoreInaccessible.
        """
        path = directory / LOCK_NAME
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True)
                sync_path(directory.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
        except OSError as err:
            raise StoreInaccessible(
                str(path), f"cannot be opened for writing: {err.strerror}"
            ) from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError as err:
            holder = os.pread(descriptor, 512, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreLocked(
                str(directory), holder or "a process that has not named itself"
            ) from err
        except OSError as err:
            os.close(descriptor)
            raise StoreInaccessible(str(path), f"cannot be locked: {err.strerror}") from err
        return cls(directory, descriptor)

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    def release(self) -> None:
        """Give the directory up. A second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone leaves it to a forked child
            finally:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def sync_path(path: Path) -> None:
    """Make a file, or a directory's entries, durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
