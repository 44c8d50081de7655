"""`iommu-active`: PASS only on proof, FAIL only on proof, and the cause in plain words."""

from dataclasses import fields
from typing import Any

import pytest

from tests.fakes.snapshots import (
    boot_lines,
    bridge,
    make_groups,
    make_host,
    make_log,
    nic,
    silent_host,
    unread,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.interrupt_remapping import judge as remapping
from vfio_agent.checks.iommu_active import judge
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, Cpu, Firmware, Kernel, KernelLog, LogLine, Module

NIC = nic("0000:01:00.0")
OFF = {"iommu_units": (), "groups": ()}


def log_only(*lines: str, complete: bool = True, cmdline: str = "ro quiet", **changes: Any) -> Host:
    """A host of which only the kernel log could be read."""
    known: dict[str, Any] = {
        "kernel": Kernel(None, None, None),
        "cpu": Cpu(None, None, None),
        "firmware": Firmware(*[None] * len(fields(Firmware))),
        "kernel_log": make_log(*lines, complete=complete, cmdline=cmdline),
        "interrupt_chips": None,
    }
    known |= dict.fromkeys(("cmdline", "modules", "iommu_units", "groups", "functions"))
    return make_host(**(known | changes))


def test_units_and_a_grouped_function_prove_it() -> None:
    finding = find(judge(make_host(NIC, kernel_log=None)))
    assert (finding.verdict, finding.code) == (Verdict.PASS, "IOMMU_ACTIVE")
    assert "/sys/class/iommu: dmar0" in texts(finding)


@pytest.mark.parametrize(
    "line",
    [
        "pci 0000:01:00.0: Adding to iommu group 14",
        "iommu: Adding device 0000:01:00.0 to group 14",
        "platform 5000000.dma: Adding to iommu group 3",
        "DMAR: Intel(R) Virtualization Technology for Directed I/O",
        "pci 0000:00:00.2: AMD-Vi: Found IOMMU cap 0x40",
        "AMD-Vi: Extended features (0x58f77ef22294a5a, 0x0): PPR NX GT IA",
        "arm-smmu 5000000.iommu: probing hardware configuration...",
        "arm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x000c1eff)",
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_working_driver_shows_in_the_log(line: str, complete: bool) -> None:
    assert find(judge(log_only(line, complete=complete))).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "line",
    [
        "DMAR: IOMMU enabled",
        "iommu: Default domain type: Passthrough (set via kernel command line)",
        "DMAR-IR: Enabled IRQ remapping in x2apic mode",
        "PCI-DMA: using GART IOMMU.",
        "AMD-Vi: AMD IOMMUv2 functionality not available on this system - This is not a bug.",
        "vfio-pci 0000:01:00.0: Adding to iommu group 0",
        "vfio_mdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001: Adding to iommu group 12",
        "AMD-Vi: Using global IVHD EFR:0x29d3, EFR2:0x0",
    ],
)
def test_lines_that_prove_nothing(line: str) -> None:
    assert find(judge(log_only(line))).verdict is Verdict.FAIL
    assert find(judge(log_only(line, complete=False))).verdict is Verdict.UNKNOWN


def test_a_truncated_log_is_unknown_and_asks_for_the_rest() -> None:
    finding = find(judge(log_only("DMAR-IR: Enabled IRQ remapping in x2apic mode", complete=False)))
    assert finding.code == "IOMMU_UNKNOWN"
    assert "sudo journalctl -k -b 0" in commands(finding)


def test_nothing_read_is_unknown() -> None:
    finding = find(judge(silent_host()))
    assert finding.verdict is Verdict.UNKNOWN
    assert "sudo dmesg" in commands(finding)
    assert "ls /sys/class/iommu" in commands(finding)


def test_empty_directories_of_the_running_host_beat_the_log() -> None:
    off = nic("0000:01:00.0", group=NO_GROUP)
    host = make_host(off, **OFF, kernel_log=make_log(*boot_lines([NIC])))
    assert find(judge(host)).verdict is Verdict.FAIL


def test_no_function_with_a_group_is_off_even_with_units() -> None:
    host = make_host(nic("0000:01:00.0", group=NO_GROUP), kernel_log=None, groups=None)
    assert find(judge(host)).verdict is Verdict.FAIL


def test_noiommu_groups_are_no_groups() -> None:
    groups = make_groups([NIC], name="vfio-noiommu", type="unknown")
    lines = ["vfio-pci 0000:01:00.0: Adding kernel taint for vfio-noiommu group on device"]
    finding = find(
        judge(make_host(NIC, groups=groups, iommu_units=(), kernel_log=make_log(*lines)))
    )
    assert finding.code == "IOMMU_OFF"
    assert "no-IOMMU mode" in finding.meaning


def test_a_group_whose_name_is_unread_needs_another_proof() -> None:
    unnamed = make_groups([NIC], name=None, type=None)
    assert find(judge(make_host(NIC, groups=unnamed, kernel_log=None))).verdict is Verdict.UNKNOWN
    typed = make_groups([NIC], name=None, type="DMA-FQ")
    assert find(judge(make_host(NIC, groups=typed, kernel_log=None))).verdict is Verdict.PASS
    host_driven = nic("0000:01:00.0", driver="igb")
    host = make_host(host_driven, groups=None, kernel_log=None)
    assert find(judge(host)).verdict is Verdict.PASS


@pytest.mark.parametrize("units", [(), None])
def test_groups_without_a_unit_are_half_a_proof(units: Any) -> None:
    host = make_host(NIC, iommu_units=units, kernel_log=None)
    assert find(judge(host)).verdict is Verdict.UNKNOWN
    assert find(judge(make_host(NIC, iommu_units=units))).verdict is Verdict.PASS


def test_power_needs_no_class_entries() -> None:
    power = Kernel("6.1.0", "#1", "ppc64le")
    host = make_host(NIC, kernel=power, iommu_units=(), kernel_log=None)
    assert find(judge(host)).verdict is Verdict.PASS
    empty = log_only(kernel=power, iommu_units=(), kernel_log=None)
    assert find(judge(empty)).verdict is Verdict.UNKNOWN
    silent = log_only("nothing of note", kernel=power)
    assert find(judge(silent)).verdict is Verdict.UNKNOWN


def test_arm_without_an_smmu_is_off() -> None:
    finding = find(judge(log_only("GICv3: 480 SPIs implemented")))
    assert finding.verdict is Verdict.FAIL
    assert "SMMU" in finding.decision
    assert "VT-d" not in finding.decision


# --- causes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["intel_iommu=off", "amd_iommu=off", "iommu=off"])
def test_cause_command_line(word: str) -> None:
    finding = find(judge(log_only("DMAR: IOMMU disabled", cmdline=f"ro quiet {word}")))
    assert word in finding.meaning
    assert word in finding.decision
    assert "DMAR: IOMMU disabled" in texts(finding)


def test_the_last_parameter_counts() -> None:
    host = log_only("ACPI: DMAR 0x1 000138", cmdline="intel_iommu=off intel_iommu=on")
    assert "switches it off" not in find(judge(host)).meaning


def test_cause_not_asked_for_with_interrupt_remapping_on() -> None:
    finding = find(
        judge(
            log_only(
                "ACPI: DMAR 0x000000009A51F9E8 000138 (v01 INTEL  EDK2)",
                "DMAR-IR: Enabled IRQ remapping in x2apic mode",
                interrupt_chips=("IR-IO-APIC", "IR-PCI-MSI"),
            )
        )
    )
    assert "Add intel_iommu=on" in finding.decision
    assert "interrupts are remapped, DMA is not" in texts(finding)


def test_cause_guest_without_viommu() -> None:
    finding = find(judge(log_only("Hypervisor detected: Microsoft Hyper-V")))
    assert "virtual machine" in finding.meaning
    flags = Cpu("AuthenticAMD", "EPYC", ("svm", "hypervisor"))
    assert "vIOMMU" in find(judge(log_only("nothing", cpu=flags))).decision


@pytest.mark.parametrize(
    ("lines", "named", "never"),
    [
        (["Hypervisor detected: VMware"], "Expose IOMMU to the guest OS", "qm set"),
        (["Hypervisor detected: Microsoft Hyper-V"], "Hyper-V gives Linux guests no IOMMU", "QEMU"),
        (["Hypervisor detected: KVM"], "qm set VMID -machine q35", "VMware"),
    ],
)
def test_a_guest_is_told_what_its_own_hypervisor_can(
    lines: list[str], named: str, never: str
) -> None:
    decision = find(judge(log_only(*lines, cmdline="intel_iommu=on"))).decision
    assert named in decision
    assert never not in decision


def test_wsl_passes_nothing() -> None:
    kernel = Kernel("5.18.0-rc3-microsoft-standard-WSL2", None, None)
    host = log_only("Hypervisor detected: Microsoft Hyper-V", kernel=kernel)
    assert find(judge(host)).decision.startswith("WSL 2 is a VM of Windows")


def test_cause_a_value_that_the_kernel_ignores_is_not_asked_for() -> None:
    table = "ACPI: DMAR 0x000000009A51F9E8 000138 (v01 INTEL  EDK2)"
    finding = find(judge(log_only(table, cmdline="ro intel_iommu=1")))
    assert "intel_iommu=1, a value that the kernel does not know" in texts(finding)
    assert "Add intel_iommu=on" in finding.decision


OTHERS = [
    "Linux version 5.14.0-362.el9.ppc64le (mockbuild@x) (gcc (GCC) 11.4.1) #1 SMP",
    "Linux version 5.4.0-26-generic (buildd@bos02-ppc64el-013) (gcc version 9.3.0) #30-Ubuntu",
    "Linux version 6.6.20-starfive (a@b) (riscv64-linux-gnu-gcc (Debian 13.2.0) 13.2.0) #1 SMP",
    "Linux version 5.15.0-91.s390x (a@b) (gcc) #1 SMP",
    "OPAL V3 detected !",
    "Using PowerNV machine description",
    "Using pSeries machine description",
    "SBI specification v1.0 detected",
]


def bare_log(*lines: str) -> Host:
    """Only a complete log, without the opening that x86 boots print."""
    rows = tuple(LogLine(n, float(n), text) for n, text in enumerate(lines, 1))
    held = KernelLog("dmesg", from_boot=True, reached_userspace=True, total_lines=900, lines=rows)
    return log_only(kernel_log=held)


@pytest.mark.parametrize("line", OTHERS)
def test_lines_that_x86_prints_prove_nothing_by_their_absence_elsewhere(line: str) -> None:
    host = bare_log(line, "iommu: Default domain type: Translated", "Run /init as init process")
    assert find(judge(host)).verdict is Verdict.UNKNOWN
    assert find(remapping(host)).verdict is Verdict.NOT_APPLICABLE
    assert line in texts(find(remapping(host)))


def test_no_group_on_another_platform_brings_no_advice_for_x86() -> None:
    power = Kernel("6.12.0", "#1", "ppc64le")
    finding = find(judge(log_only("nothing", complete=False, kernel=power, groups=())))
    assert finding.verdict is Verdict.FAIL
    assert "VT-d" not in finding.decision


def test_cause_xen() -> None:
    lines = ("Booting paravirtualized kernel on Xen", "AMD-Vi: Extended features (0x4f77): PPR")
    finding = find(judge(log_only(*lines)))
    assert finding.verdict is Verdict.FAIL
    assert "xen-pciback" in finding.decision


def test_cause_wrong_vendor() -> None:
    amd = Cpu("AuthenticAMD", "Ryzen", ("svm",))
    finding = find(judge(log_only("DMAR: IOMMU enabled", cmdline="intel_iommu=on", cpu=amd)))
    assert "AMD processor" in finding.meaning


def test_cause_refused_by_the_kernel() -> None:
    finding = find(judge(log_only("DMAR: No DMAR devices found", cmdline="intel_iommu=on")))
    assert "DMAR: No DMAR devices found" in texts(finding)
    assert "firmware" in finding.decision


def test_cause_no_table_and_a_gart_is_named_for_what_it_is() -> None:
    finding = find(judge(log_only("PCI-DMA: using GART IOMMU.", "smpboot: CPU0: AMD Phenom")))
    assert "shows the kernel no IOMMU" in finding.meaning
    assert "isolates nothing" in texts(finding)


# --- functions -----------------------------------------------------------------------------------


def test_a_function_without_a_group_is_its_own_failure() -> None:
    lost = nic("0000:02:00.0", group=NO_GROUP, driver="igb", device=0x1521)
    findings = judge(make_host(NIC, lost))
    assert find(findings).verdict is Verdict.PASS
    finding = find(findings, "function:0000:02:00.0")
    assert (finding.verdict, finding.code, finding.intended) == (Verdict.FAIL, "NO_GROUP", False)


def test_the_iommu_itself_and_bridges_need_no_group() -> None:
    iommu = nic("0000:00:00.2", class_code=0x080600, group=NO_GROUP, driver="")
    port = bridge("0000:00:01.1", group=NO_GROUP)
    assert len(judge(make_host(NIC, iommu, port))) == 1
    unclear = unread(iommu, "class_code")
    finding = find(judge(make_host(NIC, unclear)), "function:0000:00:00.2")
    assert finding.verdict is Verdict.UNKNOWN


def test_without_an_iommu_functions_are_not_listed_one_by_one() -> None:
    assert len(judge(make_host(nic("0000:01:00.0", group=NO_GROUP), **OFF))) == 1


def test_noiommu_switch_alone_says_nothing() -> None:
    modules = (Module("vfio", (("enable_unsafe_noiommu_mode", "Y"),)),)
    assert find(judge(make_host(NIC, modules=modules))).verdict is Verdict.PASS
