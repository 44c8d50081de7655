"""The seven symptoms of the field guide, each as the order in which to look for its root cause.

Data only. A step names a check; its FAIL explains the symptom, and so do the WARN codes that the
step lists. A FAIL that means something else than what was seen (the VM runs, and the code says that
it cannot start) is wrong all the same, but no cause of this symptom: the step lists it as `other`.
`because` names the checks that tell why that check failed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One check to look at. `causes` are WARN codes of it that explain the symptom by themselves.

    `because` are checks that say why this one failed; they are shown with it and never block.
    `other` are FAIL codes of it that contradict the symptom or have nothing to do with it.
    """

    check: str
    causes: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a person sees, where the guide speaks of it, the order, and what no host check sees.

    `beyond` are things to look at outside the host's evidence, each one sentence with its command.
    `displays` is True where only display functions (class 03xx) can show the symptom.
    """

    name: str
    title: str
    source: str
    steps: tuple[Step, ...]
    beyond: tuple[str, ...]
    displays: bool = False


_CMDLINE = ("kernel-cmdline",)
_MODULES = ("vfio-modules",)

_GROUP_NO_START = ("GROUP_NOT_VIABLE", "GROUP_BRIDGE_SPOILS")
_BINDING_NO_START = ("BINDING_HOST_DRIVER", "NOT_BOUND")
_VM_NO_START = (
    "VM_ENTRY_BROKEN",
    "VM_DEVICE_TWICE",
    "VM_DEVICE_MISSING",
    "MAPPING_STALE",
    "VM_NOT_BINDABLE",
    "VM_NOT_BOUND",
    "VM_VF_TOKEN",
    "VM_DEVICE_SHARED",
    "VM_MDEV_PARENT",
)
"""Codes that say that a VM with the device does not start: it runs, so they are not about it."""

_HOST_LOSES = ("VM_HOST_CRITICAL",)
_PCIE_NO_START = ("VM_PCIE_ON_I440FX",)
_LATER = ("MEMLOCK_LOW", "MEMORY_OVERCOMMITTED")
"""The next start or mapping fails; what runs is not touched."""

SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "wont-start",
        "The VM does not start: an IOMMU or VFIO error.",
        "mistake 1",
        (
            Step("cpu-virtualization"),
            Step("iommu-active", because=_CMDLINE),
            Step("interrupt-remapping", because=_CMDLINE),
            Step("group-isolation"),
            Step("host-critical"),
            Step("vfio-modules", causes=("VFIO_FORBIDDEN",)),
            Step("driver-binding", because=_MODULES),
            Step("reserved-regions"),
            Step("device-health"),
            Step("reset-history"),
            Step("device-holders", causes=("HOLDER_STALE",)),
            Step("sriov", causes=("SRIOV_MISSING", "SRIOV_VF_TOKEN")),
            Step("vm-functions"),
            Step("vm-machine"),
            Step("memory-headroom", causes=("MEMORY_TIGHT", "HUGEPAGES_TAKEN", "DMA_ENTRIES_LOW")),
            Step("vm-memory", causes=("VM_HUGEPAGES_ON_DEMAND",)),
            Step("vm-cpu", other=("VM_NOT_ACCELERATED",)),
        ),
        (
            "The message itself: start the VM by hand (qm start ID, virsh start NAME) and give "
            "what it says to: vfioctl diagnose --error -",
            "QEMU's own log: sudo tail -n 50 /var/log/libvirt/qemu/NAME.log, or journalctl -b -u "
            "pvedaemon on Proxmox",
            "Storage, network or licence of the VM: does it start with the device taken out?",
        ),
    ),
    Symptom(
        "device-missing",
        "The VM starts, but the device does not show up in the guest, or with errors.",
        "mistake 2",
        (
            Step(
                "vm-functions",
                causes=("VM_COMPANION_APART",),
                other=(*_VM_NO_START, *_HOST_LOSES),
            ),
            Step("device-functions", causes=("UNIT_HALF_BOUND",)),
            Step("driver-binding", because=_MODULES, other=_BINDING_NO_START),
            Step("sriov", causes=("SRIOV_MISSING", "SRIOV_VF_TOKEN")),
            Step("device-health", causes=("DEVICE_COLD",)),
            Step("bar-and-rom"),
            Step("vm-machine", causes=("VM_NOT_PCIE",), other=_PCIE_NO_START),
            Step("vm-guest-driver", causes=("VM_CODE_43", "VM_HIDES_KVM")),
        ),
        (
            "In a Linux guest: lspci -nnk (is it there, which driver?) and sudo dmesg",
            "In a Windows guest: Device Manager, the device's status text (Code 43, Code 12, Code "
            "28: no driver)",
            "The guest's driver: install the vendor's current one inside the guest",
        ),
    ),
    Symptom(
        "works-once",
        "Works once after boot, then fails until the host is rebooted.",
        "mistake 3",
        (
            Step("reset-capability", causes=("RESET_WEAK", "RESET_QUIRK")),
            Step("reset-history", causes=("RESET_PROBATION",)),
            Step("device-health", causes=("DEVICE_COLD",)),
            Step("device-functions", causes=("UNIT_HALF_BOUND",), other=("PF_HAS_VFS",)),
            Step("device-holders", causes=("HOLDER_STALE",)),
            Step("driver-binding", causes=("BINDING_NOT_PERSISTENT",), other=("PF_HAS_VFS",)),
            Step("iommu-faults", causes=("DMA_FAULTS", "PCIE_ERRORS")),
            Step("bar-and-rom", other=("BAR_UNASSIGNED", "FRAMEBUFFER_HOLDS_BAR")),
        ),
        (
            "The test that decides: start the VM, stop it, start it again without rebooting the "
            "host; then sudo dmesg | grep -e 'not ready' -e 'power state'",
            "Stop the VM from inside the guest (shut down) and by force: if only force breaks it, "
            "the guest's driver leaves the device in a bad state",
            "A full power-off against a warm reboot: if only power-off helps, the card keeps its "
            "state",
        ),
    ),
    Symptom(
        "host-freezes",
        "The host freezes at random under load.",
        "mistake 4",
        (
            Step(
                "interrupt-remapping",
                causes=("IRQ_REMAP_WEAK", "UNSAFE_INTERRUPTS"),
                because=_CMDLINE,
            ),
            Step("iommu-faults", causes=("DMA_FAULTS", "PCIE_ERRORS", "HARDWARE_ERRORS")),
            Step("host-critical"),
            Step("device-health", causes=("AER_NONFATAL",)),
            Step("reset-history", causes=("RESET_PROBATION",)),
            Step("acs-override", causes=("ACS_OVERRIDE",)),
            Step("memory-headroom", causes=("MEMORY_TIGHT", "HUGEPAGES_TAKEN"), other=_LATER),
            Step("reserved-regions"),
        ),
        (
            "The log of the boot that froze: sudo journalctl -k -b -1 | tail -n 100 (give it to: "
            "vfioctl diagnose --error -); nothing in it: netconsole or a serial console",
            "The BMC's event log (ipmitool sel list), the firmware's version against the vendor's "
            "newest",
            "Memory and processor at standard speeds; another slot; the power supply and the "
            "card's power cables",
        ),
    ),
    Symptom(
        "slow",
        "Passthrough works, but it is slow: stutter, latency, lost packets.",
        "mistake 5",
        (
            Step("host-contention", causes=("HOST_CONTENDED",)),
            Step("vm-cpu", causes=("VM_CPU_GENERIC",)),
            Step("interrupt-distribution", causes=("INTERRUPTS_ON_ONE_CPU",)),
            Step(
                "device-health",
                causes=("LINK_NARROW", "AER_CORRECTABLE", "AER_NONFATAL"),
                other=("DEVICE_DEAD",),
            ),
            Step("iommu-faults", causes=("DMA_FAULTS", "PCIE_ERRORS", "HARDWARE_ERRORS")),
            Step("memory-headroom", causes=("MEMORY_TIGHT", "HUGEPAGES_TAKEN"), other=_LATER),
            Step(
                "vm-memory",
                causes=("VM_BALLOON", "VM_HUGEPAGES_ON_DEMAND"),
                other=("VM_HUGEPAGES_SHORT",),
            ),
            Step("vm-machine", causes=("VM_NOT_PCIE",), other=_PCIE_NO_START),
        ),
        (
            "The storage under the guest while it is slow: iostat -x 1, pveperf, zpool iostat -v 1",
            "The host's processors while it is slow: top (steal, iowait), watch -n1 cat "
            "/proc/interrupts",
            "The same load on the host without a VM: if it is slow there too, it is not the "
            "passthrough",
        ),
    ),
    Symptom(
        "group-with-everything",
        "The device shares its IOMMU group with half of the board.",
        "mistake 6",
        (
            Step("iommu-active", because=_CMDLINE),
            Step("group-isolation", causes=("ACS_OVERRIDE",)),
            Step("acs-override", causes=("ACS_OVERRIDE", "ACS_OVERRIDE_PENDING")),
            Step("host-critical", other=("HOST_CRITICAL",)),
            Step("device-functions", other=("PF_HAS_VFS",)),
        ),
        (
            "The board's manual: which slots hang on the processor and which on the chipset",
            "The same card in another slot, and firmware settings for PCIe bifurcation, ACS, ARI; "
            "then: vfioctl check",
            "What the group was before: vfioctl diff OLD NEW between two collected files",
        ),
    ),
    Symptom(
        "black-screen",
        "The VM runs, but its passed GPU shows no picture.",
        "FAQ 9",
        (
            Step("group-isolation", causes=("ACS_OVERRIDE",), other=_GROUP_NO_START),
            Step("driver-binding", because=_MODULES, other=(*_BINDING_NO_START, "PF_HAS_VFS")),
            Step(
                "vm-functions",
                causes=("VM_COMPANION_APART",),
                other=(*_VM_NO_START, *_HOST_LOSES),
            ),
            Step("vm-machine", causes=("VM_SEABIOS", "VM_NOT_PCIE"), other=_PCIE_NO_START),
            Step("reset-capability", causes=("RESET_QUIRK",)),
            Step("reset-history", causes=("RESET_PROBATION",)),
            Step("device-health", causes=("DEVICE_COLD",)),
            Step("vm-guest-driver", causes=("VM_CODE_43", "VM_HIDES_KVM")),
            Step("bar-and-rom", causes=("BOOT_DISPLAY",)),
            Step("vm-display-rom", causes=("VM_ROM_SHADOWED", "VM_ROM_HIDDEN")),
        ),
        (
            "Is the guest alive? Reach it by SSH or RDP; then it is the picture alone",
            "The cable: the monitor must be on the passed card, not on the board",
            "Only now a clean ROM file for the card (romfile=), and a cold start of the host "
            "between two tries",
        ),
        displays=True,
    ),
)
"""In the order of CHECKS.md. Source: the field guide's mistakes 1 to 6 and FAQ 9."""


def find_symptom(name: str) -> Symptom | None:
    """The symptom of that name."""
    return next((s for s in SYMPTOMS if s.name == name), None)


_HOMES = {
    "reset-capability": "works-once",
    "reset-history": "works-once",
    "device-health": "works-once",
    "iommu-faults": "host-freezes",
    "bar-and-rom": "black-screen",
}
"""Where a check that several symptoms look at is most at home."""


def symptom_for(check: str) -> Symptom | None:
    """The symptom to go on with when a message speaks of that check."""
    if check in _HOMES:
        return find_symptom(_HOMES[check])
    return next((s for s in SYMPTOMS if any(step.check == check for step in s.steps)), None)


def symptom_of(check: str, code: str) -> Symptom | None:
    """The first symptom that this failure of that check explains."""
    return next(
        (
            symptom
            for symptom in SYMPTOMS
            for step in symptom.steps
            if step.check == check and code not in step.other
        ),
        None,
    )
