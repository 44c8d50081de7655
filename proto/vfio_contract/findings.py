"""Verdicts and findings: what a check says, and how many of them add up to one.

A finding is evidence, meaning and decision, never a bare boolean. This module must never rank
UNKNOWN as healthy: absence of evidence is evidence of nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

REPORT_SCHEMA = "vfioctl.check/v1"


class Verdict(StrEnum):
    """What a check concludes. BLOCKED: an earlier check failed, so this one is not discussed."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"
    BLOCKED = "BLOCKED"
    NOT_APPLICABLE = "NOT_APPLICABLE"


_RANK = {
    Verdict.NOT_APPLICABLE: 0,
    Verdict.PASS: 1,
    Verdict.WARN: 2,
    Verdict.BLOCKED: 3,
    Verdict.UNKNOWN: 3,
    Verdict.FAIL: 4,
}
"""CHECKS.md: UNKNOWN ranks between WARN and FAIL, and BLOCKED as UNKNOWN."""

WORST_FIRST = (
    Verdict.FAIL,
    Verdict.UNKNOWN,
    Verdict.BLOCKED,
    Verdict.WARN,
    Verdict.PASS,
    Verdict.NOT_APPLICABLE,
)
"""In the order in which people read how many there are of each."""

EXIT_CODES = {
    Verdict.NOT_APPLICABLE: 0,
    Verdict.PASS: 0,
    Verdict.WARN: 1,
    Verdict.FAIL: 2,
    Verdict.UNKNOWN: 3,
    Verdict.BLOCKED: 3,
}
"""Monitoring-plugin convention (DESIGN, Errors)."""

NODE = "node"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where it was seen and the exact line or value."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Evidence that would decide, and the exact command that gets it."""

    evidence: str
    command: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict of one check about one subject.

    `subject` is `node`, `function:ADDRESS`, `group:N`, `unit:ID` or `vm:NAME`. `code` is a stable
    upper-case name. `intended` is None for node findings, else whether the subject is meant for
    passthrough. `missing` is set on UNKNOWN findings.
    """

    check: str
    subject: str
    verdict: Verdict
    code: str
    evidence: tuple[Evidence, ...]
    meaning: str
    decision: str
    blocked_by: str | None = None
    intended: bool | None = None
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A host's findings and what they add up to, worst first in the order of the catalogue."""

    host: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    missing: tuple[Missing, ...]

    @property
    def exit_code(self) -> int:
        """The process exit code for this verdict."""
        return EXIT_CODES[self.verdict]


def severity(verdict: Verdict) -> int:
    """A rank that sorts verdicts from harmless (0) to FAIL (4)."""
    return _RANK[verdict]


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; UNKNOWN for none at all, because nothing was judged."""
    ranked = sorted(verdicts, key=severity)
    if not ranked:
        return Verdict.UNKNOWN
    last = ranked[-1]
    return Verdict.UNKNOWN if last is Verdict.BLOCKED else last


def summarise(host: str, findings: Iterable[Finding]) -> Report:
    """The report: only node, VM and intended-device findings move its verdict."""
    kept = tuple(findings)
    counted = [f.verdict for f in kept if f.intended is not False]
    missing = dict.fromkeys(m for f in kept if f.intended is not False for m in f.missing)
    missing |= dict.fromkeys(m for f in kept for m in f.missing)
    return Report(host=host, verdict=worst(counted), findings=kept, missing=tuple(missing))
