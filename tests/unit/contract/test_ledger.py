"""What a history amounts to: a failure stands until a success that says something about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_contract.ledger import (
    FAILURES,
    Outcome,
    ResetAttempt,
    ResetState,
    summarise_attempts,
)
from vfio_contract.model import ResetSummary

DEVICE = "dsn-1.0"
BOOTS = ("boot-1", "boot-2", "boot-3")
NOW = BOOTS[-1]
TUPLES = ("F10", "F11")
HERE = "F11"


def attempt(outcome: Outcome, *, boot: str = NOW, firmware: str = HERE) -> ResetAttempt:
    return ResetAttempt(
        key=f"{boot}-{firmware}-{outcome}",
        identity=DEVICE,
        firmware=firmware,
        boot_id=boot,
        method="flr",
        outcome=outcome,
        evidence=f"{outcome} in {boot} on {firmware}",
    )


def judge(*attempts: ResetAttempt, boot: str | None = NOW) -> ResetSummary:
    return summarise_attempts(DEVICE, attempts, boot_id=boot, firmware=HERE)


@st.composite
def histories(draw: st.DrawFn) -> list[ResetAttempt]:
    """Attempts in the order they happened: boots follow each other and never come back."""
    boots = sorted(draw(st.lists(st.sampled_from(BOOTS), max_size=12)))
    return [
        attempt(draw(st.sampled_from(Outcome)), boot=boot, firmware=draw(st.sampled_from(TUPLES)))
        for boot in boots
    ]


FAILED, WEDGED = attempt(Outcome.FAILED), attempt(Outcome.WEDGED)
SUCCESS = attempt(Outcome.SUCCESS)
OLD_FAILED = attempt(Outcome.FAILED, boot="boot-1")
OLD_WEDGED = attempt(Outcome.WEDGED, boot="boot-1")


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ((), ResetState.CLEAN),
        ((attempt(Outcome.UNOBSERVED),), ResetState.CLEAN),
        ((FAILED,), ResetState.FAILING),
        ((WEDGED,), ResetState.WEDGED),
        ((WEDGED, FAILED), ResetState.WEDGED),
        ((FAILED, WEDGED), ResetState.WEDGED),
        ((OLD_WEDGED,), ResetState.PROBATION),
        ((OLD_FAILED,), ResetState.PROBATION),
        ((OLD_WEDGED, FAILED), ResetState.FAILING),
        ((WEDGED, attempt(Outcome.UNOBSERVED)), ResetState.WEDGED),
        ((WEDGED, SUCCESS), ResetState.CLEAN),
        ((OLD_WEDGED, SUCCESS), ResetState.CLEAN),
        ((SUCCESS, FAILED), ResetState.FAILING),
        ((SUCCESS,), ResetState.CLEAN),
    ],
)
def test_the_state_of_a_history(rows: tuple[ResetAttempt, ...], state: ResetState) -> None:
    assert judge(*rows).state == state


def test_wedged_is_probation_after_a_reboot_and_clean_only_after_a_success() -> None:
    wedge = attempt(Outcome.WEDGED, boot="boot-1")
    assert judge(wedge, boot="boot-1").state == ResetState.WEDGED
    assert judge(wedge, boot="boot-2").state == ResetState.PROBATION
    assert judge(wedge, boot="boot-3").state == ResetState.PROBATION
    assert judge(wedge, attempt(Outcome.SUCCESS, boot="boot-3"), boot="boot-3").state == (
        ResetState.CLEAN
    )


def test_a_success_on_other_firmware_clears_only_what_failed_there() -> None:
    elsewhere = attempt(Outcome.SUCCESS, firmware="F10")
    assert judge(FAILED, elsewhere).state == ResetState.FAILING
    failed_there = attempt(Outcome.FAILED, firmware="F10")
    assert judge(failed_there, elsewhere).state == ResetState.CLEAN
    assert judge(failed_there).state == ResetState.FAILING


@pytest.mark.parametrize("outcome", [Outcome.WEDGED, Outcome.FAILED])
def test_no_reboot_is_assumed_where_a_boot_id_is_not_known(outcome: Outcome) -> None:
    bad = ResetState.WEDGED if outcome is Outcome.WEDGED else ResetState.FAILING
    assert judge(attempt(outcome, boot="boot-1"), boot=None).state == bad
    assert judge(attempt(outcome, boot="")).state == bad


def test_the_evidence_is_what_still_stands() -> None:
    summary = judge(OLD_FAILED, WEDGED, attempt(Outcome.UNOBSERVED))
    assert summary.last_evidence == WEDGED.evidence
    assert summary.last_outcome == "unobserved"
    assert (summary.attempts, summary.failures) == (3, 2)
    assert judge(OLD_FAILED, SUCCESS).last_evidence == SUCCESS.evidence
    assert judge() == ResetSummary(DEVICE, "clean", 0, 0, "", "")


@given(histories())
def test_no_error_line_never_proves_and_no_failure_never_blocks(rows: list[ResetAttempt]) -> None:
    summary = judge(*rows)
    assert summary.state != ResetState.PROVEN
    failures = [row for row in rows if row.outcome in FAILURES]
    assert summary.failures == len(failures)
    if not failures:
        assert summary.state == ResetState.CLEAN


@given(histories(), st.sampled_from(sorted(FAILURES)))
def test_a_failure_now_always_refuses(rows: list[ResetAttempt], outcome: Outcome) -> None:
    summary = judge(*rows, attempt(outcome))
    assert summary.state in (ResetState.WEDGED, ResetState.FAILING)
    if outcome is Outcome.WEDGED:
        assert summary.state == ResetState.WEDGED


@given(histories())
def test_a_reboot_cures_nothing_and_a_success_everything(rows: list[ResetAttempt]) -> None:
    before, after = judge(*rows).state, judge(*rows, boot="boot-4").state
    assert (before == ResetState.CLEAN) == (after == ResetState.CLEAN)
    assert after in (ResetState.CLEAN, ResetState.PROBATION)
    assert judge(*rows, attempt(Outcome.SUCCESS)).state == ResetState.CLEAN


@given(histories(), histories())
def test_other_devices_do_not_count(mine: list[ResetAttempt], others: list[ResetAttempt]) -> None:
    foreign = [replace(row, identity="dsn-2.0") for row in others]
    assert judge(*foreign, *mine, *foreign) == judge(*mine)
