"""What a history amounts to: a failure stands until a reset and a start have succeeded since."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfio_contract.ledger import (
    FAILURES,
    KEPT_ATTEMPTS,
    VM_CYCLE,
    VM_START,
    Outcome,
    ResetAttempt,
    ResetState,
    choose_kept,
    read_state,
    summarise_attempts,
    without_echoes,
)
from vfio_contract.model import ResetSummary

DEVICE = "dsn-1.0"
BOOTS = ("boot-1", "boot-2", "boot-3")
NOW = BOOTS[-1]
TUPLES = ("F10", "F11")
HERE = "F11"
METHODS = ("flr", VM_START, VM_CYCLE)

RANK = {
    ResetState.WEDGED: 0,
    ResetState.FAILING: 1,
    ResetState.ONE_SHOT: 2,
    ResetState.PROBATION: 3,
    ResetState.CAPABLE: 4,
    ResetState.PROVEN: 5,
}


def attempt(
    outcome: Outcome, method: str = "flr", *, boot: str = NOW, firmware: str = HERE
) -> ResetAttempt:
    return ResetAttempt(
        key=f"{boot}-{firmware}-{outcome}",
        identity=DEVICE,
        firmware=firmware,
        boot_id=boot,
        method=method,
        outcome=outcome,
        evidence=f"{method} {outcome} in {boot} on {firmware}",
    )


def judge(
    *attempts: ResetAttempt, boot: str | None = NOW, resettable: bool | None = None
) -> ResetSummary:
    return summarise_attempts(DEVICE, attempts, boot_id=boot, firmware=HERE, resettable=resettable)


@st.composite
def histories(draw: st.DrawFn) -> list[ResetAttempt]:
    """Attempts in the order they happened: boots follow each other and never come back."""
    boots = sorted(draw(st.lists(st.sampled_from(BOOTS), max_size=12)))
    return [draw(attempts(boot)) for boot in boots]


@st.composite
def attempts(draw: st.DrawFn, boot: str) -> ResetAttempt:
    method = draw(st.sampled_from(METHODS))
    firmware = draw(st.sampled_from(TUPLES))
    return attempt(draw(st.sampled_from(Outcome)), method, boot=boot, firmware=firmware)


FAILED, WEDGED = attempt(Outcome.FAILED), attempt(Outcome.WEDGED)
RESET = attempt(Outcome.SUCCESS)
START = attempt(Outcome.SUCCESS, VM_START)
CYCLE = attempt(Outcome.SUCCESS, VM_CYCLE)
OLD_FAILED = attempt(Outcome.FAILED, boot="boot-1")
OLD_WEDGED = attempt(Outcome.WEDGED, boot="boot-1")


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ((), ResetState.CAPABLE),
        ((attempt(Outcome.UNOBSERVED),), ResetState.CAPABLE),
        ((FAILED,), ResetState.FAILING),
        ((WEDGED,), ResetState.WEDGED),
        ((WEDGED, FAILED), ResetState.WEDGED),
        ((FAILED, WEDGED), ResetState.WEDGED),
        ((OLD_WEDGED,), ResetState.PROBATION),
        ((OLD_FAILED,), ResetState.PROBATION),
        ((OLD_WEDGED, FAILED), ResetState.FAILING),
        ((WEDGED, attempt(Outcome.UNOBSERVED)), ResetState.WEDGED),
        ((WEDGED, RESET), ResetState.PROBATION),
        ((WEDGED, START), ResetState.PROBATION),
        ((WEDGED, RESET, START), ResetState.CAPABLE),
        ((WEDGED, START, RESET), ResetState.CAPABLE),
        ((WEDGED, CYCLE), ResetState.PROVEN),
        ((FAILED, RESET), ResetState.PROBATION),
        ((OLD_WEDGED, RESET), ResetState.PROBATION),
        ((OLD_WEDGED, START), ResetState.PROBATION),
        ((OLD_WEDGED, RESET, RESET), ResetState.PROBATION),
        ((OLD_WEDGED, RESET, START), ResetState.CAPABLE),
        ((OLD_WEDGED, attempt(Outcome.UNOBSERVED, VM_START), RESET), ResetState.PROBATION),
        ((OLD_WEDGED, CYCLE), ResetState.PROVEN),
        ((RESET, FAILED), ResetState.FAILING),
        ((RESET,), ResetState.CAPABLE),
        ((START,), ResetState.CAPABLE),
        ((START, RESET), ResetState.CAPABLE),
        ((attempt(Outcome.UNOBSERVED, VM_CYCLE),), ResetState.CAPABLE),
        ((CYCLE,), ResetState.PROVEN),
        ((attempt(Outcome.SUCCESS, VM_CYCLE, boot="boot-1"),), ResetState.PROVEN),
        ((attempt(Outcome.SUCCESS, VM_CYCLE, firmware="F10"),), ResetState.CAPABLE),
        ((CYCLE, FAILED), ResetState.FAILING),
        ((CYCLE, FAILED, RESET, START), ResetState.CAPABLE),
        ((CYCLE, attempt(Outcome.FAILED, firmware="F10"), RESET, START), ResetState.CAPABLE),
    ],
)
def test_the_state_of_a_history(rows: tuple[ResetAttempt, ...], state: ResetState) -> None:
    assert judge(*rows).state == state


def test_wedged_is_probation_after_a_reboot_until_a_reset_and_a_start() -> None:
    wedge = attempt(Outcome.WEDGED, boot="boot-1")
    assert judge(wedge, boot="boot-1").state == ResetState.WEDGED
    assert judge(wedge, boot="boot-2").state == ResetState.PROBATION
    assert judge(wedge, boot="boot-3").state == ResetState.PROBATION
    rows = (wedge, attempt(Outcome.SUCCESS, boot="boot-2"), START)
    assert judge(*rows).state == ResetState.CAPABLE
    # the reset was before it wedged again
    assert judge(*rows[1:2], wedge, START).state == ResetState.PROBATION


def test_a_success_on_other_firmware_clears_only_what_failed_there() -> None:
    elsewhere = (
        attempt(Outcome.SUCCESS, firmware="F10"),
        attempt(Outcome.SUCCESS, VM_START, firmware="F10"),
    )
    assert judge(FAILED, *elsewhere).state == ResetState.FAILING
    failed_there = attempt(Outcome.FAILED, firmware="F10")
    assert judge(failed_there, *elsewhere).state == ResetState.CAPABLE
    assert judge(failed_there).state == ResetState.FAILING


def once(boot: str, *, firmware: str = HERE) -> tuple[ResetAttempt, ResetAttempt]:
    """A boot in which the first VM had it and the second could not."""
    return (
        attempt(Outcome.SUCCESS, VM_START, boot=boot, firmware=firmware),
        attempt(Outcome.FAILED, boot=boot, firmware=firmware),
    )


def test_one_shot_is_what_worked_once_in_two_boots() -> None:
    first, second = once("boot-1"), once("boot-2")
    assert judge(*first).state == ResetState.PROBATION
    assert judge(*first, *second, boot="boot-2").state == ResetState.FAILING
    assert judge(*first, *second).state == ResetState.ONE_SHOT
    assert not judge(*first, *second).used
    assert judge(*first, *second, START).state == ResetState.ONE_SHOT
    assert judge(*first, *second, START).used
    assert judge(*first, *second, START, RESET).state == ResetState.ONE_SHOT
    assert judge(*first, *second, CYCLE).state == ResetState.PROVEN
    assert judge(*first, *first).state == ResetState.PROBATION, "one boot"
    # elsewhere, unobserved, or a failure before any use
    assert judge(*once("boot-1", firmware="F10"), *second).state == ResetState.PROBATION
    unseen = replace(first[0], outcome=Outcome.UNOBSERVED)
    assert judge(unseen, first[1], *second).state == ResetState.PROBATION
    assert judge(first[1], first[0], *second).state == ResetState.PROBATION


def test_what_nothing_can_reset_and_worked_once_is_one_shot() -> None:
    assert judge(START, resettable=False).state == ResetState.ONE_SHOT
    assert judge(START, resettable=None).state == ResetState.CAPABLE
    assert judge(resettable=False).state == ResetState.CAPABLE
    assert judge(START, CYCLE, resettable=False).state == ResetState.PROVEN


def test_the_word_of_versions_before_is_read() -> None:
    assert read_state("clean") is ResetState.CAPABLE
    assert [read_state(str(state)) for state in ResetState] == list(ResetState)
    assert read_state("melted") is None


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
    assert judge(OLD_FAILED, RESET).last_evidence == OLD_FAILED.evidence
    assert judge(OLD_FAILED, CYCLE).last_evidence == CYCLE.evidence
    assert judge() == ResetSummary(DEVICE, "capable", 0, 0, "", "")


@given(histories())
def test_no_error_line_never_proves_and_no_failure_never_blocks(rows: list[ResetAttempt]) -> None:
    summary = judge(*rows)
    cycles = [r for r in rows if (r.outcome, r.method) == (Outcome.SUCCESS, VM_CYCLE)]
    failures = [row for row in rows if row.outcome in FAILURES]
    assert cycles or summary.state != ResetState.PROVEN
    assert summary.failures == len(failures)
    if not failures:
        assert summary.state in (ResetState.CAPABLE, ResetState.PROVEN)


@given(histories(), attempts(NOW), st.sampled_from([True, False, None]))
def test_only_a_success_makes_it_better(
    rows: list[ResetAttempt], more: ResetAttempt, resettable: bool | None
) -> None:
    before = ResetState(judge(*rows, resettable=resettable).state)
    after = ResetState(judge(*rows, more, resettable=resettable).state)
    if more.outcome is not Outcome.SUCCESS:
        assert RANK[after] <= RANK[before]


_WHAT = (
    (Outcome.SUCCESS, VM_START),
    (Outcome.SUCCESS, VM_START),
    (Outcome.FAILED, "flr"),
    (Outcome.FAILED, "flr"),
    (Outcome.SUCCESS, "flr"),
    (Outcome.SUCCESS, VM_CYCLE),
    (Outcome.UNOBSERVED, VM_START),
    (Outcome.WEDGED, VM_CYCLE),
)
_ROW = st.tuples(
    st.booleans(), st.sampled_from(_WHAT), st.sampled_from((HERE, HERE, HERE, TUPLES[0]))
)
"""Whether it is of a new boot, what it was, and on which firmware."""


@settings(max_examples=400)
@given(st.lists(_ROW, max_size=16))
def test_trimming_changes_nothing_now_or_later(
    runs: list[tuple[bool, tuple[Outcome, str], str]],
) -> None:
    """Trimmed after each row as the journal does it, to no more than the state rests on."""
    whole: list[ResetAttempt] = []
    kept: dict[str, list[ResetAttempt]] = {firmware: [] for firmware in TUPLES}
    order: list[ResetAttempt] = []
    boot = 0
    for number, (anew, (outcome, method), firmware) in enumerate(runs):
        boot += anew
        row = attempt(outcome, method, boot=f"boot-{boot}", firmware=firmware)
        row = replace(row, key=str(number))
        whole.append(row)
        kept[row.firmware] = choose_kept([*kept[row.firmware], row], most=0)
        there = {r.key for rows in kept.values() for r in rows}
        order = [r for r in (*order, row) if r.key in there]
        assert len(kept[row.firmware]) <= 16 < KEPT_ATTEMPTS
    for firmware in TUPLES:
        for boot_id in (whole[-1].boot_id if whole else NOW, "a later boot", None):
            before, after = (
                summarise_attempts(DEVICE, rows, boot_id=boot_id, firmware=firmware)
                for rows in (whole, order)
            )
            assert (after.state, after.used) == (before.state, before.used)
            assert after.last_outcome == before.last_outcome


def test_the_boots_that_make_it_one_shot_are_kept() -> None:
    rows = [
        *(*once("boot-1"), *once("boot-2")),
        attempt(Outcome.SUCCESS, VM_START, boot="boot-3"),
        attempt(Outcome.FAILED, boot="boot-4"),
    ]
    assert judge(*rows, boot="boot-5").state == ResetState.ONE_SHOT
    assert judge(*choose_kept(rows, most=0), boot="boot-5").state == ResetState.ONE_SHOT


def test_a_short_history_is_kept_whole() -> None:
    rows = [attempt(Outcome.FAILED, boot=f"boot-{n}") for n in range(KEPT_ATTEMPTS + 5)]
    assert choose_kept(rows[:KEPT_ATTEMPTS]) == rows[:KEPT_ATTEMPTS]
    assert choose_kept(rows) == rows[5:]


@given(histories(), st.sampled_from(sorted(FAILURES)))
def test_a_failure_now_always_refuses(rows: list[ResetAttempt], outcome: Outcome) -> None:
    summary = judge(*rows, attempt(outcome))
    assert summary.state in (ResetState.WEDGED, ResetState.FAILING)
    if outcome is Outcome.WEDGED:
        assert summary.state == ResetState.WEDGED


@given(histories())
def test_a_reboot_cures_nothing_and_a_cycle_everything(rows: list[ResetAttempt]) -> None:
    before, after = judge(*rows).state, judge(*rows, boot="boot-4").state
    sound = (ResetState.CAPABLE, ResetState.PROVEN)
    assert (before in sound) == (after in sound)
    assert after not in (ResetState.WEDGED, ResetState.FAILING)
    assert judge(*rows, CYCLE).state == ResetState.PROVEN


@given(histories(), histories())
def test_other_devices_do_not_count(mine: list[ResetAttempt], others: list[ResetAttempt]) -> None:
    foreign = [replace(row, identity="dsn-2.0") for row in others]
    assert judge(*foreign, *mine, *foreign) == judge(*mine)


# --- the same death, said again -----------------------------------------------------------------


@st.composite
def complaints(draw: st.DrawFn) -> list[ResetAttempt]:
    """Histories in which the kernel also says how a device is, of no reset."""
    rows = draw(histories())
    outcomes = st.sampled_from(sorted(FAILURES))
    return [
        replace(row, method="", outcome=draw(outcomes)) if draw(st.booleans()) else row
        for row in rows
    ]


@given(complaints(), st.integers(0, 12), st.booleans())
@settings(max_examples=300)
def test_what_is_only_said_again_changes_no_class(
    rows: list[ResetAttempt], cut: int, resettable: bool
) -> None:
    told = list(without_echoes(rows, ()))
    for boot in (*BOOTS, None):
        assert (
            judge(*told, boot=boot, resettable=resettable).state
            == judge(*rows, boot=boot, resettable=resettable).state
        )
    # in however many pieces the log is read
    first = list(without_echoes(rows[:cut], ()))
    assert first + list(without_echoes(rows[cut:], first)) == told
    assert list(without_echoes(told, ())) == told


def test_only_what_is_no_reset_and_no_worse_is_said_again() -> None:
    silent = {outcome: replace(attempt(outcome), method="") for outcome in Outcome}
    failed, wedged = silent[Outcome.FAILED], silent[Outcome.WEDGED]

    def told(*rows: ResetAttempt) -> list[ResetAttempt]:
        return list(without_echoes(rows, ()))

    assert told(failed, failed, wedged, failed, wedged) == [failed, wedged]
    assert told(WEDGED, wedged, WEDGED) == [WEDGED, WEDGED]
    for between in (RESET, START, silent[Outcome.UNOBSERVED]):
        assert told(wedged, between, wedged) == [wedged, between, wedged]
    for other in (replace(wedged, boot_id="boot-1"), replace(wedged, identity="dsn-2.0")):
        assert told(wedged, other) == [wedged, other]
