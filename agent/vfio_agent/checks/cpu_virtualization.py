"""Check `cpu-virtualization`: whether this processor can run VMs with KVM, right now.

It is not the IOMMU; but while it is missing, one debugs the wrong feature set. It must never take
`/dev/kvm` alone for proof on x86: kmod makes the node at boot, module or not. On the running host
KVM was asked for a VM, and flags that promise what KVM refuses are no proof either.
"""

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.architecture import UNKNOWN, X86, family_of
from vfio_agent.checks.hypervisor import find_hypervisor
from vfio_agent.checks.inventory import find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host

ID = "cpu-virtualization"
KVM = "/dev/kvm"
CPUINFO = "/proc/cpuinfo"
MODULES = "/sys/module"

CPU_VIRT_READY = Code(
    "CPU_VIRT_READY",
    Verdict.PASS,
    "vmx or svm in /proc/cpuinfo, kvm_intel or kvm_amd loaded, and /dev/kvm, which made a VM when "
    "it could be asked; elsewhere KVM itself.",
    "The processor runs VMs in hardware.",
    "No action.",
)
CPU_VIRT_NESTED = Code(
    "CPU_VIRT_NESTED",
    Verdict.WARN,
    "The processor can run VMs, and says itself that it is virtual (flag hypervisor).",
    "This host is a VM: what it passes through is what its own hypervisor lent it.",
    "Fine for a lab. For production run the check on the physical host.",
)
CPU_VIRT_DISAGREES = Code(
    "CPU_VIRT_DISAGREES",
    Verdict.WARN,
    "The processor's flags and KVM disagree: neither vmx nor svm, yet KVM makes VMs (kvm_pvm); or "
    "vmx or svm, and KVM_CREATE_VM fails.",
    "What the flags say of this host is not what happens: VMs may not start, or run in a way that "
    "is rarely tested with passthrough.",
    "Read what KVM says: sudo dmesg | grep -i kvm; then: vfioctl check",
)
CPU_VIRT_OFF = Code(
    "CPU_VIRT_OFF",
    Verdict.FAIL,
    "Neither vmx nor svm in /proc/cpuinfo, and no KVM module that does without them.",
    "The processor does not offer hardware virtualization: VMs cannot run with KVM.",
    "Enable VT-x (Intel) or SVM (AMD) in the firmware setup, reboot, then: grep -cwE 'vmx|svm' "
    "/proc/cpuinfo",
)
KVM_MISSING = Code(
    "KVM_MISSING",
    Verdict.FAIL,
    "The processor can virtualize, but KVM is not there: no /dev/kvm or no vendor module.",
    "QEMU cannot use the processor's virtualization.",
    "sudo modprobe kvm_intel (AMD: kvm_amd), then look why it was not loaded: sudo dmesg | grep -i "
    "kvm; grep -r kvm /etc/modprobe.d",
)
CPU_VIRT_UNKNOWN = Code(
    "CPU_VIRT_UNKNOWN",
    Verdict.UNKNOWN,
    "Processor flags, KVM's modules or /dev/kvm could not be read, or KVM could not be asked.",
    "Whether VMs can run here is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    CPU_VIRT_READY,
    CPU_VIRT_NESTED,
    CPU_VIRT_DISAGREES,
    CPU_VIRT_OFF,
    KVM_MISSING,
    CPU_VIRT_UNKNOWN,
)

_WITHOUT_FLAGS = frozenset({"kvm_pvm"})
_VENDOR_MODULES = frozenset({"kvm_intel", "kvm_amd"}) | _WITHOUT_FLAGS

_NO_HELP = (
    "KVM runs VMs without the processor's help, as in some nested clouds. Slow, and rarely tested "
    "with passthrough.",
    "Run the check on the physical host, or give this VM nested virtualization (-cpu host).",
)
_REFUSED = (
    "The processor claims virtualization, and KVM cannot use it: VMs will not start.",
    "Another hypervisor may hold it (VirtualBox, VMware: stop it), or the firmware locked it; read "
    "what KVM says: sudo dmesg | grep -i kvm; then: vfioctl check",
)
"""Meaning and decision for the two ways in which flags and KVM disagree."""


def judge(host: Host) -> list[Finding]:
    """Can this host run VMs in hardware?

    Evidence: vmx/svm in /proc/cpuinfo, KVM's modules, /dev/kvm, a live KVM_CREATE_VM; on Arm and
              POWER KVM itself.
    Meaning:  Without it there is no VM to pass a device to.
    Source:   Linux Documentation/virt/kvm; field guide step 2.
    """
    family = family_of(host)
    if family == X86:
        return [_judge_x86(host)]
    if family == UNKNOWN:
        missing = (Missing("uname -m", "uname -m"), *_list_missing(host))
        return [make_finding(ID, NODE, CPU_VIRT_UNKNOWN, missing=missing)]
    return [_judge_by_kvm(host)]


def _judge_x86(host: Host) -> Finding:
    flags = host.facts.cpu.flags
    if flags is None:
        return make_finding(ID, NODE, CPU_VIRT_UNKNOWN, missing=_list_missing(host))
    nested = "hypervisor" in flags
    shown = Evidence(CPUINFO, f"flags: {' '.join(flags) or 'neither vmx nor svm'}")
    device, modules = host.facts.kvm_device, _vendor_modules(host)
    evidence = (shown, *_describe_kvm(host))
    said = host.readings.kvm
    if not {"vmx", "svm"} & set(flags):
        if said == "" or (said is None and device and _WITHOUT_FLAGS & set(modules or ())):
            return _disagree(_NO_HELP, evidence)
        decision = find_hypervisor(host).nesting if nested else ""
        return make_finding(ID, NODE, CPU_VIRT_OFF, *evidence, decision=decision)
    if device is False or (device and modules == ()):
        return make_finding(ID, NODE, KVM_MISSING, *evidence)
    missing = _list_missing(host)
    if missing:
        return make_finding(ID, NODE, CPU_VIRT_UNKNOWN, *evidence, missing=missing)
    if said:
        return _disagree(_REFUSED, evidence)
    return make_finding(ID, NODE, CPU_VIRT_NESTED if nested else CPU_VIRT_READY, *evidence)


def _disagree(texts: tuple[str, str], evidence: tuple[Evidence, ...]) -> Finding:
    meaning, decision = texts
    return make_finding(ID, NODE, CPU_VIRT_DISAGREES, *evidence, meaning=meaning, decision=decision)


def _judge_by_kvm(host: Host) -> Finding:
    evidence = _describe_kvm(host)
    if host.facts.kvm_device is False or host.readings.kvm:
        decision = "Load KVM (sudo modprobe kvm_hv on POWER), and look why it is missing: "
        decision += "sudo dmesg | grep -i kvm"
        return make_finding(ID, NODE, KVM_MISSING, *evidence, decision=decision)
    missing = _list_missing(host)
    if missing:
        return make_finding(ID, NODE, CPU_VIRT_UNKNOWN, *evidence, missing=missing)
    return make_finding(ID, NODE, CPU_VIRT_READY, *evidence)


def _vendor_modules(host: Host) -> tuple[str, ...] | None:
    if host.facts.modules is None:
        return None
    return tuple(sorted(m.name for m in host.facts.modules if m.name in _VENDOR_MODULES))


def _describe_kvm(host: Host) -> tuple[Evidence, ...]:
    found = []
    if host.facts.kvm_device is not None:
        found.append(Evidence(KVM, "exists" if host.facts.kvm_device else "does not exist"))
    modules = _vendor_modules(host)
    if modules is not None and family_of(host) == X86:
        found.append(Evidence(MODULES, " ".join(modules) or "neither kvm_intel nor kvm_amd"))
    if host.readings.kvm is not None:
        found.append(Evidence(KVM, host.readings.kvm or "KVM_CREATE_VM: a VM was made"))
    said = log.find_line(host, log.KVM_UNUSABLE) or log.find_line(host, log.KVM_READY)
    return (*found, said) if said is not None else tuple(found)


def _list_missing(host: Host) -> tuple[Missing, ...]:
    found = []
    if host.facts.cpu.flags is None and family_of(host) in (X86, UNKNOWN):
        command = find_remedy(host, CPUINFO) or f"grep -m1 ^flags {CPUINFO}"
        found.append(Missing(CPUINFO, command))
    if host.facts.kvm_device is None:
        found.append(Missing(KVM, find_remedy(host, KVM) or f"ls -l {KVM}"))
    if host.facts.modules is None and family_of(host) in (X86, UNKNOWN):
        found.append(Missing(MODULES, find_remedy(host, MODULES) or "lsmod | grep kvm"))
    if not found and host.readings.live and host.readings.kvm is None:
        # what root would be told an ordinary user must not guess
        found.append(Missing("KVM_CREATE_VM", find_remedy(host, KVM) or "sudo vfioctl check"))
    return tuple(found)
