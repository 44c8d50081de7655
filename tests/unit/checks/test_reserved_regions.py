"""`reserved-regions`: only `direct` stops a VM."""

from dataclasses import replace

from tests.fakes.snapshots import make_groups, make_host, nic, silent_host, unread
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.reserved_regions import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import ReservedRegion

CARD = nic("0000:01:00.0", group=12)
MSI = ReservedRegion(0xFEE00000, 0xFEEFFFFF, "msi")


def judged(*regions: ReservedRegion) -> Finding:
    groups = make_groups([CARD], reserved=regions)
    return find(judge(make_host(CARD, groups=groups)), "group:12")


def test_the_msi_window_and_relaxable_regions_stop_nobody() -> None:
    relaxable = ReservedRegion(0xBD800000, 0xBFFFFFFF, "direct-relaxable")
    finding = judged(MSI, relaxable)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "REGIONS_CLEAR")
    assert "0xbd800000-0xbfffffff direct-relaxable" in texts(finding)
    assert judged().verdict is Verdict.PASS


def test_a_direct_region() -> None:
    finding = judged(MSI, ReservedRegion(0x6F760000, 0x6F762FFF, "direct"))
    assert (finding.verdict, finding.code, finding.intended) == (
        Verdict.FAIL,
        "REGIONS_DIRECT",
        True,
    )
    assert texts(finding).endswith("0x6f760000-0x6f762fff direct")


def test_unread() -> None:
    for groups in (None, make_groups([CARD], reserved=None)):
        finding = find(judge(make_host(CARD, groups=groups)), "group:12")
        assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "REGIONS_UNKNOWN")
        assert commands(finding) == ["cat /sys/kernel/iommu_groups/12/reserved_regions"]
    lost = unread(CARD, "group")
    assert find(judge(make_host(lost, groups=None))).verdict is Verdict.UNKNOWN


def test_nothing_to_judge() -> None:
    bare = replace(CARD, group=-1)
    assert [f.code for f in judge(make_host(bare, groups=()))] == ["NO_DEVICES"]
    assert [f.code for f in judge(silent_host())] == ["INVENTORY_UNKNOWN"]
