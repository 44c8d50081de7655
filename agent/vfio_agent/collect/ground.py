"""What a mounted filesystem stands on: block devices, PCI functions, the network, or nothing.

The device number decides where there is one. Filesystems without one are known by type: pseudo
filesystems stand on nothing, overlays on the mounts of their layers, 9p and virtiofs on their
virtio function, network filesystems on the network. Whatever cannot be followed to its end is said
to be unresolved, with the reason: a type that is not known here is never taken for a pseudo one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vfio_agent.collect import zpool
from vfio_agent.collect.device_path import innermost_function
from vfio_agent.collect.mounts import Mount, MountTable
from vfio_agent.collect.reader import Reader
from vfio_contract.address import Address

_PSEUDO_WORDS = """
    autofs bdev binder binfmt_misc bpf cgroup cgroup2 configfs cpuset dax debugfs devpts devtmpfs
    efivarfs functionfs fusectl hugetlbfs mqueue nfsd nsfs ocfs2_dlmfs openpromfs pidfs pipefs proc
    pstore ramfs resctrl rootfs rpc_pipefs s390_hypfs securityfs selinuxfs smackfs sockfs spufs
    sysfs tmpfs tracefs usbfs xenfs
"""
PSEUDO = frozenset(_PSEUDO_WORDS.split())
"""Filesystems of the kernel that keep nothing anywhere (fs/, kernel/, mm/, security/ of 6.12)."""

_NETWORKED_WORDS = """
    afs beegfs ceph cifs coda davfs lustre ncpfs nfs nfs4 orangefs smb3 smbfs
"""
NETWORKED = frozenset(_NETWORKED_WORDS.split())
"""Filesystems whose only storage is a server."""

SHARED = frozenset({"gfs2", "ocfs2"})
"""Cluster filesystems: a block device, and the network for their locks."""

_FUSE_PSEUDO = frozenset({"lxcfs", "portal", "gvfsd-fuse", "gvfs-fuse-daemon"})
_FUSE_NETWORKED = frozenset(
    {"ceph-fuse", "curlftpfs", "glusterfs", "juicefs", "mfs", "rclone", "s3fs", "sshfs"}
)
_PMXCFS_STORE = "/var/lib/pve-cluster"
"""Where Proxmox VE's /etc/pve (a bare `fuse` mount of /dev/fuse) keeps its database."""

_VIRTIO = re.compile(r"virtio\d+")
_LAYERS = frozenset({"lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"})


@dataclass(frozen=True, slots=True)
class Standing:
    """What something stands on. `unresolved` holds the reasons why there may be more."""

    devices: frozenset[str] = frozenset()
    functions: frozenset[Address] = frozenset()
    networked: bool = False
    unresolved: frozenset[str] = frozenset()

    def __or__(self, other: Standing) -> Standing:
        return Standing(
            devices=self.devices | other.devices,
            functions=self.functions | other.functions,
            networked=self.networked or other.networked,
            unresolved=self.unresolved | other.unresolved,
        )


NOTHING = Standing()
NETWORK = Standing(networked=True)


def unknown(reason: str) -> Standing:
    """A standing of which nothing is known but why."""
    return Standing(unresolved=frozenset({reason}))


class Ground:
    """Resolves mounts and paths of one host. `names` maps `major:minor` to a block device's name,
    `mapped` the names of device mapper devices (below /dev/mapper) to theirs.
    """

    def __init__(
        self,
        reader: Reader,
        table: MountTable,
        *,
        names: Mapping[str, str],
        mapped: Mapping[str, str],
    ) -> None:
        self._reader = reader
        self.table = table
        self._names = names
        self._known = frozenset(names.values())
        self._mapped = mapped
        self._done: dict[int, Standing] = {}
        self._open: set[int] = set()
        self._pools: Mapping[str, tuple[zpool.Leaf, ...] | None] | None = None

    def of_mount(self, mount: Mount) -> Standing:
        """What a mount stands on; a mount that stands on itself is unresolved."""
        if mount.id in self._done:
            return self._done[mount.id]
        if mount.id in self._open:
            return unknown("its layers are on a mount that cannot be seen from here")
        self._open.add(mount.id)
        try:
            found = self._resolve(mount)
        finally:
            self._open.discard(mount.id)
        self._done[mount.id] = found
        return found

    def of_path(self, path: str) -> Standing:
        """What a file or directory stands on."""
        mount = self.table.containing(path)
        if mount is None:
            return unknown("its path is on no mount that can be seen from here")
        return self.of_mount(mount)

    def device_named(self, path: str) -> str | None:
        """The block device that a path below /dev names, None when there is none of that name."""
        if not path.startswith("/dev/"):
            return None
        name = path.removeprefix("/dev/")
        if name.replace("/", "!") in self._known:
            return name.replace("/", "!")
        if name.startswith("mapper/") and name.removeprefix("mapper/") in self._mapped:
            return self._mapped[name.removeprefix("mapper/")]
        try:
            real = self._reader.root.real(path).removeprefix("/dev/")
        except OSError:
            return None  # the caller says what it could not find
        return real if real in self._known else None

    # --- ZFS --------------------------------------------------------------------------------

    def pools(self) -> tuple[str, ...] | None:
        """The imported ZFS pools, mounted or not; None when they are not known."""
        imported = zpool.list_imported(self._reader)
        if imported is None:
            return None
        mounted = [
            re.split("[/@]", mount.source, maxsplit=1)[0]
            for mount in self.table.mounts
            if mount.fstype == "zfs"
        ]
        return tuple(sorted({*imported, *mounted}))

    def of_pool(self, name: str) -> Standing:
        """What a ZFS pool stands on: every disk, log, cache and spare of it."""
        if self._pools is None:
            self._pools = zpool.read_pools(self._reader)
        leaves = self._pools.get(name)
        if leaves is None:
            return unknown(f"the disks of ZFS pool {name} are not in {zpool.CACHE}")
        found = NOTHING
        for leaf in leaves:
            if leaf.kind == "file":
                found |= self.of_path(leaf.path)
                continue
            device = self.device_named(leaf.path)
            if device is None:
                found |= unknown(f"disk {leaf.path} of ZFS pool {name} cannot be found")
            else:
                found |= Standing(devices=frozenset({device}))
        return found

    # --- by filesystem ----------------------------------------------------------------------

    def _resolve(self, mount: Mount) -> Standing:
        kind = mount.fstype
        if kind in PSEUDO:
            return NOTHING
        if kind in NETWORKED:
            return NETWORK
        special: Mapping[str, Callable[[Mount], Standing]] = {
            "overlay": self._overlay,
            "overlayfs": self._overlay,
            "ecryptfs": lambda m: self.of_path(m.source),
            "9p": self._plan9,
            "virtiofs": self._virtiofs,
            "btrfs": self._btrfs,
            "zfs": lambda m: self.of_pool(re.split("[/@]", m.source, maxsplit=1)[0]),
            "bcachefs": lambda _: unknown("the disks of a bcachefs are not followed yet"),
        }
        if kind in special:
            return special[kind](mount)
        if kind == "fuse" or kind.startswith("fuse."):
            return self._fuse(mount)
        return self._block(mount)

    def _block(self, mount: Mount) -> Standing:
        major, _, _ = mount.number.partition(":")
        if major == "0":
            return unknown(f"a {mount.fstype} filesystem without a device number is not followed")
        name = self._names.get(mount.number) or self.device_named(mount.source)
        if name is None:
            shown = mount.number or mount.source
            return unknown(f"block device {shown} is not in /sys/class/block")
        found = Standing(devices=frozenset({name}), networked=mount.fstype in SHARED)
        # XFS and ext4 may keep log, journal or real-time data elsewhere
        for option in ("logdev", "rtdev", "journal_path"):
            if mount.option(option):
                found |= self._named(mount.option(option))
        return found

    def _named(self, path: str) -> Standing:
        name = self.device_named(path)
        if name is None:
            return unknown(f"block device {path} is not in /sys/class/block")
        return Standing(devices=frozenset({name}))

    def _overlay(self, mount: Mount) -> Standing:
        layers: list[str] = []
        for option in mount.options:
            name, _, value = option.partition("=")
            if name in _LAYERS:
                layers += [v.replace("\\:", ":") for v in re.split(r"(?<!\\):", value) if v]
        if not layers:
            return unknown("an overlay does not name its layers")
        found = NOTHING
        for layer in dict.fromkeys(layers):
            found |= self._layer(layer)
        return found

    def _layer(self, path: str) -> Standing:
        """A layer on a mount that stands on nothing must be there: the options may name paths of
        an initial ramdisk, which mean another place now.
        """
        if not path.startswith("/"):
            return unknown("an overlay names a layer by a relative path")
        found = self.of_path(path)
        if found == NOTHING:
            try:
                found = self.of_path(self._reader.root.real(path))
            except OSError:
                return unknown("an overlay names a layer that cannot be seen from here")
        return found

    def _plan9(self, mount: Mount) -> Standing:
        transport = mount.option("trans")
        if transport in ("tcp", "rdma"):
            return NETWORK
        if transport not in ("", "virtio"):
            return unknown(f"9p over {transport} is not followed")
        folder = "/sys/bus/virtio/drivers/9pnet_virtio"
        devices = self._virtio_devices(folder)
        tags = self._reader.texts([f"{folder}/{name}/mount_tag" for name in devices])
        for name, tag in zip(devices, tags, strict=True):
            if tag is not None and tag.strip("\0 ") == mount.source:
                return self._function_under(f"{folder}/{name}")
        return unknown(f"no virtio device has the 9p tag {mount.source!r}")

    def _virtiofs(self, mount: Mount) -> Standing:
        shares = self._reader.optional_names("/sys/fs/virtiofs") or ()
        tags = self._reader.optional_texts([f"/sys/fs/virtiofs/{n}/tag" for n in shares])
        for name, tag in zip(shares, tags, strict=True):
            if tag == mount.source:
                return self._function_under(f"/sys/fs/virtiofs/{name}/device")
        folder = "/sys/bus/virtio/drivers/virtiofs"
        devices = self._virtio_devices(folder)
        if len(devices) == 1:
            return self._function_under(f"{folder}/{devices[0]}")
        # before Linux 6.9 the tag is in no file
        return unknown(f"which of {len(devices)} virtiofs devices has the tag cannot be read")

    def _virtio_devices(self, folder: str) -> list[str]:
        return [n for n in self._reader.optional_names(folder) or () if _VIRTIO.fullmatch(n)]

    def _function_under(self, path: str) -> Standing:
        place = self._reader.real(path)
        if not place:
            return unknown("the place of its virtio device could not be read")
        function = innermost_function(place)
        return NOTHING if function is None else Standing(functions=frozenset({function}))

    def _btrfs(self, mount: Mount) -> Standing:
        """A btrfs has an anonymous number and names one of its devices; sysfs names them all."""
        name = self.device_named(mount.source)
        for filesystem in self._reader.optional_names("/sys/fs/btrfs") or ():
            if name is None or filesystem == "features":
                continue
            devices = self._reader.optional_names(f"/sys/fs/btrfs/{filesystem}/devices") or ()
            if name in devices and self._known.issuperset(devices):
                return Standing(devices=frozenset(devices))
        return unknown("which devices a btrfs spans could not be read")

    def _fuse(self, mount: Mount) -> Standing:
        kind = mount.fstype.removeprefix("fuse").removeprefix(".")
        if kind in _FUSE_PSEUDO:
            return NOTHING
        if kind in _FUSE_NETWORKED:
            return NETWORK
        if not kind and mount.source == "/dev/fuse" and mount.point == "/etc/pve":
            return self.of_path(_PMXCFS_STORE)
        return unknown(f"what a {mount.fstype} filesystem keeps where is not followed")
