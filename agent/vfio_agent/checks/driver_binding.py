"""Check `driver-binding`: whether a VM finds its device on a vfio driver, now and after a reboot.

Judged per assignable function. It must never advise to bind what the host needs, nor to bind by id
where another function of the host has the same id.
"""

from collections import Counter

from vfio_agent.checks.holding import describe_holder, find_holders, find_unbound_holders
from vfio_agent.checks.host_use import Use, find_uses
from vfio_agent.checks.inventory import (
    assignable,
    attribute,
    describe,
    is_intended,
    missing_attribute,
    report_nothing,
    subject_of,
)
from vfio_agent.checks.virtual_functions import PF_HAS_VFS, judge_vfs
from vfio_agent.checks.vm_inventory import at_device
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound, names_function
from vfio_contract.model import Intent, PciFunction
from vfio_contract.vm import covered_by

ID = "driver-binding"

BINDING_READY = Code(
    "BINDING_READY",
    Verdict.PASS,
    "<device>/vfio-dev exists or the driver is a vfio driver, and a configuration names it.",
    "A VM start finds the device as it needs it.",
    "No action.",
)
BINDING_NOT_PERSISTENT = Code(
    "BINDING_NOT_PERSISTENT",
    Verdict.WARN,
    "vfio-bound now, but no vfio ids in modprobe.d or on the command line and no driverctl entry.",
    "A driver_override or new_id written by hand does not survive a reboot: then a host driver may "
    "take the device.",
    "Make it last: sudo driverctl set-override ADDRESS vfio-pci (unless the hypervisor binds it at "
    "each VM start)",
)
BINDING_HOST_DRIVER = Code(
    "BINDING_HOST_DRIVER",
    Verdict.FAIL,
    "The function's driver is not a vfio driver.",
    "A host driver has the device: a VM that needs it does not start.",
    "sudo driverctl set-override ADDRESS vfio-pci; vfioctl check",
)
BINDING_DEFERRED = Code(
    "BINDING_DEFERRED",
    Verdict.WARN,
    "A host driver or none has the function, and a Proxmox VM or a libvirt hostdev with managed="
    "'yes' names it.",
    "Its hypervisor takes it from the host driver when the VM starts and gives it back afterwards: "
    "at rest this is as it should be, but nothing proves that the start will work.",
    "No action, if VMs on it do start. To prove it now: sudo driverctl set-override ADDRESS "
    "vfio-pci",
)
NOT_BOUND = Code(
    "NOT_BOUND",
    Verdict.FAIL,
    "The function has no driver at all.",
    "No driver uses it, and plain QEMU does not start with it before vfio-pci has it.",
    "sudo driverctl set-override ADDRESS vfio-pci; vfioctl check",
)
HELD_UNBOUND = Code(
    "HELD_UNBOUND",
    Verdict.FAIL,
    "The function has no driver, and a process still has its group open, in which nothing else is "
    "on a vfio driver.",
    "It is being taken away (unbind, removed VFs, hot-unplug) and the kernel waits for that "
    "process: until it lets go no VM can have the function, and reading it may block.",
    "Stop the VM that holds it (evidence), then: vfioctl check",
)
BINDING_STUB = Code(
    "BINDING_STUB",
    Verdict.FAIL,
    "pci-stub has the function: it keeps other drivers away and does nothing else.",
    "VMs with its group mates start: for them it is no obstacle. A VM that names it does not, "
    "unless its hypervisor binds it.",
    "If a VM is to get it: sudo driverctl set-override ADDRESS vfio-pci; vfioctl check. Else leave "
    "it as it is.",
)
BINDING_UNKNOWN = Code(
    "BINDING_UNKNOWN",
    Verdict.UNKNOWN,
    "The function's driver, or whether it has VFs, could not be read.",
    "Whether a VM could have it now is not known. Unknown is not bound.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    BINDING_READY,
    BINDING_NOT_PERSISTENT,
    BINDING_HOST_DRIVER,
    BINDING_DEFERRED,
    NOT_BOUND,
    HELD_UNBOUND,
    BINDING_STUB,
    PF_HAS_VFS,
    BINDING_UNKNOWN,
)

_UNBOUND = {"": NOT_BOUND, "pci-stub": BINDING_STUB}
"""Drivers under which nobody uses the function."""

_VF_DECISION = (
    "Give the physical function back to its host driver: sudo driverctl unset-override OWNER; or "
    "start the VM with the vf_token of the process that holds it (plain QEMU: vf-token=)."
)


def judge(host: Host) -> list[Finding]:
    """Is the function bound to a vfio driver, and will it be after a reboot?

    Evidence: <device>/driver, <device>/vfio-dev, modprobe.d and command line ids, driverctl, VM
              configurations whose hypervisor binds at start.
    Meaning:  Only what a vfio driver has can be given to a VM.
    Source:   Linux Documentation/driver-api/vfio.rst, vfio_pci.c; field guide step 8.
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    uses = find_uses(host)
    counts = Counter(f.ids for f in host.functions)
    return [_judge_function(host, f, uses[f.address], counts[f.ids]) for f in functions]


def _judge_function(host: Host, function: PciFunction, use: Use, same_ids: int) -> Finding:
    """`same_ids` counts the host's functions with these ids, this one included."""
    bound = is_vfio_bound(function)
    evidence = [attribute(function, "driver", describe(function, host))]
    meaning = decision = ""
    missing: tuple[Missing, ...] = ()
    if leaving := find_unbound_holders(host, function):
        code = HELD_UNBOUND
        evidence += [Evidence(h.path, describe_holder(host, h)) for h in leaving]
    elif bound is None:
        code = BINDING_UNKNOWN
        missing = (missing_attribute(host, function, "driver"),)
    elif bound and _owner_bound(host, function) is not False:
        code, missing = _judge_shared(host, function)
        decision = _VF_DECISION.replace("OWNER", function.physfn or "OWNER")
        evidence += [attribute(function, "physfn", function.physfn or "not read")]
    elif bound:
        code = _judge_bound(host, function)
        evidence += [Evidence(i.source, f"{i.kind} {i.value}") for i in _written(host, function)]
        evidence += bound_at_start(host, function)
        if code is BINDING_UNKNOWN:
            missing = (missing_attribute(host, function, "sriov_numvfs"),)
    elif not use.needs and not use.doubts and (deferred := bound_at_start(host, function)):
        code, missing = _judge_deferred(host, function)
        evidence += deferred
    else:
        code = _UNBOUND.get(function.driver or "", BINDING_HOST_DRIVER)
        held = find_holders(host, function) or [] if code is NOT_BOUND else []
        if held:
            evidence += [Evidence(h.path, describe_holder(host, h)) for h in held]
            meaning = (
                "Its group is in use; plain QEMU does not start with it before vfio-pci has it."
            )
        evidence += [
            Evidence("intended", reason) for reason in host.intentions.get(function.address, ())
        ]
        if code is not BINDING_STUB or use.needs or use.doubts:
            decision = _advise(host, function, use, same_ids)
    return make_finding(
        ID,
        subject_of(function),
        code,
        *evidence,
        intended=is_intended(host, [function.address]),
        meaning=meaning,
        decision=(decision or code.decision).replace("ADDRESS", function.address),
        missing=missing,
    )


def _owner_bound(host: Host, function: PciFunction) -> bool | None:
    """Whether a VF's physical function is on a vfio driver; False for what is no VF."""
    if function.physfn is None:
        return None
    owner = host.by_address.get(function.physfn) if function.physfn else None
    if owner is None:
        return None if function.physfn else False
    return is_vfio_bound(owner)


def _judge_shared(host: Host, function: PciFunction) -> tuple[Code, tuple[Missing, ...]]:
    """A VF whose owner is, or may be, on a vfio driver: VFIO gives it only for a token."""
    if _owner_bound(host, function):
        return PF_HAS_VFS, ()
    return BINDING_UNKNOWN, (missing_attribute(host, function, "physfn"),)


def _judge_bound(host: Host, function: PciFunction) -> Code:
    has_vfs = judge_vfs(host, function)
    if has_vfs:
        return PF_HAS_VFS
    if has_vfs is None:
        return BINDING_UNKNOWN
    lasting = _written(host, function) or bound_at_start(host, function)
    return BINDING_READY if lasting else BINDING_NOT_PERSISTENT


def _judge_deferred(host: Host, function: PciFunction) -> tuple[Code, tuple[Missing, ...]]:
    has_vfs = judge_vfs(host, function)
    if has_vfs:
        return PF_HAS_VFS, ()
    if has_vfs is None:
        return BINDING_UNKNOWN, (missing_attribute(host, function, "sriov_numvfs"),)
    return BINDING_DEFERRED, ()


def bound_at_start(host: Host, function: PciFunction) -> list[Evidence]:
    """Entries of VMs whose hypervisor binds this function at each start."""
    facts = host.facts
    return [
        at_device(vm, device)
        for vm in facts.vms or ()
        for device in vm.devices
        if device.managed and covered_by(device, facts.mappings, facts.host, function.address)
    ]


def _written(host: Host, function: PciFunction) -> list[Intent]:
    """Configuration that binds this function at every boot.

    What /sys shows is the running module's state, not a file that the next boot will read.
    """
    return [
        intent
        for intent in host.facts.intents or ()
        if names_function(intent, function) and not intent.source.startswith("/sys/")
    ]


def _advise(host: Host, function: PciFunction, use: Use, same_ids: int) -> str:
    """The exact commands that would bind it, or why not to."""
    if use.needs or use.doubts:
        reason = use.needs[0] if use.needs else use.doubts[0].why
        return f"Do not bind it: the host {'needs' if use.needs else 'may need'} it ({reason})."
    if host.intentions.get(function.address):
        return (
            "The configuration names it, yet a host driver came first. Load vfio-pci earlier: echo "
            f"'softdep {function.driver or 'DRIVER'} pre: vfio-pci' | sudo tee -a "
            "/etc/modprobe.d/vfio.conf; sudo update-initramfs -u; reboot. Until then: "
            "sudo driverctl --nosave set-override ADDRESS vfio-pci"
        )
    if same_ids > 1:
        return (
            "To pass it: sudo driverctl set-override ADDRESS vfio-pci (not by id: other functions "
            f"of this host are {function.ids} too); vfioctl check"
        )
    return (
        "To pass it: sudo driverctl set-override ADDRESS vfio-pci, or by id: echo 'options "
        f"vfio-pci ids={function.ids}' | sudo tee -a /etc/modprobe.d/vfio.conf; "
        "sudo update-initramfs -u; reboot; vfioctl check"
    )
