"""What mounts and swap areas stand on, and what cannot be followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.disks import ROUTED, UNROUTED, VIRTUAL, Disks
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import open_root
from vfio_agent.collect.storage import collect_block, collect_storage_uses
from vfio_contract.model import StorageUse


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(SysfsTree(tmp_path))


# --- filesystems ---------------------------------------------------------------------------------


def test_the_number_decides_and_not_the_name(disks: Disks) -> None:
    disks.mount("/", "ext4", "/dev/root", "8:1")
    assert disks.only_use() == StorageUse("/ (ext4)", "storage", ("sda1",), (), "")


def test_without_numbers_the_name_decides(disks: Disks) -> None:
    disks.stacked("dm-3", "253:3", "sda2", label="pve-root")
    reader = disks.reader()
    disks.tree.remove("/proc/1/mountinfo")
    disks.tree.write(
        "/proc/mounts",
        "/dev/mapper/pve-root / ext4 rw 0 0\n/dev/nvme0n1p1 /boot vfat rw 0 0\n"
        "/dev/sdq1 /old ext4 rw 0 0\n",
    )
    uses = collect_storage_uses(reader, collect_block(reader), ROUTED)
    assert [(u.use, u.devices, bool(u.unresolved)) for u in uses or ()] == [
        ("/ (ext4)", ("dm-3",), False),
        ("/boot (vfat)", ("nvme0n1p1",), False),
        ("/old (ext4)", (), True),
    ]


def test_pseudo_filesystems_need_nothing(disks: Disks) -> None:
    for index, fstype in enumerate(("sysfs", "tmpfs", "cgroup2", "fuse.lxcfs", "autofs", "nsfs")):
        disks.mount(f"/x{index}", fstype, fstype)
    assert disks.uses() == []


@pytest.mark.parametrize("fstype", ["zfs", "bcachefs", "btrfs", "wekafs", "fuse.mergerfs", "fuse"])
def test_an_unknown_or_uncovered_filesystem_is_unresolved(disks: Disks, fstype: str) -> None:
    disks.mount("/t", fstype, "tank")
    use = disks.only_use()
    assert (use.use, use.kind, use.devices) == (f"/t ({fstype})", "storage", ())
    assert use.unresolved


@pytest.mark.parametrize("fstype", ["nfs4", "cifs", "ceph", "fuse.sshfs", "fuse.glusterfs"])
def test_network_filesystems_need_the_network(disks: Disks, fstype: str) -> None:
    disks.mount("/mnt", fstype, "server:/x")
    assert disks.only_use() == StorageUse(f"/mnt ({fstype})", "network", (), (), "")
    (use,) = disks.uses(UNROUTED)
    assert use.kind == "network"
    assert use.unresolved


def test_a_cluster_filesystem_needs_disk_and_network(disks: Disks) -> None:
    disks.mount("/shared", "gfs2", "/dev/sda2", "8:2")
    assert [(u.kind, u.devices) for u in disks.uses()] == [
        ("network", ("sda2",)),
        ("storage", ("sda2",)),
    ]


def test_btrfs_by_the_devices_that_sysfs_names(disks: Disks) -> None:
    disks.mount("/", "btrfs", "/dev/sda2", "0:30", "rw,subvol=/@")
    disks.mount("/home", "btrfs", "/dev/sda2", "0:30", "rw,subvol=/@home")
    for name in ("sda2", "nvme0n1p1"):
        disks.tree.link(f"/sys/fs/btrfs/0000-11/devices/{name}", f"/sys/class/block/{name}")
    disks.tree.mkdir("/sys/fs/btrfs/features")
    use = disks.only_use()
    assert use == StorageUse("/ (btrfs)", "storage", ("nvme0n1p1", "sda2"), (), "")
    disks.tree.link("/sys/fs/btrfs/0000-11/devices/sdx9", "/sys/class/block/sdx9")
    assert disks.only_use().unresolved


def test_an_external_log_is_a_device_too(disks: Disks) -> None:
    disks.mount("/srv", "xfs", "/dev/sda1", "8:1", "rw,logdev=/dev/nvme0n1p1,noquota")
    assert disks.only_use().devices == ("nvme0n1p1", "sda1")
    disks.rows.pop()
    disks.mount("/srv", "xfs", "/dev/sda1", "8:1", "rw,logdev=/dev/disk/by-id/lost")
    assert "/dev/disk/by-id/lost" in disks.only_use().unresolved


def test_plan9_and_virtiofs_stand_on_their_function(disks: Disks) -> None:
    base = "/sys/devices/pci0000:00"
    for number, tag in (("1d", "lab"), ("1e", "root")):
        place = f"{base}/0000:00:{number}.0/virtio{number}"
        disks.tree.write(f"{place}/mount_tag", tag + "\0")
    disks.tree.link("/sys/bus/virtio/drivers/9pnet_virtio/virtio3", f"{base}/0000:00:1d.0/virtio1d")
    disks.tree.link("/sys/bus/virtio/drivers/9pnet_virtio/virtio4", f"{base}/0000:00:1e.0/virtio1e")
    disks.tree.write("/sys/bus/virtio/drivers/9pnet_virtio/bind", "")
    disks.mount("/", "9p", "root", options="rw,trans=virtio")
    disks.mount("/share", "virtiofs", "share")
    disks.tree.mkdir(f"{base}/0000:00:05.0/virtio5")
    disks.tree.link("/sys/bus/virtio/drivers/virtiofs/virtio5", f"{base}/0000:00:05.0/virtio5")
    assert [(u.use, u.functions, u.unresolved) for u in disks.uses()] == [
        ("/ (9p)", ("0000:00:1e.0",), ""),
        ("/share (virtiofs)", ("0000:00:05.0",), ""),
    ]


def test_two_virtiofs_devices_are_told_apart_by_tag_only(disks: Disks) -> None:
    base = "/sys/devices/pci0000:00"
    for number in ("05", "06"):
        place = f"{base}/0000:00:{number}.0/virtio{number}"
        disks.tree.mkdir(place)
        disks.tree.link(f"/sys/bus/virtio/drivers/virtiofs/virtio{number}", place)
    disks.mount("/share", "virtiofs", "share")
    assert disks.only_use().unresolved
    disks.tree.write("/sys/fs/virtiofs/1/tag", "share\n")
    disks.tree.link("/sys/fs/virtiofs/1/device", f"{base}/0000:00:06.0/virtio06")
    assert disks.only_use().functions == ("0000:00:06.0",)


def test_plan9_without_its_tag_or_over_other_transports(disks: Disks) -> None:
    disks.mount("/a", "9p", "lost", options="rw,trans=virtio")
    disks.mount("/b", "9p", "10.0.0.1", options="rw,trans=tcp,port=564")
    disks.mount("/c", "9p", "x", options="rw,trans=fd")
    assert [(u.use, u.kind, bool(u.unresolved)) for u in disks.uses()] == [
        ("/a (9p)", "storage", True),
        ("/b (9p)", "network", False),
        ("/c (9p)", "storage", True),
    ]


def test_an_overlay_stands_on_its_layers(disks: Disks) -> None:
    disks.mount("/", "overlay", "root", options="rw,lowerdir=/run/lo\\:w:/boot/x,upperdir=/run/up")
    disks.mount("/run", "tmpfs", "tmpfs", "0:50")
    disks.mount("/run/lo:w", "ext4", "/dev/sda1", "8:1")
    disks.rows[-1] = disks.rows[-1].replace(" 28 8:1", " 29 8:1")  # below /run
    disks.mount("/boot", "vfat", "/dev/nvme0n1p1", "259:1")
    disks.tree.mkdir("/run/up")
    assert [(u.use, u.devices, u.unresolved) for u in disks.uses()] == [
        ("/ (overlay)", ("nvme0n1p1", "sda1"), ""),
        ("/boot (vfat)", ("nvme0n1p1",), ""),
        ("/run/lo:w (ext4)", ("sda1",), ""),
    ]


@pytest.mark.parametrize(
    "options",
    [
        "rw",
        "rw,lowerdir=/mnt/of/the/ramdisk,upperdir=/cow",
        "rw,lowerdir=relative/path",
        "rw,lowerdir=/run/not-there",
    ],
)
def test_an_overlay_whose_layers_cannot_be_seen_is_unresolved(disks: Disks, options: str) -> None:
    disks.mount("/", "overlay", "root", options=options)
    disks.mount("/run", "tmpfs", "tmpfs", "0:50")
    assert disks.only_use().unresolved


def test_containers_on_one_disk_are_one_use(disks: Disks) -> None:
    disks.mount("/", "ext4", "/dev/sda1", "8:1")
    for index in range(50):
        layers = f"rw,lowerdir=/var/l/{index}:/var/l/b,upperdir=/var/u/{index},workdir=/var/w"
        disks.mount(f"/m/{index}", "overlay", "overlay", f"0:{index + 60}", layers)
    disks.mount("/bind", "ext4", "/dev/sda1", "8:1")
    assert disks.uses() == [StorageUse("/ (ext4)", "storage", ("sda1",), (), "")]


def test_the_cluster_filesystem_of_proxmox_stands_on_its_database(disks: Disks) -> None:
    disks.mount("/", "ext4", "/dev/sda1", "8:1")
    disks.mount("/etc/pve", "fuse", "/dev/fuse")
    assert disks.only_use().use == "/ (ext4)"


# --- swap ----------------------------------------------------------------------------------------


def test_swap_on_a_partition_a_mapping_a_file_and_memory(disks: Disks) -> None:
    disks.mount("/srv", "xfs", "/dev/nvme0n1p1", "259:1")
    disks.stacked("dm-0", "253:0", "sda1", label="swap")
    disks.disk("zram0", "252:0", VIRTUAL)
    disks.swaps += "/dev/sda2                               partition\t8\t0\t-2\n"
    disks.swaps += "/dev/mapper/swap                        partition\t8\t0\t-3\n"
    disks.swaps += "/srv/swap\\040file                      file\t8\t0\t-4\n"
    disks.swaps += "/dev/zram0                              partition\t8\t0\t100\n"
    disks.swaps += "/dev/sdq                                partition\t8\t0\t1\n"
    assert [(u.use, u.devices, u.unresolved) for u in disks.uses()] == [
        ("/srv (xfs)", ("nvme0n1p1",), ""),
        ("swap (/dev/mapper/swap)", ("dm-0",), ""),
        ("swap (/dev/sda2)", ("sda2",), ""),
        ("swap (/dev/sdq)", (), "swap area /dev/sdq cannot be found"),
        ("swap (/dev/zram0)", ("zram0",), ""),
    ]


def test_unreadable_swap_is_not_no_swap(disks: Disks) -> None:
    disks.mount("/", "ext4", "/dev/sda1", "8:1")
    disks.reader()
    disks.tree.remove("/proc/swaps")
    reader = Reader(open_root(str(disks.tree.top)))
    uses = collect_storage_uses(reader, collect_block(reader), ROUTED)
    found = {u.use: u.unresolved for u in uses or ()}
    assert found["/ (ext4)"] == ""
    assert found["swap"] == "/proc/swaps could not be read"
