"""`driver-binding`: bound now and after a reboot, and never advice that would hurt the host."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    function,
    make_host,
    nic,
    nvme,
    unread,
    virtual_function,
)
from tests.fakes.vms import make_device, make_mapping, make_vm
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.driver_binding import judge
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Holder, Intent, NetDevice, PciFunction

CARD = nic("0000:01:00.0")
BY_ID = Intent("vfio-ids", "8086:10c9", "modprobe.d/vfio.conf:1")


def judged(*functions: PciFunction, address: str = "0000:01:00.0", **changes: Any) -> Finding:
    return find(judge(make_host(*functions, **changes)), f"function:{address}")


def idle(*addresses: str) -> dict[str, Any]:
    """Interfaces that carry nothing, so that their cards are free."""
    rows = (NetDevice(a, Address(a), "", (), (), (), ()) for a in addresses)
    return {"network": tuple(rows)}


@pytest.mark.parametrize(
    "intent",
    [
        BY_ID,
        Intent("vfio-ids", "8086:10c9", "kernel command line"),
        Intent("driverctl", "0000:01:00.0", "driverctl.d/pci-0000:01:00.0"),
    ],
)
def test_bound_and_configured(intent: Intent) -> None:
    finding = judged(CARD, intents=(intent,))
    assert (finding.verdict, finding.code, finding.intended) == (
        Verdict.PASS,
        "BINDING_READY",
        True,
    )
    assert f"{intent.source}: {intent.kind} {intent.value}" in texts(finding)


def test_variant_drivers_and_vfio_dev_count() -> None:
    mlx = nic("0000:01:00.0", driver="mlx5_vfio_pci")
    assert judged(mlx, intents=(BY_ID,)).code == "BINDING_READY"
    other = nic("0000:01:00.0", driver="acme_passthrough", vfio_device=True)
    assert judged(other, intents=(BY_ID,)).code == "BINDING_READY"


@pytest.mark.parametrize(
    "intents",
    [
        (),
        None,
        (Intent("vfio-ids", "10de:2204", "modprobe.d/vfio.conf:1"),),
        (Intent("vfio-ids", "8086:10c9", "/sys/module/vfio_pci/parameters/ids"),),
    ],
)
def test_a_binding_by_hand_does_not_survive_a_reboot(intents: Any) -> None:
    card = nic("0000:01:00.0", driver_override="vfio-pci")
    finding = judged(card, intents=intents)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "BINDING_NOT_PERSISTENT")
    assert "sudo driverctl set-override 0000:01:00.0 vfio-pci" in finding.decision


def test_intended_but_on_a_host_driver() -> None:
    taken = nic("0000:01:00.0", driver="igb")
    finding = judged(taken, intents=(BY_ID,), **idle("0000:01:00.0"))
    assert (finding.verdict, finding.code, finding.intended) == (
        Verdict.FAIL,
        "BINDING_HOST_DRIVER",
        True,
    )
    assert "softdep igb pre: vfio-pci" in finding.decision
    assert "intended: modprobe.d/vfio.conf:1" in texts(finding)


def test_a_candidate_is_told_what_it_would_need() -> None:
    finding = judged(nic("0000:01:00.0", driver="igb"), **idle("0000:01:00.0"))
    assert (finding.verdict, finding.intended) == (Verdict.FAIL, False)
    assert "options vfio-pci ids=8086:10c9" in finding.decision


def test_ids_that_others_share_are_bound_by_address() -> None:
    twins = [nic(a, driver="igb", group=n) for n, a in enumerate(("0000:01:00.0", "0000:02:00.0"))]
    finding = judged(*twins, **idle("0000:01:00.0", "0000:02:00.0"))
    assert "options vfio-pci" not in finding.decision
    assert "sudo driverctl set-override 0000:01:00.0 vfio-pci" in finding.decision


def test_what_the_host_needs_is_never_advised_to_be_bound() -> None:
    busy = NetDevice("eth0", Address("0000:01:00.0"), "", (), (), ("10.0.0.1/24",), ("default",))
    finding = judged(nic("0000:01:00.0", driver="igb"), network=(busy,))
    assert finding.code == "BINDING_HOST_DRIVER"
    assert finding.decision.startswith("Do not bind it: the host needs it")
    doubted = judged(nic("0000:01:00.0", driver="igb"), network=None)
    assert doubted.decision.startswith("Do not bind it: the host may need it")


def test_no_driver_at_all() -> None:
    finding = judged(nic("0000:01:00.0", driver=""))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "NOT_BOUND")


def test_a_function_that_is_being_taken_away_is_held_and_never_free() -> None:
    """Removed VFs, unbind, hot-unplug: the driver goes first, the holder's group stays."""
    leaving = nic("0000:01:00.0", driver="", group=12, vfio_device=False)
    holder = Holder("/dev/vfio/12", 4212, "kvm", stale_node=False)
    finding = judged(leaving, holders=(holder,))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "HELD_UNBOUND")
    assert "/dev/vfio/12: kvm (pid 4212)" in texts(finding)
    # before 6.12 its vfio-dev stays until the holder lets go
    early = replace(leaving, vfio_device=True)
    assert judged(early, holders=(holder,)).code == "HELD_UNBOUND"
    elsewhere = replace(holder, path="/dev/vfio/13")
    assert judged(leaving, holders=(elsewhere,)).code == "NOT_BOUND"
    assert judged(leaving, holders=None).code == "NOT_BOUND"


def test_a_driver_less_mate_of_a_held_function_is_not_being_taken_away() -> None:
    mate = nic("0000:01:00.1", driver="", group=12, vfio_device=False)
    bound = nic("0000:01:00.0", group=12)
    holder = Holder("/dev/vfio/12", 4212, "kvm", stale_node=False)
    finding = judged(bound, mate, address="0000:01:00.1", holders=(holder,))
    assert finding.code == "NOT_BOUND"
    assert finding.meaning.startswith("Its group is in use")
    assert "kvm (pid 4212)" in texts(finding)


def test_an_unread_driver_is_unknown() -> None:
    finding = judged(unread(CARD, "driver", "vfio_device"))
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "BINDING_UNKNOWN")
    assert commands(finding) == ["lspci -k -s 0000:01:00.0"]


def test_mates_of_an_intended_device_are_intended() -> None:
    mate = nvme("0000:02:00.0", driver="nvme")
    assert judged(CARD, mate, address="0000:02:00.0").intended is True


def test_a_pf_with_vfs_is_never_given_away() -> None:
    owner = nic("0000:01:00.0", sriov_total_vfs=7, sriov_num_vfs=2)
    finding = judged(owner, intents=(BY_ID,))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "PF_HAS_VFS")
    assert "echo 0 | sudo tee /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs" in finding.decision
    silent = unread(owner, "sriov_num_vfs")
    assert judged(silent, intents=(BY_ID,)).verdict is Verdict.UNKNOWN
    vf = virtual_function(owner, "0000:01:10.0", 0, group=9)
    assert judged(silent, vf, intents=(BY_ID,)).code == "PF_HAS_VFS"
    lending = replace(owner, driver="igb", vfio_device=False)
    assert judged(lending, vf, address="0000:01:10.0").verdict is not Verdict.FAIL


def test_platform_functions_are_not_judged() -> None:
    isa = function("0000:00:1f.0", class_code=0x060100, driver="lpc_ich")
    assert [f.code for f in judge(make_host(isa))] == ["NO_DEVICES"]
    assert find(judge(make_host(functions=None))).verdict is Verdict.UNKNOWN


# --- bound by the hypervisor at each start -------------------------------------------------------


@pytest.mark.parametrize("driver", ["igb", ""])
def test_a_device_that_its_hypervisor_binds_at_start_is_deferred(driver: str) -> None:
    card = nic("0000:01:00.0", driver=driver)
    vm = make_vm(make_device("0000:01:00", line=7))
    finding = judged(card, intents=(), vms=(vm,), **idle("0000:01:00.0"))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "BINDING_DEFERRED")
    assert finding.intended is True
    assert "/etc/pve/qemu-server/101.conf:7" in texts(finding)
    left = make_vm(make_device("0000:01:00.0", managed=False))
    finding = judged(card, intents=(), vms=(left,), **idle("0000:01:00.0"))
    assert finding.verdict is Verdict.FAIL


def test_a_mapping_defers_and_what_the_host_needs_is_never_deferred() -> None:
    card = nic("0000:01:00.0", driver="igb")
    vm = make_vm(make_device(mapping="fast"))
    mappings = (make_mapping("fast", "0000:01:00.0"),)
    finding = judged(card, intents=(), vms=(vm,), mappings=mappings, **idle("0000:01:00.0"))
    assert finding.code == "BINDING_DEFERRED"
    busy = (NetDevice("eth1", card.address, "", (), (), ("10.0.0.6/24",), ("default",)),)
    finding = judged(card, intents=(), vms=(vm,), mappings=mappings, network=busy)
    assert finding.code == "BINDING_HOST_DRIVER"
    assert "Do not bind it" in finding.decision


def test_a_binding_that_its_hypervisor_renews_needs_no_other_configuration() -> None:
    vm = make_vm(make_device("0000:01:00.0"))
    assert judged(CARD, intents=(), vms=(vm,)).code == "BINDING_READY"
    assert judged(CARD, intents=(), vms=()).code == "BINDING_NOT_PERSISTENT"


def test_pci_stub_is_no_host_driver() -> None:
    finding = judged(nic("0000:01:00.0", driver="pci-stub"), **idle("0000:01:00.0"))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "BINDING_STUB")
    assert "softdep" not in finding.decision
    assert "sudo driverctl set-override 0000:01:00.0 vfio-pci" in finding.decision


def test_a_vf_of_a_pf_on_vfio_pci_needs_a_token() -> None:
    owner = nic("0000:03:00.0", group=3, sriov_total_vfs=7, sriov_num_vfs=1)
    vf = virtual_function(owner, "0000:03:10.0", 0, group=4)
    found = find(judge(make_host(owner, vf)), "function:0000:03:10.0")
    assert (found.verdict, found.code) == (Verdict.FAIL, "PF_HAS_VFS")
    assert "unset-override 0000:03:00.0" in found.decision
    lent = find(
        judge(make_host(replace(owner, driver="igb", vfio_device=False), vf)), found.subject
    )
    assert lent.verdict is not Verdict.FAIL
    unread = find(
        judge(make_host(replace(owner, driver=None, vfio_device=None), vf)), found.subject
    )
    assert unread.verdict is Verdict.UNKNOWN
