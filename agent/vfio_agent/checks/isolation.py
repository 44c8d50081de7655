"""Whether isolation is the hardware's, or only claimed by the ACS override patch.

`pcie_acs_override` makes the kernel believe in isolation where a hop has no ACS capability. It
never overrides one that is there, so groups are artificial only where a hop up to the root, or a
multi-function endpoint, lacks it. A capability that could not be read counts as lacking: this
module must never call isolation real without having seen it.
"""

from collections.abc import Iterable, Iterator

from vfio_agent.checks import kernel_log as log
from vfio_contract.findings import Evidence
from vfio_contract.host import Host
from vfio_contract.model import PciFunction

_DOWNWARD = frozenset({4, 6})
"""Root and downstream ports: they route between peers and need ACS even when alone."""

_BY_FUNCTION = frozenset({0, 1, 5, 9})
"""Endpoints and upstream ports need ACS between functions only (pci_acs_enabled())."""


def find_override(host: Host) -> Evidence | None:
    """Where this boot's ACS override shows."""
    found = log.find_parameter(host, "pcie_acs_override")
    return found[0] if found is not None else log.find_line(host, log.ACS_OVERRIDE)


def is_override_known(host: Host) -> bool:
    """True when the absence of the override is proved: by the command line or a complete log."""
    return log.read_cmdline(host) is not None or log.is_complete(host)


def find_unproven(host: Host, members: Iterable[PciFunction]) -> Iterator[tuple[PciFunction, str]]:
    """Members and hops above them without an ACS capability that was seen, each with the reason."""
    seen: dict[str, PciFunction] = {}
    for member in members:
        seen[member.address] = member
        for hop in host.ancestors(member):
            seen[hop.address] = hop
    for function in seen.values():
        reason = _why_unproven(function)
        if reason:
            yield function, reason
        if function.parent is None:
            yield function, "its upstream bridge is not known"
        elif function.parent and function.parent not in host.by_address:
            yield function, f"its upstream bridge {function.parent} was not read"


def _why_unproven(function: PciFunction) -> str:
    config = function.config
    if config is None or config.capabilities is None:
        return "its capabilities could not be read"
    if config.acs is not None:
        return ""
    if config.pcie is None:
        # On a root bus nothing routes below the root complex; a conventional bridge has no ACS.
        return "a conventional bridge, which isolates nothing" if function.is_bridge else ""
    kind = config.pcie.port_type
    if kind in _BY_FUNCTION and config.multifunction is False:
        return ""
    if kind not in _DOWNWARD | _BY_FUNCTION:
        return "a bridge to conventional PCI, which isolates nothing"
    if config.extended is None:
        return "its ACS capability could not be read"
    return "no ACS capability"
