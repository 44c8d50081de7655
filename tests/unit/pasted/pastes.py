"""Texts as people paste them, made here and taken from nobody, and a short way to judge one."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from vfio_agent.inspect import Inspection, inspect_evidence
from vfio_contract.findings import Finding

BANNER = "Linux version 6.1.0-9-amd64 (builder@host) (gcc 12.2.0) #1 SMP Debian 6.1.27-1"

COURSE = (
    "Memory: 32654868K/33479484K available (14342K kernel code)",
    "Dentry cache hash table entries: 4194304 (order: 13, 33554432 bytes, linear)",
    "Calibrating delay loop (skipped), value calculated using timer frequency.. 7399.70 BogoMIPS",
    "clocksource: jiffies: mask: 0xffffffff max_cycles: 0xffffffff",
    "NET: Registered PF_NETLINK/PF_ROUTE protocol family",
    *(f"pnp 00:{i:02x}: Plug and Play ACPI device" for i in range(100)),
    "Freeing unused kernel image (initmem) memory: 2600K",
)
"""What every boot prints on its way to init."""

DMESG = "".join(
    f"[{i / 10:12.6f}] {text}\n"
    for i, text in enumerate(
        [
            BANNER,
            "Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet intel_iommu=on",
            "x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
            "DMAR: Intel(R) Virtualization Technology for Directed I/O",
            "pci 0000:00:01.0: Adding to iommu group 1",
            "DMAR-IR: Enabled IRQ remapping in x2apic mode",
            *COURSE,
            "Run /sbin/init as init process",
        ]
    )
)

CMDLINE = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet intel_iommu=on\n"
UNAME = "Linux pve 6.1.0-9-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.27-1 x86_64 GNU/Linux\n"

_VV = "\tControl: I/O+ Mem+ BusMaster+ SpecCycle- MemWINV-\n"

LSPCI_VV = (
    "00:00.0 Host bridge [0600]: Intel Corporation Host Bridge [8086:3ec2] (rev 07)\n"
    f"{_VV}\tIOMMU group: 0\n\tKernel driver in use: skl_uncore\n\n"
    "00:01.0 PCI bridge [0604]: Intel Corporation PCIe x16 [8086:1901] (rev 07) (prog-if 00)\n"
    f"{_VV}\tIOMMU group: 1\n"
    "\tBus: primary=00, secondary=01, subordinate=01, sec-latency=0\n"
    "\tCapabilities: [a0] Express (v2) Root Port (Slot+), MSI 00\n"
    "\t\tDevCap:\tMaxPayload 256 bytes, PhantFunc 0\n\t\t\tExtTag- RBE+\n"
    "\tKernel driver in use: pcieport\n\n"
    "00:02.0 VGA compatible controller [0300]: Intel Corporation UHD [8086:3e92] (prog-if 00)\n"
    f"{_VV}\tIOMMU group: 2\n\tKernel driver in use: i915\n\n"
    "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [10de:1b80] (rev a1)\n"
    "\tSubsystem: Gigabyte Technology Co., Ltd GP104 [1458:3702]\n"
    f"{_VV}\tNUMA node: 0\n\tIOMMU group: 1\n"
    "\tCapabilities: [60] Power Management version 3\n"
    "\t\tStatus: D0 NoSoftRst+ PME-Enable- DSel=0 DScale=0 PME-\n"
    "\tCapabilities: [78] Express (v2) Legacy Endpoint, MSI 00\n"
    "\t\tDevCap:\tMaxPayload 256 bytes\n\t\t\tExtTag+ FLReset-\n"
    "\t\tLnkCap:\tPort #0, Speed 8GT/s, Width x16, ASPM L0s L1\n"
    "\tCapabilities: [100 v1] Virtual Channel\n"
    "\tKernel driver in use: vfio-pci\n\tKernel modules: nouveau\n\n"
    "01:00.1 Audio device [0403]: NVIDIA Corporation GP104 Audio [10de:10f0] (rev a1)\n"
    f"{_VV}\tIOMMU group: 1\n\tCapabilities: [78] Express (v2) Endpoint, MSI 00\n"
    "\t\tDevCap:\tMaxPayload 256 bytes\n\t\t\tExtTag+ FLReset+\n"
    "\tKernel driver in use: vfio-pci\n\n"
)
"""A whole host in `lspci -nnvv`: GPU and audio in one clean group below a root port."""

LOOP = (
    "IOMMU Group 0:\n\t00:00.0 Host bridge [0600]: Intel Corporation Host Bridge [8086:3ec2]\n"
    "IOMMU Group 1:\n"
    "\t00:01.0 PCI bridge [0604]: Intel Corporation PCIe x16 [8086:1901] (rev 07)\n"
    "\t01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [10de:1b80] (rev a1)\n"
    "\t01:00.1 Audio device [0403]: NVIDIA Corporation GP104 Audio [10de:10f0] (rev a1)\n"
    "\t02:00.0 Ethernet controller [0200]: Intel Corporation I210 [8086:1533] (rev 03)\n"
)
"""Group 1 is dirty: a network card shares it with the GPU."""


def judge_text(*texts: str | bytes, tmp_path: Path) -> Inspection:
    """Each text as a file without a telling name, judged together."""
    paths = []
    for number, text in enumerate(texts):
        path = tmp_path / f"paste-{number}"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        paths.append(str(path))
    return inspect_evidence(paths)


def judge_stdin(data: bytes) -> Inspection:
    """One text by way of standard input."""
    return inspect_evidence(["-"], stdin=BytesIO(data))


def by_subject(seen: Inspection, check: str) -> Mapping[str, Finding]:
    """The findings of one check."""
    return {f.subject: f for f in seen.report.findings if f.check == check}
