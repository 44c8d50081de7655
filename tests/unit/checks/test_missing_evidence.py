"""Whatever could not be read, no verdict gets better for it, and no check raises."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.checks.hosts import Place, hosts, places, take_away
from vfio_agent.checks import CATALOGUE, judge
from vfio_contract.findings import Finding, Report, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Snapshot

_QUALIFYING = {Verdict.PASS: 0, Verdict.NOT_APPLICABLE: 0, Verdict.WARN: 1}
"""How good a verdict is; all others refuse alike."""


def rank(verdict: Verdict) -> int:
    return _QUALIFYING.get(verdict, 2)


def by_subject(report: Report) -> dict[tuple[str, str], Finding]:
    return {(f.check, f.subject): f for f in report.findings}


@st.composite
def losses(draw: st.DrawFn) -> tuple[Snapshot, list[Place]]:
    """A host, and up to four fields of it that could not be read."""
    snapshot = draw(hosts())
    picked = draw(st.lists(st.sampled_from(places(snapshot)), min_size=1, max_size=4, unique=True))
    return snapshot, picked


@settings(max_examples=300)
@given(losses())
def test_less_evidence_never_looks_better(case: tuple[Snapshot, list[Place]]) -> None:
    snapshot, lost = case
    before = judge(Host(snapshot))
    for place in lost:
        snapshot = take_away(snapshot, place)
    after = judge(Host(snapshot))
    assert rank(after.verdict) >= rank(before.verdict), lost
    was = by_subject(before)
    for key, finding in by_subject(after).items():
        if key in was:
            assert rank(finding.verdict) >= rank(was[key].verdict), (lost, was[key], finding)


@settings(max_examples=60)
@given(hosts(), st.data())
def test_each_single_loss(snapshot: Snapshot, data: st.DataObject) -> None:
    was = by_subject(judge(Host(snapshot)))
    kind = data.draw(
        st.sampled_from(["facts", "readings", "function", "short", "group", "network"])
    )
    for place in places(snapshot):
        if place[0] != kind:
            continue
        for key, finding in by_subject(judge(Host(take_away(snapshot, place)))).items():
            if key in was:
                assert rank(finding.verdict) >= rank(was[key].verdict), (place, finding)


@settings(max_examples=200)
@given(losses())
def test_every_finding_is_whole_and_there_is_one_per_subject(
    case: tuple[Snapshot, list[Place]],
) -> None:
    snapshot, lost = case
    for place in lost:
        snapshot = take_away(snapshot, place)
    report = judge(Host(snapshot))
    counted = Counter((f.check, f.subject) for f in report.findings)
    assert set(counted.values()) == {1}
    assert {f.check for f in report.findings} == {c.id for c in CATALOGUE}
    codes = {c.id: {code.name: code for code in c.codes} for c in CATALOGUE}
    for finding in report.findings:
        assert finding.meaning
        assert finding.decision
        assert (finding.intended is None) == (finding.subject == "node")
        assert bool(finding.missing) == (finding.verdict is Verdict.UNKNOWN), finding
        if finding.verdict is not Verdict.BLOCKED:
            assert codes[finding.check][finding.code].verdict is finding.verdict
            assert finding.blocked_by is None
        if finding.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.WARN):
            assert finding.evidence


@settings(max_examples=50)
@given(hosts())
def test_the_same_host_twice_gives_the_same_report(snapshot: Snapshot) -> None:
    assert judge(Host(snapshot)) == judge(Host(snapshot))
