"""Whether an IOMMU group stands for a real IOMMU, or for vfio's no-IOMMU mode.

With `enable_unsafe_noiommu_mode` vfio makes a group named `vfio-noiommu` for a device that is
behind no IOMMU, and the kernel prints the same "Adding to iommu group" line for it. This module
must never take a group whose name was not read for a real one without another proof.
"""

from collections.abc import Mapping, Sequence
from enum import Enum

from vfio_contract.address import is_address
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, NOIOMMU_NAME

_DOMAIN_TYPES = frozenset({"DMA", "DMA-FQ", "identity", "blocked", "unmanaged"})
"""`type` of a group that has a default domain; without an IOMMU it reads `unknown`.

Source: iommu_group_show_type() in drivers/iommu/iommu.c.
"""


class Reality(Enum):
    """What a group stands for."""

    REAL = "real"
    NOIOMMU = "no-IOMMU mode"
    NOT_KNOWN = "not known"


def judge_group(host: Host, number: int) -> Reality:
    """Real, no-IOMMU mode or not known, from the group's name, its type or its members."""
    group = host.groups.get(number)
    if group is not None and group.name is not None:
        return Reality.NOIOMMU if group.name == NOIOMMU_NAME else Reality.REAL
    if group is not None and group.type in _DOMAIN_TYPES:
        return Reality.REAL
    members = host.members.get(number, ())
    # A no-IOMMU group holds one device, and only while a vfio driver has it.
    if len(members) > 1 or any(is_vfio_bound(m) is False for m in members):
        return Reality.REAL
    return Reality.NOT_KNOWN


def sort_groups(host: Host) -> Mapping[Reality, list[int]]:
    """The numbers of the groups that hold a PCI function, by what they stand for."""
    found: dict[Reality, list[int]] = {reality: [] for reality in Reality}
    numbers = {f.group for f in host.functions if f.group is not None and f.group != NO_GROUP}
    numbers |= {n for n, g in host.groups.items() if any(is_address(m) for m in g.members)}
    for number in sorted(numbers):
        found[judge_group(host, number)].append(number)
    return found


def describe_reality(reality: Reality, numbers: Sequence[int]) -> str:
    """`12 groups with PCI functions` and the like, for evidence."""
    count = f"{len(numbers)} group{'' if len(numbers) == 1 else 's'}"
    if reality is Reality.REAL:
        return f"{count} with PCI functions"
    if reality is Reality.NOIOMMU:
        return f"{count} named {NOIOMMU_NAME} (no IOMMU behind them)"
    return f"{count} that may be of vfio's no-IOMMU mode: name not read"
