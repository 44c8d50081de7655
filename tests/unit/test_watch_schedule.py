"""When to read what: gathered, never too often, never forgotten, never put off for ever."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.watch.schedule import (
    CONFIRM_S,
    EARLIEST,
    GATHER_S,
    LIMITS,
    MAX_FUNCTIONS,
    QUIET_S,
    Schedule,
)
from vfio_agent.watch.signals import NOTHING, Part, Wanted, want
from vfio_contract.address import Address

INTERVAL_S = 60.0
FUNCTIONS = [Address(f"0000:{n:02x}:00.0") for n in range(64)]
WANTED = st.one_of(
    st.sets(st.sampled_from([p for p in Part if p is not Part.FUNCTIONS]), max_size=3).map(
        lambda parts: want(*parts)
    ),
    st.sets(st.sampled_from(FUNCTIONS[:4]), min_size=1).map(lambda f: want(functions=f)),
)
NOTES = st.lists(st.tuples(st.floats(0, 3), WANTED, st.booleans()), max_size=60)


def late(low: float, high: float) -> float:
    return high


def new_schedule() -> Schedule:
    return Schedule(interval_s=INTERVAL_S, now_s=0.0, uniform=late)


def run(
    notes: list[tuple[float, Wanted, bool]], until_s: float
) -> tuple[list[tuple[float, Wanted]], list[tuple[float, Wanted]]]:
    """(what was noted, what was taken), each with its time, by a caller that is always in time."""
    schedule = new_schedule()
    now, noted, taken = 0.0, [], []

    def catch_up(to_s: float) -> None:
        while (due := schedule.due_at()) <= to_s:
            wanted = schedule.take(due)
            if wanted:
                taken.append((due, wanted))
            else:
                assert schedule.due_at() > due, "it would turn for ever"

    for step, wanted, confirm in notes:
        now += step
        catch_up(now)
        schedule.note(wanted, now, confirm=confirm)
        noted.append((now, wanted))
    catch_up(now + until_s)
    return noted, taken


def covers(taken: Wanted, part: Part, functions: frozenset[Address]) -> bool:
    return taken.whole or (part in taken.parts and functions <= taken.functions)


@given(NOTES)
def test_whatever_is_noted_is_read_within_its_bound(
    notes: list[tuple[float, Wanted, bool]],
) -> None:
    noted, taken = run(notes, 1000.0)
    for at, wanted in noted:
        for part in wanted.parts:
            functions = wanted.functions if part is Part.FUNCTIONS else frozenset()
            read = next(t for t, w in taken if t >= at and covers(w, part, functions))
            limit = LIMITS[part]
            assert read - at <= GATHER_S + 1 / limit.per_s + 1e-3


@given(NOTES)
def test_no_part_is_read_more_often_than_its_limit(notes: list[tuple[float, Wanted, bool]]) -> None:
    _, taken = run(notes, 200.0)
    times = defaultdict(list)
    for at, wanted in taken:
        for part in wanted.parts:
            times[part].append(at)
    for part, limit in LIMITS.items():
        for first, start in enumerate(times[part]):
            for count, end in enumerate(times[part][first:], 1):
                assert count <= limit.burst + (end - start) * limit.per_s + 1e-3


@given(NOTES)
def test_nothing_is_read_that_nobody_asked_for_but_the_whole(
    notes: list[tuple[float, Wanted, bool]],
) -> None:
    noted, taken = run(notes, 200.0)
    asked = NOTHING
    for _, wanted in noted:
        asked |= wanted
    for _, wanted in taken:
        assert wanted.parts <= asked.parts | {Part.WHOLE}
        assert wanted.functions <= asked.functions
        assert (Part.FUNCTIONS in wanted.parts) == bool(wanted.functions)


@given(st.lists(WANTED, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_in_which_signals_arrive_does_not_matter(
    wanted: list[Wanted], shuffler: random.Random
) -> None:
    shuffled = list(wanted)
    shuffler.shuffle(shuffled)
    _, one = run([(0.0, w, False) for w in wanted], 200.0)
    _, other = run([(0.0, w, False) for w in shuffled], 200.0)
    assert one == other


@given(NOTES)
def test_the_whole_host_is_read_once_in_an_interval(
    notes: list[tuple[float, Wanted, bool]],
) -> None:
    _, taken = run(notes, 1000.0)
    whole = [0.0, *(at for at, wanted in taken if wanted.whole)]
    assert all(later - earlier <= INTERVAL_S + 1e-6 for earlier, later in pairwise(whole))
    assert len(whole) > 1000.0 / INTERVAL_S


@given(st.integers())
def test_rescans_are_spread_over_a_part_of_the_interval(seed: int) -> None:
    schedule = Schedule(interval_s=INTERVAL_S, now_s=0.0, uniform=random.Random(seed).uniform)
    before = 0.0
    for _ in range(20):
        due = schedule.due_at()
        assert EARLIEST * INTERVAL_S - 1e-6 <= due - before <= INTERVAL_S + 1e-6
        assert schedule.take(due) == want(Part.WHOLE)
        before = due


def test_a_burst_is_one_reading() -> None:
    schedule = new_schedule()
    for n in range(20):
        schedule.note(want(functions=(FUNCTIONS[n % 3],)), n * 0.01)
    assert schedule.take(0.19 + QUIET_S / 2) == NOTHING
    assert schedule.take(0.19 + QUIET_S) == want(functions=FUNCTIONS[:3])
    assert schedule.take(10.0) == NOTHING


def test_a_host_that_is_never_quiet_is_read_all_the_same() -> None:
    schedule = new_schedule()
    for n in range(100):
        schedule.note(want(Part.HOLDERS), n * 0.01)
        if schedule.take(n * 0.01):
            assert n * 0.01 == pytest.approx(GATHER_S)
            return
    pytest.fail("it was never read")


def test_the_whole_covers_all_that_waits() -> None:
    schedule = new_schedule()
    schedule.note(want(Part.VMS, Part.KERNEL_LOG, functions=FUNCTIONS[:2]), 0.0)
    schedule.note(want(Part.WHOLE), 0.0)
    assert schedule.take(GATHER_S) == want(Part.WHOLE)
    assert schedule.take(20.0) == NOTHING
    schedule.note(want(functions=FUNCTIONS[5:6]), 30.0)
    assert schedule.take(30.0 + QUIET_S) == want(functions=FUNCTIONS[5:6])


def test_too_many_functions_are_the_whole_host() -> None:
    schedule = new_schedule()
    schedule.note(want(functions=FUNCTIONS[:MAX_FUNCTIONS]), 0.0)
    schedule.note(want(functions=FUNCTIONS[MAX_FUNCTIONS:]), 0.0)
    assert schedule.take(GATHER_S) == want(Part.WHOLE)


def test_what_the_kernel_tells_too_early_is_read_twice() -> None:
    schedule = new_schedule()
    schedule.note(want(functions=FUNCTIONS[:1]), 0.0, confirm=True)
    assert schedule.take(QUIET_S) == want(functions=FUNCTIONS[:1])
    assert schedule.take(CONFIRM_S) == NOTHING
    again = schedule.due_at()
    assert CONFIRM_S < again <= CONFIRM_S + GATHER_S
    assert schedule.take(again) == want(functions=FUNCTIONS[:1])
    assert schedule.due_at() == INTERVAL_S


def test_a_new_interval_counts_from_the_last_reading() -> None:
    schedule = new_schedule()
    schedule.set_interval(20.0)
    assert schedule.due_at() == 20.0
    schedule.take(20.0)
    schedule.set_interval(40.0)
    assert schedule.due_at() == 60.0


def test_a_reading_by_a_moment_is_early_once_and_never_late() -> None:
    schedule = new_schedule()
    schedule.read_by(2 * INTERVAL_S)
    assert schedule.due_at() == INTERVAL_S
    schedule.read_by(10.0)
    assert schedule.take(9.0) == NOTHING
    assert schedule.take(10.0) == want(Part.WHOLE)
    assert schedule.due_at() == 10.0 + INTERVAL_S


def test_noting_nothing_changes_nothing() -> None:
    schedule = new_schedule()
    schedule.note(NOTHING, 0.0, confirm=True)
    assert schedule.due_at() == INTERVAL_S


def test_a_host_that_never_stops_changing_is_not_read_without_end() -> None:
    _, taken = run([(0.1, want(Part.WHOLE), True)] * 600, 0.0)
    limit = LIMITS[Part.WHOLE]
    assert limit.per_s * 55 <= len(taken) <= limit.burst + 60 * limit.per_s + 1
