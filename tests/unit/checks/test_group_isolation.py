"""`group-isolation`: clean, dirty, spoiled or artificial, judged as a person would."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    CMDLINE,
    PCI_BRIDGE,
    audio,
    behind,
    bridge,
    config_space,
    function,
    gpu,
    make_groups,
    make_host,
    make_log,
    nic,
    nvme,
    unread,
    virtual_function,
)
from tests.fakes.vms import make_device, make_vm
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks import driver_binding
from vfio_agent.checks.group_isolation import judge
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import NO_GROUP, Kernel, NetDevice, PciFunction

PORT = bridge("0000:00:01.0", group=0)
CARD = behind(PORT, gpu("0000:01:00.0"), audio("0000:01:00.1"))
OVERRIDE = f"{CMDLINE} pcie_acs_override=downstream,multifunction"
OLD = Kernel("5.10.0-28-amd64", "#1", "x86_64")


def group(number: int, *functions: PciFunction, **changes: Any) -> Finding:
    return find(judge(make_host(*functions, **changes)), f"group:{number}")


def legacy_pair(driver: str, *drivers: str) -> tuple[PciFunction, ...]:
    """Group 20 of the lab's 31-function host: a PCIe-to-PCI bridge and two slots behind it."""
    above = bridge("0000:08:00.0", group=20, driver=driver, port_type=PCI_BRIDGE, acs=None)
    slots = [
        nic(f"0000:09:0{n}.0", group=20, driver=name, config=config_space(port_type=None))
        for n, name in enumerate(drivers, 1)
    ]
    return behind(above, *slots)


# --- clean ---------------------------------------------------------------------------------------


def test_one_card_with_its_companion_is_clean() -> None:
    finding = group(1, *CARD)
    assert (finding.verdict, finding.code, finding.intended) == (Verdict.PASS, "GROUP_CLEAN", True)
    assert "viable now: yes" in texts(finding)
    assert "0000:01:00.1 [0403]" in texts(finding)


def test_ports_and_bridges_do_not_make_a_group_dirty() -> None:
    finding = group(6, *behind(bridge("0000:00:06.0", group=6), nic("0000:0a:00.0", group=6)))
    assert finding.verdict is Verdict.PASS
    assert "driver pcieport, bridge" in texts(finding)


def test_a_clean_group_on_a_host_driver_is_clean_and_says_what_keeps_it_from_a_vm() -> None:
    finding = group(14, nic("0000:01:00.0", group=14, driver="e1000e", device=0x10D3))
    assert finding.code == "GROUP_CLEAN"
    assert "viable now: no: 0000:01:00.0 on e1000e" in texts(finding)


def test_a_dummy_host_bridge_only_routes() -> None:
    dummy = function("0000:00:03.0", class_code=0x060000, driver="", group=1)
    assert group(1, dummy, nic("0000:01:00.0")).code == "GROUP_CLEAN"
    driven = replace(dummy, driver="skx_uncore")
    assert group(1, driven, nic("0000:01:00.0")).code == "GROUP_NOT_VIABLE"


def test_helpers_of_the_same_slot_belong_to_the_device() -> None:
    usb = function("0000:00:14.0", class_code=0x0C0330)
    memory = function("0000:00:14.2", class_code=0x050000, driver="")
    assert group(1, usb, memory).code == "GROUP_CLEAN"
    elsewhere = function("0000:00:15.2", class_code=0x050000, driver="")
    assert group(1, usb, elsewhere).code == "GROUP_DIRTY"


def test_groups_without_anything_to_assign_are_left_out() -> None:
    host = make_host(PORT, function("0000:00:00.0", class_code=0x060000, group=5, driver=""))
    assert [(f.subject, f.code) for f in judge(host)] == [("node", "NO_DEVICES")]


# --- dirty ---------------------------------------------------------------------------------------


def test_two_slots_in_one_group_are_dirty() -> None:
    finding = group(1, nic("0000:01:00.0"), nvme("0000:02:00.0"))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "GROUP_DIRTY")
    assert "0000:01:00, 0000:02:00" in finding.meaning


def test_chipset_functions_are_the_platforms_own() -> None:
    """Group 13 of the lab's host: ISA bridge, AHCI and SMBus in one slot."""
    finding = group(
        13,
        function("0000:00:1f.0", class_code=0x060100, group=13, driver=""),
        function("0000:00:1f.2", class_code=0x010601, group=13, driver="ahci", device=0x2922),
        function("0000:00:1f.3", class_code=0x0C0500, group=13, driver=""),
    )
    assert (finding.code, finding.intended) == ("GROUP_DIRTY", False)
    assert "0000:00:1f.0 [0601], 0000:00:1f.3 [0c05]" in finding.meaning


def test_vfs_in_the_group_of_their_pf_are_dirty() -> None:
    owner = nic("0000:03:00.0", sriov_total_vfs=7, sriov_num_vfs=1, driver="igb")
    beside = virtual_function(owner, "0000:03:00.1", 0, group=1)
    assert group(1, owner, beside).code == "GROUP_DIRTY"
    unclear = unread(beside, "physfn")
    assert group(1, owner, unclear).verdict in (Verdict.UNKNOWN, Verdict.FAIL)
    assert group(1, nic("0000:03:00.0"), unread(nic("0000:03:00.1"), "physfn")).verdict is (
        Verdict.UNKNOWN
    )


def test_a_dirty_group_with_a_spoiling_bridge_says_both() -> None:
    finding = group(20, *legacy_pair("shpchp", "vfio-pci", "vfio-pci"))
    assert finding.code == "GROUP_DIRTY"
    assert "not viable" in finding.meaning
    assert "0000:08:00.0 on shpchp" in finding.meaning
    assert "echo 0000:08:00.0 | sudo tee /sys/bus/pci/drivers/shpchp/unbind" in finding.decision
    assert "viable now: no: 0000:08:00.0 on shpchp" in texts(finding)


def test_unbinding_the_bridge_makes_it_viable_and_leaves_it_dirty() -> None:
    finding = group(20, *legacy_pair("", "vfio-pci", "vfio-pci"))
    assert finding.code == "GROUP_DIRTY"
    assert "viable now: yes" in texts(finding)
    assert "unbind" not in finding.decision


# --- viability -----------------------------------------------------------------------------------


def test_a_bridge_on_a_host_driver_spoils_an_otherwise_clean_group() -> None:
    finding = group(20, *legacy_pair("shpchp", "vfio-pci"))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "GROUP_BRIDGE_SPOILS")
    assert "shpchp/unbind" in finding.decision


def test_before_5_19_bridges_were_exempt() -> None:
    assert group(20, *legacy_pair("shpchp", "vfio-pci"), kernel=OLD).code == "GROUP_CLEAN"
    unknown = Kernel(None, None, "x86_64")
    finding = group(20, *legacy_pair("shpchp", "vfio-pci"), kernel=unknown)
    assert finding.verdict is Verdict.UNKNOWN
    assert "uname -r" in commands(finding)


@pytest.mark.parametrize("driver", ["", "pcieport", "pci-stub", "vfio-pci"])
def test_bridges_on_these_are_harmless(driver: str) -> None:
    assert group(20, *legacy_pair(driver, "vfio-pci")).code == "GROUP_CLEAN"


def test_half_bound_groups_are_not_viable() -> None:
    finding = group(1, gpu("0000:01:00.0"), audio("0000:01:00.1", driver="snd_hda_intel"))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "GROUP_NOT_VIABLE")
    assert "sudo driverctl set-override 0000:01:00.1 vfio-pci" in finding.decision


HALF = (gpu("0000:01:00.0"), audio("0000:01:00.1", driver="snd_hda_intel"))
"""The hypervisor has bound one function of it, or has given one back."""


@pytest.mark.parametrize("written", ["0000:01:00", "0000:01:00.0 0000:01:00.1"])
def test_what_a_hypervisor_takes_at_the_start_spoils_nothing_before(written: str) -> None:
    vm = make_vm(*(make_device(address) for address in written.split()))
    host = make_host(*HALF, vms=(vm,))
    finding = find(judge(host), "group:1")
    assert (finding.verdict, finding.code) == (Verdict.PASS, "GROUP_CLEAN")
    assert any("no: 0000:01:00.1 on snd_hda_intel" in row.text for row in finding.evidence)
    binding = find(driver_binding.judge(host), "function:0000:01:00.1")
    assert binding.code == "BINDING_DEFERRED"


def test_what_a_hypervisor_may_not_take_spoils_the_group() -> None:
    whole, half = make_vm(make_device("0000:01:00")), make_vm(make_device("0000:01:00.0"))
    other = replace(half, name="102")
    unmanaged = make_vm(replace(make_device("0000:01:00"), managed=False))
    for vms in ((half,), (whole, other), (unmanaged,), ()):
        finding = find(judge(make_host(*HALF, vms=vms)), "group:1")
        assert finding.code == "GROUP_NOT_VIABLE"
    needed = nic("0000:01:00.1", driver="igb")
    carries = NetDevice("eth0", Address("0000:01:00.1"), "", (), (), ("10.0.0.1/24",), ("default",))
    host = make_host(nic("0000:01:00.0"), needed, network=(carries,), vms=(whole,))
    assert find(judge(host), "group:1").code == "GROUP_NOT_VIABLE"


# --- artificial ----------------------------------------------------------------------------------


def test_override_with_a_hop_that_lacks_acs_is_artificial() -> None:
    port = bridge("0000:00:01.0", group=0, acs=None)
    finding = group(1, *behind(port, nic("0000:01:00.0")), cmdline=OVERRIDE)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "ACS_OVERRIDE")
    assert "--allow acs-override" in finding.decision
    assert "0000:00:01.0: no ACS capability" in texts(finding)


def test_override_is_harmless_where_every_hop_has_acs() -> None:
    assert group(1, *behind(PORT, nic("0000:01:00.0")), cmdline=OVERRIDE).code == "GROUP_CLEAN"


def test_unreadable_acs_counts_as_lacking() -> None:
    port = bridge("0000:00:01.0", group=0)
    assert port.config is not None
    short = replace(port, config=replace(port.config, acs=None, extended=None, length=256))
    assert group(1, *behind(short, nic("0000:01:00.0")), cmdline=OVERRIDE).code == "ACS_OVERRIDE"
    dark = unread(port, "config")
    assert group(1, *behind(dark, nic("0000:01:00.0")), cmdline=OVERRIDE).code == "ACS_OVERRIDE"
    alone = replace(nic("0000:01:00.0"), parent=port.address)
    assert group(1, alone, cmdline=OVERRIDE).code == "ACS_OVERRIDE"


def test_multifunction_endpoints_need_acs_of_their_own() -> None:
    assert group(1, *CARD, cmdline=OVERRIDE).code == "ACS_OVERRIDE"


def test_the_kernels_warning_is_as_good_as_the_command_line() -> None:
    log = make_log(
        "Warning: PCIe ACS overrides enabled; This may allow non-IOMMU protected p2p DMA"
    )
    port = bridge("0000:00:01.0", group=0, acs=None)
    finding = group(1, *behind(port, nic("0000:01:00.0")), kernel_log=log)
    assert finding.code == "ACS_OVERRIDE"


def test_without_command_line_and_log_isolation_is_proved_by_acs_or_not_at_all() -> None:
    port = bridge("0000:00:01.0", group=0, acs=None)
    dark: dict[str, Any] = {"cmdline": None, "kernel_log": None}
    finding = group(1, *behind(port, nic("0000:01:00.0")), **dark)
    assert finding.verdict is Verdict.UNKNOWN
    assert "cat /proc/cmdline" in commands(finding)
    assert group(1, *behind(PORT, nic("0000:01:00.0")), **dark).code == "GROUP_CLEAN"


# --- not known -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "command"),
    [
        ("config", "sudo lspci -xxxx -s 0000:01:00.1"),
        ("class_code", "lspci -nn -s 0000:01:00.1"),
        ("driver", "lspci -k -s 0000:01:00.1"),
    ],
)
def test_an_unread_member_is_never_clean(field: str, command: str) -> None:
    member = unread(audio("0000:01:00.1", vfio_device=None), field)
    finding = group(1, *behind(PORT, gpu("0000:01:00.0"), member))
    assert finding.verdict is Verdict.UNKNOWN
    assert command in commands(finding)


def test_a_member_that_is_no_pci_function_is_not_judged_harmless() -> None:
    groups = tuple(
        replace(g, members=(*g.members, "fd000000.dma")) for g in make_groups([nic("0000:01:00.0")])
    )
    finding = group(1, nic("0000:01:00.0"), groups=groups)
    assert finding.verdict is Verdict.UNKNOWN
    assert "fd000000.dma" in texts(finding)


def test_a_function_that_may_be_in_any_group() -> None:
    lost = unread(nvme("0000:02:00.0"), "group")
    driven = nic("0000:01:00.0", driver="igb")
    assert group(1, driven, groups=None).code == "GROUP_CLEAN"
    findings = judge(make_host(driven, lost, groups=None))
    assert find(findings).code == "GROUP_UNKNOWN"
    assert find(findings, "group:1").verdict is Verdict.UNKNOWN
    listed = make_groups([nic("0000:01:00.0"), nvme("0000:02:00.0", group=2)])
    findings = judge(make_host(nic("0000:01:00.0"), lost, groups=listed))
    assert {f.subject: f.code for f in findings} == {
        "group:1": "GROUP_CLEAN",
        "group:2": "GROUP_CLEAN",
    }


def test_no_iommu_mode_is_a_failure_and_an_unread_name_is_unknown() -> None:
    card = nic("0000:01:00.0")
    assert group(1, card, groups=make_groups([card], name="vfio-noiommu")).code == "NOIOMMU_GROUP"
    unnamed = make_groups([card], name=None, type=None)
    assert group(1, card, groups=unnamed).verdict is Verdict.UNKNOWN


def test_no_inventory() -> None:
    finding = find(judge(make_host(functions=None)))
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "INVENTORY_UNKNOWN")
    assert judge(make_host(nic("0000:01:00.0", group=NO_GROUP)))[0].subject == "node"


def test_what_is_advised_of_a_mate_is_what_driver_binding_says() -> None:
    """What `driver-binding` forbids this check does not advise."""
    mate = nic("0000:01:00.1", driver="igb")
    carries = NetDevice("eth0", Address("0000:01:00.1"), "", (), (), ("10.0.0.1/24",), ("default",))
    host = make_host(nic("0000:01:00.0"), mate, network=(carries,))
    finding = find(judge(host), "group:1")
    assert finding.code == "GROUP_NOT_VIABLE"
    assert "set-override" not in finding.decision
    assert "Do not bind the rest of the group" in finding.decision
    assert "eth0 carries 10.0.0.1/24" in finding.decision
    binding = find(driver_binding.judge(host), "function:0000:01:00.1")
    assert binding.decision.startswith("Do not bind it")
    doubted = make_host(nic("0000:01:00.0"), mate, network=None)
    assert "First find out" in find(judge(doubted), "group:1").decision
