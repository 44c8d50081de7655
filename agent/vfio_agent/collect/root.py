"""The one way to a host's files: the running machine, a captured directory or a captured tar.

A captured host must read exactly like a live one, so every collector takes a `Root` and absolute
paths as on the host. What differs is what a missing file means: on the running host and in our own
captures (which record what was asked) it is proof of absence, `FileNotFoundError`; in a directory
that somebody copied it means nothing, `NotCaptured`. A root must never write, follow a link out of
a capture, or block for longer than the deadline of one read.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from vfio_agent.collect import attribute_reads
from vfio_agent.collect.deadline import DEADLINE_S, Deadline, run_here
from vfio_agent.collect.kvm import DEVICE as KVM_DEVICE
from vfio_agent.collect.kvm import probe_kvm
from vfio_agent.collect.reader_process import READER_PROCESS

T = TypeVar("T")

# named here because inside the classes below `list` is a method
Names = list[str]
ManyBytes = list[bytes | OSError]
ManyNames = list[Names | OSError]
ManyTexts = list[str | OSError]
Many = list[T | OSError]

LIMIT_BYTES = 1 << 20
"""Default size at which one read stops; sysfs attributes have 4 KiB, /proc tables below 1 MiB."""

_CHUNK = 1 << 14
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
_SYSFS_PAGE = 4096
"""Sysfs hands out at most one page per read, so a shorter answer is the end (fs/sysfs/file.c)."""


_HELD_UP = ("/sriov_numvfs", "/driver_override", "/config", "_link_speed", "_link_width")
"""Ends of paths in /sys that the kernel reads under a device's lock, or that wait for the device.

A thread that waits there cannot be ended (facts: Reading).
"""


class NotCaptured(OSError):
    """A captured root does not hold this path, and nobody recorded that it was absent.

    A gap, never an absence. `errno` is 0.
    """

    def __init__(self, path: str) -> None:
        super().__init__(0, "not captured", path)


class Root(Protocol):
    """Where a host's files are. Paths are absolute, as on the host; errors are OSError.

    `FileNotFoundError` means that the path provably does not exist; `NotCaptured` that nobody
    knows. The `_many` forms keep the order, give an error in an item's place, and cost one
    hand-over for the whole batch.
    """

    @property
    def live(self) -> bool:
        """True for the running host: reading has side effects and ENOENT is proof of absence."""

    @property
    def privileged(self) -> bool | None:
        """True when read as root, False when not, None when a capture does not say."""

    def read(self, path: str, *, limit: int = LIMIT_BYTES) -> bytes:
        """The file's bytes, cut at `limit`. /dev/kmsg gives all records there are, in order.

        /dev/kvm gives the answer of `kvm.probe_kvm`.
        """

    def read_many(self, paths: Sequence[str]) -> ManyBytes:
        """Many files in one hand-over; a blocked read does not stop the others."""

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        """PCI config spaces of full length in which all that `config_space` looks at is right.

        The running host reads no more of a device than that (`attribute_reads.gather_config`).
        """

    def list(self, path: str) -> Names:
        """Sorted names in a directory."""

    def list_many(self, paths: Sequence[str]) -> ManyNames:
        """Many directories in one hand-over."""

    def link(self, path: str) -> str:
        """The text of a symbolic link."""

    def link_many(self, paths: Sequence[str]) -> ManyTexts:
        """Many links in one hand-over."""

    def real(self, path: str) -> str:
        """The path without links, resolved inside the root; ELOOP on cycles."""

    def real_many(self, paths: Sequence[str]) -> ManyTexts:
        """Many canonical paths in one hand-over."""

    def modified(self, path: str) -> int:
        """When the file's content last changed, in seconds since 1970."""

    def authoritative(self, path: str) -> bool:
        """True when a missing `path` is proof that the host did not have it."""


class GuardedRoot(ABC):
    """The forms of `Root` for one path and for many, over four operations with a deadline.

    `deadline_s` None is for files in memory, which cannot block; `scope` is the directory that
    stands for `/`.
    """

    def __init__(self, deadline_s: float | None, *, scope: str = "") -> None:
        self._deadline = None if deadline_s is None else Deadline(deadline_s, scope=scope)

    @abstractmethod
    def _load(self, path: str, limit: int = LIMIT_BYTES) -> bytes: ...

    @abstractmethod
    def _names(self, path: str) -> Names: ...

    @abstractmethod
    def _target(self, path: str) -> str: ...

    @abstractmethod
    def _canonical(self, path: str) -> str: ...

    @abstractmethod
    def _changed(self, path: str) -> int: ...

    def _many(self, operation: Callable[[str], T], paths: Sequence[str]) -> Many[T]:
        if self._deadline is not None:
            return self._deadline.run(operation, paths)
        return run_here(operation, paths)

    def _one(self, operation: Callable[[str], T], path: str) -> T:
        result = self._many(operation, (path,))[0]
        if isinstance(result, OSError):
            try:
                raise result
            finally:
                del result  # its traceback keeps this frame, which would keep it and the root
        return result

    def read(self, path: str, *, limit: int = LIMIT_BYTES) -> bytes:
        """See `Root`."""
        return self._one(lambda p: self._load(p, limit), path)

    def list(self, path: str) -> Names:
        """See `Root`."""
        return self._one(self._names, path)

    def link(self, path: str) -> str:
        """See `Root`."""
        return self._one(self._target, path)

    def real(self, path: str) -> str:
        """See `Root`."""
        return self._one(self._canonical, path)

    def modified(self, path: str) -> int:
        """See `Root`."""
        return self._one(self._changed, path)

    def read_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        return self._many(self._load, paths)

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        return self.read_many(paths)

    def list_many(self, paths: Sequence[str]) -> ManyNames:
        """See `Root`."""
        return self._many(self._names, paths)

    def link_many(self, paths: Sequence[str]) -> ManyTexts:
        """See `Root`."""
        return self._many(self._target, paths)

    def real_many(self, paths: Sequence[str]) -> ManyTexts:
        """See `Root`."""
        return self._many(self._canonical, paths)


class LiveRoot(GuardedRoot):
    """The running host: plain system calls. `prefix` is for tests; links may then leave it."""

    def __init__(self, prefix: str = "", *, deadline_s: float = DEADLINE_S) -> None:
        self._prefix = prefix.rstrip("/")
        self._seconds = deadline_s
        super().__init__(deadline_s, scope=self._prefix)

    @property
    def live(self) -> bool:
        """See `Root`."""
        return True

    @property
    def privileged(self) -> bool | None:
        """See `Root`."""
        return os.geteuid() == 0

    def authoritative(self, path: str) -> bool:
        """See `Root`."""
        return True

    def node(self, path: str) -> tuple[str, int, int] | None:
        """(`c` or `b`, major, minor) of a device node; None for anything else. Never opens it."""
        status = os.lstat(self._prefix + path)
        if stat.S_ISCHR(status.st_mode):
            kind = "c"
        elif stat.S_ISBLK(status.st_mode):
            kind = "b"
        else:
            return None
        return kind, os.major(status.st_rdev), os.minor(status.st_rdev)

    def _load(self, path: str, limit: int = LIMIT_BYTES) -> bytes:
        if path == "/dev/kmsg":
            return read_kmsg(self._prefix + path, limit)
        if path == KVM_DEVICE:
            return probe_kvm(self._prefix + path)
        descriptor = os.open(self._prefix + path, _FLAGS)
        try:
            data = os.read(descriptor, _CHUNK if limit > _CHUNK else limit)
            if len(data) < _SYSFS_PAGE and path.startswith("/sys/"):
                return data
            return _read_rest(descriptor, data, limit)
        finally:
            os.close(descriptor)

    def read(self, path: str, *, limit: int = LIMIT_BYTES) -> bytes:
        """See `Root`."""
        if not _is_held_up(path):
            return super().read(path, limit=limit)
        result = self._read_apart(attribute_reads.TEXT, (path,))[0]
        if isinstance(result, OSError):
            try:
                raise result
            finally:
                del result
        return result[:limit]

    def read_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        apart = [path for path in paths if _is_held_up(path)]
        if not apart:
            return super().read_many(paths)
        waited = iter(self._read_apart(attribute_reads.TEXT, apart))
        others = iter(super().read_many([path for path in paths if not _is_held_up(path)]))
        return [next(waited if _is_held_up(path) else others) for path in paths]

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        return self._read_apart(attribute_reads.CONFIG, paths)

    def _read_apart(self, kind: str, paths: Sequence[str]) -> ManyBytes:
        places = [self._prefix + path for path in paths]
        return READER_PROCESS.run(kind, places, seconds=self._seconds)

    def _names(self, path: str) -> Names:
        return sorted(os.listdir(self._prefix + path))

    def _target(self, path: str) -> str:
        return os.readlink(self._prefix + path)

    def _canonical(self, path: str) -> str:
        found = os.path.realpath(self._prefix + path, strict=True)
        return found.removeprefix(os.path.realpath(self._prefix)) if self._prefix else found

    def _changed(self, path: str) -> int:
        return int(os.stat(self._prefix + path).st_mtime)


def _is_held_up(path: str) -> bool:
    return path.endswith(_HELD_UP) and path.startswith("/sys/")


def _read_rest(descriptor: int, data: bytes, limit: int) -> bytes:
    if not data:
        return data
    parts = [data]
    left = limit - len(data)
    while left > 0 and (part := os.read(descriptor, min(_CHUNK, left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_kmsg(path: str, limit: int) -> bytes:
    """All records of a kmsg device as they are, oldest first (Documentation/ABI/testing/dev-kmsg).

    Each read gives one record; EPIPE says that the oldest was overwritten while reading; EAGAIN is
    the end. An ordinary file (a test's) is read as a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return _read_rest(descriptor, os.read(descriptor, min(_CHUNK, limit)), limit)
        parts: list[bytes] = []
        left = limit
        while left > 0:
            try:
                record = os.read(descriptor, 8192)  # CONSOLE_EXT_LOG_MAX of the kernel
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue
                raise
            if not record:
                break
            parts.append(record)
            left -= len(record)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def open_root(path: str) -> Root:
    """`/` is the running host, a directory a captured tree, a file a captured tar.

    OSError when there is no such file; `tar_root.BadCapture` (an OSError) when the file is not a
    tar or exceeds the caps.
    """
    if not os.path.abspath(path).strip("/"):
        return LiveRoot()
    # imported here because both stand on this module, and the running host needs neither
    from vfio_agent.collect.tar_root import TarRoot
    from vfio_agent.collect.tree_root import DirectoryRoot

    if os.path.isdir(path):
        return DirectoryRoot(path)
    return TarRoot(path)
