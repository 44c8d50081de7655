"""The sorts of kernel log lines that some check or the reset ledger can use, by words in them.

A line belongs to the first kind of which it has a mark; a line without any mark is of no use. A log
may hold 100 MB, so `MARKED` finds the marks in a whole block at once. Marks are lower case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """Lines of one sort: any of `marks` (lower case) is in the line; `why` says who needs them."""

    name: str
    marks: tuple[str, ...]
    why: str


KINDS: tuple[Kind, ...] = (
    Kind(
        "boot",
        ("linux version ", "command line:", "printk messages dropped"),
        "where a boot begins and whether it is whole; release and command line without /proc",
    ),
    Kind(
        "group",
        ("to iommu group", "from iommu group", "iommu: adding device"),
        "proof of a live IOMMU driver (5.4+, and the wording of 4.x)",
    ),
    Kind(
        "banner",
        (
            "virtualization technology for directed i/o",
            "dmar: iommu enabled",
            "dmar: iommu disabled",
            "platform opt in",
            "no dmar devices found",
            "parse dmar table failure",
            "performance counters supported",
            "perf counter",
            "found iommu",
            "amd iommu disabled",
            "probing hardware configuration",
            "default domain type",
        ),
        "DMA remapping on or off: the VT-d banner, AMD-Vi, SMMU, and what is no proof of either",
    ),
    Kind(
        "reset",
        (
            "ms after ",
            "reset recovery",
            "restoring bars",
            "vfio_bar_restore",
            "giving up",
            "change power state",
            "device inaccessible",
            "link active not set",
            "pending transaction",
            "resetting",
            "reset done",
            "reset method",
            "reset failed",
            "failed to reset",
            "cannot reset device",
            "doing bus reset",
            "flr",
        ),
        "how a reset ended: the ledger",
    ),
    Kind(
        "vfio",
        ("vfio", "rlimit_memlock", "device request channel", "request to user", "vf token"),
        "what VFIO refused, and drivers that it could not bind",
    ),
    Kind(
        "remapping",
        (
            "irq remapping",
            "interrupt remapping",
            "intr-remapping",
            "irq-injection",
            "dmar-ir:",
            "x2apic",
            "isolated msi",
            "isolated_msi",
            "gicv2m",
            "gic v2m",
            "its@",
            "its [mem ",
            "its: using",
            "its: allocator",
            "its: no its",
            "domain created",
        ),
        "interrupt remapping on x86, MSI isolation on Arm (ITS or GICv2m)",
    ),
    Kind(
        "iommu-fault",
        (
            "io_page_fault",
            "event logged [",
            "handling fault",
            "dmar: [",
            "dmar_fault",
            "completion-wait loop timed out",
            "context fault",
            "global fault",
            "f_translation",
            "invalid device request",
        ),
        "DMA and interrupt faults, per device",
    ),
    Kind(
        "error",
        ("aer:", "pcie bus error", "hardware error", "dpc:", "nobody cared", "can't reserve"),
        "PCIe errors that the hardware reported, interrupts and BARs that went wrong",
    ),
    Kind(
        "acs",
        ("acs override", "acs workaround", "acs_redir", "config_acs", "acs quirk"),
        "isolation that is artificial",
    ),
    Kind(
        "guest",
        (
            "hypervisor",
            "paravirtualized kernel",
            "xen",
            "hyper-v",
            "kvm-clock",
            "secure virtualization",
            "sev-",
            "sev:",
            "sev ",
            "snp",
            "tdx",
        ),
        "a guest, a Xen dom0, a confidential host or guest",
    ),
    Kind(
        "virtualization",
        ("kvm: ", "kvm [", "kvm_amd", "kvm_intel", "disabled by bios", "vmx ", "svm "),
        "whether KVM could use the processor",
    ),
    Kind(
        "iommu",
        ("iommu", "dmar", "amd-vi", "smmu", "ivrs", "calgary", "gart", "pci-dma:", "rmrr"),
        "everything else an IOMMU driver says, and the remapping tables' own lines",
    ),
    Kind(
        "platform",
        (
            "x86/fpu",
            "x86/cpu",
            "smpboot: cpu0",
            "bios-e820: [mem 0x0000000000000000",
            "booting linux on physical cpu",
            "machine model:",
            "psci:",
            "gicv3:",
            "riscv",
            "opal",
            "pseries",
            "dmi: ",
            "detected architecture",
        ),
        "the processor family, so that no x86 line is missed on another, and the machine's name",
    ),
)
"""Specific kinds first: a line counts as the first that it fits."""

USERSPACE_MARKS = (
    "as init process",
    "systemd",
    "udevd",
    "init: ",
    "init[",
    "urandom read",
    "k swap on",
    "user  :",
    "daemon:",
    "syslog:",
    "auth  :",
)
"""One of these is in lines that only a started init leaves behind; the last four are `dmesg -x`."""

FOREIGN_LEVEL = b"<\0\0>"
"""What stands in a shape for the level that a process's line has (`<30>`)."""

_ANCHORS = "yv_xmptr"
"""Rare characters of kernel logs, the rarest first, of which every mark has one."""


def shape_of(text: str) -> str:
    """The text with every digit as 0."""
    return re.sub("[1-9]", "0", text)


def _compile_marks() -> re.Pattern[bytes]:
    """Any mark in lower-case shapes, or the level of a process's line.

    Each alternative begins with its mark's anchor, so that the search stops at those only, and
    looks back for what stands before it.
    """
    marks = {shape_of(mark) for kind in KINDS for mark in kind.marks} | set(USERSPACE_MARKS)
    shortest = [m for m in sorted(marks) if not any(o != m and o in m for o in marks)]
    groups: dict[str, list[tuple[str, str]]] = {}
    for mark in shortest:
        anchor = next(c for c in _ANCHORS if c in mark)
        before, _, after = mark.partition(anchor)
        back = f"(?<={re.escape(mark)})" if before else ""
        groups.setdefault(anchor, []).append((after, back))
    branches = ["<0", FOREIGN_LEVEL.decode(), "-- (?:re)?boot "]
    branches += [re.escape(anchor) + _branch(rests) for anchor, rests in groups.items()]
    return re.compile("|".join(branches).encode())


def _branch(rests: list[tuple[str, str]]) -> str:
    """(text, what to look back for) as alternatives that share their beginnings."""
    by_first: dict[str, list[tuple[str, str]]] = {}
    for text, back in rests:
        by_first.setdefault(text[:1], []).append((text[1:], back))
    found = [
        re.escape(first) + (_branch(group) if first and len(group) > 1 else _end(group))
        for first, group in sorted(by_first.items(), reverse=True)
    ]
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


def _end(group: list[tuple[str, str]]) -> str:
    found = [re.escape(text) + back for text, back in group]
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


MARKED = _compile_marks()
"""Finds in lower-case shapes whatever may be of use."""

DIGIT_MARKS = re.compile(
    "|".join(
        re.sub("[0-9]", "[0-9]", re.escape(mark))
        for kind in KINDS
        for mark in kind.marks
        if re.search("[0-9]", mark)
    ).encode()
)
"""Marks with digits, with any digits: in such a line the digits themselves decide."""


def rank_of(text: str) -> int:
    """The place in `KINDS` of the first kind that a lower-case text fits, -1 for none."""
    for rank, kind in enumerate(KINDS):
        for mark in kind.marks:
            if mark in text:
                return rank
    return -1
