"""Which subjects of findings concern one device or one VM.

A device's story is that of its unit, its group, what its reset takes along and the ports above it;
a VM's is its own and that of every device it names.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfio_agent.checks.vm_inventory import passed_functions
from vfio_contract.address import Address
from vfio_contract.findings import NODE
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP
from vfio_contract.vm import VmConfig

DISPLAY = 0x03
"""The PCI base class of display controllers."""


def subjects_of_device(host: Host, address: Address) -> frozenset[str]:
    """Subjects about a function that the host has, its unit and group, and VMs that name it."""
    found = set(_of_functions(host, (address,)))
    for vm in host.facts.vms or ():
        named = passed_functions(host, vm)
        if named is not None and address in named:
            found.add(f"vm:{vm.name}")
    return frozenset(found)


def subjects_of_vm(host: Host, vm: VmConfig) -> frozenset[str]:
    """Subjects about the VM and about every function that it may get."""
    named = passed_functions(host, vm) or {}
    return frozenset({f"vm:{vm.name}", *_of_functions(host, named)})


def subjects_of_displays(host: Host) -> frozenset[str] | None:
    """Subjects about the displays (class 03xx) meant for passthrough; None where there is none.

    A function whose class is not known may be one.
    """
    displays = [
        f.address
        for f in host.functions
        if f.address in host.intentions and f.base_class in (DISPLAY, None)
    ]
    if not displays:
        return None
    return frozenset(s for address in displays for s in subjects_of_device(host, address))


def _of_functions(host: Host, addresses: Iterable[Address]) -> Iterable[str]:
    yield NODE
    for address in addresses:
        unit = host.unit_of.get(address)
        members = (address,) if unit is None else unit.addresses
        if unit is not None:
            yield f"unit:{unit.id}"
        for member in (address, *members):
            yield f"function:{member}"
            function = host.by_address.get(member)
            if function is not None and function.group is not None and function.group != NO_GROUP:
                yield f"group:{function.group}"
