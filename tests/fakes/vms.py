"""VM configurations as values: a Proxmox VM that is right in everything, to bend in one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vfio_contract.vm import PROXMOX, MappingEntry, PciMapping, VmConfig, VmDevice, VmSetting

GIB = 1 << 30


def make_device(*addresses: str, key: str = "hostpci0", line: int = 6, **changes: Any) -> VmDevice:
    """An entry for these addresses on a PCIe port, bound by its hypervisor."""
    device = VmDevice(
        key=key,
        line=line,
        addresses=addresses,
        mapping="",
        mdev="",
        pcie=True,
        managed=True,
        primary_display=False,
        rom_file="",
        rom_bar=None,
        options=(("host", ";".join(addresses)), ("pcie", "1")),
    )
    return replace(device, **changes)


def make_vm(*devices: VmDevice, name: str = "101", **changes: Any) -> VmConfig:
    """A q35 and OVMF guest on the host's CPU with 8 GiB; `changes` replace fields."""
    settings = {"bios": "ovmf", "cpu": "host", "machine": "q35", "memory": "8192"}
    vm = VmConfig(
        name=name,
        kind=PROXMOX,
        source=f"/etc/pve/qemu-server/{name}.conf",
        title=f"vm-{name}",
        machine="q35",
        firmware="ovmf",
        cpu="host",
        accelerated=True,
        disguises=(),
        guest="l26",
        memory_bytes=8 * GIB,
        balloon_bytes=8 * GIB,
        hugepages=0,
        autostart=False,
        template=False,
        devices=devices,
        settings=tuple(
            VmSetting(key, value, line) for line, (key, value) in enumerate(settings.items(), 1)
        ),
        faults=(),
    )
    return replace(vm, **changes)


def make_mapping(name: str, *addresses: str, group: int = -1, **changes: Any) -> PciMapping:
    """A mapping with one entry for node pve01."""
    entry = MappingEntry("pve01", addresses, "", "", group, 2)
    mapping = PciMapping(name, "/etc/pve/mapping/pci.cfg", 1, False, False, (entry,))
    return replace(mapping, **changes)
