"""Check `iommu-active`: whether DMA remapping works on this host, and if not, why.

It must never take what the command-line parser prints for proof, never read "off" from a log or a
captured tree that may be incomplete, and never fail a platform for lacking another one's lines.
"""

from collections.abc import Iterator
from enum import Enum

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.architecture import ARM, OTHER, X86, family_of
from vfio_agent.checks.inventory import (
    DEVICES,
    GROUPS,
    IOMMU_CLASS,
    attribute,
    describe,
    endpoints,
    find_remedy,
    has_no_group,
    is_intended,
    missing_attribute,
    subject_of,
)
from vfio_agent.checks.iommu_cause import find_cause
from vfio_agent.checks.reality import Reality, describe_reality, sort_groups
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host

ID = "iommu-active"
UNITS = "/sys/class/iommu"

IOMMU_ACTIVE = Code(
    "IOMMU_ACTIVE",
    Verdict.PASS,
    "/sys/class/iommu is not empty and a PCI function is in a real IOMMU group, or the kernel log "
    "shows the IOMMU driver at work.",
    "DMA of devices is remapped: a device can be confined to one VM.",
    "No action. Go on with the groups: vfioctl check",
)
IOMMU_OFF = Code(
    "IOMMU_OFF",
    Verdict.FAIL,
    "No IOMMU unit, no IOMMU group, or a complete boot log without a line of a working IOMMU.",
    "DMA is not remapped: no device can be passed to a VM, whatever the VM's arguments are.",
    "Enable VT-d (Intel) or AMD-Vi (AMD) in the firmware setup; on Intel add intel_iommu=on to the "
    "kernel command line (/etc/default/grub, then update-grub; Proxmox with systemd-boot: "
    "/etc/kernel/cmdline, then proxmox-boot-tool refresh); reboot; vfioctl check",
)
IOMMU_UNKNOWN = Code(
    "IOMMU_UNKNOWN",
    Verdict.UNKNOWN,
    "Neither sysfs nor the kernel log shows a working IOMMU, and neither proves there is none.",
    "Whether devices can be passed is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
NO_GROUP_CODE = Code(
    "NO_GROUP",
    Verdict.FAIL,
    "The IOMMU is active, but the kernel gave this function no IOMMU group.",
    "The function is behind no IOMMU: VFIO refuses it (probe fails with error -22).",
    "Look for what leaves it out (intel_iommu=igfx_off, a quirk, a device behind VMD): "
    "sudo dmesg | grep -e DMAR -e AMD-Vi -e iommu; or pass another device.",
)
CODES = (IOMMU_ACTIVE, IOMMU_OFF, IOMMU_UNKNOWN, NO_GROUP_CODE)


class State(Enum):
    """What one kind of evidence says."""

    ON = "on"
    OFF = "off"
    SILENT = "silent"


def judge(host: Host) -> list[Finding]:
    """Is DMA remapping active in this boot?

    Evidence: /sys/class/iommu, /sys/kernel/iommu_groups with each group's name, the kernel log.
    Meaning:  Without it no device can be passed, and nothing else about passthrough is discussed.
    Source:   Linux drivers/iommu (strings of 4.15 to 7.2), vfio noiommu mode; field guide step 3.
    """
    node = _judge_node(host)
    if node.verdict is not Verdict.PASS:
        return [node]
    return [node, *_judge_functions(host)]


def is_active(host: Host) -> bool | None:
    """Whether DMA remapping works in this boot; None when that is not known."""
    return {Verdict.PASS: True, Verdict.FAIL: False}.get(_judge_node(host).verdict)


def _judge_node(host: Host) -> Finding:
    state, evidence = _read_sysfs(host)
    if state is State.SILENT:
        state, heard = _read_log(host)
        evidence = (*evidence, *heard)
    if state is State.ON:
        return make_finding(ID, NODE, IOMMU_ACTIVE, *evidence)
    if state is State.SILENT:
        return make_finding(ID, NODE, IOMMU_UNKNOWN, *evidence, missing=_list_missing(host))
    cause = find_cause(host)
    return make_finding(
        ID,
        NODE,
        IOMMU_OFF,
        *evidence,
        *cause.evidence,
        meaning=f"{cause.meaning} {IOMMU_OFF.meaning}".strip(),
        decision=cause.decision,
    )


def _judge_functions(host: Host) -> Iterator[Finding]:
    for function in endpoints(host):
        if not has_no_group(function) or function.sub_class == IOMMU_CLASS:
            continue
        code, missing = NO_GROUP_CODE, list[Missing]()
        if function.class_code is None:
            # It may be the IOMMU's own function, which never has a group.
            code, missing = IOMMU_UNKNOWN, [missing_attribute(host, function, "class")]
        yield make_finding(
            ID,
            subject_of(function),
            code,
            attribute(function, "iommu_group", "does not exist"),
            Evidence("lspci", describe(function, host)),
            intended=is_intended(host, [function.address]),
            missing=tuple(missing),
        )


# --- sysfs ---------------------------------------------------------------------------------------


def _read_sysfs(host: Host) -> tuple[State, tuple[Evidence, ...]]:
    units = host.facts.iommu_units
    groups = sort_groups(host)
    grouped, emulated = groups[Reality.REAL], groups[Reality.NOIOMMU]
    undecided = groups[Reality.NOT_KNOWN]
    evidence: list[Evidence] = []
    if units is not None:
        evidence.append(Evidence(UNITS, " ".join(units) or "empty"))
    if grouped or emulated or undecided:
        texts = [describe_reality(reality, rows) for reality, rows in groups.items() if rows]
        evidence.append(Evidence(GROUPS, "; ".join(texts)))
    elif host.facts.groups is not None:
        evidence.append(Evidence(GROUPS, "empty" if not host.facts.groups else "no PCI function"))
    facts = tuple(evidence)
    if grouped and (units or family_of(host) == OTHER):
        # POWER had nothing in /sys/class/iommu before 6.6; a real group is as much proof there.
        return State.ON, facts
    if grouped or undecided:
        return State.SILENT, facts
    if host.facts.groups == () or (emulated and not _may_hide_groups(host)):
        return State.OFF, facts
    if units == () and family_of(host) in (X86, ARM):
        return State.OFF, facts
    functions = host.functions
    if functions and all(has_no_group(f) for f in functions):
        evidence.append(Evidence(f"{DEVICES}/*/iommu_group", "no function has a group"))
        return State.OFF, tuple(evidence)
    return State.SILENT, facts


def _may_hide_groups(host: Host) -> bool:
    """True when a real group may exist that was not read."""
    if host.facts.groups is not None:
        return False
    return host.facts.functions is None or any(f.group is None for f in host.functions)


# --- kernel log ----------------------------------------------------------------------------------


def _read_log(host: Host) -> tuple[State, tuple[Evidence, ...]]:
    reach = log.describe_log(host)
    evidence = () if reach is None else (reach,)
    added = [m for m in log.find_lines(host, log.GROUP_ADDED) if _is_hardware(m.string)]
    if added and log.find_line(host, log.NOIOMMU_MODE) is None:
        text = f"{added[0].string} ({len(added)} such lines)"
        return State.ON, (Evidence(log.SOURCE, text),)
    banner = log.find_line(host, log.DMA_BANNER)
    against = log.find_line(host, log.DMA_OFF) or log.find_line(host, log.XEN)
    if banner is not None and against is None:
        return State.ON, (banner,)
    if log.is_complete(host) and family_of(host) != OTHER and not added:
        nothing = Evidence(log.SOURCE, "no line of an IOMMU driver that took a device")
        return State.OFF, (*evidence, nothing)
    return State.SILENT, (*evidence, *(e for e in (banner, against) if e is not None))


def _is_hardware(line: str) -> bool:
    """False for emulated devices: no-IOMMU mode prints the same line with a vfio driver's name."""
    return not line.startswith(("vfio", "mdev", "nvidia-vgpu"))


def _list_missing(host: Host) -> tuple[Missing, ...]:
    found = []
    if not host.facts.iommu_units:
        found.append(Missing(UNITS, find_remedy(host, UNITS) or f"ls {UNITS}"))
    if not host.facts.groups or sort_groups(host)[Reality.NOT_KNOWN]:
        command = f"ls -d {GROUPS}/*/devices/*; cat {GROUPS}/*/name"
        found.append(Missing(GROUPS, find_remedy(host, GROUPS) or command))
    return (*found, *log.missing_log(host))
