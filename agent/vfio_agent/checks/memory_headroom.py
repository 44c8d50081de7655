"""Check `memory-headroom`: whether VMs with devices can pin the memory that they need.

A VM with a device keeps all of its memory: nothing can be swapped or shared. It must never add up
VM configurations (vm-memory does), nor take a host of which nobody could see the holders' limits
for a roomy one.
"""

from vfio_agent.checks.inventory import find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Holder, HugePages

ID = "memory-headroom"
MEMINFO = "/proc/meminfo"
HUGEPAGES = "/sys/kernel/mm/hugepages"
MODULES = "/sys/module"

MEMORY_ENOUGH = Code(
    "MEMORY_ENOUGH",
    Verdict.PASS,
    "MemAvailable, huge pages of every size, memlock limits of holders, dma_entry_limit.",
    "There is memory to pin, and no limit in the way.",
    "No action; whether one VM fits is vm-memory's question.",
)
MEMLOCK_LOW = Code(
    "MEMLOCK_LOW",
    Verdict.FAIL,
    "A process that holds a device has locked nearly as much as its memlock limit allows.",
    'Its next mapping fails ("RLIMIT_MEMLOCK exceeded", VFIO_MAP_DMA: Cannot allocate memory). '
    "type1 charges pinned memory per container, iommufd per user.",
    "Raise the limit of the service that starts it (systemd: LimitMEMLOCK=infinity; libvirt: "
    "<hard_limit>), then restart the VM.",
)
MEMORY_TIGHT = Code(
    "MEMORY_TIGHT",
    Verdict.WARN,
    "MemAvailable is below a twentieth of the memory, or below 1 GiB.",
    "A VM start that pins its memory may fail, or push the host into swapping and stalls.",
    "Stop or shrink a VM, limit the ZFS ARC (zfs_arc_max), or add memory.",
)
HUGEPAGES_TAKEN = Code(
    "HUGEPAGES_TAKEN",
    Verdict.WARN,
    "Huge pages of a size are all taken or promised, while no process holds a device.",
    "A VM that wants huge pages of this size does not start, and nobody with a device has them.",
    "Find who has them: grep -l -i hugetlb /proc/*/smaps; reserve more at boot (hugepagesz=1G "
    "hugepages=N), some more than the VMs need.",
)
DMA_ENTRIES_LOW = Code(
    "DMA_ENTRIES_LOW",
    Verdict.WARN,
    "vfio_iommu_type1's dma_entry_limit is below the kernel's default of 65535.",
    "VMs with a vIOMMU or much memory run out of mappings: VFIO_MAP_DMA fails with ENOSPC.",
    "Remove dma_entry_limit from /etc/modprobe.d; sudo update-initramfs -u; reboot.",
)
MEMORY_UNKNOWN = Code(
    "MEMORY_UNKNOWN",
    Verdict.UNKNOWN,
    "Memory, huge pages, the holders' limits or module parameters could not be read.",
    "Whether a VM can pin its memory is not known. Unknown is not enough.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    MEMORY_ENOUGH,
    MEMLOCK_LOW,
    MEMORY_TIGHT,
    HUGEPAGES_TAKEN,
    DMA_ENTRIES_LOW,
    MEMORY_UNKNOWN,
)

DMA_ENTRIES = 65535
"""Default of vfio_iommu_type1's dma_entry_limit (U16_MAX)."""

_LEAST_BYTES = 1 << 30
_LEAST_SHARE = 20
_NEARLY = 0.95


def judge(host: Host) -> list[Finding]:
    """Is there memory that a VM with a device can pin?

    Evidence: /proc/meminfo, huge pages per size and node, holders' limits, dma_entry_limit.
    Meaning:  Pinned memory is not shared or swapped; starved hosts fail in unrelated looking ways.
    Source:   Linux vfio_iommu_type1.c, hugetlbpage.rst, getrlimit(2); field guide step 12.
    """
    evidence = _list_evidence(host)
    low = [h for h in host.readings.holders or () if _is_low(h)]
    if low:
        rows = [
            Evidence(f"/proc/{h.pid}/limits", f"{h.command}: {_size(h.locked_bytes)} locked")
            for h in low
        ]
        return [make_finding(ID, NODE, MEMLOCK_LOW, *rows, *evidence)]
    missing = _list_missing(host)
    if missing:
        return [make_finding(ID, NODE, MEMORY_UNKNOWN, *evidence, missing=missing)]
    return [make_finding(ID, NODE, _decide(host), *evidence)]


def _decide(host: Host) -> Code:
    memory, total = host.readings.memory, host.facts.memory_total_bytes or 0
    available = 0 if memory is None else memory.available_bytes or 0
    if available < max(_LEAST_BYTES, total // _LEAST_SHARE):
        return MEMORY_TIGHT
    if not host.readings.holders and any(_is_taken(p) for p in host.readings.hugepages or ()):
        return HUGEPAGES_TAKEN
    limit = _entry_limit(host)
    return DMA_ENTRIES_LOW if limit is not None and limit < DMA_ENTRIES else MEMORY_ENOUGH


def _is_low(holder: Holder) -> bool:
    locked, limit = holder.locked_bytes, holder.memlock_bytes
    return bool(locked) and limit is not None and limit >= 0 and (locked or 0) > limit * _NEARLY


def _is_taken(pages: HugePages) -> bool:
    return pages.node < 0 and pages.total > 0 and pages.free <= (pages.reserved or 0)


def _entry_limit(host: Host) -> int | None:
    for module in host.facts.modules or ():
        for name, value in module.parameters:
            if name == "dma_entry_limit" and value.isascii() and value.isdecimal():
                return int(value)
    return None


def _list_evidence(host: Host) -> list[Evidence]:
    found = []
    memory, total = host.readings.memory, host.facts.memory_total_bytes
    if memory is not None and memory.available_bytes is not None:
        text = f"MemAvailable {_size(memory.available_bytes)} of {_size(total)}"
        found.append(Evidence(MEMINFO, text))
    for row in host.readings.hugepages or ():
        if row.total:
            where = "" if row.node < 0 else f" on NUMA node {row.node}"
            promised = f", {row.reserved} of them promised" if row.reserved else ""
            text = f"{_size(row.size_bytes)}: {row.free} of {row.total} free{promised}{where}"
            found.append(Evidence(HUGEPAGES, text))
    limit = _entry_limit(host)
    if limit is not None:
        path = f"{MODULES}/vfio_iommu_type1/parameters/dma_entry_limit"
        found.append(Evidence(path, str(limit)))
    return found


def _list_missing(host: Host) -> tuple[Missing, ...]:
    memory = host.readings.memory
    found = []
    if memory is None or memory.available_bytes is None or host.facts.memory_total_bytes is None:
        found.append(Missing(MEMINFO, find_remedy(host, MEMINFO) or f"cat {MEMINFO}"))
    if host.readings.hugepages is None:
        found.append(Missing(HUGEPAGES, f"grep -r . {HUGEPAGES}"))
    if host.readings.holders is None:
        remedy = find_remedy(host, "/proc/*/fd") or "sudo prlimit --memlock --pid PID"
        found.append(Missing("limits of processes that hold devices", remedy))
    if host.facts.modules is None:
        found.append(Missing(MODULES, find_remedy(host, MODULES) or "lsmod | grep vfio"))
    return tuple(found)


def _size(value: int | None) -> str:
    if value is None:
        return "?"
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if value >> shift:
            text = f"{value / (1 << shift):.1f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{value >> 10} KiB"
