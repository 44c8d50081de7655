"""The walk from a symptom to its root cause: it stops in time and passes nothing over."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.checks import CATALOGUE
from vfio_agent.diagnosis import SYMPTOMS, Symptom, Walk, find_symptom, symptom_of, walk
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Report, Verdict, summarise

FINE = {Verdict.PASS, Verdict.NOT_APPLICABLE}
SUBJECTS = (NODE, "function:0000:01:00.0", "group:7", "unit:gpu-1", "vm:101")


def make(
    check: str,
    verdict: Verdict,
    *,
    subject: str = NODE,
    code: str = "",
    intended: bool | None = None,
    blocked_by: str | None = None,
) -> Finding:
    return Finding(
        check=check,
        subject=subject,
        verdict=verdict,
        code=code or f"{verdict}_CODE",
        evidence=(Evidence("source", "text"),),
        meaning="It means something.",
        decision="Do something.",
        intended=intended,
        blocked_by=blocked_by,
        missing=(Missing("it", "get it"),) if verdict is Verdict.UNKNOWN else (),
    )


def make_report(*findings: Finding) -> Report:
    """A report in which every check not given passes about the node."""
    given_checks = {f.check for f in findings}
    passed = [make(c.id, Verdict.PASS) for c in CATALOGUE if c.id not in given_checks]
    return summarise("host", [*findings, *passed])


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    check = draw(st.sampled_from(CATALOGUE))
    code = draw(st.sampled_from(check.codes))
    blocker = "iommu-active" if code.verdict is Verdict.BLOCKED else None
    if check.blocked_by and draw(st.integers(0, 9)) == 0:
        made = make(check.id, Verdict.BLOCKED, blocked_by=draw(st.sampled_from(check.blocked_by)))
        return replace(made, subject=NODE)
    subject = draw(st.sampled_from(SUBJECTS))
    intended = None if subject == NODE else draw(st.booleans())
    return make(
        check.id,
        code.verdict,
        subject=subject,
        code=code.name,
        intended=intended,
        blocked_by=blocker,
    )


reports = st.lists(findings(), max_size=40).map(lambda rows: summarise("host", rows))
whole_reports = st.lists(findings(), max_size=12).map(lambda rows: make_report(*rows))
subjects = st.one_of(st.none(), st.sets(st.sampled_from(SUBJECTS)).map(frozenset))
any_report = st.one_of(reports, whole_reports)


def concerns(finding: Finding, asked: frozenset[str] | None) -> bool:
    return finding.intended is not False if asked is None else finding.subject in asked


@given(any_report, st.sampled_from(SYMPTOMS), subjects)
def test_nothing_found_means_that_everything_was_looked_at_and_is_fine(
    report: Report, symptom: Symptom, asked: frozenset[str] | None
) -> None:
    went = walk(report, symptom, asked)
    if went.verdict is not Verdict.PASS and went.verdict is not Verdict.NOT_APPLICABLE:
        return
    assert not went.found
    assert [look.check for look in went.looks] == [step.check for step in symptom.steps]
    for step in symptom.steps:
        rows = [f for f in report.findings if f.check == step.check]
        assert rows
        assert all(f.verdict in FINE for f in rows if concerns(f, asked))


@given(any_report, st.sampled_from(SYMPTOMS), subjects)
def test_it_stops_at_the_first_failure_and_not_before(
    report: Report, symptom: Symptom, asked: frozenset[str] | None
) -> None:
    went = walk(report, symptom, asked)
    looked = [look.check for look in went.looks]
    assert [*looked, *went.left] == [step.check for step in symptom.steps]
    for look in went.looks[: -1 if went.found else None]:
        assert all(f.verdict is not Verdict.FAIL or f in went.other for f in look.findings)
    if went.found:
        assert {f.verdict for f in went.found} in ({Verdict.FAIL}, {Verdict.WARN})
        blockers = {f.blocked_by for f in went.looks[-1].findings}
        assert {f.check for f in went.found} <= {looked[-1], *blockers}
        assert not set(went.found) & set(went.other)
    else:
        assert not went.left


@given(any_report, st.sampled_from(SYMPTOMS), subjects)
def test_what_is_unknown_is_never_passed_over(
    report: Report, symptom: Symptom, asked: frozenset[str] | None
) -> None:
    went = walk(report, symptom, asked)
    for look in went.looks:
        for finding in report.findings:
            if finding.check == look.check and concerns(finding, asked):
                assert finding in look.findings
                if finding.verdict is Verdict.UNKNOWN:
                    assert finding in went.doubts
                    assert went.exit_code in (2, 3)
                if finding.verdict is Verdict.BLOCKED:
                    assert went.exit_code in (2, 3)
                if finding.verdict in (Verdict.WARN, Verdict.FAIL):
                    assert went.exit_code != 0
                if finding.verdict is Verdict.FAIL:
                    assert finding in (*went.found, *went.other)
    if went.unjudged:
        assert went.exit_code in (2, 3)


@given(st.permutations([make(c.id, Verdict.PASS) for c in CATALOGUE]))
def test_a_host_where_all_is_well(rows: list[Finding]) -> None:
    for symptom in SYMPTOMS:
        went = walk(summarise("host", rows), symptom)
        assert went.verdict is Verdict.PASS
        assert went.exit_code == 0


def test_an_empty_report_is_not_known() -> None:
    for symptom in SYMPTOMS:
        went = walk(summarise("host", []), symptom)
        assert went.exit_code == 3
        assert went.unjudged == tuple(step.check for step in symptom.steps)


def dig(name: str, *rows: Finding, asked: frozenset[str] | None = None) -> Walk:
    symptom = find_symptom(name)
    assert symptom is not None
    return walk(make_report(*rows), symptom, asked)


def test_the_cause_is_shown_with_what_explains_it() -> None:
    went = dig(
        "wont-start",
        make("iommu-active", Verdict.FAIL, code="IOMMU_OFF"),
        make("kernel-cmdline", Verdict.FAIL, code="CMDLINE_PENDING"),
        make("group-isolation", Verdict.BLOCKED, blocked_by="iommu-active"),
    )
    assert [f.code for f in went.found] == ["IOMMU_OFF"]
    assert [f.code for f in went.because] == ["CMDLINE_PENDING"]
    assert [look.check for look in went.looks] == ["cpu-virtualization", "iommu-active"]
    assert "vm-functions" in went.left
    assert went.exit_code == 2


def test_a_blocked_check_leads_to_its_blocker_even_off_the_way() -> None:
    went = dig(
        "black-screen",
        make("iommu-active", Verdict.FAIL, code="IOMMU_OFF"),
        make("group-isolation", Verdict.BLOCKED, blocked_by="iommu-active"),
    )
    assert [f.code for f in went.found] == ["IOMMU_OFF"]


def test_a_blocked_check_whose_blocker_is_not_there_is_not_excluded() -> None:
    blocked = make("group-isolation", Verdict.BLOCKED, blocked_by="iommu-active")
    went = dig("black-screen", blocked)
    assert blocked in went.doubts
    assert went.exit_code == 3


def test_an_unknown_before_a_failure_is_named_with_it() -> None:
    went = dig(
        "wont-start",
        make("iommu-active", Verdict.UNKNOWN),
        make("driver-binding", Verdict.FAIL, intended=True, subject="function:0000:01:00.0"),
    )
    assert [f.check for f in went.doubts] == ["iommu-active"]
    assert [f.check for f in went.found] == ["driver-binding"]
    assert went.exit_code == 2


@pytest.mark.parametrize(
    ("name", "check", "code", "explains"),
    [
        ("slow", "host-contention", "HOST_CONTENDED", True),
        ("wont-start", "cpu-virtualization", "CPU_VIRT_NESTED", False),
        ("works-once", "reset-capability", "RESET_WEAK", True),
        ("works-once", "reset-history", "RESET_UNOBSERVED", False),
        ("host-freezes", "interrupt-remapping", "UNSAFE_INTERRUPTS", True),
        ("black-screen", "vm-display-rom", "VM_ROM_SHADOWED", True),
    ],
)
def test_a_warning_explains_only_the_symptoms_it_can(
    name: str, check: str, code: str, explains: bool
) -> None:
    went = dig(name, make(check, Verdict.WARN, code=code))
    assert bool(went.found) is explains
    assert bool(went.notes) is not explains
    assert went.exit_code == 1


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda s: s.name)
def test_steps_name_codes_that_their_checks_give(symptom: Symptom) -> None:
    given_codes = {check.id: {c.name: c.verdict for c in check.codes} for check in CATALOGUE}
    for step in symptom.steps:
        codes = given_codes[step.check]
        assert {codes.get(code) for code in step.causes} <= {Verdict.WARN}
        assert {codes.get(code) for code in step.other} <= {Verdict.FAIL}


NO_START = re.compile(r"\bdoes not start\b|\brefuses the configuration\b|no start\.")


@pytest.mark.parametrize("name", ["device-missing", "black-screen", "slow"])
def test_no_failure_to_start_explains_a_vm_that_runs(name: str) -> None:
    symptom = find_symptom(name)
    assert symptom is not None
    steps = {step.check: step for step in symptom.steps}
    for check in CATALOGUE:
        for code in check.codes:
            if check.id in steps and code.verdict is Verdict.FAIL and NO_START.search(code.meaning):
                assert code.name in (*steps[check.id].other, "VM_MEMORY_TOO_LARGE"), code


def test_a_failure_of_another_kind_is_named_and_passed() -> None:
    missing = make("vm-functions", Verdict.FAIL, code="VM_DEVICE_MISSING", subject="vm:101")
    went = dig("black-screen", missing)
    assert not went.found
    assert went.other == (missing,)
    assert went.exit_code == 1
    narrow = make("device-health", Verdict.FAIL, code="AER_FATAL")
    went = dig("black-screen", missing, narrow)
    assert went.found == (narrow,)
    assert went.other == (missing,)
    theirs = symptom_of("vm-functions", "VM_DEVICE_MISSING")
    assert theirs is not None
    assert dig(theirs.name, missing).found == (missing,)


@pytest.mark.parametrize(
    ("check", "code"),
    sorted({(s.check, code) for m in SYMPTOMS for s in m.steps for code in s.other}),
)
def test_what_is_of_another_kind_has_its_own_symptom(check: str, code: str) -> None:
    theirs = symptom_of(check, code)
    assert theirs is not None
    assert [f.code for f in dig(theirs.name, make(check, Verdict.FAIL, code=code)).found] == [code]


def test_a_likely_cause_beside_something_unknown_is_not_known() -> None:
    went = dig(
        "slow",
        make("host-contention", Verdict.WARN, code="HOST_CONTENDED"),
        make("host-contention", Verdict.UNKNOWN, subject="vm:101", intended=True),
    )
    assert went.found
    assert went.doubts
    assert went.exit_code == 3


def test_candidates_count_only_when_asked_for() -> None:
    dirty = make("group-isolation", Verdict.FAIL, subject="group:7", intended=False)
    name = "group-with-everything"
    assert not dig(name, dirty).found
    assert dig(name, dirty).unjudged == ("group-isolation",)
    assert dig(name, dirty).exit_code == 3
    assert dig(name, dirty, asked=frozenset({NODE, "group:7"})).found == (dirty,)
    assert not dig(name, dirty, asked=frozenset({NODE, "group:8"})).found


def test_a_check_with_nothing_to_say_about_this_device_leaves_nothing_open() -> None:
    mine = make("reset-capability", Verdict.PASS, subject="function:0000:01:00.0", intended=True)
    other = make("device-health", Verdict.FAIL, subject="function:0000:02:00.0", intended=True)
    asked = frozenset({NODE, "function:0000:01:00.0"})
    went = dig("works-once", mine, other, asked=asked)
    assert not went.found
    assert went.exit_code == 0
    assert went.looks[2].verdict is Verdict.NOT_APPLICABLE


def test_that_no_vm_names_the_device_is_told() -> None:
    vm = make("vm-functions", Verdict.PASS, subject="vm:101", intended=True)
    mine = make("driver-binding", Verdict.PASS, subject="function:0000:01:00.0", intended=True)
    went = dig("device-missing", vm, mine, asked=frozenset({NODE, "function:0000:01:00.0"}))
    assert went.unjudged == ("vm-functions",)
    assert went.exit_code == 3
