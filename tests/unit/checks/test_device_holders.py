"""`device-holders`: who has it, for how long, and whether it should still."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import function_reading, make_host, nic, silent_host, unread
from tests.fakes.vms import make_vm
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.device_holders import judge
from vfio_agent.checks.holding import find_vm
from vfio_contract.findings import Finding, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Gap, Holder, PciFunction, Snapshot

CARD = nic("0000:01:00.0", group=12)
QEMU = Holder(
    path="/dev/vfio/12",
    pid=4212,
    command="kvm",
    control_group="/qemu.slice/101.scope",
    started_seconds=60.0,
    state="S",
    stale_node=False,
)


VMS = (make_vm(name="101"),)


def judged(*holders: Holder, card: PciFunction = CARD, **changes: Any) -> Finding:
    changes = {"vms": VMS} | changes
    return find(judge(make_host(card, holders=holders, **changes)), "function:0000:01:00.0")


def test_free() -> None:
    finding = judged()
    assert (finding.verdict, finding.code, finding.intended) == (Verdict.PASS, "DEVICE_FREE", True)
    assert judged(replace(QEMU, path="/dev/vfio/13")).code == "DEVICE_FREE"


def test_held_by_a_vm_that_is_named() -> None:
    finding = judged(QEMU)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "DEVICE_HELD")
    assert "/dev/vfio/12: kvm (pid 4212), VM 101, for 0h59m" in texts(finding)


def test_held_through_its_device_node() -> None:
    cdev = replace(QEMU, path="/dev/vfio/devices/vfio3")
    reading = function_reading(CARD, vfio_nodes=("vfio3",))
    snapshot = make_host(CARD, holders=(cdev,), vms=VMS).snapshot
    for nodes, code in ((("vfio3",), "DEVICE_HELD"), (None, "HOLDERS_UNKNOWN")):
        rows = (replace(reading, vfio_nodes=nodes),)
        host = Host(Snapshot(snapshot.facts, replace(snapshot.readings, functions=rows)))
        assert find(judge(host), "function:0000:01:00.0").code == code


@pytest.mark.parametrize("changes", [{"state": "D"}, {"state": "Z"}, {"stale_node": True}])
def test_stale(changes: dict[str, Any]) -> None:
    finding = judged(replace(QEMU, **changes))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "HOLDER_STALE")
    assert "/proc/4212/stack" in finding.decision


def test_a_vm_without_a_configuration_is_stale() -> None:
    finding = judged(QEMU, vms=(make_vm(name="102"),))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "HOLDER_STALE")
    assert "VM 101 has no configuration in /etc/pve/qemu-server" in texts(finding)


def test_a_configuration_that_may_not_have_been_read_is_not_missing() -> None:
    assert judged(QEMU, vms=None).code == "DEVICE_HELD"
    gap = Gap("/etc/pve/qemu-server/101.conf", 13, "Permission denied", "")
    assert judged(QEMU, vms=(), gaps=(gap,)).code == "DEVICE_HELD"


def test_a_vm_is_named_by_its_arguments_where_its_cgroup_does_not() -> None:
    plain = replace(QEMU, control_group="/user.slice", vm="lab-3")
    assert "/dev/vfio/12: kvm (pid 4212), VM lab-3, for 0h59m" in texts(judged(plain))


def test_two_processes_hold_one_group() -> None:
    finding = judged(QEMU, replace(QEMU, pid=4300))
    assert finding.code == "HOLDER_STALE"
    assert "open in 2 processes" in texts(finding)


def test_libvirt_names_its_machines() -> None:
    path = "/machine.slice/machine-qemu\\x2d3\\x2dweb\\x2d01.scope/libvirt/emulator"
    assert find_vm(replace(QEMU, control_group=path)) == "web-01"
    assert find_vm(replace(QEMU, control_group="/user.slice")) == ""


def test_an_ordinary_user_is_told_what_to_run() -> None:
    gaps = (Gap("/proc/*/fd", 13, "Permission denied", "sudo vfioctl check"),)
    host = make_host(CARD, holders=None, gaps=gaps)
    finding = find(judge(host), "function:0000:01:00.0")
    assert (finding.verdict, commands(finding)) == (Verdict.UNKNOWN, ["sudo vfioctl check"])


def test_whose_group_nobody_knows() -> None:
    lost = unread(CARD, "group")
    assert judged(QEMU, card=lost, groups=None).code == "HOLDERS_UNKNOWN"


def test_only_vfio_bound_functions_are_judged() -> None:
    assert [f.code for f in judge(make_host(nic("0000:01:00.0", driver="igb")))] == ["NO_DEVICES"]
    assert judged(card=unread(CARD, "driver", "vfio_device")).code == "DEVICE_FREE"
    assert [f.code for f in judge(silent_host())] == ["INVENTORY_UNKNOWN"]


def test_a_function_without_a_driver_may_still_be_held() -> None:
    leaving = nic("0000:01:00.0", driver="", vfio_device=False)
    holder = Holder("/dev/vfio/1", 4212, "kvm", None, None, "S", None, None, False)
    (found,) = judge(make_host(leaving, holders=(holder,)))
    assert (found.code, found.subject) == ("HOLDER_STALE", "function:0000:01:00.0")
    assert "pid 4212" in found.evidence[1].text
    assert "its removal waits for pid 4212" in found.evidence[-1].text


def test_a_driver_less_mate_of_a_held_function_is_not_being_removed() -> None:
    mate = nic("0000:01:00.1", driver="", group=12)
    found = {f.subject: f.code for f in judge(make_host(CARD, mate, holders=(QEMU,), vms=VMS))}
    assert found == dict.fromkeys(("function:0000:01:00.0", "function:0000:01:00.1"), "DEVICE_HELD")
