"""What differs from a node's baseline, and which of its units that concerns.

The comparison itself is the contract's; here each change is tied to the units that are intended for
passthrough or claimed, then or now. A bridge's change concerns the units that stand below it. What
the baseline knows and the inventory does not tell is named beside the changes: it is no change, and
it is not equal either. What cannot be decoded is an error for the caller, never "no drift".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from immutables import Map

from vfio_contract import codes
from vfio_contract.artifact import decode, decompress
from vfio_contract.concern import NamedBy, units_at
from vfio_contract.drift import CONSEQUENCES, Consequence, diff, has_groups, lost_group
from vfio_contract.fingerprint import Fingerprint, FunctionPrint, fingerprint
from vfio_contract.host import Host
from vfio_contract.matching import Matching, match
from vfio_contract.model import NOTHING_READ, Facts, Snapshot
from vfio_contract.units import Unit
from vfio_coordinator.state.model import Drift, Unread


def host_of(facts: Facts) -> Host:
    """The derivations of facts alone."""
    return Host(Snapshot(facts, NOTHING_READ))


def unpack_facts(facts_zlib: bytes) -> Facts:
    """Facts as they are kept and stored. Raises ArtifactError."""
    return decode(Facts, decompress(facts_zlib))


@dataclass(frozen=True, slots=True)
class Differences:
    """Changes with whom they concern, and what cannot be told; as `Node` keeps them."""

    drift: tuple[Drift, ...]
    undecided: frozenset[str]
    unread: tuple[Unread, ...]
    former: Map[str, str]


def find_differences(before: Host, after: Host, *, claimed: Collection[str]) -> Differences:
    """All that differs or cannot be told; `claimed` are keys of units that a VM has a claim on."""
    sides = fingerprint(before), fingerprint(after)
    matched = match(*sides)
    units = _Concerned(before, after, claimed)
    named = NamedBy(before, after)
    drift = []
    for change in diff(*sides):
        found = units.of(change.address_before, change.address_after)
        drift.append(Drift(change, found, named.of(found)))
    return Differences(
        drift=tuple(drift),
        undecided=_find_undecided(*sides, matched),
        unread=tuple(_find_unread(*sides, matched, units)),
        former=Map(_former_ids(before, after, matched)),
    )


def _former_ids(before: Host, after: Host, matched: Matching) -> Iterator[tuple[str, str]]:
    """(id now, id before) of units whose first function was the first of another id's."""
    for pair in matched.pairs:
        old = before.unit_of.get(pair.before.address)
        new = after.unit_of.get(pair.after.address)
        if old is None or new is None or old.id == new.id:
            continue
        if (old.primary, new.primary) == (pair.before.address, pair.after.address):
            yield new.id, old.id


class _Concerned:
    """The ids of the intended or claimed units that a function of either side touches."""

    def __init__(self, before: Host, after: Host, claimed: Collection[str]) -> None:
        self._before, self._after, self._claimed = before, after, claimed

    def of(self, address_before: str, address_after: str) -> tuple[str, ...]:
        """Of a function that stood and stands there; "" where it does not."""
        before, after, claimed = self._before, self._after, self._claimed
        found: dict[str, None] = {}
        for unit in units_at(after, address_after):
            if _is_wanted(after, unit, claimed) or _was_wanted(before, unit):
                found[unit.id] = None
        if not found:
            for unit in units_at(before, address_before):
                if _is_wanted(before, unit, claimed):
                    found[unit.id] = None
        return tuple(found)


def _is_wanted(host: Host, unit: Unit, claimed: Collection[str]) -> bool:
    return host.is_intended(unit.addresses) or any(key in claimed for key in unit.keys)


def _was_wanted(before: Host, unit: Unit) -> bool:
    """Intended at the baseline: a device that lost its driver may be intended no more."""
    keys = set(unit.keys)
    return any(keys & set(old.keys) and before.is_intended(old.addresses) for old in before.units)


# --- what cannot be told -------------------------------------------------------------------------

_HARMS = frozenset(code for code, what in CONSEQUENCES.items() if what is Consequence.CORDONS)

_FACTS = {
    "bridge": "header",
    "group": "group",
    "binding": "driver",
    "reset": "reset methods",
    "acs": "ACS bits",
    "vfs": "enabled VFs",
    "total_vfs": "possible VFs",
    "bars": "BARs",
    "resizable": "resizable BARs",
    "link": "link",
    "port_link": "link of its port",
    "artificial": "isolation without pcie_acs_override",
}
"""Fields of a function that drift compares, in words."""

_HARMING = ("group", "binding", "reset", "acs")
"""Those whose change may be harm."""


def _find_undecided(one: Fingerprint, other: Fingerprint, matched: Matching) -> frozenset[str]:
    """Harms (`CODE identity`) of which the inventory now cannot tell whether they are there.

    The comparison skips what one side could not read, so that a harm seems gone when its evidence
    is. What is named here neither cordons nor lifts. Identities stand in each form that a function
    has in either inventory.
    """
    found: set[str] = set()
    if other.functions is None:
        for function in one.functions or ():
            found |= _keys(_HARMS, function)
        return frozenset(found)
    crowded = _crowded(matched)
    translated = has_groups(other)
    for pair in matched.pairs:
        found |= _keys(_unreadable(pair.before, pair.after), pair.before, pair.after)
        if not translated and pair.before.acs is not None:
            found |= _keys({codes.ACS_CLEARED.name}, pair.before, pair.after)
        if pair.after.group in crowded:
            found |= _keys({codes.GROUP_WIDENED.name}, pair.before, pair.after)
    for function in matched.gone:
        found |= _keys(_HARMS - {codes.DEVICE_VANISHED.name}, function)
    for function in matched.open_before:
        found |= _keys(_HARMS, function)
    return frozenset(found)


def _crowded(matched: Matching) -> frozenset[int | None]:
    """Groups with a member now of which nobody can tell whether it was there before."""
    groups = {f.group for f in matched.open_after if not f.bridge}
    return frozenset(group for group in groups if group is not None and group >= 0)


def _unreadable(old: FunctionPrint, now: FunctionPrint) -> Iterator[str]:
    if (old.group or 0) >= 0 and (now.group is None or now.group < 0):
        yield codes.GROUP_WIDENED.name
    if old.binding is not None and (now.binding is None or lost_group(old, now)):
        yield codes.BINDING_LOST.name
    if old.reset is not None and now.reset is None:
        yield codes.RESET_LOST.name
    if old.acs is not None and now.acs is None:
        yield codes.ACS_CLEARED.name


def _keys(names: Iterable[str], *functions: FunctionPrint) -> set[str]:
    forms = {form for function in functions for form in (function.identity, function.place)}
    return {f"{name} {form}" for name in names for form in forms}


def _find_unread(
    one: Fingerprint, other: Fingerprint, matched: Matching, units: _Concerned
) -> Iterator[Unread]:
    """What the one knows and the other does not tell; nothing function by function where the whole
    list is missing."""
    now = dict(other.firmware)
    for part, value in one.firmware:
        if value is not None and now.get(part) is None:
            yield Unread(part)
    for name in ("running", "next_boot"):
        if getattr(one, name) is not None and getattr(other, name) is None:
            yield Unread(name.replace("_", " "))
    if other.functions is None:
        return
    crowded = _crowded(matched)
    for pair in matched.pairs:
        old, new = pair.before, pair.after
        missing = {
            words: name in _HARMING
            for name, words in _FACTS.items()
            if getattr(old, name) is not None and getattr(new, name) is None
        }
        if new.without_acs:
            missing.pop(_FACTS["acs"], None)
        if new.group in crowded and not pair.is_bridge:
            missing["all members of its group"] = True
        if old.method == "dsn" and new.shared_serial and not pair.is_bridge:
            missing["serial number (two boards have it now)"] = True
        touched = units.of(old.address, new.address) if missing else ()
        for words, may_harm in missing.items():
            yield Unread(words, new.address, touched, may_harm=may_harm)
    for function in matched.open_before:
        touched = units.of(function.address, "")
        words = "which device it is now"
        yield Unread(words, function.address, touched, may_harm=not function.bridge)
