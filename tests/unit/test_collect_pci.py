"""PCI functions from sysfs trees: every field, every kind of absence, the way up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.config_bytes import dsn, make_config, pcie, sriov
from tests.fakes.pci_seen import (
    DEVICES,
    KERNEL,
    NIC,
    attribute,
    look,
    look_live,
    make_nic_host,
)
from tests.fakes.sysfs_tree import SysfsTree, make_big_host
from vfio_agent.collect.pci import Collected, collect_functions
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_contract.address import Address
from vfio_contract.identity import identify
from vfio_contract.model import (
    NO_GROUP,
    Bar,
    FunctionReading,
    PciFunction,
)


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return make_nic_host(tmp_path / "host")


def test_every_field(tree: SysfsTree) -> None:
    tree.write("/sys/devices/pci0000:00/firmware_node/path", "\\_SB_.PCI0\n")
    attribute(tree, "driver_override", "vfio-pci\n")
    attribute(tree, "numa_node", "1\n")
    attribute(tree, "boot_vga", "1\n")
    attribute(tree, "sriov_totalvfs", "7\n")
    attribute(tree, "sriov_numvfs", "2\n")
    for kind, total in (("fatal", "FATAL"), ("nonfatal", "NONFATAL"), ("correctable", "COR")):
        attribute(tree, f"aer_dev_{kind}", f"RxErr 3\nTOTAL_ERR_{total} {len(kind)}\n")
    tree.mkdir(f"{tree.place(NIC)}/vfio-dev/vfio0")
    seen = look_live(tree)
    config = seen[NIC].config
    assert config is not None
    assert config.pcie is not None
    assert seen[NIC] == PciFunction(
        address=Address(NIC),
        parent=Address("0000:00:02.0"),
        root="pci0000:00",
        root_path="\\_SB_.PCI0",
        vendor=0x8086,
        device=0x10D3,
        subsystem_vendor=0x8086,
        subsystem_device=0xA01F,
        class_code=0x020000,
        revision=0,
        driver="e1000e",
        driver_override="vfio-pci",
        group=14,
        vfio_device=True,
        reset_method_file=True,
        reset_methods=("flr", "bus"),
        reset_file=True,
        numa_node=1,
        boot_vga=True,
        sriov_total_vfs=7,
        sriov_num_vfs=2,
        physfn=Address(""),
        vf_index=-1,
        bars=(Bar(index=0, start=0xFE600000, size_bytes=0x4000, flags=0x140204),),
        max_link_speed="8.0 GT/s PCIe",
        max_link_width=8,
        config=config,
    )
    assert seen.reading(NIC) == FunctionReading(
        address=Address(NIC),
        power_state="D0",
        runtime_status=None,
        link_speed="8.0 GT/s PCIe",
        link_width=8,
        aer_fatal=5,
        aer_nonfatal=8,
        aer_correctable=11,
        vfio_nodes=("vfio0",),
    )
    assert seen.gaps == {}


def test_what_a_live_host_lacks_is_a_known_absence(tree: SysfsTree) -> None:
    place = tree.function(
        "0000:00:1f.0",
        class_code=0x060100,
        reset_methods=None,
        bars=(),
        config=make_config(size=256),
    )
    for name in (
        "driver_override",
        "numa_node",
        "power_state",
        "max_link_speed",
        "max_link_width",
        "current_link_speed",
        "current_link_width",
    ):
        tree.remove(f"{place}/{name}")
    seen = look_live(tree)
    isa = seen["0000:00:1f.0"]
    assert isa.parent == ""
    assert (isa.driver, isa.driver_override, isa.group) == ("", "", NO_GROUP)
    assert (isa.vfio_device, isa.reset_file, isa.reset_method_file) == (False, False, False)
    assert isa.reset_methods == ()
    assert (isa.numa_node, isa.boot_vga) == (-1, False)
    assert (isa.sriov_total_vfs, isa.sriov_num_vfs, isa.physfn, isa.vf_index) == (0, 0, "", -1)
    assert (isa.bars, isa.max_link_speed, isa.max_link_width) == ((), "", 0)
    assert isa.root_path == ""
    reading = seen.reading("0000:00:1f.0")
    assert (reading.power_state, reading.link_speed, reading.link_width) == ("", "", 0)
    # nobody counted errors, so that none is known is not "no error"
    assert (reading.aer_fatal, reading.aer_nonfatal, reading.aer_correctable) == (None,) * 3
    assert seen.gaps == {}


def test_an_attribute_that_no_captured_function_has_is_unknown(tree: SysfsTree) -> None:
    tree.function("0000:00:1f.0", reset_methods=None)
    seen = look(open_root(str(tree.top)))
    nic, isa = seen[NIC], seen["0000:00:1f.0"]
    # another function has these, so they were captured
    assert (isa.driver, isa.group) == ("", NO_GROUP)
    assert (isa.reset_method_file, isa.reset_methods, isa.reset_file) == (False, (), False)
    # no function has these
    assert (nic.vfio_device, nic.boot_vga) == (None, None)
    assert (nic.sriov_total_vfs, nic.sriov_num_vfs) == (None, None)
    assert seen.reason(f"{DEVICES}/*/vfio-dev") == "not captured for any function"
    assert nic.root_path is None
    # a function whose own ids can be read from its config space is no virtual function
    assert (nic.physfn, nic.vf_index) == ("", -1)


def test_a_capture_without_config_cannot_tell_virtual_functions(tree: SysfsTree) -> None:
    for address in (NIC, "0000:00:02.0"):
        tree.remove(f"{tree.place(address)}/config")
    seen = look(open_root(str(tree.top)))
    assert (seen[NIC].physfn, seen[NIC].vf_index) == (None, None)
    assert seen[NIC].config is None
    assert f"{DEVICES}/*/config" in seen.gaps


@pytest.mark.parametrize(
    ("release", "methods"),
    [("6.1.0", ()), ("5.15.86", ()), ("5.14.21", None), ("4.19.0", None), (None, None)],
)
def test_reset_methods_need_a_kernel_that_lists_them(
    release: str | None, methods: tuple[str, ...] | None, tmp_path: Path
) -> None:
    tree = SysfsTree(tmp_path)
    tree.function("0000:00:03.0", reset_methods=None)
    seen = look_live(tree, kernel=replace(KERNEL, release=release))
    assert seen["0000:00:03.0"].reset_method_file is False
    assert seen["0000:00:03.0"].reset_methods == methods


def test_an_empty_reset_method_file_is_an_empty_list(tree: SysfsTree) -> None:
    attribute(tree, "reset_method", "\n")
    seen = look_live(tree)
    assert seen[NIC].reset_method_file is True
    assert seen[NIC].reset_methods == ()


# --- the tree ------------------------------------------------------------------------------------


def test_functions_behind_vmd_pass_through_it(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    for vmd, domain in (("0000:00:0e.0", "10000:e0"), ("0000:80:0e.0", "10001:e0")):
        tree.function(vmd, root=f"pci{vmd[:7]}", class_code=0x010400)
        port = f"{domain}:06.0"
        tree.bridge(port, root=f"pci{vmd[:7]}/{vmd}/pci{domain}", buses=(0xE1, 0xE1))
        tree.function(f"{domain[:5]}:e1:00.0", parent=port, ids="144d:a808", class_code=0x010802)
    seen = look_live(tree)
    assert seen["10000:e0:06.0"].parent == "0000:00:0e.0"
    assert seen["10000:e0:06.0"].root == "pci10000:e0"
    assert seen["10000:e1:00.0"].parent == "10000:e0:06.0"
    assert seen["0000:00:0e.0"].parent == ""
    identities = identify(tuple(seen.functions.values()))
    assert len({i.identity for i in identities.values()}) == len(seen.functions) == 6


def test_domains_longer_than_four_digits(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.function("7fffffff:00:00.0")
    tree.function("fff1:00:00.0")
    seen = look_live(tree)
    assert sorted(seen.functions) == ["7fffffff:00:00.0", "fff1:00:00.0"]
    assert seen["7fffffff:00:00.0"].root == "pci7fffffff:00"
    assert seen["7fffffff:00:00.0"].parent == ""


def test_a_host_bridge_below_a_platform_device(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.function("0000:00:00.0", root="platform/soc/fd500000.pcie/pci0000:00")
    seen = look_live(tree)
    assert seen["0000:00:00.0"].root == "pci0000:00"
    assert seen["0000:00:00.0"].parent == ""


def test_virtual_functions(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.bridge("0000:00:03.0")
    config = make_config(
        plain=(pcie(flr=True),), extended=(dsn("00-11-22-33-44-55-66-77"), sriov(enabled=2))
    )
    tree.function("0000:03:00.0", parent="0000:00:03.0", config=config)
    tree.virtual_function("0000:03:10.0", physfn="0000:03:00.0", index=0)
    tree.virtual_function("0000:03:10.2", physfn="0000:03:00.0", index=1)
    seen = look_live(tree)
    assert [(f.physfn, f.vf_index) for f in seen.functions.values()] == [
        ("", -1),
        ("", -1),
        ("0000:03:00.0", 0),
        ("0000:03:00.0", 1),
    ]
    assert seen["0000:03:10.0"].vendor == 0x8086
    config_of_vf = seen["0000:03:10.0"].config
    assert config_of_vf is not None
    assert not config_of_vf.dead
    identities = identify(tuple(seen.functions.values()))
    assert identities[Address("0000:03:10.2")].identity == "dsn-00-11-22-33-44-55-66-77.0/vf1"


def test_a_virtual_function_whose_number_is_not_written(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.function("0000:03:00.0")
    tree.virtual_function("0000:03:10.0", physfn="0000:03:00.0", index=0)
    tree.remove(f"{tree.place('0000:03:00.0')}/virtfn0")
    assert look_live(tree)["0000:03:10.0"].vf_index is None


def test_a_virtual_function_that_is_being_removed_is_no_physical_one(tmp_path: Path) -> None:
    """The kernel takes the links away first, and then waits for the holder [lab]."""
    tree = SysfsTree(tmp_path)
    tree.function("0000:03:00.0")
    tree.virtual_function("0000:03:10.0", physfn="0000:03:00.0", index=0)
    tree.remove(f"{tree.place('0000:03:10.0')}/physfn")
    tree.remove(f"{tree.place('0000:03:00.0')}/virtfn0")
    seen = look_live(tree)
    assert seen["0000:03:10.0"].physfn is None
    assert "being removed" in seen.reason(f"{DEVICES}/0000:03:10.0/physfn")
    assert seen["0000:03:00.0"].physfn == ""


def test_a_host_without_pci(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    live = Reader(LiveRoot(str(tmp_path)))
    found = collect_functions(live, kernel=KERNEL, holders=(), previous=None)
    assert found == Collected(functions=(), readings=())
    captured = Reader(open_root(str(tmp_path)))
    found = collect_functions(captured, kernel=KERNEL, holders=(), previous=None)
    assert found == Collected(functions=None, readings=())
    assert [gap.path for gap in captured.gaps] == [DEVICES]


def test_a_big_host_is_the_same_from_both_sides(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    make_big_host(tree, functions=64)
    one, other = look_live(tree), look(open_root(str(tree.top)))
    assert len(one.functions) == 64
    assert {f.config for f in one.functions.values()} == {
        f.config for f in other.functions.values()
    }
    assert all(f.driver and f.group is not None for f in one.functions.values())
