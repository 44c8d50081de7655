"""What a risk decision must say, and every refusal that names the field and the fix."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.scheduler.gates import ALLOWS
from vfio_coordinator.state.risk_terms import (
    MAX_DAYS,
    MAX_REASON,
    check_code,
    check_reason,
    read_end,
)

NOW = "2026-11-22T14:32:07Z"


def problem(what: Callable[[], str]) -> str:
    with pytest.raises(ClusterError) as caught:
        what()
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 400
    return caught.value.detail


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2027-03-01", "2027-03-01T23:59:59Z"),
        ("2026-11-22", "2026-11-22T23:59:59Z"),
        ("2028-02-29", "2028-02-29T23:59:59Z"),
        ("90d", "2027-02-20T14:32:07Z"),
        ("12w", "2027-02-14T14:32:07Z"),
        ("36h", "2026-11-24T02:32:07Z"),
        ("1h", "2026-11-22T15:32:07Z"),
        ("731d", "2028-11-22T14:32:07Z"),
        ("2028-11-22", "2028-11-22T23:59:59Z"),
    ],
)
def test_an_end_is_a_day_to_its_last_second_or_a_duration(text: str, end: str) -> None:
    assert read_end(text, now_utc=NOW) == end


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no end"),
        ("forever", "is no end"),
        ("never", "such as 2027-02-20"),
        ("tomorrow", "such as 90d"),
        ("90", "is no end"),
        ("-1d", "is no end"),
        ("1.5d", "is no end"),
        ("3m", "is no end"),
        ("2027-3-1", "is no end"),
        ("2027-03-01T00:00:00Z", "is no end"),
        (" 90d", "is no end"),
        ("90d\n", "is no end"),
        ("\u0669\u0660d", "is no end"),
        ("x" * 10_000, "is no end"),
        ("2027-02-29", "no day of the calendar"),
        ("2027-13-01", "no day of the calendar"),
        ("0000-00-00", "no day of the calendar"),
        ("2026-11-21", "is not after now"),
        ("1999-01-01", "is not after now"),
        ("0d", "is not after now"),
        ("732d", "at most 731"),
        ("99999w", "at most 731"),
        ("99999h", "at most 731"),
        ("9999-12-31", "at most 731"),
        ("2028-11-23", "so that somebody looks at it again"),
    ],
)
def test_an_end_that_is_none_says_so_and_what_to_write(text: str, words: str) -> None:
    detail = problem(lambda: read_end(text, now_utc=NOW))
    assert detail.startswith("end: ")
    assert words in detail


@given(
    st.one_of(
        st.integers(0, 99_999).flatmap(
            lambda n: st.sampled_from("hdw").map(lambda unit: f"{n}{unit}")
        ),
        st.dates().map(str),
        st.text(max_size=12),
    ),
    st.integers(0, 4_000_000_000).map(lambda s: datetime.fromtimestamp(s, UTC)),
)
def test_any_end_is_in_the_future_and_near(text: str, now: datetime) -> None:
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        end = read_end(text, now_utc=stamp)
    except ClusterError:
        return
    assert len(end) == len(stamp)
    assert end > stamp
    until = datetime.fromisoformat(end)
    assert until - now < timedelta(days=MAX_DAYS + 1)


def test_the_codes_are_those_of_the_gates() -> None:
    assert {check_code(code) for code in ALLOWS} == set(ALLOWS)
    for text in ("", "acs_override", "ACS-OVERRIDE", "GROUP_DIRTY", "acs-override", "X" * 999):
        detail = problem(lambda text=text: check_code(text))  # type: ignore[misc]
        assert detail.startswith("code: ")
        assert "one of ACS_OVERRIDE, RESET_ONE_SHOT, UNSAFE_INTERRUPTS" in detail


def test_a_reason_is_one_printable_line() -> None:
    assert check_reason("  one tenant, until the new board ") == "one tenant, until the new board"
    assert check_reason("gr\u00fc\u00dfe") == "gr\u00fc\u00dfe"
    assert check_reason("x" * MAX_REASON)
    for text in ("", " ", "   "):
        assert "it is empty" in problem(lambda text=text: check_reason(text))  # type: ignore[misc]
    for text in ("a\nb", "a\n", "\x1b[31mred", "a\x00", "\u202eevil", "\t", "\x9b1m"):
        assert "control characters" in problem(lambda text=text: check_reason(text))  # type: ignore[misc]
    assert "501 characters" in problem(lambda: check_reason("x" * (MAX_REASON + 1)))


@given(st.text())
def test_no_control_character_gets_into_a_reason(text: str) -> None:
    try:
        reason = check_reason(text)
    except ClusterError:
        return
    assert reason == text.strip()
    assert not any(unicodedata.category(c).startswith("C") for c in reason)
