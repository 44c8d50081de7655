"""Disks that are in use without a mount: ZFS pools, Ceph OSDs, Proxmox's volume groups, VMs' disks.

Each is a use of storage with what it stands on. What the sources could not tell is a use that is
not resolved: this module must never take a folder that nobody read for a host without OSDs, nor a
VM's disk that cannot be found for one on no controller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from posixpath import dirname

from vfio_agent.collect.config_files import read_file
from vfio_agent.collect.ground import NOTHING, Ground, Standing, unknown
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import NotCaptured
from vfio_contract.model import BlockDevice
from vfio_contract.vm import VmConfig

CEPH = "/var/lib/ceph"
PROXMOX_STORAGE = "/etc/pve/storage.cfg"
LVM_BACKUP = "/etc/lvm/backup"

_FSID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
_OSD_LINKS = ("block", "block.db", "block.wal")
_CEPH_VOLUME = "ceph--"
"""ceph-volume names its volume groups `ceph-<uuid>`; device mapper doubles a dash."""

_SECTION = re.compile(r"(\w+):\s*(\S+)")
_NAME = re.compile(r"[\w+.][\w+.-]*")
_PV_HINT = re.compile(r"^\s*device = \"(/dev/[^\"]+)\"", re.MULTILINE)

Uses = list[tuple[str, Standing]]


def find_claimed(
    reader: Reader,
    ground: Ground,
    block: Sequence[BlockDevice],
    vms: Sequence[VmConfig] | None,
    host: str,
) -> Uses:
    """(use, what it stands on) of everything that keeps disks without mounting them."""
    mapped = {device.label: device.name for device in block if device.name.startswith("dm-")}
    return [
        *_find_pools(ground),
        *_find_osds(reader, ground, mapped),
        *_find_volume_groups(reader, ground, mapped, host),
        *_find_raw_disks(reader, ground, vms),
    ]


def _find_pools(ground: Ground) -> Iterator[tuple[str, Standing]]:
    pools = ground.pools()
    if pools is None:
        yield "ZFS pools", unknown("which ZFS pools are imported could not be read")
    for name in pools or ():
        yield f"zpool {name}", ground.of_pool(name)


# --- Ceph ----------------------------------------------------------------------------------------


def _find_osds(
    reader: Reader, ground: Ground, mapped: dict[str, str]
) -> Iterator[tuple[str, Standing]]:
    for label, name in sorted(mapped.items()):
        if label.startswith(_CEPH_VOLUME):
            yield "Ceph OSD volumes", Standing(devices=frozenset({name}))
    folders = _list_osds(reader)
    if folders is None:
        yield "Ceph OSDs", unknown(f"{CEPH} could not be read")
    paths = [f"{folder}/{name}" for folder in folders or () for name in _OSD_LINKS]
    for path, target in zip(paths, reader.root.link_many(paths), strict=True):
        use = f"Ceph OSD {dirname(path)}"
        if isinstance(target, str):
            device = ground.device_named(target)
            found = unknown(f"its device {target} cannot be found") if device is None else NOTHING
            yield use, found if device is None else Standing(devices=frozenset({device}))
        elif not isinstance(target, FileNotFoundError | NotADirectoryError | NotCaptured):
            yield use, unknown(f"{path} could not be read")


def _list_osds(reader: Reader) -> list[str] | None:
    """Folders of OSDs, of packages (`osd/ceph-0`) and of containers (`FSID/osd.0`)."""
    names = reader.optional_names(CEPH, remedy=f"sudo ls -l {CEPH}/osd/*/block")
    if names is None:
        return None
    found = []
    for name in names:
        if name != "osd" and not _FSID.fullmatch(name):
            continue
        below = reader.optional_names(f"{CEPH}/{name}")
        if below is None:
            return None
        wanted = below if name == "osd" else [n for n in below if n.startswith("osd.")]
        found += [f"{CEPH}/{name}/{osd}" for osd in wanted]
    return found


# --- LVM as a storage of Proxmox -----------------------------------------------------------------


def _find_volume_groups(
    reader: Reader, ground: Ground, mapped: dict[str, str], host: str
) -> Iterator[tuple[str, Standing]]:
    text = read_file(reader, PROXMOX_STORAGE, quiet=True)
    if not text:
        return  # no Proxmox; where /etc/pve was not captured, its VMs are unknown already
    for storage, group in parse_volume_groups(text, host):
        prefix = group.replace("-", "--") + "-"
        active = frozenset(name for label, name in mapped.items() if label.startswith(prefix))
        use = f"storage {storage} (volume group {group})"
        yield use, Standing(devices=active) if active else _inactive(reader, ground, group)


def _inactive(reader: Reader, ground: Ground, group: str) -> Standing:
    """A group without active volumes shows only in LVM's own notes where its disks are."""
    if not _NAME.fullmatch(group):
        return unknown("its name is none that LVM allows")
    paths = _PV_HINT.findall(read_file(reader, f"{LVM_BACKUP}/{group}", quiet=True) or "")
    found = NOTHING if paths else unknown("it has no active volume that shows its disks")
    for path in paths:
        device = ground.device_named(path)
        if device is None:
            found |= unknown(f"its disk {path} cannot be found")
        else:
            found |= Standing(devices=frozenset({device}))
    return found


def parse_volume_groups(text: str, host: str) -> list[tuple[str, str]]:
    """(storage, volume group) of storage.cfg's LVM storages that this node uses."""
    found: list[tuple[str, str]] = []
    sections: list[tuple[str, str, dict[str, str]]] = []
    for line in text.splitlines():
        match = _SECTION.fullmatch(line.rstrip())
        if match is not None:
            sections.append((match[1], match[2], {}))
        elif sections and line[:1].isspace() and line.strip():
            key, _, value = line.strip().partition(" ")
            sections[-1][2][key] = value.strip()
    short = host.partition(".")[0]
    for kind, name, options in sections:
        nodes = [n for n in options.get("nodes", "").split(",") if n]
        elsewhere = bool(nodes) and short not in nodes and host not in nodes
        used = "disable" not in options and not elsewhere
        if kind in ("lvm", "lvmthin") and "vgname" in options and used:
            found.append((name, options["vgname"]))
    return found


# --- disks of VMs --------------------------------------------------------------------------------


def _find_raw_disks(
    reader: Reader, ground: Ground, vms: Sequence[VmConfig] | None
) -> Iterator[tuple[str, Standing]]:
    """Host disks that VMs get whole, as /dev/disk/by-id/...: their controller is not free."""
    if vms is None:
        yield "disks of VMs", unknown("which disks VMs get could not be read")
    for vm in vms or ():
        if vm.raw_disks is None:
            yield f"vm {vm.name}", unknown(f"the disks of {vm.source} could not be read")
        for disk in vm.raw_disks or ():
            yield f"vm {vm.name} ({vm.source}:{disk.line})", _of_disk(reader, ground, disk.path)


def _of_disk(reader: Reader, ground: Ground, path: str) -> Standing:
    device = ground.device_named(path)
    if device is not None:
        return Standing(devices=frozenset({device}))
    try:
        reader.root.real(path)
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING  # not in this host now: nothing stands on it
    except OSError:
        return unknown(f"disk {path} could not be followed")
    return unknown(f"disk {path} cannot be found in /sys/class/block")
