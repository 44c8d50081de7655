"""What two looks and the kernel's words become as durable events, and what must not become one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import open_root
from vfio_agent.diagnosis.message import Kind
from vfio_agent.hostd.news import names_of, tell_changes, tell_lines
from vfio_agent.watch import DeviceEvent, LinesLost
from vfio_contract.address import Address
from vfio_contract.durable import (
    BindingChanged,
    DeviceAppeared,
    DeviceRemoved,
    DurableEvent,
    HolderChanged,
    KernelLine,
    Stamp,
)
from vfio_contract.host import Host
from vfio_contract.model import Holder

AT = Stamp("boot-1", 5, 6)
GPU, NIC = Address("0000:01:00.0"), Address("0000:02:00.0")


def make_tree(top: Path) -> SysfsTree:
    tree = SysfsTree(top)
    tree.host(boot_id="boot-1")
    tree.iommu()
    tree.function(GPU, driver="vfio-pci", group=1)
    tree.function(NIC, driver="e1000e", group=2)
    return tree


def look(tree: SysfsTree, top: Path) -> Host:
    return Host(collect_host(open_root(str(top))))


def holding(host: Host, *holders: Holder) -> Host:
    readings = replace(host.readings, holders=holders)
    return Host(replace(host.snapshot, readings=readings))


def payloads(before: Host, after: Host) -> list[tuple[str, object]]:
    return [(event.address, event.payload) for event in tell_changes(before, after, at=AT)]


def test_what_came_went_and_changed_its_driver(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    before = look(tree, tmp_path)
    tree.bind(NIC, "vfio-pci")
    tree.function("0000:03:00.0", group=3)
    after = look(tree, tmp_path)
    new = Address("0000:03:00.0")
    ids = after.by_address[new].ids
    assert payloads(before, after) == [
        (NIC, BindingChanged("e1000e", "vfio-pci")),
        (new, DeviceAppeared(ids)),
    ]
    (gone, back) = tell_changes(after, before, at=AT)
    assert (gone.address, gone.payload) == (new, DeviceRemoved(ids))
    assert gone.identity == after.identities[new].identity
    assert back.payload == BindingChanged("vfio-pci", "e1000e")
    assert payloads(after, after) == []


def test_who_opened_a_device_and_who_let_go(tmp_path: Path) -> None:
    host = look(make_tree(tmp_path), tmp_path)
    first = Holder("/dev/vfio/1", 4711, "qemu", started_seconds=10.0)
    again = replace(first, started_seconds=99.0)
    free, held, other = holding(host), holding(host, first), holding(host, again)
    assert payloads(free, held) == [(GPU, HolderChanged("qemu (4711)", True))]
    assert payloads(held, free) == [(GPU, HolderChanged("qemu (4711)", False))]
    assert payloads(held, other) == [
        (GPU, HolderChanged("qemu (4711)", False)),
        (GPU, HolderChanged("qemu (4711)", True)),
    ]
    assert payloads(held, holding(host, first, first)) == []


def test_nothing_is_told_of_what_is_not_known(tmp_path: Path) -> None:
    host = look(make_tree(tmp_path), tmp_path)
    blind = Host(replace(host.snapshot, facts=replace(host.facts, functions=None)))
    deaf = Host(replace(host.snapshot, readings=replace(host.readings, holders=None)))
    rows = tuple(replace(f, driver=None) for f in host.functions)
    driverless = Host(replace(host.snapshot, facts=replace(host.facts, functions=rows)))
    for other in (blind, deaf, driverless):
        assert payloads(host, other) == []
        assert payloads(other, host) == []


def test_another_boot_is_no_difference(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    before = look(tree, tmp_path)
    tree.bind(NIC, "vfio-pci")
    after = look(tree, tmp_path)
    for boot_id in ("boot-2", None):
        reading = replace(after.readings, boot_id=boot_id)
        assert payloads(before, Host(replace(after.snapshot, readings=reading))) == []


def test_a_line_has_its_subject_its_count_and_who_said_it(tmp_path: Path) -> None:
    host = look(make_tree(tmp_path), tmp_path)
    event = DeviceEvent(
        *("aer-uncorrected", Kind.FAULT, GPU, GPU, "a line", 3, 1.0, True, None, 7, 9, 2.0)
    )
    lost, told = tell_lines([event], [LinesLost(10, 12)], names=names_of(host), at=AT)
    words = "3 kernel lines were overwritten before they could be read"
    assert lost == DurableEvent(AT, "", "", KernelLine("lines-lost", words, 0))
    identity = host.identities[GPU].identity
    line = KernelLine("aer-uncorrected", "a line", 6, foreign=True)
    assert told == DurableEvent(AT, identity, GPU, line)
    (unknown,) = tell_lines([event], [], names={}, at=AT)
    assert (unknown.identity, unknown.address) == ("", GPU)
