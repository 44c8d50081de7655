"""Check `vm-memory`: whether all of the VM's memory can be pinned, and stays.

A VM with a host device has all its memory pinned at start. It must never call memory sufficient
whose amount on either side is not known. What several VMs need together is `memory-headroom`'s.
"""

from vfio_agent.checks.holding import find_vm
from vfio_agent.checks.inventory import find_remedy
from vfio_agent.checks.vm_inventory import CODES as VM_CODES
from vfio_agent.checks.vm_inventory import (
    at_setting,
    is_process,
    judge_vms,
    make_vm_finding,
)
from vfio_contract.codes import Code
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.vm import PROXMOX, VmConfig

ID = "vm-memory"

VM_MEMORY_READY = Code(
    "VM_MEMORY_READY",
    Verdict.PASS,
    "The VM's memory is below the host's, its huge pages exist, and nothing shrinks it.",
    "All of it can be pinned when the VM starts.",
    "No action.",
)
VM_MEMORY_TOO_LARGE = Code(
    "VM_MEMORY_TOO_LARGE",
    Verdict.FAIL,
    "The VM's memory against MemTotal of the host.",
    "With a host device all of it is pinned: the VM does not start, or the host runs out.",
    "Give the VM less memory than the host has, and leave the host its share.",
)
VM_HUGEPAGES_SHORT = Code(
    "VM_HUGEPAGES_SHORT",
    Verdict.FAIL,
    "The VM asks for huge pages, and fewer exist than its memory needs.",
    "The VM does not start: its memory cannot be allocated.",
    "Reserve them on the kernel command line (hugepagesz=, hugepages=), reboot; vfioctl vm lint",
)
VM_HUGEPAGES_ON_DEMAND = Code(
    "VM_HUGEPAGES_ON_DEMAND",
    Verdict.WARN,
    "The VM asks for huge pages that are not reserved; Proxmox allocates them at start.",
    "On a host that has run for a while memory is fragmented and the start fails.",
    "Reserve them at boot: hugepagesz= and hugepages= on the kernel command line.",
)
VM_MEMORY_TIGHT = Code(
    "VM_MEMORY_TIGHT",
    Verdict.WARN,
    "The VM does not run as far as could be seen, and its memory is more than MemAvailable now.",
    "Pinning takes all of it at once: the start fails, or the host swaps and kills processes.",
    "Stop what uses the memory before the start, or give the VM less.",
)
VM_BALLOON = Code(
    "VM_BALLOON",
    Verdict.WARN,
    "The VM's balloon may shrink it below its memory, and it has a host device.",
    "Pinned memory cannot be given back: ballooning frees nothing and misleads whoever counts it.",
    "Turn it off: Proxmox: qm set VMID --balloon 0; libvirt: currentMemory equal to memory",
)
VM_MEMORY_UNKNOWN = Code(
    "VM_MEMORY_UNKNOWN",
    Verdict.UNKNOWN,
    "The VM's memory, the host's, or its huge pages of that size could not be read.",
    "Whether all of it can be pinned is not known.",
    "Get the missing evidence below, then: vfioctl vm lint",
)
CODES = (
    VM_MEMORY_READY,
    VM_MEMORY_TOO_LARGE,
    VM_HUGEPAGES_SHORT,
    VM_HUGEPAGES_ON_DEMAND,
    VM_MEMORY_TIGHT,
    VM_BALLOON,
    VM_MEMORY_UNKNOWN,
    *VM_CODES,
)

_MEMINFO = "/proc/meminfo"
_PAGES = "/sys/kernel/mm/hugepages"
_MIB = 1 << 20


def judge(host: Host) -> list[Finding]:
    """Can all of the VM's memory be pinned?

    Evidence: memory, balloon and huge pages of the VM, and whether it runs; MemTotal, MemAvailable
              and huge pages of the host.
    Meaning:  Devices write to guest memory at any time, so none of it may move or go.
    Source:   Linux vfio_iommu_type1 (pinning), qm.conf(5); field guide step 12.
    """
    return judge_vms(ID, host, lambda vm: _judge_vm(host, vm))


def _judge_vm(host: Host, vm: VmConfig) -> Finding:
    wanted = at_setting(vm, "memory: not stated", "memory", "m")
    total = host.facts.memory_total_bytes
    if vm.memory_bytes is None or vm.balloon_bytes is None:
        missing = Missing(wanted.source, f"grep -n -i memory {vm.source}")
        return make_vm_finding(ID, vm, VM_MEMORY_UNKNOWN, wanted, missing=(missing,))
    if total is None:
        missing = Missing(_MEMINFO, find_remedy(host, _MEMINFO) or f"cat {_MEMINFO}")
        return make_vm_finding(ID, vm, VM_MEMORY_UNKNOWN, wanted, missing=(missing,))
    evidence = (wanted, Evidence(_MEMINFO, f"MemTotal {total // _MIB} MiB"))
    if vm.memory_bytes > total:
        return make_vm_finding(ID, vm, VM_MEMORY_TOO_LARGE, *evidence)
    if vm.hugepages:
        paged = _judge_hugepages(host, vm, vm.memory_bytes)
        if paged is not None:
            return paged
    elif _is_short_now(host, vm, vm.memory_bytes):
        return make_vm_finding(ID, vm, VM_MEMORY_TIGHT, *evidence, *_describe_available(host))
    if 0 < vm.balloon_bytes < vm.memory_bytes:
        balloon = at_setting(vm, "", "balloon", "currentMemory")
        decision = VM_BALLOON.decision.replace("VMID", vm.name)
        return make_vm_finding(ID, vm, VM_BALLOON, *evidence, balloon, decision=decision)
    return make_vm_finding(ID, vm, VM_MEMORY_READY, *evidence)


def _is_short_now(host: Host, vm: VmConfig, needed: int) -> bool:
    """True for a VM at rest that the memory left would not hold; a running one has its share."""
    memory = host.readings.memory
    if memory is None or memory.available_bytes is None or needed <= memory.available_bytes:
        return False
    active = {find_vm(holder) for holder in host.readings.holders or ()}
    return not is_process(vm) and vm.name not in active


def _describe_available(host: Host) -> list[Evidence]:
    memory = host.readings.memory
    available = None if memory is None else memory.available_bytes
    found = [] if available is None else [f"MemAvailable {available // _MIB} MiB"]
    if host.readings.holders is None:
        found.append("whether the VM runs was not seen")
    return [Evidence(_MEMINFO, text) for text in found]


def _judge_hugepages(host: Host, vm: VmConfig, needed: int) -> Finding | None:
    """None when there are enough of them."""
    asked = at_setting(vm, "memory from huge pages", "hugepages", "memoryBacking/hugepages/page")
    found = _count_hugepages(host, vm.hugepages)
    if found is None:
        missing = Missing(_PAGES, f"grep -r . {_PAGES}")
        return make_vm_finding(ID, vm, VM_MEMORY_UNKNOWN, asked, missing=(missing,))
    size, count = found
    if count * size >= needed:
        return None
    there = Evidence(_PAGES, f"{count} huge pages of {size // 1024} KiB")
    code = VM_HUGEPAGES_ON_DEMAND if vm.kind == PROXMOX else VM_HUGEPAGES_SHORT
    return make_vm_finding(ID, vm, code, asked, there)


def _count_hugepages(host: Host, wanted: int) -> tuple[int, int] | None:
    """(size, how many) of this size, or of the default size for any; None when not known."""
    memory = host.readings.memory
    size = None if memory is None else memory.hugepage_size_bytes
    if memory is not None and size is not None and wanted in (-1, size):
        return None if memory.hugepages_total is None else (size, memory.hugepages_total)
    rows = host.readings.hugepages or ()
    counts = [row.total for row in rows if row.size_bytes == wanted and row.node < 0]
    return (wanted, counts[0]) if counts else None
