"""The place where hostd listens: a Unix socket that only the permitted user can open.

Two guards, because either may be set up wrongly: the file belongs to that user with mode 0600, and
each connection's uid is asked of the kernel. It must never listen where somebody else could put
another socket in the place of this one, nor take the place of a hostd that runs.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vfio_agent.lock import AlreadyLocked, FileLock

SOCKET = Path("/run/vfioctl/hostd.sock")
"""Where a hostd that is root listens unless it was told otherwise."""

BACKLOG = 4

_UNSAFE = stat.S_IWGRP | stat.S_IWOTH


class SocketError(Exception):
    """The socket cannot be opened: which, why, and what to do."""


@contextmanager
def listen(path: Path, *, owner: int) -> Iterator[socket.socket]:
    """A listening socket at `path` for the uid `owner`; its directory is made if missing."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _require_safe(path.parent)
        lock = FileLock.acquire(path.with_name(path.name + ".lock"))
    except AlreadyLocked as error:
        raise SocketError(f"{path}: another hostd listens there ({error.holder})") from None
    except OSError as error:
        raise SocketError(f"{path}: {error.strerror or error}") from error
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            _bind(listener, path, owner)
            try:
                yield listener
            finally:
                path.unlink(missing_ok=True)
    finally:
        lock.release()


def _require_safe(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & _UNSAFE:
        raise SocketError(
            f"{directory}: uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}: others "
            "could put their own socket there; give hostd a directory that it alone may change"
        )


def _bind(listener: socket.socket, path: Path, owner: int) -> None:
    try:
        if os.path.lexists(path):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise SocketError(f"{path}: something else has this name; move it away")
            path.unlink()  # of a hostd that was killed: the lock is ours
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        if owner != os.geteuid():
            os.chown(path, owner, -1)
        listener.listen(BACKLOG)
    except OSError as error:
        raise SocketError(f"{path}: {error.strerror or error}") from error
