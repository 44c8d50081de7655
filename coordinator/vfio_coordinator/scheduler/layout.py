"""What a host's facts alone say of its units, as small values that outlive the facts.

Made once per inventory; the coordinator keeps these and the compressed facts, not the host. Nothing
here depends on findings, readings or claims. What the facts do not tell stays None or is said in
words: it must never turn into a free or harmless unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vfio_contract.address import Address, Identity
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import PciFunction
from vfio_contract.units import Unit


@dataclass(frozen=True, slots=True)
class UnitLayout:
    """A unit of `vfio_contract.units` and what else of the facts a gate or a claim needs.

    `numa_node` is -1 on a host whose kernel knows no NUMA nodes at all, None when this unit's is
    not known. `groups` are those of every function, held ones included; `ungrouped` are endpoints
    without one. `places` are its endpoints' (identity, place, address). `keys` are what a claim on
    it takes: every endpoint under its identity and under its place, because a host whose serial
    numbers are not readable for once shows its functions under their places only, and a claimed one
    must not look free then. `physfns` are the keys of its VFs' PFs. `blocked` says in words why
    facts alone forbid giving it away ("" for nothing), and `blocked_unknown` that this is for lack
    of evidence. `unbound` are assigned functions that are known to be on no vfio driver. `cdev` is
    True when a VFIO device node exists for it.
    """

    id: str
    kind: str
    ids: str
    primary: Address
    assign: tuple[Address, ...]
    hold: tuple[Address, ...]
    endpoints: tuple[Address, ...]
    groups: tuple[int, ...]
    ungrouped: tuple[Address, ...]
    places: tuple[tuple[Identity, Identity, Address], ...]
    keys: tuple[Identity, ...]
    numa_node: int | None
    switch: str
    intended: bool
    physfns: tuple[Identity, ...]
    blocked: str
    blocked_unknown: bool
    unbound: tuple[Address, ...]
    cdev: bool

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Those of assign and hold, the one first that the unit has its kind and name from."""
        both = (*self.assign, *self.hold)
        return (self.primary, *(address for address in both if address != self.primary))


def survey(host: Host) -> tuple[UnitLayout, ...]:
    """Every unit of the host, by id."""
    shared = Counter(found.identity for found in host.identities.values())
    has_numa = any(f.numa_node is not None and f.numa_node >= 0 for f in host.functions)
    groups: dict[Address, set[int]] = {}
    for number, members in host.members.items():
        for member in members:
            groups.setdefault(member.address, set()).add(number)
    units = (_lay_out(host, unit, shared, groups, has_numa) for unit in host.units)
    return tuple(sorted(units, key=lambda u: (u.id, u.primary)))


def _lay_out(
    host: Host,
    unit: Unit,
    shared: Counter[Identity],
    groups: Mapping[Address, set[int]],
    has_numa: bool,
) -> UnitLayout:
    functions = [host.by_address[a] for a in unit.addresses]
    endpoints = [f for f in functions if not f.is_bridge]
    places = sorted(
        (host.identities[f.address].identity, host.identities[f.address].place, f.address)
        for f in endpoints
    )
    blocked, unknown = _blocked(host, endpoints)
    if any(shared[identity] > 1 for identity, _, _ in places):
        blocked, unknown = "its identity is not unique on this host", True
    return UnitLayout(
        id=unit.id,
        kind=unit.kind,
        ids=unit.ids,
        primary=unit.primary,
        assign=unit.assign,
        hold=unit.hold,
        endpoints=tuple(f.address for f in endpoints),
        groups=tuple(sorted({n for a in unit.addresses for n in groups.get(a, ())})),
        ungrouped=tuple(f.address for f in endpoints if f.address not in groups),
        places=tuple(places),
        keys=tuple(sorted({key for *both, _ in places for key in both})),
        numa_node=_numa_node(host.by_address[unit.primary], has_numa),
        switch=unit.switch,
        intended=host.is_intended(unit.addresses),
        physfns=tuple(_owners(host, endpoints)),
        blocked=blocked,
        blocked_unknown=unknown,
        unbound=tuple(a for a in unit.assign if is_vfio_bound(host.by_address[a]) is False),
        cdev=any(f.vfio_device for f in functions),
    )


def _numa_node(primary: PciFunction, has_numa: bool) -> int | None:
    node = primary.numa_node
    if node is None or (node < 0 and has_numa):
        return None
    return node


def _owners(host: Host, endpoints: list[PciFunction]) -> list[Identity]:
    physfns = {f.physfn for f in endpoints if f.physfn}
    owners = [host.identities[a] for a in physfns if a in host.identities]
    return sorted({key for found in owners for key in (found.identity, found.place)})


def _blocked(host: Host, endpoints: list[PciFunction]) -> tuple[str, bool]:
    """A PF whose VFs are enabled is in use: they vanish with it."""
    for function in endpoints:
        virtual = [f.address for f in host.functions if f.physfn == function.address]
        count = function.sriov_num_vfs or len(virtual)
        if count:
            return f"{function.address} has {count} VFs enabled", False
    for function in endpoints:
        if function.sriov_total_vfs and function.sriov_num_vfs is None:
            return f"whether {function.address} has VFs enabled is not known", True
    return "", False
