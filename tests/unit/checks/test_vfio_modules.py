"""`vfio-modules`: loaded, and before the host driver."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import MODULES, gpu, make_host, nic, silent_host, unread
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.vfio_modules import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Gap, Initramfs, Intent, Module, ModuleRule, PciFunction

CARD = nic("0000:01:00.0")
FREE = nic("0000:01:00.0", driver="igb")
IDS = (Intent("vfio-ids", "8086:10c9", "modprobe.d/vfio.conf:1"),)
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
    finding = judged(FREE, modules=without(name), intents=IDS)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VFIO_MISSING")
    assert f"lacks {name}" in texts(finding)


def test_a_part_that_may_be_built_in_is_not_missing_but_unknown() -> None:
    gap = Gap("/lib/modules/*/modules.builtin", 0, "not read", "grep vfio modules.builtin")
    finding = judged(FREE, modules=without("vfio"), intents=IDS, gaps=(gap,))
    assert finding.verdict is Verdict.UNKNOWN
    assert commands(finding) == ["grep vfio modules.builtin"]
    # a bound device proves what no list shows
    assert judged(modules=without("vfio", "vfio_pci")).code == "VFIO_READY"


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


def test_loading_at_boot_is_enough_only_while_it_wins() -> None:
    load = (ModuleRule("load", "vfio_pci", "", "/etc/modules:1"),)
    assert judged(module_rules=load).code == "VFIO_READY"
    assert judged(FREE, intents=IDS, module_rules=load).code == "VFIO_RACE"


def test_an_initramfs_older_than_what_is_written() -> None:
    image = Initramfs("/boot/initrd.img-6.12.0-1-amd64", ("/etc/modprobe.d/vfio.conf",))
    finding = judged(initramfs=image)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "INITRAMFS_STALE")
    assert "/etc/modprobe.d/vfio.conf: changed after /boot/initrd.img" in texts(finding)
    assert "update-initramfs -u" in finding.decision
    # it does not matter to devices that are bound by address
    assert judged(initramfs=image, intents=BY_ADDRESS).code == "VFIO_READY"


def test_an_initramfs_of_unknown_age_and_none_at_all() -> None:
    finding = judged(initramfs=None)
    assert finding.verdict is Verdict.UNKNOWN
    assert "ls -l /boot" in commands(finding)[0]
    assert judged(initramfs=None, intents=BY_ADDRESS).code == "VFIO_READY"
    assert judged(initramfs=Initramfs("", ())).code == "VFIO_READY"


def test_a_built_in_vfio_pci_does_not_read_modprobe_d() -> None:
    modules = tuple(replace(m, builtin=m.name.startswith("vfio")) for m in MODULES)
    finding = judged(FREE, modules=modules, intents=IDS)
    assert finding.code == "VFIO_RACE"
    assert "vfio-pci.ids=" in finding.decision
    at_boot = (Intent("vfio-ids", "8086:10c9", "kernel command line"),)
    assert judged(FREE, modules=modules, intents=at_boot, module_rules=()).code == "VFIO_READY"


def test_a_host_driver_that_won_needs_its_own_softdep() -> None:
    ids = IDS
    other = ModuleRule("softdep", "nvme", "vfio_pci", "/etc/modprobe.d/vfio.conf:2")
    assert judged(FREE, intents=ids, module_rules=(other,)).code == "VFIO_RACE"
    assert judged(FREE, intents=ids, module_rules=(SOFTDEP,)).code == "VFIO_READY"


def test_binding_by_address_has_no_race() -> None:
    assert judged(intents=BY_ADDRESS, module_rules=()).code == "VFIO_READY"


def test_no_iommu_mode_is_told_even_where_nobody_uses_it() -> None:
    on = Module("vfio", (("enable_unsafe_noiommu_mode", "Y"),))
    finding = judged(modules=(*without("vfio"), on))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "VFIO_NOIOMMU")
    rule = ModuleRule("options", "vfio", "enable_unsafe_noiommu_mode=1", "/etc/modprobe.d/x.conf:1")
    assert judged(module_rules=(rule, SOFTDEP)).code == "VFIO_NOIOMMU"
    assert judged(cmdline="ro vfio.enable_unsafe_noiommu_mode=1").code == "VFIO_NOIOMMU"
    off = Module("vfio", (("enable_unsafe_noiommu_mode", "N"),))
    assert judged(modules=(*without("vfio"), off)).code == "VFIO_READY"


def test_a_blacklisted_module() -> None:
    for rule in (
        ModuleRule("blacklist", "vfio_pci", "", "/etc/modprobe.d/x.conf:1"),
        ModuleRule("install", "vfio", "/bin/false", "/etc/modprobe.d/x.conf:1"),
    ):
        assert judged(module_rules=(rule,)).code == "VFIO_FORBIDDEN"
    assert judged(cmdline="quiet modprobe.blacklist=nouveau,vfio-pci").code == "VFIO_FORBIDDEN"
    assert judged(cmdline="quiet modprobe.blacklist=nouveau").code == "VFIO_READY"
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


@pytest.mark.parametrize(
    ("kind", "value"), [("blacklist", ""), ("install", "/bin/false"), ("install", "/bin/true")]
)
def test_a_driver_that_is_kept_out_wins_no_race(kind: str, value: str) -> None:
    rule = ModuleRule(kind, "igb", value, "/etc/modprobe.d/vfio.conf:2")
    finding = judged(FREE, intents=IDS, module_rules=(rule,))
    assert finding.code == "VFIO_READY"
    assert f"{kind} igb" in texts(finding)
    other = replace(rule, module="nvme")
    assert judged(FREE, intents=IDS, module_rules=(other,)).code == "VFIO_RACE"
    builtin = (*MODULES, Module("igb", (), builtin=True))
    assert judged(FREE, intents=IDS, module_rules=(rule,), modules=builtin).code == "VFIO_RACE"


def test_a_driver_that_the_command_line_keeps_out() -> None:
    line = "ro modprobe.blacklist=nouveau,igb"
    assert judged(FREE, intents=IDS, module_rules=(), cmdline=line).code == "VFIO_READY"


def test_all_drivers_of_a_gpu_must_be_kept_out() -> None:
    card = gpu("0000:01:00.0", vendor=0x10DE, device=0x2204)
    ids = (Intent("vfio-ids", "10de:2204", "modprobe.d/vfio.conf:1"),)
    rules = tuple(
        ModuleRule("blacklist", name, "", "/etc/modprobe.d/b.conf:1")
        for name in ("nouveau", "nvidia")
    )
    assert judged(card, intents=ids, module_rules=rules).code == "VFIO_READY"
    assert judged(card, intents=ids, module_rules=rules[:1]).code == "VFIO_RACE"
