"""`device-functions`: the whole set, why each belongs to it, and never a set that may be short."""

from typing import Any

import pytest

from tests.fakes.snapshots import (
    audio,
    behind,
    bridge,
    function,
    gpu,
    make_host,
    nic,
    unread,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.device_functions import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Gap, PciFunction

PORT = bridge("0000:00:01.0", group=0)


def unit(kind: str, *functions: PciFunction, **changes: Any) -> Finding:
    host = make_host(*functions, **changes)
    wanted = [u.id for u in host.units if u.kind == kind]
    assert len(wanted) == 1
    return find(judge(host), f"unit:{wanted[0]}")


def test_a_companion_in_a_group_of_its_own_travels_along() -> None:
    finding = unit("gpu", *behind(PORT, gpu("0000:01:00.0"), audio("0000:01:00.1", group=2)))
    assert (finding.verdict, finding.code, finding.intended) == (
        Verdict.PASS,
        "UNIT_COMPLETE",
        True,
    )
    assert "assign: 0000:01:00.0 [0300]" in texts(finding)
    assert "group 2, companion of 0000:01:00.0" in texts(finding)


def test_group_mates_nobody_wants_are_held() -> None:
    isa = function("0000:00:1f.0", class_code=0x060100, group=13, driver="")
    sata = function("0000:00:1f.2", class_code=0x010601, group=13)
    finding = unit("storage", isa, sata)
    assert "hold: 0000:00:1f.0 [0601]" in texts(finding)
    assert "same group as 0000:00:1f.2" in texts(finding)


def test_a_half_bound_device_warns() -> None:
    finding = unit("gpu", gpu("0000:01:00.0"), audio("0000:01:00.1", driver="snd_hda_intel"))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "UNIT_HALF_BOUND")
    assert "sudo driverctl set-override 0000:01:00.1 vfio-pci" in finding.decision


def test_a_pf_with_vfs_is_no_unit_to_give() -> None:
    finding = unit("nic", nic("0000:01:00.0", sriov_total_vfs=7, sriov_num_vfs=2, driver="igb"))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "PF_HAS_VFS")


@pytest.mark.parametrize("field", ["config", "driver", "group"])
def test_a_member_of_which_something_is_unread(field: str) -> None:
    card = unread(gpu("0000:01:00.0", vfio_device=None), field)
    finding = unit("gpu", card, groups=None)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "UNIT_UNKNOWN")
    assert finding.missing


@pytest.mark.parametrize("field", ["class_code", "group", "parent"])
def test_another_function_that_may_belong_to_the_set(field: str) -> None:
    mate = unread(audio("0000:01:00.1"), field)
    assert unit("gpu", gpu("0000:01:00.0"), mate, groups=None).verdict is Verdict.UNKNOWN


def test_an_unread_class_elsewhere_does_not_matter_here_but_shows() -> None:
    other = unread(nic("0000:07:00.0", group=7), "class_code")
    host = make_host(gpu("0000:01:00.0"), other)
    findings = judge(host)
    assert find(findings, f"unit:{host.units[0].id}").verdict is Verdict.PASS
    node = find(findings)
    assert (node.verdict, node.code) == (Verdict.UNKNOWN, "DEVICES_UNKNOWN")
    assert commands(node) == ["lspci -nn -s 0000:07:00.0"]


@pytest.mark.parametrize(
    "changes",
    [
        {"intents": None},
        {"gaps": (Gap("/etc/modprobe.d", 0, "not captured", "ls /etc/modprobe.d"),)},
    ],
)
def test_unread_intentions_show(changes: dict[str, Any]) -> None:
    host = make_host(nic("0000:01:00.0", driver="igb"), **changes)
    assert find(judge(host)).code == "DEVICES_UNKNOWN"


def test_an_unread_override_may_be_an_intention() -> None:
    host = make_host(unread(nic("0000:01:00.0", driver="igb"), "driver_override"), intents=())
    finding = find(judge(host))
    assert finding.code == "DEVICES_UNKNOWN"
    assert commands(finding) == ["cat /sys/bus/pci/devices/0000:01:00.0/driver_override"]


def test_an_unread_driver_may_be_an_intention() -> None:
    host = make_host(unread(nic("0000:01:00.0", driver="igb"), "driver", "vfio_device"), intents=())
    assert find(judge(host)).code == "DEVICES_UNKNOWN"
    assert not [f for f in judge(make_host(nic("0000:01:00.0"))) if f.subject == "node"]


def test_no_inventory() -> None:
    assert find(judge(make_host(functions=None))).code == "INVENTORY_UNKNOWN"
    assert find(judge(make_host())).verdict is Verdict.NOT_APPLICABLE
