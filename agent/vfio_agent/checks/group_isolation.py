"""Check `group-isolation`: what a VM that gets one device of a group would really get.

Judged per IOMMU group that holds something assignable. A group is clean when it is one device (one
slot) with nothing but bridges, ports and that device's helpers beside it. What its hypervisor takes
off the host at the start of the VM that has the group does not spoil it before. It must never call
a group clean whose membership, classes, header types or drivers were not all read.
"""

from collections.abc import Sequence

from vfio_agent.checks.driver_binding import bound_at_start
from vfio_agent.checks.host_use import find_uses
from vfio_agent.checks.inventory import (
    DEVICES,
    GROUPS,
    describe,
    doubt_listing,
    is_intended,
    is_platform,
    lists_are_whole,
    missing_attribute,
    missing_groups,
    report_nothing,
    strangers,
    ungrouped,
)
from vfio_agent.checks.isolation import find_override, is_override_known
from vfio_agent.checks.reality import Reality, judge_group
from vfio_agent.checks.viability import Viability, is_harmless, judge_viability
from vfio_contract.address import slot_of
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.isolation import find_unproven
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.vm import covered_by

ID = "group-isolation"

GROUP_CLEAN = Code(
    "GROUP_CLEAN",
    Verdict.PASS,
    "Every member of the IOMMU group: one device (one slot), and bridges or ports.",
    "The group is one device: a VM that gets it gets nothing else.",
    "No action here; whether it is bound is driver-binding's question.",
)
GROUP_DIRTY = Code(
    "GROUP_DIRTY",
    Verdict.FAIL,
    "The IOMMU group mixes several devices, or a device with the platform's own functions.",
    "Members can reach each other's DMA and VFIO hands over the whole group: all of them go to one "
    "VM, or none.",
    "Move the card to another slot, change the slot's bifurcation or the firmware's PCIe/ACS "
    "settings, update the firmware; then: vfioctl check. ACS override would be a recorded risk "
    "decision (who, why, until when), not a fix.",
)
GROUP_NOT_VIABLE = Code(
    "GROUP_NOT_VIABLE",
    Verdict.FAIL,
    "One member of the group is on vfio-pci while another is on a host driver.",
    'VFIO says "group is not viable": a host driver in the group makes all of it unusable.',
    "Bind every endpoint of the group to vfio-pci, or give the device back to its host driver.",
)
GROUP_BRIDGE_SPOILS = Code(
    "GROUP_BRIDGE_SPOILS",
    Verdict.FAIL,
    "A bridge of the group is on a driver that does not manage DMA (kernel 5.19 and later).",
    'Bridges are never assigned, but they count: the group stays "not viable" even with every '
    "endpoint on vfio-pci.",
    "Unbind the bridge from its driver; pcieport or no driver is right for it.",
)
ACS_OVERRIDE = Code(
    "ACS_OVERRIDE",
    Verdict.WARN,
    "pcie_acs_override is active, and a hop to the root or a multi-function endpoint of this group "
    "has no ACS capability that could be read.",
    "The isolation is artificial: the kernel was told to believe in it. Peer DMA may pass between "
    "groups that look clean.",
    "Record who accepts the risk, why and until when; a request then needs --allow acs-override. "
    "For tenants who do not trust each other: other hardware.",
)
NOIOMMU_GROUP = Code(
    "NOIOMMU_GROUP",
    Verdict.FAIL,
    "The group's name is vfio-noiommu.",
    "It is no IOMMU group: a VM that gets its device can write to all of the host's memory.",
    "Remove enable_unsafe_noiommu_mode from /etc/modprobe.d and the command line; reboot.",
)
GROUP_UNKNOWN = Code(
    "GROUP_UNKNOWN",
    Verdict.UNKNOWN,
    "Membership of the group, or class, header type or driver of a member, could not be read.",
    "Who shares the group is not fully known. Unknown is not clean.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    GROUP_CLEAN,
    GROUP_DIRTY,
    GROUP_NOT_VIABLE,
    GROUP_BRIDGE_SPOILS,
    ACS_OVERRIDE,
    NOIOMMU_GROUP,
    GROUP_UNKNOWN,
)

_HOST_BRIDGE = 0x0600
_HELPER_CLASSES = frozenset({0x05, 0x11, 0x13})
"""Memory, signal processing, instrumentation: driver-less helpers that share a device's slot."""


def judge(host: Host) -> list[Finding]:
    """Is every neighbour in the IOMMU group safe to hand to the same VM?

    Evidence: group membership, each member's class, header type and driver, ACS on the way up.
    Meaning:  VFIO hands over the whole group; a host-driven neighbour makes it unusable.
    Source:   Linux Documentation/driver-api/vfio.rst, driver_managed_dma; field guide step 6.
    """
    lost = ungrouped(host)
    # asked once: it compares every function with every list
    unsure = bool(lost) and not lists_are_whole(host)
    found = [
        _judge_group(host, number, members, unsure=unsure)
        for number, members in sorted(host.members.items())
        if number != NO_GROUP and any(_matters(host, m) for m in members)
    ]
    if lost:
        return [_report_lost(host, lost), *found]
    return found or report_nothing(ID, host, where="in an IOMMU group")


def _matters(host: Host, function: PciFunction) -> bool:
    return function.is_bridge is not True and not is_platform(function, host)


def _report_lost(host: Host, lost: Sequence[PciFunction]) -> Finding:
    """One node finding for all functions whose group is not known."""
    return make_finding(
        ID,
        NODE,
        GROUP_UNKNOWN,
        *(Evidence(f"{DEVICES}/{f.address}/iommu_group", "not read") for f in lost[:8]),
        meaning=f"Of {len(lost)} functions it is not known in which group they are.",
        missing=(missing_groups(host),),
    )


def _judge_group(
    host: Host, number: int, members: tuple[PciFunction, ...], *, unsure: bool
) -> Finding:
    """`unsure`: some function may be in any group."""
    viability = judge_viability(host, members)
    code, meaning, decision = _decide(host, number, members, viability, unsure=unsure)
    evidence = [_describe_member(host, m, viability) for m in members]
    evidence += [
        Evidence(
            f"{GROUPS}/{number}/devices", f"{name}: not among the PCI functions that were read"
        )
        for name in strangers(host, number)
    ]
    evidence.append(Evidence("viable now", _describe_viability(host, viability)))
    if code is ACS_OVERRIDE:
        override = find_override(host)
        evidence += [override] if override is not None else []
        evidence += [
            Evidence(f"{DEVICES}/{r.function.address}/config", f"{r.function.address}: {r.why}")
            for r in find_unproven(host, members)
        ]
    return make_finding(
        ID,
        f"group:{number}",
        code,
        *evidence,
        intended=is_intended(host, [m.address for m in members]),
        meaning=meaning,
        decision=decision,
        missing=_list_missing(host, number, members) if code is GROUP_UNKNOWN else (),
    )


def _decide(
    host: Host,
    number: int,
    members: tuple[PciFunction, ...],
    viability: Viability,
    *,
    unsure: bool,
) -> tuple[Code, str, str]:
    """(code, sharper meaning, sharper decision); "" leaves the code's own text."""
    reality = judge_group(host, number)
    if reality is Reality.NOIOMMU:
        return NOIOMMU_GROUP, "", ""
    why = _why_dirty(host, members)
    if why:
        meaning = f"{why} {GROUP_DIRTY.meaning}"
        if not viability.bridges:
            return GROUP_DIRTY, meaning, ""
        spoiled = f"{_bridge_text(viability)} {GROUP_BRIDGE_SPOILS.meaning}"
        return (
            GROUP_DIRTY,
            f"{meaning} {spoiled}",
            f"{GROUP_DIRTY.decision} To make it viable: {_unbind(viability)}",
        )
    if viability.bridges:
        meaning = f"{_bridge_text(viability)} {GROUP_BRIDGE_SPOILS.meaning}"
        return GROUP_BRIDGE_SPOILS, meaning, _unbind(viability)
    half = viability.endpoints and any(is_vfio_bound(m) for m in members)
    if half and not _is_taken_at_start(host, members, viability.endpoints):
        return GROUP_NOT_VIABLE, "", _bind(host, viability)
    if (
        reality is Reality.NOT_KNOWN
        or viability.unread
        or strangers(host, number)
        or doubt_listing(host)
        or unsure
        or any(None in (m.class_code, m.is_bridge, m.physfn) for m in members)
    ):
        return GROUP_UNKNOWN, _as_far_as_seen(members), ""
    unproven = any(True for _ in find_unproven(host, members))
    if unproven and find_override(host) is not None:
        return ACS_OVERRIDE, "", ""
    if unproven and not is_override_known(host):
        return (
            GROUP_UNKNOWN,
            "Whether ACS override is active could not be read, and not every hop to the root has "
            "an ACS capability: the isolation may be artificial.",
            "",
        )
    return GROUP_CLEAN, "", ""


def _is_taken_at_start(
    host: Host, members: Sequence[PciFunction], spoilers: Sequence[PciFunction]
) -> bool:
    """Whether every VM that has a part of the group takes all of these off the host as it starts,
    and the host needs none of them: so it stands for a moment at each start and stop."""
    facts, uses = host.facts, find_uses(host)
    if any(use.needs or use.doubts for f in spoilers if (use := uses.get(f.address)) is not None):
        return False
    takers = [
        vm
        for vm in facts.vms or ()
        if any(
            covered_by(device, facts.mappings, facts.host, member.address)
            for device in vm.devices
            for member in members
        )
    ]
    return bool(takers) and all(
        any(
            device.managed and covered_by(device, facts.mappings, facts.host, spoiler.address)
            for device in vm.devices
        )
        for vm in takers
        for spoiler in spoilers
    )


def _as_far_as_seen(members: Sequence[PciFunction]) -> str:
    if any(m.class_code is None for m in members):
        return ""
    names = ", ".join(m.address for m in members)
    return (
        f"What was seen of the group is one device ({names}): nothing speaks against it so far. "
        f"But what is missing below could. {GROUP_UNKNOWN.meaning}"
    )


def _why_dirty(host: Host, members: Sequence[PciFunction]) -> str:
    """Which members do not belong to the one device, as a sentence; "" when none is known."""
    devices = [m for m in members if m.class_code is not None and _matters(host, m)]
    # Each VF is a device of its own, whatever slot its number falls into.
    names = sorted({m.address if m.physfn else slot_of(m.address) for m in devices})
    if len(names) > 1:
        return f"The group holds {len(names)} devices: {', '.join(names)}."
    strangers = [
        m
        for m in members
        if m.is_bridge is False and is_platform(m, host) and not _is_helper(m, names)
    ]
    if strangers:
        listed = ", ".join(f"{m.address} [{m.sub_class:04x}]" for m in strangers)
        return f"The group holds functions of the platform itself: {listed}."
    return ""


def _is_helper(function: PciFunction, slots: Sequence[str]) -> bool:
    """A host bridge that only routes, or a driver-less function that shares the device's slot."""
    if function.sub_class == _HOST_BRIDGE:
        return True
    helper = function.base_class in _HELPER_CLASSES and slot_of(function.address) in slots
    # An unread driver makes the group unknown, not dirty.
    return helper and (is_harmless(function) or function.driver is None)


# --- texts ---------------------------------------------------------------------------------------


def _describe_member(host: Host, member: PciFunction, viability: Viability) -> Evidence:
    role = {True: "bridge", False: "endpoint", None: "header type not read"}[member.is_bridge]
    spoils = member in viability.bridges or member in viability.endpoints
    text = f"{describe(member, host)}, {role}{'; spoils viability' if spoils else ''}"
    return Evidence(f"{DEVICES}/{member.address}", text)


def _describe_viability(host: Host, viability: Viability) -> str:
    if viability.viable:
        return "yes"
    release = host.facts.kernel.release or "not read"
    if viability.viable is None:
        names = ", ".join(m.address for m in viability.unread)
        return f"not known: driver or header type of {names}, kernel {release}"
    spoilers = ", ".join(
        f"{m.address} on {m.driver}" for m in (*viability.endpoints, *viability.bridges)
    )
    return f"no: {spoilers} (kernel {release})"


def _bridge_text(viability: Viability) -> str:
    names = ", ".join(f"{b.address} on {b.driver}" for b in viability.bridges)
    return f"Bridge {names} spoils the group."


def _unbind(viability: Viability) -> str:
    commands = "; ".join(
        f"echo {b.address} | sudo tee /sys/bus/pci/drivers/{b.driver}/unbind"
        for b in viability.bridges
    )
    return f"Unbind the bridge, nothing below it stops working: {commands}"


def _bind(host: Host, viability: Viability) -> str:
    """How to make it viable; never a command for what `driver-binding` says not to bind."""
    uses = find_uses(host)
    kept = [(e, uses[e.address]) for e in viability.endpoints if e.address in uses]
    needed = [f"{e.address} ({use.needs[0]})" for e, use in kept if use.needs]
    if needed:
        return (
            f"Do not bind the rest of the group: the host needs {', '.join(needed)}. Give what is "
            "on vfio-pci back to its host driver, or move it to a slot with a group of its own."
        )
    commands = "; ".join(
        f"echo {e.address} | sudo tee /sys/bus/pci/drivers/{e.driver}/unbind"
        if is_platform(e, host)
        else f"sudo driverctl set-override {e.address} vfio-pci"
        for e in viability.endpoints
    )
    doubted = [e.address for e, use in kept if use.doubts]
    if doubted:
        return (
            f"First find out whether the host needs {', '.join(doubted)} (see host-critical). If "
            f"not: {commands}; else give the device back to its host driver."
        )
    if all(bound_at_start(host, e) for e in viability.endpoints):
        return (
            "The hypervisor takes the rest of the group off the host when its VM starts: no "
            f"action, if that VM does start. To make it viable now: {commands}"
        )
    return (
        f"Take the rest of the group off the host, which does not need it: {commands} (to make it "
        "last see driver-binding); or give the device back to its host driver."
    )


def _list_missing(host: Host, number: int, members: Sequence[PciFunction]) -> tuple[Missing, ...]:
    found = []
    for member in members:
        unread = {
            "class": member.class_code is None,
            "config": member.is_bridge is None,
            "physfn": member.physfn is None,
            "driver": member.driver is None,
        }
        found += [missing_attribute(host, member, name) for name, gone in unread.items() if gone]
    if host.facts.groups is None:
        found.append(missing_groups(host))
    found += doubt_listing(host)
    if judge_group(host, number) is Reality.NOT_KNOWN:
        found.append(Missing(f"{GROUPS}/{number}/name", f"ls {GROUPS}/{number}"))
    if host.facts.kernel.version is None:
        found.append(Missing("kernel release", "uname -r"))
    if not is_override_known(host):
        found.append(Missing("/proc/cmdline", "cat /proc/cmdline"))
    return tuple(found)
