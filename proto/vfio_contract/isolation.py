"""Whether isolation is the hardware's, or only claimed by the ACS override patch.

`pcie_acs_override` makes the kernel believe in isolation where a hop has no ACS capability. It
never overrides one that is there, so groups are artificial only where a hop up to the root, or a
multi-function endpoint, lacks it. A capability that could not be read counts as lacking: this
module must never call isolation real without having seen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vfio_contract.host import Host
from vfio_contract.model import PciFunction

OVERRIDE = "pcie_acs_override"
"""The kernel parameter of the patch."""

_PCIE_ID, _ACS_ID = 0x10, 0x0D
"""Capability ids of PCI Express, and of Access Control Services among the extended ones."""

_DOWNWARD = frozenset({4, 6})
"""Root and downstream ports: they route between peers and need ACS even when alone."""

_BY_FUNCTION = frozenset({0, 1, 5, 9})
"""Endpoints and upstream ports need ACS between functions only (pci_acs_enabled())."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """A function that was not seen to isolate. `seen` is False where that could not be read."""

    function: PciFunction
    why: str
    seen: bool


def find_unproven(host: Host, members: Iterable[PciFunction]) -> Iterator[Unproven]:
    """Members and hops above them without an ACS capability that was seen, each with the reason."""
    seen: dict[str, PciFunction] = {}
    for member in members:
        seen[member.address] = member
        for hop in host.ancestors(member):
            seen[hop.address] = hop
    for function in seen.values():
        reason = _why_unproven(function)
        if reason is not None:
            yield reason
        if function.parent is None:
            yield Unproven(function, "its upstream bridge is not known", False)
        elif function.parent and function.parent not in host.by_address:
            why = f"its upstream bridge {function.parent} was not read"
            yield Unproven(function, why, False)


def is_artificial(host: Host, function: PciFunction) -> bool | None:
    """True where the group of this function rests on the override; None when that is not known."""
    cmdline = host.facts.cmdline
    if cmdline is None:
        return None
    if not any(w.partition("=")[0].replace("-", "_") == OVERRIDE for w in cmdline.split()):
        return False
    unproven = tuple(find_unproven(host, [function]))
    if any(row.seen for row in unproven):
        return True
    return None if unproven else False


def _why_unproven(function: PciFunction) -> Unproven | None:
    config = function.config
    if config is None or config.capabilities is None:
        return Unproven(function, "its capabilities could not be read", False)
    if config.acs is not None:
        return None
    if config.pcie is None and (_PCIE_ID in config.capabilities or config.header_type is None):
        return Unproven(function, "whether it is PCI Express could not be read", False)
    if config.pcie is None:
        # On a root bus nothing routes below the root complex; a conventional bridge has no ACS.
        if not function.is_bridge:
            return None
        return Unproven(function, "a conventional bridge, which isolates nothing", True)
    kind = config.pcie.port_type
    if kind in _BY_FUNCTION and config.multifunction is False:
        return None
    if kind not in _DOWNWARD | _BY_FUNCTION:
        return Unproven(function, "a bridge to conventional PCI, which isolates nothing", True)
    unread = config.extended is None or _ACS_ID in config.extended
    if unread or (kind in _BY_FUNCTION and config.multifunction is None):
        return Unproven(function, "its ACS capability could not be read", False)
    return Unproven(function, "no ACS capability", True)
