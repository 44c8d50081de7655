"""Why DMA remapping is off, as far as the evidence tells, and what turns it on.

The first cause that fits is the most specific one. This module must never decide whether the IOMMU
is off; it only explains what `iommu-active` has proved.
"""

from dataclasses import dataclass

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.architecture import (
    ARM,
    OTHER,
    X86,
    describe_machine,
    describe_vendor,
    family_of,
    vendor_of,
)
from vfio_agent.checks.hypervisor import find_hypervisor
from vfio_agent.checks.reality import Reality, sort_groups
from vfio_contract.findings import Evidence
from vfio_contract.host import Host

_EDIT_CMDLINE = (
    "(/etc/default/grub, then update-grub; Proxmox with systemd-boot: /etc/kernel/cmdline, then "
    "proxmox-boot-tool refresh)"
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why it is off. `meaning` and `decision` are "" where no cause was found."""

    evidence: tuple[Evidence, ...] = ()
    meaning: str = ""
    decision: str = ""


def find_cause(host: Host) -> Cause:
    """The most specific cause, with what else in the evidence bears on it."""
    cause = (
        _switched_off(host)
        or _noiommu_mode(host)
        or _below_xen(host)
        or _guest(host)
        or _wrong_vendor(host)
        or _refused(host)
        or _not_asked_for(host)
        or _no_table(host)
        or _no_smmu(host)
        or _elsewhere(host)
        or Cause()
    )
    chips = host.readings.interrupt_chips or ()
    remapped = sorted(c for c in chips if c.lstrip("v").startswith("IR-"))
    also = list(cause.evidence)
    if remapped:
        text = f"{remapped[0]} (interrupts are remapped, DMA is not)"
        also.append(Evidence("/proc/interrupts", text))
    gart = log.find_line(host, log.NOT_AN_IOMMU)
    if gart is not None:
        also.append(Evidence(gart.source, f"{gart.text} (it isolates nothing)"))
    return Cause(tuple(also), cause.meaning, cause.decision)


def _switched_off(host: Host) -> Cause | None:
    for name in ("intel_iommu", "amd_iommu", "iommu"):
        found = log.find_parameter(host, name)
        if found is not None and {"off", "0"} & set(found[1].split(",")):
            evidence = [found[0]]
            said = log.find_line(host, log.DMA_OFF)
            if said is not None:
                evidence.append(said)
            return Cause(
                tuple(evidence),
                f"The kernel command line switches it off ({found[0].text}).",
                f"Remove {found[0].text} from the kernel command line {_EDIT_CMDLINE}; reboot; "
                "vfioctl check",
            )
    return None


def _noiommu_mode(host: Host) -> Cause | None:
    said = log.find_line(host, log.NOIOMMU_MODE)
    if not sort_groups(host)[Reality.NOIOMMU] and said is None:
        return None
    return Cause(
        (said,) if said is not None else (),
        "What looks like groups is vfio's no-IOMMU mode: it gives a VM's device all of memory.",
        "Remove enable_unsafe_noiommu_mode from /etc/modprobe.d and the command line, then enable "
        "VT-d or AMD-Vi in the firmware setup; reboot; vfioctl check",
    )


def _below_xen(host: Host) -> Cause | None:
    said = log.find_line(host, log.XEN)
    if said is None:
        return None
    return Cause(
        (said,),
        "This is a Xen domain: the hypervisor owns the IOMMU and Linux sees none.",
        "VFIO does not work under Xen; use xen-pciback there, or boot Linux without Xen.",
    )


def _guest(host: Host) -> Cause | None:
    said = log.find_line(host, log.HYPERVISOR)
    flags = host.facts.cpu.flags or ()
    if said is None and "hypervisor" not in flags:
        return None
    if log.find_line(host, log.DMAR_TABLE) or log.find_line(host, log.IVRS_TABLE):
        return None
    if host.facts.firmware.dmar_sha256 or host.facts.firmware.ivrs_sha256:
        return None
    return Cause(
        (said or Evidence("/proc/cpuinfo", "flags: hypervisor"),),
        "This is a virtual machine, and its hypervisor gave it no virtual IOMMU.",
        find_hypervisor(host).viommu,
    )


def _wrong_vendor(host: Host) -> Cause | None:
    asked = log.find_parameter(host, "intel_iommu")
    if asked is None or vendor_of(host) != "amd":
        return None
    return Cause(
        (asked[0], describe_vendor(host)),
        "The command line asks for Intel's IOMMU on an AMD processor, where that does nothing.",
        "Remove intel_iommu from the command line and enable IOMMU (AMD-Vi) and SVM in the "
        "firmware setup; Linux then uses it by itself; reboot; vfioctl check",
    )


def _refused(host: Host) -> Cause | None:
    said = log.find_line(host, log.DMA_OFF)
    if said is None:
        return None
    return Cause(
        (said,),
        "The kernel looked for the IOMMU and gave up.",
        "Enable VT-d or AMD-Vi in the firmware setup, or update the firmware: its tables are "
        "missing or broken; reboot; vfioctl check",
    )


def _not_asked_for(host: Host) -> Cause | None:
    firmware = host.facts.firmware
    said = log.find_line(host, log.DMAR_TABLE)
    if family_of(host) != X86 or (said is None and not firmware.dmar_sha256):
        return None
    cmdline = log.read_cmdline(host)
    asked = log.find_parameter(host, "intel_iommu")
    if cmdline is None or (asked is not None and _asks(asked[1])):
        return None
    shown = Evidence(cmdline[0], "no intel_iommu=on")
    if asked is not None:
        shown = Evidence(cmdline[0], f"{asked[0].text}, a value that the kernel does not know")
    return Cause(
        (
            said or Evidence("/sys/firmware/acpi/tables/DMAR", "present"),
            shown,
        ),
        "The firmware offers VT-d, but the kernel was not told to use it.",
        f"Add intel_iommu=on iommu=pt to the kernel command line {_EDIT_CMDLINE}; reboot; "
        "vfioctl check",
    )


def _asks(value: str) -> bool:
    """True where a value switches VT-d on or off: the kernel looks at the beginning of each."""
    return any(word.startswith(("on", "off")) for word in value.split(","))


def _no_table(host: Host) -> Cause | None:
    firmware = host.facts.firmware
    if family_of(host) != X86:
        return None
    if (firmware.dmar_sha256, firmware.ivrs_sha256) == ("", ""):
        evidence = Evidence("/sys/firmware/acpi/tables", "neither DMAR nor IVRS")
    elif log.is_complete(host) and not (
        log.find_line(host, log.DMAR_TABLE) or log.find_line(host, log.IVRS_TABLE)
    ):
        evidence = Evidence(log.SOURCE, "no ACPI table DMAR or IVRS at boot")
    else:
        return None
    return Cause(
        (evidence,),
        "The firmware shows the kernel no IOMMU.",
        "Enable VT-d (Intel) or IOMMU/AMD-Vi (AMD) in the firmware setup, often under North "
        "Bridge or System Agent; if there is no such setting, the board has none; reboot; "
        "vfioctl check",
    )


def _no_smmu(host: Host) -> Cause | None:
    if family_of(host) != ARM:
        return None
    return Cause(
        (),
        "No SMMU took a device.",
        "Look for the SMMU in the firmware's IORT table or the device tree, and for "
        "CONFIG_ARM_SMMU / CONFIG_ARM_SMMU_V3 in the kernel: zgrep ARM_SMMU /proc/config.gz",
    )


def _elsewhere(host: Host) -> Cause | None:
    if family_of(host) != OTHER:
        return None
    return Cause(
        (describe_machine(host),),
        "No IOMMU driver of this platform took a device.",
        "Nothing of Intel's or AMD's applies to this machine: look what its own IOMMU driver says "
        "(POWER: spapr TCE; RISC-V: riscv-iommu; z: s390): sudo dmesg | grep -i iommu; "
        "vfioctl check",
    )
