"""Two hosts' evidence of unequal kind compared: an artifact with a paste, a redacted file.

Devices are matched by identity, and an identity is only as good as the evidence behind it. Where
one side lacks a part of it (serial numbers are pseudonyms, a paste shows no subsystem or no tree),
that part is taken from both sides, so that the same device has the same identity again, and a note
says so. Where what is left no longer tells two devices apart, they are matched by address and ids,
and what is not at the same address on both sides is not compared: it may have moved, so it is
neither gone nor new. Nothing here may call a loss of evidence a loss of a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from vfio_contract import codes
from vfio_contract.drift import Change, diff
from vfio_contract.fingerprint import FunctionPrint, fingerprint
from vfio_contract.host import Host
from vfio_contract.matching import match
from vfio_contract.model import PciFunction
from vfio_contract.stale import StaleReference, find_stale

_MASKED = (
    "{} redacted, so names and serial numbers are pseudonyms: devices are matched by ids and "
    "place, and one in another slot looks gone and new"
)
_LOOSE = "one side does not show all of its devices' {}: they are matched without"
_BY_ADDRESS = (
    "what is known of the devices on both sides does not tell all of them apart: they are matched "
    "by address and ids. For more: sudo vfioctl collect, or sudo lspci -nnvvxxxx"
)
_PRESENCE = frozenset({codes.DEVICE_VANISHED.name, codes.DEVICE_APPEARED.name})

Blur = Callable[[PciFunction], PciFunction]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed; `notes` say how devices were matched where that is not by full identity.

    `stale` are lines of the later host's VM configurations and mappings to edit.

    `unmatched` counts devices of which it is not known whether they are on the other side.
    """

    changes: tuple[Change, ...]
    stale: tuple[StaleReference, ...] = ()
    notes: tuple[str, ...] = ()
    unmatched: int = 0


def compare_evidence(before: Host, after: Host) -> Comparison:
    """Compare two hosts on the level of the side that knows less."""
    notes: list[str] = []
    if before.readings.redacted != after.readings.redacted:
        notes.append(_MASKED.format(_which(before, after)))
        before, after = _without_settings(before), _without_settings(after)
    blurs = list(_missing(before, after))
    if notes or blurs:
        before, after = (_blurred(h, [_hide_serial]) for h in (before, after))
    if blurs:
        notes.append(_LOOSE.format(" and ".join(what for what, _ in blurs)))
    for _, blur in blurs:
        before, after = (_blurred(h, [blur]) for h in (before, after))
    if not blurs or (_tells_apart(before) and _tells_apart(after)):
        one, other = fingerprint(before), fingerprint(after)
        found = match(one, other)
        unmatched = _endpoints(found.open_before, found.open_after)
        changes, stale = diff(one, other), find_stale(before, after)
        return Comparison(changes, stale, tuple(notes), len(unmatched))
    return _compare_by_address(before, after)


def _which(before: Host, after: Host) -> str:
    if before.readings.redacted is None:
        return "AFTER is"
    if after.readings.redacted is None:
        return "BEFORE is"
    return "both sides are, with different keys,"


# --- levels of evidence --------------------------------------------------------------------------


def _missing(before: Host, after: Host) -> Iterable[tuple[str, Blur]]:
    """(what only one side knows, how to take it from both)."""
    for what, known, blur in (
        ("subsystem ids", _knows_subsystem, _hide_subsystem),
        ("places in the PCI tree", _knows_parent, _hide_tree),
        ("host bridges", _knows_root, _hide_root),
    ):
        sides = [all(map(known, h.functions)) for h in (before, after) if h.functions]
        # host bridges are named by rank where neither side names them
        if not all(sides) and (any(sides) or blur is not _hide_root):
            yield what, blur


def _knows_subsystem(function: PciFunction) -> bool:
    return function.subsystem_vendor is not None and function.subsystem_device is not None


def _knows_parent(function: PciFunction) -> bool:
    return function.parent is not None


def _knows_root(function: PciFunction) -> bool:
    return function.root_path is not None


def _hide_serial(function: PciFunction) -> PciFunction:
    if function.config is None or function.config.serial_number is None:
        return function
    return replace(function, config=replace(function.config, serial_number=None))


def _hide_subsystem(function: PciFunction) -> PciFunction:
    return replace(function, subsystem_vendor=None, subsystem_device=None)


def _hide_tree(function: PciFunction) -> PciFunction:
    return replace(function, parent=None, root="", root_path=None)


def _hide_root(function: PciFunction) -> PciFunction:
    return replace(function, root_path=None)


def _place_at_address(function: PciFunction) -> PciFunction:
    return replace(
        function, parent=None, root=str(function.address), root_path=str(function.address)
    )


def _blurred(host: Host, blurs: Iterable[Blur]) -> Host:
    functions = host.facts.functions
    for blur in blurs:
        functions = None if functions is None else tuple(map(blur, functions))
    facts = replace(host.facts, functions=functions)
    return Host(replace(host.snapshot, facts=facts))


def _without_settings(host: Host) -> Host:
    """Firmware settings may be pseudonyms too; the other parts of the tuple never are."""
    firmware = replace(host.facts.firmware, attributes=None)
    return Host(replace(host.snapshot, facts=replace(host.facts, firmware=firmware)))


def _tells_apart(host: Host) -> bool:
    identities = [found.identity for found in host.identities.values()]
    return len(set(identities)) == len(identities)


# --- by address ----------------------------------------------------------------------------------


def _compare_by_address(before: Host, after: Host) -> Comparison:
    one, other = (fingerprint(_blurred(h, [_place_at_address])) for h in (before, after))
    found = match(one, other)
    unmatched = _endpoints(found.gone, found.new, found.open_before, found.open_after)
    changes = [
        change
        for change in diff(one, other)
        if change.code not in _PRESENCE and not _speaks_of(change, unmatched)
    ]
    return Comparison(tuple(changes), notes=(_BY_ADDRESS,), unmatched=len(unmatched))


def _endpoints(*sides: Iterable[FunctionPrint]) -> set[str]:
    return {f.address for side in sides for f in side if not f.bridge}


def _speaks_of(change: Change, addresses: Iterable[str]) -> bool:
    """True for a change of a group of which a member may be one of these, moved."""
    words = {*change.before.split(), *change.after.split()}
    return not words.isdisjoint(addresses)
