"""What libvirt says about host devices. Wordings: libvirt 1.0 to 10, src/util/virpci.c, src/qemu.

Translated messages are not recognised: set LC_ALL=C and try again.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import ANY, Cause, Kind, Message, message

_Q = r"[^\w\n]{0,4}"
_PCI = "libvirt src/util/virpci.c"
_HOSTDEV = "libvirt src/hypervisor/virhostdev.c"

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "libvirt-no-passthrough",
        r"host doesn.{1,3}t support (?:passthrough of host PCI devices|VFIO PCI)",
        Cause(
            "libvirt sees no IOMMU groups or no VFIO on this host: DMA remapping is off in this "
            "boot, or vfio-pci is not loaded.",
            "vfioctl check: iommu-active first, then vfio-modules.",
            "iommu-active",
        ),
        stems="host doesn",
        examples=(
            "unsupported configuration: host doesn't support passthrough of host PCI devices",
        ),
        source="libvirt src/qemu/qemu_hostdev.c",
        follows=("iommu-switched-off", "no-dmar-table", "iommu-failed", "vfio-module-missing"),
    ),
    message(
        Kind.FAULT,
        "libvirt-no-bus-reset",
        r"Active [^\n]{1,60}devices on bus with [^\n]{1,40}not doing bus reset"
        r"|Active [^\n]{1,60}devices on bus[^\n]{0,60}not doing bus reset",
        Cause(
            "The device can only be reset together with its bus, and the host (or another VM) "
            "uses another function there.",
            "Pass the whole slot to the one VM, all functions in one multifunction device; or use "
            "another slot.",
            "reset-capability",
        ),
        stems="not doing bus reset",
        examples=(
            "internal error: Active 0000:01:00.1 devices on bus with 0000:01:00.0, not doing bus "
            "reset",
        ),
        source=f"{_PCI} virPCIDeviceTrySecondaryBusReset()",
    ),
    message(
        Kind.FAULT,
        "libvirt-cannot-reset",
        r"Unable to reset PCI device [^\n]{1,80}|no FLR, PM reset or bus reset available",
        Cause(
            "libvirt found no way to reset the device before giving it to the VM.",
            "See its class of reset: vfioctl device show ADDRESS. A current libvirt with VFIO "
            "leaves resets to the kernel.",
            "reset-capability",
        ),
        stems="unable to reset|bus reset available",
        examples=(
            "internal error: Unable to reset PCI device 0000:01:00.0: no FLR, PM reset or bus "
            "reset available",
        ),
        source=f"{_PCI} virPCIDeviceReset()",
        follows=("libvirt-no-bus-reset", "not-ready-gave-up"),
    ),
    message(
        Kind.FAULT,
        "libvirt-in-use",
        r"PCI device \S{7,16} is in use(?: by driver \w+, domain \S+)?",
        Cause(
            "Another VM of this host has the device now.",
            "Stop that VM, or take the device out of one of the two: vfioctl vm lint",
            "device-holders",
        ),
        stems="is in use",
        examples=(
            "Requested operation is not valid: PCI device 0000:01:00.0 is in use by driver QEMU, "
            "domain win10",
        ),
        source=_HOSTDEV,
    ),
    message(
        Kind.FAULT,
        "libvirt-not-assignable",
        r"PCI device \S{7,16} is not assignable|behind a switch lacking ACS and cannot be assigned",
        Cause(
            "A switch above the device lacks ACS: devices below it could reach each other past the "
            "IOMMU, so libvirt refuses.",
            "Use a slot on a root port of its own; switching the test off (relaxed ACS check) is a "
            "risk decision to write down.",
            "group-isolation",
        ),
        stems="not assignable|lacking acs",
        examples=(
            "Requested operation is not valid: PCI device 0000:05:00.0 is not assignable",
            "Device 0000:05:00.0 is behind a switch lacking ACS and cannot be assigned",
        ),
        source=f"{_PCI}, {_HOSTDEV}",
    ),
    message(
        Kind.FAULT,
        "libvirt-unmanaged",
        r"Unmanaged PCI device \S{7,16} must be manually detached",
        Cause(
            "The VM says managed='no' for a device that is still on a driver of the host.",
            "managed='yes' in the hostdev, or: virsh nodedev-detach pci_0000_01_00_0",
            "driver-binding",
        ),
        stems="manually detached",
        examples=("Unmanaged PCI device 0000:01:00.0 must be manually detached from the host",),
        source=_HOSTDEV,
    ),
    message(
        Kind.FAULT,
        "libvirt-cannot-bind",
        r"Failed to (?:bind|add|unbind) PCI device(?: ID)? [^\n]{1,80}"
        r"|failed to bind the device \S{7,16}",
        Cause(
            "libvirt could not take the device from its driver or give it to vfio-pci: the driver "
            "is busy with it, the module is missing, or there is no IOMMU.",
            "Read the kernel log at that time; then: vfioctl device show ADDRESS",
            "driver-binding",
        ),
        stems="bind|add pci device",
        examples=(
            "Failed to bind PCI device '0000:01:00.0' to vfio-pci: No such device",
            "Failed to add PCI device ID '10de 1e87' to vfio-pci: File exists",
        ),
        source=_PCI,
        follows=("vfio-probe-22", "vfio-probe-other", "vfio-module-missing"),
    ),
    message(
        Kind.FAULT,
        "libvirt-no-device",
        r"Device \S{7,16} not found: could not access"
        rf"|no (?:node device|nodedev) with matching name {_Q}pci_",
        Cause(
            "There is no function at the address that the VM's XML names: it moved or is gone.",
            "lspci -nn; virsh edit the VM and put in today's address: vfioctl vm lint",
            "vm-functions",
        ),
        stems="could not access|matching name",
        examples=(
            "Device 0000:77:00.0 not found: could not access /sys/bus/pci/devices/0000:77:00.0/"
            "config: No such file or directory",
            "Node device not found: no node device with matching name 'pci_0000_77_00_0'",
        ),
        source=_PCI,
    ),
    message(
        Kind.FAULT,
        "libvirt-no-group",
        r"iommu_group file \S{1,120} is not a symlink"
        r"|(?:Invalid|invalid) device \S{7,16} iommu_group",
        Cause(
            "The device has no IOMMU group: DMA remapping is off in this boot.",
            "Enable VT-d or AMD-Vi in the firmware setup, on Intel add intel_iommu=on, reboot.",
            "iommu-active",
        ),
        stems="iommu_group",
        examples=(
            "internal error: Invalid device 0000:01:00.0 iommu_group file "
            "/sys/bus/pci/devices/0000:01:00.0/iommu_group is not a symlink",
        ),
        source=f"{_PCI} virPCIDeviceAddressGetIOMMUGroupNum()",
        follows=("iommu-switched-off", "no-dmar-table", "iommu-failed"),
    ),
    message(
        Kind.FAULT,
        "libvirt-bridge",
        r"Non-endpoint PCI devices cannot be assigned",
        Cause(
            "The address is a bridge. Bridges are never passed, only what is behind them.",
            "Name the device behind it: lspci -tnn shows the tree.",
            "group-isolation",
        ),
        stems="non-endpoint",
        examples=("Non-endpoint PCI devices cannot be assigned to guests",),
        source="libvirt src/conf/domain_conf.c, src/qemu",
    ),
    message(
        Kind.FAULT,
        "libvirt-memlock",
        r"cannot limit locked memory",
        Cause(
            "libvirt may not raise the limit of memory that the VM's process pins: it runs without "
            "root (a user session) or in a container.",
            "Run the VM in the system session (qemu:///system), or raise LimitMEMLOCK of the "
            "service.",
            "memory-headroom",
        ),
        stems="locked memory",
        examples=(
            "cannot limit locked memory of process 4212 to 9663676416: Operation not permitted",
        ),
        source="libvirt src/util/virprocess.c",
    ),
    message(
        Kind.FAULT,
        "vm-process-ended",
        r"process exited while connecting to monitor|qemu unexpectedly closed the monitor"
        r"|QEMU exited with code \d+|failed: exit code 1\b",
        Cause(
            "Only says that QEMU ended. The reason stands in the line that follows, or in QEMU's "
            "own log.",
            "sudo tail -n 50 /var/log/libvirt/qemu/NAME.log; on Proxmox run the command of qm "
            "showcmd ID by hand. Paste what it says here.",
        ),
        stems="connecting to monitor|closed the monitor|exited with code|exit code",
        examples=(
            "error: internal error: qemu unexpectedly closed the monitor",
            "internal error: process exited while connecting to monitor:",
            "start failed: QEMU exited with code 1",
        ),
        source="libvirt src/qemu/qemu_process.c; Proxmox qemu-server",
        follows=ANY,
    ),
)
