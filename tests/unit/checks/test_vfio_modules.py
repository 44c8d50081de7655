"""`vfio-modules`: loaded, and before the host driver."""

from typing import Any

import pytest

from tests.fakes.snapshots import MODULES, make_host, nic, silent_host, unread
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.vfio_modules import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Intent, Module, ModuleRule, PciFunction

CARD = nic("0000:01:00.0")
FREE = nic("0000:01:00.0", driver="igb")
SOFTDEP = ModuleRule("softdep", "igb", "vfio_pci", "/etc/modprobe.d/vfio.conf:2")
BY_ADDRESS = (Intent("driverctl", "0000:01:00.0", "driverctl.d/pci-0000:01:00.0"),)


def judged(card: PciFunction = CARD, **changes: Any) -> Finding:
    return find(judge(make_host(card, **changes)))


def without(*names: str) -> tuple[Module, ...]:
    return tuple(m for m in MODULES if m.name not in names)


def test_loaded_and_early() -> None:
    finding = judged()
    assert (finding.verdict, finding.code) == (Verdict.PASS, "VFIO_READY")
    assert "initramfs vfio_pci" in texts(finding)


@pytest.mark.parametrize("name", ["vfio", "vfio_pci", "vfio_iommu_type1"])
def test_a_part_is_missing(name: str) -> None:
    finding = judged(modules=without(name))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VFIO_MISSING")
    assert f"lacks {name}" in texts(finding)


def test_iommufd_does_instead_of_type1_and_virqfd_is_never_missed() -> None:
    modules = (*without("vfio_iommu_type1"), Module("iommufd", ()))
    assert judged(modules=modules).code == "VFIO_READY"


def test_nobody_needs_it() -> None:
    finding = judged(FREE, modules=without("vfio", "vfio_pci"))
    assert (finding.verdict, finding.code) == (Verdict.NOT_APPLICABLE, "VFIO_NOT_NEEDED")
    assert judged(unread(FREE, "driver"), modules=(), intents=()).verdict is Verdict.UNKNOWN


def test_ids_without_an_early_load_are_a_race() -> None:
    assert judged(module_rules=()).code == "VFIO_RACE"
    assert judged(module_rules=(SOFTDEP,)).code == "VFIO_READY"
    ids = (Intent("vfio-ids", "8086:10c9", "kernel command line"),)
    early = "rd.driver.pre=vfio-pci"
    assert judged(module_rules=(), intents=ids, cmdline=early).code == "VFIO_READY"


def test_a_host_driver_that_won_needs_its_own_softdep() -> None:
    ids = (Intent("vfio-ids", "8086:10c9", "modprobe.d/vfio.conf:1"),)
    other = ModuleRule("softdep", "nvme", "vfio_pci", "/etc/modprobe.d/vfio.conf:2")
    assert judged(FREE, intents=ids, module_rules=(other,)).code == "VFIO_RACE"
    assert judged(FREE, intents=ids, module_rules=(SOFTDEP,)).code == "VFIO_READY"


def test_binding_by_address_has_no_race() -> None:
    assert judged(intents=BY_ADDRESS, module_rules=()).code == "VFIO_READY"


def test_a_blacklisted_module() -> None:
    for rule in (
        ModuleRule("blacklist", "vfio_pci", "", "/etc/modprobe.d/x.conf:1"),
        ModuleRule("install", "vfio", "/bin/false", "/etc/modprobe.d/x.conf:1"),
    ):
        assert judged(module_rules=(rule,)).code == "VFIO_FORBIDDEN"
    loads = ModuleRule("install", "vfio", "/sbin/modprobe --ignore-install vfio", "x:1")
    assert judged(module_rules=(loads, SOFTDEP)).code == "VFIO_READY"


@pytest.mark.parametrize("name", ["modules", "module_rules", "intents", "functions"])
def test_unread(name: str) -> None:
    changes: dict[str, Any] = {name: None}
    finding = judged(**changes)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "VFIO_UNKNOWN")
    assert commands(finding)


def test_nothing_read() -> None:
    assert find(judge(silent_host())).verdict is Verdict.UNKNOWN
