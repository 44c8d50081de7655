"""Check `vm-cpu`: whether the guest runs on the host's own processor, accelerated.

A model that the configuration names is the operator's choice and stands; what the hypervisor fills
in by itself is not. It must never take a hypervisor's generic default for a choice.
"""

from vfio_agent.checks.vm_inventory import CODES as VM_CODES
from vfio_agent.checks.vm_inventory import at_setting, judge_vms, make_vm_finding
from vfio_contract.codes import Code
from vfio_contract.findings import Finding, Verdict
from vfio_contract.host import Host
from vfio_contract.vm import VmConfig

ID = "vm-cpu"

VM_CPU_READY = Code(
    "VM_CPU_READY",
    Verdict.PASS,
    "KVM accelerates the VM, and its CPU model is the host's or one that was chosen.",
    "Drivers in the guest find a processor that they know.",
    "No action.",
)
VM_NOT_ACCELERATED = Code(
    "VM_NOT_ACCELERATED",
    Verdict.FAIL,
    "kvm: 0, a domain of type qemu, or a command line without accel=kvm.",
    "The guest's processor is emulated: slow beyond use, and GPU drivers refuse it.",
    "Use KVM (Proxmox: qm set VMID --kvm 1; libvirt: <domain type='kvm'>).",
)
VM_CPU_GENERIC = Code(
    "VM_CPU_GENERIC",
    Verdict.WARN,
    "No CPU model is stated, or the hypervisor's own generic one.",
    "The guest gets a processor without most of the host's features: slow, and some GPU drivers "
    "refuse it.",
    "State it: Proxmox: qm set VMID --cpu host; libvirt: <cpu mode='host-passthrough'/>",
)
CODES = (VM_CPU_READY, VM_NOT_ACCELERATED, VM_CPU_GENERIC, *VM_CODES)

_GENERIC = frozenset({"", "kvm64", "kvm32", "qemu64", "qemu32"})
"""Proxmox's, QEMU's and libvirt's defaults where nothing is stated."""


def judge(host: Host) -> list[Finding]:
    """Does the guest run on the host's own CPU model, with KVM?

    Evidence: the VM's CPU type and accelerator.
    Meaning:  Emulated or generic processors cost speed and trip GPU drivers.
    Source:   qm.conf(5) cpu and kvm, libvirt formatdomain; field guide step 10 and 15.
    """
    return judge_vms(ID, host, _judge_vm)


def _judge_vm(vm: VmConfig) -> Finding:
    cpu = at_setting(vm, "cpu: not stated", "cpu/model", "cpu")
    if not vm.accelerated:
        accelerator = at_setting(vm, "no KVM accelerator", "kvm", "domain", "accel", "machine")
        decision = VM_NOT_ACCELERATED.decision.replace("VMID", vm.name)
        return make_vm_finding(ID, vm, VM_NOT_ACCELERATED, accelerator, cpu, decision=decision)
    code = VM_CPU_GENERIC if vm.cpu in _GENERIC else VM_CPU_READY
    return make_vm_finding(ID, vm, code, cpu, decision=code.decision.replace("VMID", vm.name))
