"""`reset-capability`: function, slot, weak, none; and nothing promised that was not read."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    audio,
    behind,
    bridge,
    config_space,
    function,
    gpu,
    make_host,
    make_log,
    nic,
    unread,
    virtual_function,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.reset_capability import RESET_DISABLED, judge
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import NO_GROUP, Kernel, PciFunction
from vfio_contract.units import BROKEN_FLR

PORT = bridge("0000:00:07.0", group=7)
CARD = behind(PORT, gpu("0000:0b:00.0", group=21), audio("0000:0b:00.1", group=21))
OLD = Kernel("5.10.0-28-amd64", "#1", "x86_64")
NO_FILE: dict[str, Any] = {"reset_method_file": False, "reset_methods": None}


def judged(address: str, *functions: PciFunction, **changes: Any) -> Finding:
    return find(judge(make_host(*functions, **changes)), f"function:{address}")


def lone(*methods: str, **changes: Any) -> PciFunction:
    """The only function below a port."""
    values: dict[str, Any] = {"reset_methods": methods, "config": config_space()}
    return nic("0000:01:00.0", **values | changes)


# --- function ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["device_specific", "acpi", "flr", "af_flr"])
def test_a_method_of_its_own(method: str) -> None:
    finding = judged("0000:01:00.0", lone(method, "bus"))
    assert (finding.verdict, finding.code) == (Verdict.PASS, "RESET_FUNCTION")
    assert f"reset_method: {method} bus" in texts(finding)


def test_a_vf_always_has_flr() -> None:
    owner = nic("0000:03:00.0", sriov_total_vfs=2, sriov_num_vfs=1)
    vf = virtual_function(owner, "0000:03:10.0", 0, group=9, reset_methods=None)
    assert judged("0000:03:10.0", owner, vf).code == "RESET_FUNCTION"


def test_before_5_15_capabilities_decide() -> None:
    flr = lone(config=config_space(flr=True), **NO_FILE)
    assert judged("0000:01:00.0", flr, kernel=OLD).code == "RESET_FUNCTION"
    af = lone(config=config_space(af_flr=True), **NO_FILE)
    assert judged("0000:01:00.0", af, kernel=OLD).code == "RESET_FUNCTION"


# --- slot ----------------------------------------------------------------------------------------


def test_bus_is_a_reset_of_the_slot_and_names_the_domain() -> None:
    finding = judged("0000:0b:00.0", *CARD)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "RESET_SLOT")
    assert "0000:0b:00.0 0000:0b:00.1" in finding.meaning
    assert "one VM can own them all" in finding.meaning
    assert "reset domain: below 0000:00:07.0: 0000:0b:00.0 0000:0b:00.1" in texts(finding)


def test_a_sibling_without_a_list_is_reset_with_the_first_function() -> None:
    assert judged("0000:0b:00.1", *CARD).code == "RESET_SLOT"
    unlisted = unread(CARD[2], "reset_methods", "reset_method_file")
    assert judged("0000:0b:00.1", *CARD[:2], unlisted).code == "RESET_SLOT"


def test_alone_on_its_bus() -> None:
    finding = judged("0000:01:00.0", *behind(PORT, lone("pm", "bus")))
    assert finding.code == "RESET_SLOT"
    assert finding.meaning == (
        "VFIO_DEVICE_RESET uses pm (D3hot and back), which may clear less than a VM needs. The hot "
        "reset of that bus takes nothing else along."
    )


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("bus",), "VFIO_DEVICE_RESET resets its bus."),
        (("pm", "bus"), "VFIO_DEVICE_RESET uses pm "),
    ],
)
def test_what_vfio_device_reset_would_use_is_said(methods: tuple[str, ...], words: str) -> None:
    finding = judged("0000:01:00.0", *behind(PORT, lone(*methods)))
    assert finding.code == "RESET_SLOT"
    assert finding.meaning.startswith(words)


def test_bus_beside_a_sibling_is_no_reset_of_the_function() -> None:
    for address in ("0000:0b:00.0", "0000:0b:00.1"):
        finding = judged(address, *CARD)
        assert finding.meaning.startswith("VFIO_DEVICE_RESET is refused")
        assert "takes along 0000:0b:00.0 0000:0b:00.1" in finding.meaning


@pytest.mark.parametrize(
    ("vendor", "device"), [(0x1B21, 0x1164), (0x168C, 0x003E), (0x10DE, 0x2342), (0x10DE, 0x1EB8)]
)
def test_a_device_that_does_not_survive_a_bus_reset(vendor: int, device: int) -> None:
    """Kernels that do not know it yet list `bus` for it."""
    card = behind(PORT, lone("bus", vendor=vendor, device=device))
    finding = judged("0000:01:00.0", *card)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_QUIRK")
    assert "may not survive it" in finding.meaning
    old = behind(PORT, lone(vendor=vendor, device=device, **NO_FILE))
    assert judged("0000:01:00.0", *old, kernel=OLD).code != "RESET_SLOT"


def test_a_kernel_that_uses_a_broken_flr() -> None:
    card = lone("flr", "bus", vendor=0x1022, device=0x7901)
    finding = judged("0000:01:00.0", card)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_QUIRK")
    assert "newer kernel" in finding.decision
    fixed = lone("device_specific", "flr", vendor=0x1022, device=0x7901)
    assert judged("0000:01:00.0", fixed).code == "RESET_FUNCTION"


def test_a_list_without_bus_means_that_the_bus_refuses() -> None:
    assert judged("0000:01:00.0", *behind(PORT, lone("pm"))).code == "RESET_WEAK"
    finding = judged("0000:01:00.0", *behind(PORT, lone(reset_method_file=False)))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "RESET_NONE")


def test_a_domain_that_no_vm_can_own_is_a_failure() -> None:
    below = bridge("0000:0b:01.0", group=8)
    finding = judged("0000:0b:00.0", *behind(PORT, CARD[1], below))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "RESET_SHARED")
    assert "not ownable: 0000:0b:01.0" in texts(finding)
    adrift = replace(CARD[2], group=NO_GROUP)
    assert judged("0000:0b:00.0", *CARD[:2], adrift).code == "RESET_SHARED"
    unclear = unread(CARD[2], "group")
    assert judged("0000:0b:00.0", *CARD[:2], unclear, groups=None).verdict is Verdict.UNKNOWN


def test_a_function_without_a_group_is_no_blocker_of_its_own_reset() -> None:
    card = behind(PORT, lone("bus", group=NO_GROUP))
    assert judged("0000:01:00.0", *card, nic("0000:09:00.0")).code == "RESET_SLOT"


def test_before_5_15_topology_decides() -> None:
    card = behind(PORT, lone(**{"config": config_space()} | NO_FILE))
    assert judged("0000:01:00.0", *card, kernel=OLD).code == "RESET_SLOT"
    assert judged("0000:01:00.0", *card).verdict is Verdict.UNKNOWN


# --- weak and none -------------------------------------------------------------------------------


def test_on_the_root_bus_there_is_no_hot_reset() -> None:
    weak = judged("0000:01:00.0", lone("pm", "bus"))
    assert (weak.verdict, weak.code) == (Verdict.WARN, "RESET_WEAK")
    none = judged("0000:01:00.0", lone("bus"))
    assert (none.verdict, none.code) == (Verdict.FAIL, "RESET_NONE")


def test_before_5_15_power_management_needs_no_soft_reset_minus() -> None:
    weak = lone(config=config_space(pm_no_soft_reset=False), **NO_FILE)
    assert judged("0000:01:00.0", weak, kernel=OLD).code == "RESET_WEAK"
    none = lone(reset_file=False, **NO_FILE)
    assert judged("0000:01:00.0", none, kernel=OLD).code == "RESET_NONE"
    other = lone(reset_file=True, **NO_FILE)
    assert judged("0000:01:00.0", other, kernel=OLD).verdict is Verdict.UNKNOWN


def test_switched_off_by_hand() -> None:
    finding = judged("0000:01:00.0", *behind(PORT, lone()))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "RESET_DISABLED")
    assert "echo default | sudo tee" in finding.decision
    assert "hot reset of all below" in finding.meaning
    on_root = judged("0000:01:00.0", replace(lone(), parent=Address("")))
    assert "Below a root bus" in on_root.meaning
    unread = judged("0000:01:00.0", replace(lone(), parent=None))
    assert (unread.code, unread.meaning) == ("RESET_DISABLED", RESET_DISABLED.meaning)


def test_a_list_that_was_made_anew_is_not_switched_off() -> None:
    """`echo default` on a card whose siblings appeared meanwhile leaves an empty list [lab]."""
    emptied = replace(CARD[1], reset_methods=())
    for address in ("0000:0b:00.0", "0000:0b:00.1"):
        assert judged(address, PORT, emptied, CARD[2]).code == "RESET_SLOT"
    line = "vfio-pci 0000:0b:00.0: All device reset methods disabled by user"
    for log in (make_log(line), make_log("something", complete=False), None):
        functions = (PORT, emptied, CARD[2])
        assert judged("0000:0b:00.0", *functions, kernel_log=log).code == "RESET_DISABLED"
        assert judged("0000:0b:00.1", *functions, kernel_log=log).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("vendor", "device"), sorted(BROKEN_FLR))
def test_devices_with_broken_flr(vendor: int, device: int) -> None:
    ids = {"vendor": vendor, "device": device, "config": config_space(flr=True)}
    finding = judged("0000:01:00.0", *behind(PORT, lone("bus", **ids)))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_QUIRK")
    finding = judged("0000:01:00.0", *behind(PORT, lone(**ids | NO_FILE)), kernel=OLD)
    assert finding.code == "RESET_QUIRK"


# --- not known -----------------------------------------------------------------------------------


def test_dead_functions_are_unknown() -> None:
    dead = lone("flr", config=config_space(dead=True))
    finding = judged("0000:01:00.0", dead)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "RESET_UNKNOWN")
    assert "all ones" in finding.meaning


def test_short_configs_without_a_list_are_unknown() -> None:
    short = config_space(
        length=64, capabilities=None, extended=None, pcie=None, pm_no_soft_reset=None
    )
    finding = judged("0000:01:00.0", lone(**{"config": short} | NO_FILE), kernel=OLD)
    assert finding.verdict is Verdict.UNKNOWN
    assert "sudo lspci -xxxx -s 0000:01:00.0" in commands(finding)
    assert judged("0000:01:00.0", lone("flr", config=short)).verdict is Verdict.PASS


def test_the_kernels_list_is_not_replaced_by_what_the_device_claims() -> None:
    """A running host whose list could not be read: FLR may be quirked or switched off."""
    claims = unread(lone(config=config_space(flr=True)), "reset_methods")
    assert judged("0000:01:00.0", claims).verdict is Verdict.UNKNOWN
    captured = unread(claims, "reset_method_file")
    assert judged("0000:01:00.0", captured, live=False).code == "RESET_FUNCTION"


@pytest.mark.parametrize("field", ["config", "parent"])
def test_unread_evidence(field: str) -> None:
    assert judged("0000:01:00.0", unread(lone("bus"), field)).verdict is Verdict.UNKNOWN


def test_platform_functions_and_bridges_are_not_judged() -> None:
    smbus = function("0000:00:1f.3", class_code=0x0C0500, driver="")
    assert [f.code for f in judge(make_host(PORT, smbus))] == ["NO_DEVICES"]
    assert find(judge(make_host(functions=None))).verdict is Verdict.UNKNOWN
