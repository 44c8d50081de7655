"""Following the kernel log: each line once, none skipped without a word, from where it was left."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.kmsg_ring import KmsgRing
from vfio_agent.watch.kmsg import MAX_RECORDS, KernelRing, Kmsg, parse_record
from vfio_agent.watch.signals import LinesLost, Part, Signal, want
from vfio_contract.address import Address

GPU = Address("0000:01:00.0")
GAVE_UP = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
DICTIONARY = " SUBSYSTEM=pci\n DEVICE=+pci:0000:01:00.0\n"


@pytest.fixture
def ring() -> Iterator[KmsgRing]:
    made = KmsgRing(first_seq=100)
    yield made
    made.close()


def seqs(signals: object) -> list[int]:
    assert isinstance(signals, list)
    return [s.event.seq for s in signals if isinstance(s, Signal) and s.event is not None]


def test_each_line_is_told_once(ring: KmsgRing) -> None:
    kmsg = Kmsg(ring)
    first = ring.write(GAVE_UP, seconds=12.25, rest=DICTIONARY)
    ring.write("usb 1-1: new high-speed USB device number 4 using xhci_hcd")
    (signal,) = kmsg.read()
    assert signal.event is not None
    assert (signal.event.seq, signal.event.seconds) == (first, 12.25)
    assert signal.event.text == GAVE_UP
    assert not signal.event.foreign
    assert kmsg.read() == []
    assert kmsg.last_seq == 101


def test_all_that_is_in_the_ring_is_told_at_the_first_start(ring: KmsgRing) -> None:
    for _ in range(3):
        ring.write(GAVE_UP)
    assert seqs(Kmsg(ring).read()) == [100, 101, 102]


def test_it_goes_on_where_it_was_left(ring: KmsgRing) -> None:
    for _ in range(5):
        ring.write(GAVE_UP)
    assert seqs(Kmsg(ring, after=102).read()) == [103, 104]


def test_lines_that_were_overwritten_are_counted(ring: KmsgRing) -> None:
    kmsg = Kmsg(ring)
    ring.write(GAVE_UP)
    assert seqs(kmsg.read()) == [100]
    for _ in range(10):
        ring.write(GAVE_UP)
    ring.lose(7)
    lost, *rest = kmsg.read()
    assert lost.lost == LinesLost(101, 107)
    assert lost.lost.count == 7
    assert lost.wanted == want(Part.KERNEL_LOG)
    assert seqs(rest) == [108, 109, 110]


def test_lines_that_were_overwritten_while_nobody_was_there_are_counted(ring: KmsgRing) -> None:
    ring.write(GAVE_UP)
    (lost, told) = Kmsg(ring, after=90).read()
    assert lost.lost == LinesLost(91, 99)
    assert seqs([told]) == [100]


def test_a_ring_that_is_older_than_what_was_read_is_not_waited_for(ring: KmsgRing) -> None:
    """A machine that was put back to a snapshot: these lines may have been told or not."""
    for _ in range(3):
        ring.write(GAVE_UP)
    kmsg = Kmsg(ring, after=5000)
    (other,) = kmsg.read()
    assert other.lost == LinesLost(100, 102)
    assert other.wanted == want(Part.WHOLE)
    ring.write(GAVE_UP)
    assert seqs(kmsg.read()) == [103]
    assert kmsg.last_seq == 103


def test_nothing_new_after_the_place_is_no_other_ring(ring: KmsgRing) -> None:
    for _ in range(3):
        ring.write(GAVE_UP)
    kmsg = Kmsg(ring, after=102)
    assert kmsg.read() == []
    assert kmsg.last_seq == 102


def test_a_storm_is_taken_in_portions(ring: KmsgRing) -> None:
    for _ in range(MAX_RECORDS + 10):
        ring.write(GAVE_UP)
    kmsg = Kmsg(ring)
    assert len(kmsg.read()) == MAX_RECORDS
    assert len(kmsg.read()) == 10


def test_a_line_of_a_process_is_told_as_such_and_asks_for_no_reading(ring: KmsgRing) -> None:
    ring.write(GAVE_UP, level=12)
    ring.write("systemd[1]: Loaded vfio modules", level=30)
    (signal,) = Kmsg(ring).read()
    assert signal.event is not None
    assert signal.event.foreign


def test_a_line_that_some_check_uses_asks_for_a_reading_of_the_log(ring: KmsgRing) -> None:
    ring.write("vfio-pci 0000:01:00.0: reset done")
    (signal,) = Kmsg(ring).read()
    assert signal.event is None
    assert signal.wanted == want(Part.KERNEL_LOG)


def test_several_lines_in_one_record_are_several(ring: KmsgRing) -> None:
    ring.write(f"{GAVE_UP}\n{GAVE_UP}")
    assert seqs(Kmsg(ring).read()) == [100, 100]


def test_an_address_without_a_domain_is_completed_from_what_is_known(ring: KmsgRing) -> None:
    kmsg = Kmsg(ring)
    kmsg.know([GPU])
    ring.write("DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x7c3e5000")
    (signal,) = kmsg.read()
    assert signal.event is not None
    assert (signal.event.named, signal.event.function) == ("01:00.0", GPU)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd_for_a_record(data: bytes) -> None:
    record = parse_record(data)
    if record is not None:
        assert record.seq >= 0
        record.lines()


@pytest.mark.parametrize(
    "data", [b"", b"\n", b" KEY=value\n", b"6,1;text\n", b"a,1,2,-;text\n", b"6,-1,2,-;text\n"]
)
def test_what_is_no_record_is_none(data: bytes) -> None:
    assert parse_record(data) is None


@given(st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=40))
def test_told_and_lost_lines_are_all_lines(steps: list[int | None]) -> None:
    """None reads; a number writes as many lines and, if it is odd, loses the oldest unread one."""
    ring = KmsgRing()
    try:
        kmsg = Kmsg(ring)
        written = 0
        accounted: list[int] = []
        ring.write(GAVE_UP)
        for step in (None, *steps, 2, None):
            if step is None:
                for signal in kmsg.read():
                    if signal.lost is not None:
                        accounted += range(signal.lost.first, signal.lost.last + 1)
                    if signal.event is not None:
                        accounted.append(signal.event.seq)
                continue
            for _ in range(step):
                written = ring.write(GAVE_UP)
            if step % 2:
                ring.lose(1)
        assert accounted == list(range(written + 1))
    finally:
        ring.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="writing to /dev/kmsg needs root")
def test_the_running_kernels_own_log() -> None:
    """A line of no device of this host, marked as a process's by the kernel itself."""
    marker = f"vfioctl-test-{os.getpid()}"
    line = f"{marker} ffff:ff:1f.7: not ready 65535ms after FLR; giving up"
    kmsg = Kmsg(KernelRing())
    try:
        read_all(kmsg)
        before = kmsg.last_seq
        with open("/dev/kmsg", "wb", buffering=0) as device:
            device.write(f"<3>{line}\n".encode())
        found: list[Signal] = []
        while not found:
            assert select.select([kmsg], [], [], 10)[0], "the line never came"
            found = [s for s in kmsg.read() if s.event is not None and marker in s.event.text]
        event = found[0].event
        assert event is not None
        assert (event.message, event.foreign, event.text) == ("not-ready-gave-up", True, line)
        assert event.function == "ffff:ff:1f.7"
        assert before is not None
        assert event.seq > before
    finally:
        kmsg.close()
    again = Kmsg(KernelRing(), after=event.seq - 1)
    try:
        assert seqs(read_all(again))[:1] == [event.seq]
    finally:
        again.close()


def read_all(kmsg: Kmsg) -> list[Signal]:
    """Up to the end of the ring as it is now."""
    found: list[Signal] = []
    while select.select([kmsg], [], [], 0)[0]:
        found += kmsg.read()
    return found
