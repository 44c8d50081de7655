"""Functions that VFIO refuses to give to a VM although a vfio driver has them, or had them.

For `vm-functions`. It must never take an owner that was not read for one on a host driver.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_agent.checks.holding import describe_holder, find_unbound_holders
from vfio_agent.checks.inventory import missing_attribute
from vfio_contract.codes import Code
from vfio_contract.findings import Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import PciFunction
from vfio_contract.vm import VmDevice

VM_HELD_UNBOUND = Code(
    "VM_HELD_UNBOUND",
    Verdict.FAIL,
    "A function that the VM names has no driver, and a process still has its group open.",
    "The function is being taken away and the kernel waits for that process: no VM can have it "
    "meanwhile, and the VM that has it is about to lose it.",
    "Stop the VM that holds it (evidence), then see whether the device is still there: vfioctl "
    "check",
)
VM_VF_TOKEN = Code(
    "VM_VF_TOKEN",
    Verdict.FAIL,
    "A vfio driver has the physical function of a VF that the VM names, and no entry gives a "
    "vf-token.",
    "The kernel refuses the VF without the token of whoever holds the physical function.",
    "Give the physical function back to its host driver, or start QEMU by hand with the token of "
    "the process that holds it (vfio-pci,vf-token=UUID).",
)


@dataclass(frozen=True, slots=True)
class Refusals:
    """What speaks against one function of a VM, (code, text) each, and what was not read."""

    found: tuple[tuple[Code, str], ...] = ()
    missing: tuple[Missing, ...] = ()


def judge_refusals(host: Host, device: VmDevice, function: PciFunction) -> Refusals:
    """Whether the function is on its way out, and whether its owner's token is needed."""
    leaving = tuple(
        (VM_HELD_UNBOUND, f"{function.address} has no driver; held by {describe_holder(host, h)}")
        for h in find_unbound_holders(host, function)
    )
    if leaving:
        return Refusals(leaving)  # its owner is no longer told, and matters no more
    if function.physfn is None:
        return Refusals(missing=(missing_attribute(host, function, "physfn"),))
    if not function.physfn or any(name == "vf-token" for name, _ in device.options):
        return Refusals()
    owner = host.by_address.get(function.physfn)
    bound = None if owner is None else is_vfio_bound(owner)
    if bound is None:
        path = f"/sys/bus/pci/devices/{function.physfn}/driver"
        return Refusals(missing=(Missing(path, f"lspci -k -s {function.physfn}"),))
    if bound:
        text = f"{function.address} is a VF of {function.physfn}, which a vfio driver has"
        return Refusals(((VM_VF_TOKEN, text),))
    return Refusals()
