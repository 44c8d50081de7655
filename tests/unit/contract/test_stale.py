"""Which lines of VM configurations and mappings name another device since devices moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import behind, bridge, make_host, nic, nvme
from tests.fakes.vms import make_device, make_mapping, make_vm
from vfio_contract.host import Host
from vfio_contract.stale import find_stale
from vfio_contract.vm import LIBVIRT, VmConfig


def host(
    card: str = "0000:01:00.0", disk: str = "0000:02:00.0", *, group: int = 8, **changes: Any
) -> Host:
    """A card below port 00:01.0 and a disk below port 00:02.0, on these buses."""
    rows = (
        *behind(bridge("0000:00:01.0", group=101), nic(card, group=group)),
        *behind(bridge("0000:00:02.0", group=102), nvme(disk, group=9)),
    )
    return make_host(*rows, **changes)


def vm(*written: str, key: str = "hostpci0", **changes: Any) -> VmConfig:
    return make_vm(make_device(*written, key=key, line=4, **changes))


MOVED = ("0000:04:00.0", "0000:05:00.0")
SWAPPED = ("0000:02:00.0", "0000:01:00.0")


def edits(before: Host, after: Host) -> list[str]:
    return [reference.edit for reference in find_stale(before, after)]


def test_an_entry_that_names_the_old_slot_gets_the_new_one() -> None:
    config = vm("0000:01:00", options=(("host", "01:00"),))
    (found,) = find_stale(host(vms=(config,)), host(*MOVED, vms=(config,)))
    assert (found.code, found.owner) == ("VM_ADDRESS_STALE", "vm 101")
    assert found.text == (
        "/etc/pve/qemu-server/101.conf:4: hostpci0: 01:00 -> 04:00 (nothing is at 0000:01:00 now)"
    )


def test_what_is_at_the_old_address_now_is_named() -> None:
    config = vm("0000:01:00.0")
    (found,) = find_stale(host(vms=(config,)), host(*SWAPPED, vms=(config,)))
    assert found.edit == "hostpci0: 0000:01:00.0 -> 0000:02:00.0"
    assert found.means_now == "0000:01:00.0 is nvme 144d:a80a now"


def test_an_entry_that_was_edited_is_up_to_date() -> None:
    old, new = vm("0000:01:00.0"), vm("0000:02:00.0")
    assert edits(host(vms=(old,)), host(*SWAPPED, vms=(new,))) == []
    renamed = vm("0000:02:00.0", key="hostpci3")
    assert edits(host(vms=(old,)), host(*SWAPPED, vms=(renamed,))) == []


def test_an_entry_that_was_pointed_at_another_device_before_the_move_is_stale() -> None:
    """At the baseline the VM had the disk; then somebody gave it the card, then both moved."""
    old, new = vm("0000:02:00.0"), vm("0000:01:00.0")
    after = host("0000:02:00.0", "0000:05:00.0", vms=(new,))
    assert edits(host(vms=(old,)), after) == ["hostpci0: 0000:01:00.0 -> 0000:02:00.0"]


@pytest.mark.parametrize("vms", [None, ()])
def test_of_a_new_entry_the_address_decides(vms: tuple[VmConfig, ...] | None) -> None:
    config = vm("0000:01:00.0")
    assert edits(host(vms=vms), host(*SWAPPED, vms=(config,))) == [
        "hostpci0: 0000:01:00.0 -> 0000:02:00.0"
    ]
    there = vm("0000:04:00.0")
    assert edits(host(vms=vms), host(*MOVED, vms=(there,))) == []


def test_nothing_is_stale_where_nothing_moved() -> None:
    config = (vm("0000:01:00"), vm("0000:07:00.0"))
    mapping = (make_mapping("gpu", "0000:01:00.0", group=3),)
    one = host(vms=config, mappings=mapping)
    assert edits(one, one) == []
    assert edits(host(), one) == []
    assert edits(one, host(*MOVED, vms=None, mappings=None)) == []


def test_libvirt_gets_the_attribute_to_change() -> None:
    device = make_device("0000:01:00.0", key="hostdev 1", line=31, options=())
    config = make_vm(device, name="web", kind=LIBVIRT, source="/etc/libvirt/qemu/web.xml")
    (found,) = find_stale(host(vms=(config,)), host(*MOVED, vms=(config,)))
    assert found.edit == "hostdev 1: bus='0x01' -> bus='0x04'"
    assert (found.file, found.line) == ("/etc/libvirt/qemu/web.xml", 31)


def test_a_mapping_gets_its_path_and_the_group_of_the_device() -> None:
    mapping = (make_mapping("gpu", "0000:01:00.0", group=8),)
    before = host(mappings=mapping)
    (found,) = find_stale(before, host(*MOVED, group=30, mappings=mapping))
    assert (found.code, found.owner) == ("MAPPING_STALE", "mapping gpu")
    assert found.edit == "path=0000:01:00.0 -> 0000:04:00.0, iommugroup=8 -> 30"
    assert "its group is 30 now" in found.means_now


def test_a_mapping_whose_group_was_renumbered() -> None:
    mapping = (make_mapping("gpu", "0000:01:00.0", group=8),)
    before, after = host(mappings=mapping), host(group=30, mappings=mapping)
    assert edits(before, after) == ["iommugroup=8 -> 30"]
    right = (make_mapping("gpu", "0000:01:00.0", group=30),)
    assert edits(before, host(group=30, mappings=right)) == []
    stated_none = (make_mapping("gpu", "0000:01:00.0"),)
    assert edits(host(mappings=stated_none), host(group=30, mappings=stated_none)) == []


def test_entries_of_other_nodes_are_theirs() -> None:
    mapping = make_mapping("gpu", "0000:01:00.0", group=8)
    elsewhere = replace(mapping, entries=(replace(mapping.entries[0], node="pve02"),))
    assert edits(host(mappings=(elsewhere,)), host(*MOVED, mappings=(elsewhere,))) == []
