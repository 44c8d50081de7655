"""How a host keeps its devices apart, by their place: what equal machines should have in common.

Three aspects: what shares a group, how a device is reset, and the ACS on its way up. Each is a
table by place (ids and the way down from the host bridge), so that serial numbers, addresses, group
numbers, drivers, virtual functions and VMs do not show in it: they differ between equal machines,
or by use. An aspect of which anything could not be read is None as a whole, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

from vfio_contract.fingerprint import reset_class
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, PciFunction

GROUPS, RESETS, ACS = "groups", "resets", "ACS"
ASPECTS = (GROUPS, RESETS, ACS)

Table = Mapping[str, tuple[str, ...]]
"""Of one aspect, by place. GROUPS: the places of the others in its group; RESETS: the class of
`fingerprint.reset_class`; ACS: the bits in force on itself and on each bridge up, "" for none."""

Isolation = Mapping[str, Table | None]

NO_GROUP_AT_ALL = ("no IOMMU group",)

_ISOLATING = 0x01 | 0x04 | 0x08 | 0x10
"""ACSCtl SV, RR, CR, UF: the bits that a group relies on (facts: Isolation beyond groups)."""

_ACS_ID = 0x0D


def cards_of(host: Host) -> tuple[str, ...] | None:
    """The places of all physical endpoints, in order; None where one of them is not known."""
    if host.facts.functions is None:
        return None
    places = tuple(sorted(_place(host, f) for f in _endpoints(host)))
    return None if any("?" in place for place in places) else places


def isolation_of(host: Host) -> Isolation:
    """All aspects of a host."""
    rows = list(_endpoints(host)) if host.facts.functions is not None else None
    if rows is None:
        return dict.fromkeys(ASPECTS)
    found: dict[str, dict[str, tuple[str, ...] | None]] = {
        GROUPS: {_place(host, f): _group(host, f) for f in rows},
        RESETS: {_place(host, f): _reset(host, f) for f in rows},
        ACS: {_place(host, f): _acs_upwards(host, f) for f in rows},
    }
    return {aspect: _known(table) for aspect, table in found.items()}


def digest_table(table: Table) -> str:
    """A short name for a table: equal for equal ones."""
    text = "\n".join(" | ".join((place, *table[place])) for place in sorted(table))
    return sha256(text.encode()).hexdigest()[:16]


def _known(table: Mapping[str, tuple[str, ...] | None]) -> Table | None:
    known = {place: value for place, value in table.items() if value is not None}
    return known if len(known) == len(table) else None


def _endpoints(host: Host) -> Iterator[PciFunction]:
    """Physical ones; virtual functions are there or not by use."""
    return (f for f in host.functions if not f.is_bridge and not f.physfn)


def _place(host: Host, function: PciFunction) -> str:
    return host.identities[function.address].place


def _group(host: Host, function: PciFunction) -> tuple[str, ...] | None:
    if function.group is None:
        return None
    if function.group == NO_GROUP:
        return NO_GROUP_AT_ALL
    others = host.members.get(function.group, ())
    return tuple(
        sorted(
            _place(host, f)
            for f in others
            if not f.is_bridge and not f.physfn and f.address != function.address
        )
    )


def _reset(host: Host, function: PciFunction) -> tuple[str, ...] | None:
    found = reset_class(function, host.by_address)
    return None if found is None else (found,)


def _acs_upwards(host: Host, function: PciFunction) -> tuple[str, ...] | None:
    hops = [_acs(f) for f in (function, *host.ancestors(function))]
    known = [hop for hop in hops if hop is not None]
    return tuple(known) if len(known) == len(hops) else None


def _acs(function: PciFunction) -> str | None:
    config = function.config
    if config is None or config.dead:
        return None
    if config.acs is not None:
        return f"0x{config.acs.control & _ISOLATING:02x}"
    absent = config.extended is not None and _ACS_ID not in config.extended
    return "" if absent else None
