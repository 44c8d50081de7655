"""The kernel log as evidence: an extract of the lines that a check or the reset ledger can use.

Logs come from the ring buffer, from captured files in every format that `dmesg`, `journalctl` and
syslog write, and from mails that quote them; some are 100 MB of one repeated error. The extract is
made in one pass and keeps, for each kind of line, the first and the last ones, so that a flood of
one kind never hides another: a kind that is not in the extract was not in the log. This module must
never judge what a line means, and never call a log complete that may have lost its beginning.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from vfio_agent.collect.log_extract import KEEP_FIRST, KEEP_LAST, LogExtract
from vfio_agent.collect.log_kinds import KINDS
from vfio_agent.collect.log_line import parse_line, render_kmsg
from vfio_agent.collect.reader import Reader
from vfio_contract.model import KernelLog

__all__ = [
    "CAPTURED_LOG",
    "KEEP_FIRST",
    "KEEP_LAST",
    "KINDS",
    "LIMIT_BYTES",
    "LIVE_LOG",
    "collect_kernel_log",
    "extract_log",
]

CAPTURED_LOG = "/dmesg"
"""A captured root's kernel log is its top-level file `dmesg` (DESIGN, Agent)."""

LIVE_LOG = "/dev/kmsg"

LIMIT_BYTES = 128 << 20
"""How much of a log is read; the largest ring buffer that Linux allows is 32 MiB (log_buf_len)."""

_DROPPED = b" printk messages dropped **"
"""How `render_kmsg` writes records that were overwritten before they could be read."""

_last: dict[tuple[bool, bytes], KernelLog] = {}
"""The log that was read last, by whether it is a ring buffer's and its digest. A host at rest logs
nothing between most looks, and 4,000 lines cost 30 ms."""


def collect_kernel_log(reader: Reader) -> KernelLog | None:
    """The extract of this host's log; None and a gap when it cannot be read.

    The remedy names `sudo dmesg`: the ring buffer is for root where kernel.dmesg_restrict is set.
    """
    path = LIVE_LOG if reader.root.live else CAPTURED_LOG
    data = reader.data(path, limit=LIMIT_BYTES, remedy="sudo dmesg")
    if data is None:
        return None
    key = (reader.root.live, sha256(data).digest())
    known = _last.get(key)
    if known is None:
        known = _extract_ring(data) if reader.root.live else extract_log(data, "dmesg")
        _last.clear()
        _last[key] = known
    return known


def _extract_ring(data: bytes) -> KernelLog:
    """The extract of a ring buffer, which begins where the rest was overwritten."""
    text = render_kmsg(data)
    dropped, last = text.rfind(_DROPPED), text.rstrip(b"\n").rpartition(b"\n")[2]
    # what a gap stands for may be of any time before the line after it
    whole = text if dropped < 0 else text[dropped:].partition(b"\n")[2]
    first = whole.partition(b"\n")[0]
    return replace(
        extract_log(text, "dmesg"),
        first_seconds=parse_line(first).seconds,
        last_seconds=parse_line(last).seconds,
    )


def extract_log(data: bytes, source: str) -> KernelLog:
    """The extract of a log in any format; linear in its size, bounded in what it keeps.

    Of several boots in one file the last counts. Line numbers are those of the file, from 1.
    `from_boot` is False also where the console says that messages of the boot were dropped.
    Lines that lack the prefix which the others carry are not the kernel's and are left out.
    """
    extract = LogExtract()
    extract.feed(data)
    return extract.finish(source)
