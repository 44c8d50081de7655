"""`memory-headroom`: what can still be pinned, and which limit is in the way."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import MODULES, make_host, nic, silent_host
from tests.fakes.vms import make_device, make_vm
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.memory_headroom import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Holder, HugePages, Memory, Module, ModuleRule
from vfio_contract.vm import VmConfig, VmSetting

GIB = 1 << 30
TAKEN = (HugePages(GIB, -1, 16, 0, 0),)


def judged(**changes: Any) -> Finding:
    return find(judge(make_host(nic("0000:01:00.0"), **changes)))


def holder(locked: int | None, limit: int | None) -> Holder:
    return Holder("/dev/vfio/1", 4212, "kvm", None, None, "S", locked, limit, False)


def available(size: int | None) -> Memory:
    return Memory(size, 0, 0, 2 << 20)


def test_enough() -> None:
    finding = judged()
    assert (finding.verdict, finding.code) == (Verdict.PASS, "MEMORY_ENOUGH")
    assert "MemAvailable 32 GiB of 64 GiB" in texts(finding)


def test_tight() -> None:
    finding = judged(memory=available(3 * GIB))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "MEMORY_TIGHT")
    assert judged(memory=available(GIB // 2), memory_total_bytes=2 * GIB).code == "MEMORY_TIGHT"


def test_all_huge_pages_are_gone_and_nobody_has_a_device() -> None:
    assert judged(hugepages=TAKEN).code == "HUGEPAGES_TAKEN"
    promised = (HugePages(GIB, -1, 16, 4, 4),)
    assert judged(hugepages=promised).code == "HUGEPAGES_TAKEN"
    assert judged(hugepages=TAKEN, holders=(holder(16 * GIB, -1),)).code == "MEMORY_ENOUGH"
    by_node = (HugePages(GIB, -1, 16, 8, 0), HugePages(GIB, 0, 8, 0, None))
    finding = judged(hugepages=by_node)
    assert finding.code == "MEMORY_ENOUGH"
    assert "1 GiB: 0 of 8 free on NUMA node 0" in texts(finding)


def test_a_holder_at_its_limit() -> None:
    finding = judged(holders=(holder(8 * GIB, 8 * GIB),))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "MEMLOCK_LOW")
    assert "kvm: 8 GiB locked" in texts(finding)
    # the second has locked more than its limit: a privileged process, to which it does not apply
    for roomy in (
        holder(8 * GIB, -1),
        holder(9 * GIB, 8 * GIB),
        holder(8 * GIB, 16 * GIB),
        holder(None, 8 * GIB),
    ):
        assert judged(holders=(roomy,)).code == "MEMORY_ENOUGH"


def test_few_mappings() -> None:
    modules = (*MODULES[:2], Module("vfio_iommu_type1", (("dma_entry_limit", "1024"),)))
    finding = judged(modules=modules)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "DMA_ENTRIES_LOW")


def test_few_mappings_once_the_module_is_loaded() -> None:
    rule = ModuleRule("options", "vfio_iommu_type1", "dma_entry_limit=512", "vfio.conf:1")
    assert judged(module_rules=(rule,)).code == "DMA_ENTRIES_LOW"


# --- VMs with devices ----------------------------------------------------------------------------


def vm(number: int, size: int, **changes: Any) -> VmConfig:
    entry = make_device("0000:01:00.0")
    values = {"memory_bytes": size * GIB, "autostart": True} | changes
    return make_vm(entry, name=str(number), **values)


def held_by(number: int, *, nodes: int = 1, limit: int = -1) -> tuple[Holder, ...]:
    scope = f"/qemu.slice/{number}.scope"
    return tuple(
        Holder(f"/dev/vfio/{n}", 4212, "kvm", scope, None, "S", GIB, limit, False)
        for n in range(nodes)
    )


def test_vms_that_start_at_boot_and_fit() -> None:
    finding = judged(vms=(vm(101, 16), vm(102, 16)))
    assert finding.code == "MEMORY_ENOUGH"
    assert "VM 101 keeps 16 GiB, starts at boot" in texts(finding)
    # what nobody starts, and what has no device, is not counted
    others = (vm(103, 60, autostart=False), make_vm(name="104", memory_bytes=60 * GIB))
    assert judged(vms=(vm(101, 16), *others)).code == "MEMORY_ENOUGH"


def test_more_than_the_host_has() -> None:
    finding = judged(vms=(vm(101, 40), vm(102, 30)))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "MEMORY_OVERCOMMITTED")
    reserved = (HugePages(GIB, -1, 32, 32, 0),)
    assert judged(vms=(vm(101, 40),), hugepages=reserved).code == "MEMORY_OVERCOMMITTED"


def test_more_than_is_available_now() -> None:
    finding = judged(vms=(vm(101, 40),))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "AUTOSTART_TIGHT")
    # what it pins already is not available to others, and it needs no more
    assert judged(vms=(vm(101, 40),), holders=held_by(101)).code == "MEMORY_ENOUGH"


def test_vms_of_which_size_or_autostart_is_not_known() -> None:
    finding = judged(vms=(vm(101, 1, memory_bytes=None),))
    assert commands(finding) == ["grep -n -i memory /etc/pve/qemu-server/101.conf"]
    finding = judged(vms=(vm(101, 40, autostart=None),))
    assert commands(finding) == ["virsh list --all --autostart"]
    assert judged(vms=(vm(101, 8, autostart=None),)).code == "MEMORY_ENOUGH"


def test_a_vm_that_takes_exactly_all_huge_pages_is_served() -> None:
    paged = vm(101, 16, hugepages=GIB)
    free = (HugePages(GIB, -1, 16, 16, 0),)
    assert judged(vms=(paged,), hugepages=free).code == "MEMORY_ENOUGH"
    taken = (HugePages(GIB, -1, 16, 0, 0),)
    assert judged(vms=(paged,), hugepages=taken, holders=held_by(101)).code == "MEMORY_ENOUGH"
    both = (paged, vm(102, 1, hugepages=GIB))
    assert judged(vms=both, hugepages=free).code == "HUGEPAGES_SHORT"
    assert judged(vms=(paged,), hugepages=taken).code == "HUGEPAGES_SHORT"


def test_huge_pages_of_another_size_or_on_another_node() -> None:
    paged = vm(101, 16, hugepages=GIB)
    assert judged(vms=(paged,)).code == "HUGEPAGES_SHORT"
    bound = replace(
        paged,
        settings=(VmSetting("numa0", "cpus=0-7,hostnodes=1,memory=16384,policy=bind", 9),),
    )
    pools = (HugePages(GIB, -1, 20, 20, 0), HugePages(GIB, 0, 16, 16, None))
    poor, rich = HugePages(GIB, 1, 4, 4, None), HugePages(GIB, 1, 16, 16, None)
    assert judged(vms=(bound,), hugepages=(*pools, poor)).code == "HUGEPAGES_SHORT"
    assert judged(vms=(bound,), hugepages=(*pools, rich)).code == "MEMORY_ENOUGH"


def test_a_viommu_multiplies_what_type1_charges() -> None:
    plain = vm(101, 8)
    virtual = replace(plain, machine="q35,viommu=intel")
    holders = held_by(101, nodes=2, limit=9 * GIB)
    assert judged(vms=(plain,), holders=holders).code == "MEMORY_ENOUGH"
    finding = judged(vms=(virtual,), holders=holders)
    assert finding.code == "MEMLOCK_LOW"
    assert "type1 charges up to 16 GiB" in texts(finding)
    assert judged(vms=(virtual,), holders=held_by(101, nodes=2)).code == "MEMORY_ENOUGH"


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": None},
        {"memory": available(None)},
        {"memory_total_bytes": None},
        {"hugepages": None},
        {"holders": None},
        {"modules": None},
        {"vms": None},
    ],
)
def test_unread(changes: dict[str, Any]) -> None:
    finding = judged(**changes)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "MEMORY_UNKNOWN")
    assert len(commands(finding)) == 1


def test_nothing_read() -> None:
    assert len(commands(find(judge(silent_host())))) == 5
