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
from tests.fakes.vms import make_device, make_vm
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.sriov import judge
from vfio_agent.checks.vf_rules import count_of
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import ConfigLine, Gap, NetDevice, PciFunction

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


def test_a_count_that_blocks_is_asked_for_and_nothing_is_said_of_the_vfs() -> None:
    """While VFs are removed their holder keeps the count from everybody (facts: Reading)."""
    pf = owner(None)
    path = "/sys/bus/pci/devices/0000:03:00.0/sriov_numvfs"
    gap = Gap(path=path, errno=110, reason="blocked for 2 s", remedy="")
    for rules in ((), (RULE,)):
        finding = judged(pf, *vfs(pf), gaps=(gap,), sriov_rules=rules)
        assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "SRIOV_UNKNOWN")
        assert f"{path}: ? of 7 VFs enabled (blocked for 2 s)" in texts(finding)
        assert commands(finding) == [f"cat {path}"]


def test_made_by_hand() -> None:
    pf = owner()
    finding = judged(pf, *vfs(pf))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "SRIOV_NOT_PERSISTENT")
    assert 'KERNEL=="0000:03:00.0"' in finding.decision
    other = ConfigLine("/etc/rc.local:3", "echo 2 > /sys/bus/pci/devices/0000:09:00.0/sriov_numvfs")
    neighbour = nic("0000:09:00.0", group=30)
    assert judged(pf, neighbour, sriov_rules=(other,)).code == "SRIOV_NOT_PERSISTENT"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('ACTION=="add", KERNEL=="0000:03:00.0", ATTR{sriov_numvfs}="4"', 4),
        ("eno3: virtual-function-count: 16", 16),
        ("eno3: total-vfs=4", 4),
        ("pci-0000:03:00.0: SR-IOVVirtualFunctions=8", 8),
        ("bus/pci/devices/0000:03:00.0/sriov_numvfs = 6", 6),
        ("w /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs - - - - 5", 5),
        ("echo 0 > /sys/class/net/eno3/device/sriov_numvfs; echo 7 > "
         "/sys/class/net/eno3/device/sriov_numvfs", 7),
        ('ExecStart=/bin/sh -c "echo 4 | tee /sys/class/net/eno3/device/sriov_numvfs"', 4),
        ("options igb max_vfs=3", 3),
        ("options igb max_vfs=3,4", None),
        ("ExecStart=/usr/local/sbin/make-vfs sriov_numvfs", None),
    ],
)  # fmt: skip
def test_the_number_that_a_line_wants(text: str, count: int | None) -> None:
    assert count_of(ConfigLine("x:1", text)) == count


INTERFACE = NetDevice("eno3", Address("0000:03:00.0"), "", (), (), (), ())
OTHER = NetDevice("eno4", Address("0000:09:00.0"), "", (), (), (), ())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("eno3: virtual-function-count: 2", "SRIOV_READY"),
        ("eno3: virtual-function-count: 4", "SRIOV_COUNT"),
        ("echo 2 > /sys/class/net/eno3/device/sriov_numvfs", "SRIOV_READY"),
        ("echo 2 > /sys/class/net/eno4/device/sriov_numvfs", "SRIOV_NOT_PERSISTENT"),
        ("echo 2 > /sys/class/net/gone0/device/sriov_numvfs", "SRIOV_UNKNOWN"),
        ("echo 2 > $PF/sriov_numvfs", "SRIOV_UNKNOWN"),
        ('ATTR{vendor}=="0x8086", ATTR{device}=="0x10c9", ATTR{sriov_numvfs}="2"', "SRIOV_READY"),
        ('ATTR{vendor}=="0x15b3", ATTR{sriov_numvfs}="2"', "SRIOV_NOT_PERSISTENT"),
        ('DRIVERS=="igb", ATTR{sriov_numvfs}="3"', "SRIOV_COUNT"),
        ("options ixgbe max_vfs=2", "SRIOV_NOT_PERSISTENT"),
    ],
)
def test_what_a_line_is_about(text: str, code: str) -> None:
    pf = owner()
    neighbour = nic("0000:09:00.0", group=30)
    rules = (ConfigLine("/etc/x:1", text),)
    finding = judged(pf, neighbour, *vfs(pf), sriov_rules=rules, network=(INTERFACE, OTHER))
    assert finding.code == code
    if code == "SRIOV_UNKNOWN":
        assert commands(finding) == ["cat /etc/x"]


def test_rules_do_not_say_ready_when_the_count_was_not_read() -> None:
    pf = owner(None)
    assert judged(pf, *vfs(pf), sriov_rules=(RULE,)).code == "SRIOV_UNKNOWN"


def test_a_line_for_an_interface_that_is_gone_may_want_vfs() -> None:
    line = ConfigLine("/etc/rc.local:3", "echo 4 > /sys/class/net/gone0/device/sriov_numvfs")
    assert judged(owner(0), sriov_rules=(line,), network=()).code == "SRIOV_UNKNOWN"


def test_a_line_that_wants_none_is_content_with_none() -> None:
    line = ConfigLine("/etc/rc.local:3", "echo 0 > /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs")
    assert judged(owner(0), sriov_rules=(line,)).code == "SRIOV_UNUSED"


def test_a_vfio_driver_makes_no_vfs_that_are_wanted() -> None:
    line = ConfigLine("/etc/rc.local:3", "echo 4 > /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs")
    finding = judged(owner(0, driver="vfio-pci"), sriov_rules=(line,))
    assert finding.code == "SRIOV_MISSING"
    assert "enable_sriov=1" in finding.decision


def test_a_pf_that_a_vm_takes_at_its_start_must_have_no_vfs() -> None:
    pf = owner()
    vm = make_vm(make_device("0000:03:00.0"))
    finding = judged(pf, *vfs(pf, driver="igbvf"), sriov_rules=(RULE,), vms=(vm,))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "PF_HAS_VFS")
    assert any(e.source == "/etc/pve/qemu-server/101.conf:6" for e in finding.evidence)


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
