"""What the kernel has counted since boot of stolen processor time and of waiting for disks.

/proc/stat and /proc/diskstats: averages over the whole uptime, so a short crisis does not show and
a long one does. Nothing is measured here (`fsync_probe` does that when it is asked to).
Source: Linux Documentation/filesystems/proc.rst, Documentation/admin-guide/iostats.rst.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import Reader, decode
from vfio_contract.model import CpuTime, DiskTime

STAT = "/proc/stat"
DISKSTATS = "/proc/diskstats"

_HEAD_BYTES = 4096
"""Holds the first line many times over; the rest of the file has a counter for each interrupt."""

_WHOLE = re.compile(
    r"sd[a-z]{1,3}|vd[a-z]{1,3}|xvd[a-z]{1,3}|hd[a-z]|nvme[0-9]+n[0-9]+|mmcblk[0-9]+|dasd[a-z]{1,3}"
)
"""Whole disks: a partition's requests are its disk's."""

_MAX_DISKS = 1024


def collect_cpu_time(reader: Reader) -> CpuTime | None:
    """Of the line that adds up all processors; None when it could not be read."""
    data = reader.data(STAT, limit=_HEAD_BYTES)
    if data is None:
        return None
    found = parse_cpu_time(decode(data))
    if found is None:
        reader.gap(STAT, "no line of all processors with stolen time")
    return found


def parse_cpu_time(text: str) -> CpuTime | None:
    """user nice system idle iowait irq softirq steal; guest time is part of user's."""
    words = text.partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    if not all(w.isascii() and w.isdecimal() and len(w) < 20 for w in words[1:9]):
        return None
    ticks = [int(w) for w in words[1:9]]
    return CpuTime(total=sum(ticks), steal=ticks[7])


def collect_disks(reader: Reader) -> tuple[DiskTime, ...] | None:
    """By name; None when the file could not be read."""
    data = reader.data(DISKSTATS)
    return None if data is None else parse_disks(decode(data))


def parse_disks(text: str) -> tuple[DiskTime, ...]:
    """Whole disks that finished a request."""
    found = []
    for line in text.split("\n"):
        words = line.split()
        if len(words) < 14 or not _WHOLE.fullmatch(words[2]):
            continue
        counts = words[3:14] + (words[18:20] if len(words) >= 20 else [])
        if not all(c.isascii() and c.isdecimal() and len(c) < 20 for c in counts):
            continue
        numbers = [int(c) for c in counts]
        flushes = (numbers[11], numbers[12]) if len(numbers) == 13 else (None, None)
        found.append(
            DiskTime(
                name=words[2],
                reads=numbers[0],
                read_ms=numbers[3],
                writes=numbers[4],
                write_ms=numbers[7],
                flushes=flushes[0],
                flush_ms=flushes[1],
            )
        )
    return tuple(sorted(found, key=lambda d: d.name)[:_MAX_DISKS])
