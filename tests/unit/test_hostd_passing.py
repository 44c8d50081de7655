"""What came and went between two looks is told with its count; what a look shows is told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.durable import moment
from tests.fakes.snapshots import make_snapshot, nic
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import open_root
from vfio_agent.hostd.news import tell_changes
from vfio_agent.hostd.passing import BURST, Passing, attribute
from vfio_agent.watch import Happening, Sign
from vfio_agent.watch.schedule import CONFIRM_S
from vfio_contract.address import Address
from vfio_contract.durable import (
    BindingChanged,
    DeviceAppeared,
    DeviceRemoved,
    DurableEvent,
    HolderChanged,
    KernelLine,
)
from vfio_contract.host import Host
from vfio_contract.model import Holder, PciFunction

GPU, NIC = Address("0000:01:00.0"), Address("0000:02:00.0")
AT = moment(1)
LATER = 10.0
"""Seconds; far more than CONFIRM_S."""


def host(*functions: PciFunction, holder: bool = False) -> Host:
    snapshot = make_snapshot(*functions)
    held = (Holder("/dev/vfio/1", 4711, "qemu", started_seconds=1.0),) if holder else ()
    return Host(replace(snapshot, readings=replace(snapshot.readings, holders=held)))


HERE = host(nic(GPU, group=1), nic(NIC, group=2))
GONE = host(nic(NIC, group=2))
OTHER = host(nic(GPU, group=1, driver="e1000e"), nic(NIC, group=2))
HELD = host(nic(GPU, group=1), nic(NIC, group=2), holder=True)
IDS = HERE.by_address[GPU].ids

UNBIND, BIND = Happening(Sign.UNBOUND, GPU), Happening(Sign.BOUND, GPU, "vfio-pci")
REMOVE, ADD = Happening(Sign.REMOVED, GPU), Happening(Sign.ADDED, GPU)


def once(*signs: Happening) -> list[tuple[Happening, int]]:
    return [(sign, 1) for sign in signs]


class Looks:
    """Signs and looks in turn, LATER seconds apart."""

    def __init__(self, first: Host = HERE) -> None:
        self.passing = Passing()
        self.last = first
        self.now_s = 1_000.0

    def signs(self, *signs: Happening, times: int = 1) -> None:
        self.passing.note(attribute([(s, times) for s in signs], self.last), self.now_s)

    def look(self, new: Host, *, after_s: float = LATER) -> tuple[list[DurableEvent], list[object]]:
        """What the look shows, and what no look shows."""
        self.now_s += after_s
        began_s = self.now_s
        told = tell_changes(self.last, new, at=AT)
        self.passing.explain(told, self.last, new, self.now_s)
        left = self.passing.settle(new, began_s=began_s, at=AT)
        self.last = new
        return told, [event.payload for event in left]


def test_removed_and_added_again_between_two_looks() -> None:
    looks = Looks()
    looks.signs(UNBIND, REMOVE, ADD, BIND)
    told, left = looks.look(HERE)
    assert told == []
    assert left == [
        BindingChanged("vfio-pci", "", 1),
        DeviceRemoved(IDS, 1),
        DeviceAppeared(IDS, 1),
        BindingChanged("", "vfio-pci", 1),
    ]
    assert looks.look(HERE) == ([], [])


def test_another_driver_for_a_moment() -> None:
    looks = Looks()
    looks.signs(UNBIND, times=2)
    looks.signs(Happening(Sign.BOUND, GPU, "e1000e"), BIND)
    assert looks.look(HERE)[1] == [
        BindingChanged("vfio-pci", "", 2),
        BindingChanged("", "e1000e", 1),
        BindingChanged("", "vfio-pci", 1),
    ]


def test_what_a_look_shows_is_not_told_twice() -> None:
    looks = Looks()
    looks.signs(UNBIND, Happening(Sign.BOUND, GPU, "e1000e"))
    assert [len(found) for found in looks.look(OTHER)] == [1, 0]
    looks.signs(UNBIND, REMOVE)
    assert [len(found) for found in looks.look(GONE)] == [1, 0]
    looks.signs(ADD, BIND)
    assert [len(found) for found in looks.look(HERE)] == [1, 0]
    looks.signs(Happening(Sign.OPENED, "/dev/vfio/1"))
    assert [len(found) for found in looks.look(HELD)] == [1, 0]
    assert looks.look(HELD) == ([], [])


def test_a_look_that_was_faster_than_the_sign() -> None:
    looks = Looks()
    told, left = looks.look(GONE)
    assert (len(told), left) == (1, [])
    looks.signs(UNBIND, REMOVE)
    assert looks.look(GONE, after_s=0.1) == ([], [])
    assert looks.look(GONE) == ([], [])


def test_a_removal_that_is_announced_and_not_yet_done() -> None:
    """`remove` comes before the function is gone: a look in between proves nothing."""
    looks = Looks()
    looks.signs(UNBIND, REMOVE)
    assert looks.look(HERE, after_s=CONFIRM_S / 4) == ([], [])
    told, left = looks.look(GONE, after_s=CONFIRM_S)
    assert ([type(event.payload) for event in told], left) == ([DeviceRemoved], [])
    assert looks.look(GONE) == ([], [])


def test_a_device_that_no_look_has_ever_seen() -> None:
    looks = Looks(GONE)
    looks.signs(ADD, REMOVE)
    assert looks.look(GONE)[1] == [DeviceAppeared("", 1), DeviceRemoved("", 1)]


def test_a_process_that_opened_a_node_and_closed_it() -> None:
    looks = Looks()
    looks.signs(Happening(Sign.OPENED, "/dev/vfio/1"), Happening(Sign.CLOSED, "/dev/vfio/1"))
    told, left = looks.look(HERE)
    assert (told, left) == ([], [HolderChanged("", True, 1), HolderChanged("", False, 1)])


def test_a_device_node_is_its_functions(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.host(boot_id="boot-1")
    tree.iommu()
    tree.function(GPU, driver="vfio-pci", group=1)
    seen = Host(collect_host(open_root(str(tmp_path))))
    (row,) = seen.readings.functions
    there = Host(
        replace(
            seen.snapshot,
            readings=replace(seen.readings, functions=(replace(row, vfio_nodes=("vfio7",)),)),
        )
    )
    opened = Happening(Sign.OPENED, "/dev/vfio/devices/vfio7")
    assert attribute([(opened, 2)], there) == [(Happening(Sign.OPENED, GPU), 2)]
    assert attribute([(Happening(Sign.OPENED, "/dev/vfio/99"), 1)], there) == []


def test_dropped_uevents_are_told() -> None:
    looks = Looks()
    looks.signs(Happening(Sign.DROPPED), times=3)
    (line,) = looks.look(HERE)[1]
    assert isinstance(line, KernelLine)
    assert (line.category, line.suppressed) == ("uevents-lost", 2)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_a_storm_is_few_events_with_the_right_count(storm: list[int]) -> None:
    looks = Looks()
    counts: Counter[str] = Counter()
    events = 0

    def take(left: Iterable[object]) -> None:
        nonlocal events
        for payload in left:
            assert isinstance(payload, HolderChanged)
            counts["held" if payload.held else "free"] += payload.between
            events += 1

    for times in storm:
        looks.signs(Happening(Sign.OPENED, "/dev/vfio/1"), times=times)
        looks.signs(Happening(Sign.CLOSED, "/dev/vfio/1"), times=times)
        take(looks.look(HERE, after_s=1.0)[1])
    assert events <= 2 * (BURST + len(storm) / 10 + 1)
    for _ in range(3):
        take(looks.look(HERE, after_s=60.0)[1])
    assert counts == Counter(held=sum(storm), free=sum(storm))
