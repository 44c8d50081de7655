"""A kernel log ring whose records are given: /dev/kmsg as its ABI document describes it.

Records that were overwritten answer EPIPE once, then the oldest that is left, as the kernel does.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress


class KmsgRing:
    """`write` adds a record and makes the descriptor readable; `lose` overwrites the oldest."""

    def __init__(self, *, first_seq: int = 0) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._records: deque[bytes] = deque()
        self._seq = first_seq
        self._lost = False

    def write(self, text: str, *, seconds: float = 1.0, level: int = 6, rest: str = "") -> int:
        """Its sequence number. `rest` are the lines that follow, each with a space in front."""
        seq = self._seq
        self._seq += 1
        micros = round(seconds * 1_000_000)
        escaped = text.replace("\n", "\\x0a")
        self._records.append(f"{level},{seq},{micros},-;{escaped}\n{rest}".encode())
        os.eventfd_write(self._descriptor, 1)
        return seq

    def lose(self, count: int) -> None:
        """Overwrite records that nobody has read yet."""
        for _ in range(count):
            self._records.popleft()
        self._lost = True
        os.eventfd_write(self._descriptor, 1)

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> bytes:
        if self._lost:
            self._lost = False
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not self._records:
            # readable until it is empty, like the device
            with suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._records.popleft()

    def close(self) -> None:
        os.close(self._descriptor)
