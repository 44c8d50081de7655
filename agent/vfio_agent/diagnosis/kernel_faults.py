"""What Linux says when hardware misbehaves: DMA faults, PCIe errors, lost devices, the processor.

Wordings: Linux 4.15 to 7.2, drivers/iommu, drivers/pci/pcie, arch/x86/kvm.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_KVM_OFF = Cause(
    "The processor's virtualization (VT-x, AMD-V) is switched off in the firmware or missing. "
    "That is not the IOMMU, but without it no VM runs at all.",
    "Enable VT-x or SVM in the firmware setup, power the machine off and on, vfioctl check. In a "
    "rented VM it cannot be had.",
    "cpu-virtualization",
)

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "kvm-unusable",
        r"kvm(?:_intel|_amd)?: [^\n]{0,60}(?:disabled (?:by|in) bios|not supported"
        r"|no hardware support)|(?:VMX|SVM) (?:\(outside TXT\) )?disabled \(?(?:by|in) BIOS"
        r"|HYP mode not available|SVM not supported by CPU",
        _KVM_OFF,
        stems="disabled by bios|disabled (by bios|disabled in bios|not supported|hardware support"
        "|hyp mode",
        examples=(
            "kvm: disabled by bios",
            "x86/cpu: VMX (outside TXT) disabled by BIOS",
            "kvm_amd: SVM not supported by CPU 0",
            "kvm: no hardware support for 'kvm_intel'",
            "kvm [1]: HYP mode not available",
        ),
        source="Linux arch/x86/kvm, arch/x86/kernel/cpu/feat_ctl.c, arch/arm64/kvm",
    ),
    message(
        Kind.FAULT,
        "iommu-stuck",
        r"Completion-Wait loop timed out|IOTLB_INV_TIMEOUT"
        r"|VT-d detected Invalidation (?:Time-out|Queue|Completion) Error",
        Cause(
            "The IOMMU waits for a device that does not answer: typically a GPU that did not come "
            "back from a reset. Host freezes follow.",
            "Stop the VMs, power-cycle the host (a warm reboot may not help); see which device "
            "was started or stopped just before.",
            "iommu-faults",
        ),
        stems="completion-wait|iotlb_inv|invalidation",
        examples=(
            "AMD-Vi: Completion-Wait loop timed out",
            "AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=0000:0a:00.0 address=0x7f05a5130]",
            "DMAR: VT-d detected Invalidation Time-out Error: SID 0",
        ),
        source="Linux drivers/iommu/amd/iommu.c, intel/dmar.c",
        follows=("not-ready-gave-up", "device-inaccessible"),
    ),
    message(
        Kind.FAULT,
        "interrupt-blocked",
        r"\[INTR-REMAP\][^\n]{0,120}|Blocked a compatibility format interrupt"
        r"|Blocked an interrupt request due to source-id",
        Cause(
            "The IOMMU stopped an interrupt that a device may not send: a reset in the middle of "
            "work, a broken driver, or firmware that describes interrupts wrongly.",
            "A few around a VM's start or stop are common. A stream under load: update the "
            "firmware; interrupt remapping itself is working.",
            "iommu-faults",
        ),
        stems="intr-remap|blocked a",
        examples=(
            "DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 0x0 [fault reason 0x25] "
            "Blocked a compatibility format interrupt request",
        ),
        source="Linux drivers/iommu/intel/dmar.c",
    ),
    message(
        Kind.FAULT,
        "dma-fault",
        r"DMAR: \[DMA [^\]\n]{0,40}\] [^\n]{0,160}|DMAR: DRHD: handling fault status"
        r"|AMD-Vi: Event logged \[(?!IOTLB_INV)\w{1,40}|DMAR: \[(?:Read|Write) [^\]\n]{0,40}\]"
        r"|arm-smmu\S{0,8} \S{1,40}: (?:event 0x[0-9a-f]+ received|Unhandled context fault)",
        Cause(
            "The IOMMU stopped DMA of this device to memory that it was not given: its driver, "
            "its firmware or the guest is wrong, or it was reset in the middle of work. The IOMMU "
            "did its job.",
            "See when they came: a few around a VM's start or stop are common. A stream under "
            "load: update device and host firmware; fault addresses inside an RMRR: vfioctl check",
            "iommu-faults",
        ),
        stems="dmar: [|handling fault|event logged|arm-smmu",
        examples=(
            "DMAR: DRHD: handling fault status reg 2",
            "DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x7c3e5000 "
            "[fault reason 0x06] PTE Read access is not set",
            "vfio-pci 0000:0a:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d "
            "address=0x7f3a0000 flags=0x0000]",
            "AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:0a:00.0]",
            "arm-smmu-v3 arm-smmu-v3.0.auto: event 0x10 received:",
            "arm-smmu 5000000.iommu: Unhandled context fault: fsr=0x402, iova=0x00000000",
        ),
        source="Linux drivers/iommu: intel/dmar.c, amd/iommu.c, arm",
        follows=("iommu-stuck", "not-ready-gave-up"),
    ),
    message(
        Kind.FAULT,
        "pcie-uncorrected",
        r"PCIe Bus Error: severity=Uncorrect(?:ed|able)|AER: [^\n]{0,40}Uncorrect(?:ed|able)"
        r"|DPC: containment event|AER: can.t recover|AER: device recovery failed",
        Cause(
            "A PCIe transaction was lost or broken and could not be repeated. The device may have "
            "stopped; a passed one takes its VM along, a bad one the host.",
            "Reseat the card and riser, try another slot, look at power and cooling, update the "
            "firmware. Overclocked memory or PCIe: back to standard first.",
            "iommu-faults",
        ),
        stems="aer: |bus error|dpc:",
        examples=(
            "vfio-pci 0000:01:00.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), "
            "type=Transaction Layer, (Requester ID)",
            "pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0",
            "pcieport 0000:00:01.0: DPC: containment event, status:0x1f01 source:0x0000",
            "pcieport 0000:00:01.0: AER: device recovery failed",
        ),
        source="Linux drivers/pci/pcie/aer.c, dpc.c, err.c",
    ),
    message(
        Kind.FAULT,
        "qemu-unrecoverable",
        r"vfio_err_notifier_handler\([^)\n]{0,80}\) Unrecoverable error detected",
        Cause(
            "The host's kernel told QEMU that the passed device reported a fatal PCIe error. QEMU "
            "stopped the VM so that no data is damaged.",
            "Read the host's log at that time for AER lines of this device; treat it as hardware "
            "(slot, riser, power, heat), then stop the VM and check the device.",
            "device-health",
        ),
        stems="vfio_err_notifier",
        examples=(
            "vfio_err_notifier_handler(0000:01:00.0) Unrecoverable error detected. Please collect "
            "any data possible and then kill the guest",
        ),
        source="QEMU hw/vfio/pci.c",
        follows=("pcie-uncorrected",),
    ),
    message(
        Kind.FAULT,
        "hardware-error",
        r"\[Hardware Error\]: (?:event severity|CPU \d+: Machine Check|Machine check events)"
        r"|mce: \[Hardware Error\]",
        Cause(
            "The processor, memory or firmware reported an error of the host itself. What looks "
            "like passthrough trouble may be this.",
            "Read the BMC's event log; test memory; undo overclocks; look at the power supply.",
            "iommu-faults",
        ),
        stems="hardware error",
        examples=(
            "mce: [Hardware Error]: Machine check events logged",
            "{1}[Hardware Error]: event severity: fatal",
        ),
        source="Linux arch/x86/kernel/cpu/mce, drivers/firmware/efi/cper.c",
    ),
    message(
        Kind.FAULT,
        "slot-lost",
        r"pciehp: Slot\(\S{1,12}\): (?:Link Down|Card not present)",
        Cause(
            "The port says that the card is gone: it was pulled, lost power, or its link died "
            "during a reset.",
            "If nobody pulled it: power-cycle the host, reseat the card, look at its power cable.",
            "device-health",
        ),
        stems="pciehp",
        examples=("pcieport 0000:00:02.0: pciehp: Slot(0): Link Down",),
        source="Linux drivers/pci/hotplug/pciehp_ctrl.c",
    ),
    message(
        Kind.RISK,
        "irq-nobody-cared",
        r"irq \d+: nobody cared",
        Cause(
            "An interrupt came that no driver answered, and the kernel switched that line off. "
            "With a passed device on the old line interrupts (INTx) its masking may be broken.",
            "Use the device's MSI in the guest. If the device has none, try vfio_pci.nointxmask=1 "
            "for this host and see whether it stays quiet.",
            "interrupt-distribution",
        ),
        stems="nobody cared",
        examples=('irq 16: nobody cared (try booting with the "irqpoll" option)',),
        source="Linux kernel/irq/spurious.c",
    ),
    message(
        Kind.RISK,
        "pcie-corrected",
        r"PCIe Bus Error: severity=Correct(?:ed|able)|AER: [^\n]{0,40}Correct(?:ed|able) error"
        r"|broken device, retraining non-functional downstream link",
        Cause(
            "The link had errors that it repaired itself. A few are normal; many mean a bad "
            "contact, riser or slot, and cost speed.",
            "Watch whether they rise under load. If so: reseat, other slot, PCIe generation one "
            "lower in the firmware setup.",
            "device-health",
        ),
        stems="bus error|aer: |retraining",
        examples=(
            "nvme 0000:02:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, "
            "(Receiver ID)",
            "pcieport 0000:00:1c.4: AER: Multiple Corrected error received: 0000:02:00.0",
            "pci 0000:03:00.0: broken device, retraining non-functional downstream link at 2.5GT/s",
        ),
        source="Linux drivers/pci/pcie/aer.c, drivers/pci/quirks.c",
    ),
    message(
        Kind.RISK,
        "acs-override-on",
        r"Warning: PCIe ACS overrides enabled",
        Cause(
            "This kernel was told to pretend that ports isolate (pcie_acs_override=). Groups look "
            "clean and are not proof of isolation: devices may reach each other's memory.",
            "A risk decision, not a tweak: write down who took it, why and until when; for hostile "
            "tenants use another slot or another board.",
            "acs-override",
        ),
        stems="acs overrides",
        examples=(
            "Warning: PCIe ACS overrides enabled; This may allow non-IOMMU protected peer-to-peer "
            "DMA",
        ),
        source="the ACS override patch (out of tree; Proxmox kernels carry it)",
    ),
    message(
        Kind.HARMLESS,
        "aer-enabled",
        r"AER: enabled with IRQ \d+|DPC: error containment capabilities",
        Cause("The port is ready to report errors. It is not an error.", "Nothing."),
        stems="aer: enabled|dpc: error",
        examples=("pcieport 0000:00:1c.0: AER: enabled with IRQ 122",),
        source="Linux drivers/pci/pcie/aer.c",
    ),
    message(
        Kind.HARMLESS,
        "acs-workaround",
        r"Intel (?:\w{1,6} )?PCH root port ACS workaround enabled",
        Cause(
            "The kernel knows how to make these ports isolate although they say it in their own "
            "way. That is real isolation, not the ACS override.",
            "Nothing.",
            "acs-override",
        ),
        stems="acs workaround",
        examples=("pci 0000:00:1c.0: Intel SPT PCH root port ACS workaround enabled",),
        source="Linux drivers/pci/quirks.c",
    ),
    message(
        Kind.HARMLESS,
        "ignored-msr",
        r"(?:ignored|unhandled) (?:rd|wr)msr: 0x",
        Cause(
            "The guest asked for a processor register that KVM does not have. Windows and macOS do "
            "so all the time.",
            "Nothing. If the guest stops there: options kvm ignore_msrs=1 in modprobe.d.",
            "vm-cpu",
        ),
        stems="rdmsr|wrmsr",
        examples=("kvm [4212]: ignored rdmsr: 0x122 data 0x0",),
        source="Linux arch/x86/kvm/x86.c",
    ),
)
