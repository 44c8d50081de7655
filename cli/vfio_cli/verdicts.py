"""What became worse or better between two reports of one host, finding by finding.

Facts alone do not tell: the next boot's command line, a wedged reset or a VM's file can change and
leave every device where it was. Findings are matched by what they are about, across new addresses
and group numbers. A verdict that became UNKNOWN is lost evidence, not a loss: it is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vfio_contract.findings import Finding, Report, Verdict
from vfio_contract.fingerprint import fingerprint
from vfio_contract.host import Host
from vfio_contract.matching import match

_RANKS = {Verdict.PASS: 0, Verdict.NOT_APPLICABLE: 0, Verdict.WARN: 1, Verdict.FAIL: 2}


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """One finding before and after; `subject` is as the later report names it."""

    check: str
    subject: str
    was: Verdict
    was_code: str
    now: Verdict
    now_code: str
    evidence: str

    @property
    def worse(self) -> bool:
        """True when it fell."""
        return _RANKS[self.now] > _RANKS[self.was]

    @property
    def harms(self) -> bool:
        """True when it fails now and did not."""
        return self.worse and self.now is Verdict.FAIL


def compare_verdicts(
    before: tuple[Host, Report], after: tuple[Host, Report]
) -> tuple[VerdictChange, ...]:
    """Verdicts that changed, of subjects that are on both sides; worst first, then as the later
    report has them: what other checks rest on comes before them.

    Candidates that nobody means to pass, before or after, are left out.
    """
    subjects = _map_subjects(before[0], after[0])
    then = {(f.check, subjects.get(f.subject, f.subject)): f for f in before[1].findings}
    found = [
        _make_change(then[f.check, f.subject], f)
        for f in after[1].findings
        if (f.check, f.subject) in then and _matters(then[f.check, f.subject], f)
    ]
    return tuple(sorted(found, key=lambda c: -_RANKS[c.now]))


def _matters(was: Finding, now: Finding) -> bool:
    if was.intended is False and now.intended is False:
        return False
    ranks = _RANKS.get(was.verdict), _RANKS.get(now.verdict)
    return None not in ranks and ranks[0] != ranks[1]


def _make_change(was: Finding, now: Finding) -> VerdictChange:
    # the first line that the other side did not have is the one that changed
    lines = [e for e in now.evidence if e not in was.evidence] or list(now.evidence)
    shown = f"{lines[0].source}: {lines[0].text}" if lines else ""
    return VerdictChange(
        now.check, now.subject, was.verdict, was.code, now.verdict, now.code, shown
    )


def _map_subjects(before: Host, after: Host) -> Mapping[str, str]:
    """The later name of each function and group of the earlier host."""
    found: dict[str, str] = {}
    groups: dict[str, set[str]] = {}
    for pair in match(fingerprint(before), fingerprint(after)).pairs:
        found[f"function:{pair.before.address}"] = f"function:{pair.after.address}"
        for was, now in _group_pair(pair.before.group, pair.after.group):
            groups.setdefault(was, set()).add(now)
    # what is in several groups now is no one group's successor
    return found | {
        was: now.pop() if len(now) == 1 else f"{was} split" for was, now in groups.items()
    }


def _group_pair(old: int | None, new: int | None) -> Iterator[tuple[str, str]]:
    if old is not None and new is not None:
        yield f"group:{old}", f"group:{new}"
