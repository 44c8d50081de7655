"""The kernel log of a captured host, followed as if its kernel were still talking.

A record for each whole line; a place in the log is the number of a line. This module must never
open anything but the log itself, nor follow a link out of the capture.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from contextlib import suppress

from vfio_agent.collect.kernel_log import CAPTURED_LOG
from vfio_agent.collect.log_line import parse_line
from vfio_agent.watch import inotify
from vfio_agent.watch.inotify import Inotify

_CHANGES = inotify.MODIFY | inotify.CREATE | inotify.MOVED_TO
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LIMIT_BYTES = 1 << 20
"""Read at a time; a log that grows faster is followed more slowly."""

_KERNEL, _PROCESS = 4, 12
"""Priorities: a warning of facility 0, which is the kernel, and of facility 1 (syslog(3))."""


class ReplayedLog:
    """A `Ring`; OSError where `directory` is none that can be watched.

    `after` is the line that was read last, None for never: then what is there is the past.
    """

    def __init__(self, directory: str, *, after: int | None = None) -> None:
        self._path = directory.rstrip("/") + CAPTURED_LOG
        self._records: deque[bytes] = deque()
        self._lines = 0
        self._offset = 0
        self._file = 0
        self._inotify = Inotify()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._either = select.epoll()
        try:
            for descriptor in (self._inotify.fileno(), self._bell):
                self._either.register(descriptor, select.EPOLLIN)
            self._inotify.add(directory, inotify.ONLY_DIRECTORY | _CHANGES)
            while self._grow():
                self._skip(after)
        except BaseException:
            self.close()
            raise

    @property
    def newest(self) -> int | None:
        """The number of the last line so far, None before the first."""
        return self._lines - 1 if self._lines else None

    def fileno(self) -> int:
        """See `Ring`."""
        return self._either.fileno()

    def read(self) -> bytes:
        """See `Ring`."""
        if not self._records:
            self._inotify.read()
            with suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            self._grow()
        if not self._records:
            raise BlockingIOError
        return self._records.popleft()

    def close(self) -> None:
        """See `Ring`."""
        self._either.close()
        os.close(self._bell)
        self._inotify.close()

    def _skip(self, after: int | None) -> None:
        """Forget what was read before; of a log that is shorter than that, nothing was."""
        if after is None:
            self._records.clear()
        elif after < self._lines:
            for _ in range(len(self._records) - (self._lines - 1 - after)):
                self._records.popleft()

    def _grow(self) -> bool:
        """Take the whole lines that were added; another file is read from its start."""
        try:
            descriptor = os.open(self._path, _FLAGS)
        except FileNotFoundError:
            return False
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return False
            if status.st_ino != self._file or status.st_size < self._offset:
                self._file, self._offset, self._lines = status.st_ino, 0, 0
            data = os.pread(descriptor, _LIMIT_BYTES, self._offset)
        finally:
            os.close(descriptor)
        whole = data[: data.rfind(b"\n") + 1]
        for row in whole.splitlines():
            self._records.append(_to_record(row, self._lines))
            self._lines += 1
        self._offset += len(whole)
        if whole:  # readable as long as there is a record that nobody took
            os.eventfd_write(self._bell, 1)
        return bool(whole)


def _to_record(row: bytes, number: int) -> bytes:
    """The line as /dev/kmsg would give it."""
    line = parse_line(row)
    priority = _PROCESS if line.foreign else _KERNEL
    micros = round((line.seconds or 0.0) * 1_000_000)
    text = line.text.encode("utf-8", "backslashreplace")
    return b"%d,%d,%d,-;%s\n" % (priority, number, max(0, micros), text)
