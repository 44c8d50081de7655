"""How long an fsync takes in one directory, measured because somebody asked for it.

The only thing in `vfioctl check` that writes, and only with `--active`: at most 256 blocks of 4 KiB
and 2 seconds, into a file that has no name from the start or loses it at once, so that nothing is
left behind whatever happens. A storage that hangs is given up after 5 seconds. This module must
never be called on anybody's behalf, nor write where it was not told to.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from time import monotonic

from vfio_agent.collect.deadline import Deadline
from vfio_contract.model import SyncTimes

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 1 << 20
HANG_SECONDS = 5.0

_BLOCK = bytes(4096)
_WITHOUT_DISK = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "proc", "sysfs"})
_MOUNTS = Path("/proc/self/mountinfo")


def measure_fsync(directory: str) -> SyncTimes:
    """Times of synchronous 4 KiB appends there; `error` says why there are none. Never raises."""
    result = Deadline(HANG_SECONDS).run(_measure, (directory,))[0]
    if isinstance(result, OSError):
        reason = result.strerror or str(result)
        if result.errno == errno.ETIMEDOUT:
            reason = f"the storage did not answer within {HANG_SECONDS:.0f} s"
        return SyncTimes(directory, 0, 0.0, 0.0, reason)
    return result


def _measure(directory: str) -> SyncTimes:
    kind = _filesystem_of(directory)
    if kind in _WITHOUT_DISK:
        reason = f"{kind} has no disk below it: name a directory on the VMs' storage"
        return SyncTimes(directory, 0, 0.0, 0.0, reason)
    return time_syncs(directory)


def time_syncs(
    directory: str, *, limit_bytes: int = LIMIT_BYTES, limit_seconds: float = LIMIT_SECONDS
) -> SyncTimes:
    """Append and sync until one of the limits is reached, at least once; OSError as it comes."""
    times: list[float] = []
    descriptor = _open_nameless(directory)
    try:
        end = monotonic() + limit_seconds
        while not times or len(times) * len(_BLOCK) < limit_bytes:
            before = monotonic()
            os.write(descriptor, _BLOCK)
            os.fsync(descriptor)
            after = monotonic()
            times.append((after - before) * 1000)
            if after >= end:
                break
    finally:
        os.close(descriptor)
    times.sort()
    middle, worst = times[len(times) // 2], times[-1]
    return SyncTimes(directory, len(times), round(middle, 3), round(worst, 3), "")


def _open_nameless(directory: str) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # what file systems answer that have no such files (open(2))
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    name = os.path.join(directory, f".vfioctl-{os.getpid()}")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(name)
    return descriptor


def _filesystem_of(directory: str) -> str:
    """The type of the file system there, "" when the kernel does not list it."""
    where = os.stat(directory).st_dev
    wanted = f"{os.major(where)}:{os.minor(where)}"
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except OSError:
        return ""  # then the directory is believed to be on a disk
    for line in lines:
        head, found, tail = line.partition(" - ")
        words = head.split()
        if found and len(words) > 2 and words[2] == wanted:
            return tail.split(None, 1)[0]
    return ""
