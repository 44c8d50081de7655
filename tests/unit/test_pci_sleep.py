"""What may be read of a sleeping function, and what must be left alone."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.config_bytes import make_config, pcie
from tests.fakes.pci_seen import (
    DEVICES,
    NIC,
    attribute,
    look,
    look_live,
    make_nic_host,
)
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.model import (
    Holder,
    PciFunction,
    Snapshot,
)


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return make_nic_host(tmp_path / "host")


HOLDER = Holder(path="/dev/vfio/14", pid=4711, command="qemu-system-x86", stale_node=False)


def sleeping(tree: SysfsTree) -> SysfsTree:
    attribute(tree, "power_state", "D3hot\n")
    attribute(tree, "power/runtime_status", "suspended\n")
    tree.bind(NIC, "vfio-pci")
    return tree


def test_a_sleeping_function_that_nobody_holds_is_read_once(tree: SysfsTree) -> None:
    seen = look_live(sleeping(tree))
    assert seen[NIC].config is not None
    assert seen[NIC].max_link_width == 8
    # asking for the current link would wake it for nothing
    assert seen.reading(NIC).link_speed is None
    assert seen.gaps == {}


def test_a_sleeping_function_that_is_held_is_left_alone(tree: SysfsTree) -> None:
    seen = look_live(sleeping(tree), holders=(HOLDER,))
    assert (seen[NIC].config, seen[NIC].max_link_speed) == (None, None)
    assert seen.reason(f"{DEVICES}/{NIC}/config") == (
        "asleep and held by qemu-system-x86 (pid 4711): reading its config space would wake it"
    )


def test_a_function_held_by_its_device_node_is_left_alone(tree: SysfsTree) -> None:
    tree.mkdir(f"{sleeping(tree).place(NIC)}/vfio-dev/vfio3")
    holder = replace(HOLDER, path="/dev/vfio/devices/vfio3")
    assert look_live(tree, holders=(holder,))[NIC].config is None
    other = replace(HOLDER, path="/dev/vfio/devices/vfio30")
    assert look_live(tree, holders=(other,))[NIC].config is not None


def test_unknown_holders_count_as_holders_of_what_vfio_drives(tree: SysfsTree) -> None:
    seen = look_live(sleeping(tree), holders=None)
    assert seen[NIC].config is None
    assert "perhaps held" in seen.reason(f"{DEVICES}/{NIC}/config")
    tree.bind(NIC, "e1000e")
    assert look_live(tree, holders=None)[NIC].config is not None


def test_a_held_function_that_is_awake_is_read(tree: SysfsTree) -> None:
    tree.bind(NIC, "vfio-pci")
    assert look_live(tree, holders=(HOLDER,))[NIC].config is not None


def test_a_captured_function_can_always_be_read(tree: SysfsTree) -> None:
    seen = look(open_root(str(sleeping(tree).top)), holders=None)
    assert seen[NIC].config is not None
    assert seen[NIC].max_link_speed == "8.0 GT/s PCIe"


def snapshot(tree: SysfsTree, previous: Snapshot | None = None) -> Snapshot:
    return collect_host(LiveRoot(str(tree.top)), previous=previous)


def function(of: Snapshot, address: str = NIC) -> PciFunction:
    return Host(of).by_address[Address(address)]


def test_a_sleeping_function_is_read_once_per_boot(tree: SysfsTree) -> None:
    tree.host(boot_id="one")
    first = snapshot(sleeping(tree))
    attribute(tree, "config", make_config(plain=(pcie(flr=False, width=4),)))
    again = snapshot(tree, first)
    assert again.facts == first.facts
    assert function(again).max_link_width == 8
    # another boot, another device, or awake: read again
    tree.host(boot_id="two")
    assert function(snapshot(tree, first)).max_link_width == 4
    tree.host(boot_id="one")
    attribute(tree, "device", "0x1533\n")
    assert function(snapshot(tree, first)).config is None
    attribute(tree, "device", "0x10d3\n")
    attribute(tree, "power_state", "D0\n")
    awake = function(snapshot(tree, first))
    assert awake.max_link_width == 4
    assert awake.config is not None
    assert awake.config.pcie is not None
    assert not awake.config.pcie.flr


def test_what_was_read_before_the_vm_took_it_stays_known(tree: SysfsTree) -> None:
    tree.host(boot_id="one")
    tree.write("/dev/vfio/14", "")
    first = snapshot(sleeping(tree))
    tree.hold(4711, "qemu-system-x86", "/dev/vfio/14")
    held = snapshot(tree, first)
    assert held.readings.holders == (HOLDER,)
    assert function(held).config == function(first).config
    assert held.facts == first.facts


def test_a_blocked_attribute_is_a_gap_and_the_rest_is_known(tree: SysfsTree) -> None:
    path = tree.at(f"{tree.place(NIC)}/sriov_numvfs")
    os.mkfifo(path)
    attribute(tree, "sriov_totalvfs", "7\n")
    try:
        seen = look(LiveRoot(str(tree.top), deadline_s=0.5))
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    assert seen[NIC].sriov_num_vfs is None
    assert seen[NIC].sriov_total_vfs == 7
    assert seen[NIC].config is not None
    gap = seen.gaps[f"{DEVICES}/{NIC}/sriov_numvfs"]
    assert (gap.errno, gap.reason) == (errno.ETIMEDOUT, "blocked for 0.5 s")


@pytest.mark.parametrize(
    ("state", "status", "asleep"),
    [
        ("D0", "suspended", False),
        ("D3hot", "active", True),
        ("D3cold", "suspended", True),
        ("unknown", "active", False),
        ("unknown", "suspended", True),
        ("", "unsupported", False),
    ],
)
def test_who_is_asleep(tree: SysfsTree, state: str, status: str, asleep: bool) -> None:
    attribute(tree, "power_state", f"{state}\n")
    attribute(tree, "power/runtime_status", f"{status}\n")
    seen = look_live(tree, holders=(HOLDER,))
    assert (seen[NIC].config is None) == asleep
    assert (seen.reading(NIC).link_width is None) == asleep
