"""A Proxmox VM's configuration: /etc/pve/qemu-server/VMID.conf (qm.conf(5)).

The part before the first section, with the changes of the section PENDING made to it, is what the
next start uses: `qm start` makes them first. Snapshots follow in the same file and are passed over.
Total: any text gives a VM, unknown keys are kept, a line that is no setting becomes a fault.
Source: PVE::QemuServer parse_vm_config, vm_start_nolock, vmconfig_apply_pending; its PCI module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vfio_agent.vmconf.properties import (
    Properties,
    find_property,
    parse_size,
    parse_switch,
    split_properties,
)
from vfio_agent.vmconf.qemu_cmdline import (
    find_devices,
    find_disguises,
    find_raw_disks,
    read_options,
    split_arguments,
)
from vfio_agent.vmconf.secrets import redact_value
from vfio_contract.vm import (
    PROXMOX,
    VmConfig,
    VmDevice,
    VmDisk,
    VmSetting,
    complete_address,
)

_SETTING = re.compile(r"([a-z][a-z_-]*[0-9]*):\s*(.*)", re.IGNORECASE)
_HOSTPCI = re.compile(r"hostpci[0-9]{1,2}")
_DRIVE = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate)[0-9]{1,2}")
_PENDING, _DELETE = "[pending]", "delete"
_DEFAULT_MEMORY = "512"
"""MiB, qm.conf(5)."""

_Line = tuple[int, str, str]


def parse_proxmox(text: str, *, name: str, source: str) -> VmConfig:
    """The VM that this file describes; `name` is its VMID."""
    faults: list[tuple[int, str]] = []
    lines = _read_lines(text, faults)
    written = {key: value for _, key, value in lines}  # of a repeated key the last counts
    cpu = split_properties(written.get("cpu", ""), first="cputype")
    arguments = split_arguments(written.get("args", ""))
    added = list(read_options(["kvm", *arguments]))
    added_cpu = split_properties(
        next((v for _, option, v in reversed(added) if option == "-cpu"), ""), first="model"
    )
    memory = _memory_of(written)
    args_line = next((number for number, key, _ in reversed(lines) if key == "args"), 0)
    return VmConfig(
        name=name,
        kind=PROXMOX,
        source=source,
        title=written.get("name", ""),
        machine=find_property(split_properties(written.get("machine", ""), first="type"), "type"),
        firmware=written.get("bios", ""),
        cpu=find_property(added_cpu, "model") or find_property(cpu, "cputype"),
        accelerated=parse_switch(written.get("kvm", "1")) is not False,
        disguises=(*_disguises(cpu), *find_disguises(added_cpu)),
        guest=written.get("ostype", ""),
        memory_bytes=memory,
        balloon_bytes=_balloon_of(written, memory),
        hugepages=_hugepages_of(written.get("hugepages", "")),
        autostart=parse_switch(written.get("onboot", "0")) is True,
        template=parse_switch(written.get("template", "0")) is True,
        devices=(*_devices(lines, faults), *_added_devices(added, args_line)),
        settings=tuple(
            VmSetting(key, redact_value(key, value), number)
            for number, key, value in lines
            if not _HOSTPCI.fullmatch(key) and key != "description"
        ),
        faults=tuple(faults),
        raw_disks=_raw_disks(lines, added, args_line),
    )


def _read_lines(text: str, faults: list[tuple[int, str]]) -> list[_Line]:
    """(line, key, value) of what the next start uses; notes are passed over."""
    written: list[_Line] = []
    pending: list[_Line] = []
    section: list[_Line] | None = written
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if line.startswith("["):
            section = pending if line.casefold() == _PENDING else None
        if section is None or not line or line.startswith(("#", "[")):
            continue
        match = _SETTING.fullmatch(line)
        if match is None:
            faults.append((number, "not a setting"))
        else:
            section.append((number, match[1], match[2].strip()))
    return _apply(pending, written) if pending else written


def _apply(pending: list[_Line], written: list[_Line]) -> list[_Line]:
    """`delete: KEY,!KEY` (the mark only says what becomes of a disk), and settings that replace."""
    gone = {
        name.lstrip("!")
        for _, key, value in pending
        if key == _DELETE
        for name in re.split(r"[\s,;]+", value)
    }
    new = [row for row in pending if row[1] != _DELETE]
    gone |= {key for _, key, _ in new}
    return [*(row for row in written if row[1] not in gone), *new]


def _devices(lines: list[_Line], faults: list[tuple[int, str]]) -> Iterator[VmDevice]:
    last = {key: number for number, key, _ in lines}
    for number, key, value in lines:
        if _HOSTPCI.fullmatch(key) and last[key] == number:
            yield parse_hostpci(value, key=key, line=number, faults=faults)


def parse_hostpci(value: str, *, key: str, line: int, faults: list[tuple[int, str]]) -> VmDevice:
    """One `hostpciN`: `[host=]ADDRESS[;ADDRESS...]` or `mapping=NAME`, then options.

    An address without its function number means every function of the slot.
    """
    properties = split_properties(value, first="host")
    addresses: list[str] = []
    for text in find_property(properties, "host").split(";"):
        address = complete_address(text)
        if address:
            addresses.append(address)
        elif text.strip():
            faults.append((line, f"{key}: not a PCI address: {text.strip()[:40]!r}"))
    mapping = find_property(properties, "mapping")
    if not addresses and not mapping:
        faults.append((line, f"{key}: names neither an address nor a mapping"))
    return VmDevice(
        key=key,
        line=line,
        addresses=tuple(addresses),
        mapping=mapping,
        mdev=find_property(properties, "mdev"),
        pcie=parse_switch(find_property(properties, "pcie")) is True,
        managed=find_property(properties, "driver") != "keep",
        primary_display=parse_switch(find_property(properties, "x-vga")) is True,
        rom_file=find_property(properties, "romfile"),
        rom_bar=parse_switch(find_property(properties, "rombar")),
        options=tuple((name, redact_value(name, text)) for name, text in properties),
    )


def _raw_disks(
    lines: list[_Line], added: list[tuple[int, str, str]], args_line: int
) -> tuple[VmDisk, ...] | None:
    """Drives whose volume is a path below /dev: a disk of the host, not of a storage."""
    behind = find_raw_disks(added)
    if behind is None:
        return None
    return (*_written_disks(lines), *(VmDisk(args_line, disk.path) for disk in behind))


def _written_disks(lines: list[_Line]) -> Iterator[VmDisk]:
    last = {key: number for number, key, _ in lines}
    for number, key, value in lines:
        if _DRIVE.fullmatch(key) and last[key] == number:
            volume = find_property(split_properties(value, first="file"), "file", "volume")
            if volume.startswith("/dev/"):
                yield VmDisk(number, volume)


def _added_devices(options: list[tuple[int, str, str]], line: int) -> Iterator[VmDevice]:
    """Devices that `args` adds behind Proxmox's back: it does not bind them."""
    for device in find_devices(options, prefix="args: -device"):
        yield VmDevice(
            key=device.key,
            line=line,
            addresses=device.addresses,
            mapping="",
            mdev=device.mdev,
            pcie=device.pcie,
            managed=False,
            primary_display=device.primary_display,
            rom_file=device.rom_file,
            rom_bar=device.rom_bar,
            options=device.options,
        )


def _disguises(cpu: Properties) -> tuple[str, ...]:
    found = []
    if parse_switch(find_property(cpu, "hidden")) is True:
        found.append("hidden=1")
    vendor = find_property(cpu, "hv-vendor-id")
    if vendor:
        found.append(f"hv-vendor-id={vendor}")
    return tuple(found)


def _memory_of(written: dict[str, str]) -> int | None:
    text = written.get("memory", _DEFAULT_MEMORY)
    return parse_size(find_property(split_properties(text, first="current"), "current"), unit="M")


def _balloon_of(written: dict[str, str], memory: int | None) -> int | None:
    """Unset: the balloon device is there and its target is all of the memory."""
    if "balloon" not in written:
        return memory
    return parse_size(written["balloon"], unit="M")


def _hugepages_of(text: str) -> int:
    if not text:
        return 0
    size = parse_size(text, unit="M")
    return -1 if size is None else size
