"""Block devices: what is under each, down to PCI functions, and what cannot be followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.disks import NVME, NVME1, SUBSYSTEM, UNROUTED, VIRTUAL, Disks
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.block import collect_block, is_networked
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_agent.collect.storage import collect_storage_uses
from vfio_contract.model import BlockDevice


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(SysfsTree(tmp_path))


def test_disks_and_partitions(disks: Disks) -> None:
    found = disks.block()
    assert found["sda"] == BlockDevice("sda", "8:0", found["sda"].functions, (), "")
    assert found["sda"].functions == ("0000:00:17.0",)
    assert found["sda1"].parents == ("sda",)
    assert found["nvme0n1p1"].functions == ("0000:02:00.0",)


def test_lvm_on_luks_on_md_over_two_controllers(disks: Disks) -> None:
    disks.stacked("md0", "9:0", "sda1", "nvme0n1p1")
    disks.tree.write(f"{VIRTUAL}/md0/md/level", "raid1\n")
    disks.stacked("dm-0", "253:0", "md0", label="crypt")
    disks.stacked("dm-1", "253:1", "dm-0", label="pve-root")
    found = disks.block()
    assert found["dm-1"].parents == ("dm-0",)
    assert found["dm-1"].label == "pve-root"
    assert found["dm-1"].functions == ("0000:00:17.0", "0000:02:00.0")
    assert found["md0"].label == "raid1"


def test_multipath_nvme_stands_on_all_its_controllers(disks: Disks) -> None:
    disks.disk("nvme2n1", "259:8", SUBSYSTEM)
    disks.tree.write(f"{SUBSYSTEM}/subsysnqn", "nqn\n")
    for name, place in (("nvme0", NVME), ("nvme1", NVME1)):
        disks.tree.mkdir(place)
        disks.tree.link(f"{SUBSYSTEM}/{name}", place)
    assert disks.block()["nvme2n1"].functions == ("0000:02:00.0", "0000:03:00.0")


def test_a_disk_of_a_server_has_no_function_and_needs_the_network(disks: Disks) -> None:
    session = "/sys/devices/platform/host7/session1/target7:0:0/7:0:0:0/block"
    fabric = "/sys/devices/virtual/nvme-fabrics/ctl/nvme5"
    disks.disk("sdb", "8:16", session)
    disks.disk("nvme5n1", "259:9", fabric)
    disks.tree.write(f"{fabric}/transport", "tcp\n")
    disks.mount("/mnt", "ext4", "/dev/sdb", "8:16")
    found = disks.block()
    for name in ("sdb", "nvme5n1"):
        assert is_networked(found[name])
        assert found[name].functions == ()
    assert [(u.kind, u.unresolved) for u in disks.uses()] == [("network", ""), ("storage", "")]
    assert [(u.kind, bool(u.unresolved)) for u in disks.uses(UNROUTED)] == [
        ("network", True),
        ("storage", False),
    ]


def test_memory_stands_on_nothing(disks: Disks) -> None:
    disks.disk("zram0", "252:0", VIRTUAL)
    disks.tree.write(f"{VIRTUAL}/zram0/backing_dev", "none\n")
    disks.disk("ram0", "1:0", VIRTUAL)
    assert disks.block()["zram0"].functions == ()
    assert disks.block()["ram0"].functions == ()
    disks.tree.write(f"{VIRTUAL}/zram0/backing_dev", "/dev/sda2\n")
    assert disks.block()["zram0"].functions == ("0000:00:17.0",)


def test_devices_not_in_use_are_left_out(disks: Disks) -> None:
    disks.loop("loop0", "7:0", "")
    disks.disk("nbd0", "43:0", VIRTUAL)
    assert {"loop0", "nbd0"}.isdisjoint(disks.block())


def test_a_loop_device_stands_on_its_files_mount(disks: Disks) -> None:
    disks.mount("/", "ext4", "/dev/sda1", "8:1")
    disks.mount("/srv", "xfs", "/dev/nvme0n1p1", "259:1")
    disks.loop("loop0", "7:0", "/srv/images/a.img")
    disks.loop("loop1", "7:1", "/srv/gone.img (deleted)")
    disks.disk("loop0p1", "259:20", f"{VIRTUAL}/loop0")
    found = disks.block()
    assert found["loop0"].parents == ("nvme0n1p1",)
    assert found["loop0p1"].functions == ("0000:02:00.0",)
    assert found["loop1"].functions is None


def test_a_loop_device_on_itself_ends(disks: Disks) -> None:
    disks.mount("/", "ext4", "/dev/loop0", "7:0")
    disks.loop("loop0", "7:0", "/a.img")
    reader = disks.reader()
    found = {d.name: d for d in collect_block(reader) or ()}
    assert found["loop0"].functions is None
    assert [(g.path, g.reason) for g in reader.gaps] == [
        ("/sys/class/block/loop0", "it stands on itself")
    ]


@pytest.mark.parametrize("name", ["zd0", "drbd0", "nbd3", "bcache0", "ublkb0", "unheardof7"])
def test_what_cannot_be_followed_is_unknown_and_leaves_a_gap(disks: Disks, name: str) -> None:
    disks.disk(name, "240:0", VIRTUAL)
    disks.tree.write(f"{VIRTUAL}/{name}/pid", "77\n")
    disks.mount("/mnt", "ext4", f"/dev/{name}", "240:0")
    reader = disks.reader()
    found = {d.name: d for d in collect_block(reader) or ()}
    assert found[name].functions is None
    assert [gap.path for gap in reader.gaps] == [f"/sys/class/block/{name}"]
    assert disks.only_use().unresolved == f"what {name} stands on is not known"


def test_a_platform_disk_has_no_pci_function(disks: Disks) -> None:
    disks.disk("mmcblk0", "179:0", "/sys/devices/platform/soc/fe340000.mmc/mmc_host/mmc0/block")
    disks.disk(
        "mmcblk0p1", "179:1", "/sys/devices/platform/soc/fe340000.mmc/mmc_host/mmc0/block/mmcblk0"
    )
    assert disks.block()["mmcblk0p1"].functions == ()


def test_a_capture_that_lost_its_links_or_slaves_knows_nothing(disks: Disks) -> None:
    disks.tree.write("/sys/class/block/sdz/dev", "65:0\n")
    disks.disk("dm-0", "253:0", VIRTUAL)
    reader = Reader(open_root(str(disks.tree.top)))
    found = {device.name: device for device in collect_block(reader) or ()}
    assert found["sdz"].functions is None
    assert found["dm-0"].functions is None
    assert found["sda1"].functions == ("0000:00:17.0",)


def test_no_block_devices_and_no_evidence_of_them(tmp_path: Path) -> None:
    assert collect_block(Reader(LiveRoot(str(tmp_path)))) == ()
    assert collect_block(Reader(open_root(str(tmp_path)))) is None
    assert collect_storage_uses(Reader(open_root(str(tmp_path))), None, None) is None
