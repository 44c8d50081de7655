"""All values of the report's page, in the order in which it shows them.

Built from one inspection; the same evidence gives the same values. The only thing that may come
from outside is when a live host was read. This module must never judge, and never leave out a
finding: what is folded on the page is still in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vfio_cli.report.picture import PanelView, draw_picture
from vfio_cli.screens.check import HEADINGS, generalise, group_alike, short_subject, subject_kind
from vfio_cli.screens.given import GivenEvidence
from vfio_cli.screens.layout import age, join_addresses, plural
from vfio_cli.survey import (
    Unread,
    find_intended,
    function_findings,
    group_by_subject,
    unit_name,
)
from vfio_contract.address import Address
from vfio_contract.artifact import digest_facts
from vfio_contract.findings import (
    NODE,
    WORST_FIRST,
    Evidence,
    Finding,
    Missing,
    Report,
    Verdict,
    severity,
)
from vfio_contract.host import Host
from vfio_contract.units import Unit

_UNKNOWN = "not known"

SHOWN_EVIDENCE = 8
"""Lines of evidence that a finding shows at once; the rest is folded."""


@dataclass(frozen=True, slots=True)
class Block:
    """Findings that differ only in subject and evidence.

    `checks` are several only where they all lack the same evidence. `whom` is the one subject, or
    how many there are; "" for the node. `evidence` are (source, text), `more` those folded away.
    """

    verdict: Verdict
    checks: tuple[str, ...]
    code: str
    subjects: tuple[str, ...]
    whom: str
    evidence: tuple[tuple[str, str], ...]
    more: tuple[tuple[str, str], ...]
    missing: tuple[Missing, ...]
    meaning: str
    decision: str


@dataclass(frozen=True, slots=True)
class IntendedRow:
    """A device that is meant for a VM, who says so, and how it stands."""

    addresses: str
    name: str
    reasons: tuple[str, ...]
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class UnitRow:
    """A unit: what goes to one VM or to none. `why` names the finding that decides."""

    id: str
    name: str
    assign: str
    hold: str
    numa: str
    intended: bool
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class PageView:
    """The page. Blocks are of findings that move the verdict, `others` of those that do not.

    `missing` are (command, what it gets).
    """

    host: str
    verdict: Verdict
    words: str
    counts: tuple[tuple[int, Verdict], ...]
    facts: tuple[tuple[str, str], ...]
    given: tuple[GivenEvidence, ...]
    first: str
    blocks: tuple[Block, ...]
    blocked: tuple[tuple[str, tuple[str, ...]], ...]
    passed: tuple[Block, ...]
    not_applicable: tuple[Block, ...]
    others: tuple[Block, ...]
    devices_known: bool
    intended: tuple[IntendedRow, ...]
    panels: tuple[PanelView, ...]
    units: tuple[UnitRow, ...]
    missing: tuple[tuple[str, tuple[str, ...]], ...]
    unread: tuple[Unread, ...]


def build_page(
    host: Host,
    report: Report,
    *,
    unread: Sequence[Unread],
    given: Sequence[GivenEvidence] = (),
    collected: str = "",
) -> PageView:
    """The page of one inspected host. `collected` is when, "" where the evidence does not say."""
    counted = [f for f in report.findings if f.intended is not False]
    return PageView(
        host=report.host,
        verdict=report.verdict,
        words=HEADINGS[report.verdict][0],
        counts=_counts(counted),
        facts=_facts(host, collected),
        given=tuple(given),
        first=_first_step(counted),
        blocks=_blocks(counted, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN),
        blocked=_blocked(counted),
        passed=_blocks(counted, Verdict.PASS),
        not_applicable=_blocks(counted, Verdict.NOT_APPLICABLE),
        others=_blocks((f for f in report.findings if f.intended is False), *WORST_FIRST),
        devices_known=host.facts.functions is not None,
        intended=_intended(host, report),
        panels=draw_picture(host, report),
        units=_units(host, report),
        missing=_missing(report.missing),
        unread=tuple(unread),
    )


def _counts(findings: Sequence[Finding]) -> tuple[tuple[int, Verdict], ...]:
    kept = [f.verdict for f in findings]
    return tuple((kept.count(v), v) for v in WORST_FIRST if v in kept)


def _facts(host: Host, collected: str) -> tuple[tuple[str, str], ...]:
    """(label, text) of what identifies the host and its evidence."""
    firmware, kernel = host.facts.firmware, host.facts.kernel
    readings = host.readings
    when = collected or "the evidence does not say when"
    if readings.uptime_seconds is not None:
        when += f", {age(readings.uptime_seconds)} after boot"
    return (
        ("System", _join(firmware.system_vendor, firmware.product_name)),
        ("BIOS", _join(firmware.bios_vendor, firmware.bios_version, firmware.bios_date)),
        ("Kernel", _join(kernel.release, kernel.build)),
        ("Processor", host.facts.cpu.model or _UNKNOWN),
        ("Collected", when),
        ("Boot", readings.boot_id or _UNKNOWN),
        ("Digest", digest_facts(host.facts)),
    )


def _join(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or _UNKNOWN


def _first_step(findings: Sequence[Finding]) -> str:
    """The rule that comes before everything else, where it applies."""
    for finding in findings:
        if finding.check == "iommu-active" and finding.verdict is Verdict.FAIL:
            return "Stop digging: leave VM arguments alone until iommu-active passes."
    return ""


def _blocks(findings: Iterable[Finding], *verdicts: Verdict) -> tuple[Block, ...]:
    rows = list(findings)
    return tuple(
        _block(alike) for v in verdicts for alike in group_alike(f for f in rows if f.verdict is v)
    )


def _block(rows: Sequence[Finding]) -> Block:
    first = rows[0]
    meaning, decision = generalise(first) if len(rows) > 1 else (first.meaning, first.decision)
    evidence = tuple(dict.fromkeys(_shorten(e) for row in rows for e in row.evidence))
    subjects = tuple(short_subject(row.subject) for row in rows if row.subject != NODE)
    whom = "".join(subjects)
    if len(subjects) > 1:
        whom = plural(len(subjects), subject_kind(first.subject))
    return Block(
        verdict=first.verdict,
        checks=tuple(dict.fromkeys(row.check for row in rows)),
        code=first.code,
        subjects=subjects,
        whom=whom,
        evidence=evidence[:SHOWN_EVIDENCE],
        more=evidence[SHOWN_EVIDENCE:],
        missing=tuple(dict.fromkeys(m for row in rows for m in row.missing)),
        meaning=meaning,
        decision=decision,
    )


def _shorten(item: Evidence) -> tuple[str, str]:
    """(source, text) without the folder that all devices share, and without what is said twice."""
    source = item.source.removeprefix("/sys/bus/pci/devices/")
    return ("", item.text) if item.text.startswith(f"{source} ") else (source, item.text)


def _blocked(findings: Iterable[Finding]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(check that failed, checks that wait for it)."""
    found: dict[str, dict[str, None]] = {}
    for finding in findings:
        if finding.verdict is Verdict.BLOCKED:
            found.setdefault(finding.blocked_by or _UNKNOWN, {})[finding.check] = None
    return tuple((cause, tuple(checks)) for cause, checks in found.items())


def _missing(missing: Iterable[Missing]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(command, what it gets): each command once."""
    found: dict[str, dict[str, None]] = {}
    for item in missing:
        found.setdefault(item.command, {})[item.evidence] = None
    return tuple((command, tuple(evidence)) for command, evidence in found.items())


def _intended(host: Host, report: Report) -> tuple[IntendedRow, ...]:
    by_subject = group_by_subject(report.findings)
    rows = []
    for device in find_intended(host):
        verdict, why = _stand(host, device.addresses, by_subject)
        addresses = join_addresses(device.addresses)
        rows.append(IntendedRow(addresses, device.name, device.reasons, verdict, why))
    return tuple(rows)


def _units(host: Host, report: Report) -> tuple[UnitRow, ...]:
    """Units, those that are meant for a VM first, each by address."""
    by_subject = group_by_subject(report.findings)
    rows = [_unit_row(host, unit, by_subject) for unit in host.units]
    return tuple(sorted(rows, key=lambda row: not row.intended))


def _unit_row(host: Host, unit: Unit, by_subject: Mapping[str, Sequence[Finding]]) -> UnitRow:
    verdict, why = _stand(host, unit.addresses, by_subject)
    node = host.by_address[unit.primary].numa_node
    return UnitRow(
        id=unit.id,
        name=unit_name(host, unit),
        assign=join_addresses(unit.assign),
        hold=join_addresses(unit.hold),
        numa=_UNKNOWN if node is None else ("none" if node < 0 else str(node)),
        intended=host.is_intended(unit.addresses),
        verdict=verdict,
        why=why,
    )


def _stand(
    host: Host, addresses: Iterable[str], by_subject: Mapping[str, Sequence[Finding]]
) -> tuple[Verdict, str]:
    """The worst verdict on these functions, and the finding that gives it."""
    findings = [
        finding
        for address in addresses
        for finding in function_findings(host, host.by_address[Address(address)], by_subject)
    ]
    worst = max(findings, key=lambda f: severity(f.verdict), default=None)
    if worst is None:
        return Verdict.UNKNOWN, "no check has judged it"
    if worst.verdict is Verdict.BLOCKED:
        return worst.verdict, f"{worst.check}: blocked by {worst.blocked_by or _UNKNOWN}"
    if worst.verdict in (Verdict.PASS, Verdict.NOT_APPLICABLE):
        return worst.verdict, ""
    return worst.verdict, f"{worst.check}: {worst.code}"
