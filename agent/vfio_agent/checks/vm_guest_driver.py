"""Check `vm-guest-driver`: what makes a guest's GPU driver refuse, and leftovers that do harm.

Words that hide KVM from the guest were needed for NVIDIA drivers before 465; today they only cost.
It must never call a hack what the hypervisor itself writes (Proxmox adds kvm=off for x-vga=1 and,
for Windows, a vendor of its own beside it).
"""

from vfio_agent.checks.inventory import DEVICES, describe, missing_attribute
from vfio_agent.checks.vm_inventory import CODES as VM_CODES
from vfio_agent.checks.vm_inventory import (
    at,
    at_setting,
    judge_vms,
    make_vm_finding,
    missing_passed,
    passed_functions,
)
from vfio_contract.codes import Code
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.vm import LIBVIRT, PROXMOX, QEMU, VmConfig

ID = "vm-guest-driver"

VM_GUEST_PLAIN = Code(
    "VM_GUEST_PLAIN",
    Verdict.PASS,
    "Nothing hides the hypervisor from the guest, and no pattern that leads to Code 43 is there.",
    "The guest's driver sees an ordinary KVM machine, which current drivers accept.",
    "No action.",
)
VM_HIDES_KVM = Code(
    "VM_HIDES_KVM",
    Verdict.WARN,
    "kvm=off, hidden=1, a false hypervisor vendor or -hypervisor in the VM's CPU settings.",
    "NVIDIA drivers since 465 do not need it; the guest loses paravirtual clocks and features.",
    "Take it out and start the VM, unless a regression is being reproduced with it.",
)
VM_CODE_43 = Code(
    "VM_CODE_43",
    Verdict.WARN,
    "A Windows guest gets an NVIDIA display controller without KVM, a host CPU model or OVMF.",
    "The pattern behind the driver's Code 43: it does not find the platform that it expects.",
    "Use KVM, cpu host and OVMF first; do not start with words that hide KVM.",
)
VM_GUEST_UNKNOWN = Code(
    "VM_GUEST_UNKNOWN",
    Verdict.UNKNOWN,
    "Vendor or class of a function that a Windows guest gets could not be read, or which system "
    "the guest of an NVIDIA display controller runs.",
    "Whether the pattern behind Code 43 is there is not known.",
    "Get the missing evidence below, then: vfioctl vm lint",
)
CODES = (VM_GUEST_PLAIN, VM_HIDES_KVM, VM_CODE_43, VM_GUEST_UNKNOWN, *VM_CODES)

_NVIDIA = 0x10DE
_LIBVIRT_KEYS = (
    ("kvm hidden", "features/kvm/hidden"),
    ("hyperv vendor_id", "features/hyperv/vendor_id"),
    ("cpu feature", "cpu"),
)
"""How `disguises` begin, and the setting that holds them."""

_NOT_STATED = frozenset({"", "other"})
"""Proxmox writes `other` for what it was not told; nothing follows from it."""

_HOST_MODELS = frozenset({"host", "max", "host-passthrough", "host-model", "maximum"})
_PROXMOX_VENDOR = "hv-vendor-id=proxmox"
_PROXMOX_OWN = frozenset({"kvm=off", _PROXMOX_VENDOR})
"""What Proxmox itself writes on the command line of a VM with x-vga=1 (PVE::QemuServer)."""


def judge(host: Host) -> list[Finding]:
    """Will the guest's driver accept the device?

    Evidence: CPU flags that hide KVM, guest OS type, CPU model, firmware, vendor of the display.
    Meaning:  Old tricks and missing basics both make a driver refuse.
    Source:   qm.conf(5) cpu, libvirt formatdomain (features); field guide step 15.
    """
    return judge_vms(ID, host, lambda vm: _judge_vm(host, vm))


def _judge_vm(host: Host, vm: VmConfig) -> Finding:
    cpu = at_setting(vm, "cpu: not stated", "cpu", "cpu/model")
    tricks = find_tricks(vm)
    if tricks:
        evidence = [at(vm, _line_of(vm, w), f"hides the hypervisor: {w}") for w in tricks]
        return make_vm_finding(ID, vm, VM_HIDES_KVM, *evidence)
    guest = at_setting(vm, "guest: not stated", "ostype")
    lacks = _find_lacks(vm)
    stated = vm.guest not in _NOT_STATED
    if not lacks or (stated and not vm.guest.startswith("win")):
        return make_vm_finding(ID, vm, VM_GUEST_PLAIN, guest, cpu)
    functions = passed_functions(host, vm)
    if functions is None:
        missing = missing_passed(host, vm)
        return make_vm_finding(ID, vm, VM_GUEST_UNKNOWN, guest, missing=missing)
    cards = [f for f in functions.values() if f.base_class == 0x03 and f.vendor == _NVIDIA]
    shown = [Evidence(f"{DEVICES}/{f.address}", describe(f, host)) for f in cards]
    if cards and not stated:
        missing = (_missing_guest(vm),)
        return make_vm_finding(ID, vm, VM_GUEST_UNKNOWN, guest, cpu, *shown, missing=missing)
    if cards:
        texts = [at(vm, 0, f"it lacks: {text}") for text in lacks]
        return make_vm_finding(ID, vm, VM_CODE_43, guest, *texts, *shown)
    unread = _find_unread(host, vm)
    if unread:
        return make_vm_finding(ID, vm, VM_GUEST_UNKNOWN, guest, missing=unread)
    return make_vm_finding(ID, vm, VM_GUEST_PLAIN, guest, cpu)


def _missing_guest(vm: VmConfig) -> Missing:
    """The guest's system, where each kind of configuration would state it."""
    commands = {
        PROXMOX: f"qm set {vm.name} --ostype win11 (or l26)",
        LIBVIRT: f"virsh metadata {vm.name} http://libosinfo.org/xmlns/libvirt/domain/1.0",
    }
    return Missing(f"operating system of {vm.name}", commands.get(vm.kind, "ask its owner"))


def find_tricks(vm: VmConfig) -> list[str]:
    """Words that hide the hypervisor and that a person wrote."""
    # kvm=off and the vendor come together; x-vga itself is not on every version's command line
    own = vm.kind == QEMU and (
        any(d.primary_display for d in vm.devices) or _PROXMOX_VENDOR in vm.disguises
    )
    return [word for word in vm.disguises if not (own and word in _PROXMOX_OWN)]


def _line_of(vm: VmConfig, trick: str) -> int:
    """The line that holds this word; 0 where an older version did not keep it."""
    if vm.kind == LIBVIRT:
        for start, key in _LIBVIRT_KEYS:
            if trick.startswith(start):
                return vm.line_of(key)
        return vm.line_of("qemu:commandline -cpu")
    if vm.kind == PROXMOX and trick != "hidden=1":
        cpu = next((s.value for s in vm.settings if s.key == "cpu"), "")
        return vm.line_of("cpu" if trick.replace("_", "-") in cpu.replace("_", "-") else "args")
    return vm.line_of("cpu")


def _find_lacks(vm: VmConfig) -> list[str]:
    found = [] if vm.accelerated else ["KVM acceleration"]
    if vm.cpu not in _HOST_MODELS:
        found.append("the host's CPU model")
    if vm.firmware != "ovmf":
        found.append("OVMF")
    return found


def _find_unread(host: Host, vm: VmConfig) -> tuple[Missing, ...]:
    return tuple(
        missing_attribute(host, function, name)
        for function in (passed_functions(host, vm) or {}).values()
        for name, value in (("vendor", function.vendor), ("class", function.class_code))
        if value is None
    )
