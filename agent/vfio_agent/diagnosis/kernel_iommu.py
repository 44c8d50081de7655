"""What Linux says about its IOMMU and about interrupt remapping.

Boot logs are full of lines that sound like proof and are none, and of warnings that mean nothing:
both are here, beside the few lines that decide. Wordings: Linux 4.15 to 7.2, drivers/iommu.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_INTEL = "Linux drivers/iommu/intel"
_AMD = "Linux drivers/iommu/amd"
_CORE = "Linux drivers/iommu/iommu.c"
_NO_PROOF_NEXT = "Look for the proof instead: vfioctl check"

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "iommu-switched-off",
        r"DMAR: IOMMU disabled|AMD-Vi: AMD IOMMU disabled",
        Cause(
            "The kernel was told to leave the IOMMU off: intel_iommu=off, amd_iommu=off or "
            "iommu=off is on its command line. No device can be passed in this boot.",
            "Take the word out of the boot loader's command line (GRUB: /etc/default/grub and "
            "update-grub; systemd-boot on Proxmox: /etc/kernel/cmdline and "
            "proxmox-boot-tool refresh), reboot, vfioctl check",
            "kernel-cmdline",
        ),
        stems="iommu disabled",
        examples=("DMAR: IOMMU disabled", "AMD-Vi: AMD IOMMU disabled on kernel command-line"),
        source=f"{_INTEL}/iommu.c intel_iommu_setup(), {_AMD}/init.c",
    ),
    message(
        Kind.FAULT,
        "no-dmar-table",
        r"DMAR: No DMAR devices found|DMAR: Parse DMAR table failure",
        Cause(
            "The firmware gave Linux no usable table of IOMMUs (ACPI DMAR): VT-d is switched off "
            "in the firmware, or the table is broken. No device can be passed.",
            "Enable VT-d (also called Directed I/O) in the firmware setup; it is not the same as "
            "VT-x. If it is on, update the firmware. Then: vfioctl check",
            "iommu-active",
        ),
        stems="dmar:",
        examples=("DMAR: No DMAR devices found", "DMAR: Parse DMAR table failure."),
        source=f"{_INTEL}/dmar.c",
    ),
    message(
        Kind.FAULT,
        "iommu-failed",
        r"DMAR: Initialization failed|DMAR: Failed to map [^\n]{0,60}registers"
        r"|AMD-Vi: (?:Error initialization|IVRS table error)",
        Cause(
            "The IOMMU is there and could not be started, so DMA is not remapped. Most often the "
            "firmware describes it wrongly.",
            "Update the firmware; if it stays, send the log's DMAR or AMD-Vi lines to the board's "
            "vendor. VM arguments cannot help.",
            "iommu-active",
        ),
        stems="dmar:|amd-vi",
        examples=("DMAR: Initialization failed", "AMD-Vi: Error initialization"),
        source=f"{_INTEL}/iommu.c, {_AMD}/init.c",
    ),
    message(
        Kind.FAULT,
        "gart-only",
        r"PCI-DMA: (?:using GART IOMMU|Calgary IOMMU)",
        Cause(
            "The only remapping hardware in use is an old GART (or Calgary). It isolates nothing "
            "and VFIO cannot use it.",
            "Enable AMD-Vi (IOMMU) in the firmware setup; a board without it cannot pass devices.",
            "iommu-active",
        ),
        stems="pci-dma:",
        examples=("PCI-DMA: using GART IOMMU.",),
        source="Linux arch/x86/kernel/amd_gart_64.c",
    ),
    message(
        Kind.FAULT,
        "irq-remapping-failed",
        r"DMAR-IR: Failed to enable irq remapping"
        r"|AMD-Vi: Disabling interrupt remapping"
        r"|Failed to enable interrupt remapping|Disabling IRQ remapping"
        r"|interrupt remapping is being disabled",
        Cause(
            "Interrupts of devices are not remapped in this boot. VFIO refuses to start a VM with "
            "a device, and a device could send any interrupt to the host.",
            "Enable VT-d/AMD-Vi and x2APIC in the firmware setup, update the firmware, take "
            "intremap=off off the command line, reboot. Do not reach for "
            "allow_unsafe_interrupts first.",
            "interrupt-remapping",
        ),
        stems="remapping",
        examples=(
            "DMAR-IR: Failed to enable irq remapping. You are vulnerable to irq-injection attacks.",
            "AMD-Vi: Disabling interrupt remapping",
            "feature unstable. To maintain system stability interrupt remapping is being disabled.",
        ),
        source=f"{_INTEL}/irq_remapping.c, {_AMD}/init.c",
    ),
    message(
        Kind.RISK,
        "ioapic-not-in-ivrs",
        r"IOAPIC\[\d+\] not in IVRS table|No southbridge IOAPIC found",
        Cause(
            "The firmware's table forgets an I/O APIC. The kernel then leaves interrupt "
            "remapping off on AMD, and VFIO refuses to start VMs.",
            "Update the firmware. See what came of it: vfioctl check",
            "interrupt-remapping",
        ),
        stems="ioapic",
        examples=(
            "[Firmware Bug]: AMD-Vi: IOAPIC[4] not in IVRS table",
            "[Firmware Bug]: AMD-Vi: No southbridge IOAPIC found",
        ),
        source=f"{_AMD}/init.c check_ioapic_information()",
    ),
    message(
        Kind.RISK,
        "rmrr-firmware-bug",
        r"No firmware reserved region can cover this RMRR|Your BIOS is broken; bad RMRR",
        Cause(
            "The firmware reserves memory for a device (RMRR) that it did not reserve in its own "
            "memory map. Devices with such a region often cannot be passed.",
            "Update the firmware; see which devices have a region: vfioctl check",
            "reserved-regions",
        ),
        stems="rmrr",
        examples=(
            "DMAR: [Firmware Bug]: No firmware reserved region can cover this RMRR "
            "[0x00000000cf000000-0x00000000cf0fffff], contact BIOS vendor for fixes",
            "DMAR: [Firmware Bug]: Your BIOS is broken; bad RMRR [0x0-0xfff]",
        ),
        source=f"{_INTEL}/iommu.c, arch/x86/include/asm/iommu.h",
    ),
    # --- sounds like proof, and is none ----------------------------------------------------------
    message(
        Kind.NO_PROOF,
        "iommu-enabled-announced",
        r"DMAR: IOMMU enabled",
        Cause(
            "The parser of the command line prints this when it reads intel_iommu=on. It is also "
            "printed on machines without VT-d and on AMD: it proves nothing.",
            f"{_NO_PROOF_NEXT} (the proof is 'Virtualization Technology for Directed I/O', or "
            "'Adding to iommu group' lines)",
            "iommu-active",
        ),
        stems="iommu enabled",
        examples=("DMAR: IOMMU enabled",),
        source=f"{_INTEL}/iommu.c intel_iommu_setup()",
    ),
    message(
        Kind.NO_PROOF,
        "default-domain-type",
        r"iommu: Default domain type: \w+|iommu: DMA domain TLB invalidation policy"
        r"|iommu: Default domain type",
        Cause(
            "How an IOMMU would be used if there were one. It is printed with no IOMMU at all; "
            "'Passthrough' in it is the host's own DMA mode and has nothing to do with VMs.",
            _NO_PROOF_NEXT,
            "iommu-active",
        ),
        stems="iommu: ",
        examples=(
            "iommu: Default domain type: Translated",
            "iommu: Default domain type: Passthrough (set via kernel command line)",
            "iommu: DMA domain TLB invalidation policy: lazy mode",
        ),
        source=f"{_CORE} iommu_subsys_init()",
    ),
    message(
        Kind.NO_PROOF,
        "platform-opt-in",
        r"DMAR: Intel-IOMMU force enabled due to platform opt in",
        Cause(
            "The firmware asks for DMA protection, so the kernel means to switch the IOMMU on "
            "without intel_iommu=on. That is an intention, not yet a result.",
            _NO_PROOF_NEXT,
            "iommu-active",
        ),
        stems="platform opt in",
        examples=("DMAR: Intel-IOMMU force enabled due to platform opt in",),
        source=f"{_INTEL}/iommu.c platform_optin_force_iommu(), 5.4 and later",
    ),
    message(
        Kind.NO_PROOF,
        "iommu-table-found",
        r"ACPI: (?:DMAR|IVRS) 0x|DMAR: Host address width|DMAR: DRHD base:"
        r"|AMD-Vi: Using (?:global )?IVHD",
        Cause(
            "The firmware describes an IOMMU. Whether Linux uses it is another matter: DMA "
            "remapping can be off with these lines in the log.",
            _NO_PROOF_NEXT,
            "iommu-active",
        ),
        stems="dmar|ivrs|ivhd",
        examples=(
            "ACPI: DMAR 0x000000007A5B3000 0000A8 (v01 INTEL  EDK2     00000002)",
            "DMAR: Host address width 39",
            "AMD-Vi: Using global IVHD EFR:0x246577efa2254afa, EFR2:0x0",
        ),
        source=f"{_INTEL}/dmar.c, {_AMD}/init.c, drivers/acpi",
    ),
    message(
        Kind.NO_PROOF,
        "irq-remapping-announced",
        r"DMAR-IR: Queued invalidation will be enabled|DMAR: Enable scalable mode if hardware"
        r"|DMAR-IR: HPET id \d+ under DRHD|DMAR-IR: IOAPIC id \d+ under DRHD",
        Cause(
            "An announcement of what the kernel is about to try, not that it worked.",
            "The proof is 'DMAR-IR: Enabled IRQ remapping in ... mode': vfioctl check",
            "interrupt-remapping",
        ),
        stems="dmar-ir|scalable mode",
        examples=(
            "DMAR-IR: Queued invalidation will be enabled to support x2apic and Intr-remapping.",
            "DMAR: Enable scalable mode if hardware supports",
            "DMAR-IR: IOAPIC id 2 under DRHD base  0xfed91000 IOMMU 1",
        ),
        source=f"{_INTEL}/irq_remapping.c, iommu.c",
    ),
    # --- frightens, and is harmless --------------------------------------------------------------
    message(
        Kind.HARMLESS,
        "x2apic-not-supported",
        r"x2apic: IRQ remapping doesn.{1,3}t support X2APIC mode",
        Cause(
            "Printed with interrupt remapping on and with it off: it tells them not apart. It is "
            "only about how interrupts are addressed.",
            "Nothing, by this line. Whether interrupts are remapped: vfioctl check",
            "interrupt-remapping",
        ),
        stems="x2apic",
        examples=("x2apic: IRQ remapping doesn't support X2APIC mode",),
        source="Linux arch/x86/kernel/apic/apic.c; seen both ways on real machines",
    ),
    message(
        Kind.HARMLESS,
        "x2apic-opt-out",
        r"x2apic is disabled because BIOS sets x2apic opt out bit"
        r"|intremap=no_x2apic_optout",
        Cause(
            "The firmware does not want x2APIC. Interrupts are remapped all the same, in xAPIC "
            "mode.",
            "Nothing, if 'Enabled IRQ remapping in xapic mode' follows: vfioctl check",
            "interrupt-remapping",
        ),
        stems="x2apic",
        examples=(
            "DMAR-IR: x2apic is disabled because BIOS sets x2apic opt out bit.",
            "DMAR-IR: Use 'intremap=no_x2apic_optout' to override the BIOS setting.",
        ),
        source=f"{_INTEL}/irq_remapping.c",
    ),
    message(
        Kind.HARMLESS,
        "not-in-kdump-mode",
        r"(?:IRQ remapping|Translation) was enabled (?:on|for) \S+ but we are not in kdump mode"
        r"|Translation already enabled - trying to copy translation structures",
        Cause(
            "This kernel was started by another one (kexec) that left the IOMMU on. It is set up "
            "again from the beginning.",
            "Nothing. After a kexec devices were not power-cycled: if one misbehaves, cold-start.",
            "interrupt-remapping",
        ),
        stems="kdump mode|copy translation",
        examples=(
            "DMAR-IR: IRQ remapping was enabled on dmar0 but we are not in kdump mode",
            "DMAR: Translation was enabled for dmar0 but we are not in kdump mode",
        ),
        source=f"{_INTEL}/irq_remapping.c, iommu.c",
    ),
    message(
        Kind.HARMLESS,
        "amd-option-unknown",
        r"AMD-Vi: Unknown option - .{0,4}on",
        Cause(
            "amd_iommu=on is no option of Linux: AMD's IOMMU is on by itself where the firmware "
            "has it on. The word does nothing, good or bad.",
            "You may take amd_iommu=on off the command line.",
            "kernel-cmdline",
        ),
        stems="unknown option",
        examples=("AMD-Vi: Unknown option - 'on'",),
        source=f"{_AMD}/init.c parse_amd_iommu_options(), 6.x",
    ),
    message(
        Kind.HARMLESS,
        "iommuv2-not-available",
        r"AMD IOMMUv2 (?:functionality not available|driver by|loaded and initialized)",
        Cause(
            "About a feature for GPU computing on the host. It is printed on Intel machines too "
            "and says nothing about passthrough.",
            "Nothing.",
            "iommu-active",
        ),
        stems="iommuv2",
        examples=(
            "AMD-Vi: AMD IOMMUv2 functionality not available on this system - This is not a bug.",
            "AMD IOMMUv2 driver by Joerg Roedel",
        ),
        source=f"{_AMD}/iommu_v2.c",
    ),
    message(
        Kind.HARMLESS,
        "perf-counter-unreadable",
        r"Unable to read/write to IOMMU perf counter",
        Cause(
            "The IOMMU's performance counters do not work. Isolation does not need them.",
            "Nothing.",
            "iommu-active",
        ),
        stems="perf counter",
        examples=("pci 0000:00:00.2: AMD-Vi: Unable to read/write to IOMMU perf counter.",),
        source=f"{_AMD}/init.c",
    ),
    message(
        Kind.HARMLESS,
        "dmar-table-absent-parts",
        r"DMAR: No (?:RMRR|ATSR|SATC) found|Removing from iommu group \d+",
        Cause(
            "Optional parts of the firmware's table are not there, or a device was taken out of "
            "its group in an orderly way.",
            "Nothing.",
            "iommu-active",
        ),
        stems="dmar: no|from iommu group",
        examples=("DMAR: No ATSR found", "pci 0000:01:00.0: Removing from iommu group 14"),
        source=f"{_INTEL}/iommu.c, {_CORE}",
    ),
    # --- proof -----------------------------------------------------------------------------------
    message(
        Kind.PROOF,
        "dma-remapping-on",
        r"DMAR: Intel\(R\) Virtualization Technology for Directed I/O"
        r"|AMD-Vi: Found IOMMU (?:at \S+ )?cap"
        r"|AMD-Vi: IOMMU performance counters supported|AMD-Vi: Extended features"
        r"|AMD-Vi: Lazy IO/TLB flushing enabled|AMD-Vi: (?:Virtual APIC|X2APIC) enabled"
        r"|arm-smmu(?:-v3)?[ :][^\n]{0,80}(?:probing hardware configuration"
        r"|ias \d+-bit, oas \d+-bit)",
        Cause(
            "An IOMMU driver started its hardware in that boot.",
            "DMA remapping is not your problem in that boot; go on with the group: vfioctl check",
            "iommu-active",
        ),
        stems="directed i/o|amd-vi|smmu",
        examples=(
            "DMAR: Intel(R) Virtualization Technology for Directed I/O",
            "pci 0000:00:00.2: AMD-Vi: Found IOMMU cap 0x40",
            "AMD-Vi: Found IOMMU at 0000:00:00.2 cap 0x40",
            "pci 0000:00:00.2: AMD-Vi: IOMMU performance counters supported",
            "AMD-Vi: Extended features (0x58f77ef22294ade, 0x0): PPR NX GT IA GA PC GA_vAPIC",
            "AMD-Vi: Lazy IO/TLB flushing enabled",
            "AMD-Vi: X2APIC enabled",
            "arm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x0008ffdf)",
            "arm-smmu 64000000.smmu: probing hardware configuration...",
        ),
        source=f"{_INTEL}/iommu.c intel_iommu_init(), {_AMD}/init.c, drivers/iommu/arm",
    ),
    message(
        Kind.PROOF,
        "group-added",
        r"Adding to iommu group \d+|iommu: Adding device \S+ to group \d+",
        Cause(
            "A live IOMMU driver put this device into a group: DMA remapping works in that boot.",
            "See who shares the group: vfioctl check",
            "iommu-active",
        ),
        stems="to iommu group|adding device",
        examples=(
            "pci 0000:01:00.0: Adding to iommu group 14",
            "iommu: Adding device 0000:01:00.0 to group 14",
        ),
        source=f"{_CORE} iommu_group_add_device(), 5.4 and later; 4.x",
    ),
    message(
        Kind.PROOF,
        "irq-remapping-on",
        r"DMAR-IR: Enabled IRQ remapping in x2?apic mode|AMD-Vi: Interrupt remapping enabled",
        Cause(
            "Interrupts of devices are remapped in that boot. It says nothing about DMA: there "
            "are machines with this line and DMA remapping off.",
            "Look at DMA too: vfioctl check",
            "interrupt-remapping",
        ),
        stems="remapping",
        examples=(
            "DMAR-IR: Enabled IRQ remapping in x2apic mode",
            "DMAR-IR: Enabled IRQ remapping in xapic mode",
            "AMD-Vi: Interrupt remapping enabled",
        ),
        source=f"{_INTEL}/irq_remapping.c, {_AMD}/init.c",
    ),
)
