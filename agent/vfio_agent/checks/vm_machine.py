"""Check `vm-machine`: whether the VM's board can carry its devices as what they are.

Judged per VM with host devices. It must never ask for PCI Express where the device is known to be
conventional PCI, nor judge boards of other platforms by x86 rules.
"""

from vfio_agent.checks.inventory import DEVICES, describe
from vfio_agent.checks.vm_inventory import CODES as VM_CODES
from vfio_agent.checks.vm_inventory import (
    at_device,
    at_setting,
    judge_vms,
    make_vm_finding,
    missing_passed,
    named_functions,
)
from vfio_contract.codes import Code
from vfio_contract.findings import Evidence, Finding, Verdict
from vfio_contract.host import Host
from vfio_contract.model import PciFunction
from vfio_contract.vm import PROXMOX, VmConfig, VmDevice

ID = "vm-machine"

VM_MACHINE_READY = Code(
    "VM_MACHINE_READY",
    Verdict.PASS,
    "The VM's machine type, firmware and each device's place on the guest's bus.",
    "The guest sees each device as what it is.",
    "No action.",
)
VM_PCIE_ON_I440FX = Code(
    "VM_PCIE_ON_I440FX",
    Verdict.FAIL,
    "pcie=1 on a device of a VM whose machine type is not q35.",
    "The i440fx board has no PCI Express port: the VM does not start.",
    "qm set VMID --machine q35, or take pcie=1 out of the entry",
)
VM_NOT_PCIE = Code(
    "VM_NOT_PCIE",
    Verdict.WARN,
    "A PCI Express device is put on the guest's conventional bus.",
    "Drivers miss the extended configuration space: resizable BARs, AER and some GPUs fail.",
    "Use machine q35 and put the device on a PCIe port (Proxmox: pcie=1).",
)
VM_SEABIOS = Code(
    "VM_SEABIOS",
    Verdict.WARN,
    "The VM's firmware is SeaBIOS, or none is stated.",
    "Modern cards carry a UEFI option ROM and large BARs; SeaBIOS often does neither.",
    "Use OVMF with an EFI disk; an installed guest has to be able to boot by UEFI.",
)
VM_MACHINE_UNKNOWN = Code(
    "VM_MACHINE_UNKNOWN",
    Verdict.UNKNOWN,
    "Which devices the VM's entries mean could not be read.",
    "Whether they need a PCI Express port is not known.",
    "Get the missing evidence below, then: vfioctl vm lint",
)
VM_MACHINE_OTHER = Code(
    "VM_MACHINE_OTHER",
    Verdict.NOT_APPLICABLE,
    "The machine type is of another platform than x86.",
    "The choice between q35 and i440fx does not arise.",
    "No action.",
)
CODES = (
    VM_MACHINE_READY,
    VM_PCIE_ON_I440FX,
    VM_NOT_PCIE,
    VM_SEABIOS,
    VM_MACHINE_UNKNOWN,
    VM_MACHINE_OTHER,
    *VM_CODES,
)

_MACHINE_KEYS = ("machine", "M", "os/type")
_FIRMWARE_KEYS = ("bios", "os/loader", "os")


def judge(host: Host) -> list[Finding]:
    """Can the VM's board carry its devices as PCI Express?

    Evidence: machine type, firmware, pcie=1; the device's own PCIe capability.
    Meaning:  A PCIe device on a conventional bus loses what its driver expects.
    Source:   qm.conf(5), libvirt formatdomain, QEMU docs/pcie.txt; field guide step 10.
    """
    return judge_vms(ID, host, lambda vm: _judge_vm(host, vm))


def _judge_vm(host: Host, vm: VmConfig) -> Finding:
    machine = at_setting(vm, "machine: not stated (i440fx)", *_MACHINE_KEYS)
    firmware = at_setting(vm, "firmware: not stated (SeaBIOS)", *_FIRMWARE_KEYS)
    express = is_q35(vm.machine)
    if express is None:
        return make_vm_finding(ID, vm, VM_MACHINE_OTHER, machine)
    broken = [d for d in vm.devices if d.pcie and not express and vm.kind == PROXMOX]
    if broken:
        evidence = (machine, *(at_device(vm, d) for d in broken))
        decision = VM_PCIE_ON_I440FX.decision.replace("VMID", vm.name)
        return make_vm_finding(ID, vm, VM_PCIE_ON_I440FX, *evidence, decision=decision)
    conventional = [d for d in vm.devices if not express or d.pcie is False]
    missing = missing_passed(host, vm)
    if conventional and missing:
        evidence = (machine, *(at_device(vm, d) for d in conventional))
        return make_vm_finding(ID, vm, VM_MACHINE_UNKNOWN, *evidence, missing=missing)
    wrong = [(d, f) for d in conventional for f in _needing_pcie(host, d)]
    if wrong:
        shown = [Evidence(f"{DEVICES}/{f.address}", describe(f, host)) for _, f in wrong]
        entries = dict.fromkeys(at_device(vm, d) for d, _ in wrong)
        return make_vm_finding(ID, vm, VM_NOT_PCIE, machine, *entries, *shown)
    if vm.firmware != "ovmf":
        return make_vm_finding(ID, vm, VM_SEABIOS, machine, firmware)
    return make_vm_finding(ID, vm, VM_MACHINE_READY, machine, firmware)


def is_q35(machine: str) -> bool | None:
    """True for a PCIe board, False for i440fx and the default, None for other platforms."""
    name = machine.removeprefix("pc-").partition("+")[0]
    if name.startswith(("q35", "microvm", "virt")):
        return True
    if machine == "" or machine.startswith(("pc", "i440fx", "rhel", "ubuntu")):
        return False
    return None


def _needing_pcie(host: Host, device: VmDevice) -> list[PciFunction]:
    """Functions of the entry that are PCI Express, or not known to be conventional PCI."""
    return [f for f in named_functions(host, device) or () if not _is_conventional(f)]


def _is_conventional(function: PciFunction) -> bool:
    config = function.config
    return config is not None and config.capabilities is not None and config.pcie is None
