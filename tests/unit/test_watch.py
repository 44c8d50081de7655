"""All sources together: what a daemon that waits is told, also across its own crashes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

import pytest

from tests.fakes.kmsg_ring import KmsgRing
from vfio_agent.watch import Batch, Part, Place, Wanted, Watch, open_watch, want
from vfio_agent.watch.device_events import DeviceEvent
from vfio_agent.watch.flood import BURST
from vfio_agent.watch.kmsg import Kmsg
from vfio_agent.watch.schedule import Schedule
from vfio_agent.watch.signals import NOTHING, Happening, Sign, Signal, Source
from vfio_agent.watch.watch import MAX_HAPPENINGS
from vfio_contract.address import Address
from vfio_contract.artifact import decode, encode
from vfio_contract.model import Gap

GPU = Address("0000:01:00.0")
GAVE_UP = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
NEVER = Place("boot", None, ())
LIMIT_S = 20.0


def late(low: float, high: float) -> float:
    return high


class Clock:
    """Each look at it moves it on, so that whoever only waits gets there."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 0.1
        return self.now_s


class Scripted:
    """A source that gives what the test says, once; an error ends it."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._next: list[Signal] | OSError = []
        self.ticks: list[float] = []
        self.next_tick_s = inf
        self.closed = False

    def give(self, answer: list[Signal] | OSError) -> None:
        self._next = answer
        os.eventfd_write(self._descriptor, 1)

    def fileno(self) -> int:
        return self._descriptor

    def due_at(self) -> float:
        return self.next_tick_s

    def read(self) -> Sequence[Signal]:
        os.eventfd_read(self._descriptor)
        if isinstance(self._next, OSError):
            raise self._next
        return self._next

    def tick(self, now_s: float) -> Sequence[Signal]:
        self.ticks.append(now_s)
        self.next_tick_s = inf
        return [Signal("looked", want(Part.VMS))]

    def gaps(self) -> Sequence[Gap]:
        return (Gap("scripted", 0, "half blind", ""),)

    def close(self) -> None:
        self.closed = True
        os.close(self._descriptor)


Make = Callable[..., Watch]


@pytest.fixture
def make() -> Iterator[Make]:
    opened: list[Watch] = []

    def make(
        sources: Mapping[str, Source], *, clock: Clock | None = None, place: Place = NEVER
    ) -> Watch:
        now = clock or Clock()
        schedule = Schedule(interval_s=1e9, now_s=now(), uniform=late)
        opened.append(Watch(sources, schedule, place=place, now=now))
        return opened[-1]

    yield make
    for watch in opened:
        watch.close()


def take(watch: Watch, times: int = 30) -> list[Batch]:
    """What comes in so many turns; on a scripted clock each is at least 0.1 s."""
    batches = (watch.wait(0.0) for _ in range(times))
    return [batch for batch in batches if batch is not None]


def wanted_of(batches: Sequence[Batch]) -> Wanted:
    found = NOTHING
    for batch in batches:
        found |= batch.wanted
    return found


def test_a_fault_is_told_at_once_and_its_function_read(make: Make) -> None:
    ring = KmsgRing()
    watch = make({"kmsg": Kmsg(ring)})
    ring.write(GAVE_UP)
    first, *rest = take(watch)
    (event,) = first.events
    assert (event.message, event.function) == ("not-ready-gave-up", GPU)
    assert first.place == Place("boot", 0, ())
    assert wanted_of([first, *rest]) == want(Part.KERNEL_LOG, functions=(GPU,))
    assert all(batch.events == () for batch in rest)


def test_an_address_without_a_domain_is_known_after_the_first_reading(make: Make) -> None:
    ring = KmsgRing()
    watch = make({"kmsg": Kmsg(ring)})
    watch.know([GPU], bound=[])
    ring.write("DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x7c3e5000")
    assert [e.function for batch in take(watch) for e in batch.events] == [GPU]


def test_lost_lines_are_told(make: Make) -> None:
    ring = KmsgRing()
    watch = make({"kmsg": Kmsg(ring, after=5)}, place=Place("boot", 5, ()))
    for _ in range(10):
        ring.write(GAVE_UP)
    ring.lose(8)
    batches = take(watch)
    assert [(lost.first, lost.last) for batch in batches for lost in batch.lost] == [(6, 7)]
    assert sum(e.count for batch in batches for e in batch.events) == 2


def test_signs_are_counted_and_none_is_lost(make: Make) -> None:
    source = Scripted()
    watch = make({"scripted": source})
    added = Happening(Sign.ADDED, GPU)
    closed = [Happening(Sign.CLOSED, f"/dev/vfio/{n}") for n in range(MAX_HAPPENINGS + 4)]
    signs = ((added, 2), *((sign, 1) for sign in closed), (added, 1))
    source.give([Signal("odd", want(Part.WHOLE), happened=signs)])
    (batch,) = [batch for batch in take(watch) if batch.happened]
    told = dict(batch.happened)
    assert len(told) == MAX_HAPPENINGS + 1
    assert (told[added], told[Happening(Sign.CLOSED)]) == (3, 5)


@pytest.mark.parametrize("crash_after", range(12))
def test_no_line_is_told_twice_and_none_is_lost_whenever_it_crashes(
    make: Make, crash_after: int
) -> None:
    """The daemon keeps events and place of a batch together; here after so many batches."""
    lines = 60
    kept: list[DeviceEvent] = []
    place = NEVER

    def start() -> Watch:
        ring = KmsgRing()
        for number in range(lines):
            ring.write(
                f"vfio-pci 0000:{number % 3:02x}:00.0: not ready 65535ms after FLR; giving up"
            )
        return make({"kmsg": Kmsg(ring, after=place.seq)}, place=place)

    for turns in (crash_after, 1000):
        watch = start()
        for _ in range(turns):
            batch = watch.wait(0.0)
            if batch is not None:
                kept += batch.events
                place = batch.place
    assert sum(event.count for event in kept) == lines
    assert place == Place("boot", lines - 1, ())
    told = sorted((event.seq, event.last_seq) for event in kept if event.count == 1)
    assert len(told) == len(set(told))


def test_a_storm_is_a_few_events_and_few_readings(make: Make) -> None:
    ring = KmsgRing()
    clock = Clock()
    watch = make({"kmsg": Kmsg(ring)}, clock=clock)
    began = clock.now_s
    batches: list[Batch] = []
    for _ in range(100):
        for _ in range(50):
            ring.write(GAVE_UP)
        batches += take(watch, 1)
    batches += take(watch, 200)
    events = [event for batch in batches for event in batch.events]
    seconds = clock.now_s - began
    assert sum(event.count for event in events) == 5000
    assert len(events) <= BURST + seconds / 10 + 1
    readings = [batch for batch in batches if batch.wanted]
    assert len(readings) <= 2 * len(events) + 4


def test_a_source_that_ends_is_a_gap_and_the_others_go_on(make: Make) -> None:
    broken, other = Scripted(), Scripted()
    watch = make({"netlink:uevent": broken, "other": other})
    assert [gap.path for gap in watch.gaps()] == ["scripted", "scripted"]
    broken.give(OSError(5, "Input/output error"))
    assert wanted_of(take(watch)).whole
    assert broken.closed
    assert {(gap.path, gap.errno) for gap in watch.gaps()} == {
        ("netlink:uevent", 5),
        ("scripted", 0),
    }
    other.give([Signal("a holder", want(Part.HOLDERS))])
    (batch,) = take(watch)
    assert batch.wanted == want(Part.HOLDERS)
    assert "a holder" in batch.why


def test_sources_are_asked_when_they_say(make: Make) -> None:
    source, clock = Scripted(), Clock()
    watch = make({"source": source}, clock=clock)
    assert take(watch) == []
    source.next_tick_s = clock.now_s + 5.0
    when = source.next_tick_s
    batches = take(watch, 100)
    assert wanted_of(batches) == want(Part.VMS)
    assert len(source.ticks) == 1
    assert source.ticks[0] >= when


def test_a_reading_that_failed_can_be_asked_for_again(make: Make) -> None:
    watch = make({})
    assert take(watch) == []
    watch.want(want(Part.HOLDERS))
    assert wanted_of(take(watch)) == want(Part.HOLDERS)


def test_waking_ends_the_wait_from_another_thread() -> None:
    schedule = Schedule(interval_s=1e9, now_s=0.0, uniform=late)
    watch = Watch({}, schedule, place=NEVER)
    waker = threading.Thread(target=watch.wake)
    try:
        waker.start()
        assert watch.wait(LIMIT_S * 10) is None
        waker.join()
        assert watch.wait(0.0) is None
    finally:
        watch.close()


def test_waking_after_the_end_wakes_nobody() -> None:
    """The number of a descriptor that was given back is soon somebody else's."""
    watch = Watch({}, Schedule(interval_s=1e9, now_s=0.0, uniform=late), place=NEVER)
    watch.close()
    reading, writing = os.pipe()
    try:
        watch.wake()
    finally:
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert pipe.read() == b""


def test_closing_gives_everything_back() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        open_watch(boot_id="boot", interval_s=60.0, uniform=late).close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_place_of_another_boot_is_not_used() -> None:
    held = Place("yesterday", 10**12, ())
    watch = open_watch(boot_id="today", interval_s=60.0, uniform=late, place=held)
    try:
        assert watch.place() == Place("today", None, ())
    finally:
        watch.close()


def test_the_place_survives_on_disk(make: Make) -> None:
    ring = KmsgRing()
    watch = make({"kmsg": Kmsg(ring)})
    for _ in range(10):
        ring.write(GAVE_UP, seconds=3.25)
    (batch, *_) = take(watch)
    assert batch.place.held
    assert decode(Place, encode(batch.place)) == batch.place


def until(watch: Watch, reached: Callable[[list[Batch]], bool]) -> list[Batch]:
    """Batches of a watch on the real clock until it is enough; fails when nothing comes."""
    batches: list[Batch] = []
    while not reached(batches):
        batch = watch.wait(LIMIT_S)
        assert batch is not None, "nothing came"
        batches.append(batch)
    return batches


def test_the_host_is_read_again_without_any_signal() -> None:
    watch = open_watch(boot_id="boot", interval_s=0.3, uniform=late)
    try:
        until(watch, lambda batches: wanted_of(batches).whole)
    finally:
        watch.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="writing to sysfs and /dev/kmsg needs root")
def test_this_machine_live() -> None:
    """A uevent and a kernel line, each made for real and noticed."""
    devices = [*Path("/sys/bus/pci/devices").glob("*/uevent"), *Path("/sys/block").glob("*/uevent")]
    assert devices, "this machine has neither a PCI function nor a disk"
    device = min(devices)
    watch = open_watch(boot_id="boot", interval_s=3600.0, uniform=late)
    try:
        assert [gap.path for gap in watch.gaps()] == []
        device.write_text("change")
        why = f"change {device.parent.name}"
        until(watch, lambda found: any(why in words for batch in found for words in batch.why))
        marker = f"vfioctl-watch-{os.getpid()}"
        with open("/dev/kmsg", "wb", buffering=0) as kmsg:
            kmsg.write(
                f"<3>{marker} ffff:ff:1e.7: not ready 65535ms after FLR; giving up\n".encode()
            )
        until(watch, lambda found: any(marker in e.text for b in found for e in b.events))
    finally:
        watch.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_an_ordinary_user_watches_and_says_what_it_cannot_see() -> None:
    code = (
        "import os, random\n"
        "from vfio_agent.watch import open_watch\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "watch = open_watch(boot_id='boot', interval_s=0.2, uniform=random.uniform)\n"
        "for gap in watch.gaps():\n"
        "    print(gap.path, gap.errno)\n"
        "while (batch := watch.wait(20)) is not None and not batch.wanted.whole: pass\n"
        "assert batch is not None\n"
        "watch.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    restricted = Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "1"
    readable = os.stat("/dev/kmsg").st_mode & 0o004
    assert ("/dev/kmsg" in done.stdout) == (restricted or not readable)
