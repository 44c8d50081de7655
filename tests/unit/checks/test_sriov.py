"""`sriov`: VFs are there, stay there, and are not given out twice."""

from typing import Any

import pytest

from tests.fakes.snapshots import (
    config_space,
    make_host,
    nic,
    silent_host,
    unread,
    virtual_function,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.sriov import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import ConfigLine, PciFunction

RULE = ConfigLine("/etc/udev/rules.d/70-sriov.rules:1", 'ATTR{sriov_numvfs}="2"')


def owner(count: int | None = 2, **changes: Any) -> PciFunction:
    values: dict[str, Any] = {
        "driver": "igb",
        "sriov_total_vfs": 7,
        "sriov_num_vfs": count,
    } | changes
    return nic("0000:03:00.0", config=config_space(total_vfs=7, flr=True), **values)


def vfs(pf: PciFunction, driver: str = "vfio-pci") -> list[PciFunction]:
    rows = (("0000:03:10.0", 0), ("0000:03:10.2", 1))
    return [virtual_function(pf, a, n, group=20 + n, driver=driver) for a, n in rows]


def judged(pf: PciFunction, *others: PciFunction, **changes: Any) -> Finding:
    return find(judge(make_host(pf, *others, **changes)), "function:0000:03:00.0")


def test_made_at_boot() -> None:
    pf = owner()
    finding = judged(pf, *vfs(pf), sriov_rules=(RULE,))
    assert (finding.verdict, finding.code, finding.intended) == (Verdict.PASS, "SRIOV_READY", True)
    assert "2 of 7 VFs enabled" in texts(finding)


def test_made_by_hand() -> None:
    pf = owner()
    finding = judged(pf, *vfs(pf))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "SRIOV_NOT_PERSISTENT")
    assert 'KERNEL=="0000:03:00.0"' in finding.decision
    other = ConfigLine("/etc/rc.local:3", "echo 2 > /sys/bus/pci/devices/0000:09:00.0/sriov_numvfs")
    neighbour = nic("0000:09:00.0", group=30)
    assert judged(pf, neighbour, sriov_rules=(other,)).code == "SRIOV_NOT_PERSISTENT"


def test_capable_and_unused() -> None:
    finding = judged(owner(0))
    assert (finding.verdict, finding.code) == (Verdict.NOT_APPLICABLE, "SRIOV_UNUSED")


def test_wanted_and_not_there() -> None:
    line = ConfigLine("/etc/rc.local:3", "echo 4 > /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs")
    finding = judged(owner(0), sriov_rules=(line,))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "SRIOV_MISSING")
    assert "/etc/rc.local:3" in texts(finding)


def test_a_pf_and_its_vfs_are_never_both_assigned() -> None:
    pf = owner(driver="vfio-pci")
    finding = judged(pf, *vfs(pf))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "PF_HAS_VFS")
    finding = judged(pf, *vfs(pf, driver="igbvf"))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "SRIOV_VF_TOKEN")


def test_a_vf_that_nobody_could_read_may_be_assigned() -> None:
    pf = owner(driver="vfio-pci")
    first, second = vfs(pf, driver="igbvf")
    assert judged(pf, first, unread(second, "driver", "vfio_device")).verdict is Verdict.UNKNOWN
    assert judged(pf, first).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("pf", "changes"),
    [
        (owner(None), {}),
        (unread(owner(), "sriov_total_vfs"), {}),
        (unread(owner(), "driver", "vfio_device"), {}),
        (owner(), {"sriov_rules": None}),
        (owner(0), {"sriov_rules": None}),
    ],
)
def test_unread(pf: PciFunction, changes: dict[str, Any]) -> None:
    finding = judged(pf, **changes)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "SRIOV_UNKNOWN")
    assert commands(finding)


def test_nothing_to_judge() -> None:
    assert [f.code for f in judge(make_host(nic("0000:01:00.0")))] == ["NO_DEVICES"]
    assert [f.code for f in judge(silent_host())] == ["INVENTORY_UNKNOWN"]
