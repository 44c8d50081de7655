"""Hosts for the check's screen: the one of the target screen, and one with many devices."""

from __future__ import annotations

from vfio_cli.screens.check import CheckView
from vfio_cli.survey import Candidate, Intended, Unread
from vfio_contract.findings import Evidence, Finding, Missing, Verdict, summarise


def finding(
    check: str,
    verdict: Verdict,
    code: str = "CODE",
    *evidence: tuple[str, str],
    subject: str = "node",
    meaning: str = "",
    decision: str = "",
    blocked_by: str | None = None,
    intended: bool | None = None,
    missing: tuple[Missing, ...] = (),
) -> Finding:
    """A finding of a check."""
    return Finding(
        check=check,
        subject=subject,
        verdict=verdict,
        code=code,
        evidence=tuple(Evidence(source, text) for source, text in evidence),
        meaning=meaning,
        decision=decision,
        blocked_by=blocked_by,
        intended=intended,
        missing=missing,
    )


def check_view() -> CheckView:
    """The host of the target screen: VT-d on in firmware, off on the command line."""
    findings = (
        finding(
            "iommu-active",
            Verdict.FAIL,
            "IOMMU_OFF",
            ("/sys/kernel/iommu_groups", "empty"),
            ("/proc/interrupts", "IR-PCI-MSI (interrupt remapping is on)"),
            meaning="Interrupts are remapped, DMA is not. No device can be passed.",
            decision="Firmware VT-d is on; fix the command line below, then reboot.",
        ),
        finding(
            "kernel-cmdline",
            Verdict.FAIL,
            "CMDLINE_PENDING",
            ("/proc/cmdline", '"root=/dev/mapper/pve-root ro quiet"'),
            ("/etc/default/grub:6", '"quiet intel_iommu=on iommu=pt"'),
            meaning="The setting was written but this boot does not use it.",
            decision="update-grub, reboot, vfioctl check",
        ),
        finding(
            "iommu-faults",
            Verdict.UNKNOWN,
            "EVIDENCE_MISSING",
            missing=(Missing("kernel log (dmesg_restrict=1)", "sudo vfioctl check"),),
        ),
        *(
            finding(check, Verdict.BLOCKED, "BLOCKED", blocked_by="iommu-active")
            for check in ("group-isolation", "driver-binding", "reserved-regions")
        ),
        *(
            finding(check, Verdict.PASS)
            for check in (
                "cpu-virtualization",
                "interrupt-remapping",
                "acs-override",
                "host-critical",
                "reset-capability",
            )
        ),
    )
    return CheckView(
        report=summarise("pve07", findings),
        intended=(
            Intended(
                ("0000:41:00.0", "0000:41:00.1"),
                "RTX A5000",
                ("/etc/modprobe.d/vfio.conf:1",),
            ),
        ),
        candidates=(),
        unread=(Unread("Permission denied", (("/etc/pve/qemu-server", 1),), ()),),
        seen_by="uid 1000",
    )


def many_subjects_view() -> CheckView:
    """A host with 31 functions: alike findings stand together, candidates on one line."""
    bound = [f"0000:{bus:02x}:00.0" for bus in range(1, 9)]
    findings = [
        finding("iommu-active", Verdict.PASS),
        finding(
            "group-isolation",
            Verdict.FAIL,
            "GROUP_DIRTY",
            *(
                (f"/sys/bus/pci/devices/0000:09:0{n}.0", f"0000:09:0{n}.0 [0200] on e1000")
                for n in range(8)
            ),
            subject="group:20",
            meaning="Members can reach each other's DMA.",
            decision="Move the card to another slot.",
            intended=True,
        ),
        *(
            finding(
                "driver-binding",
                Verdict.WARN,
                "BINDING_NOT_PERSISTENT",
                (f"/sys/bus/pci/devices/{address}/driver", f"{address} [0200] on vfio-pci"),
                subject=f"function:{address}",
                meaning="It does not survive a reboot.",
                decision=f"sudo driverctl set-override {address} vfio-pci",
                intended=True,
            )
            for address in bound
        ),
        *(
            finding("host-critical", Verdict.PASS, subject=f"function:{a}", intended=True)
            for a in bound
        ),
        *(
            finding(
                "host-critical", Verdict.FAIL, subject=f"function:0000:1{n}:00.0", intended=False
            )
            for n in range(5)
        ),
    ]
    candidates = (
        Candidate(("0000:10:00.0",), "nic", "82574L", Verdict.WARN, "driver-binding", "X", True),
        Candidate(
            ("0000:11:00.0", "0000:11:00.1"),
            "gpu",
            "A very long name of a graphics card that nobody can remember",
            Verdict.UNKNOWN,
            "reset-capability",
            "RESET_UNKNOWN",
            False,
        ),
        *(
            Candidate(
                (f"0000:1{n}:00.0",),
                "nvme",
                "PM9A3",
                Verdict.FAIL,
                "host-critical",
                "HOST_CRITICAL",
                False,
            )
            for n in range(2, 5)
        ),
    )
    unread = (
        Unread(
            "only 64 bytes without privilege",
            (("/sys/bus/pci/devices/*/config", 31),),
            ("sudo vfioctl check",),
        ),
        Unread("Permission denied", (("/dev/kmsg", 1),), ("sudo dmesg",)),
        Unread("not captured", tuple((f"/proc/{n}", 1) for n in range(9)), ()),
        Unread("deadline of 2s passed", (("/sys/bus/pci/devices/*/sriov_numvfs", 2),), ()),
    )
    return CheckView(
        report=summarise("m3", findings),
        intended=(Intended(tuple(bound[:1]), "82574L", ("bound to vfio-pci",)),),
        candidates=candidates,
        unread=unread,
        seen_by="uid 1000",
    )
