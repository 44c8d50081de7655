"""Is a pasted list whole? The signs that it is not, and what shows that its end is its end.

A list that lacks something in its middle betrays itself: groups are numbered without holes, slots
have a function 0, a bus has a bridge. A list that was cut cleanly between two functions looks like
the list of a smaller host, so its end needs a proof of its own. Any of these is one:

- the text goes on behind it (the next prompt, another command's output);
- a second list, of links in /sys/kernel/iommu_groups, names exactly the same functions;
- for lspci, whose order is by bus: the last function is alone on its link (its port is a PCIe root
  or downstream port, which has one device below it, and no VFs are on that bus), and no port whose
  bus comes later is in a group with a listed device. What was lost then has its own port and its
  own group, so no listed group can be dirty by it. Only further functions of the last device itself
  may be lost: they change no group's cleanness, and what they do change stays unknown for it.

A list by group without such a proof may lack members of its last group, and is not taken for whole.
This module must never take the end of a paste for the end of a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from vfio_agent.pasted.listing import Listing
from vfio_contract.address import Address, address_key, function_number, is_address, slot_of
from vfio_contract.model import NO_GROUP

if TYPE_CHECKING:
    from vfio_agent.pasted.inventory import Joined, Tree

_LINKS = (4, 6)
"""Port types (root, downstream) below which is a link with one device."""


def domain_of(address: Address) -> str:
    """`0000` of `0000:01:00.0`."""
    return address.partition(":")[0]


def find_holes(numbers: set[int]) -> list[str]:
    """The kernel counts groups from 0, so a number that nobody has is a group nobody listed."""
    if not numbers:
        return []
    # ranges, not every number: one absurd number must not cost a million steps
    ordered = [-1, *sorted(numbers)]
    holes = []
    for low, high in pairwise(ordered):
        if high - low > 1:
            holes.append(f"{low + 1}" if high - low == 2 else f"{low + 1}-{high - 1}")
    return [f"no member of group {', '.join(holes[:6])} is listed"] if holes else []


def find_doubts(rows: Sequence[Joined], tree: Tree) -> list[str]:
    doubts: list[str] = []
    domains = {domain_of(row.address) for row in rows}
    if "0000" in domains and not any(row.address.startswith("0000:00:") for row in rows):
        doubts.append("nothing of bus 0000:00 is listed")
    known = {row.address for row in rows}
    last: dict[str, int] = {}
    for row in rows:
        last[domain_of(row.address)] = address_key(row.address)[1]
    for row in rows:
        if function_number(row.address) and not row.virtual and row.group != NO_GROUP:
            first = Address(f"{slot_of(row.address)}.0")
            grouped = row.group is not None
            if first not in known and not grouped:
                doubts.append(f"{first} is not listed, and every slot has a function 0")
        bus = address_key(row.address)[1]
        domain = domain_of(row.address)
        if (
            bus
            and domain not in tree.unnumbered
            and (domain, bus) not in tree.bridges
            and tree.is_below(domain, bus)
            and not row.virtual
        ):
            doubts.append(f"the bridge to bus {domain}:{bus:02x} is not listed")
        doubts += _doubt_bridge(row, tree, last[domain])
    return doubts


def _doubt_bridge(row: Joined, tree: Tree, last: int) -> Iterable[str]:
    """A bridge reaches further buses by bridges below it, unless it keeps numbers for hot-plug.

    Texts are cut at their end, so only buses behind the `last` one that is listed may be lost.
    """
    config = row.config
    if config is None or not config.secondary_bus or config.subordinate_bus is None:
        return
    domain = domain_of(row.address)
    if config.subordinate_bus > max(config.secondary_bus, last) and not row.hotplug:
        below = any(
            (domain, bus) in tree.bridges
            for bus in range(config.secondary_bus + 1, config.subordinate_bus + 1)
        )
        if not below:
            low, high = config.secondary_bus, config.subordinate_bus
            yield f"{row.address} leads to buses {low:02x}-{high:02x}, of which none is listed"


# --- the end -------------------------------------------------------------------------------------


def is_end_proven(rows: Sequence[Joined], listings: Sequence[Listing]) -> bool:
    """True when each text goes on behind its list, or a second list names the same functions."""
    addresses = {row.address for row in rows}
    ended = {f.address for listing in listings if listing.ended for f in listing.functions}
    if addresses <= ended:
        return True
    links = {name for listing in listings for _, name in listing.paths if is_address(name)}
    return addresses == links


def doubt_end(rows: Sequence[Joined], tree: Tree, listings: Sequence[Listing]) -> Iterable[str]:
    """Why what was cut off at the end could belong to a listed group; nothing for a proven end."""
    if is_end_proven(rows, listings):
        return
    last = rows[-1]
    if any(set(listing.members) - set(listing.paths) for listing in listings):
        yield "the text ends with a group, and nothing shows that no member follows"
        return
    domain, bus = domain_of(last.address), address_key(last.address)[1]
    parent = tree.parent_of(last.address)
    link = any(row.address == parent and _is_link_port(row) for row in rows)
    if not link:
        yield f"the text ends on bus {domain}:{bus:02x}, where more functions may follow"
    mates = [r for r in rows if domain_of(r.address) == domain and address_key(r.address)[1] == bus]
    if any(r.virtual or (r.config and r.config.sriov and r.config.sriov.num_vfs) for r in mates):
        yield f"the text ends among the virtual functions of bus {domain}:{bus:02x}"
    several = last.config is not None and last.config.multifunction
    if several and not function_number(last.address):
        yield f"{slot_of(last.address)} has several functions, of which one is listed"
    shared = {r.group for r in rows if r.config is None or r.config.header_type == 0}
    for row in rows:
        config = row.config
        if (
            config is not None
            and config.secondary_bus is not None
            and domain_of(row.address) == domain
            and config.secondary_bus > bus
            and row.group in shared
        ):
            yield f"{row.address} leads to bus {config.secondary_bus:02x}, of which none is listed"


def open_slot(rows: Sequence[Joined], listings: Sequence[Listing]) -> str:
    """The slot of which further functions may have been cut off, "" when the end is proven."""
    return "" if not rows or is_end_proven(rows, listings) else slot_of(rows[-1].address)


def _is_link_port(row: Joined) -> bool:
    pcie = None if row.config is None else row.config.pcie
    return row.link or (pcie is not None and pcie.port_type in _LINKS)
