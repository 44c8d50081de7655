"""`interrupt-remapping`: chips first, then the log; no evidence on x86 is UNKNOWN."""

from typing import Any

import pytest

from tests.fakes.snapshots import MODULES, make_host, make_log, nic, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.interrupt_remapping import judge
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import Cpu, Kernel, Module, ModuleRule

NIC = nic("0000:01:00.0")
ARM = Kernel("6.12.0", "#1", "aarch64")


def host(
    *lines: str, chips: tuple[str, ...] | None = None, complete: bool = True, **changes: Any
) -> Host:
    log = make_log(*lines, complete=complete, cmdline=changes.get("cmdline") or "ro quiet")
    return make_host(NIC, kernel_log=log, interrupt_chips=chips, **changes)


def unsafe(value: str) -> tuple[Module, ...]:
    rest = tuple(m for m in MODULES if m.name != "vfio_iommu_type1")
    return (*rest, Module("vfio_iommu_type1", (("allow_unsafe_interrupts", value),)))


@pytest.mark.parametrize("chip", ["IR-IO-APIC", "IR-PCI-MSI", "vIR-IO-APIC", "IR-PCI-MSIX"])
def test_a_remapped_chip_proves_it_when_the_log_has_rolled_over(chip: str) -> None:
    finding = find(judge(host(chips=(chip, "DMAR-MSI"), complete=False)))
    assert (finding.verdict, finding.code) == (Verdict.PASS, "IRQ_REMAP_ON")
    assert chip in texts(finding)


def test_a_plain_io_apic_is_off() -> None:
    finding = find(judge(host(chips=("IO-APIC", "DMAR-MSI", "PCI-MSI"))))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "IRQ_REMAP_OFF")


def test_a_guest_is_told_what_its_hypervisor_must_do() -> None:
    guest = host(chips=("IO-APIC",), cpu=Cpu("GenuineIntel", "Xeon", ("vmx", "hypervisor")))
    assert "intremap=on" in find(judge(guest)).decision


def test_amds_own_msi_is_no_sign_of_anything() -> None:
    assert find(judge(host(chips=("PCI-MSI", "DMAR-MSI")))).verdict is Verdict.UNKNOWN
    on = host(chips=("IR-IO-APIC", "PCI-MSI"))
    assert find(judge(on)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("DMAR-IR: Enabled IRQ remapping in x2apic mode", Verdict.PASS),
        ("DMAR-IR: Enabled IRQ remapping in xapic mode", Verdict.PASS),
        ("AMD-Vi: Interrupt remapping enabled", Verdict.PASS),
        (
            "DMAR-IR: Failed to enable irq remapping. You are vulnerable to irq-injection attacks.",
            Verdict.FAIL,
        ),
        ("AMD-Vi: Disabling interrupt remapping", Verdict.FAIL),
        (
            "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param",
            Verdict.FAIL,
        ),
        ("x2apic: IRQ remapping doesn't support X2APIC mode", Verdict.UNKNOWN),
        (
            "DMAR-IR: Queued invalidation will be enabled to support x2apic and Intr-remapping.",
            Verdict.UNKNOWN,
        ),
        ("AMD-Vi: Extended features (0x4f77): PPR", Verdict.UNKNOWN),
    ],
)
def test_the_log(line: str, verdict: Verdict) -> None:
    assert find(judge(host(line))).verdict is verdict


def test_chips_of_the_running_host_beat_the_log() -> None:
    finding = find(judge(host("AMD-Vi: Interrupt remapping enabled", chips=("IO-APIC",))))
    assert finding.verdict is Verdict.FAIL


def test_switched_off_on_the_command_line() -> None:
    finding = find(judge(host(cmdline="ro intremap=off")))
    assert finding.code == "IRQ_REMAP_OFF"
    assert "intremap=off" in texts(finding)


def test_nosid_is_weak() -> None:
    finding = find(judge(host(chips=("IR-IO-APIC",), cmdline="ro intremap=nosid")))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "IRQ_REMAP_WEAK")


@pytest.mark.parametrize("value", ["Y", "1"])
@pytest.mark.parametrize("chip", ["IO-APIC", "IR-IO-APIC"])
def test_unsafe_interrupts_warn_either_way(value: str, chip: str) -> None:
    finding = find(judge(host(chips=(chip,), modules=unsafe(value))))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "UNSAFE_INTERRUPTS")
    assert "--allow unsafe-interrupts" in finding.decision


def test_unsafe_interrupts_that_are_only_configured() -> None:
    rule = ModuleRule("options", "iommufd", "allow_unsafe_interrupts=1", "/etc/modprobe.d/x.conf:3")
    finding = find(judge(host(module_rules=(rule,), chips=("IR-IO-APIC",))))
    assert finding.code == "UNSAFE_INTERRUPTS"
    assert "/etc/modprobe.d/x.conf:3: options iommufd" in texts(finding)
    off = ModuleRule("options", "iommufd", "allow_unsafe_interrupts=0", "x:1")
    assert find(judge(host(module_rules=(off,), chips=("IR-IO-APIC",)))).verdict is Verdict.PASS
    line = "ro iommufd.allow_unsafe_interrupts"
    assert find(judge(host(cmdline=line, chips=("IR-IO-APIC",)))).code == "UNSAFE_INTERRUPTS"
    unread = find(judge(host(module_rules=None, chips=("IR-IO-APIC",))))
    assert commands(unread) == ["grep -rn allow_unsafe_interrupts /etc/modprobe.d"]


def test_unsafe_interrupts_on_arm_warn_too() -> None:
    rule = ModuleRule("options", "vfio_iommu_type1", "allow_unsafe_interrupts", "x:1")
    line = "GICv2m: range[mem 0x08020000], SPI[80:143]"
    assert find(judge(host(line, kernel=ARM, module_rules=(rule,)))).code == "UNSAFE_INTERRUPTS"


def test_unsafe_interrupts_do_not_turn_unknown_into_a_warning() -> None:
    assert find(judge(host(modules=unsafe("Y")))).verdict is Verdict.UNKNOWN
    assert find(judge(host(chips=("IO-APIC",), modules=unsafe("N")))).verdict is Verdict.FAIL


def test_no_evidence_on_x86_is_unknown_even_with_a_complete_log() -> None:
    finding = find(judge(host()))
    assert finding.verdict is Verdict.UNKNOWN
    assert "grep -e IR- -e IO-APIC /proc/interrupts" in commands(finding)


def test_unread_switches_of_a_running_host_are_unknown_but_a_bare_log_decides() -> None:
    line = "DMAR-IR: Enabled IRQ remapping in x2apic mode"
    assert find(judge(host(line, modules=None))).verdict is Verdict.UNKNOWN
    assert find(judge(host(line, modules=None, live=False))).verdict is Verdict.PASS


def test_nothing_read() -> None:
    assert find(judge(silent_host())).verdict is Verdict.UNKNOWN


# --- Arm and others ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "ITS@0x0000100100040000: allocated 8192 Devices @800002e0000 (indirect, esz 8, psz 64K)",
        "PCI/MSI: /interrupt-controller@6000000/gic-its@6020000 domain created",
    ],
)
def test_arm_with_an_initialised_its_passes(line: str) -> None:
    assert find(judge(host(line, kernel=ARM))).verdict is Verdict.PASS


def test_arm_with_gicv2m_only_fails() -> None:
    finding = find(judge(host("GICv2m: range[mem 0x08020000], SPI[80:143]", kernel=ARM)))
    assert finding.verdict is Verdict.FAIL
    assert "ITS" in finding.decision


def test_arm_chips_decide_too() -> None:
    assert find(judge(host(chips=("GICv3", "ITS-MSI"), kernel=ARM))).verdict is Verdict.PASS


def test_arm_without_evidence_is_not_applicable_only_if_the_log_is_whole() -> None:
    assert find(judge(host("GICv3: 480 SPIs", kernel=ARM))).verdict is Verdict.NOT_APPLICABLE
    cut = host("GICv3: 480 SPIs", kernel=ARM, complete=False)
    assert find(judge(cut)).verdict is Verdict.UNKNOWN


def test_power_has_no_such_line() -> None:
    power = Kernel("6.12.0", "#1", "ppc64le")
    finding = find(judge(host(kernel=power)))
    assert (finding.verdict, finding.code) == (
        Verdict.NOT_APPLICABLE,
        "IRQ_REMAP_NOT_APPLICABLE",
    )
