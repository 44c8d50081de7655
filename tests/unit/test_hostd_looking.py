"""What hostd makes durable of its looks, of what the kernel says between them, and of its VMs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.snapshots import function_reading, make_log
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.root import open_root
from vfio_agent.hostd import vm_uses
from vfio_agent.hostd.looking import Looking
from vfio_agent.inspect import Inspection, judge_snapshot, observe
from vfio_agent.journal import Journal
from vfio_agent.session.outbox import Observed
from vfio_agent.watch import Batch, Happening, Part, Place, Sign, Watch, replay_watch, want
from vfio_agent.watch.schedule import CONFIRM_S
from vfio_contract.address import Address
from vfio_contract.durable import (
    BindingChanged,
    DeviceAppeared,
    DeviceRemoved,
    ResetAttempted,
    VmStarted,
)
from vfio_contract.ledger import VM_START, Outcome
from vfio_contract.model import Holder, VmProcess

GPU = Address("0000:01:00.0")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    tree = SysfsTree(tmp_path / "host")
    tree.host(boot_id="boot-1")
    tree.iommu()
    tree.function(GPU, driver="vfio-pci", group=1)
    return tree.top


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "journal.db")
    yield opened
    opened.close()


@pytest.fixture
def watch(top: Path) -> Iterator[Watch]:
    made = replay_watch(str(top), boot_id="boot-1", interval_s=60.0, uniform=lambda low, high: high)
    yield made
    made.close()


class Looks:
    """Looks of one hostd, each long after the one before."""

    def __init__(self, top: Path, journal: Journal, watch: Watch) -> None:
        self.offered: list[Observed] = []
        self.looking = Looking(str(top), journal, self.offered.append)
        self._watch = watch
        self._began_s = time.monotonic()

    def keep(self, seen: Inspection) -> None:
        self._began_s += 10 * CONFIRM_S
        self.looking._keep(seen, self._watch, began_s=self._began_s)

    def hear(self, *signs: Happening) -> None:
        place = Place("boot-1", None, ())
        happened = tuple((sign, 1) for sign in signs)
        self.looking._tell(Batch(want(), (), (), (), place, happened))


def test_what_passed_between_two_looks_is_durable(
    top: Path, journal: Journal, watch: Watch
) -> None:
    looks = Looks(top, journal, watch)
    seen = observe(open_root(str(top)), journal, None)
    looks.keep(seen)
    looks.hear(
        Happening(Sign.UNBOUND, GPU),
        Happening(Sign.REMOVED, GPU),
        Happening(Sign.ADDED, GPU),
        Happening(Sign.BOUND, GPU, "vfio-pci"),
    )
    assert journal.spool.after(0, 10) == []
    looks.keep(seen)
    events = [row.event for row in journal.spool.after(0, 10)]
    ids = seen.host.by_address[GPU].ids
    assert [event.payload for event in events] == [
        BindingChanged("vfio-pci", "", 1),
        DeviceRemoved(ids, 1),
        DeviceAppeared(ids, 1),
        BindingChanged("", "vfio-pci", 1),
    ]
    assert {event.identity for event in events} == {seen.host.identities[GPU].identity}


def test_how_a_vm_s_start_went_is_durable(
    top: Path, journal: Journal, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_uses, "SETTLED_MS", 0)
    looks = Looks(top, journal, watch)
    seen = observe(open_root(str(top)), journal, None)
    vm = Holder("/dev/vfio/1", 900, "qemu-system-x86", started_seconds=1.0, vm="web")
    for holders in ((), (vm,), (vm,)):
        readings = replace(
            seen.snapshot.readings,
            holders=holders,
            kernel_log=make_log(),
            functions=(function_reading(seen.host.by_address[GPU]),),
        )
        looks.keep(judge_snapshot(replace(seen.snapshot, readings=readings)))
    (row,) = journal.attempts()
    assert (row.method, row.outcome, row.address) == (VM_START, Outcome.SUCCESS, GPU)
    told = [row.event.payload for row in journal.spool.after(0, 10)]
    assert [p.outcome for p in told if isinstance(p, ResetAttempted)] == ["success"]


def test_a_vm_s_start_is_looked_at_as_soon_as_it_can_be_told(
    top: Path, journal: Journal, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the rescan, which is most of a minute away."""
    monkeypatch.setattr(vm_uses, "SETTLED_MS", 100)
    looks = Looks(top, journal, watch)
    seen = observe(open_root(str(top)), journal, None)
    vm = Holder("/dev/vfio/1", 900, "qemu-system-x86", started_seconds=1.0, vm="web")
    readings = replace(seen.snapshot.readings, holders=(vm,), kernel_log=make_log())
    looks.keep(judge_snapshot(replace(seen.snapshot, readings=readings)))
    batch = watch.wait(5.0)
    assert batch is not None
    assert batch.wanted == want(Part.WHOLE)


def test_a_vm_that_began_is_durable(top: Path, journal: Journal, watch: Watch) -> None:
    looks = Looks(top, journal, watch)
    seen = observe(open_root(str(top)), journal, None)
    for running in ((), (VmProcess(900, "web", "libvirt", 1.0),)):
        readings = replace(seen.snapshot.readings, vm_processes=running)
        looks.keep(judge_snapshot(replace(seen.snapshot, readings=readings)))
    (row,) = journal.spool.after(0, 10)
    assert row.event.payload == VmStarted("web", "libvirt")
