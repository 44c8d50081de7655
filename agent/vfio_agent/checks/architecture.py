"""Which family of machine a host is, because each proves its IOMMU and interrupts differently.

This module must never guess x86: lines that only x86 kernels print are no evidence elsewhere.
"""

import re

from vfio_agent.checks.kernel_log import find_line
from vfio_contract.findings import Evidence
from vfio_contract.host import Host

X86, ARM, OTHER, UNKNOWN = "x86", "arm", "other", ""

_X86_VENDORS = frozenset(
    {"GenuineIntel", "AuthenticAMD", "HygonGenuine", "CentaurHauls", "  Shanghai  ", "Shanghai"}
)
_OTHER_MACHINES = ("ppc", "s390", "riscv", "loongarch", "mips", "sparc", "parisc", "alpha", "ia64")
"""Beginnings of `uname -m` elsewhere (UTS_MACHINE of arch/*/Makefile)."""

_X86_LINE = re.compile(
    r"^(DMAR|DMAR-IR|AMD-Vi|x2apic|smpboot|BIOS-e820|BIOS-provided|x86/|IOAPIC|kvm_(intel|amd))\b"
    r"|^Linux version .*(x86_64|i[3-6]86)|^Hypervisor detected:|^PCI-DMA: |\bACPI: (DMAR|IVRS) 0x"
)
_ARM_LINE = re.compile(
    r"^(GICv[23]|GICv2m|ITS|arm-smmu|arm-smmu-v3|psci|kvm \[\d+\]|Booting Linux on physical CPU)\b"
    r"|^Linux version .*(aarch64|arm64|arm-linux)|gic-its@|gic.v3"
)

_OTHER_LINE = re.compile(
    r"^Linux version \S*[.-](ppc64(le|el)?|s390x|riscv64|loongarch64)\b"
    r"|^Linux version [^(]*\(\S*@\S*\b(ppc64(le|el)?|s390x|riscv64|loongarch64)\b"
    r"|^Linux version .*\b(powerpc64(le)?|s390x|riscv64|loongarch64)-\S*gcc"
    r"|^OPAL |^Using (PowerNV|pSeries) machine|^SBI specification v|^riscv: "
)
"""POWER, z and RISC-V: the release, builder or compiler in the banner, and their firmware."""

_INTEL_LINE = re.compile(r"^smpboot: CPU0: .*\bIntel\b")
_AMD_LINE = re.compile(r"^smpboot: CPU0: (AMD|Hygon)\b")
"""The list below `KERNEL supported cpus:` is none: it names every vendor that was compiled in."""

_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "amd"}


def family_of(host: Host) -> str:
    """X86, ARM, OTHER (POWER, s390, RISC-V, ...) or UNKNOWN."""
    machine = host.facts.kernel.machine
    known = _family_of_machine(machine) if machine else UNKNOWN
    if known:
        return known
    cpu = host.facts.cpu
    if cpu.vendor in _X86_VENDORS or {"vmx", "svm"} & set(cpu.flags or ()):
        return X86
    chips = host.readings.interrupt_chips or ()
    if any(chip.endswith("IO-APIC") for chip in chips):
        return X86
    if any(chip.startswith(("GIC", "ITS")) for chip in chips):
        return ARM
    if find_line(host, _ARM_LINE):
        return ARM
    if find_line(host, _OTHER_LINE):
        return OTHER
    return X86 if find_line(host, _X86_LINE) else UNKNOWN


def describe_machine(host: Host) -> Evidence:
    """What tells that the host is neither x86 nor Arm, or that its machine was not read."""
    machine = host.facts.kernel.machine
    said = None if machine else find_line(host, _OTHER_LINE)
    return said or Evidence("uname -m", machine or "not read")


def vendor_of(host: Host) -> str:
    """The processor's maker: `intel`, `amd` (Hygon included), `other`, or "" where not known."""
    cpu = host.facts.cpu
    if cpu.vendor is not None:
        return _VENDORS.get(cpu.vendor, "other")
    flags = cpu.flags or ()
    if "vmx" in flags or "svm" in flags:
        return "intel" if "vmx" in flags else "amd"
    if find_line(host, _INTEL_LINE):
        return "intel"
    return "amd" if find_line(host, _AMD_LINE) else ""


def describe_vendor(host: Host) -> Evidence:
    """What tells the processor's maker."""
    cpu = host.facts.cpu
    if cpu.vendor is not None:
        return Evidence("/proc/cpuinfo", f"vendor_id {cpu.vendor}")
    shown = [flag for flag in ("vmx", "svm") if flag in (cpu.flags or ())]
    said = None if shown else find_line(host, _INTEL_LINE) or find_line(host, _AMD_LINE)
    return said or Evidence("/proc/cpuinfo", f"flags: {' '.join(shown) or 'not read'}")


def _family_of_machine(machine: str) -> str:
    """UNKNOWN for what is no machine name that a kernel gives: nonsense proves no platform."""
    if machine == "x86_64" or re.fullmatch(r"i[3-6]86", machine):
        return X86
    if machine.startswith(("aarch64", "arm")):
        return ARM
    return OTHER if machine.startswith(_OTHER_MACHINES) else UNKNOWN
