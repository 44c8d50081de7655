"""What memory the VMs with devices keep: which of them run or start by themselves, and how much.

Such a VM pins all of its memory. type1 charges it to the process once per container: a vIOMMU gives
each device a container of its own, so the charge is a multiple; iommufd charges the user once. This
module must never count a VM as small because its size or its autostart was not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vfio_agent.checks.holding import find_vm
from vfio_agent.checks.vm_inventory import judged_vms
from vfio_contract.host import Host
from vfio_contract.model import Holder
from vfio_contract.vm import QEMU, VmConfig

_VIOMMU = re.compile(r"\b(?:viommu=|(?:intel|virtio|amd)-iommu|smmuv3)")

_NUMA = re.compile(r"numa[0-9]+")
_NODES = re.compile(r"(?:^|[,;])hostnodes=([0-9]{1,4})(?:$|[,;])")
_SIZE = re.compile(r"(?:^|[,;])memory=([0-9]{1,9})(?:$|[,;])")


@dataclass(frozen=True, slots=True)
class Need:
    """One VM's memory. `page_bytes` is 0 where it is not from huge pages.

    `starts` is None where it is not known whether it starts by itself; `memory_bytes` None where
    its size is not known.
    """

    vm: VmConfig
    memory_bytes: int | None
    page_bytes: int
    running: bool
    starts: bool | None


def find_needs(host: Host) -> list[Need]:
    """VMs with devices that run or may start by themselves, in the order of the configurations."""
    active = {find_vm(h) for h in host.readings.holders or ()}
    found = []
    for vm in judged_vms(host):
        running = vm.kind == QEMU or vm.name in active
        if not running and vm.autostart is False:
            continue
        starts = True if running else vm.autostart
        found.append(Need(vm, vm.memory_bytes, _page_size(host, vm), running, starts))
    return found


def _page_size(host: Host, vm: VmConfig) -> int:
    if vm.hugepages >= 0:
        return vm.hugepages
    memory = host.readings.memory
    return 0 if memory is None else memory.hugepage_size_bytes or 0


def charge_of(host: Host, holder: Holder) -> int | None:
    """What type1 charges to this process for its whole guest, in bytes; None when not known.

    Source: Linux vfio_iommu_type1.c (vfio_lock_acct), libvirt qemuDomainGetMemLockLimitBytes().
    """
    if "/devices/" in holder.path:
        return None  # iommufd charges the user, whose other processes are not known
    name = find_vm(holder)
    sizes = [vm for vm in judged_vms(host) if name and vm.name == name]
    if not sizes or sizes[0].memory_bytes is None:
        return None
    containers = 1
    if has_viommu(sizes[0]):
        mates = {h.path for h in host.readings.holders or () if h.pid == holder.pid}
        containers = len(mates)
    return sizes[0].memory_bytes * containers


def has_viommu(vm: VmConfig) -> bool:
    """True when the VM has an IOMMU of its own."""
    return any(
        s.key in ("iommu", "devices/iommu") or _VIOMMU.search(f"{s.key},{s.value}")
        for s in vm.settings
    ) or bool(_VIOMMU.search(vm.machine))


def pages_by_node(need: Need) -> Iterator[tuple[int, int]]:
    """(NUMA node, bytes) that Proxmox's `numaN` entries bind to one host node each."""
    for setting in need.vm.settings:
        if not _NUMA.fullmatch(setting.key):
            continue
        node, size = _NODES.search(setting.value), _SIZE.search(setting.value)
        if node is not None and size is not None:
            yield int(node[1]), int(size[1]) << 20
