"""The functions that checks judge, how a finding names them, and what a gap in the list means.

Endpoints are judged, bridges never; a function whose header type or class is not known is judged,
because leaving it out would turn a gap into silence. This module must never drop a function that
somebody may want to pass, and never call a set complete that may have an unread member.
"""

from collections.abc import Iterable

from vfio_contract.address import Address
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.units import companions, kind_of

DEVICES = "/sys/bus/pci/devices"
GROUPS = "/sys/kernel/iommu_groups"
IOMMU_CLASS = 0x0806
"""The IOMMU's own function, which is in no group."""

INVENTORY_UNKNOWN = Code(
    "INVENTORY_UNKNOWN",
    Verdict.UNKNOWN,
    "The list of PCI functions (/sys/bus/pci/devices) could not be read.",
    "Nothing can be said about any device of this host: that none is listed is no good news.",
    "Run the check on the host itself, or give it a root that holds /sys: vfioctl check --root DIR",
)
NO_DEVICES = Code(
    "NO_DEVICES",
    Verdict.NOT_APPLICABLE,
    "The list of PCI functions was read and holds nothing that could be assigned to a VM.",
    "There is no device that this check could judge.",
    "No action, unless a device should be there: lspci -nn, then look at the slot and firmware.",
)


def endpoints(host: Host) -> list[PciFunction]:
    """Every function that is not known to be a bridge, by address."""
    return [f for f in host.functions if f.is_bridge is not True]


def assignable(host: Host) -> list[PciFunction]:
    """Endpoints that may be given to a VM: all but the platform's own (see `is_platform`)."""
    return [f for f in endpoints(host) if not is_platform(f, host)]


def is_platform(function: PciFunction, host: Host) -> bool:
    """True for what is known never to be assigned: host and ISA bridges, SMBus, timers.

    A companion of a display controller is none of those, whatever its class.
    """
    if function.class_code is None or kind_of(function):
        return False
    return not any(
        function.address in companions(other, host.by_address)
        for other in host.functions
        if other.base_class == 0x03
    )


def is_intended(host: Host, addresses: Iterable[Address]) -> bool:
    """True when one of these functions, or of those that must travel with them, is intended."""
    closure = set(addresses)
    for address in tuple(closure):
        unit = host.unit_of.get(address)
        if unit is not None:
            closure.update(unit.addresses)
    return host.is_intended(closure)


def subject_of(function: PciFunction) -> str:
    """The subject of a finding about this function."""
    return f"function:{function.address}"


def describe(function: PciFunction, host: Host) -> str:
    """`0000:01:00.0 [0200] 8086:10d3 82574L, driver e1000e`: address, class, ids, name, driver."""
    kind = "????" if function.sub_class is None else f"{function.sub_class:04x}"
    name = host.name_of(function)
    text = f"{function.address} [{kind}] {function.ids}{' ' if name else ''}{name}"
    return f"{text}, {describe_driver(function)}"


def describe_driver(function: PciFunction) -> str:
    """`driver igb`, `no driver` or `driver not read`."""
    if function.driver is None:
        return "vfio-bound" if function.vfio_device else "driver not read"
    return f"driver {function.driver}" if function.driver else "no driver"


def attribute(function: PciFunction, name: str, text: str) -> Evidence:
    """Evidence from one sysfs attribute of a function."""
    return Evidence(f"{DEVICES}/{function.address}/{name}", text)


def missing_attribute(host: Host, function: PciFunction, name: str) -> Missing:
    """What is missing when that attribute could not be read, with the gap's own remedy if any."""
    path = f"{DEVICES}/{function.address}/{name}"
    command = _COMMANDS.get(name, "cat {path}").format(path=path, address=function.address)
    return Missing(path, find_remedy(host, path) or command)


_COMMANDS = {
    "class": "lspci -nn -s {address}",
    "vendor": "lspci -nn -s {address}",
    "config": "sudo lspci -xxxx -s {address}",
    "driver": "lspci -k -s {address}",
    "iommu_group": "readlink {path}",
    "physfn": "readlink {path}",
}
"""Commands that show an attribute to a person; a plain file is shown by `cat`."""


def missing_groups(host: Host) -> Missing:
    """What is missing when it is not known who is in which group."""
    return Missing(GROUPS, find_remedy(host, GROUPS) or f"ls -d {GROUPS}/*/devices/*")


def doubt_listing(host: Host) -> tuple[Missing, ...]:
    """What would show the rest of a list that was given, but may be an excerpt; () for a whole one.

    Pasted lists show signs of that, and leave a gap at the list's own path although it is there.
    """
    given = {DEVICES: host.facts.functions, GROUPS: host.facts.groups}
    return tuple(
        Missing(gap.path, gap.remedy or "lspci -nnk")
        for gap in host.readings.gaps
        if given.get(gap.path) is not None
    )


def find_remedy(host: Host, path: str) -> str:
    """The remedy of the recorded gap at or below this path, "" for none."""
    for gap in host.readings.gaps:
        if gap.remedy and (gap.path == path or gap.path.startswith(f"{path}/")):
            return gap.remedy
    return ""


def find_reason(host: Host, function: PciFunction, name: str) -> str:
    """Why that attribute could not be read, "" where no gap tells."""
    path = f"{DEVICES}/{function.address}/{name}"
    return next((gap.reason for gap in host.readings.gaps if gap.path == path), "")


def report_nothing(check: str, host: Host, *, where: str = "assignable") -> list[Finding]:
    """The one node finding of a device check that has no device to judge."""
    if host.facts.functions is None:
        remedy = find_remedy(host, DEVICES) or "lspci -nnk"
        missing = (Missing(DEVICES, remedy),)
        return [make_finding(check, NODE, INVENTORY_UNKNOWN, missing=missing)]
    evidence = Evidence(DEVICES, f"{len(host.functions)} functions, none {where}")
    return [make_finding(check, NODE, NO_DEVICES, evidence)]


def group_of(host: Host, function: PciFunction) -> int | None:
    """The function's group from either side of the link: NO_GROUP for none, None if not known."""
    if function.group is not None:
        return function.group
    for number, rows in host.members.items():
        if any(row.address == function.address for row in rows):
            return number
    return None


def ungrouped(host: Host) -> list[PciFunction]:
    """Functions of which it is not known in which group they are: any group may hold them."""
    placed = {row.address for rows in host.members.values() for row in rows}
    unsure = not lists_are_whole(host)
    return [
        f
        for f in host.functions
        if f.address not in placed
        and (f.group is None or (unsure and f.group == NO_GROUP and f.sub_class != IOMMU_CLASS))
    ]


def lists_are_whole(host: Host) -> bool:
    """True when the groups' own lists confirm who is in none.

    A copied tree may have lost one link `iommu_group`; the lists of the groups tell that from a
    function that has no group, but only if they were copied, which their members show.
    """
    groups = host.facts.groups
    if groups is None:
        return all(f.group == NO_GROUP for f in host.functions)
    if not all(g.members for g in groups):
        return False  # a group without members does not exist: its list was not read
    listed = {(g.number, name) for g in groups for name in g.members}
    joined = ((f.group, f.address) for f in host.functions if f.group not in (None, NO_GROUP))
    return all(pair in listed for pair in joined)


def strangers(host: Host, number: int) -> list[str]:
    """Members that the group lists and no function row describes (platform devices, unread)."""
    group = host.groups.get(number)
    known = {m.address for m in host.members.get(number, ())}
    return [name for name in (group.members if group is not None else ()) if name not in known]


def has_no_group(function: PciFunction) -> bool:
    """True when the kernel is known to have given it no group."""
    return function.group == NO_GROUP
