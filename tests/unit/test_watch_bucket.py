"""A token bucket: never more than it may, never less than it promised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.watch.bucket import Bucket

BURSTS = st.integers(1, 20)
RATES = st.floats(0.01, 50)
STEPS = st.lists(st.floats(0, 30), max_size=80)


@given(BURSTS, RATES, STEPS)
def test_no_window_holds_more_than_the_burst_and_the_rate(
    burst: int, per_s: float, steps: list[float]
) -> None:
    bucket = Bucket(burst=burst, per_s=per_s)
    now, taken = 1000.0, []
    for step in steps:
        now += step
        if bucket.take(now):
            taken.append(now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - start) * per_s + 1e-3


@given(BURSTS, RATES, STEPS)
def test_what_ready_at_promises_take_keeps(burst: int, per_s: float, steps: list[float]) -> None:
    bucket = Bucket(burst=burst, per_s=per_s)
    now = 1000.0
    for step in steps:
        now = max(now + step, bucket.ready_at())
        assert bucket.take(now)


@given(BURSTS, RATES)
def test_a_full_bucket_is_as_good_as_a_new_one(burst: int, per_s: float) -> None:
    bucket = Bucket(burst=burst, per_s=per_s)
    assert all(bucket.take(5.0) for _ in range(burst))
    assert not bucket.take(5.0)
    assert not bucket.is_full(5.0)
    later = 5.0 + 1.01 * burst / per_s
    assert bucket.is_full(later)
    assert all(bucket.take(later) for _ in range(burst))
    assert not bucket.take(later)
