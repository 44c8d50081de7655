"""Check `device-functions`: the full set of functions that go to one VM together.

Judged per unit (closure over group, companions and reset domain). The finding is the bookkeeping
that a VM's configuration must copy. It must never list a set as complete of which a member may not
have been read, and it says when it is not known which devices are intended at all.
"""

from dataclasses import dataclass

from vfio_agent.checks.inventory import (
    DEVICES,
    describe,
    doubt_listing,
    endpoints,
    find_remedy,
    group_of,
    is_intended,
    lists_are_whole,
    missing_attribute,
    missing_groups,
    report_nothing,
    ungrouped,
)
from vfio_agent.checks.virtual_functions import PF_HAS_VFS, judge_vfs
from vfio_contract.address import slot_of
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.units import Unit, companions, reset_domain

ID = "device-functions"

UNIT_COMPLETE = Code(
    "UNIT_COMPLETE",
    Verdict.PASS,
    "Group members, companions of the slot and the reset domain were all read.",
    "These functions go to one VM together, or none of them goes.",
    "Pass all functions marked assign; keep those marked hold off host drivers.",
)
UNIT_HALF_BOUND = Code(
    "UNIT_HALF_BOUND",
    Verdict.WARN,
    "Some functions that go together are on vfio-pci, others are not.",
    "A half-attached device: the guest misses a function, or the reset of one disturbs the other.",
    "Bind the rest too, or none.",
)
UNIT_UNKNOWN = Code(
    "UNIT_UNKNOWN",
    Verdict.UNKNOWN,
    "Class, group, header type or place of a function that may belong to the set was not read.",
    "What must go together is not fully known. A forgotten function costs a working VM.",
    "Get the missing evidence below, then: vfioctl check",
)
DEVICES_UNKNOWN = Code(
    "DEVICES_UNKNOWN",
    Verdict.UNKNOWN,
    "A function's class, driver or driver_override, vfio ids or driverctl entries were not read.",
    "Which devices there are to pass, or which are meant for it, is not fully known: a fault of "
    "one of them may not show in this host's verdict.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (UNIT_COMPLETE, UNIT_HALF_BOUND, PF_HAS_VFS, UNIT_UNKNOWN, DEVICES_UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Unread:
    """Functions that may belong to any unit, or to one of their slot."""

    parents: tuple[PciFunction, ...]
    classes: tuple[PciFunction, ...]
    groups_open: bool


def judge(host: Host) -> list[Finding]:
    """Which functions must be passed together?

    Evidence: slot, class and group of every function; bridges above; reset methods; VFs.
    Meaning:  A forgotten function leaves a device half attached, or blocks the whole group.
    Source:   DESIGN, vocabulary (unit); Linux vfio.rst; field guide step 1.
    """
    if host.facts.functions is None:
        return report_nothing(ID, host)
    unread = _find_unread(host)
    found = [_judge_unit(host, unit, unread) for unit in host.units]
    missing = (*_list_unread_devices(host), *_list_unread_intentions(host))
    if missing:
        found.append(make_finding(ID, NODE, DEVICES_UNKNOWN, missing=missing))
    return found or report_nothing(ID, host)


def _judge_unit(host: Host, unit: Unit, unread: _Unread) -> Finding:
    members = [host.by_address[a] for a in unit.addresses]
    code, decision = UNIT_COMPLETE, ""
    missing = _list_missing(host, unit, members, unread)
    assigned = [host.by_address[a] for a in unit.assign]
    owners = [m for m in assigned if judge_vfs(host, m)]
    rest = [m for m in assigned if is_vfio_bound(m) is False]
    if owners:
        code, decision = PF_HAS_VFS, PF_HAS_VFS.decision.replace("ADDRESS", owners[0].address)
    elif rest and any(is_vfio_bound(m) for m in assigned):
        code = UNIT_HALF_BOUND
        commands = "; ".join(f"sudo driverctl set-override {m.address} vfio-pci" for m in rest)
        decision = f"If the host can spare it (see host-critical): {commands}"
    if missing and code is not PF_HAS_VFS:
        code, decision = UNIT_UNKNOWN, ""
    return make_finding(
        ID,
        f"unit:{unit.id}",
        code,
        *(_describe_member(host, unit, m) for m in members),
        intended=is_intended(host, [unit.primary]),
        decision=decision,
        missing=missing if code is UNIT_UNKNOWN else (),
    )


def _describe_member(host: Host, unit: Unit, member: PciFunction) -> Evidence:
    role = "assign" if member.address in unit.assign else "hold"
    group = group_of(host, member)
    where = {None: "group not read", NO_GROUP: "no group"}.get(group, f"group {group}")
    why = _why_together(host, unit, member)
    text = f"{role}: {describe(member, host)}, {where}{', ' if why else ''}{why}"
    return Evidence(f"{DEVICES}/{member.address}", text)


def _why_together(host: Host, unit: Unit, member: PciFunction) -> str:
    primary = host.by_address[unit.primary]
    if member is primary:
        return ""
    group = group_of(host, member)
    if member.is_bridge:
        return "bridge of the group"
    if group is not None and group != NO_GROUP and group == group_of(host, primary):
        return f"same group as {primary.address}"
    if member.address in companions(primary, host.by_address):
        return f"companion of {primary.address}"
    if member.address in reset_domain(primary, host.by_address):
        return f"reset with {primary.address}"
    return "tied to another member"


def _find_unread(host: Host) -> _Unread:
    return _Unread(
        parents=tuple(f for f in host.functions if f.parent is None),
        classes=tuple(f for f in host.functions if f.class_code is None),
        # Neither side of the link was read: such a function may be in any group.
        groups_open=not lists_are_whole(host) and bool(ungrouped(host)),
    )


def _list_missing(
    host: Host, unit: Unit, members: list[PciFunction], unread: _Unread
) -> tuple[Missing, ...]:
    """What could hide a function that belongs to this unit."""
    found = list(doubt_listing(host))
    if unread.groups_open or any(group_of(host, m) is None for m in members):
        found.append(missing_groups(host))
    found += [Missing(f"{DEVICES}/{f.address}", "lspci -t") for f in unread.parents]
    slots = {slot_of(m.address) for m in members}
    found += [
        missing_attribute(host, f, "class") for f in unread.classes if slot_of(f.address) in slots
    ]
    for member in members:
        gone = {
            "config": member.is_bridge is None,
            "driver": is_vfio_bound(member) is None,
            "sriov_numvfs": member.address in unit.assign and judge_vfs(host, member) is None,
        }
        found += [missing_attribute(host, member, name) for name, lost in gone.items() if lost]
    return tuple(found)


def _list_unread_devices(host: Host) -> list[Missing]:
    """Functions that are in no unit and may belong into one, because their class was not read."""
    return [
        missing_attribute(host, f, "class")
        for f in endpoints(host)
        if f.class_code is None and f.address not in host.unit_of
    ]


def _list_unread_intentions(host: Host) -> tuple[Missing, ...]:
    """Sources of intention that were not read; () when every one is known."""
    found = []
    for path in ("/etc/modprobe.d", "/etc/driverctl.d"):
        remedy = find_remedy(host, path)
        if host.facts.intents is None or remedy:
            found.append(Missing(path, remedy or f"grep -r vfio {path}"))
    for function in host.functions:
        if function.is_bridge or function.address in host.intentions:
            continue
        if is_vfio_bound(function) is None:
            found.append(missing_attribute(host, function, "driver"))
        if function.driver_override is None:
            found.append(missing_attribute(host, function, "driver_override"))
        if host.facts.intents and None in (function.vendor, function.device):
            found.append(missing_attribute(host, function, "vendor"))
    return tuple(dict.fromkeys(found))
