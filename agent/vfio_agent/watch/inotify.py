"""inotify(7) by ctypes: three calls of libc and one structure.

A dependency for this would have to be trusted by the process that is root. This module must never
hide that the kernel dropped something: an overflow is a notice as well.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MODIFY = 0x2
OPEN = 0x20
CLOSE_WRITE = 0x8
CLOSE_NOWRITE = 0x10
ATTRIB = 0x4
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_DIRECTORY = 0x0100_0000
MASK_ADD = 0x2000_0000
DIRECTORY = 0x4000_0000
"""include/uapi/linux/inotify.h"""

ENDED = DELETE_SELF | MOVE_SELF | UNMOUNT | IGNORED
"""The watched directory is not at its path any more."""

_HEAD = struct.Struct("=iIII")
"""struct inotify_event: watch, mask, cookie, length of the name that follows."""

_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened below a watched directory; `watch` is -1 and `mask` OVERFLOW when notices were
    dropped. `name` is "" for the directory itself."""

    watch: int
    mask: int
    name: str


def parse_notices(data: bytes) -> Iterator[Notice]:
    """The notices in what one read gave; what is cut off at its end is left out."""
    place = 0
    while place + _HEAD.size <= len(data):
        watch, mask, _, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        name = data[place : place + length].split(b"\0", 1)[0]
        place += length
        yield Notice(watch, mask, os.fsdecode(name))


class Inotify:
    """One inotify instance; OSError (EMFILE) when this user has too many."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._descriptor

    def add(self, path: str, mask: int) -> int:
        """Watch a path; the same directory gives the same number. OSError if it cannot be."""
        encoded = os.fsencode(path)
        added = self._libc.inotify_add_watch(self._descriptor, encoded, ctypes.c_uint32(mask))
        return self._check(added, path)

    def remove(self, watch: int) -> None:
        """Watch it no longer; OSError when the kernel has removed it already."""
        self._check(self._libc.inotify_rm_watch(self._descriptor, watch))

    def read(self) -> list[Notice]:
        """What happened since the last read, as far as it fits the buffer; never blocks."""
        try:
            return list(parse_notices(os.read(self._descriptor, _BUFFER_BYTES)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def _check(self, result: int, path: str | None = None) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return result
