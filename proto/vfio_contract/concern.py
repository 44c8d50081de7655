"""Which units of a host something at an address concerns, and whose VMs name those units.

Pure, of two hosts' facts. Only what configurations say is known here: whose a unit is by a claim
must be asked of the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.units import Unit
from vfio_contract.vm import VmConfig, covered_by


def units_at(host: Host, address: str) -> Iterator[Unit]:
    """The unit of an endpoint; for a bridge, those that hold it or stand below it."""
    if not address:
        return
    own = host.unit_of.get(Address(address))
    if own is not None:
        yield own
    function = host.by_address.get(Address(address))
    if function is None or not function.is_bridge:
        return
    for unit in host.units:
        above = {b.address for a in unit.addresses for b in host.ancestors(host.by_address[a])}
        if unit is not own and function.address in above:
            yield unit


class NamedBy:
    """Which VMs name a unit in their configuration, on either of two hosts."""

    def __init__(self, before: Host, after: Host) -> None:
        self._by_unit: dict[str, dict[str, None]] = {}
        for host in (before, after):
            for vm in host.facts.vms or ():
                for unit in host.units:
                    if _names_unit(host, vm, unit):
                        self._by_unit.setdefault(unit.id, {})[vm.name] = None

    def of(self, units: Iterable[str]) -> tuple[str, ...]:
        """The VMs' names, in order."""
        return tuple(sorted({vm for unit in units for vm in self._by_unit.get(unit, ())}))


def _names_unit(host: Host, vm: VmConfig, unit: Unit) -> bool:
    facts = host.facts
    return any(
        covered_by(device, facts.mappings, facts.host, address)
        for device in vm.devices
        for address in unit.assign
    )
