"""What Linux's VFIO says, and module loaders about its modules.

Wordings: Linux 4.15 to 7.2, drivers/vfio, drivers/iommu/iommufd; kmod.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_CORE = "Linux drivers/vfio/pci/vfio_pci_core.c"
_HARMLESS_NEXT = "Nothing."
_NO_IOMMU = Cause(
    "If no device of this host has an IOMMU group: DMA remapping is off (firmware, command line), "
    "and vfio-pci can take nothing. Binding itself is fine.",
    "Enable VT-d or AMD-Vi in the firmware setup, on Intel add intel_iommu=on, reboot, vfioctl "
    "check. Leave driver settings and VM arguments alone until then.",
    "iommu-active",
)
_IS_BRIDGE = Cause(
    "If the address is a PCI bridge (a port, header type not 0): vfio-pci never takes bridges, "
    "and it need not: a bridge is not passed.",
    "Take the bridge out of the ids or the script; leave it on pcieport or without a driver.",
    "group-isolation",
)

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "vfio-no-irq-remapping",
        r"No interrupt remapping support\.|MSI interrupts are not secure, they cannot be isolated",
        Cause(
            "VFIO refuses: without interrupt remapping the VM could send any interrupt to the "
            "host through its device. QEMU then says 'Operation not permitted'.",
            "Enable interrupt remapping (VT-d, x2APIC) in the firmware setup, take intremap=off "
            "off the command line, update the firmware. allow_unsafe_interrupts=1 gives the "
            "protection up: only on a host whose VMs you all trust.",
            "interrupt-remapping",
        ),
        stems="interrupt remapping support|msi interrupts are not",
        examples=(
            "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param "
            '"allow_unsafe_interrupts" to enable VFIO IOMMU support on this platform',
            "iommufd: MSI interrupts are not secure, they cannot be isolated by the platform.",
        ),
        source="Linux drivers/vfio/vfio_iommu_type1.c, drivers/iommu/iommufd/device.c",
        follows=("irq-remapping-failed",),
    ),
    message(
        Kind.FAULT,
        "rmrr-ineligible",
        r"Device is ineligible for IOMMU domain attach due to platform RMRR requirement"
        r"|Firmware has requested this device have a 1:1 IOMMU mapping",
        Cause(
            "The firmware keeps memory of its own mapped for this device (RMRR), so the kernel "
            "gives it to no VM. Typical for RAID and network cards on HP and Dell servers.",
            "Switch the vendor's sharing off for that slot (HP: conrep RMRDS), update the "
            "firmware, or use another slot or card. There is no safe switch in Linux.",
            "reserved-regions",
        ),
        stems="rmrr|1:1 iommu",
        examples=(
            "vfio-pci 0000:04:00.0: Device is ineligible for IOMMU domain attach due to platform "
            "RMRR requirement.  Contact your platform vendor.",
            "vfio-pci 0000:04:00.0: Firmware has requested this device have a 1:1 IOMMU mapping, "
            "rejecting configuring the device without a 1:1 mapping. Contact your platform vendor.",
        ),
        source="Linux drivers/iommu/intel/iommu.c; drivers/iommu/iommu.c (6.12)",
    ),
    message(
        Kind.FAULT,
        "vfio-module-missing",
        r"Module vfio[-_](?:pci|iommu_type1|pci_core)\b[^\n]{0,30}not found"
        r"|Failed to find module .{0,3}vfio(?:[-_](?:pci|iommu_type1|pci_core))?(?![-_\w])"
        r"|Module vfio not found",
        Cause(
            "This kernel has no such VFIO module: its modules were not installed with it, or it is "
            "a kernel without VFIO.",
            "Boot the distribution's full kernel (linux-modules-extra on Ubuntu), then: "
            "sudo modprobe vfio-pci; vfioctl check",
            "vfio-modules",
        ),
        stems="vfio",
        examples=(
            "modprobe: FATAL: Module vfio-pci not found in directory /lib/modules/6.1.0",
            "Failed to find module 'vfio_iommu_type1'",
        ),
        source="kmod, systemd-modules-load",
    ),
    message(
        Kind.FAULT,
        "vfio-probe-22",
        r"vfio-pci: probe of \S{7,16} failed with error -22"
        r"|probe with driver vfio-pci failed with error -22",
        _NO_IOMMU,
        _IS_BRIDGE,
        stems="failed with error",
        examples=(
            "vfio-pci: probe of 0000:01:00.0 failed with error -22",
            "vfio-pci 0000:01:00.0: probe with driver vfio-pci failed with error -22",
        ),
        source="Linux drivers/base/dd.c; vfio_pci_core_register_device()",
        follows=("iommu-switched-off", "no-dmar-table", "iommu-failed", "gart-only"),
    ),
    message(
        Kind.FAULT,
        "vfio-probe-other",
        r"vfio-pci: probe of \S{7,16} failed with error -(?!22\b)\d+"
        r"|probe with driver vfio-pci failed with error -(?!22\b)\d+",
        Cause(
            "vfio-pci could not take this function: -16 it is busy, -19 it is gone, -12 no "
            "memory; -22 would mean no IOMMU or a bridge.",
            "See what the function is and who has it: vfioctl device show ADDRESS",
            "driver-binding",
        ),
        stems="failed with error",
        examples=("vfio-pci: probe of 0000:01:00.0 failed with error -16",),
        source="Linux drivers/base/dd.c",
    ),
    message(
        Kind.FAULT,
        "vfio-noiommu",
        r"vfio-noiommu device opened by user|Adding kernel taint for vfio-noiommu",
        Cause(
            "A device is used without any IOMMU (enable_unsafe_noiommu_mode). Nothing keeps it "
            "from overwriting the host; no VM can be protected.",
            "For VMs: enable the IOMMU instead and take enable_unsafe_noiommu_mode away.",
            "iommu-active",
        ),
        stems="vfio-noiommu",
        examples=(
            "vfio-pci 0000:01:00.0: vfio-noiommu device opened by user (dpdk-testpmd:4212)",
            "vfio-pci 0000:01:00.0: Adding kernel taint for vfio-noiommu group on device",
        ),
        source="Linux drivers/vfio",
    ),
    message(
        Kind.FAULT,
        "device-still-used",
        r"No device request channel registered, blocked until released by user"
        r"|Relaying device request to user",
        Cause(
            "Somebody unbinds, removes or hot-unplugs a device that a VM still has open. The host "
            "waits for the VM; the writing process hangs until then.",
            "Stop the VM or detach the device from it; do not kill the writer. Who has it: "
            "sudo vfioctl check",
            "device-holders",
        ),
        stems="device request",
        examples=(
            "vfio-pci 0000:01:00.0: No device request channel registered, blocked until released "
            "by user",
            "vfio-pci 0000:01:00.0: Relaying device request to user (#0)",
        ),
        source=f"{_CORE} vfio_pci_core_request()",
    ),
    message(
        Kind.FAULT,
        "vf-token",
        r"VF token (?:incorrectly provided|required)|Incorrect VF token provided",
        Cause(
            "The VF's physical function is on vfio-pci too, so whoever opens the VF must know the "
            "secret token that the owner of the physical function set.",
            "Give the same UUID to both: -device vfio-pci,host=...,vf-token=UUID. Or keep the "
            "physical function on the host's driver, which needs no token.",
            "sriov",
        ),
        stems="vf token",
        examples=(
            "vfio-pci 0000:03:10.0: VF token required to access device",
            "vfio-pci 0000:03:10.0: Incorrect VF token provided for device",
        ),
        source=f"{_CORE} vfio_pci_validate_vf_token()",
    ),
    message(
        Kind.FAULT,
        "vfs-already-enabled",
        r"\d+ VFs already enabled\. Disable before enabling \d+ VFs",
        Cause(
            "The number of virtual functions can only be changed from 0.",
            "Stop the VMs that have one, write 0 to sriov_numvfs, then the new number.",
            "sriov",
        ),
        stems="vfs already enabled",
        examples=("igb 0000:03:00.0: 2 VFs already enabled. Disable before enabling 1 VFs",),
        source="Linux drivers/pci/pci-sysfs.c sriov_numvfs_store()",
    ),
    message(
        Kind.FAULT,
        "bar-taken",
        r"BAR \d+[^\n]{0,80}: can.t reserve",
        Cause(
            "Something of the host sits on the device's memory: for a GPU nearly always the boot "
            "framebuffer (efifb, simplefb, BOOTFB), else a host driver that did not let go.",
            "See who: sudo cat /proc/iomem. For the boot GPU add video=efifb:off (kernels before "
            "5.15) or initcall_blacklist=sysfb_init, or let the firmware use another GPU.",
            "bar-and-rom",
        ),
        stems="can't reserve|reserve [",
        examples=(
            "vfio-pci 0000:01:00.0: BAR 1: can't reserve [mem 0xc0000000-0xcfffffff 64bit pref]",
            "vfio-pci 0000:01:00.0: BAR 1 [mem 0xc0000000-0xcfffffff]: can't reserve [mem "
            "0xc0000000-0xcfffffff]",
        ),
        source="Linux drivers/pci/pci.c pci_request_region()",
    ),
    message(
        Kind.HARMLESS,
        "bar-io-no-space",
        r"(?:BAR \d+|window) ?\[io [^\n]{0,60}(?:no space|failed to assign)"
        r"|BAR \d+: (?:no space for|failed to assign) \[io "
        r"|BAR 6: (?:no space for|failed to assign) \[mem ",
        Cause(
            "No room for a device's old I/O ports or its ROM. Nearly every machine says so at "
            "boot, and drivers of this century need neither.",
            _HARMLESS_NEXT,
            "bar-and-rom",
        ),
        stems="no space|failed to assign",
        examples=(
            "pci 0000:03:00.0: BAR 4 [io  size 0x0100]: can't assign; no space",
            "pcieport 0000:00:1c.0: BAR 13: no space for [io  size 0x1000]",
            "pci 0000:03:00.0: BAR 6: no space for [mem size 0x00100000 pref]",
            "pci 0000:00:1c.0: bridge window [io  size 0x1000]: failed to assign",
        ),
        source="Linux drivers/pci/setup-res.c",
    ),
    message(
        Kind.RISK,
        "bar-no-space",
        r"BAR \d+[^\n]{0,80}: (?:no space for|failed to assign|can.t assign; no space)",
        Cause(
            "There was no room for the device's memory where the firmware or the kernel first put "
            "it. If no 'assigned' follows, nobody can use that part, host or guest.",
            "See what it has now: lspci -vs ADDRESS. If a region is unassigned: enable 'Above 4G "
            "decoding' (and Resizable BAR only if needed) in the firmware setup, boot by UEFI; as "
            "a test add pci=realloc.",
            "bar-and-rom",
        ),
        stems="no space|failed to assign",
        examples=(
            "pci 0000:01:00.0: BAR 1: no space for [mem size 0x400000000 64bit pref]",
            "pci 0000:01:00.0: BAR 1 [mem size 0x400000000 64bit pref]: failed to assign",
        ),
        source="Linux drivers/pci/setup-res.c",
    ),
    message(
        Kind.FAULT,
        "memlock-exceeded",
        r"RLIMIT_MEMLOCK \(\d+\) exceeded|RLIMIT_MEMLOCK[^\n]{0,40}exceeded",
        Cause(
            "All memory of a VM with a device is pinned, and the process that runs it may pin no "
            "more. Each device behind a vIOMMU is charged again.",
            "Raise the limit for whoever starts the VM: LimitMEMLOCK=infinity in the unit, "
            "<memtune><hard_limit> in libvirt, ulimit -l unlimited for plain QEMU.",
            "memory-headroom",
        ),
        stems="rlimit_memlock",
        examples=("vfio_pin_pages_remote: RLIMIT_MEMLOCK (67108864) exceeded",),
        source="Linux drivers/vfio/vfio_iommu_type1.c",
    ),
    message(
        Kind.RISK,
        "rom-invalid",
        r"Invalid PCI ROM (?:header|data) signature",
        Cause(
            "The card's ROM cannot be read now: typical for the GPU that the host booted with, or "
            "for a device that sleeps or is wedged.",
            "Only if the guest has no picture: give the VM a clean ROM file (romfile=), or boot "
            "the host on another GPU. Otherwise nothing.",
            "vm-display-rom",
        ),
        stems="pci rom",
        examples=(
            "vfio-pci 0000:01:00.0: Invalid PCI ROM header signature: expecting 0xaa55, got 0xffff",
        ),
        source="Linux drivers/pci/rom.c",
    ),
    # --- harmless --------------------------------------------------------------------------------
    message(
        Kind.HARMLESS,
        "virqfd-missing",
        r"(?:Module|module) .{0,3}vfio[-_]virqfd\b",
        Cause(
            "vfio_virqfd is a part of vfio itself since kernel 6.2, so there is no such module to "
            "find. Old guides still list it.",
            "Take vfio_virqfd out of /etc/modules to have it quiet.",
            "vfio-modules",
        ),
        stems="virqfd",
        examples=(
            "Failed to find module 'vfio_virqfd'",
            "modprobe: FATAL: Module vfio_virqfd not found in directory /lib/modules/6.8.12-5-pve",
        ),
        source="systemd-modules-load, kmod; seen on Proxmox 8 with kernel 6.8",
    ),
    message(
        Kind.HARMLESS,
        "capability-hidden",
        r"hiding e?cap[ /]",
        Cause(
            "VFIO does not show this capability to the guest. It does so with every device.",
            _HARMLESS_NEXT,
        ),
        stems="hiding ",
        examples=(
            "vfio-pci 0000:01:00.0: vfio_ecap_init: hiding ecap 0x19@0x900",
            "vfio-pci 0000:01:00.0: vfio_cap_init: hiding cap 0x9@0xb4",
        ),
        source="Linux drivers/vfio/pci/vfio_pci_config.c",
    ),
    message(
        Kind.HARMLESS,
        "device-enabled",
        r"vfio-pci \S{7,16}: (?:enabling device|BAR \d+[^\n]{0,60}assigned)"
        r"|vfio[_-]pci: add \[[0-9a-f]{4}:|VFIO - User Level meta-driver version"
        r"|Masking broken INTx support|Captured SR-IOV VF",
        Cause(
            "Ordinary work: vfio-pci was loaded, took the device and gave it its addresses.",
            _HARMLESS_NEXT,
            "driver-binding",
        ),
        stems="vfio|broken intx|sr-iov vf",
        examples=(
            "vfio-pci 0000:01:00.0: enabling device (0000 -> 0003)",
            "vfio-pci 0000:01:00.0: BAR 0: assigned [mem 0xf6000000-0xf6ffffff 64bit]",
            "vfio_pci: add [10de:1e87[ffffffff:ffffffff]] class 0x000000/00000000",
            "VFIO - User Level meta-driver version: 0.3",
            "vfio-pci 0000:01:00.0: Masking broken INTx support",
            "vfio-pci 0000:03:00.0: Captured SR-IOV VF 0000:03:10.0 driver_override",
        ),
        source=_CORE,
    ),
    message(
        Kind.HARMLESS,
        "vga-arbitration",
        r"vgaarb: ",
        Cause(
            "The kernel decides which graphics card answers at the old VGA addresses. It does so "
            "on every machine, and again when vfio-pci takes a card.",
            _HARMLESS_NEXT,
        ),
        stems="vgaarb",
        examples=(
            "vfio-pci 0000:01:00.0: vgaarb: VGA decodes changed: olddecodes=io+mem,decodes=none",
            "i915 0000:00:02.0: vgaarb: deactivate vga console",
        ),
        source="Linux drivers/pci/vgaarb.c",
    ),
    message(
        Kind.HARMLESS,
        "nvidia-not-probed",
        r"NVRM: The NVIDIA probe routine was not called|NVRM: GPU \S{7,16} is already bound to "
        r"vfio-pci|NVRM: No NVIDIA devices probed",
        Cause(
            "The host's NVIDIA driver found the GPU taken by vfio-pci. For a GPU that is meant "
            "for a VM that is exactly right.",
            "Nothing; or blacklist the driver if every NVIDIA card of this host is passed.",
            "driver-binding",
        ),
        stems="nvrm",
        examples=(
            "NVRM: The NVIDIA probe routine was not called for 1 device(s).",
            "NVRM: GPU 0000:01:00.0 is already bound to vfio-pci.",
        ),
        source="NVIDIA's kernel driver",
    ),
)
