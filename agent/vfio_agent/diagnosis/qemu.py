"""What QEMU says when a device cannot be given to a VM, and the guest when it does not like it.

The same words with another errno have another cause, so the errno belongs to the pattern. Wordings:
QEMU 2.5 to 9, hw/vfio; guests' drivers.

Length: one catalogue of one program's messages, kept in one place.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_OPEN = r"open(?:ing)? ?[^\w/\n]{0,3}/dev/"
_GROUP_FILE = _OPEN + r"vfio/(?:noiommu-)?(?:\d+|N\b|devices/vfio\d+)"
_QEMU = "QEMU hw/vfio"
_NO_GROUP = Cause(
    "The device has no IOMMU group: DMA remapping is off in this boot. That is about firmware and "
    "the kernel's command line, not about QEMU.",
    "Enable VT-d or AMD-Vi in the firmware setup, on Intel add intel_iommu=on, reboot, vfioctl "
    "check. Leave VM arguments alone until iommu-active passes.",
    "iommu-active",
)
_OFF = ("iommu-switched-off", "no-dmar-table", "iommu-failed", "gart-only", "vfio-probe-22")
_MEMORY = Cause(
    "All memory of a VM with a device is pinned; the process may not pin that much (memlock), or "
    "the host does not have it free.",
    "Raise the limit (LimitMEMLOCK=infinity, libvirt <memtune><hard_limit>), or give the VM less "
    "memory; no ballooning.",
    "memory-headroom",
)

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "no-such-device",
        r"no such host device",
        Cause(
            "There is no function at that address on this host: a typing mistake, or addresses "
            "moved after a firmware update, a new card, or a dead one.",
            "lspci -nn; put today's address into the VM's configuration: vfioctl vm lint",
            "vm-functions",
        ),
        stems="no such host device",
        examples=(
            "vfio /sys/bus/pci/devices/0000:77:00.0: no such host device: No such file or "
            "directory",
        ),
        source=f"{_QEMU}/pci.c",
        follows=("slot-lost",),
    ),
    message(
        Kind.FAULT,
        "no-group",
        r"no iommu_group found|failed to get iommu_group|no iommu_group",
        _NO_GROUP,
        stems="iommu_group",
        examples=(
            "vfio 0000:01:00.0: no iommu_group found: No such file or directory",
            "vfio: error no iommu_group for device",
        ),
        source=f"{_QEMU}/container.c",
        follows=_OFF,
    ),
    message(
        Kind.FAULT,
        "group-not-viable",
        r"group \d+ is not viable|Please ensure all devices within the iommu_group are bound"
        r"|VFIO_GROUP_GET_STATUS[^\n]{0,60}flags=0x0",
        Cause(
            "Another function of the same IOMMU group is on a driver of the host. VFIO hands over "
            "whole groups only. From kernel 5.19 a bridge on a driver like shpchp counts too.",
            "See who is in the group and on which driver: vfioctl check. Bind those functions to "
            "vfio-pci (never one that the host needs), unbind such a bridge, or use another slot.",
            "group-isolation",
        ),
        stems="is not viable|iommu_group are bound|get_status",
        examples=(
            "vfio 0000:0b:00.0: group 21 is not viable",
            "Please ensure all devices within the iommu_group are bound to their vfio bus driver.",
            "vfio: error, group 12 is not viable, please ensure all devices within the iommu_group "
            "are bound to their vfio bus driver.",
            "VFIO_GROUP_GET_STATUS: flags=0x0 (VIABLE bit clear)",
        ),
        source=f"{_QEMU}/container.c; VFIO's uapi",
    ),
    message(
        Kind.FAULT,
        "set-container-refused",
        r"(?:VFIO_GROUP_SET_CONTAINER|failed to set group(?: \d+)? container|error setting "
        r"container)[^\n]{0,60}(?:Operation not permitted|EPERM|Errno 1\b)",
        Cause(
            "The group may not be used yet: one of its functions is on a driver of the host (the "
            "group is not viable).",
            "See who is in the group: vfioctl check; bind or unbind the one that is named.",
            "group-isolation",
        ),
        stems="container",
        examples=(
            "VFIO_GROUP_SET_CONTAINER: EPERM (1)",
            "vfio: failed to set group container: Operation not permitted",
        ),
        source="VFIO's uapi; QEMU hw/vfio/common.c",
    ),
    message(
        Kind.FAULT,
        "group-busy",
        _GROUP_FILE + r"[^\n]{0,60}(?:Device or resource busy|EBUSY|Errno 16\b)",
        Cause(
            "Somebody else has the group open: a VM that still runs, a QEMU process that did not "
            "end, or another program. Only one may have it.",
            "Who: sudo vfioctl check, or sudo lsof /dev/vfio/*. Stop that VM cleanly; if its "
            "process cannot be ended, keep the kernel log first: the device may be wedged.",
            "device-holders",
        ),
        stems="busy",
        examples=(
            "vfio 0000:01:00.0: Could not open '/dev/vfio/14': Device or resource busy",
            "vfio: error opening /dev/vfio/1: Device or resource busy",
            "open /dev/vfio/N: EBUSY (16)",
        ),
        source=f"{_QEMU}/container.c",
        follows=("device-still-used",),
    ),
    message(
        Kind.FAULT,
        "group-not-there",
        _GROUP_FILE + r"[^\n]{0,60}(?:No such file or directory|ENOENT|Errno 2\b)",
        Cause(
            "The group's file appears only when a function of the group is on vfio-pci: this one "
            "is not bound (a host driver has it, or none).",
            "lspci -nnk -s ADDRESS; bind it (vfio-pci ids in modprobe.d, update-initramfs -u, "
            "reboot), or let libvirt do it: managed='yes'.",
            "driver-binding",
        ),
        stems="no such file|enoent|errno 2",
        examples=(
            "vfio 0000:07:00.0: Could not open '/dev/vfio/19': No such file or directory",
            "vfio: error opening /dev/vfio/1: No such file or directory",
        ),
        source=f"{_QEMU}/container.c",
        follows=("vfio-probe-22", "vfio-probe-other", "vfio-module-missing"),
    ),
    message(
        Kind.FAULT,
        "group-permission",
        _OPEN + r"(?:vfio/|iommu)[^\n]{0,80}(?:Permission denied|EACCES|Errno 13\b)",
        Cause(
            "QEMU does not run as root and the file belongs to root. The device is fine.",
            "Start the VM through libvirt's system session or Proxmox; or give the user the file "
            "with a udev rule (SUBSYSTEM=='vfio', OWNER=...) and raise its memlock limit.",
        ),
        stems="permission denied|eacces|errno 13",
        examples=("vfio 0000:01:00.0: Could not open '/dev/vfio/14': Permission denied",),
        source=f"{_QEMU}/container.c",
    ),
    message(
        Kind.FAULT,
        "vfio-not-loaded",
        _OPEN + r"(?:vfio/vfio|iommu)\b[^\n]{0,60}No such file",
        Cause(
            "VFIO's own file is not there: its modules are not loaded in this kernel.",
            "sudo modprobe vfio-pci; to have it at every boot: a line vfio-pci in "
            "/etc/modules-load.d/vfio.conf",
            "vfio-modules",
        ),
        stems="/dev/vfio/vfio|/dev/iommu",
        examples=("vfio 0000:01:00.0: failed to open /dev/vfio/vfio: No such file or directory",),
        source=f"{_QEMU}/container.c, iommufd.c",
        follows=("vfio-module-missing",),
    ),
    message(
        Kind.FAULT,
        "set-iommu-refused",
        r"(?:failed to set iommu for container|VFIO_SET_IOMMU)[^\n]{0,60}"
        r"(?:Operation not permitted|EPERM|Errno 1\b)",
        Cause(
            "Most often interrupt remapping is off and VFIO does not give a device without it. "
            "The kernel log then says 'No interrupt remapping support'.",
            "Enable interrupt remapping in the firmware setup and take intremap=off off the "
            "command line. Not by QEMU arguments.",
            "interrupt-remapping",
        ),
        Cause(
            "Or the firmware keeps memory mapped for this device (RMRR). The kernel log then says "
            "'Device is ineligible for IOMMU domain attach'.",
            "Switch the vendor's sharing off for that slot, or use another slot or card.",
            "reserved-regions",
        ),
        stems="set iommu for container|vfio_set_iommu",
        examples=(
            "vfio 0000:01:00.0: failed to setup container for group 7: Failed to set iommu for "
            "container: Operation not permitted",
            "VFIO_SET_IOMMU: EPERM",
        ),
        source=f"{_QEMU}/container.c; Linux vfio_iommu_type1.c",
        follows=("vfio-no-irq-remapping", "rmrr-ineligible", "irq-remapping-failed"),
    ),
    message(
        Kind.FAULT,
        "no-iommu-model",
        r"No available IOMMU models|no IOMMU detected"
        r"|failed to set iommu for container: (?:Invalid argument|No such device)",
        Cause(
            "VFIO has no IOMMU backend to use: the module vfio_iommu_type1 is not loaded.",
            "sudo modprobe vfio_iommu_type1; then: vfioctl check",
            "vfio-modules",
        ),
        Cause(
            "Or there is no working IOMMU at all in this boot.",
            "Enable VT-d or AMD-Vi in the firmware setup, on Intel add intel_iommu=on, reboot.",
            "iommu-active",
        ),
        stems="iommu",
        examples=(
            "vfio 0000:01:00.0: failed to setup container for group 7: No available IOMMU models",
            "failed to set iommu for container: Invalid argument",
        ),
        source=f"{_QEMU}/container.c",
        follows=("vfio-module-missing", *_OFF),
    ),
    message(
        Kind.FAULT,
        "map-no-memory",
        r"(?:vfio_\w{0,24}dma_map\([^\n)]{0,120}\) = -12|VFIO_(?:IOMMU_)?MAP_DMA[^\n]{0,40}"
        r"(?:Cannot allocate memory|ENOMEM|: -12\b))",
        _MEMORY,
        stems="dma_map|map_dma",
        examples=(
            "vfio_dma_map(0x55d1c0, 0x0, 0x80000000, 0x7f1e40000000) = -12 (Cannot allocate "
            "memory)",
            "VFIO_MAP_DMA failed: Cannot allocate memory",
        ),
        source=f"{_QEMU}/common.c",
        follows=("memlock-exceeded",),
    ),
    message(
        Kind.FAULT,
        "map-invalid",
        r"(?:vfio_\w{0,24}dma_map\([^\n)]{0,120}\) = -22|VFIO_(?:IOMMU_)?MAP_DMA[^\n]{0,40}"
        r"(?:Invalid argument|EINVAL|: -22\b))",
        Cause(
            "The guest's address lies beyond what this IOMMU can map (many have 39 bits), or "
            "inside a reserved region. Large BARs and much memory push addresses up.",
            "Give the guest's processor the host's width (host-phys-bits=on, "
            "host-phys-bits-limit=39), or less 64-bit MMIO.",
            "bar-and-rom",
        ),
        Cause(
            "Or the device's group has a reserved region in the guest's memory.",
            "See the regions: vfioctl check",
            "reserved-regions",
        ),
        stems="dma_map|map_dma",
        examples=(
            "vfio_container_dma_map(0x55d1c0, 0x380000000000, 0x400000, 0x7f1e4) = -22 (Invalid "
            "argument)",
        ),
        source=f"{_QEMU}/common.c",
    ),
    message(
        Kind.FAULT,
        "map-too-many",
        r"vfio_\w{0,24}dma_map\([^\n)]{0,120}\) = -28|VFIO_(?:IOMMU_)?MAP_DMA[^\n]{0,40}"
        r"No space left on device",
        Cause(
            "The guest made more DMA mappings than VFIO allows for one container (65,535): a "
            "vIOMMU in the guest, or very many small memory blocks.",
            "options vfio_iommu_type1 dma_entry_limit=... in modprobe.d, or huge pages.",
            "memory-headroom",
        ),
        stems="dma_map|map_dma",
        examples=("vfio_dma_map(0x55d1c0, 0x1000, 0x1000, 0x7f1e4) = -28 (No space left)",),
        source=f"{_QEMU}/common.c; Linux vfio_iommu_type1.c",
    ),
    message(
        Kind.RISK,
        "map-bad-address",
        r"(?:vfio_\w{0,24}dma_map\([^\n)]{0,120}\) = -14|VFIO_(?:IOMMU_)?MAP_DMA[^\n]{0,40}"
        r"Bad address)",
        Cause(
            "One device's memory could not be mapped for DMA by another (peer to peer). The VM "
            "works without it, unless its devices talk to each other directly.",
            "Nothing, unless GPUs in one VM must use each other. If it floods the log: look "
            "whether the host's framebuffer holds the BAR.",
            "bar-and-rom",
        ),
        stems="dma_map|map_dma",
        examples=("VFIO_MAP_DMA failed: Bad address",),
        source=f"{_QEMU}/common.c",
    ),
    message(
        Kind.FAULT,
        "no-reset-mechanism",
        r"no available reset mechanism|VFIO_DEVICE_RESET[^\n]{0,60}(?:EINVAL|Invalid argument)",
        Cause(
            "The device has no reset of its own. It goes from one VM to the next as the last one "
            "left it: works once, then black screen or errors.",
            "If the rest of its slot goes to the same VM, a bus reset can do it: pass all its "
            "functions. Else reboot the host between assignments, or use other hardware.",
            "reset-capability",
        ),
        stems="reset mechanism|vfio_device_reset",
        examples=(
            "vfio: Cannot reset device 0000:00:08.0, no available reset mechanism.",
            "VFIO_DEVICE_RESET: EINVAL",
        ),
        source=f"{_QEMU}/pci.c",
    ),
    message(
        Kind.FAULT,
        "reset-needs-group",
        r"Cannot reset device [^\n]{1,40}depends on group \d+ which is not owned",
        Cause(
            "The only reset of this device resets its whole bus, and a function there is in a "
            "group that this VM does not own.",
            "Pass the whole slot (or everything behind that bridge) to the same VM: vfioctl device "
            "show ADDRESS names the reset domain.",
            "reset-capability",
        ),
        stems="which is not owned",
        examples=(
            "vfio: Cannot reset device 0000:01:00.0, depends on group 15 which is not owned.",
        ),
        source=f"{_QEMU}/pci.c",
    ),
    message(
        Kind.FAULT,
        "hot-reset-failed",
        r"hot reset failed|failed to get hot reset info|vfio-pci [^\n]{0,30}reset failed",
        Cause(
            "The reset of the whole slot did not work: part of it is in use elsewhere, or the "
            "device does not come back.",
            "Read the kernel log at that time ('not ready', 'power state'): vfioctl check",
            "reset-history",
        ),
        stems="reset failed|hot reset",
        examples=("vfio: hot reset failed: Operation not permitted",),
        source=f"{_QEMU}/pci.c",
        follows=("not-ready-gave-up", "device-inaccessible"),
    ),
    message(
        Kind.FAULT,
        "stuck-in-d3",
        r"(?:Unable to|cannot) power on device, stuck in D3",
        Cause(
            "The device does not wake up: it is dead since the last VM, or has no power.",
            "Power the host off and on. If it happens after each VM stop, the reset is the "
            "problem, not the VM.",
            "device-health",
        ),
        stems="stuck in d3",
        examples=("vfio: Unable to power on device, stuck in D3",),
        source=f"{_QEMU}/pci.c vfio_pci_pre_reset()",
        follows=("not-ready-gave-up", "device-inaccessible", "power-state-refused"),
    ),
    message(
        Kind.FAULT,
        "get-device-failed",
        r"error getting device from group \d+|Verify all devices in group \d+ are bound",
        Cause(
            "The group could be opened, but this function could not be taken from it: it is not on "
            "vfio-pci, somebody has it, or (for a virtual function) a VF token is missing.",
            "vfioctl device show ADDRESS names the driver and the group; for a VF see also the "
            "check sriov.",
            "driver-binding",
        ),
        stems="from group|devices in group",
        examples=(
            "vfio 0000:03:10.0: error getting device from group 31: Permission denied",
            "Verify all devices in group 31 are bound to vfio-<bus> or pci-stub and not already in "
            "use",
        ),
        source=f"{_QEMU}/container.c",
        follows=("vf-token", "device-inaccessible", "power-state-refused"),
    ),
    message(
        Kind.HARMLESS,
        "kvm-device-missing",
        r"KVM VFIO device isn't created yet",
        Cause(
            "QEMU tidies up after a device that it did not get, before KVM knew of any: it is said "
            "beside the real cause.",
            "Look at the other lines of the same start: one of them names the cause.",
        ),
        stems="kvm vfio device",
        examples=("group ID 24: KVM VFIO device isn't created yet",),
        source=f"{_QEMU}/helpers.c vfio_kvm_device_del_fd(), QEMU 10; seen in the lab",
    ),
    message(
        Kind.FAULT,
        "intx-busy",
        r"Failed to (?:set ?up|setup) INTx fd: Device or resource busy"
        r"|signaling for interrupt INTX-0[^\n]{0,60}Device or resource busy",
        Cause(
            "The device's old interrupt line is shared with a device of the host, and this one "
            "cannot mask it.",
            "Use another slot, unbind the host's device on that line (cat /proc/interrupts), or "
            "pass a device that uses MSI.",
        ),
        stems="intx",
        examples=(
            "vfio: Error: Failed to setup INTx fd: Device or resource busy",
            "Failed to set up TRIGGER eventfd signaling for interrupt INTX-0: VFIO_DEVICE_SET_IRQS "
            "failure: Device or resource busy",
        ),
        source=f"{_QEMU}/pci.c",
    ),
    message(
        Kind.FAULT,
        "region-access-failed",
        r"vfio_region_(?:read|write)\([^\n)]{1,120}\) failed"
        r"|vfio_pci_(?:read|write)_config\([^\n)]{1,120}\) failed",
        Cause(
            "The guest used the device's memory and the host could not: the device sleeps, is "
            "wedged, or the host's framebuffer still holds that BAR.",
            "For the GPU that the host booted with: look at the framebuffer. After a VM stop: look "
            "at the resets.",
            "bar-and-rom",
        ),
        stems="vfio_region|vfio_pci_",
        examples=(
            "vfio_region_write(0000:01:00.0:region1+0x1d0070, 0x0,8) failed: Device or resource "
            "busy",
        ),
        source=f"{_QEMU}/common.c",
        follows=("bar-taken", "not-ready-gave-up", "device-inaccessible"),
    ),
    message(
        Kind.FAULT,
        "msix-outside-bar",
        r"MSIX PBA outside of specified BAR|hardware reports invalid configuration",
        Cause(
            "The device describes its own interrupts wrongly (or a dead one answers nonsense).",
            "See whether it answers at all: vfioctl device show ADDRESS. A newer QEMU knows more "
            "such devices.",
            "device-health",
        ),
        stems="invalid configuration|msix pba",
        examples=(
            "vfio 0000:04:00.0: hardware reports invalid configuration, MSIX PBA outside of "
            "specified BAR",
        ),
        source=f"{_QEMU}/pci.c",
    ),
    message(
        Kind.FAULT,
        "kvm-not-available",
        r"Could not access KVM kernel module|failed to initialize kvm: No such",
        Cause(
            "KVM is not available: the processor's virtualization is off in the firmware, the "
            "module is not loaded, or (Permission denied) the user may not use /dev/kvm.",
            "vfioctl check; enable VT-x or SVM in the firmware setup; for a permission add the "
            "user to the group kvm.",
            "cpu-virtualization",
        ),
        stems="kvm",
        examples=("Could not access KVM kernel module: No such file or directory",),
        source="QEMU accel/kvm",
        follows=("kvm-unusable",),
    ),
    message(
        Kind.FAULT,
        "guest-memory",
        r"cannot set up guest memory [^\n]{0,30}Cannot allocate memory"
        r"|unable to map backing store for guest RAM",
        Cause(
            "The VM's memory is not there: too little free, or no free huge pages of the size that "
            "the VM asks for.",
            "Give the VM less memory, or reserve the huge pages (and leave some for the host).",
            "vm-memory",
        ),
        stems="guest ram|guest memory",
        examples=(
            "cannot set up guest memory 'pc.ram': Cannot allocate memory",
            "unable to map backing store for guest RAM: Cannot allocate memory",
        ),
        source="QEMU softmmu, util/mmap-alloc.c",
    ),
    message(
        Kind.RISK,
        "rom-unreadable",
        r"Cannot read device rom at|Device option ROM contents are probably invalid"
        r"|failed to find romfile",
        Cause(
            "QEMU could not read the card's ROM: typical for the GPU that the host booted with.",
            "Only if the guest has no picture: rombar=0, or a clean ROM file by romfile=.",
            "vm-display-rom",
        ),
        stems="device rom|option rom|romfile",
        examples=(
            "vfio-pci: Cannot read device rom at 0000:01:00.0",
            "Device option ROM contents are probably invalid (check dmesg).",
            'failed to find romfile "vbios.bin"',
        ),
        source=f"{_QEMU}/pci.c",
    ),
    message(
        Kind.RISK,
        "mmap-failed",
        r"Failed to mmap \S{7,16} BAR \d+",
        Cause(
            "The device's memory must be reached the slow way. For the boot GPU the host's "
            "framebuffer holds it.",
            "Let go of the framebuffer: vfioctl check names who holds the BAR.",
            "bar-and-rom",
        ),
        stems="failed to mmap",
        examples=("Failed to mmap 0000:01:00.0 BAR 1. Performance may be slow",),
        source=f"{_QEMU}/common.c",
        follows=("bar-taken",),
    ),
    message(
        Kind.FAULT,
        "guest-code-43",
        r"\(Code 43\)|\bCode 43\b",
        Cause(
            "The guest's driver took the device and gave up: a half reset GPU, a missing function "
            "(GPU audio), an emulated processor model, or an old NVIDIA driver that refuses VMs.",
            "First: cold-start the host once and look whether it works then (reset). Then CPU type "
            "host and all functions. 'Hide KVM' tricks last.",
            "vm-guest-driver",
        ),
        stems="code 43",
        examples=("Windows has stopped this device because it has reported problems. (Code 43)",),
        source="Windows device manager; field guide step 15",
        follows=("not-ready-gave-up", "device-inaccessible", "no-reset-mechanism"),
    ),
    message(
        Kind.FAULT,
        "guest-code-12",
        r"\(Code 12\)|\bCode 12\b",
        Cause(
            "The guest found no room for the device's memory in its address space.",
            "OVMF instead of SeaBIOS, q35, and more 64-bit MMIO for large BARs "
            "(opt/ovmf/X-PciMmio64Mb).",
            "vm-machine",
        ),
        stems="code 12",
        examples=("This device cannot find enough free resources that it can use. (Code 12)",),
        source="Windows device manager",
    ),
    message(
        Kind.HARMLESS,
        "no-hotplug-bus",
        r"Bus .{0,3}pcie\.0.{0,3} does not support hotplugging",
        Cause(
            "The device sits directly on the VM's root bus, so it cannot be unplugged while the VM "
            "runs. It works.",
            "Nothing; for hot-plug put it behind a pcie-root-port.",
        ),
        stems="hotplugging",
        examples=("warning: vfio 0000:02:00.0: Bus 'pcie.0' does not support hotplugging",),
        source=f"{_QEMU}/pci.c; seen in the lab",
    ),
)
