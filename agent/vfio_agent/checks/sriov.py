"""Check `sriov`: whether virtual functions are there, stay there, and are not given out twice.

Judged per physical function. It must never take an unread count for zero, nor the absence of a rule
in the files that were read for proof that nothing makes the VFs.
"""

from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    attribute,
    describe,
    find_reason,
    is_intended,
    missing_attribute,
    report_nothing,
    subject_of,
)
from vfio_agent.checks.vf_rules import VfRules, count_of, find_rules, names_device
from vfio_agent.checks.virtual_functions import PF_HAS_VFS, judge_vfs
from vfio_agent.checks.vm_inventory import at_device, unread_vms
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import PciFunction
from vfio_contract.vm import covered_by

ID = "sriov"
RULES = "/etc/udev/rules.d"

SRIOV_READY = Code(
    "SRIOV_READY",
    Verdict.PASS,
    "sriov_numvfs is not 0, and a configuration file makes as many VFs at boot.",
    "The virtual functions are there now and after a reboot.",
    "No action.",
)
SRIOV_UNUSED = Code(
    "SRIOV_UNUSED",
    Verdict.NOT_APPLICABLE,
    "The function could have VFs (sriov_totalvfs) and has none.",
    "Nobody uses SR-IOV of this device.",
    "No action. To make VFs: echo N | sudo tee /sys/bus/pci/devices/ADDRESS/sriov_numvfs",
)
SRIOV_NOT_PERSISTENT = Code(
    "SRIOV_NOT_PERSISTENT",
    Verdict.WARN,
    "VFs are enabled, and neither udev, sysfs.conf, tmpfiles.d, systemd, rc.local, modprobe.d nor "
    "a network configuration (interfaces, netplan, NetworkManager) makes any.",
    "VFs made by hand are gone after a reboot, and the VMs that use them do not start.",
    'Make it last, e.g. in /etc/udev/rules.d/70-sriov.rules: ACTION=="add", '
    'SUBSYSTEM=="pci", KERNEL=="ADDRESS", ATTR{sriov_numvfs}="N"',
)
SRIOV_MISSING = Code(
    "SRIOV_MISSING",
    Verdict.WARN,
    "A configuration line names this function for VFs, and it has none.",
    "The VFs that somebody wants are not there: firmware without SR-IOV, a driver that came later, "
    "or a rule that did not run.",
    "Enable SR-IOV in the firmware setup, then look why the rule failed: sudo dmesg | grep -i -e "
    "sriov -e VF",
)
SRIOV_COUNT = Code(
    "SRIOV_COUNT",
    Verdict.WARN,
    "sriov_numvfs against the number in the configuration line that makes VFs at boot.",
    "There are more or fewer VFs than somebody wants: after a reboot VMs may miss theirs, or get "
    "others' addresses.",
    "Make line and host agree; VFs can only be changed from 0: stop the VMs that use them first.",
)
SRIOV_VF_TOKEN = Code(
    "SRIOV_VF_TOKEN",
    Verdict.WARN,
    "VFs are enabled on a function that a vfio driver has, and no VF is on a vfio driver.",
    "Whoever wants a VF needs the vf_token of the process that holds the physical function.",
    "Give the physical function back to its host driver, unless a user-space driver has it "
    "(vfio-pci enable_sriov=1).",
)
SRIOV_UNKNOWN = Code(
    "SRIOV_UNKNOWN",
    Verdict.UNKNOWN,
    "The number of VFs, their drivers, or the configuration that makes them could not be read, or "
    "which function a line of it is about.",
    "Whether the VFs are there to stay is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    SRIOV_READY,
    SRIOV_UNUSED,
    SRIOV_NOT_PERSISTENT,
    SRIOV_MISSING,
    SRIOV_COUNT,
    SRIOV_VF_TOKEN,
    PF_HAS_VFS,
    SRIOV_UNKNOWN,
)


def judge(host: Host) -> list[Finding]:
    """Are virtual functions as they are meant to be, and will they be after a reboot?

    Evidence: sriov_totalvfs, sriov_numvfs, physfn links, drivers, rules that make VFs at boot.
    Meaning:  A PF and its VFs are never both assigned; VFs made by hand do not survive a reboot.
    Source:   Linux Documentation/PCI/pci-iov-howto.rst, vfio_pci_core.c; field guide step 17.
    """
    functions = [f for f in assignable(host) if f.sriov_total_vfs != 0 and not f.physfn]
    if not functions:
        return report_nothing(ID, host, where="with SR-IOV")
    return [_judge_function(host, f) for f in functions]


def _judge_function(host: Host, function: PciFunction) -> Finding:
    code, missing = _decide(host, function)
    vfs = host.by_address.virtual.get(function.address, ())
    shown = f"{_text(function.sriov_num_vfs)} of {_text(function.sriov_total_vfs)} VFs enabled"
    if function.sriov_num_vfs is None and (why := find_reason(host, function, "sriov_numvfs")):
        shown = f"{shown} ({why})"
    evidence = [
        Evidence(f"{DEVICES}/{function.address}", describe(function, host)),
        attribute(function, "sriov_numvfs", shown),
    ]
    if is_vfio_bound(function):
        evidence += [
            Evidence("/sys/module/vfio_pci/parameters/enable_sriov", value)
            for m in host.facts.modules or ()
            for name, value in m.parameters
            if m.name == "vfio_pci" and name == "enable_sriov"
        ]
    if code is PF_HAS_VFS:
        evidence += [Evidence(f"{DEVICES}/{v.address}", describe(v, host)) for v in vfs]
    rules = find_rules(host, function)
    evidence += [Evidence(r.source, r.text) for r in (*rules.own, *rules.unclear)]
    evidence += _given_whole(host, function) if code is PF_HAS_VFS else []
    return make_finding(
        ID,
        subject_of(function),
        code,
        *evidence,
        intended=is_intended(host, (function.address, *(v.address for v in vfs))),
        decision=_advise(code, function),
        missing=missing,
    )


def _decide(host: Host, function: PciFunction) -> tuple[Code, tuple[Missing, ...]]:
    enabled, bound = judge_vfs(host, function), is_vfio_bound(function)
    rules_unread = (Missing(RULES, f"grep -rn sriov_numvfs {RULES}"),)
    if enabled is None or function.sriov_total_vfs is None:
        return SRIOV_UNKNOWN, (missing_attribute(host, function, "sriov_numvfs"),)
    if bound is None:
        return SRIOV_UNKNOWN, (missing_attribute(host, function, "driver"),)
    if not enabled:
        if host.facts.sriov_rules is None:
            return SRIOV_UNKNOWN, rules_unread
        return _judge_wish(host, function)
    if bound:
        return _judge_both(host, function)
    if _given_whole(host, function):
        return PF_HAS_VFS, ()
    if unread := unread_vms(host):
        return SRIOV_UNKNOWN, unread  # one of them may name the physical function
    if host.facts.sriov_rules is None:
        return SRIOV_UNKNOWN, rules_unread
    return _judge_lasting(host, function)


def _judge_wish(host: Host, function: PciFunction) -> tuple[Code, tuple[Missing, ...]]:
    """There are no VFs: should there be any?"""
    rules = find_rules(host, function)
    named = [r for r in rules.own if names_device(host, r, function)]
    if any(count_of(rule) != 0 for rule in named):
        return SRIOV_MISSING, ()
    if rules.unclear:
        return SRIOV_UNKNOWN, _unclear(rules)
    return SRIOV_UNUSED, ()


def _judge_lasting(host: Host, function: PciFunction) -> tuple[Code, tuple[Missing, ...]]:
    """There are VFs on a host driver: will as many be there after a reboot?"""
    if function.sriov_num_vfs is None:
        # a count that blocks is one that changes: what is left may be on its way out
        return SRIOV_UNKNOWN, (missing_attribute(host, function, "sriov_numvfs"),)
    rules = find_rules(host, function)
    if not rules.own:
        return (SRIOV_UNKNOWN, _unclear(rules)) if rules.unclear else (SRIOV_NOT_PERSISTENT, ())
    if rules.counts and function.sriov_num_vfs not in rules.counts:
        return SRIOV_COUNT, ()
    return SRIOV_READY, ()


def _unclear(rules: VfRules) -> tuple[Missing, ...]:
    paths = (rule.source.rpartition(":")[0] for rule in rules.unclear)
    return tuple(Missing(f"what {path} is about", f"cat {path}") for path in dict.fromkeys(paths))


def _given_whole(host: Host, function: PciFunction) -> list[Evidence]:
    """Entries of VMs that take the physical function itself from the host."""
    facts = host.facts
    return [
        at_device(vm, device)
        for vm in facts.vms or ()
        for device in vm.devices
        if covered_by(device, facts.mappings, facts.host, function.address)
    ]


def _advise(code: Code, function: PciFunction) -> str:
    decision = code.decision.replace("ADDRESS", function.address)
    if code is SRIOV_MISSING and is_vfio_bound(function):
        return (
            "A vfio driver has it and makes no VFs by itself. Give it back to its host driver: "
            f"sudo driverctl unset-override {function.address}; or load vfio-pci with "
            "enable_sriov=1."
        )
    return decision


def _judge_both(host: Host, function: PciFunction) -> tuple[Code, tuple[Missing, ...]]:
    """The PF is on a vfio driver and has VFs: are they assigned too?"""
    vfs = host.by_address.virtual.get(function.address, ())
    if any(is_vfio_bound(v) for v in vfs):
        return PF_HAS_VFS, ()
    unread = [v for v in vfs if is_vfio_bound(v) is None]
    if unread:
        return SRIOV_UNKNOWN, (missing_attribute(host, unread[0], "driver"),)
    if function.sriov_num_vfs is None or len(vfs) < function.sriov_num_vfs:
        lost = Missing(f"VFs of {function.address}", f"ls -l {DEVICES}/{function.address}/virtfn*")
        return SRIOV_UNKNOWN, (lost,)
    return SRIOV_VF_TOKEN, ()


def _text(value: int | None) -> str:
    return "?" if value is None else str(value)
