"""Decisions about libvirt's VMs in virsh's words; the codes' own speak to several hypervisors.

By the name of the code; NAME is the VM's. This module must never hold a decision that libvirt's
own tools do not carry out.
"""

from collections.abc import Mapping

VIRSH: Mapping[str, str] = {
    "VM_NOT_PCIE": "virsh edit NAME: <type machine='q35'>, and each hostdev's guest <address> on "
    "the bus of a pcie-root-port (or no <address>: libvirt chooses one)",
    "VM_SEABIOS": "virsh edit NAME: <os firmware='efi'>; an installed guest has to be able to boot "
    "by UEFI.",
    "VM_NOT_ACCELERATED": "virsh edit NAME: <domain type='kvm'>",
    "VM_CPU_GENERIC": "virsh edit NAME: <cpu mode='host-passthrough'/>",
    "VM_HIDES_KVM": "virsh edit NAME: take out what the evidence names and start the VM, unless a "
    "regression is being reproduced with it.",
    "VM_CODE_43": "virsh edit NAME: <domain type='kvm'>, <cpu mode='host-passthrough'/> and <os "
    "firmware='efi'> first; do not start with words that hide KVM.",
    "VM_BALLOON": "virsh edit NAME: <currentMemory> equal to <memory>",
    "VM_NOT_BOUND": "virsh edit NAME: managed='yes' in the hostdev, or bind the device to vfio-pci "
    "before the start",
    "VM_DEVICE_TWICE": "virsh edit NAME: keep one of the hostdevs.",
    "VM_ENTRY_BROKEN": "virsh edit NAME: correct the line that the evidence names.",
    "VM_ROM_SHADOWED": "Boot the host on another display, or dump the ROM; virsh edit NAME: <rom "
    "file='/FILE'/> in the hostdev",
    "VM_ROM_HIDDEN": "virsh edit NAME: take <rom bar='off'/> out of the hostdev, or give it "
    "a file.",
}
