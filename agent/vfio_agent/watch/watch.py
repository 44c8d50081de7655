"""All sources of change together: wait, and be told what to read again and what the kernel said.

One thread waits; any thread may `wake` it. Signals become readings by the schedule and kernel lines
become events by the flood gate, so that neither a chatty host nor a log storm costs more than the
limits say. A source that cannot be opened, or ends, is a gap that is named: the rescan covers it.
This module must never read evidence itself: whoever waits reads what the batch says.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from vfio_agent.collect.kernel_log import CAPTURED_LOG
from vfio_agent.watch import kmsg, uevents, vfio_nodes, vm_files
from vfio_agent.watch.device_events import DeviceEvent
from vfio_agent.watch.flood import FloodGate
from vfio_agent.watch.folders import gap_of
from vfio_agent.watch.kmsg import KernelRing, Kmsg
from vfio_agent.watch.replayed import ReplayedLog
from vfio_agent.watch.schedule import Schedule
from vfio_agent.watch.signals import Happening, LinesLost, Part, Signal, Source, Wanted, want
from vfio_agent.watch.uevents import Uevents
from vfio_agent.watch.vfio_nodes import VfioNodes
from vfio_agent.watch.vm_files import VmFiles
from vfio_contract.address import Address
from vfio_contract.model import Gap

log = logging.getLogger("vfio-agent")

REST_S = 0.05
"""After each turn that found something: a storm costs at most 20 ms of work in 70 ms."""

MAX_WHY = 8

MAX_HAPPENINGS = 1_024
"""Told apart between two batches; what is more is counted without its subject."""

_ENDED = select.POLLHUP | select.POLLNVAL


@dataclass(frozen=True, slots=True)
class Place:
    """How far the kernel log was told: to be kept in one transaction with the batch's events.

    Given back when the agent starts again in the same boot, nothing is told twice and no count is
    lost. `held` are events that wait for their turn; `seq` is None before the first record.
    """

    boot_id: str
    seq: int | None
    held: tuple[DeviceEvent, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What to read, what the kernel said since the last batch, and what it said unheard.

    `why` are the first reasons for the reading, for people. `happened` are the signs since the last
    batch and how often each came.
    """

    wanted: Wanted
    events: tuple[DeviceEvent, ...]
    lost: tuple[LinesLost, ...]
    why: tuple[str, ...]
    place: Place
    happened: tuple[tuple[Happening, int], ...] = ()


class Watch:
    """Takes over its sources, by name. `now` is a clock that does not go back."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        schedule: Schedule,
        *,
        place: Place,
        gaps: Sequence[Gap] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = dict(sources)
        self._schedule = schedule
        self._gate = FloodGate(held=place.held)
        self._boot_id = place.boot_id
        self._seq = place.seq
        self._gaps = list(gaps)
        self._now = now
        self._events: list[DeviceEvent] = []
        self._lost: list[LinesLost] = []
        self._why: dict[str, None] = {}
        self._happened: Counter[Happening] = Counter()
        self._rest_until_s = now()
        self._bell_lock = threading.Lock()
        self._closed = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll, self._bell_poll = select.poll(), select.poll()
        for poll in (self._poll, self._bell_poll):
            poll.register(self._bell, select.POLLIN)
        self._by_descriptor = {s.fileno(): name for name, s in self._sources.items()}
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float) -> Batch | None:
        """The next batch; None after `timeout_s`, or when somebody called `wake`.

        Its reading is counted as done: whoever takes it reads it, or calls `want` again.
        """
        until_s = self._now() + timeout_s
        listened = False
        while True:
            now_s = self._now()
            self._tick(now_s)
            batch = self._gather(now_s)
            if batch is not None or (listened and now_s >= until_s):
                return batch
            listened = True
            due_s = min(self._schedule.due_at(), self._gate.due_at(), self._ticks_at())
            if self._listen(min(until_s, due_s) - now_s):
                return None

    def wake(self) -> None:
        """Let `wait` return, from any thread; after `close` there is nobody to wake."""
        with self._bell_lock:
            if not self._closed:
                os.eventfd_write(self._bell, 1)

    def want(self, wanted: Wanted) -> None:
        """Ask for a reading, also again for one that failed."""
        self._schedule.note(wanted, self._now())

    def want_within(self, seconds: float) -> None:
        """Ask for a reading of the whole host no later than that; for the next one only."""
        self._schedule.read_by(self._now() + seconds)

    def set_interval(self, interval_s: float) -> None:
        """Between two readings of the whole host."""
        self._schedule.set_interval(interval_s)

    def know(self, functions: Collection[Address], *, bound: Collection[Address]) -> None:
        """What the last reading found: all functions, and those on a VFIO driver."""
        for source in self._sources.values():
            match source:
                case Kmsg():
                    source.know(functions)
                case VfioNodes():
                    source.know(bound, self._now())

    def gaps(self) -> tuple[Gap, ...]:
        """What nobody notices now, but for the rescan."""
        return (*self._gaps, *(gap for s in self._sources.values() for gap in s.gaps()))

    def place(self) -> Place:
        """Where the kernel log has been told to."""
        return Place(self._boot_id, self._seq, self._gate.held())

    def close(self) -> None:
        """End all sources. Nobody may be waiting."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        with self._bell_lock:
            self._closed = True
            os.close(self._bell)

    # --- one turn -----------------------------------------------------------------------------

    def _ticks_at(self) -> float:
        return min((s.due_at() for s in self._sources.values()), default=float("inf"))

    def _tick(self, now_s: float) -> None:
        for source in self._sources.values():
            if now_s >= source.due_at():
                self._take(source.tick(now_s), now_s)

    def _listen(self, seconds: float) -> bool:
        """Wait for sources and take what they have; True when somebody woke us."""
        rest_s = self._rest_until_s - self._now()
        if rest_s > 0:
            return self._hear_bell(max(0.0, min(seconds, rest_s)))
        ready = self._poll.poll(_milliseconds(seconds))
        woken = False
        for descriptor, mask in ready:
            if descriptor == self._bell:
                woken = self._hear_bell(0.0)
            else:
                self._read(self._by_descriptor[descriptor], ended=bool(mask & _ENDED))
                self._rest_until_s = self._now() + REST_S
        return woken

    def _hear_bell(self, seconds: float) -> bool:
        if not self._bell_poll.poll(_milliseconds(seconds)):
            return False
        os.eventfd_read(self._bell)
        return True

    def _read(self, name: str, *, ended: bool) -> None:
        source = self._sources[name]
        try:
            self._take(source.read(), self._now())
        except OSError as error:
            self._end(name, gap_of(name, error, "this source of change ended"))
        else:
            if ended:
                self._end(name, Gap(name, 0, "this source of change ended", ""))
        if isinstance(source, Kmsg):
            self._seq = source.last_seq

    def _end(self, name: str, gap: Gap) -> None:
        log.error(
            "%s: %s; changes that it would have told of wait for the rescan", name, gap.reason
        )
        source = self._sources.pop(name)
        self._poll.unregister(source.fileno())
        del self._by_descriptor[source.fileno()]
        source.close()
        self._gaps.append(gap)
        self._schedule.note(want(Part.WHOLE), self._now())

    def _take(self, signals: Sequence[Signal], now_s: float) -> None:
        for signal in signals:
            self._schedule.note(signal.wanted, now_s, confirm=signal.confirm)
            if len(self._why) < MAX_WHY:
                self._why.setdefault(signal.why)
            for what, count in signal.happened:
                known = what in self._happened or len(self._happened) < MAX_HAPPENINGS
                self._happened[what if known else Happening(what.sign)] += count
            if signal.lost is not None:
                self._lost.append(signal.lost)
            told = self._gate.offer(signal.event, now_s) if signal.event is not None else None
            if told is not None:
                self._tell(told, now_s)

    def _tell(self, event: DeviceEvent, now_s: float) -> None:
        self._events.append(event)
        functions = (event.function,) if event.function is not None else ()
        self._schedule.note(want(Part.KERNEL_LOG, functions=functions), now_s)

    def _gather(self, now_s: float) -> Batch | None:
        for event in self._gate.due(now_s):
            self._tell(event, now_s)
        wanted = self._schedule.take(now_s)
        if not (wanted or self._events or self._lost):
            return None
        batch = Batch(
            wanted,
            tuple(self._events),
            tuple(self._lost),
            tuple(self._why),
            self.place(),
            tuple(self._happened.items()),
        )
        self._happened.clear()
        self._events.clear()
        self._lost.clear()
        if wanted:
            self._why.clear()
        return batch


def open_watch(
    *,
    boot_id: str,
    interval_s: float,
    uniform: Callable[[float, float], float],
    place: Place | None = None,
) -> Watch:
    """Watch the running host. `place` is where the log was left, of whatever boot; None for never.

    A boot whose id is not known ("") is always a new one. Whoever calls this reads the whole host
    afterwards: what changed before was not noticed.
    """
    place = _go_on(place, boot_id)
    after, now_s = place.seq, time.monotonic()
    makers: tuple[tuple[str, Callable[[], Source]], ...] = (
        (uevents.NAME, Uevents),
        (kmsg.NAME, lambda: Kmsg(KernelRing(), after=after)),
        (vm_files.NAME, lambda: VmFiles(now_s=now_s)),
        (vfio_nodes.NAME, VfioNodes),
    )
    sources: dict[str, Source] = {}
    gaps: list[Gap] = []
    for name, make in makers:
        try:
            sources[name] = make()
        except OSError as error:
            gaps.append(gap_of(name, error, "changes are not noticed"))
    schedule = Schedule(interval_s=interval_s, now_s=now_s, uniform=uniform)
    return Watch(sources, schedule, place=place, gaps=gaps)


def replay_watch(
    directory: str,
    *,
    boot_id: str,
    interval_s: float,
    uniform: Callable[[float, float], float],
    place: Place | None = None,
) -> Watch:
    """Like `open_watch` for a captured host: lines added to its log are noticed, if it is a
    directory, and anything else by the rescan.

    What its log holds when nobody has watched it before is evidence and no news.
    """
    place = _go_on(place, boot_id)
    sources: dict[str, Source] = {}
    gaps: list[Gap] = []
    try:
        ring = ReplayedLog(directory, after=place.seq)
    except OSError as error:  # a tar, most often
        gaps.append(gap_of(directory, error, "changes are not noticed"))
    else:
        place = place if place.seq is not None else replace(place, seq=ring.newest)
        sources[CAPTURED_LOG] = Kmsg(ring, after=place.seq)
    schedule = Schedule(interval_s=interval_s, now_s=time.monotonic(), uniform=uniform)
    return Watch(sources, schedule, place=place, gaps=gaps)


def _go_on(place: Place | None, boot_id: str) -> Place:
    """Where the log was left, or the beginning of this boot's."""
    known = place is not None and boot_id and place.boot_id == boot_id
    return place if place is not None and known else Place(boot_id, None, ())


def _milliseconds(seconds: float) -> int:
    """Rounded up: a wait that ends a little early would turn round for nothing."""
    return max(0, ceil(min(seconds, 86400.0) * 1000))
