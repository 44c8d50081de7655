"""What Proxmox VE says about `hostpci` devices. Wordings: qemu-server and pve-common, 6 to 9."""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_PCI = "qemu-server PVE/QemuServer/PCI.pm"
_Q = r"[^\w\n]{0,3}"

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "pve-no-iommu",
        r"(?:cannot prepare PCI pass-?through, )?IOMMU not present",
        Cause(
            "There are no IOMMU groups in this boot: DMA remapping is off.",
            "Enable VT-d or AMD-Vi in the firmware setup; on Intel add intel_iommu=on to "
            "/etc/kernel/cmdline (proxmox-boot-tool refresh) or GRUB (update-grub), reboot.",
            "iommu-active",
        ),
        stems="iommu not present",
        examples=("TASK ERROR: cannot prepare PCI pass-through, IOMMU not present",),
        source=_PCI,
        follows=("iommu-switched-off", "no-dmar-table", "iommu-failed", "gart-only"),
    ),
    message(
        Kind.FAULT,
        "pve-mapping-invalid",
        r"PCI device mapping (?:invalid|not found)",
        Cause(
            "The resource mapping names what this node no longer has: an address, ids, or the "
            "group's number, which alone changes easily after an update, without anything broken.",
            "vfioctl vm lint names the edit; Datacenter, Resource Mappings: pick the device again. "
            "If the group has new members, judge that first: vfioctl check",
            "vm-functions",
        ),
        stems="device mapping",
        examples=(
            "PCI device mapping invalid (hardware probably changed): missing expected property "
            "'iommugroup' for device '0000:01:00'",
            "PCI device mapping not found for 'gpu0'",
        ),
        source="pve-guest-common PVE/Mapping/PCI.pm",
    ),
    message(
        Kind.FAULT,
        "pve-in-use",
        rf"already in use by VMID {_Q}\d+",
        Cause(
            "Another VM of this node has (or had, and did not end cleanly) this device.",
            "qm status of that VM; stop it, or take the device out of one of the two. A stale "
            "reservation ends with: qm stop ID",
            "device-holders",
        ),
        stems="in use by vmid",
        examples=("PCI device '0000:01:00.0' already in use by VMID '101'",),
        source=_PCI,
    ),
    message(
        Kind.FAULT,
        "pve-twice",
        r"(?:device|hostpci)[^\n]{1,40}assigned more than once",
        Cause(
            "The VM names the device twice. host=01:00 means all functions of the slot already, so "
            "another entry 01:00.1 doubles it.",
            "Keep one of the two: hostpci0: 01:00,pcie=1 is enough for a GPU and its audio.",
            "vm-functions",
        ),
        stems="more than once",
        examples=("PCI device '0000:01:00.1' assigned more than once",),
        source=_PCI,
    ),
    message(
        Kind.FAULT,
        "pve-no-device",
        r"no pci device (?:info|found) for (?:device )?",
        Cause(
            "There is no function at the address that hostpci names: it moved or is gone.",
            "lspci -nn; put today's address into the VM: vfioctl vm lint",
            "vm-functions",
        ),
        stems="no pci device",
        examples=("no pci device info for device '0000:77:00.0'",),
        source=_PCI,
        follows=("slot-lost",),
    ),
    message(
        Kind.FAULT,
        "pve-cannot-bind",
        r"can.t unbind/bind (?:PCI|pci) (?:group|device)",
        Cause(
            "Proxmox unbinds every function of the group at start and could not: there is no "
            "group, a driver holds on, or vfio-pci refuses.",
            "Read the kernel log at that time. Look who is in the group before you try again: "
            "Proxmox takes the host's own controller along.",
            "group-isolation",
        ),
        stems="can't unbind/bind|unbind/bind",
        examples=("can't unbind/bind PCI group to VFIO '0000:01:00.0'",),
        source=_PCI,
        follows=("vfio-probe-22", "vfio-probe-other", "vfio-module-missing"),
    ),
    message(
        Kind.FAULT,
        "pve-cannot-reset",
        rf"can.t reset (?:PCI|pci) device {_Q}",
        Cause(
            "Proxmox could not reset the device before the VM's start.",
            "See its class of reset and its history: vfioctl device show ADDRESS",
            "reset-capability",
        ),
        stems="can't reset|reset pci device",
        examples=("can't reset PCI device '0000:01:00.0'",),
        source=_PCI,
        follows=("not-ready-gave-up", "device-inaccessible", "reset-not-alone"),
    ),
    message(
        Kind.RISK,
        "pve-reset-skipped",
        rf"failed to reset PCI device {_Q}\S{{4,16}}{_Q}, but trying to continue",
        Cause(
            "The function has no reset of its own; Proxmox goes on, because VFIO may still reset "
            "the whole slot. Alone it is no failure.",
            "If the VM works every time: nothing. If it works once: vfioctl diagnose --symptom "
            "works-once",
            "reset-capability",
        ),
        stems="trying to continue",
        examples=(
            "failed to reset PCI device '0000:02:00.0', but trying to continue as not all devices "
            "need a reset",
        ),
        source=_PCI,
        follows=("not-ready-gave-up", "device-inaccessible"),
    ),
    message(
        Kind.FAULT,
        "pve-not-q35",
        r"q35 machine model is not enabled",
        Cause(
            "pcie=1 needs a VM board with PCI Express; this VM has the older i440fx.",
            "machine: q35 in the VM's options (Windows may ask for activation once).",
            "vm-machine",
        ),
        stems="q35 machine model",
        examples=("q35 machine model is not enabled at /usr/share/perl5/PVE/QemuServer/PCI.pm",),
        source=_PCI,
    ),
    message(
        Kind.FAULT,
        "pve-hugepages",
        r"hugepage allocation failed",
        Cause(
            "There are not enough free huge pages of that size (on that NUMA node) for the VM.",
            "Reserve them at boot (hugepages= on the command line), or take hugepages off the VM.",
            "vm-memory",
        ),
        stems="hugepage",
        examples=("hugepage allocation failed at /usr/share/perl5/PVE/QemuServer/Memory.pm",),
        source="qemu-server PVE/QemuServer/Memory.pm",
    ),
    message(
        Kind.FAULT,
        "pve-start-timeout",
        r"failed: got timeout|VM \d+ qmp command [^\n]{0,80}timeout",
        Cause(
            "QEMU took longer to start than Proxmox waits. With a device all of the VM's memory is "
            "pinned first, which takes long for much memory; or a reset hangs.",
            "Look for 'not ready' in the kernel log. Otherwise huge pages, or a longer wait: qm "
            "start ID --timeout 300",
            "vm-memory",
        ),
        Cause(
            "Or the device's reset hangs and QEMU waits for it.",
            "vfioctl check shows the resets of this boot.",
            "reset-history",
        ),
        stems="got timeout|qmp command",
        examples=("start failed: command '/usr/bin/kvm -id 101 -name win11' failed: got timeout",),
        source="qemu-server PVE/QemuServer.pm",
        follows=("not-ready-gave-up", "memlock-exceeded"),
    ),
    message(
        Kind.FAULT,
        "pve-no-migration",
        r"can(?:.t|not) migrate (?:running )?VM (?:which uses|with) local (?:devices|resources)"
        r"|can.t migrate VM which uses local",
        Cause(
            "A VM with a passed device cannot move while it runs: the device's state stays here.",
            "Shut it down, move it, start it there; or use a mapping that exists on both nodes and "
            "is marked live-migration-capable, if the device's driver can do that.",
        ),
        stems="migrate",
        examples=("can't migrate VM which uses local devices: hostpci0",),
        source="qemu-server PVE/QemuMigrate.pm",
    ),
)
