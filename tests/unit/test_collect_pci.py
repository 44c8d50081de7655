"""PCI functions from sysfs trees: every field, every kind of absence, every kind of nonsense."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.config_bytes import dsn, make_config, pcie, sriov
from tests.fakes.sysfs_tree import SysfsTree, make_big_host
from vfio_agent.collect import collect_host
from vfio_agent.collect.pci import Collected, collect_functions
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, Root, open_root
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.identity import identify
from vfio_contract.model import (
    NO_GROUP,
    Bar,
    FunctionReading,
    Gap,
    Holder,
    Kernel,
    PciFunction,
    Snapshot,
)

NIC = "0000:01:00.0"
KERNEL = Kernel(release="6.1.0-56-amd64", build=None, machine=None)
DEVICES = "/sys/bus/pci/devices"


class Seen:
    """One collection: functions and readings by address, gaps by path."""

    def __init__(self, collected: Collected, gaps: tuple[Gap, ...]) -> None:
        self.functions = {f.address: f for f in collected.functions or ()}
        self.readings = {r.address: r for r in collected.readings}
        self.gaps = {gap.path: gap for gap in gaps}

    def __getitem__(self, address: str) -> PciFunction:
        return self.functions[Address(address)]

    def reading(self, address: str) -> FunctionReading:
        return self.readings[Address(address)]

    def reason(self, path: str) -> str:
        return self.gaps[path].reason


def look(
    root: Root,
    *,
    kernel: Kernel = KERNEL,
    holders: tuple[Holder, ...] | None = (),
    previous: Snapshot | None = None,
) -> Seen:
    reader = Reader(root)
    collected = collect_functions(reader, kernel=kernel, holders=holders, previous=previous)
    return Seen(collected, reader.gaps)


def look_live(tree: SysfsTree, **options: object) -> Seen:
    return look(LiveRoot(str(tree.top)), **options)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    tree = SysfsTree(tmp_path / "host")
    tree.bridge("0000:00:02.0", group=0, buses=(1, 1))
    tree.function(NIC, parent="0000:00:02.0", driver="e1000e", group=14)
    return tree


def attribute(tree: SysfsTree, name: str, content: str | bytes, address: str = NIC) -> None:
    tree.write(f"{tree.place(address)}/{name}", content)


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


def test_a_host_without_pci(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    live = Reader(LiveRoot(str(tmp_path)))
    found = collect_functions(live, kernel=KERNEL, holders=(), previous=None)
    assert found == Collected(functions=(), readings=())
    captured = Reader(open_root(str(tmp_path)))
    found = collect_functions(captured, kernel=KERNEL, holders=(), previous=None)
    assert found == Collected(functions=None, readings=())
    assert [gap.path for gap in captured.gaps] == [DEVICES]


# --- bad input -----------------------------------------------------------------------------------

REQUIRED_NUMBERS = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class", "revision")
FIELDS = {"class": "class_code"}


@pytest.mark.parametrize("name", REQUIRED_NUMBERS)
@pytest.mark.parametrize("content", [b"", b"0x", b"0x8", b"8086\n", b"0x80\xff6\n", b"zzzz\n"])
def test_a_half_written_number_is_a_gap(tree: SysfsTree, name: str, content: bytes) -> None:
    attribute(tree, name, content)
    seen = look_live(tree)
    assert getattr(seen[NIC], FIELDS.get(name, name)) is None
    gap = seen.gaps[f"{DEVICES}/{NIC}/{name}"]
    assert gap.errno == 0
    assert gap.reason == "empty" if not content else "not what this attribute holds" in gap.reason
    assert len(seen.gaps) == 1


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("numa_node", b"one\n", "numa_node"),
        ("numa_node", b"\xff\xfe", "numa_node"),
        ("boot_vga", b"2\n", "boot_vga"),
        ("sriov_totalvfs", b"", "sriov_total_vfs"),
        ("sriov_numvfs", b"9999999999999\n", "sriov_num_vfs"),
        ("resource", b"", "bars"),
        ("resource", b"0x00000000fe600000 0x00000000fe603fff", "bars"),
        ("resource", b"\x00\xff\n", "bars"),
    ],
)
def test_nonsense_is_a_gap_and_not_a_value(
    tree: SysfsTree, name: str, content: bytes, field: str
) -> None:
    attribute(tree, name, content)
    seen = look_live(tree)
    assert getattr(seen[NIC], field) is None
    assert list(seen.gaps) == [f"{DEVICES}/{NIC}/{name}"]


def test_bytes_that_are_not_text_are_shown_and_kept(tree: SysfsTree) -> None:
    attribute(tree, "driver_override", b"vf\xe9o\n")
    seen = look_live(tree)
    assert seen[NIC].driver_override == "vf\\xe9o"
    assert seen.gaps == {}


def test_without_privilege_the_kernel_tells_the_link(tree: SysfsTree) -> None:
    attribute(tree, "config", make_config(plain=(pcie(),))[:64])
    for name, content in (
        ("max_link_speed", "5.0 GT/s PCIe\n"),
        ("max_link_width", "4\n"),
        ("current_link_speed", b"\xff\n"),
        ("current_link_width", "x1\n"),
    ):
        attribute(tree, name, content)
    seen = look_live(tree)
    assert (seen[NIC].max_link_speed, seen[NIC].max_link_width) == ("5.0 GT/s PCIe", 4)
    assert (seen.reading(NIC).link_speed, seen.reading(NIC).link_width) == ("\\xff", None)
    assert list(seen.gaps) == [f"{DEVICES}/{NIC}/current_link_width"]


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


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 256, 257, 4095, 4096])
def test_config_spaces_of_any_length(tree: SysfsTree, size: int) -> None:
    attribute(tree, "config", make_config(plain=(pcie(flr=True),))[:size])
    seen = look_live(tree)
    config, path = seen[NIC].config, f"{DEVICES}/{NIC}/config"
    if size == 0:
        assert config is None
        assert seen.reason(path) == "empty: 0 bytes"
        return
    assert config is not None
    assert config.length == size
    if size in (64, 256, 4096):
        assert path not in seen.gaps
    else:
        assert f"{size} bytes instead of 64, 256 or 4096" in seen.reason(path)


@pytest.mark.parametrize("size", [64, 256, 4096])
def test_a_dead_function_is_told_from_a_sleeping_one(tree: SysfsTree, size: int) -> None:
    attribute(tree, "config", b"\xff" * size)
    seen = look_live(tree)
    config = seen[NIC].config
    assert config is not None
    assert config.dead
    assert "does not answer" in seen.reason(f"{DEVICES}/{NIC}/config")
    attribute(tree, "power_state", "D3cold\n")
    seen = look_live(tree)
    assert seen[NIC].config is None
    assert "asleep" in seen.reason(f"{DEVICES}/{NIC}/config")


class WakingRoot(LiveRoot):
    """A live host whose functions answer with all ones when they are first read."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self._read_once: set[str] = set()

    def _load_config(self, path: str) -> bytes:
        data = super()._load_config(path)
        if path not in self._read_once:
            self._read_once.add(path)
            return b"\xff" * len(data)
        return data


def test_a_function_is_dead_only_if_it_is_so_twice(tree: SysfsTree) -> None:
    seen = look(WakingRoot(str(tree.top)))
    assert seen[NIC].config == look_live(tree)[NIC].config
    assert seen.gaps == {}


def test_a_looping_capability_list_is_a_gap_that_says_where(tree: SysfsTree) -> None:
    data = bytearray(make_config(plain=(pcie(flr=True),)))
    data[0x41] = 0x40
    attribute(tree, "config", bytes(data))
    seen = look_live(tree)
    assert seen[NIC].config is not None
    assert seen.reason(f"{DEVICES}/{NIC}/config") == "capability list loops at 0x40"


def test_links_to_nonsense(tree: SysfsTree) -> None:
    place = tree.place(NIC)
    for name, target in (
        ("iommu_group", "/sys/kernel/iommu_groups/fourteen"),
        ("physfn", "/sys/devices/x"),
    ):
        tree.link(f"{place}/{name}", target)
    seen = look_live(tree)
    assert (seen[NIC].group, seen[NIC].physfn, seen[NIC].vf_index) == (None, None, None)
    assert "fourteen" in seen.reason(f"{DEVICES}/{NIC}/iommu_group")
    assert "not a link to a PCI function" in seen.reason(f"{DEVICES}/{NIC}/physfn")


def test_links_that_are_files(tree: SysfsTree) -> None:
    place = tree.place(NIC)
    for name in ("driver", "iommu_group"):
        tree.remove(f"{place}/{name}")
        tree.write(f"{place}/{name}", "x")
    seen = look_live(tree)
    assert (seen[NIC].driver, seen[NIC].group) == (None, None)
    assert {gap.errno for gap in seen.gaps.values()} == {errno.EINVAL}


Opener = Callable[[Path], Root]


def live(top: Path) -> Root:
    return LiveRoot(str(top))


def captured(top: Path) -> Root:
    return open_root(str(top))


@pytest.mark.parametrize("opener", [live, captured])
def test_a_cyclic_device_link_is_a_function_of_which_nothing_is_known(
    tree: SysfsTree, opener: Opener
) -> None:
    tree.at(f"{DEVICES}/0000:05:00.0").symlink_to("0000:05:00.0")
    tree.at(f"{DEVICES}/0000:06:00.0").symlink_to("../../../devices/gone")
    tree.at(f"{DEVICES}/not-a-function").symlink_to("../../../devices")
    seen = look(opener(tree.top))
    assert seen[NIC].vendor == 0x8086
    for address in ("0000:05:00.0", "0000:06:00.0"):
        assert (seen[address].vendor, seen[address].parent, seen[address].group) == (None,) * 3
        assert f"{DEVICES}/{address}" in seen.gaps
    assert seen.gaps[f"{DEVICES}/0000:05:00.0"].errno == errno.ELOOP
    assert seen.reason(f"{DEVICES}/not-a-function") == "not a PCI address"
    assert len(seen.functions) == 4


def test_a_copied_tree_without_links(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    for name, content in (("vendor", "0x8086\n"), ("device", "0x10d3\n"), ("class", "0x020000\n")):
        tree.write(f"{DEVICES}/{NIC}/{name}", content)
    seen = look(open_root(str(tree.top)))
    assert (seen[NIC].vendor, seen[NIC].parent, seen[NIC].root) == (0x8086, None, "")
    assert seen.gaps[f"{DEVICES}/{NIC}"].errno == errno.EINVAL


NAMES = (
    *REQUIRED_NUMBERS,
    "resource",
    "config",
    "driver_override",
    "numa_node",
    "reset_method",
    "power_state",
    "power/runtime_status",
    "max_link_speed",
    "max_link_width",
    "current_link_width",
    "aer_dev_fatal",
    "boot_vga",
    "sriov_totalvfs",
    "sriov_numvfs",
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=300)),
    links=st.dictionaries(
        st.sampled_from(("driver", "iommu_group", "physfn", "virtfn0", "virtfnX", "vfio-dev")),
        st.sampled_from((".", "..", "/", "x", "driver", "../../../../../..", "iommu_group")),
    ),
)
def test_no_content_raises(
    contents: dict[str, bytes], links: dict[str, str], tmp_path: Path
) -> None:
    tree = SysfsTree(Path(tempfile.mkdtemp(dir=tmp_path)))
    tree.host()
    tree.bridge("0000:00:02.0", group=0)
    place = tree.function(NIC, parent="0000:00:02.0", driver="e1000e", group=14)
    for name, content in contents.items():
        tree.write(f"{place}/{name}", content)
    for name, target in links.items():
        tree.at(f"{place}/{name}").unlink(missing_ok=True)
        tree.at(f"{place}/{name}").symlink_to(target)
    for opener in (live, captured):
        seen = look(opener(tree.top))
        assert len(seen.functions) == 2
        for field in ("vendor", "class_code", "bars", "config"):
            name = {"class_code": "class", "bars": "resource"}.get(field, field)
            if getattr(seen[NIC], field) is None:
                assert f"{DEVICES}/{NIC}/{name}" in seen.gaps


# --- what must not be woken ----------------------------------------------------------------------

HOLDER = Holder(path="/dev/vfio/14", pid=4711, command="qemu-system-x86")


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
    seen = look(captured(sleeping(tree).top), holders=None)
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
        seen = look(LiveRoot(str(tree.top), deadline_s=0.2))
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    assert seen[NIC].sriov_num_vfs is None
    assert seen[NIC].sriov_total_vfs == 7
    assert seen[NIC].config is not None
    gap = seen.gaps[f"{DEVICES}/{NIC}/sriov_numvfs"]
    assert (gap.errno, gap.reason) == (errno.ETIMEDOUT, "blocked for 0.2 s")


def test_a_big_host_is_the_same_from_both_sides(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    make_big_host(tree, functions=64)
    one, other = look_live(tree), look(captured(tree.top))
    assert len(one.functions) == 64
    assert {f.config for f in one.functions.values()} == {
        f.config for f in other.functions.values()
    }
    assert all(f.driver and f.group is not None for f in one.functions.values())
