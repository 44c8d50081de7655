"""Which companions of a passed GPU its VM does not get, and whether the GPU can come without them.

This module must never call a companion separable of which group, class or place was not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vfio_agent.checks.inventory import describe_driver, group_of, missing_attribute
from vfio_agent.checks.vm_inventory import at, names_address
from vfio_contract.address import Address, slot_of
from vfio_contract.findings import Evidence, Missing
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.units import companions, reset_domain
from vfio_contract.vm import VmConfig


@dataclass(slots=True)
class Companions:
    """Companions that are not passed: `left` share group or reset, `apart` do not."""

    left: dict[Address, Evidence] = field(default_factory=dict)
    apart: dict[Address, Evidence] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)


def judge_companions(
    host: Host, vm: VmConfig, function: PciFunction, passed: Mapping[Address, PciFunction]
) -> Companions:
    """What the VM leaves behind of this function's slot; nothing for what is no display."""
    found = Companions()
    for mate in host.functions:
        if slot_of(mate.address) != slot_of(function.address):
            continue
        if mate.class_code is None:
            found.missing.append(missing_attribute(host, mate, "class"))
        if mate.parent is None:
            found.missing.append(Missing(f"place of {mate.address}", "lspci -t"))
    line = next((d.line for d in vm.devices if names_address(d, function.address)), 0)
    for address in companions(function, host.by_address):
        if address in passed:
            continue
        companion = host.by_address[address]
        groups = group_of(host, function), group_of(host, companion)
        evidence = at(vm, line, f"{address} is not passed ({describe_driver(companion)})")
        if None in groups:
            gone = function if groups[0] is None else companion
            found.missing.append(missing_attribute(host, gone, "iommu_group"))
        elif groups[0] == groups[1] != NO_GROUP or address in reset_domain(
            function, host.by_address
        ):
            found.left[address] = evidence
        else:
            found.apart[address] = evidence
    return found
