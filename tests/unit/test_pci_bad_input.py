"""Half-written, looping, cyclic, dead and odd: each a gap that says where, none an exception."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from vfio_agent.collect.root import LiveRoot, ManyBytes, Root, open_root


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return make_nic_host(tmp_path / "host")


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

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        answers = super().read_config_many(paths)
        first = [path not in self._read_once for path in paths]
        self._read_once.update(paths)
        return [
            b"\xff" * len(data) if new and isinstance(data, bytes) else data
            for new, data in zip(first, answers, strict=True)
        ]


def test_a_function_is_dead_only_if_it_is_so_twice(tree: SysfsTree) -> None:
    seen = look(WakingRoot(str(tree.top)))
    assert seen[NIC].config == look_live(tree)[NIC].config
    assert seen.gaps == {}


def test_the_config_space_of_another_function_is_not_believed(tree: SysfsTree) -> None:
    """A copy that mixed two functions up once made a bridge of an endpoint."""
    data = bytearray(make_config(plain=(pcie(flr=True),)))
    data[0:4] = bytes.fromhex("361b0c00")
    attribute(tree, "config", bytes(data))
    seen = look_live(tree)
    assert seen[NIC].config is None
    gap = seen.gaps[f"{DEVICES}/{NIC}/config"]
    assert gap.reason.startswith("begins with 1b36:000c, sysfs: ")


def damage_header(tree: SysfsTree, address: str, header: int) -> None:
    place = tree.at(f"{tree.place(address)}/config")
    data = bytearray(place.read_bytes())
    data[0x0E] = data[0x0E] & 0x80 | header
    place.write_bytes(bytes(data))


@pytest.mark.parametrize("header", [1, 2])
def test_an_endpoint_does_not_pass_for_a_bridge(tree: SysfsTree, header: int) -> None:
    """A bridge is never judged: a damaged byte must not take a device out of the report."""
    damage_header(tree, NIC, header)
    for seen in (look_live(tree), look(open_root(str(tree.top)))):
        assert seen[NIC].is_bridge is None
        assert f"{DEVICES}/{NIC}/config" in seen.gaps


@pytest.mark.parametrize("header", [1, 2])
def test_nor_does_one_without_pci_express(tree: SysfsTree, header: int) -> None:
    config = make_config(vendor=0x8086, device=0x10D3, size=256, header_type=header)
    attribute(tree, "config", config)
    for seen in (look_live(tree), look(open_root(str(tree.top)))):
        assert seen[NIC].is_bridge is None
        reason = f"header type {header}, but sysfs shows class 0200"
        assert reason in seen.gaps[f"{DEVICES}/{NIC}/config"].reason


@pytest.mark.parametrize("header", [0, 2])
def test_a_bridge_with_a_bus_does_not_pass_for_something_else(tree: SysfsTree, header: int) -> None:
    port = make_bridge_below(tree)
    damage_header(tree, port, header)
    for seen in (look_live(tree), look(open_root(str(tree.top)))):
        assert seen[port].is_bridge is None


def test_a_bridge_of_an_unusual_class_is_one_by_its_bus(tree: SysfsTree) -> None:
    tree.write(f"{tree.place(make_bridge_below(tree))}/class", "0x068000\n")
    assert look_live(tree)["0000:00:1c.0"].is_bridge is True
    copied = look(open_root(str(tree.top)))
    assert copied["0000:00:1c.0"].is_bridge is True


def test_a_bridge_that_the_kernel_gave_no_bus_number_is_none(tree: SysfsTree) -> None:
    port = make_bridge_below(tree)
    tree.remove(f"{tree.place(port)}/secondary_bus_number")
    assert look_live(tree)[port].is_bridge is None
    copied = look(open_root(str(tree.top)))
    assert copied[port].is_bridge is True  # a copy may have left the number out


def test_a_class_that_the_device_does_not_have_is_not_believed(tree: SysfsTree) -> None:
    place = tree.at(f"{tree.place(NIC)}/config")
    data = bytearray(place.read_bytes())
    data[0x0B] = 0x02
    place.write_bytes(bytes(data))
    assert look_live(tree)[NIC].class_code == 0x020000
    attribute(tree, "class", "0x030000\n")
    seen = look_live(tree)
    assert seen[NIC].class_code is None
    reason = "base class 03, but its config space says 02"
    assert seen.gaps[f"{DEVICES}/{NIC}/class"].reason == reason


def make_bridge_below(tree: SysfsTree) -> str:
    """A root port with nothing in its slot."""
    tree.bridge("0000:00:1c.0", buses=(9, 9))
    return "0000:00:1c.0"


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


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
