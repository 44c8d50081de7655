"""Check `memory-headroom`: whether VMs with devices can pin the memory that they need.

A VM with a device keeps all of its memory: nothing can be swapped or shared. Whether one VM fits is
vm-memory's question; here all that run or start by themselves are added up. It must never take a
host of which nobody could see the holders' limits, or the VMs, for a roomy one.
"""

from collections.abc import Sequence

from vfio_agent.checks.inventory import find_remedy
from vfio_agent.checks.vm_needs import Need, charge_of, find_needs, pages_by_node
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
    "MemAvailable and huge pages of every size against the VMs with devices that run or start by "
    "themselves; memlock limits of holders, dma_entry_limit.",
    "There is memory to pin, and no limit in the way.",
    "No action; whether one VM fits is vm-memory's question.",
)
MEMLOCK_LOW = Code(
    "MEMLOCK_LOW",
    Verdict.FAIL,
    "A process that holds a device has locked nearly as much as its memlock limit allows, or its "
    "guest's memory times its containers is more than that.",
    'Its next mapping fails ("RLIMIT_MEMLOCK exceeded", VFIO_MAP_DMA: Cannot allocate memory). '
    "type1 charges pinned memory per container, iommufd per user.",
    "Raise the limit of the service that starts it (systemd: LimitMEMLOCK=infinity; libvirt sets "
    "the guest's memory + 1 GiB by itself, times its devices with a vIOMMU: <memtune><hard_limit> "
    "raises that), then restart the VM.",
)
MEMORY_OVERCOMMITTED = Code(
    "MEMORY_OVERCOMMITTED",
    Verdict.FAIL,
    "The VMs with devices that run or start by themselves want more memory than the host has.",
    "Pinned memory cannot be overcommitted: after a reboot some of these VMs will not start.",
    "Shrink or move one of them, or take its autostart off; leave a few GiB to the host itself.",
)
AUTOSTART_TIGHT = Code(
    "AUTOSTART_TIGHT",
    Verdict.WARN,
    "VMs with devices that start by themselves and do not run now want more than MemAvailable.",
    "They would not start now, because other things have taken the memory they pin.",
    "Look who has it: ps -eo rss,comm --sort=-rss | head; limit the ZFS ARC (zfs_arc_max), stop or "
    "move a VM.",
)
HUGEPAGES_SHORT = Code(
    "HUGEPAGES_SHORT",
    Verdict.WARN,
    "VMs with devices that run or start by themselves want more huge pages of a size, or on a NUMA "
    "node, than there are.",
    "Some of them will not start, or only while memory is not fragmented yet (Proxmox allocates on "
    "demand).",
    "Reserve them at boot (hugepagesz=1G hugepages=N, or per node: hugepages=0:N,1:M), then: "
    "vfioctl check",
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
    "Memory, huge pages, the holders' limits, the VMs or module parameters could not be read.",
    "Whether a VM can pin its memory is not known. Unknown is not enough.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    MEMORY_ENOUGH,
    MEMLOCK_LOW,
    MEMORY_OVERCOMMITTED,
    MEMORY_TIGHT,
    AUTOSTART_TIGHT,
    HUGEPAGES_SHORT,
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

    Evidence: /proc/meminfo, huge pages per size and node, VMs with devices that run or start by
              themselves, holders' limits, dma_entry_limit.
    Meaning:  Pinned memory is not shared or swapped; starved hosts fail in unrelated looking ways.
    Source:   Linux vfio_iommu_type1.c, hugetlbpage.rst, getrlimit(2); field guide step 12.
    """
    evidence = _list_evidence(host)
    low = [h for h in host.readings.holders or () if _is_low(host, h)]
    if low:
        rows = [Evidence(f"/proc/{h.pid}/limits", _describe_limit(host, h)) for h in low]
        return [make_finding(ID, NODE, MEMLOCK_LOW, *dict.fromkeys(rows), *evidence)]
    needs = find_needs(host)
    sure = _judge_needs(host, [n for n in needs if n.starts])
    if sure is MEMORY_OVERCOMMITTED:
        return [make_finding(ID, NODE, sure, *_describe_needs(needs), *evidence)]
    missing = (*_list_missing(host), *_list_unsized(needs))
    if sure is None and _judge_needs(host, needs) is not None:
        missing = (*missing, *_list_undecided(needs))
    if missing:
        return [make_finding(ID, NODE, MEMORY_UNKNOWN, *evidence, missing=missing)]
    code = _decide(host)
    if sure is not None and code is not MEMORY_TIGHT:
        return [make_finding(ID, NODE, sure, *_describe_needs(needs), *evidence)]
    return [make_finding(ID, NODE, code, *evidence, *_describe_needs(needs))]


# --- VMs -----------------------------------------------------------------------------------------


def _judge_needs(host: Host, needs: Sequence[Need]) -> Code | None:
    """What is wrong when all these VMs are to run; None for nothing."""
    plain = sum(n.memory_bytes or 0 for n in needs if not n.page_bytes)
    pages = host.readings.hugepages or ()
    taken = sum(p.total * p.size_bytes for p in pages if p.node < 0)
    total = host.facts.memory_total_bytes
    if plain and total is not None and plain + taken > total:
        return MEMORY_OVERCOMMITTED
    waiting = sum(n.memory_bytes or 0 for n in needs if not n.page_bytes and not n.running)
    memory = host.readings.memory
    available = None if memory is None else memory.available_bytes
    if waiting and available is not None and waiting > available:
        return AUTOSTART_TIGHT
    if any(_is_short(needs, row) for row in pages):
        return HUGEPAGES_SHORT
    wanted = {n.page_bytes for n in needs if n.page_bytes}
    if host.readings.hugepages is not None and wanted - {p.size_bytes for p in pages}:
        return HUGEPAGES_SHORT
    return None


def _is_short(needs: Sequence[Need], row: HugePages) -> bool:
    """True when this pool has fewer pages than all of them want, or free ones than still come.

    A VM that takes exactly all pages is served.
    """
    users = [n for n in needs if n.page_bytes == row.size_bytes]
    wanted = sum(_pages(n, row) for n in users)
    waiting = sum(_pages(n, row) for n in users if not n.running)
    return wanted > row.total or waiting > row.free - (row.reserved or 0)


def _pages(need: Need, row: HugePages) -> int:
    """Pages that this VM takes from this pool, rounded up."""
    size = need.memory_bytes or 0
    if row.node >= 0:
        size = sum(amount for node, amount in pages_by_node(need) if node == row.node)
    return -(-size // row.size_bytes)


def _describe_needs(needs: Sequence[Need]) -> list[Evidence]:
    found = []
    for need in needs:
        state = "runs" if need.running else "starts at boot" if need.starts else "may start at boot"
        pages = f" from {_size(need.page_bytes)} pages" if need.page_bytes else ""
        text = f"VM {need.vm.name} keeps {_size(need.memory_bytes)}{pages}, {state}"
        found.append(Evidence(need.vm.source, text))
    return found


def _list_unsized(needs: Sequence[Need]) -> list[Missing]:
    found = (n.vm for n in needs if n.memory_bytes is None)
    return [Missing(f"memory of VM {vm.name}", f"grep -n -i memory {vm.source}") for vm in found]


def _list_undecided(needs: Sequence[Need]) -> list[Missing]:
    found = (n.vm for n in needs if n.starts is None)
    return [Missing(f"autostart of VM {vm.name}", "virsh list --all --autostart") for vm in found]


# --- host ----------------------------------------------------------------------------------------


def _decide(host: Host) -> Code:
    memory, total = host.readings.memory, host.facts.memory_total_bytes or 0
    available = 0 if memory is None else memory.available_bytes or 0
    if available < max(_LEAST_BYTES, total // _LEAST_SHARE):
        return MEMORY_TIGHT
    if not host.readings.holders and any(_is_taken(p) for p in host.readings.hugepages or ()):
        return HUGEPAGES_TAKEN
    limit = _entry_limit(host)
    return DMA_ENTRIES_LOW if limit is not None and limit < DMA_ENTRIES else MEMORY_ENOUGH


def _is_low(host: Host, holder: Holder) -> bool:
    locked, limit = holder.locked_bytes, holder.memlock_bytes
    # whoever has locked more than the limit is not bound by it (CAP_IPC_LOCK: a root's QEMU)
    if limit is None or limit < 0 or (locked or 0) > limit:
        return False
    return (locked or 0) > limit * _NEARLY or (charge_of(host, holder) or 0) > limit


def _describe_limit(host: Host, holder: Holder) -> str:
    text = f"{holder.command}: {_size(holder.locked_bytes)} locked"
    charge = charge_of(host, holder)
    return f"{text}, type1 charges up to {_size(charge)}" if charge else text


def _is_taken(pages: HugePages) -> bool:
    return pages.node < 0 and pages.total > 0 and pages.free <= (pages.reserved or 0)


def _entry_limit(host: Host) -> int | None:
    for module in host.facts.modules or ():
        for name, value in module.parameters:
            if name == "dma_entry_limit" and value.isascii() and value.isdecimal():
                return int(value)
    for rule in host.facts.module_rules or ():
        for word in rule.value.split() if rule.kind == "options" else ():
            name, _, value = word.partition("=")
            if name == "dma_entry_limit" and value.isascii() and value.isdecimal():
                return int(value)  # what the module will have once it is loaded
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
    if host.facts.vms is None:
        found.append(Missing("VM configurations", "ls /etc/pve/qemu-server /etc/libvirt/qemu"))
    return tuple(found)


def _size(value: int | None) -> str:
    if value is None:
        return "?"
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if value >> shift:
            text = f"{value / (1 << shift):.1f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{value >> 10} KiB"
