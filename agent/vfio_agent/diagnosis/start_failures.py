"""Rarer words of QEMU, Proxmox and the kernel around a VM's start with a device.

The common ones are in `qemu.py`, `proxmox.py` and the kernel's files; here is what operators meet
once they have got past those: device cgroups, iommufd, interrupt lines, VGA regions, SR-IOV space.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_QEMU = "QEMU hw/vfio"
_BUSY = Cause(
    "Another process has the device or its group already: a VM that still runs, or a stale one.",
    "See who has it: vfioctl check (device-holders); stop that VM, or end the stale process.",
    "device-holders",
)

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "vfio-file-forbidden",
        r"/dev/(?:vfio/(?:\d+|devices/vfio\d+|vfio)|iommu)[^\n]{0,8}: operation not permitted",
        Cause(
            "The process may not open the file although its mode would let it: a device cgroup, a "
            "container or a systemd unit with DevicePolicy keeps it out.",
            "libvirt: restart it so that it allows the device, and keep cgroup_device_acl in "
            "/etc/libvirt/qemu.conf; container: pass /dev/vfio into it; systemd: DeviceAllow=.",
        ),
        stems="operation not permitted",
        examples=("failed to open /dev/vfio/19: Operation not permitted",),
        source=f"{_QEMU}/container.c; cgroup device controller",
    ),
    message(
        Kind.FAULT,
        "group-in-other-container",
        r"failed to set group container: (?:invalid argument|device or resource busy)"
        r"|error attaching (?:to )?container \d+",
        Cause(
            "The group is attached already, or lives in another IOMMU context: another process "
            "holds it, or a bus that the vIOMMU joins needs all of its devices in one container.",
            "See who holds the group: vfioctl check. With a vIOMMU give each group its own root "
            "port.",
            "device-holders",
        ),
        stems="failed to set group container|error attaching",
        examples=(
            "vfio 0000:01:00.0: failed to setup container for group 14: Failed to set group "
            "container: Invalid argument",
        ),
        source=f"{_QEMU}/container.c",
    ),
    message(
        Kind.FAULT,
        "iommufd-attach-busy",
        r"\[iommufd=\d+\] error (?:attach|bind)[^\n]{0,80}: device or resource busy",
        _BUSY,
        stems="iommufd=",
        examples=(
            "vfio 0000:01:00.0: [iommufd=15] error attach 0000:01:00.0 (19) to id=2: Device or "
            "resource busy",
        ),
        source=f"{_QEMU}/iommufd.c",
    ),
    message(
        Kind.FAULT,
        "vfio-intx-mismatch",
        r"flags mismatch irq \d+[^\n]{0,80}vfio-intx",
        Cause(
            "The device shares its interrupt line with a host device whose driver does not share, "
            "and it cannot mask its own interrupt (nointxmask).",
            "Use MSI in the guest, move the card to another slot, or unbind the other driver; who "
            "it is stands at the end of the line. See: grep vfio /proc/interrupts",
            "interrupt-distribution",
        ),
        stems="vfio-intx",
        examples=(
            "genirq: Flags mismatch irq 16. 00000000 (vfio-intx(0000:00:1a.0)) vs. 00000080 "
            "(i801_smbus)",
        ),
        source="Linux kernel/irq/manage.c, drivers/vfio/pci/vfio_pci_intrs.c",
    ),
    message(
        Kind.FAULT,
        "no-vga-region",
        r"failed getting region info for vga region|doesn't support requested feature x-vga"
        r"|does not support requested feature x-vga",
        Cause(
            "x-vga was asked for a device that has no legacy VGA region for VFIO: no VGA class, or "
            "vfio-pci was loaded with disable_vga=1, or the kernel has no CONFIG_VFIO_PCI_VGA.",
            "With OVMF take x-vga out of the entry; with SeaBIOS load vfio-pci without "
            "disable_vga.",
            "vm-display-rom",
        ),
        stems="vga region|x-vga",
        examples=(
            "vfio 0000:01:00.0: failed getting region info for VGA region index 8: Invalid "
            "argument",
            "device doesn't support requested feature x-vga",
        ),
        source=f"{_QEMU}/pci.c",
    ),
    message(
        Kind.FAULT,
        "sriov-no-space",
        r"not enough mmio resources for sr-iov|sr-iov: bus number out of range",
        Cause(
            "The firmware left no room for the virtual functions: no memory window, or no bus "
            "numbers behind the port.",
            "Enable SR-IOV and Above 4G Decoding in the firmware setup, update the firmware; else "
            "boot with pci=realloc (memory) or pci=assign-busses (bus numbers).",
            "sriov",
        ),
        stems="sr-iov",
        examples=(
            "pci 0000:03:00.0: not enough MMIO resources for SR-IOV",
            "pci 0000:03:00.0: SR-IOV: bus number out of range",
        ),
        source="Linux drivers/pci/iov.c",
    ),
    message(
        Kind.FAULT,
        "bar-not-claimed",
        r"can't claim bar \d+",
        Cause(
            "The kernel could not place a memory window of the device where the firmware put it; "
            "vfio-pci cannot map what is not there.",
            "Enable Above 4G Decoding, update the firmware, or boot with pci=realloc; then: "
            "vfioctl check",
            "bar-and-rom",
        ),
        stems="can't claim bar",
        examples=("can't claim BAR 0 [mem 0xf0000000-0xf7ffffff]: no compatible bridge window",),
        source="Linux drivers/pci/setup-res.c",
    ),
    message(
        Kind.FAULT,
        "kvm-forbidden",
        r"failed to initialize kvm: permission denied|could not access kvm kernel module: "
        r"permission denied",
        Cause(
            "The user who starts the VM may not use /dev/kvm.",
            "Add the user to the group kvm (sudo usermod -aG kvm USER) and log in again.",
            "cpu-virtualization",
        ),
        stems="permission denied",
        examples=(
            "qemu-system-x86_64: failed to initialize kvm: Permission denied",
            "Could not access KVM kernel module: Permission denied",
        ),
        source="QEMU accel/kvm/kvm-all.c",
    ),
)
