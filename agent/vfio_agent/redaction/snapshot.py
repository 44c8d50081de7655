"""A snapshot with pseudonyms: every text of it is searched, unless its field is listed as harmless.

The list names what stays, not what goes, so that a field which is added later is searched too.
Facts that decide verdicts (addresses, ids, groups, drivers, parameters of modules, versions) stay
as they are. This module must never change what a check says, only what it shows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from vfio_agent.redaction.masks import Masks
from vfio_contract.model import (
    BlockDevice,
    BootPath,
    ConfigSpace,
    Cpu,
    Facts,
    Firmware,
    FunctionReading,
    Holder,
    IommuGroup,
    Kernel,
    Module,
    NetDevice,
    PciFunction,
    Readings,
    Snapshot,
    StorageUse,
    VmProcess,
)
from vfio_contract.vm import PROXMOX, MappingEntry, VmConfig, VmDevice, VmDisk, VmSetting

Value = TypeVar("Value")

_HARMLESS: Mapping[type, frozenset[str]] = {
    PciFunction: frozenset(
        {"address", "parent", "root", "root_path", "driver", "driver_override", "physfn"}
    ),
    IommuGroup: frozenset({"name", "type", "members"}),
    FunctionReading: frozenset({"address", "vfio_nodes"}),
    Kernel: frozenset({"release", "build", "machine"}),
    Cpu: frozenset({"vendor", "model", "flags"}),
    Firmware: frozenset(
        {
            "bios_vendor",
            "bios_version",
            "bios_date",
            "system_vendor",
            "product_name",
            "board_name",
            "bmc_revision",
            "microcode",
            "dmar_sha256",
            "ivrs_sha256",
        }
    ),
    Module: frozenset({"name"}),
    Readings: frozenset({"collector", "interrupt_chips", "names", "redacted"}),
    Facts: frozenset({"iommu_units", "keyboards"}),
    BlockDevice: frozenset({"name", "number", "functions", "parents"}),
    StorageUse: frozenset({"kind", "devices", "functions"}),
    BootPath: frozenset({"loader"}),
    VmConfig: frozenset({"kind", "machine", "firmware", "cpu", "disguises", "guest"}),
    VmDevice: frozenset({"key", "addresses", "mdev"}),
    MappingEntry: frozenset({"addresses", "ids", "subsystem_ids"}),
}
"""Fields whose texts stay. Versions look like IP addresses, drivers and models like names."""

_TOLD_BY_NAME = re.compile(r"(?i)tag|serial|owner|asset|svc|service|uuid|mac|addr|host|user|pass")
"""Firmware settings whose values may be anything that somebody typed in."""

_DISK_KEY = re.compile(r"(?:scsi|sata|ide|virtio|efidisk|tpmstate|unused|rootfs|mp)\d+")
_PERSONAL_KEY = re.compile(
    r"name|hostname|searchdomain|nameserver|ciuser|cicustom|tags|smbios\d+|vmgenid|ipconfig\d+"
    r"|parent|pool|vmstate|title|uuid|domain/(?:name|title|uuid)"
)
_MOUNT = re.compile(r"(?P<what>(?:swap \()?)(?P<path>/[^()]*?)(?P<rest>\)| \([^()]*\))?")
_KNOWN_PARTS = frozenset(
    """
    bin boot build cache ceph containers dev docker efi esp etc home images iso lib libvirt
    libvirt-qemu local lock log lxcfs mnt opt overlay2 pve pve-cluster qemu root run sbin snap
    srv storage swap swap.img swapfile sys proc tmp usr var vz
    """.split()  # noqa: SIM905
)
"""Parts of mount points that every host has."""

_PLAIN_PART = re.compile(r"(?:[shv]d[a-z]{1,2}|nvme\d+n|dm-|md|loop|zram|sr|p)\d*(?:p?\d+)?")
_NAMED_USE = re.compile(r"zpool (\S+)|storage (\S+) \(volume group ([^()\s]+)\)")
_USE_NAME = re.compile(r"(zpool |storage |volume group )[^()\s]+")
_LABEL_WORDS = re.compile(r"raid\d+|linear|multipath|loop|nbd|rbd|iscsi|nvme-\w+")


def redact_snapshot(snapshot: Snapshot, key: bytes) -> Snapshot:
    """The same evidence with pseudonyms under `key` (secret bytes); see the package."""
    masks = Masks(key)
    masks.learn(dict(_names(snapshot)))
    redacted = _Redactor(masks).value(snapshot)
    readings = dataclasses.replace(redacted.readings, redacted=masks.fingerprint)
    return dataclasses.replace(redacted, readings=readings)


def _names(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """(name, kind) of all that may stand in a text anywhere."""
    facts = snapshot.facts
    hosts = {facts.host, *(e.node for m in facts.mappings or () for e in m.entries)}
    for host in hosts:
        short, _, domain = host.partition(".")
        yield short, "host"
        if domain:
            yield domain, "host"
    for vm in facts.vms or ():
        names = {vm.title, *(() if vm.kind == PROXMOX else (vm.name,))} - {""}
        for name in names:
            yield name, "vm"
    for holder in snapshot.readings.holders or ():
        yield holder.vm or "", "vm"
    for process in snapshot.readings.vm_processes or ():
        if not process.vm.isdecimal():
            yield process.vm, "vm"
    for block in facts.block or ():
        if _is_volume(block):
            yield block.label, "volume"
            yield block.label.replace("--", "-"), "volume"


def _is_volume(block: BlockDevice) -> bool:
    return bool(block.label) and _LABEL_WORDS.fullmatch(block.label) is None


class _Redactor:
    """Walks values; of the classes below the named fields are treated in their own way."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        text, token = masks.text, masks.token
        self._special: Mapping[tuple[type, str], Callable[[Any, Any], Any]] = {
            (Facts, "host"): lambda _, v: masks.host(v),
            (ConfigSpace, "serial_number"): lambda _, v: masks.serial(v) if v else v,
            (Firmware, "product_uuid"): lambda _, v: token("uuid", v.lower()) if v else v,
            (Firmware, "attributes"): lambda _, v: v and tuple(map(self._attribute, v)),
            (BlockDevice, "label"): lambda b, v: token("volume", v) if _is_volume(b) else v,
            (StorageUse, "use"): lambda _, v: self._use(v),
            (NetDevice, "mac"): lambda _, v: masks.mac(v) if v else v,
            (Holder, "vm"): lambda _, v: v if v.isdecimal() else token("vm", v),
            (Holder, "control_group"): lambda _, v: v and self._control_group(v),
            (VmProcess, "vm"): lambda _, v: v if v.isdecimal() else token("vm", v),
            (MappingEntry, "node"): lambda _, v: masks.host(v),
            (VmConfig, "name"): lambda vm, v: v if vm.kind == PROXMOX else token("vm", v),
            (VmConfig, "title"): lambda _, v: token("vm", v),
            (VmConfig, "source"): lambda vm, v: self._source(vm, v),
            (VmDevice, "rom_file"): lambda _, v: self._rom(v),
            (VmDevice, "options"): lambda _, v: tuple(
                (k, self._rom(o) if k in ("romfile", "rom/file") else text(o)) for k, o in v
            ),
            (VmDisk, "path"): lambda _, v: self._disk(v),
            (VmSetting, "value"): lambda s, v: self._setting(s.key, v),
        }

    def value(self, value: Value) -> Value:
        """The same value with pseudonyms."""
        found: Any = value
        if isinstance(value, str):
            found = self._masks.text(value)
        elif isinstance(value, tuple):
            found = tuple(self.value(item) for item in value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found = self._dataclass(value)
        return found  # type: ignore[no-any-return]  # of the same type by construction

    def _dataclass(self, value: Any) -> Any:
        kind = type(value)
        harmless = _HARMLESS.get(kind, frozenset())
        changed: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            old = getattr(value, field.name)
            if field.name in harmless or old is None:
                continue
            special = self._special.get((kind, field.name))
            new = self.value(old) if special is None else special(value, old)
            if new != old:
                changed[field.name] = new
        return dataclasses.replace(value, **changed) if changed else value

    def _attribute(self, pair: tuple[str, str]) -> tuple[str, str]:
        name, value = pair
        if _TOLD_BY_NAME.search(name):
            return name, self._masks.token("text", value)
        return name, self._masks.text(value)

    def _use(self, text: str) -> str:
        """`/home/alice (ext4)`, `swap (/dev/dm-1)`: the parts of a path that not every host has."""
        named = _NAMED_USE.fullmatch(text)
        if named is not None:
            names = (self._masks.token("volume", name) for name in named.groups() if name)
            return _USE_NAME.sub(lambda m: m[1] + next(names), text)
        match = _MOUNT.fullmatch(text)
        if match is None:
            return self._masks.text(text)
        parts = [self._part(part) for part in match["path"].split("/")]
        return f"{match['what']}{'/'.join(parts)}{match['rest'] or ''}"

    def _disk(self, path: str) -> str:
        folder, slash, name = path.rpartition("/")
        if folder == "/dev" and _PLAIN_PART.fullmatch(name):
            return path
        return f"/dev{slash}{self._masks.token('volume', path)}"

    def _part(self, part: str) -> str:
        if not part or part in _KNOWN_PARTS or _PLAIN_PART.fullmatch(part):
            return part
        return self._masks.token("place", part)

    def _control_group(self, path: str) -> str:
        r"""`machine-qemu\x2d1\x2dNAME.scope` holds a VM's name as systemd escapes it."""
        match = re.search(r"(machine-qemu\\x2d\d+\\x2d)(.+?)(\.scope)", path)
        if match is not None:
            name = re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), match[2])
            middle = self._masks.token("vm", name)
            return (
                self._masks.text(path[: match.end(1)])
                + middle
                + self._masks.text(path[match.start(3) :])
            )
        path = re.sub(r"(?<=/user-)[^/.]+", lambda m: self._masks.token("user", m[0]), path)
        return self._masks.text(path)

    def _source(self, vm: VmConfig, source: str) -> str:
        if vm.kind == PROXMOX:
            return self._masks.text(source)
        folder, slash, file = source.rpartition("/")
        if file in (f"{vm.name}.xml", f"{vm.title}.xml"):
            name = self._masks.token("vm", file.removesuffix(".xml"))
            return f"{self._masks.text(folder)}{slash}{name}.xml"
        return self._masks.text(source)

    def _rom(self, path: str) -> str:
        """Only whether there is one, and the folder that Proxmox takes it from, bear on a check."""
        folder, slash, file = path.rpartition("/")
        if not file:
            return path
        folder = "/".join(self._part(part) for part in folder.split("/"))
        return f"{folder}{slash}{self._masks.token('text', file)}"

    def _setting(self, key: str, value: str) -> str:
        if _PERSONAL_KEY.fullmatch(key):
            return self._masks.token("vm" if key == "name" else "text", value)
        if _DISK_KEY.fullmatch(key):
            volume, comma, options = value.partition(",")
            if volume != "none":
                volume = self._masks.token("volume", volume)
            return volume + comma + self._masks.text(options)
        return self._masks.text(value)
