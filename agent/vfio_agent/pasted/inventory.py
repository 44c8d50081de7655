"""Functions and groups from what was listed, once or several times, in full or in part.

Rows about one address are joined: what one does not show another may. Where two contradict each
other neither counts, and the contradiction is named. Parents follow from bus numbers of bridges,
from link targets or from `lspci -PP`, else they stay unknown. This module must never take a list
for whole that shows a sign of being an excerpt: those signs are returned with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from vfio_agent.pasted.listing import Listing
from vfio_agent.pasted.lspci import Listed
from vfio_agent.pasted.lspci_config import UNREAD
from vfio_agent.pasted.wholeness import (
    domain_of,
    doubt_end,
    find_doubts,
    find_holes,
    open_slot,
)
from vfio_contract.address import Address, address_key, slot_of
from vfio_contract.model import NO_GROUP, ConfigSpace, IommuGroup, PciFunction

Value = TypeVar("Value")

MAX_FUNCTIONS = 20_000
"""More cannot be on a host that anybody pastes; the rest is left out and said."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """`doubts` and `group_doubts` are signs that the list of either is not whole; () for none.

    `conflicts` name what two texts tell differently. `names` maps `vvvv:dddd` to a name.
    """

    functions: tuple[PciFunction, ...] | None
    groups: tuple[IommuGroup, ...] | None
    names: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    group_doubts: tuple[str, ...]
    conflicts: tuple[str, ...]


def build_inventory(listings: Sequence[Listing]) -> Inventory:
    """What all these listings say of one host."""
    conflicts: list[str] = []
    doubts = [doubt for listing in listings for doubt in listing.doubts]
    by_address: dict[Address, list[Listed]] = {}
    for listing in listings:
        for row in listing.functions:
            if row.address in by_address or len(by_address) < MAX_FUNCTIONS:
                by_address.setdefault(row.address, []).append(row)
    if len(by_address) >= MAX_FUNCTIONS:
        doubts.append(f"more than {MAX_FUNCTIONS} functions")
    members = _join_members(listings, conflicts)
    joined = [
        _join(a, by_address[a], members.get(a), conflicts)
        for a in sorted(by_address, key=address_key)
    ]
    if all(row.group is not None for row in joined):
        # a whole `lspci -vv` lists the groups as well as a loop does, function by function
        members |= {row.address: row.group for row in joined if row.group != NO_GROUP}
    tree = Tree(joined, listings, conflicts)
    unsure = open_slot(joined, listings)
    functions = tuple(
        _make_function(row, tree, alone=slot_of(row.address) != unsure) for row in joined
    )
    numbers = {n for n in members.values() if n is not None}
    numbers |= {row.group for row in joined if row.group is not None and row.group != NO_GROUP}
    holes = find_holes(numbers)
    if joined:
        doubts += find_doubts(joined, tree)
        doubts += doubt_end(joined, tree, listings)
    return Inventory(
        functions=functions or None,
        groups=_make_groups(members),
        names=_find_names(joined),
        doubts=tuple(dict.fromkeys([*doubts, *holes])) if joined else (),
        group_doubts=tuple(dict.fromkeys([*holes, *doubts])) if members else (),
        conflicts=tuple(dict.fromkeys(conflicts)),
    )


# --- joining rows --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    address: Address
    above: tuple[Address, ...]
    class_code: int | None
    vendor: int | None
    device: int | None
    subsystem_vendor: int | None
    subsystem_device: int | None
    revision: int | None
    name: str
    group: int | None
    driver: str | None
    numa_node: int | None
    config: ConfigSpace | None
    virtual: bool
    hotplug: bool
    link: bool


def _join_members(listings: Sequence[Listing], conflicts: list[str]) -> dict[str, int | None]:
    """Group by device name; None where two listings disagree."""
    found: dict[str, int | None] = {}
    for listing in listings:
        for number, name in listing.members:
            before = found.setdefault(name, number)
            if before is not None and before != number:
                conflicts.append(f"{name} is in group {before} and in group {number}")
                found[name] = None
    return found


def _join(
    address: Address, rows: Sequence[Listed], member_of: int | None, conflicts: list[str]
) -> Joined:
    def settle(what: str, values: Iterable[Value | None]) -> Value | None:
        known = list(dict.fromkeys(v for v in values if v is not None))
        if len(known) > 1:
            shown = " and ".join(_show(what, v) for v in known[:3])
            conflicts.append(f"{address}: {what} is {shown}")
            return None
        return known[0] if known else None

    classes = [r.header.class_code for r in rows if r.header.class_code is not None]
    sub_class = settle("class", (c >> 8 for c in classes))
    # the row that shows the programming interface says more than the one that does not
    class_code = None if sub_class is None else max(c for c in classes if c >> 8 == sub_class)
    return Joined(
        address=address,
        above=max((r.header.above for r in rows), key=len),
        class_code=class_code,
        vendor=settle("vendor", (r.header.vendor for r in rows)),
        device=settle("device", (r.header.device for r in rows)),
        subsystem_vendor=settle("subsystem", (r.subsystem_vendor for r in rows)),
        subsystem_device=settle("subsystem", (r.subsystem_device for r in rows)),
        revision=settle("revision", (r.header.revision for r in rows)),
        name=next((r.header.name for r in rows if r.header.name), ""),
        group=settle("group", (member_of, *(r.group for r in rows))),
        driver=settle("driver", (r.driver for r in rows)),
        numa_node=settle("NUMA node", (r.numa_node for r in rows)),
        config=_best_config(address, [r.config for r in rows if r.config is not None], conflicts),
        virtual=any(r.virtual for r in rows),
        hotplug=any(r.hotplug for r in rows),
        link=any(r.link for r in rows),
    )


def _show(what: str, value: object) -> str:
    if isinstance(value, int) and what in ("class", "vendor", "device", "subsystem"):
        return f"{value:04x}"
    return repr(value) if value == "" else str(value)


def _best_config(
    address: Address, configs: Sequence[ConfigSpace], conflicts: list[str]
) -> ConfigSpace | None:
    """The one that proves most; none where two headers differ."""
    kinds = {c.header_type for c in configs if c.header_type is not None}
    if len(kinds) > 1:
        shown = " and ".join(map(str, sorted(kinds)))
        conflicts.append(f"{address}: its header is of type {shown}")
        return None
    best = max(
        configs,
        key=lambda c: (
            c.capabilities is not None,
            c.extended is not None,
            c.secondary_bus is not None,
            c.length,
        ),
        default=None,
    )
    return None if best == UNREAD else best


# --- the tree ------------------------------------------------------------------------------------


class Tree:
    """Who is above whom: from paths where a text shows them, else from the bridges' bus numbers."""

    def __init__(
        self, rows: Sequence[Joined], listings: Sequence[Listing], conflicts: list[str]
    ) -> None:
        self.told: dict[Address, str | None] = {}
        self.roots: dict[Address, str] = {}
        self.bridges: dict[tuple[str, int], Address] = {}
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        self.unnumbered: set[str] = set()
        self._parents: dict[Address, Address | None] = {}
        shared: set[tuple[str, int]] = set()
        for row in rows:
            domain = domain_of(row.address)
            config = row.config
            kind = None if config is None else config.header_type
            if kind == 0:
                continue
            if config is None or not config.secondary_bus or config.subordinate_bus is None:
                if config is None or not config.dead:
                    self.unnumbered.add(domain)
                continue
            key = (domain, config.secondary_bus)
            if key in self.bridges:
                shared.add(key)
            self.bridges[key] = row.address
            self.ranges.setdefault(domain, []).append(
                (config.secondary_bus, config.subordinate_bus)
            )
        for key in shared:
            conflicts.append(f"two bridges lead to bus {key[0]}:{key[1]:02x}")
            del self.bridges[key]
        for listing in listings:
            for place in listing.places:
                self._tell(place.address, place.parent)
                self.roots[place.address] = place.root
        for row in rows:
            chain = [*row.above, row.address] if row.above else []
            for above, below in pairwise(chain):
                self._tell(below, above)

    def _tell(self, address: Address, parent: str) -> None:
        before = self.told.setdefault(address, parent)
        if before != parent:
            self.told[address] = None

    def parent_of(self, address: Address) -> Address | None:
        if address not in self._parents:
            self._parents[address] = self._find_parent(address)
        return self._parents[address]

    def _find_parent(self, address: Address) -> Address | None:
        if address in self.told:
            told = self.told[address]
            return None if told is None else Address(told)
        domain, bus = domain_of(address), address_key(address)[1]
        above = self.bridges.get((domain, bus))
        if above is not None:
            return None if above == address else above
        if bus == 0 or (domain not in self.unnumbered and not self.is_below(domain, bus)):
            return Address("")
        return None

    def is_below(self, domain: str, bus: int) -> bool:
        """True when some bridge's range holds this bus."""
        return any(low <= bus <= high for low, high in self.ranges.get(domain, ()))

    def root_of(self, address: Address) -> str:
        """`pci0000:00`; "" where the way up is not known."""
        seen: set[Address] = set()
        here = address
        while here not in seen:
            seen.add(here)
            if here in self.roots:
                return self.roots[here]
            parent = self.parent_of(here)
            if parent is None:
                return ""
            if not parent:
                return f"pci{here.rpartition(':')[0]}"
            here = parent
        return ""


def _make_function(row: Joined, tree: Tree, *, alone: bool) -> PciFunction:
    """`alone`: no further function of its slot can have been cut off."""
    config = row.config
    sriov = None if config is None else config.sriov
    # without the capability there are no VFs; where it was not read nothing is known
    plain = config is not None and config.extended is not None and 0x10 not in config.extended
    if not alone:
        plain = False  # nor companions
    return PciFunction(
        address=row.address,
        parent=tree.parent_of(row.address),
        root=tree.root_of(row.address),
        root_path=None,
        vendor=row.vendor,
        device=row.device,
        subsystem_vendor=row.subsystem_vendor,
        subsystem_device=row.subsystem_device,
        class_code=row.class_code,
        revision=row.revision,
        driver=row.driver,
        driver_override=None,
        group=row.group,
        vfio_device=None,
        reset_method_file=None,
        reset_methods=None,
        reset_file=None,
        numa_node=row.numa_node,
        boot_vga=None,
        sriov_total_vfs=sriov.total_vfs if sriov is not None else 0 if plain else None,
        sriov_num_vfs=sriov.num_vfs if sriov is not None else 0 if plain else None,
        physfn=None if row.virtual else Address(""),
        vf_index=None if row.virtual else -1,
        bars=None,
        max_link_speed=None,
        max_link_width=None,
        config=config,
    )


def _make_groups(members: Mapping[str, int | None]) -> tuple[IommuGroup, ...] | None:
    if not members:
        return None
    found: dict[int, list[str]] = {}
    for name, number in members.items():
        if number is not None:
            found.setdefault(number, []).append(name)
    return tuple(
        IommuGroup(number, name=None, type=None, members=tuple(sorted(names)), reserved=None)
        for number, names in sorted(found.items())
    )


def _find_names(rows: Sequence[Joined]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for row in rows:
        if row.vendor is None or row.device is None or not row.name:
            continue
        ids = f"{row.vendor:04x}:{row.device:04x}"
        found.setdefault(ids, row.name.split(f" [{ids}]")[0].split(" (rev ")[0].strip())
    return tuple(sorted(found.items()))
