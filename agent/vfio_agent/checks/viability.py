"""Whether the kernel would let a VM have an IOMMU group now, and which member stands in the way.

The kernel's own rule: a group is viable if each member is driver-less or on a driver that does not
do DMA behind the owner's back. From 5.19 bridges count as members; before, functions with a bridge
header were exempt. This module must never count an unread driver as harmless.
"""

from dataclasses import dataclass

from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import PciFunction

BRIDGES_COUNT_SINCE = (5, 19)
"""First kernel with `driver_managed_dma` (facts: Groups and viability)."""

_MANAGED = frozenset({"pcieport", "pci-stub"})
"""Drivers with `driver_managed_dma` that are no vfio drivers, up to Linux 6.12."""


@dataclass(frozen=True, slots=True)
class Viability:
    """What spoils a group: endpoints on host drivers, bridges on drivers that do not manage DMA.

    `unread` are members of which driver or header type is not known, in so far as it matters.
    """

    endpoints: tuple[PciFunction, ...]
    bridges: tuple[PciFunction, ...]
    unread: tuple[PciFunction, ...]

    @property
    def viable(self) -> bool | None:
        """True when a VM could have it now; None when that is not known."""
        if self.endpoints or self.bridges:
            return False
        return None if self.unread else True


def judge_viability(host: Host, members: tuple[PciFunction, ...]) -> Viability:
    """Viability of the group with these PCI members, by the running kernel's rule."""
    version = host.facts.kernel.version
    endpoints, bridges, unread = [], [], []
    for member in members:
        if is_harmless(member):
            continue
        if member.driver is None or member.is_bridge is None:
            unread.append(member)
        elif not member.is_bridge:
            endpoints.append(member)
        elif version is None:
            unread.append(member)
        elif version >= BRIDGES_COUNT_SINCE:
            bridges.append(member)
    return Viability(tuple(endpoints), tuple(bridges), tuple(unread))


def is_harmless(member: PciFunction) -> bool:
    """True for no driver, a vfio driver, or one that manages DMA by itself."""
    return member.driver == "" or member.driver in _MANAGED or is_vfio_bound(member) is True
