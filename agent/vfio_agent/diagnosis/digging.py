"""The walk from a symptom to its root cause over a report, in the field guide's order.

It stops at the first check that explains the symptom; a failure that contradicts it is named and
passed. What could not be decided on the way is named
as not excluded, and a check that had nothing to judge is no PASS: "nothing found" means that every
check of the way was looked at and passed. This module must never judge; verdicts are the report's.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from vfio_agent.diagnosis.symptoms import Step, Symptom
from vfio_contract.findings import EXIT_CODES, NODE, Finding, Report, Verdict, worst

_FINE = (Verdict.PASS, Verdict.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Look:
    """One check that was looked at, with the findings that concern the question; () for none.

    `judged` is False where the check had nothing to judge, which is no PASS. A check that judged
    this host and has nothing to say about these devices was judged.
    """

    check: str
    findings: tuple[Finding, ...]
    judged: bool

    @property
    def verdict(self) -> Verdict:
        """The worst of them; UNKNOWN where there was nothing to judge."""
        if self.judged and not self.findings:
            return Verdict.NOT_APPLICABLE
        return worst(f.verdict for f in self.findings)


@dataclass(frozen=True, slots=True)
class Walk:
    """How the walk went.

    `found` are the findings that explain the symptom, all of one check; () when nothing does.
    `because` say why, or that it cannot be told. `doubts` could not be decided and are not
    excluded; `notes` are warnings that do not explain it by themselves; `left` are the checks
    behind the root cause. `other` are failures of another kind: the host is not well, but this
    symptom does not come from them.
    """

    symptom: Symptom
    looks: tuple[Look, ...]
    found: tuple[Finding, ...]
    because: tuple[Finding, ...]
    doubts: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    left: tuple[str, ...]
    other: tuple[Finding, ...] = ()

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Checks that had nothing to judge."""
        return tuple(look.check for look in self.looks if not look.judged)

    @property
    def verdict(self) -> Verdict:
        """FAIL or WARN for what was found; UNKNOWN while something is not excluded."""
        verdicts = [f.verdict for f in (*self.found, *self.doubts, *self.notes)]
        verdicts += [Verdict.WARN] * bool(self.other)
        if self.unjudged:
            verdicts.append(Verdict.UNKNOWN)
        return worst(verdicts or (Verdict.PASS,))

    @property
    def exit_code(self) -> int:
        """0 nothing found and nothing open, 1 not well but no cause, 2 root cause, 3 not known."""
        return EXIT_CODES[self.verdict]


def walk(report: Report, symptom: Symptom, subjects: Container[str] | None = None) -> Walk:
    """Go through the symptom's steps.

    `subjects` narrows the question to these; without it everything counts that moves the report's
    verdict: the node, VMs and devices meant for passthrough.
    """
    looks: list[Look] = []
    doubts: list[Finding] = []
    notes: list[Finding] = []
    other: list[Finding] = []
    silent = _may_be_silent(report, subjects)
    for number, step in enumerate(symptom.steps):
        rows = _concerning(report, step.check, subjects)
        look = Look(step.check, rows, judged=bool(rows) or step.check in silent)
        found = _explaining(look, step)
        looks.append(look)
        doubts += [f for f in look.findings if f.verdict is Verdict.UNKNOWN]
        other += [f for f in look.findings if _is_other(f, step)]
        blocked = [f for f in look.findings if f.verdict is Verdict.BLOCKED]
        if blocked and not found:
            found = _blockers(report, blocked)
            if not found:
                doubts += blocked
        if found:
            return Walk(
                symptom=symptom,
                looks=tuple(looks),
                found=tuple(found),
                because=_because(report, symptom, found, subjects),
                doubts=tuple(doubts),
                notes=tuple(notes),
                left=tuple(s.check for s in symptom.steps[number + 1 :]),
                other=tuple(other),
            )
        notes += [f for f in look.findings if f.verdict is Verdict.WARN]
    return Walk(symptom, tuple(looks), (), (), tuple(doubts), tuple(notes), (), tuple(other))


def _concerning(report: Report, check: str, subjects: Container[str] | None) -> tuple[Finding, ...]:
    rows = (f for f in report.findings if f.check == check)
    if subjects is None:
        return tuple(f for f in rows if f.intended is not False)
    return tuple(f for f in rows if f.subject in subjects)


def _may_be_silent(report: Report, subjects: Container[str] | None) -> frozenset[str]:
    """Checks of devices that judged this host, so that saying nothing means: not concerned.

    None of them where no device was judged at all. The VM checks are never silent: that no VM
    names a device is something to be told.
    """
    devices = {f.check for f in report.findings if not f.check.startswith("vm-")}
    told = any(
        f.subject != NODE
        for check in devices
        for f in _concerning(report, check, subjects)
        if not f.subject.startswith("vm:")
    )
    return frozenset(devices) if told else frozenset()


def _explaining(look: Look, step: Step) -> list[Finding]:
    """FAIL before the warnings that explain it too."""
    failed = [f for f in look.findings if f.verdict is Verdict.FAIL and not _is_other(f, step)]
    return failed or [
        f for f in look.findings if f.verdict is Verdict.WARN and f.code in step.causes
    ]


def _is_other(finding: Finding, step: Step) -> bool:
    return finding.verdict is Verdict.FAIL and finding.code in step.other


def _blockers(report: Report, blocked: Iterable[Finding]) -> list[Finding]:
    names = {f.blocked_by for f in blocked}
    return [
        f
        for f in report.findings
        if f.check in names and f.subject == NODE and f.verdict is Verdict.FAIL
    ]


def _because(
    report: Report, symptom: Symptom, found: Iterable[Finding], subjects: Container[str] | None
) -> tuple[Finding, ...]:
    checks = {f.check for f in found}
    names = [b for step in symptom.steps if step.check in checks for b in step.because]
    if "iommu-active" in checks and "kernel-cmdline" not in names:
        names.append("kernel-cmdline")
    rows = (f for name in dict.fromkeys(names) for f in _concerning(report, name, subjects))
    return tuple(f for f in rows if f.verdict not in _FINE)
