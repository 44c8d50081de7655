"""What the screens say about a host's devices, derived from its evidence and its report.

Pure: a function, its unit and the findings about both, put side by side. It must never judge; the
verdicts are those of the report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vfio_contract.address import Address
from vfio_contract.findings import NODE, Finding, Report, Verdict, severity
from vfio_contract.fingerprint import reset_class
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, Gap, PciFunction
from vfio_contract.units import Unit, kind_of

_ADDRESS_IN_PATH = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_GROUP_IN_PATH = re.compile(r"(?<=/iommu_groups/)\d+")

_SHORT_NAMES = (
    ("NVIDIA Corporation ", "NVIDIA "),
    ("Advanced Micro Devices, Inc. [AMD/ATI] ", "AMD "),
    ("Advanced Micro Devices, Inc. [AMD] ", "AMD "),
    ("Intel Corporation ", "Intel "),
    ("Red Hat, Inc. ", ""),
    ("Samsung Electronics Co Ltd ", "Samsung "),
    ("Mellanox Technologies ", "Mellanox "),
)


@dataclass(frozen=True, slots=True)
class Intended:
    """A unit that is meant for passthrough, and who says so.

    A reason that is not true of all its functions names those of which it is.
    """

    addresses: tuple[str, ...]
    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A unit that nobody means to pass, and the finding that most stands against it.

    `only_binding` is True when nothing but the driver does: it could be passed once bound.
    """

    addresses: tuple[str, ...]
    kind: str
    name: str
    verdict: Verdict
    check: str
    code: str
    only_binding: bool


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One function for the device list. `group`, `driver` and `reset` are ready to print."""

    address: str
    name: str
    ids: str
    kind: str
    unit: str
    group: str
    driver: str
    reset: str
    intended: bool
    verdict: Verdict
    bridge: bool


@dataclass(frozen=True, slots=True)
class Unread:
    """Paths that could not be read for one reason: (pattern, how many), `*` for what varies."""

    reason: str
    patterns: tuple[tuple[str, int], ...]
    remedies: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many paths."""
        return sum(number for _, number in self.patterns)


def name_of(host: Host, function: PciFunction) -> str:
    """The device's name with its vendor shortened, else its kind and ids."""
    name = shorten_name(host.name_of(function))
    return name or f"{kind_of(function) or 'function'} {function.ids}"


def shorten_name(name: str) -> str:
    """A name from pci.ids with the vendors that everybody has in their short form."""
    for long, short in _SHORT_NAMES:
        rest = name.removeprefix(long)
        if rest != name:
            # Of a device without a name, `Vendor [vvvv:dddd]`, the vendor says most.
            return (short or long if rest.startswith("[") else short) + rest
    return name


def unit_name(host: Host, unit: Unit) -> str:
    """The name of the unit's primary function."""
    return name_of(host, host.by_address[unit.primary])


def find_intended(host: Host) -> tuple[Intended, ...]:
    """Intended units by address; a function without a unit stands for itself."""
    rows: list[Intended] = []
    seen: set[Address] = set()
    for address in host.intentions:
        if address in seen:
            continue
        unit = host.unit_of.get(address)
        members = (address,) if unit is None else unit.assign
        seen.update(members)
        first = host.by_address[address if unit is None else unit.primary]
        rows.append(Intended(tuple(members), name_of(host, first), _reasons(host, members)))
    return tuple(rows)


def _reasons(host: Host, members: Sequence[Address]) -> tuple[str, ...]:
    """Why these functions are intended, once each; `[ADDRESS only]` where it is not of all."""
    holders: dict[str, list[str]] = {}
    for member in members:
        for reason in dict.fromkeys(host.intentions.get(member, ())):
            holders.setdefault(reason, []).append(member)
    return tuple(
        reason if len(having) == len(members) else f"{reason} [{' '.join(having)} only]"
        for reason, having in holders.items()
    )


def find_candidates(host: Host, report: Report) -> tuple[Candidate, ...]:
    """Units that are not intended, worst last: what could be passed now comes first."""
    by_subject = group_by_subject(report.findings)
    refusals = node_refusals(report)
    rows = []
    for unit in host.units:
        if host.is_intended(unit.addresses):
            continue
        findings = (*refusals, *unit_findings(host, unit, by_subject))
        against = [f for f in findings if not _is_binding(f)] or findings
        worst = max(against, key=lambda f: severity(f.verdict), default=None)
        verdict = Verdict.UNKNOWN if worst is None else worst.verdict
        rows.append(
            Candidate(
                addresses=unit.assign,
                kind=unit.kind,
                name=unit_name(host, unit),
                verdict=verdict,
                check="" if worst is None else worst.check,
                code="" if worst is None else worst.code,
                only_binding=severity(verdict) <= severity(Verdict.WARN),
            )
        )
    return tuple(sorted(rows, key=lambda r: severity(r.verdict)))


def _is_binding(finding: Finding) -> bool:
    """True for what binding the unit to vfio-pci would settle."""
    return finding.check == "driver-binding" or finding.code in ("GROUP_NOT_VIABLE", "NOT_BOUND")


def node_refusals(report: Report) -> tuple[Finding, ...]:
    """Findings about the node that keep every device from being passed."""
    refusing = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.BLOCKED)
    return tuple(f for f in report.findings if f.subject == NODE and f.verdict in refusing)


def group_by_subject(findings: Iterable[Finding]) -> Mapping[str, tuple[Finding, ...]]:
    """Findings by subject, in their order."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.subject, []).append(finding)
    return {subject: tuple(rows) for subject, rows in found.items()}


def unit_findings(
    host: Host, unit: Unit, by_subject: Mapping[str, Sequence[Finding]]
) -> tuple[Finding, ...]:
    """Findings about the unit, its functions and their groups."""
    subjects = [f"unit:{unit.id}"]
    for address in unit.addresses:
        subjects += function_subjects(host, host.by_address[address])
    return tuple(f for s in dict.fromkeys(subjects) for f in by_subject.get(s, ()))


def function_subjects(host: Host, function: PciFunction) -> list[str]:
    """Subjects that concern this function: itself and its group."""
    subjects = [f"function:{function.address}"]
    if function.group is not None and function.group != NO_GROUP:
        subjects.append(f"group:{function.group}")
    return subjects


def function_findings(
    host: Host, function: PciFunction, by_subject: Mapping[str, Sequence[Finding]]
) -> tuple[Finding, ...]:
    """Findings about the function, its group and its unit, and blocked ones, worst first."""
    subjects = function_subjects(host, function)
    unit = host.unit_of.get(function.address)
    if unit is not None:
        subjects.append(f"unit:{unit.id}")
    rows = [f for s in subjects for f in by_subject.get(s, ())]
    rows += [f for f in by_subject.get(NODE, ()) if f.verdict is Verdict.BLOCKED]
    return tuple(sorted(rows, key=lambda f: -severity(f.verdict)))


def list_devices(host: Host, report: Report) -> tuple[DeviceRow, ...]:
    """Every function by address."""
    by_subject = group_by_subject(report.findings)
    return tuple(_device_row(host, f, by_subject) for f in host.functions)


def _device_row(
    host: Host, function: PciFunction, by_subject: Mapping[str, Sequence[Finding]]
) -> DeviceRow:
    findings = function_findings(host, function, by_subject)
    unit = host.unit_of.get(function.address)
    return DeviceRow(
        address=function.address,
        name=name_of(host, function),
        ids=function.ids,
        kind=kind_of(function),
        unit="" if unit is None else unit.id,
        group=group_text(function),
        driver=driver_text(function),
        reset=reset_class(function, host.by_address) or "?",
        intended=function.address in host.intentions,
        verdict=_row_verdict(function, unit, findings),
        bridge=bool(function.is_bridge),
    )


def _row_verdict(function: PciFunction, unit: Unit | None, findings: Sequence[Finding]) -> Verdict:
    """The worst finding; bridges and what is never passed have no verdict of their own."""
    if function.is_bridge or (unit is None and not kind_of(function)):
        return Verdict.NOT_APPLICABLE
    return findings[0].verdict if findings else Verdict.UNKNOWN


def group_text(function: PciFunction) -> str:
    """The group's number, `none`, or `?` where it is not known."""
    if function.group is None:
        return "?"
    return "none" if function.group == NO_GROUP else str(function.group)


def driver_text(function: PciFunction) -> str:
    """The driver, `-` for none bound, `?` where it is not known."""
    return "?" if function.driver is None else function.driver or "-"


def group_gaps(gaps: Iterable[Gap]) -> tuple[Unread, ...]:
    """Unread paths by reason and remedy, the most frequent reason first."""
    found: dict[str, list[Gap]] = {}
    for gap in gaps:
        found.setdefault(gap.reason, []).append(gap)
    rows = [
        Unread(
            reason=reason,
            patterns=tuple(Counter(generalise_path(g.path) for g in rows).items()),
            remedies=tuple(dict.fromkeys(g.remedy for g in rows if g.remedy)),
        )
        for reason, rows in found.items()
    ]
    return tuple(sorted(rows, key=lambda r: (-r.count, r.reason)))


def generalise_path(path: str) -> str:
    """The path, or a command with it, for every function and every group: a glob of the shell."""
    return _GROUP_IN_PATH.sub("*", _ADDRESS_IN_PATH.sub("*", path))


def function_facts(host: Host, function: PciFunction) -> tuple[tuple[str, str], ...]:
    """(label, text) pairs of what was read of one function; `not known` where it was not."""
    identified = host.identities[function.address]
    reasons = ", ".join(host.intentions.get(function.address, ()))
    class_code = "not known" if function.class_code is None else f"{function.class_code:06x}"
    readings = {r.address: r for r in host.readings.functions}
    reading = readings.get(function.address)
    numa = function.numa_node
    rows = [
        ("ids", f"{function.ids}, class {class_code}"),
        ("identity", f"{identified.identity} (by {_METHODS[identified.method]})"),
        ("intended", reasons or "no: a candidate"),
        ("driver", driver_text(function)),
        ("group", group_text(function)),
        ("below", _or_unknown(function.parent, absent="the host bridge")),
        ("NUMA node", "not known" if numa is None else ("none" if numa < 0 else str(numa))),
        ("reset", _reset_text(function)),
    ]
    if function.physfn:
        rows.append(("VF of", f"{function.physfn}, number {function.vf_index}"))
    elif function.sriov_total_vfs:
        rows.append(("SR-IOV", f"{_number(function.sriov_num_vfs)} of {function.sriov_total_vfs}"))
    if reading is not None:
        link = f"{reading.link_speed or '?'} x{_number(reading.link_width)}"
        best = f"{function.max_link_speed or '?'} x{_number(function.max_link_width)}"
        rows.append(("link", f"{link}, at most {best}"))
        rows.append(("power", reading.power_state or "not known"))
    return tuple(rows)


_METHODS = {
    "dsn": "device serial number",
    "slot": "ids and place",
    "vf": "its physical function",
}


def _or_unknown(text: str | None, *, absent: str) -> str:
    return "not known" if text is None else text or absent


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _reset_text(function: PciFunction) -> str:
    if function.reset_methods is None:
        return "methods not known"
    return " ".join(function.reset_methods) or "no method of its own"


_CAPABILITIES = {0x01: "PM", 0x05: "MSI", 0x10: "PCIe", 0x11: "MSI-X", 0x13: "AF"}
_EXTENDED = {
    0x01: "AER",
    0x03: "DSN",
    0x0D: "ACS",
    0x0F: "ATS",
    0x10: "SR-IOV",
    0x13: "PRI",
    0x15: "ReBAR",
    0x1B: "PASID",
}
"""Ids that bear on passthrough. Source: Linux include/uapi/linux/pci_regs.h."""


def capability_text(function: PciFunction) -> str:
    """The capabilities that bear on passthrough, and how much of the config space was readable."""
    config = function.config
    if config is None:
        return "not known, the config space could not be read"
    words = [_CAPABILITIES[c] for c in config.capabilities or () if c in _CAPABILITIES]
    if config.pcie is not None and config.pcie.flr:
        words.append("FLR")
    words += [_EXTENDED[c] for c in config.extended or () if c in _EXTENDED]
    if config.acs is not None:
        words.append(f"(ACSCtl 0x{config.acs.control:02x} of 0x{config.acs.capability:02x})")
    text = " ".join(words) or "none of note"
    if config.dead:
        text = "the config space reads all ones: the function is dead or asleep"
    elif config.capabilities is None:
        text = f"not known, only {config.length} bytes could be read: sudo vfioctl device show"
    elif config.extended is None:
        text += f"; extended ones not known ({config.length} bytes read)"
    return "; ".join((text, *config.faults))
