"""Which steps bind a unit's functions to vfio-pci, or give them back to the host.

Pure: host, unit and what is written in, a plan out. A plan has steps on functions of the unit and
on our own files, and on nothing else; whether it may be carried out is the guard's to say. This
module must never plan on a value that was not read.

Source: Linux Documentation/ABI/testing/sysfs-bus-pci (bind, unbind, driver_override, remove_id).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vfio_agent.actuate.persistence import Written, persist, unpersist
from vfio_agent.actuate.steps import (
    ANY_HOST_DRIVER,
    LOADED,
    NO_DRIVER,
    VFIO_PCI,
    Kind,
    Plan,
    Step,
    Verb,
)
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound, names_function
from vfio_contract.model import PciFunction
from vfio_contract.units import Unit

VIABLE_DRIVERS = frozenset({"", "pci-stub", "pcieport"})
"""Beside the vfio drivers, what a group member may have while a VM has its group: nothing, or a
driver that manages DMA for its group (driver_managed_dma; facts: Groups and viability)."""

_BRIDGES_COUNT_SINCE = (5, 19)
"""First kernel that refuses a group because of a bridge's driver."""


class PlanError(Exception):
    """There is no plan, because something was not read; the text says what."""


def spoils_group(host: Host, function: PciFunction) -> bool | None:
    """True when this function's driver keeps its group from any VM; None when that is not known."""
    if is_vfio_bound(function):
        return False
    if function.driver is None:
        return None
    if function.driver in VIABLE_DRIVERS:
        return False
    version = host.facts.kernel.version
    old = version is not None and version < _BRIDGES_COUNT_SINCE
    return not (function.is_bridge and old)


def plan_bind(host: Host, unit: Unit, written: Written) -> Plan:
    """Put what is assigned on vfio-pci and what is held off the host's drivers, now and for good.

    PlanError for a function of which driver or override is not known.
    """
    targets = _targets(host, unit)
    steps = [step for a, driver in targets.items() for step in _take(host, a, driver)]
    if steps and not _is_loaded(host):
        reason = "the driver must be there before it can take a function"
        steps.insert(0, Step(Kind.MODULE, VFIO_PCI, "", LOADED, reason))
    lasting = persist(host, targets, written)
    return Plan(
        verb=Verb.BIND,
        unit=unit.id,
        primary=unit.primary,
        steps=(*steps, *lasting.steps),
        method=lasting.method,
        reasons=lasting.reasons,
        notes=(*_sharing_note(unit), *lasting.notes),
    )


def plan_unbind(host: Host, unit: Unit, written: Written) -> Plan:
    """Give every function of the unit back to whichever driver of the host takes it.

    The files come first: what is interrupted must not come back on vfio-pci at the next boot.
    """
    lasting = unpersist(host, unit.addresses, written)
    steps = [step for a in unit.addresses for step in _give_back(host, host.by_address[a])]
    return Plan(
        verb=Verb.UNBIND,
        unit=unit.id,
        primary=unit.primary,
        steps=(*lasting.steps, *steps),
        notes=lasting.notes,
    )


def _targets(host: Host, unit: Unit) -> dict[Address, str]:
    """Function -> the driver it needs; those that may stay as they are have no entry."""
    found: dict[Address, str] = {a: VFIO_PCI for a in unit.assign}
    for address in unit.hold:
        function = host.by_address[address]
        spoils = spoils_group(host, function)
        if spoils is None:
            raise PlanError(f"the driver of {address} could not be read")
        if spoils:
            # vfio-pci refuses bridges (vfio_pci_core.c: only header type 0)
            found[address] = NO_DRIVER if function.is_bridge else VFIO_PCI
    return found


def _take(host: Host, address: Address, driver: str) -> Iterator[Step]:
    function = host.by_address[address]
    now, override = _state(function)
    why = "goes to the VM" if driver == VFIO_PCI else "its driver would spoil the group"
    if driver == VFIO_PCI and is_vfio_bound(function):
        return
    if now:
        yield Step(Kind.UNBIND, address, now, "", why)
    if override != driver:
        yield Step(Kind.OVERRIDE, address, override, driver, why)
    if driver != NO_DRIVER:
        yield Step(Kind.BIND, address, "", driver, why)


def _give_back(host: Host, function: PciFunction) -> Iterator[Step]:
    now, override = _state(function)
    bound = bool(is_vfio_bound(function))
    ours = override in (NO_DRIVER, VFIO_PCI)
    if not bound and not ours:
        return
    why = "goes back to the host"
    if bound:
        yield Step(Kind.UNBIND, function.address, now, "", why)
    if override:
        yield Step(Kind.OVERRIDE, function.address, override, "", why)
    written = (i for i in host.facts.intents or () if i.kind == "vfio-ids")
    if bound and any(names_function(i, function) for i in written):
        ids = f"{function.vendor or 0:04x} {function.device or 0:04x}"
        reason = "vfio-pci was loaded with its ids and would take it again"
        yield Step(Kind.FORGET, function.address, None, ids, reason)
    alias = _modalias(function)
    if alias:
        yield Step(Kind.MODULE, alias, "", LOADED, "its driver may never have been loaded")
    yield Step(Kind.BIND, function.address, "", ANY_HOST_DRIVER, why)


def _state(function: PciFunction) -> tuple[str, str]:
    """Driver and override; PlanError where one is not known."""
    if function.driver is None:
        raise PlanError(f"the driver of {function.address} could not be read")
    if function.driver_override is None:
        raise PlanError(f"driver_override of {function.address} could not be read")
    return function.driver, function.driver_override


def _is_loaded(host: Host) -> bool:
    return any(m.name == "vfio_pci" for m in host.facts.modules or ())


def _modalias(function: PciFunction) -> str:
    """As the kernel writes it (drivers/pci/pci-driver.c, pci_uevent); "" when a part is not known.

    A bridge's driver is built in.
    """
    parts = (
        function.vendor,
        function.device,
        function.subsystem_vendor,
        function.subsystem_device,
        function.class_code,
    )
    if function.is_bridge or None in parts:
        return ""
    vendor, device, subvendor, subdevice, code = (p or 0 for p in parts)
    return (
        f"pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}"
        f"bc{code >> 16:02X}sc{code >> 8 & 0xFF:02X}i{code & 0xFF:02X}"
    )


def _sharing_note(unit: Unit) -> Iterable[str]:
    if len(unit.addresses) > 1:
        yield f"one VM must get all of it: {' '.join(unit.assign)}"
    if unit.hold:
        yield f"kept off the host and not passed: {' '.join(unit.hold)}"
