"""What mounts and swap stand on, down to PCI functions, and what cannot be followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.block import collect_block, is_networked
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_agent.collect.storage import collect_storage_uses
from vfio_contract.model import BlockDevice, NetDevice, StorageUse

AHCI = "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block"
NVME = "/sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0"
NVME1 = "/sys/devices/pci0000:00/0000:00:1d.4/0000:03:00.0/nvme/nvme1"
VIRTUAL = "/sys/devices/virtual/block"
SUBSYSTEM = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
ROUTED = (NetDevice("eth0", None, "", (), (), ("10.0.2.15",), ("default",)),)
UNROUTED = (NetDevice("eth0", None, "", (), (), None, None),)


class Disks:
    """A host's block devices, mounts and swap areas."""

    def __init__(self, tree: SysfsTree) -> None:
        self.tree = tree
        self.rows = ["21 27 0:21 / /proc rw - proc proc rw"]
        self.swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        tree.mkdir("/sys/class/block")

    def disk(self, name: str, number: str, place: str) -> None:
        self.tree.write(f"{place}/{name}/dev", number + "\n")
        self.tree.link(f"/sys/class/block/{name}", f"{place}/{name}")

    def stacked(self, name: str, number: str, *slaves: str, label: str = "") -> None:
        self.disk(name, number, VIRTUAL)
        self.tree.mkdir(f"{VIRTUAL}/{name}/slaves")
        for slave in slaves:
            self.tree.link(f"{VIRTUAL}/{name}/slaves/{slave}", f"/sys/class/block/{slave}")
        self.tree.write(f"{VIRTUAL}/{name}/dm/name", label + "\n")

    def loop(self, name: str, number: str, file: str) -> None:
        self.disk(name, number, VIRTUAL)
        self.tree.mkdir(f"{VIRTUAL}/{name}/slaves")
        if file:
            self.tree.write(f"{VIRTUAL}/{name}/loop/backing_file", file + "\n")

    def mount(
        self, point: str, fstype: str, source: str, number: str = "0:99", options: str = "rw"
    ) -> None:
        name = len(self.rows) + 27
        parent = 1 if point == "/" else 28
        if point == "/":
            name = 28
        self.rows.append(f"{name} {parent} {number} / {point} rw - {fstype} {source} {options}")

    def reader(self) -> Reader:
        self.tree.write("/proc/1/mountinfo", "\n".join(self.rows) + "\n")
        self.tree.write("/proc/swaps", self.swaps)
        return Reader(LiveRoot(str(self.tree.top)))

    def block(self) -> dict[str, BlockDevice]:
        return {device.name: device for device in collect_block(self.reader()) or ()}

    def uses(self, network: tuple[NetDevice, ...] = ROUTED) -> list[StorageUse]:
        reader = self.reader()
        found = collect_storage_uses(reader, collect_block(reader), network)
        assert found is not None
        return list(found)

    def only_use(self) -> StorageUse:
        (use,) = self.uses()
        return use


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    disks = Disks(SysfsTree(tmp_path))
    disks.disk("sda", "8:0", AHCI)
    disks.disk("sda1", "8:1", f"{AHCI}/sda")
    disks.disk("sda2", "8:2", f"{AHCI}/sda")
    disks.disk("nvme0n1", "259:0", NVME)
    disks.disk("nvme0n1p1", "259:1", f"{NVME}/nvme0n1")
    return disks


# --- block devices -------------------------------------------------------------------------------


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
    disks.mount("/tank", fstype, "tank")
    use = disks.only_use()
    assert (use.use, use.kind, use.devices) == (f"/tank ({fstype})", "storage", ())
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
    disks.mount("/work", "virtiofs", "share")
    disks.tree.mkdir(f"{base}/0000:00:05.0/virtio5")
    disks.tree.link("/sys/bus/virtio/drivers/virtiofs/virtio5", f"{base}/0000:00:05.0/virtio5")
    assert [(u.use, u.functions, u.unresolved) for u in disks.uses()] == [
        ("/ (9p)", ("0000:00:1e.0",), ""),
        ("/work (virtiofs)", ("0000:00:05.0",), ""),
    ]


def test_two_virtiofs_devices_are_told_apart_by_tag_only(disks: Disks) -> None:
    base = "/sys/devices/pci0000:00"
    for number in ("05", "06"):
        place = f"{base}/0000:00:{number}.0/virtio{number}"
        disks.tree.mkdir(place)
        disks.tree.link(f"/sys/bus/virtio/drivers/virtiofs/virtio{number}", place)
    disks.mount("/work", "virtiofs", "share")
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
    assert [(u.use, u.unresolved) for u in uses or ()] == [
        ("/ (ext4)", ""),
        ("swap", "/proc/swaps could not be read"),
    ]
