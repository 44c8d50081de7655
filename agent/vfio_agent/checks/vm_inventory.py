"""The VMs that the VM checks judge, which functions they name, and what was not read of them.

A VM is judged when it names a host device and is no template. What could not be read becomes one
finding about the node, beside the findings about the VMs that were read: this module must never let
an unread configuration pass for a host without VMs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from vfio_agent.checks.inventory import DEVICES, find_remedy
from vfio_agent.checks.vm_virsh import VIRSH
from vfio_contract.address import Address, slot_of
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Gap, PciFunction
from vfio_contract.vm import (
    LIBVIRT,
    QEMU,
    SOURCE_ADDRESS,
    VmConfig,
    VmDevice,
    choices,
    covers,
)

_SOURCES = re.compile(
    r"/etc/pve/qemu-server(?:/.*)?|/etc/libvirt/qemu(?:/.*)?|/proc/[0-9]+/cmdline"
)
"""Not the mappings: they matter to the VMs that name one (`missing_passed`)."""

_FOLDERS = ("/etc/pve/qemu-server", "/etc/libvirt/qemu")
_SPEAKER = "vm-functions"
MAPPINGS = "/etc/pve/mapping/pci.cfg"

VMS_UNKNOWN = Code(
    "VMS_UNKNOWN",
    Verdict.UNKNOWN,
    "A VM configuration (Proxmox, libvirt) or a QEMU process's arguments could not be read.",
    "There may be VMs that nobody judged. Unknown is not fine.",
    "Get the missing evidence below, then: vfioctl vm lint",
)
NO_PASSTHROUGH_VMS = Code(
    "NO_PASSTHROUGH_VMS",
    Verdict.NOT_APPLICABLE,
    "Proxmox and libvirt configurations and running QEMU processes: none names a host device.",
    "No VM of this host wants a device, so there is nothing to judge.",
    "No action.",
)
CODES = (VMS_UNKNOWN, NO_PASSTHROUGH_VMS)


def judged_vms(host: Host) -> list[VmConfig]:
    """VMs that want a host device and can be started."""
    return [vm for vm in host.facts.vms or () if vm.devices and not vm.template]


def judge_vms(check: str, host: Host, judge: Callable[[VmConfig], Finding]) -> list[Finding]:
    """One finding per judged VM, and one about the node where that is not the whole truth.

    Beside VMs that were read one check says for all that others may not have been.
    """
    found = [judge(vm) for vm in judged_vms(host)]
    missing = unread_vms(host)
    if missing and (not found or check == _SPEAKER):
        found.append(make_finding(check, NODE, VMS_UNKNOWN, missing=missing))
    elif not found:
        text = f"{len(host.facts.vms or ())} VMs, none names a host device"
        found.append(make_finding(check, NODE, NO_PASSTHROUGH_VMS, Evidence("VMs", text)))
    return found


def unread_vms(host: Host) -> tuple[Missing, ...]:
    """What would show the configurations that could not be read; () when all were."""
    gaps = [gap for gap in host.readings.gaps if _SOURCES.fullmatch(gap.path)]
    found = [Missing(_name_gap(gap), gap.remedy or f"cat {gap.path}") for gap in gaps]
    if host.facts.vms is None and not found:
        found = [Missing(folder, f"ls {folder}; sudo vfioctl check") for folder in _FOLDERS]
    return tuple(found)


def _name_gap(gap: Gap) -> str:
    """The path, and why a file that was read tells of no VM (broken XML, a line and its fault)."""
    told = gap.path.endswith((".xml", ".conf")) and gap.errno == 0
    return f"{gap.path}: {gap.reason}" if told and gap.reason != "not captured" else gap.path


def make_vm_finding(
    check: str,
    vm: VmConfig,
    code: Code,
    *evidence: Evidence,
    meaning: str = "",
    decision: str = "",
    missing: tuple[Missing, ...] = (),
) -> Finding:
    """A finding about one VM; VMs always move the verdict. libvirt's decision is in virsh's words.

    Each configuration is decided upon with the tool that its hypervisor brings.
    """
    if vm.kind == LIBVIRT and code.name in VIRSH:
        decision = VIRSH[code.name].replace("NAME", shlex.quote(vm.name))
    return make_finding(
        check,
        f"vm:{vm.name}",
        code,
        *evidence,
        intended=True,
        meaning=meaning,
        decision=decision,
        missing=missing,
    )


def at(vm: VmConfig, line: int, text: str) -> Evidence:
    """Evidence in the VM's own file; of line 0 (nothing is written) the file alone."""
    return Evidence(f"{vm.source}:{line}" if line else vm.source, text)


def at_device(vm: VmConfig, device: VmDevice) -> Evidence:
    """The entry as it is written; of libvirt the host's device first, which no attribute names."""
    rows = (row for row in device.options if not row[0].startswith(SOURCE_ADDRESS))
    words = ",".join(f"{key}={value}" for key, value in rows)
    if vm.kind == LIBVIRT:
        words = ",".join(["+".join(device.addresses) or device.mdev or "no host device", words])
    return at(vm, device.line, f"{device.key}: {words}")


def at_setting(vm: VmConfig, default: str, *keys: str) -> Evidence:
    """The first of these settings that is written, or what the hypervisor takes instead."""
    for key in keys:
        for setting in vm.settings:
            if setting.key == key:
                return at(vm, setting.line, f"{key}: {setting.value}")
    return at(vm, 0, default)


def is_process(vm: VmConfig) -> bool:
    """True for what a running QEMU told itself, not for a pasted command line (qm showcmd)."""
    return vm.kind == QEMU and vm.source.startswith("/proc/")


def names_address(device: VmDevice, address: Address) -> bool:
    """True when this entry names that function itself, by address and not by a mapping."""
    return not device.mdev and any(covers(written, address) for written in device.addresses)


def named_functions(host: Host, device: VmDevice) -> list[PciFunction] | None:
    """Every function that this entry may give to the VM, bridges left out.

    None when the inventory, or the mapping it names, is not known.
    """
    if device.mdev:
        return []
    alternatives = choices(device, host.facts.mappings, host.facts.host)
    if host.facts.functions is None or alternatives is None:
        return None
    written = {text for alternative in alternatives for text in alternative}
    return [
        f
        for f in host.functions
        if (f.address in written or slot_of(f.address) in written) and not f.is_bridge
    ]


def passed_functions(host: Host, vm: VmConfig) -> dict[Address, PciFunction] | None:
    """Every function that the VM may get; None when that is not known of all its entries."""
    found: dict[Address, PciFunction] = {}
    for device in vm.devices:
        functions = named_functions(host, device)
        if functions is None:
            return None
        found.update((f.address, f) for f in functions)
    return found


def missing_passed(host: Host, vm: VmConfig) -> tuple[Missing, ...]:
    """What is missing when `passed_functions` is None."""
    found = []
    if host.facts.functions is None:
        found.append(Missing(DEVICES, find_remedy(host, DEVICES) or "lspci -nnk"))
    if host.facts.mappings is None and any(d.mapping for d in vm.devices):
        found.append(missing_mappings(host))
    return tuple(found)


def missing_mappings(host: Host) -> Missing:
    """The mappings, which tell what an entry that names one may take."""
    return Missing(MAPPINGS, find_remedy(host, MAPPINGS) or f"cat {MAPPINGS}")
