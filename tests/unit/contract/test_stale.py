"""Which lines of VM configurations and mappings name another device since devices moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import behind, bridge, make_host, nic, nvme
from tests.fakes.vms import make_device, make_mapping, make_vm
from vfio_agent.vmconf.libvirt import parse_libvirt
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


def test_a_line_that_the_baseline_does_not_have_may_be_right() -> None:
    """At the baseline the address was the disk's; nothing tells when the line was written."""
    old, new = vm("0000:01:00.0"), make_vm(make_device("0000:02:00.0", line=4), name="105")
    cases = (
        (host(vms=(old,)), new, True),
        (host(vms=(old,)), vm("0000:02:00.0", "0000:01:00.0"), None),
        (host(vms=()), new, True),
        (host(vms=None), new, False),
        (host(vms=(new,)), new, False),
        (host(vms=(new,)), replace(new, devices=(replace(new.devices[0], line=9),)), False),
    )
    for before, written, newer in cases:
        found = find_stale(before, host(*SWAPPED, vms=(written,)))
        marks = {row.newer for row in found if "0000:02:00.0 ->" in row.edit}
        assert marks == ({newer} if newer is not None else set())
        assert all(("does not have this line" in row.text) == row.newer for row in found)


def test_a_path_that_the_baseline_s_mapping_does_not_have_may_be_right() -> None:
    old, new = make_mapping("gpu", "0000:01:00.0"), make_mapping("gpu", "0000:02:00.0")
    other = make_mapping("disk", "0000:02:00.0")
    cases = (((old,), other, [True]), (None, other, [False]), ((other,), other, [False]))
    for before, written, newer in cases:
        found = find_stale(host(mappings=before), host(*SWAPPED, mappings=(written,)))
        assert [row.newer for row in found] == newer
    assert edits(host(mappings=(old,)), host(*SWAPPED, mappings=(new,))) == []


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


# --- as the file has it --------------------------------------------------------------------------


def libvirt(address: str, *, arguments: str = "") -> VmConfig:
    """A domain with one hostdev of this <address>, and what it adds to QEMU's command line."""
    words = "".join(f"<qemu:arg value='{word}'/>" for word in arguments.split())
    text = (
        "<domain xmlns:qemu='q'><name>web</name><devices>"
        f"<hostdev type='pci' managed='yes'><source><address {address}/></source></hostdev>"
        f"</devices><qemu:commandline>{words}</qemu:commandline></domain>"
    )
    vm = parse_libvirt(text.encode(), source="web.xml", autostart=None)
    assert isinstance(vm, VmConfig), vm
    return vm


ELSEWHERE = ("0001:0c:00.0", "0000:05:00.0")


@pytest.mark.parametrize(
    ("written", "places", "edit"),
    [
        (
            "domain='0x0000' bus='0x01' slot='0x00' function='0x0'",
            MOVED,
            "bus='0x01' -> bus='0x04'",
        ),
        ("domain='0' bus='1' slot='0' function='0'", MOVED, "bus='1' -> bus='4'"),
        ("bus='0X1' slot='0' function='0'", MOVED, "bus='0X1' -> bus='0x04'"),
        (
            "domain='0' bus='0x1' slot='0' function='0'",
            ELSEWHERE,
            "domain='0' bus='0x1' -> domain='1' bus='0x0c'",
        ),
        ("bus='1' slot='0' function='0'", ELSEWHERE, "bus='1' -> domain='0x0001' bus='12'"),
    ],
)
def test_libvirt_gets_the_text_of_its_file(
    written: str, places: tuple[str, str], edit: str
) -> None:
    config = libvirt(written)
    assert edits(host(vms=(config,)), host(*places, vms=(config,))) == [f"hostdev 0: {edit}"]


@pytest.mark.parametrize(
    ("property", "edit"),
    [
        ("host=01:00.0", "01:00.0 -> 04:00.0"),
        ("sysfsdev=/sys/bus/pci/devices/0000:01:00.0", "0000:01:00.0 -> 0000:04:00.0"),
    ],
)
def test_what_libvirt_hands_on_to_qemu_is_no_attribute(property: str, edit: str) -> None:
    arguments = f"-device vfio-pci,{property},id=a"
    config = libvirt("bus='9' slot='0' function='0'", arguments=arguments)
    found = edits(host(vms=(config,)), host(*MOVED, vms=(config,)))
    assert found == [f"qemu:arg -device a: {edit}"]


# --- no edit to another device -------------------------------------------------------------------

CARD, DISK = "0000:01:00.0", "0000:02:00.0"


def without_card(**changes: Any) -> Host:
    """The disk where the card was, and the card, which had the disk's place, is gone."""
    return make_host(*behind(bridge("0000:00:02.0", group=102), nvme(CARD, group=9)), **changes)


def test_a_line_that_followed_its_device_is_not_led_to_another_one_when_that_is_gone() -> None:
    old, new = vm(CARD), vm(DISK)
    assert edits(host(vms=(old,)), host(*SWAPPED, vms=(new,))) == []
    assert edits(host(vms=(old,)), without_card(vms=(new,))) == []
    renamed = vm(DISK, key="hostpci3")
    assert edits(host(vms=(old,)), without_card(vms=(renamed,))) == []
    # a line that the baseline has means the disk, whatever else is gone
    assert edits(host(vms=(new,)), without_card(vms=(new,))) == [f"hostpci0: {DISK} -> {CARD}"]


def with_more(one: Host, address: str, **changes: Any) -> Host:
    """And a network function of another kind below port 00:03.0."""
    more = behind(bridge("0000:00:03.0", group=103), nic(address, group=7, device=0x1533))
    return make_host(*one.functions, *more, **changes)


def test_nor_where_the_entry_of_its_place_in_the_file_named_what_is_still_there() -> None:
    """libvirt's entries have no names: the second is the first once that is taken out."""
    both = make_vm(make_device(DISK, key="hostdev 0"), make_device(CARD, key="hostdev 1"))
    followed = make_vm(make_device("0000:03:00.0", key="hostdev 0"))
    before = with_more(host(), "0000:03:00.0", vms=(both,))
    after = with_more(without_card(), "0000:04:00.0", vms=(followed,))
    assert edits(before, after) == []


def test_a_line_that_took_the_place_of_another_in_the_file_is_up_to_date() -> None:
    both = make_vm(make_device(CARD, key="hostdev 0"), make_device(DISK, key="hostdev 1"))
    alone = make_vm(make_device("0000:03:00.0", key="hostdev 0"))
    before = with_more(host(), "0000:03:00.0", vms=(both,))
    after = with_more(host(DISK, "0000:03:00.0"), "0000:04:00.0", vms=(alone,))
    assert edits(before, after) == []


def test_what_a_mapping_stood_for_counts_as_named() -> None:
    mapping = (make_mapping("gpu", CARD),)
    old = vm(mapping="gpu")
    before = host(vms=(old,), mappings=mapping)
    assert edits(before, host(*SWAPPED, vms=(vm(DISK),), mappings=())) == []
    assert edits(before, without_card(vms=(vm(DISK),), mappings=())) == []


def test_a_mapping_whose_device_is_gone_is_given_neither_path_nor_group_of_another() -> None:
    old = (make_mapping("gpu", CARD, group=8),)
    new = (make_mapping("gpu", DISK, group=8),)
    before = host(mappings=old)
    assert edits(before, without_card(mappings=new)) == []
    disk = behind(bridge("0000:00:02.0", group=102), nvme(CARD, group=30))
    assert edits(before, make_host(*disk, mappings=old)) == []
    disk = behind(bridge("0000:00:02.0", group=102), nvme(DISK, group=30))
    assert edits(before, make_host(*disk, mappings=new)) == []
