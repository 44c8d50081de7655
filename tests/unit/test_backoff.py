"""Reconnect delays: full jitter within a growing bound, and slow where nothing will change soon."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.session.backoff import BASE_S, CAP_S, LATEST_S, Backoff

STEPS = st.lists(st.sampled_from(["fail", "slow", "succeed"]), max_size=60)


def highest(low: float, high: float) -> float:
    return high


@given(STEPS, st.integers())
def test_every_delay_is_within_its_bound(steps: list[str], seed: int) -> None:
    backoff = Backoff(random.Random(seed).uniform)
    failures = 0
    for step in steps:
        if step == "succeed":
            backoff.succeed()
            failures = 0
        elif step == "slow":
            assert CAP_S / 2 <= backoff.next_delay(slow=True) <= CAP_S
        else:
            assert 0 <= backoff.next_delay() <= min(CAP_S, BASE_S * 2**failures)
            failures += 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_whole_range_is_used(fractions: list[float]) -> None:
    asked: list[tuple[float, float]] = []
    chosen = iter(fractions)

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low + (high - low) * next(chosen)

    backoff = Backoff(uniform)
    delays = [backoff.next_delay() for _ in fractions]
    assert asked == [(0.0, min(CAP_S, BASE_S * 2.0**n)) for n in range(len(fractions))]
    assert delays == [f * high for f, (_, high) in zip(fractions, asked, strict=True)]


def test_a_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(highest)
    assert [backoff.next_delay() for _ in range(2000)][-1] == CAP_S


def test_a_success_begins_anew_and_a_slow_one_does_not() -> None:
    backoff = Backoff(highest)
    assert [backoff.next_delay() for _ in range(3)] == [BASE_S, 2 * BASE_S, 4 * BASE_S]
    assert backoff.next_delay(slow=True) == CAP_S
    assert backoff.next_delay() == 8 * BASE_S
    backoff.succeed()
    assert backoff.next_delay() == pytest.approx(BASE_S)


@given(st.floats(0.001, 10_000), st.integers(0, 20), st.integers())
def test_a_moment_that_was_named_is_kept_and_bounded(
    named_s: float, failures: int, seed: int
) -> None:
    backoff = Backoff(random.Random(seed).uniform)
    for _ in range(failures):
        backoff.next_delay()
    delay_s = backoff.next_delay(named_s=named_s)
    assert min(named_s, LATEST_S) <= delay_s <= min(named_s * 1.1, LATEST_S)


def test_a_named_moment_is_no_failure() -> None:
    backoff = Backoff(highest)
    assert backoff.next_delay(named_s=5.0) == pytest.approx(5.5)
    assert backoff.next_delay() == BASE_S
