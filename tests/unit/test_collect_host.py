"""Groups, holders, intentions, names, and the whole host put together."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host, names
from vfio_agent.collect.groups import collect_groups, collect_iommu_units
from vfio_agent.collect.holders import collect_holders
from vfio_agent.collect.host import UNKNOWN_HOST, collector_name
from vfio_agent.collect.intents import collect_intents
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, Names, open_root
from vfio_contract.artifact import digest_facts
from vfio_contract.model import Holder, Intent, IommuGroup, ReservedRegion

GROUPS = "/sys/kernel/iommu_groups"


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "host")


def live(tree: SysfsTree) -> Reader:
    return Reader(LiveRoot(str(tree.top)))


def captured(tree: SysfsTree) -> Reader:
    return Reader(open_root(str(tree.top)))


# --- groups --------------------------------------------------------------------------------------


def test_a_group_with_everything(tree: SysfsTree) -> None:
    tree.function("0000:01:00.0", group=10)
    tree.function("0000:01:00.1", group=10)
    tree.group(
        10,
        kind="DMA-FQ",
        reserved="0x00000000fee00000 0x00000000feefffff msi\n"
        "0x00000000000a0000 0x00000000000bffff direct-relaxable\n",
    )
    tree.group(9, kind="identity", name="vfio-noiommu")
    reader = live(tree)
    assert collect_groups(reader) == (
        IommuGroup(number=9, name="vfio-noiommu", type="identity", members=(), reserved=()),
        IommuGroup(
            number=10,
            name="",
            type="DMA-FQ",
            members=("0000:01:00.0", "0000:01:00.1"),
            reserved=(
                ReservedRegion(start=0xFEE00000, end=0xFEEFFFFF, kind="msi"),
                ReservedRegion(start=0xA0000, end=0xBFFFF, kind="direct-relaxable"),
            ),
        ),
    )
    assert len(reader.gaps) == 0


def test_an_empty_folder_is_proof_and_a_missing_one_is_not(tree: SysfsTree) -> None:
    tree.mkdir("/sys/class")
    assert collect_groups(live(tree)) == ()
    assert collect_iommu_units(live(tree)) == ()
    reader = captured(tree)
    assert collect_groups(reader) is None
    assert collect_iommu_units(reader) is None
    assert [gap.path for gap in reader.gaps] == [GROUPS, "/sys/class/iommu"]
    tree.mkdir(GROUPS)
    tree.mkdir("/sys/class/iommu")
    assert collect_groups(captured(tree)) == ()
    assert collect_iommu_units(captured(tree)) == ()
    tree.iommu("dmar0")
    assert collect_iommu_units(captured(tree)) == ("dmar0",)


def test_attributes_that_no_captured_group_has_are_unknown(tree: SysfsTree) -> None:
    tree.function("0000:01:00.0", group=1)
    tree.function("0000:02:00.0", group=2)
    for number in (1, 2):
        tree.remove(f"{GROUPS}/{number}/reserved_regions")
    tree.remove(f"{GROUPS}/2/type")
    reader = captured(tree)
    groups = collect_groups(reader)
    assert groups is not None
    assert [(g.name, g.type, g.reserved) for g in groups] == [
        (None, "DMA-FQ", None),
        (None, "", None),
    ]
    assert {gap.path for gap in reader.gaps} == {
        f"{GROUPS}/*/name",
        f"{GROUPS}/*/reserved_regions",
    }


def test_groups_with_nonsense(tree: SysfsTree) -> None:
    tree.function("0000:01:00.0", group=1)
    tree.write(f"{GROUPS}/1/reserved_regions", "0x0000 0x00")
    tree.write(f"{GROUPS}/1/type", b"DM\xff\n")
    tree.mkdir(f"{GROUPS}/one")
    tree.write(f"{GROUPS}/2", "a file")
    reader = live(tree)
    groups = collect_groups(reader)
    assert groups is not None
    assert [(g.number, g.type, g.reserved, g.members) for g in groups] == [
        (1, "DM\\xff", None, ("0000:01:00.0",)),
        (2, None, None, ()),
    ]
    gaps = {gap.path: gap for gap in reader.gaps}
    assert gaps[f"{GROUPS}/one"].reason == "not a group number"
    assert "not a reserved region" in gaps[f"{GROUPS}/1/reserved_regions"].reason
    assert gaps[f"{GROUPS}/2/devices"].errno == errno.ENOTDIR


# --- holders -------------------------------------------------------------------------------------


def test_holders_of_group_and_device_nodes(tree: SysfsTree) -> None:
    for node in ("17", "18", "vfio", "devices/vfio2"):
        tree.write(f"/dev/vfio/{node}", "")
    tree.write("/proc/cpuinfo", "")
    tree.hold(1, "systemd")
    tree.hold(
        4711,
        "qemu-system-x86",
        "/dev/vfio/vfio",
        "/dev/vfio/17",
        "/dev/vfio/17",
        "socket:[12]",
        "anon_inode:[vfio-device]",
        "/dev/vfio/devices/vfio2",
    )
    tree.hold(99, "dpdk", "/dev/vfio/18 (deleted)")
    reader = live(tree)
    assert collect_holders(reader) == (
        Holder(path="/dev/vfio/17", pid=4711, command="qemu-system-x86", stale_node=False),
        Holder(path="/dev/vfio/18", pid=99, command="dpdk", stale_node=True, vm=""),
        Holder(
            path="/dev/vfio/devices/vfio2", pid=4711, command="qemu-system-x86", stale_node=False
        ),
    )
    assert len(reader.gaps) == 0


def test_without_nodes_nobody_is_asked(tree: SysfsTree) -> None:
    tree.hold(4711, "qemu-system-x86", "/dev/vfio/17")
    assert collect_holders(live(tree)) == ()  # no /dev/vfio
    tree.write("/dev/vfio/vfio", "")
    assert collect_holders(live(tree)) == ()  # only the container
    tree.mkdir("/dev/vfio/devices")
    assert collect_holders(live(tree)) == ()  # no device node


def test_uncaptured_nodes_are_not_nobody(tree: SysfsTree) -> None:
    tree.mkdir("/proc")
    reader = captured(tree)
    assert collect_holders(reader) is None
    assert [gap.path for gap in reader.gaps] == ["/dev/vfio"]


class OrdinaryUser(LiveRoot):
    """A live root that may not look into other users' processes."""

    def _names(self, path: str) -> Names:
        if path.endswith("/fd"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return super()._names(path)


def test_processes_that_may_not_be_looked_into_are_one_gap(tree: SysfsTree) -> None:
    tree.write("/dev/vfio/17", "")
    for pid in (1, 2, 4711):
        tree.hold(pid, "x", "/dev/vfio/17")
    reader = Reader(OrdinaryUser(str(tree.top)))
    assert collect_holders(reader) is None
    assert [(g.path, g.errno, g.remedy) for g in reader.gaps] == [
        ("/proc/*/fd", errno.EACCES, "sudo vfioctl check")
    ]


class Someone(LiveRoot):
    """A live root that is not root's."""

    @property
    def privileged(self) -> bool | None:
        return False


@pytest.mark.parametrize("option", ["hidepid=2", "hidepid=invisible", "hidepid=ptraceable"])
def test_hidden_processes_are_not_nobody(tree: SysfsTree, option: str) -> None:
    tree.write("/dev/vfio/17", "")
    tree.write("/proc/1/mountinfo", f"21 1 0:21 / /proc rw - proc proc rw,{option}\n")
    reader = Reader(Someone(str(tree.top)))
    assert collect_holders(reader) is None
    assert [(g.path, g.reason, g.remedy) for g in reader.gaps] == [
        ("/proc/*/fd", f"/proc is mounted with {option}", "sudo vfioctl check")
    ]


def test_a_container_does_not_see_the_processes_of_its_host(tree: SysfsTree) -> None:
    tree.write("/dev/vfio/17", "")
    tree.hold(1, "systemd")
    for number, known in ((4026531836, ()), (4026532000, None)):
        place = tree.at("/proc/1/ns/pid")
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(f"pid:[{number}]")
        assert collect_holders(live(tree)) == known


def test_a_qemu_is_asked_for_the_name_of_its_vm_alone(tree: SysfsTree) -> None:
    tree.write("/dev/vfio/17", "")
    tree.hold(7, "qemu-system-x86", "/dev/vfio/17")
    words = ("/usr/bin/qemu-system-x86_64", "-name", "guest=lab-3", "-vnc", "password=x")
    tree.write("/proc/7/cmdline", "\0".join(words) + "\0")
    (holder,) = collect_holders(live(tree)) or ()
    assert holder.vm == "lab-3"


# --- intents -------------------------------------------------------------------------------------


def test_every_written_intention(tree: SysfsTree) -> None:
    tree.write(
        "/etc/modprobe.d/vfio.conf",
        "# GPU\noptions vfio-pci ids=10DE:2204,10de:1aef disable_vga=1\n"
        "options vfio_pci \\\n  disable_idle_d3=1 \\\n  ids=8086:1533:8086:0001:020000\n"
        'options vfio-pci ids="1b36:0010"\n'
        "options kvm ignore_msrs=1\nsoftdep nouveau pre: vfio-pci\noptions vfio-pci\n",
    )
    tree.write("/lib/modprobe.d/vfio.conf", "options vfio-pci ids=dead:beef\n")
    tree.write("/lib/modprobe.d/local.conf", "options vfio-pci ids=1234:5678")
    tree.write("/etc/modprobe.d/ignored.txt", "options vfio-pci ids=ffff:ffff\n")
    tree.write("/etc/driverctl.d/pci-0000:01:00.0", "vfio-pci\n")
    tree.write("/etc/driverctl.d/0000:02:00.0", "mlx5_vfio_pci\n")
    tree.write("/etc/driverctl.d/pci-0000:03:00.0", "nvme\n")
    tree.write("/etc/driverctl.d/vmbus-abc", "uio_hv_generic\n")
    tree.write("/sys/module/vfio_pci/parameters/ids", "aaaa:bbbb\n")
    reader = live(tree)
    cmdline = "quiet vfio-pci.ids=10de:1eb8 pci-stub.ids=1:2 vfio_pci.ids=10de:1eb9,1002:73bf"
    assert collect_intents(reader, cmdline) == (
        Intent("driverctl", "0000:01:00.0", "driverctl.d/pci-0000:01:00.0"),
        Intent("driverctl", "0000:02:00.0", "driverctl.d/0000:02:00.0"),
        Intent("vfio-ids", "1002:73bf", "kernel command line"),
        Intent("vfio-ids", "10de:1aef", "modprobe.d/vfio.conf:2"),
        Intent("vfio-ids", "10de:1eb8", "kernel command line"),
        Intent("vfio-ids", "10de:1eb9", "kernel command line"),
        Intent("vfio-ids", "10de:2204", "modprobe.d/vfio.conf:2"),
        Intent("vfio-ids", "1234:5678", "/lib/modprobe.d/local.conf:1"),
        Intent("vfio-ids", "1b36:0010", "modprobe.d/vfio.conf:6"),
        Intent("vfio-ids", "8086:1533:8086:0001", "modprobe.d/vfio.conf:3"),
        Intent("vfio-ids", "aaaa:bbbb", "/sys/module/vfio_pci/parameters/ids"),
    )
    assert len(reader.gaps) == 0


def test_a_broken_id_is_a_gap_with_its_line(tree: SysfsTree) -> None:
    tree.write("/etc/modprobe.d/v.conf", b"\noptions vfio-pci ids=10de,\xff:1,8086:1533\n")
    reader = live(tree)
    assert collect_intents(reader, "") == (Intent("vfio-ids", "8086:1533", "modprobe.d/v.conf:2"),)
    assert [(g.path, g.reason) for g in reader.gaps] == [
        ("/etc/modprobe.d/v.conf", "not a vfio-pci id: '10de' (modprobe.d/v.conf:2)")
    ]


def test_no_source_at_all_is_not_no_intention(tree: SysfsTree) -> None:
    tree.mkdir("/sys")
    assert collect_intents(captured(tree), None) is None
    assert collect_intents(captured(tree), "quiet") == ()
    assert collect_intents(live(tree), None) == ()
    reader = captured(tree)
    collect_intents(reader, "quiet")
    assert [gap.path for gap in reader.gaps] == ["/etc/modprobe.d", "/etc/driverctl.d"]


# --- names ---------------------------------------------------------------------------------------

PCI_IDS = (
    "# comment\n8086  Intel Corporation\n\t10d3  82574L Gigabit\n\t\t8086 a01f  A sub\n"
    "# in between\n\t1533  I210\n10de  NVIDIA\n\t1533  other maker's\n"
    "C 02  Network controller\n\t00  Ethernet\n"
)


def test_names_are_found_within_their_vendor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "pci.ids"
    database.write_text(PCI_IDS)
    monkeypatch.setattr(names, "PCI_IDS", (str(tmp_path / "absent"), str(database)))
    forget_names()
    wanted = ["8086:10d3", "8086:1533", "10de:1533", "10de:10d3", "1002:0001", "????:10d3", ""]
    assert names.find_names(wanted) == (
        ("10de:10d3", "NVIDIA [10de:10d3]"),
        ("10de:1533", "NVIDIA other maker's"),
        ("8086:10d3", "Intel Corporation 82574L Gigabit"),
        ("8086:1533", "Intel Corporation I210"),
    )
    monkeypatch.setattr(names, "PCI_IDS", ())
    forget_names()
    assert names.find_names(["8086:10d3"]) == ()
    monkeypatch.undo()
    forget_names()


def test_the_file_of_names_is_read_for_a_new_device_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "pci.ids"
    database.write_text(PCI_IDS)
    monkeypatch.setattr(names, "PCI_IDS", (str(database),))
    forget_names()
    found = names.find_names(["8086:10d3", "1002:0001"])
    database.write_text(PCI_IDS.replace("Intel", "Another"))
    assert names.find_names(["8086:10d3", "1002:0001"]) == found
    assert dict(names.find_names(["8086:10d3", "8086:1533"])) == {
        "8086:10d3": "Intel Corporation 82574L Gigabit",
        "8086:1533": "Another Corporation I210",
    }
    monkeypatch.undo()
    forget_names()


def forget_names() -> None:
    names._known.clear()


# --- the whole host ------------------------------------------------------------------------------


def test_a_host_from_both_sides(tree: SysfsTree) -> None:
    tree.host(boot_id="b-1")
    tree.iommu("dmar0")
    tree.bridge("0000:00:02.0", group=0)
    tree.function("0000:01:00.0", parent="0000:00:02.0", driver="vfio-pci", group=1)
    tree.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=8086:10d3\n")
    one = collect_host(LiveRoot(str(tree.top)))
    assert one.facts.host == "alpha"
    assert one.facts.kernel.release == "6.1.0-56-amd64"
    assert one.facts.iommu_units == ("dmar0",)
    assert [f.address for f in one.facts.functions or ()] == ["0000:00:02.0", "0000:01:00.0"]
    assert one.facts.intents == (Intent("vfio-ids", "8086:10d3", "modprobe.d/vfio.conf:1"),)
    assert (one.readings.live, one.readings.boot_id, one.readings.ledger) == (True, "b-1", None)
    assert one.readings.holders == ()
    assert one.readings.collector == collector_name()
    assert digest_facts(collect_host(LiveRoot(str(tree.top))).facts) == digest_facts(one.facts)
    other = collect_host(open_root(str(tree.top)), host="beta")
    assert (other.facts.host, other.readings.live) == ("beta", False)
    assert other.readings.privileged  # its config spaces have more than 64 bytes
    assert other.readings.holders is None


def test_a_root_that_holds_only_a_kernel_log(tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_text(
        "[    0.000000] Linux version 6.1.0-13-amd64 (b@h) (gcc 12) #1 SMP Debian 6.1.55-1\n"
        "[    0.000000] Command line: BOOT_IMAGE=/vmlinuz intel_iommu=on\n"
        "[    5.000000] Run /init as init process\n"
    )
    seen = collect_host(open_root(str(tmp_path)))
    assert seen.facts.host == UNKNOWN_HOST
    assert seen.facts.kernel.release == "6.1.0-13-amd64"
    assert seen.facts.cmdline == "BOOT_IMAGE=/vmlinuz intel_iommu=on"
    assert seen.facts.functions is None
    assert seen.facts.groups is None
    assert seen.readings.kernel_log is not None
    assert seen.readings.kernel_log.complete
    assert seen.readings.privileged is False
    paths = {gap.path for gap in seen.readings.gaps}
    assert {"/sys/bus/pci/devices", GROUPS, "/sys/class/iommu", "/proc/cmdline"} <= paths


def test_an_empty_root_is_all_gaps(tmp_path: Path) -> None:
    seen = collect_host(open_root(str(tmp_path)))
    assert seen.facts.functions is None
    assert seen.facts.cmdline is None
    assert seen.facts.intents is None
    assert seen.readings.boot_id is None
    assert seen.readings.kernel_log is None
    assert all(gap.errno == 0 for gap in seen.readings.gaps)
