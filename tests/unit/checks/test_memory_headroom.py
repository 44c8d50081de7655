"""`memory-headroom`: what can still be pinned, and which limit is in the way."""

from typing import Any

import pytest

from tests.fakes.snapshots import MODULES, make_host, nic, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.memory_headroom import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Holder, HugePages, Memory, Module

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
    for roomy in (holder(8 * GIB, -1), holder(8 * GIB, 16 * GIB), holder(None, 8 * GIB)):
        assert judged(holders=(roomy,)).code == "MEMORY_ENOUGH"


def test_few_mappings() -> None:
    modules = (*MODULES[:2], Module("vfio_iommu_type1", (("dma_entry_limit", "1024"),)))
    finding = judged(modules=modules)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "DMA_ENTRIES_LOW")


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": None},
        {"memory": available(None)},
        {"memory_total_bytes": None},
        {"hugepages": None},
        {"holders": None},
        {"modules": None},
    ],
)
def test_unread(changes: dict[str, Any]) -> None:
    finding = judged(**changes)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "MEMORY_UNKNOWN")
    assert len(commands(finding)) == 1


def test_nothing_read() -> None:
    assert len(commands(find(judge(silent_host())))) == 4
