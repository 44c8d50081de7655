"""Which hypervisor a host runs under, and what only that hypervisor's owner can change.

Advice for QEMU's options helps nobody under VMware. This module must never name a hypervisor from
less than its own signature: an unnamed one gets advice that holds for all.
"""

import re
from dataclasses import dataclass

from vfio_agent.checks.kernel_log import HYPERVISOR, find_lines
from vfio_contract.host import Host


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """Decisions, each a sentence without `vfioctl check`: for no vIOMMU, for no vmx or svm."""

    name: str
    viommu: str
    nesting: str


_HOST_ITSELF = "or run the check on the host itself."

QEMU = Hypervisor(
    "QEMU/KVM",
    "Give the VM a vIOMMU (QEMU: -machine q35,kernel-irqchip=split -device intel-iommu,"
    f"intremap=on; Proxmox: qm set VMID -machine q35,viommu=intel), {_HOST_ITSELF}",
    "This is a VM without nested virtualization. Give it the host's processor (QEMU: -cpu host; "
    f"Proxmox: qm set VMID -cpu host), {_HOST_ITSELF}",
)
VMWARE = Hypervisor(
    "VMware",
    "Power the VM off and tick 'Expose IOMMU to the guest OS' (CPU settings; vvtd.enable = TRUE "
    f"in the .vmx, with EFI firmware), {_HOST_ITSELF}",
    "This is a VMware VM without nested virtualization. Power it off and tick 'Expose hardware "
    f"assisted virtualization to the guest OS' (vhv.enable = TRUE), {_HOST_ITSELF}",
)
HYPER_V = Hypervisor(
    "Hyper-V",
    "Hyper-V gives Linux guests no IOMMU that VFIO can use, whatever the kernel is told: run the "
    "VMs on a host that boots Linux itself, or assign the device on the Windows host (DDA).",
    "This is a Hyper-V VM without nested virtualization. On the Windows host, with the VM off: "
    "Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true",
)
WSL = Hypervisor(
    "WSL 2",
    "WSL 2 is a VM of Windows that gets neither a vIOMMU nor PCI devices: boot Linux itself on "
    "this machine.",
    "WSL 2 is a VM of Windows. nestedVirtualization=true in .wslconfig gives it KVM; PCI devices "
    "it never gets: boot Linux itself on this machine.",
)
XEN = Hypervisor(
    "Xen",
    "Xen keeps the IOMMU for itself: pass the device with xl in dom0, or boot Linux without Xen.",
    "This is a Xen guest. Set nestedhvm=1 in its xl configuration, or boot Linux without Xen.",
)
UNNAMED = Hypervisor(
    "",
    "Enable a vIOMMU for this VM where its hypervisor is configured (QEMU: -device "
    "intel-iommu,intremap=on; Proxmox: -machine q35,viommu=intel; VMware: Expose IOMMU to the "
    f"guest OS; Hyper-V has none), {_HOST_ITSELF}",
    "This is a VM without nested virtualization. Give it the host's processor (QEMU: -cpu host; "
    f"Proxmox: qm set VMID -cpu host), {_HOST_ITSELF}",
)

_WSL = re.compile(r"microsoft-standard|WSL2", re.IGNORECASE)
_WSL_LINE = re.compile(r"^Linux version \S*(microsoft-standard|WSL2)", re.IGNORECASE)

_SIGNATURES = (
    ("vmware", VMWARE),
    ("microsoft", HYPER_V),
    ("hyper-v", HYPER_V),
    ("xen", XEN),
    ("kvm", QEMU),
    ("qemu", QEMU),
)


def find_hypervisor(host: Host) -> Hypervisor:
    """By the kernel's release, its own line in the log, then the firmware's maker; else UNNAMED."""
    if _WSL.search(host.facts.kernel.release or "") or any(find_lines(host, _WSL_LINE)):
        return WSL
    said = next((m["name"] for m in find_lines(host, HYPERVISOR)), "")
    firmware = host.facts.firmware
    for text in (said, firmware.system_vendor or "", firmware.bios_vendor or ""):
        for mark, known in _SIGNATURES:
            if mark in text.lower():
                return known
    return UNNAMED
