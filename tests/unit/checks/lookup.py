"""Finding one finding among many, so that a test names the subject and what it expects of it."""

from collections.abc import Iterable

from vfio_contract.findings import NODE, Finding


def find(findings: Iterable[Finding], subject: str = NODE) -> Finding:
    """The one finding about this subject; AssertionError names what there is instead."""
    rows = list(findings)
    found = [f for f in rows if f.subject == subject]
    assert len(found) == 1, (
        f"{len(found)} findings about {subject} among {[f.subject for f in rows]}"
    )
    return found[0]


def texts(finding: Finding) -> str:
    """All evidence of a finding as lines `source: text`."""
    return "\n".join(f"{e.source}: {e.text}" for e in finding.evidence)


def commands(finding: Finding) -> list[str]:
    """The commands that would close the gaps of an UNKNOWN finding."""
    return [m.command for m in finding.missing]
