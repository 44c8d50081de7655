"""Whether what a VM's mediated device (vGPU) is made of can be there when the VM starts.

The mediated devices and their types are not collected, so the most that follows for a VM at rest is
that it is not known. This module must never say that a mediated device is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vfio_agent.checks.inventory import describe_driver, missing_attribute
from vfio_agent.checks.vm_inventory import at, at_device, is_process
from vfio_contract.address import Address
from vfio_contract.codes import Code
from vfio_contract.findings import Evidence, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.vm import VmConfig, VmDevice, covers

VM_MDEV_PARENT = Code(
    "VM_MDEV_PARENT",
    Verdict.FAIL,
    "An entry asks for a mediated device (vGPU) of a function that has a vfio driver, or none.",
    "Only the vendor's own host driver makes mediated devices: the VM does not start.",
    "Give the function back to its vendor's host driver (sudo driverctl unset-override ADDRESS), "
    "or pass it whole, without mdev.",
)

_DEVICES = "/sys/bus/mdev/devices"

Parents = dict[Address, tuple[Evidence, ...]]
"""Functions that cannot make a mediated device now, each with its evidence."""


@dataclass(slots=True)
class Mediated:
    """`broken` parents and what is `missing` to say more."""

    broken: Parents = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)


def judge_mediated(host: Host, vm: VmConfig, device: VmDevice) -> Mediated:
    """What is known of one mediated entry; nothing for other entries and for what runs."""
    found = Mediated()
    if not device.mdev or is_process(vm):
        return found
    place = _DEVICES
    for written in device.addresses:
        # of a whole slot the first function makes them
        parent = next((f for f in host.functions if covers(written, f.address)), None)
        if parent is None:
            continue
        place = f"/sys/bus/pci/devices/{parent.address}/mdev_supported_types"
        bound = is_vfio_bound(parent)
        if bound is None:
            found.missing.append(missing_attribute(host, parent, "driver"))
        elif bound or not parent.driver:
            text = f"{parent.address}: {describe_driver(parent)}, cannot make {device.mdev}"
            found.broken[parent.address] = (at_device(vm, device), at(vm, device.line, text))
    found.missing.append(Missing(f"mediated device {device.mdev}: {_DEVICES}", f"ls {place}"))
    return found


def advise_parent(broken: Parents) -> str:
    """The decision, with the first parent's address."""
    return VM_MDEV_PARENT.decision.replace("ADDRESS", next(iter(broken), "ADDRESS"))
