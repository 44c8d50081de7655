"""Disks that are in use without a mount: pools, OSDs, volume groups, disks of VMs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.disks import NVME, ROUTED, VIRTUAL, Disks
from tests.fakes.nvlist import disk, make_pool, pack
from tests.fakes.sysfs_tree import SysfsTree
from tests.fakes.vms import make_vm
from vfio_agent.collect.block import collect_block
from vfio_agent.collect.claimed_disks import parse_volume_groups
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import open_root
from vfio_agent.collect.storage import collect_storage_uses
from vfio_agent.collect.zpool import CACHE, KSTAT
from vfio_contract.model import StorageUse
from vfio_contract.vm import VmConfig, VmDisk


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    made = Disks(SysfsTree(tmp_path))
    made.mount("/", "ext4", "/dev/nvme0n1p1", "259:1")
    return made


def others(disks: Disks, **known: object) -> list[tuple[str, tuple[str, ...], str]]:
    """(use, devices, why not resolved) of all uses but the root filesystem."""
    reader = disks.reader()
    found = collect_storage_uses(reader, collect_block(reader), ROUTED, **known)  # type: ignore[arg-type]
    return [(u.use, u.devices, u.unresolved) for u in found or () if u.use != "/ (ext4)"]


# --- ZFS -----------------------------------------------------------------------------------------


def import_pool(disks: Disks, name: str) -> None:
    disks.tree.write(f"{KSTAT}/{name}/state", "ONLINE\n")
    disks.tree.write(f"{KSTAT}/arcstats", "0\n")


def test_an_imported_pool_stands_on_its_disks_also_without_a_mount(disks: Disks) -> None:
    import_pool(disks, "tank")
    disks.tree.link("/dev/disk/by-id/ata-DISK-part1", "/dev/sda1")
    disks.tree.write("/dev/sda1", "")
    vdevs = {"type": "mirror", "children": [disk("/dev/disk/by-id/ata-DISK-part1")]}
    disks.tree.write(CACHE, pack({"tank": make_pool(vdevs, disk("/dev/sda2"))}))
    assert others(disks) == [("zpool tank", ("sda1", "sda2"), "")]


def test_a_pool_that_is_only_in_the_cache_is_no_use(disks: Disks) -> None:
    disks.tree.write(CACHE, pack({"tank": make_pool(disk("/dev/sda1"))}))
    assert others(disks) == []


def test_a_mounted_dataset_and_its_pool_are_one_use(disks: Disks) -> None:
    import_pool(disks, "rpool")
    disks.tree.write(CACHE, pack({"rpool": make_pool(disk("/dev/sda2"))}))
    disks.mount("/data", "zfs", "rpool/data@snap")
    assert others(disks) == [("/data (zfs)", ("sda2",), "")]


@pytest.mark.parametrize("cache", [b"", b"\x01garbage", None])
def test_a_pool_whose_disks_are_not_known_is_unresolved(disks: Disks, cache: bytes | None) -> None:
    import_pool(disks, "tank")
    if cache is not None:
        disks.tree.write(CACHE, cache)
    (use,) = others(disks)
    assert use == ("zpool tank", (), f"the disks of ZFS pool tank are not in {CACHE}")


def test_a_pool_with_one_disk_that_is_not_found_is_unresolved(disks: Disks) -> None:
    import_pool(disks, "tank")
    disks.tree.write(CACHE, pack({"tank": make_pool(disk("/dev/sda1"), disk("/dev/sdx1"))}))
    assert others(disks) == [
        ("zpool tank", ("sda1",), "disk /dev/sdx1 of ZFS pool tank cannot be found")
    ]


def test_a_volume_of_a_pool_stands_on_the_pool(disks: Disks) -> None:
    import_pool(disks, "tank")
    disks.tree.write(CACHE, pack({"tank": make_pool(disk("/dev/sda1"))}))
    disks.disk("zd0", "230:0", VIRTUAL)
    assert disks.block()["zd0"].functions == ("0000:00:17.0",)


def test_a_pool_on_a_volume_of_itself_ends(disks: Disks) -> None:
    import_pool(disks, "tank")
    disks.tree.write(CACHE, pack({"tank": make_pool(disk("/dev/zd0"))}))
    disks.disk("zd0", "230:0", VIRTUAL)
    assert disks.block()["zd0"].functions is None


def test_where_nobody_looked_for_pools_they_are_not_known(disks: Disks) -> None:
    disks.reader()
    reader = Reader(open_root(str(disks.tree.top)))
    uses = collect_storage_uses(reader, collect_block(reader), ROUTED) or ()
    assert StorageUse(
        "ZFS pools", "storage", (), (), "which ZFS pools are imported could not be read"
    ) in set(uses)
    disks.tree.write("/proc/modules", "vfio 65536 0 - Live 0x0\n")
    reader = Reader(open_root(str(disks.tree.top)))
    uses = collect_storage_uses(reader, collect_block(reader), ROUTED) or ()
    assert "ZFS pools" not in {use.use for use in uses}


# --- Ceph ----------------------------------------------------------------------------------------


def test_an_osd_of_packages_and_one_of_containers(disks: Disks) -> None:
    disks.stacked("dm-3", "253:3", "sda1", label="ceph--1--osd--block--2")
    disks.tree.write("/dev/dm-3", "")
    disks.tree.link("/dev/ceph-1/osd-block-2", "/dev/dm-3")
    disks.tree.at("/var/lib/ceph/osd/ceph-0").mkdir(parents=True)
    disks.tree.at("/var/lib/ceph/osd/ceph-0/block").symlink_to("/dev/ceph-1/osd-block-2")
    fsid = "/var/lib/ceph/0f3d4c66-5a2b-11ee-8c99-0242ac120002"
    disks.tree.at(f"{fsid}/osd.1").mkdir(parents=True)
    disks.tree.at(f"{fsid}/osd.1/block").symlink_to("/dev/sda2")
    assert [(use, devices) for use, devices, _ in others(disks)] == [
        ("Ceph OSD /var/lib/ceph/0f3d4c66-5a2b-11ee-8c99-0242ac120002/osd.1", ("sda2",)),
        ("Ceph OSD volumes", ("dm-3",)),
    ]


def test_a_volume_named_by_ceph_counts_without_its_folder(disks: Disks) -> None:
    disks.stacked("dm-3", "253:3", "sda1", label="ceph--1--osd--db--2")
    assert others(disks) == [("Ceph OSD volumes", ("dm-3",), "")]


def test_an_osd_whose_disk_is_not_found_is_unresolved(disks: Disks) -> None:
    disks.tree.at("/var/lib/ceph/osd/ceph-0").mkdir(parents=True)
    disks.tree.at("/var/lib/ceph/osd/ceph-0/block").symlink_to("/dev/sdx")
    assert others(disks) == [
        ("Ceph OSD /var/lib/ceph/osd/ceph-0", (), "its device /dev/sdx cannot be found")
    ]


# --- LVM storages of Proxmox ---------------------------------------------------------------------

STORAGE = """dir: local
\tpath /var/lib/vz

lvmthin: fast
\tthinpool data
\tvgname vm-data
\tcontent images

lvm: elsewhere
\tvgname other
\tnodes pve02,pve03

lvm: off
\tvgname off
\tdisable
"""


def test_volume_groups_that_this_node_uses() -> None:
    assert parse_volume_groups(STORAGE, "pve01") == [("fast", "vm-data")]
    both = [("fast", "vm-data"), ("elsewhere", "other")]
    assert parse_volume_groups(STORAGE, "pve02.example.org") == both


def test_a_thin_pool_without_a_mount_is_a_use(disks: Disks) -> None:
    disks.stacked("dm-1", "253:1", "sda1", label="vm--data-data_tdata")
    disks.stacked("dm-2", "253:2", "dm-1", label="vm--data-data")
    disks.stacked("dm-3", "253:3", "nvme0n1p1", label="other-root")
    disks.tree.write("/etc/pve/storage.cfg", STORAGE)
    found = others(disks, host="pve01")
    assert found == [("storage fast (volume group vm-data)", ("dm-1", "dm-2"), "")]


@pytest.mark.parametrize(
    ("hint", "devices", "why"),
    [
        ("/dev/sda1", ("sda1",), ""),
        ("/dev/sdx1", (), "its disk /dev/sdx1 cannot be found"),
        ("", (), "it has no active volume that shows its disks"),
    ],
)
def test_an_inactive_group_is_found_in_the_notes_of_lvm(
    disks: Disks, hint: str, devices: tuple[str, ...], why: str
) -> None:
    disks.tree.write("/etc/pve/storage.cfg", "lvm: slow\n\tvgname cold\n")
    if hint:
        text = f'cold {{\n\tphysical_volumes {{\n\t\tdevice = "{hint}"\t# Hint only\n\t}}\n}}\n'
        disks.tree.write("/etc/lvm/backup/cold", text)
    assert others(disks) == [("storage slow (volume group cold)", devices, why)]


# --- raw disks of VMs ----------------------------------------------------------------------------


def vm_with(*paths: str) -> VmConfig:
    return make_vm(raw_disks=tuple(VmDisk(9, path) for path in paths))


def test_a_disk_given_to_a_vm_is_a_use(disks: Disks) -> None:
    disks.tree.write("/dev/sda", "")
    disks.tree.link("/dev/disk/by-id/ata-BIG", "/dev/sda")
    found = others(disks, vms=(vm_with("/dev/disk/by-id/ata-BIG"),))
    assert found == [("vm 101 (/etc/pve/qemu-server/101.conf:9)", ("sda",), "")]


def test_a_disk_that_is_not_in_this_host_is_none(disks: Disks) -> None:
    assert others(disks, vms=(vm_with("/dev/disk/by-id/ata-GONE"),)) == []


def test_unknown_vms_or_disks_leave_storage_in_doubt(disks: Disks) -> None:
    assert others(disks, vms=None) == [
        ("disks of VMs", (), "which disks VMs get could not be read")
    ]
    old = make_vm(raw_disks=None)
    assert others(disks, vms=(old,))[0][2] == f"the disks of {old.source} could not be read"


def test_a_disk_node_without_a_block_device_is_unresolved(disks: Disks) -> None:
    disks.tree.write("/dev/odd", "")
    (use,) = others(disks, vms=(vm_with("/dev/odd"),))
    assert use[2] == "disk /dev/odd cannot be found in /sys/class/block"


def test_a_mirror_of_multipath_and_a_spanning_btrfs(disks: Disks) -> None:
    disks.disk("sdb", "8:16", f"{NVME}/odd")
    disks.stacked("dm-5", "253:5", "sda", "sdb", label="mpatha")
    for name in ("dm-5", "nvme0n1"):
        disks.tree.link(f"/sys/fs/btrfs/uuid/devices/{name}", f"/sys/class/block/{name}")
    disks.mount("/pool", "btrfs", "/dev/mapper/mpatha", "0:44")
    assert others(disks) == [("/pool (btrfs)", ("dm-5", "nvme0n1"), "")]
