"""Which kernel log lines mean what, for the checks that listen to the kernel.

Strings as printed by Linux 4.15 to 7.2 (read in the sources) and seen in real boot logs. A line is
looked for anywhere in the text, because prefixes differ. The absence of a line proves something
only in a complete log. This module must never take an announcement for a result: "DMAR: IOMMU
enabled" comes from the command-line parser alone, and "Default domain type" prints with no IOMMU.
"""

import re
from collections.abc import Iterator

from vfio_contract.findings import Evidence, Missing
from vfio_contract.host import Host

SOURCE = "kernel log"

GROUP_ADDED = re.compile(r"\S+: Adding to iommu group \d+|iommu: Adding device \S+ to group \d+")
"""A live IOMMU driver took the device in (5.4 and later; 4.15 and 4.19)."""

DMA_BANNER = re.compile(
    r"DMAR: Intel\(R\) Virtualization Technology for Directed I/O"
    r"|AMD-Vi: (Found IOMMU|IOMMU performance counters supported|Extended features)"
    r"|AMD-Vi: Lazy IO/TLB flushing enabled"
    r"|arm-smmu(-v3)?[ :].*(probing hardware configuration|ias \d+-bit, oas \d+-bit)"
)
"""Printed once translation is set up, or by hardware that was initialised for it."""

DMA_OFF = re.compile(
    r"DMAR: IOMMU disabled|AMD-Vi: AMD IOMMU disabled|DMAR: No DMAR devices found"
    r"|DMAR: Parse DMAR table failure|AMD-Vi: (Error initialization|IVRS table error)"
    r"|DMAR: Initialization failed|DMAR: Failed to map .*registers"
)
"""Why there is no DMA remapping, in the kernel's own words."""

NOT_AN_IOMMU = re.compile(r"PCI-DMA: (using GART IOMMU|Calgary IOMMU)", re.IGNORECASE)
"""Remapping hardware of old boards that isolates nothing; VFIO cannot use it."""

NOIOMMU_MODE = re.compile(r"vfio-noiommu")
HYPERVISOR = re.compile(r"Hypervisor detected: (?P<name>.+)")
XEN = re.compile(r"Booting (paravirtualized )?kernel on Xen|Hypervisor detected: Xen PV")
CMDLINE = re.compile(r"(?:Kernel command line|Command line): (?P<cmdline>.*)")
DMAR_TABLE = re.compile(r"ACPI: DMAR 0x|DMAR: DRHD base:|DMAR: Host address width")
IVRS_TABLE = re.compile(r"ACPI: IVRS 0x|AMD-Vi: Using (global )?IVHD")

IRQ_REMAP_ON = re.compile(
    r"DMAR-IR: Enabled IRQ remapping in x2?apic mode|AMD-Vi: Interrupt remapping enabled"
)
IRQ_REMAP_OFF = re.compile(
    r"DMAR-IR: Failed to enable irq remapping|AMD-Vi: Disabling interrupt remapping"
    r"|No interrupt remapping support|Failed to enable Interrupt remapping"
    r"|Disabling IRQ remapping"
)
ITS_READY = re.compile(
    r"ITS@0x[0-9a-f]+: (allocated|Devices Table|Virtual CPUs)|ITS: using cache flushing"
    r"|PCI/MSI: .*(gic-its|ITS).* domain created|ITS: Allocator initialized"
)
GIC_V2M = re.compile(r"GICv2m: |gicv2m", re.IGNORECASE)

RESETS_DISABLED = re.compile(r"All device reset methods disabled by user")
ACS_OVERRIDE = re.compile(r"PCIe ACS overrides enabled")
KVM_UNUSABLE = re.compile(
    r"kvm(_intel|_amd)?: .*(disabled by bios|not supported|no hardware support|disabled in BIOS)"
    r"|(VMX|SVM) (\(outside TXT\) )?disabled (by|in) BIOS|HYP mode not available",
    re.IGNORECASE,
)
KVM_READY = re.compile(r"kvm \[\d+\]: .*(VHE|Hyp|HYP|hVHE|nVHE) mode initialized successfully")


def find_lines(host: Host, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Matches in the order of the log; nothing when there is no log."""
    log = host.readings.kernel_log
    for line in log.lines if log is not None else ():
        match = pattern.search(line.text)
        if match is not None:
            yield match


def find_line(host: Host, pattern: re.Pattern[str]) -> Evidence | None:
    """The first line that matches, as evidence."""
    for match in find_lines(host, pattern):
        return Evidence(SOURCE, match.string)
    return None


def is_complete(host: Host) -> bool:
    """True when a line that is not there was never printed in this boot."""
    log = host.readings.kernel_log
    return log is not None and log.complete


def describe_log(host: Host) -> Evidence | None:
    """How far the log reaches; None when there is none."""
    log = host.readings.kernel_log
    if log is None:
        return None
    lines = "1 line" if log.total_lines == 1 else f"{log.total_lines} lines"
    if log.complete:
        return Evidence(SOURCE, f"complete from boot ({lines})")
    start = "begins at boot" if log.from_boot else "its beginning is lost"
    end = "reaches userspace" if log.reached_userspace else "ends before userspace"
    return Evidence(SOURCE, f"incomplete ({lines}): {start}, {end}")


def missing_log(host: Host) -> tuple[Missing, ...]:
    """What is missing when the log does not decide; () when it is complete."""
    log = host.readings.kernel_log
    if log is None:
        remedy = next((g.remedy for g in host.readings.gaps if "dmesg" in g.remedy), "sudo dmesg")
        return (Missing(SOURCE, remedy),)
    if not log.complete:
        return (Missing("kernel log from the beginning of this boot", "sudo journalctl -k -b 0"),)
    return ()


def read_cmdline(host: Host) -> tuple[str, str] | None:
    """(source, command line) of the running kernel, from /proc or as the log repeats it."""
    if host.facts.cmdline is not None:
        return "/proc/cmdline", host.facts.cmdline
    for match in find_lines(host, CMDLINE):
        return SOURCE, match["cmdline"]
    return None


def find_parameter(host: Host, name: str) -> tuple[Evidence, str] | None:
    """(evidence, value) of the last `name=value` of the command line; "" for a bare word.

    Underscore and dash are the same to the kernel. None when it is not there or not known.
    """
    known = read_cmdline(host)
    if known is None:
        return None
    source, cmdline = known
    wanted = name.replace("-", "_")
    for word in reversed(cmdline.split()):
        key, _, value = word.partition("=")
        if key.replace("-", "_") == wanted:
            return Evidence(source, word), value
    return None
