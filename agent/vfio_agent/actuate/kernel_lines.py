"""The kernel's lines of one moment: what it says between an opening and a reading of its log.

/dev/kmsg is opened at its end, so that nothing earlier is read and nothing between is missed. This
module must never take "could not be read" for "said nothing": that is None.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from vfio_agent.collect.log_line import parse_line, render_kmsg
from vfio_contract.model import LogLine

KMSG = "/dev/kmsg"
_RECORD_BYTES = 8192
"""CONSOLE_EXT_LOG_MAX (include/linux/printk.h): a read gives one record, EINVAL if it is larger."""


class KernelLines:
    """A window on the log, open from construction to the end of its `with`."""

    def __init__(self, path: str = KMSG) -> None:
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError:
            self.close()

    def read(self) -> tuple[LogLine, ...] | None:
        """The kernel's own lines since; None where they could not be read or some were lost."""
        if self._descriptor < 0:
            return None
        data = bytearray()
        while True:
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    break
                return None  # EPIPE: records were overwritten before they were read
            if not record:
                break
            data += record
        rows = (parse_line(row) for row in render_kmsg(bytes(data)).splitlines())
        return tuple(
            LogLine(number, row.seconds, row.text)
            for number, row in enumerate((r for r in rows if r.text and not r.foreign), 1)
        )

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> KernelLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
