r"""The kernel log as it is written: /dev/kmsg, followed from where it was left.

Each read gives one record, `priority,sequence,microseconds,flags;text\n` and ` KEY=value` lines
that go on with it (Documentation/ABI/testing/dev-kmsg); printk joins the pieces of a line itself.
A place in the log is a boot id and a sequence number. A record that was overwritten before it was
read is told as lost: this module must never skip lines without saying how many, and never take a
line that a process wrote for one of the kernel's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from vfio_agent.collect.kernel_log import LIVE_LOG
from vfio_agent.collect.log_kinds import KINDS, rank_of
from vfio_agent.collect.log_line import ParsedLine, parse_line, render_kmsg
from vfio_agent.diagnosis.prefilter import Prefilter
from vfio_agent.watch.device_events import WORDS, classify
from vfio_agent.watch.signals import LinesLost, Part, Signal, want
from vfio_contract.address import Address
from vfio_contract.model import Gap

NAME = LIVE_LOG

MAX_RECORDS = 250
"""Read at a time, 20 ms of work where every line tells something; the rest is for the next turn."""

RECORD_BYTES = 8192
"""The kernel's CONSOLE_EXT_LOG_MAX; a smaller buffer makes it answer EINVAL."""


_MARKS = tuple(mark for kind in KINDS for mark in kind.marks)


class Ring(Protocol):
    """Where records come from: one for each `read`, oldest first.

    `read` raises BlockingIOError at the end, and BrokenPipeError once when records were lost; it
    goes on with the oldest that is left.
    """

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def read(self) -> bytes:
        """The next record."""

    def close(self) -> None:
        """Give the descriptor back."""


class KernelRing:
    """The running kernel's; OSError where only root may read it (kernel.dmesg_restrict)."""

    def __init__(self, path: str = LIVE_LOG) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """See `Ring`."""
        return self._descriptor

    def read(self) -> bytes:
        """See `Ring`."""
        return os.read(self._descriptor, RECORD_BYTES)

    def close(self) -> None:
        """See `Ring`."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of /dev/kmsg as it is."""

    seq: int
    data: bytes

    def lines(self) -> list[ParsedLine]:
        """Its lines, more than one where the kernel printed several at once."""
        return [parse_line(row) for row in render_kmsg(self.data).splitlines()]


def parse_record(data: bytes) -> Record | None:
    """A record of /dev/kmsg; None for what is none."""
    fields = data.partition(b";")[0].split(b",", 3)
    if len(fields) < 3 or not all(f.isdigit() and len(f) <= 20 for f in fields[:3]):
        return None
    return Record(int(fields[1]), data)


class Kmsg:
    """The source. `after` is the sequence number that was read last in this boot, None for none:
    then all there is in the ring is read, because it happened in this boot and nobody told it."""

    def __init__(self, ring: Ring, *, after: int | None = None) -> None:
        self._ring = ring
        self._after = after
        self._next: int | None = None if after is None else after + 1
        self._passed: tuple[int | None, int | None] = (None, None)
        self._known: Collection[Address] = ()
        self._prefilter = Prefilter((*WORDS, *_MARKS))

    @property
    def last_seq(self) -> int | None:
        """The sequence number read last; None before the first."""
        return self._after

    def know(self, functions: Collection[Address]) -> None:
        """The host's functions, to complete addresses that lines give without a domain."""
        self._known = functions

    def fileno(self) -> int:
        """See `Source`."""
        return self._ring.fileno()

    def due_at(self) -> float:
        """See `Source`."""
        return inf

    def tick(self, now_s: float) -> Sequence[Signal]:
        """See `Source`."""
        return ()

    def read(self) -> Sequence[Signal]:
        """See `Source`."""
        found: list[Signal] = []
        for _ in range(MAX_RECORDS):
            try:
                data = self._ring.read()
            except BlockingIOError:
                found += self._settle()
                break
            except BrokenPipeError:
                continue  # the next sequence number tells how many
            record = parse_record(data)
            if record is not None:
                found += self._take(record)
        return found

    def gaps(self) -> Sequence[Gap]:
        """See `Source`."""
        return ()

    def close(self) -> None:
        """See `Source`."""
        self._ring.close()

    def _settle(self) -> list[Signal]:
        """At the end of the ring: a place beyond it is none of this ring's (a machine that was
        restored from a snapshot), so nobody knows which of these records were told."""
        first, newest = self._passed
        self._passed = (None, None)
        if first is None or newest is None or self._next is None or newest + 1 >= self._next:
            return []
        self._after, self._next = newest, newest + 1
        lost = LinesLost(first, newest)
        return [Signal("the kernel log is another one", want(Part.WHOLE), lost=lost)]

    def _take(self, record: Record) -> list[Signal]:
        if self._next is not None and record.seq < self._next:
            self._passed = (record.seq if self._passed[0] is None else self._passed[0], record.seq)
            return []
        self._passed = (None, None)
        found: list[Signal] = []
        if self._next is not None and record.seq > self._next:
            lost = LinesLost(self._next, record.seq - 1)
            why = f"{lost.count} kernel lines were lost"
            found.append(Signal(why, want(Part.KERNEL_LOG), lost=lost))
        self._after, self._next = record.seq, record.seq + 1
        # most lines say nothing to us, and parsing is what costs
        for line in record.lines() if self._prefilter.find(record.data) else ():
            signal = self._signal_of(line, record.seq)
            if signal is not None:
                found.append(signal)
        return found

    def _signal_of(self, line: ParsedLine, seq: int) -> Signal | None:
        event = classify(line, seq=seq, known=self._known)
        if event is not None:
            return Signal(f"kernel: {event.message} {event.named}".rstrip(), event=event)
        if not line.foreign and rank_of(line.text.lower()) >= 0:
            return Signal("kernel line", want(Part.KERNEL_LOG))
        return None
