"""Check `vm-functions`: whether the VM's entries name the right functions, all of them, and safely.

Judged per VM with host devices; everything that is wrong with it is in one finding, the worst
first. It must never pass a VM whose start would take something from the host, nor call a set of
functions complete when a function beside it was not read.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vfio_agent.checks.host_use import Use, find_uses
from vfio_agent.checks.inventory import describe_driver, group_of, missing_attribute
from vfio_agent.checks.mapping_entries import judge_mapping
from vfio_agent.checks.vm_companions import judge_companions
from vfio_agent.checks.vm_inventory import CODES as VM_CODES
from vfio_agent.checks.vm_inventory import (
    at,
    at_device,
    judge_vms,
    judged_vms,
    make_vm_finding,
    missing_mappings,
    missing_passed,
    named_functions,
    passed_functions,
)
from vfio_agent.checks.vm_mediated import VM_MDEV_PARENT, advise_parent, judge_mediated
from vfio_agent.checks.vm_refusals import VM_HELD_UNBOUND, VM_VF_TOKEN, judge_refusals
from vfio_contract.address import Address, slot_of
from vfio_contract.codes import MAPPING_STALE, Code
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.vm import LIBVIRT, PROXMOX, QEMU, VmConfig, VmDevice, choices, covers, overlap

ID = "vm-functions"

VM_FUNCTIONS_READY = Code(
    "VM_FUNCTIONS_READY",
    Verdict.PASS,
    "Every entry names functions that exist, companions included, that the host can spare.",
    "The VM's start finds its devices and takes nothing else.",
    "No action.",
)
VM_HOST_CRITICAL = Code(
    "VM_HOST_CRITICAL",
    Verdict.FAIL,
    "A function that the VM names, or one that its start takes along, is needed by the host.",
    "STARTING THIS VM TAKES FROM THE HOST what the evidence names: its hypervisor unbinds it, and "
    "qm start every member of the IOMMU group.",
    "Do not start it. Take the entry out, or move what the host needs to another device first.",
)
VM_ENTRY_BROKEN = Code(
    "VM_ENTRY_BROKEN",
    Verdict.FAIL,
    "A device entry names no address, mapping or mediated device that can be read.",
    "The hypervisor refuses the configuration.",
    "Correct the line that the evidence names.",
)
VM_DEVICE_TWICE = Code(
    "VM_DEVICE_TWICE",
    Verdict.FAIL,
    "Two entries of the VM name the same function; an address without function is the whole slot.",
    "Proxmox and QEMU refuse it: assigned more than once.",
    "Keep one of the entries: 01:00 is all of 01:00.0, 01:00.1 and so on.",
)
VM_DEVICE_MISSING = Code(
    "VM_DEVICE_MISSING",
    Verdict.FAIL,
    "An entry names an address at which this host has no function, or a mapping without an entry "
    "for this node.",
    "The VM does not start; after a change of slots the address may later be another device.",
    "lspci -nn, then correct the line that the evidence names.",
)
VM_NOT_BOUND = Code(
    "VM_NOT_BOUND",
    Verdict.FAIL,
    "The hypervisor is told not to bind the device (managed='no', driver=keep), and no vfio driver "
    "has it.",
    "The VM does not start.",
    "Bind it to vfio-pci before the start, or let the hypervisor do it (managed='yes').",
)
VM_NOT_BINDABLE = Code(
    "VM_NOT_BINDABLE",
    Verdict.FAIL,
    "An entry names a bridge, or a function that the kernel gave no IOMMU group.",
    "No vfio driver takes it: the VM does not start.",
    "Take the entry out; name the device below the bridge instead.",
)
VM_DEVICE_SHARED = Code(
    "VM_DEVICE_SHARED",
    Verdict.FAIL,
    "Another VM that starts by itself, or runs, names the same function.",
    "The second of them does not start.",
    "Give it to one of them, or turn off the other's autostart.",
)
VM_COMPANION_LEFT = Code(
    "VM_COMPANION_LEFT",
    Verdict.FAIL,
    "A companion of a passed GPU (audio, USB, UCSI) shares its group or reset and is not passed.",
    "A half-attached device: no start, no sound, or a reset that is refused.",
    "Pass all functions of the slot (Proxmox: the address without its function number).",
)
VM_COMPANION_APART = Code(
    "VM_COMPANION_APART",
    Verdict.WARN,
    "A companion of a passed GPU sits in its own group and is not passed.",
    "The GPU works; the guest has no sound or USB over it, and drivers may complain.",
    "Pass all functions of the slot (Proxmox: the address without its function number).",
)
VM_FUNCTIONS_UNKNOWN = Code(
    "VM_FUNCTIONS_UNKNOWN",
    Verdict.UNKNOWN,
    "A function, its neighbours, a mapping or another VM's autostart could not be read.",
    "Whether the VM may start is not known.",
    "Get the missing evidence below, then: vfioctl vm lint",
)
CODES = (
    VM_FUNCTIONS_READY,
    VM_HOST_CRITICAL,
    VM_ENTRY_BROKEN,
    VM_DEVICE_TWICE,
    VM_DEVICE_MISSING,
    MAPPING_STALE,
    VM_NOT_BINDABLE,
    VM_NOT_BOUND,
    VM_HELD_UNBOUND,
    VM_MDEV_PARENT,
    VM_VF_TOKEN,
    VM_DEVICE_SHARED,
    VM_COMPANION_LEFT,
    VM_COMPANION_APART,
    VM_FUNCTIONS_UNKNOWN,
    *VM_CODES,
)

_WORST_FIRST = (
    VM_HOST_CRITICAL,
    VM_ENTRY_BROKEN,
    VM_DEVICE_TWICE,
    VM_DEVICE_MISSING,
    MAPPING_STALE,
    VM_NOT_BINDABLE,
    VM_HELD_UNBOUND,
    VM_NOT_BOUND,
    VM_MDEV_PARENT,
    VM_VF_TOKEN,
    VM_DEVICE_SHARED,
    VM_COMPANION_LEFT,
    VM_FUNCTIONS_UNKNOWN,
    VM_COMPANION_APART,
)


@dataclass(slots=True)
class _Verdicts:
    """What was found about one VM: evidence by code, what is missing, sharper decisions."""

    found: dict[Code, dict[Evidence, None]] = field(default_factory=dict)
    missing: dict[Missing, None] = field(default_factory=dict)
    decisions: dict[Code, str] = field(default_factory=dict)

    def add(self, code: Code, *evidence: Evidence) -> None:
        self.found.setdefault(code, {}).update(dict.fromkeys(evidence))

    def lack(self, *missing: Missing) -> None:
        if missing:
            self.found.setdefault(VM_FUNCTIONS_UNKNOWN, {})
            self.missing.update(dict.fromkeys(missing))


def judge(host: Host) -> list[Finding]:
    """Does the VM get the right functions, all of them, and nothing that the host needs?

    Evidence: the VM's entries and mappings, the host's functions, groups, resets and uses; other
              VMs that start by themselves.
    Meaning:  A wrong or missing entry costs a start; a host-critical group mate costs the host.
    Source:   PVE::QemuServer::PCI, libvirt formatdomain; field guide step 10.
    """
    uses = find_uses(host) if judged_vms(host) else {}
    return judge_vms(ID, host, lambda vm: _judge_vm(host, vm, uses))


def _judge_vm(host: Host, vm: VmConfig, uses: Mapping[Address, Use]) -> Finding:
    verdicts = _Verdicts()
    _find_broken(vm, verdicts)
    _find_twice(vm, verdicts)
    verdicts.lack(*missing_passed(host, vm))
    passed = passed_functions(host, vm)
    if passed is not None:
        _find_absent(host, vm, verdicts)
        _find_shared(host, vm, passed, verdicts)
    left: dict[Address, None] = {}
    for device in vm.devices:
        mediated = judge_mediated(host, vm, device)
        for evidence in mediated.broken.values():
            verdicts.add(VM_MDEV_PARENT, *evidence)
            verdicts.decisions.setdefault(VM_MDEV_PARENT, advise_parent(mediated.broken))
        if mediated.missing:
            verdicts.add(VM_FUNCTIONS_UNKNOWN, at_device(vm, device))
            verdicts.lack(*mediated.missing)
        functions = named_functions(host, device) or []
        for function in functions:
            if function.is_bridge is None:
                verdicts.lack(missing_attribute(host, function, "config"))
            _judge_use(vm, device, function, uses, verdicts)
            _judge_binding(host, vm, device, function, verdicts)
            refused = judge_refusals(host, device, function)
            for code, text in refused.found:
                verdicts.add(code, at_device(vm, device), at(vm, device.line, text))
            verdicts.lack(*refused.missing)
            if passed is not None:
                beside = judge_companions(host, vm, function, passed)
                left.update(dict.fromkeys((*beside.left, *beside.apart)))
                verdicts.lack(*beside.missing)
                if beside.left:
                    verdicts.add(VM_COMPANION_LEFT, *beside.left.values())
                if beside.apart:
                    verdicts.add(VM_COMPANION_APART, *beside.apart.values())
    if left:
        decision = _advise_companions(vm, list(left))
        verdicts.decisions |= dict.fromkeys((VM_COMPANION_LEFT, VM_COMPANION_APART), decision)
    for code in _WORST_FIRST:
        if code in verdicts.found:
            return _report(vm, code, verdicts)
    return make_vm_finding(ID, vm, VM_FUNCTIONS_READY, *(at_device(vm, d) for d in vm.devices))


def _report(vm: VmConfig, code: Code, verdicts: _Verdicts) -> Finding:
    """The worst code with its evidence first, then that of the others."""
    order = [code, *(c for c in _WORST_FIRST if c is not code)]
    evidence = dict.fromkeys(e for c in order for e in verdicts.found.get(c, ()))
    missing = tuple(verdicts.missing) if code is VM_FUNCTIONS_UNKNOWN else ()
    others = [c.name for c in order[1:] if c in verdicts.found and c is not VM_FUNCTIONS_UNKNOWN]
    meaning = f"{code.meaning} Also: {', '.join(others)}." if others else ""
    decision = verdicts.decisions.get(code, "")
    return make_vm_finding(
        ID, vm, code, *evidence, meaning=meaning, decision=decision, missing=missing
    )


def _advise_companions(vm: VmConfig, left: list[Address]) -> str:
    names = ", ".join(left)
    if vm.kind == LIBVIRT:
        return f"virsh edit {shlex.quote(vm.name)}: one hostdev more for each of {names}"
    return f"Pass {names} too (Proxmox: the address without its function number)."


# --- the configuration by itself -----------------------------------------------------------------


def _find_broken(vm: VmConfig, verdicts: _Verdicts) -> None:
    lines = {device.line for device in vm.devices}
    for line, text in vm.faults:
        if line in lines:
            verdicts.add(VM_ENTRY_BROKEN, at(vm, line, text))
    for device in vm.devices:
        if not (device.addresses or device.mapping or device.mdev):
            verdicts.add(VM_ENTRY_BROKEN, at_device(vm, device))


def _find_twice(vm: VmConfig, verdicts: _Verdicts) -> None:
    whole = [d for d in vm.devices if not d.mdev]
    twice = overlap(text for device in whole for text in device.addresses)
    named = {slot_of(Address(text)) if "." in text else text for text in twice}
    for device in whole if twice else ():
        for text in device.addresses:
            if text.partition(".")[0] in named:
                verdicts.add(VM_DEVICE_TWICE, at_device(vm, device))
    mediated = [d.mdev for d in vm.devices if d.mdev and vm.kind != PROXMOX]
    for device in vm.devices:
        if device.mdev and mediated.count(device.mdev) > 1 and vm.kind != PROXMOX:
            verdicts.add(VM_DEVICE_TWICE, at_device(vm, device))


# --- against the host ----------------------------------------------------------------------------


def _find_absent(host: Host, vm: VmConfig, verdicts: _Verdicts) -> None:
    for device in vm.devices:
        if device.mapping:
            stale, absent, missing = judge_mapping(host, device)
            if absent:
                verdicts.add(VM_DEVICE_MISSING, at_device(vm, device), absent)
            if stale:
                verdicts.add(MAPPING_STALE, *stale, at_device(vm, device))
            verdicts.lack(*missing)
            continue
        for written in device.addresses:
            if not any(covers(written, f.address) for f in host.functions):
                text = f"{device.key}: this host has no function at {written}"
                verdicts.add(VM_DEVICE_MISSING, at(vm, device.line, text))
            bridge = host.by_address.get(Address(written))
            if bridge is not None and bridge.is_bridge and not device.mdev:
                text = f"{written} is a bridge"
                verdicts.add(VM_NOT_BINDABLE, at_device(vm, device), at(vm, device.line, text))


def _find_shared(
    host: Host, vm: VmConfig, passed: Mapping[Address, PciFunction], verdicts: _Verdicts
) -> None:
    """Other VMs that hold, or will by themselves take, what this one is sure to get.

    Of a mapping with several entries nobody knows which one a VM takes; it is short when the VMs
    that start by themselves want more of them than there are.
    """
    mine = {a for d in vm.devices for a in passed if _is_sure_of(host, d, a)}
    mapped = Counter(d.mapping for d in vm.devices if d.mapping)
    for other in judged_vms(host):
        if other.name == vm.name or other.autostart is False:
            continue
        for device in other.devices:
            if mine and device.mapping and host.facts.mappings is None:
                verdicts.lack(missing_mappings(host))
            taken = any(_is_sure_of(host, device, a) for a in mine)
            if device.mapping in mapped:
                mapped[device.mapping] += 1
                taken = taken or mapped[device.mapping] > len(_alternatives(host, device))
            if not taken:
                continue
            if other.autostart is None and other.kind != QEMU:
                verdicts.lack(Missing(f"autostart of {other.name}", "virsh list --all --autostart"))
            else:
                verdicts.add(VM_DEVICE_SHARED, at_device(other, device))


def _alternatives(host: Host, device: VmDevice) -> tuple[tuple[str, ...], ...]:
    return choices(device, host.facts.mappings, host.facts.host) or ()


def _is_sure_of(host: Host, device: VmDevice, address: Address) -> bool:
    """True when this entry can only mean that function."""
    alternatives = () if device.mdev else _alternatives(host, device)
    return len(alternatives) == 1 and any(covers(text, address) for text in alternatives[0])


def _judge_use(
    vm: VmConfig,
    device: VmDevice,
    function: PciFunction,
    uses: Mapping[Address, Use],
    verdicts: _Verdicts,
) -> None:
    use = uses.get(function.address)
    if use is None:
        return
    if use.needs:
        texts = [at(vm, device.line, f"{function.address}: {why}") for why in use.needs]
        verdicts.add(VM_HOST_CRITICAL, at_device(vm, device), *texts)
    elif use.doubts:
        verdicts.lack(*(doubt.missing for doubt in use.doubts))


def _judge_binding(
    host: Host, vm: VmConfig, device: VmDevice, function: PciFunction, verdicts: _Verdicts
) -> None:
    """A device that runs is bound; one that the hypervisor binds may be anywhere at rest."""
    if vm.kind != QEMU and host.members and group_of(host, function) == NO_GROUP:
        text = f"{function.address} is in no IOMMU group"
        verdicts.add(VM_NOT_BINDABLE, at_device(vm, device), at(vm, device.line, text))
    if device.managed or vm.kind == QEMU:
        return
    bound = is_vfio_bound(function)
    if bound is None:
        verdicts.lack(missing_attribute(host, function, "driver"))
    elif not bound:
        text = f"{function.address}: {describe_driver(function)}"
        verdicts.add(VM_NOT_BOUND, at_device(vm, device), at(vm, device.line, text))
