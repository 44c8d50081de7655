"""Check `vm-display-rom`: whether a GPU that the firmware used can show a picture in its VM.

The firmware shadows the option ROM of the boot display, so that what the guest reads of it may be
spoiled. It must never clear a display of which it is not known whether the host booted on it.
"""

from vfio_agent.checks.inventory import DEVICES, attribute, describe, missing_attribute
from vfio_agent.checks.vm_inventory import CODES as VM_CODES
from vfio_agent.checks.vm_inventory import (
    at_device,
    judge_vms,
    make_vm_finding,
    missing_passed,
    named_functions,
)
from vfio_contract.codes import Code
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import PciFunction
from vfio_contract.vm import VmConfig, VmDevice

ID = "vm-display-rom"

VM_DISPLAY_READY = Code(
    "VM_DISPLAY_READY",
    Verdict.PASS,
    "The GPU is not the host's boot display, or the entry gives it a ROM file.",
    "The guest's firmware reads a whole option ROM.",
    "No action.",
)
VM_ROM_SHADOWED = Code(
    "VM_ROM_SHADOWED",
    Verdict.WARN,
    "boot_vga of the passed GPU is 1 and its entry has no romfile.",
    "The host's firmware has run this card's ROM and may have changed it: the usual black screen.",
    "Boot the host on another display, or dump the ROM and give it as romfile=FILE.",
)
VM_ROM_HIDDEN = Code(
    "VM_ROM_HIDDEN",
    Verdict.WARN,
    "rombar=0 or rom bar='off' on a GPU, and no ROM file.",
    "The guest's firmware finds no option ROM: no picture before the driver loads, or none at all.",
    "Take rombar=0 out of the entry, or give a romfile.",
)
VM_NO_DISPLAY = Code(
    "VM_NO_DISPLAY",
    Verdict.NOT_APPLICABLE,
    "None of the functions that the VM gets is a display controller.",
    "No option ROM has to show a picture.",
    "No action.",
)
VM_DISPLAY_UNKNOWN = Code(
    "VM_DISPLAY_UNKNOWN",
    Verdict.UNKNOWN,
    "Class or boot_vga of a passed function, or which function is passed, could not be read.",
    "Whether the host booted on this display is not known.",
    "Get the missing evidence below, then: vfioctl vm lint",
)
CODES = (
    VM_DISPLAY_READY,
    VM_ROM_SHADOWED,
    VM_ROM_HIDDEN,
    VM_NO_DISPLAY,
    VM_DISPLAY_UNKNOWN,
    *VM_CODES,
)


def judge(host: Host) -> list[Finding]:
    """Can the passed GPU show a picture in its VM?

    Evidence: boot_vga of each passed display; romfile, rombar and x-vga of its entry.
    Meaning:  A boot display's ROM was run and changed by the host's firmware.
    Source:   Linux drivers/pci (shadow ROM), qm.conf(5) hostpci; field guide step 14.
    """
    return judge_vms(ID, host, lambda vm: _judge_vm(host, vm))


def _judge_vm(host: Host, vm: VmConfig) -> Finding:
    missing = list(missing_passed(host, vm))
    shown: list[Evidence] = []
    shadowed: list[Evidence] = []
    hidden: list[Evidence] = []
    for device in vm.devices:
        for function in named_functions(host, device) or ():
            missing += _find_unread(host, function)
            if function.base_class != 0x03:
                continue
            shown.append(Evidence(f"{DEVICES}/{function.address}", describe(function, host)))
            if not device.rom_file and function.boot_vga:
                shadowed += [at_device(vm, device), attribute(function, "boot_vga", "1")]
            elif _hides_rom(device):
                hidden.append(at_device(vm, device))
    if missing:
        gone = tuple(dict.fromkeys(missing))
        return make_vm_finding(ID, vm, VM_DISPLAY_UNKNOWN, *shown, missing=gone)
    if shadowed:
        return make_vm_finding(ID, vm, VM_ROM_SHADOWED, *shadowed, *shown)
    if hidden:
        return make_vm_finding(ID, vm, VM_ROM_HIDDEN, *hidden, *shown)
    if shown:
        return make_vm_finding(ID, vm, VM_DISPLAY_READY, *shown)
    evidence = (at_device(vm, device) for device in vm.devices)
    return make_vm_finding(ID, vm, VM_NO_DISPLAY, *evidence)


def _find_unread(host: Host, function: PciFunction) -> list[Missing]:
    if function.class_code is None:
        return [missing_attribute(host, function, "class")]
    if function.base_class == 0x03 and function.boot_vga is None:
        return [missing_attribute(host, function, "boot_vga")]
    return []


def _hides_rom(device: VmDevice) -> bool:
    return device.rom_bar is False and not device.rom_file
