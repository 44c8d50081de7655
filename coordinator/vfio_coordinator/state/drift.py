"""What differs from a node's baseline, and which of its units that concerns.

The comparison itself is the contract's; here each change is tied to the units that are intended for
passthrough or claimed, then or now. A bridge's change concerns the units that stand below it. What
cannot be decoded is an error for the caller, never "no drift".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from vfio_contract import codes
from vfio_contract.address import Address
from vfio_contract.artifact import decode, decompress
from vfio_contract.drift import Change, compare, match_functions, reset_class
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import Facts, PciFunction, Readings, Snapshot
from vfio_contract.units import Unit
from vfio_coordinator.state.model import Drift

_NOTHING_READ = Readings(
    boot_id=None,
    live=False,
    privileged=False,
    collector="",
    uptime_seconds=None,
    kernel_log=None,
    interrupt_chips=None,
    memory=None,
    holders=None,
    functions=(),
    names=(),
    ledger=None,
)


def host_of(facts: Facts) -> Host:
    """The derivations of facts alone."""
    return Host(Snapshot(facts, _NOTHING_READ))


def unpack_facts(facts_zlib: bytes) -> Facts:
    """Facts as they are kept and stored. Raises ArtifactError."""
    return decode(Facts, decompress(facts_zlib))


def find_drift(before: Host, after: Host, *, claimed: Collection[str]) -> tuple[Drift, ...]:
    """All changes, each with the ids of the intended or claimed units that it touches."""
    return tuple(
        Drift(change, tuple(_concerned(change, before, after, claimed)))
        for change in compare(before, after)
    )


def _concerned(
    change: Change, before: Host, after: Host, claimed: Collection[str]
) -> Iterator[str]:
    found: dict[str, None] = {}
    for unit in _units_at(after, change.address_after):
        if _is_wanted(after, unit, claimed) or _was_wanted(before, unit):
            found[unit.id] = None
    if not found:
        for unit in _units_at(before, change.address_before):
            if _is_wanted(before, unit, claimed):
                found[unit.id] = None
    yield from found


def _units_at(host: Host, address: str) -> Iterator[Unit]:
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


def _is_wanted(host: Host, unit: Unit, claimed: Collection[str]) -> bool:
    return host.is_intended(unit.addresses) or any(key in claimed for key in unit.keys)


def _was_wanted(before: Host, unit: Unit) -> bool:
    """Intended at the baseline: a device that lost its driver may be intended no more."""
    keys = set(unit.keys)
    return any(keys & set(old.keys) and before.is_intended(old.addresses) for old in before.units)


def find_undecided(before: Host, after: Host) -> frozenset[str]:
    """Harms (`CODE identity`) of which the inventory now cannot tell whether they are there.

    The comparison skips what one side could not read, so that a harm seems gone when its evidence
    is. What is named here neither cordons nor lifts. Identities stand in each form that a function
    has in either inventory.
    """
    found: set[str] = set()
    if after.facts.functions is None:
        for function in before.functions:
            found |= _keys(_HARMS, [(before, function)])
        return frozenset(found)
    pairs, gone, _ = match_functions(before, after)
    for old, now in pairs:
        both = [(before, old), (after, now)]
        found |= _keys(_unreadable(before, after, old, now), both)
    for old in gone:
        found |= _keys(_HARMS - {codes.DEVICE_VANISHED.name}, [(before, old)])
    return frozenset(found)


_HARMS = frozenset(
    {
        codes.GROUP_WIDENED.name,
        codes.BINDING_LOST.name,
        codes.RESET_LOST.name,
        codes.ACS_CLEARED.name,
        codes.DEVICE_VANISHED.name,
    }
)


def _unreadable(before: Host, after: Host, old: PciFunction, now: PciFunction) -> Iterator[str]:
    if (old.group or 0) >= 0 and (now.group is None or now.group < 0):
        yield codes.GROUP_WIDENED.name
    if is_vfio_bound(old) is not None and is_vfio_bound(now) is None:
        yield codes.BINDING_LOST.name
    known = reset_class(old, before.by_address) is not None
    if known and reset_class(now, after.by_address) is None:
        yield codes.RESET_LOST.name
    had = old.config is not None and old.config.acs is not None
    if had and (now.config is None or now.config.acs is None):
        yield codes.ACS_CLEARED.name


def _keys(names: Iterable[str], functions: Iterable[tuple[Host, PciFunction]]) -> set[str]:
    forms = {
        form
        for host, function in functions
        for form in (
            host.identities[function.address].identity,
            host.identities[function.address].place,
        )
    }
    return {f"{name} {form}" for name in names for form in forms}
