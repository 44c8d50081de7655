"""The steady clock: which steps of a wall clock are believed, and what is counted instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_coordinator.clock import JUMP_S, SteadyClock
from vfio_coordinator.state.events import Now

NOON = "2026-11-22T12:00:00Z"
DAY_S = 86_400


@dataclass
class Machine:
    """Both clocks of a machine, as somebody may set them."""

    monotonic_s: float = 500.0
    wall: datetime = field(default_factory=lambda: datetime(2026, 11, 22, 12, tzinfo=UTC))

    def now(self) -> Now:
        return Now(self.monotonic_s, self.wall.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def wait(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall += timedelta(seconds=seconds)

    def set_wall(self, by_s: float) -> None:
        self.wall += timedelta(seconds=by_s)


@pytest.mark.parametrize(("by_s", "words"), [(DAY_S, "24h00m ahead"), (-DAY_S, "24h00m behind")])
def test_after_a_jump_time_goes_on_from_before_it(by_s: int, words: str) -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    assert clock.now() == Now(500.0, NOON)
    machine.wait(10)
    machine.set_wall(by_s)
    told = clock.now()
    assert (told.monotonic_s, told.utc) == (510.0, "2026-11-22T12:00:10Z")
    assert words in told.doubt
    assert f"went to {machine.now().utc} at 2026-11-22T12:00:10Z" in told.doubt
    machine.wait(3_600)
    later = clock.now()
    assert (later.utc, later.doubt) == ("2026-11-22T13:00:10Z", told.doubt)
    machine.set_wall(-by_s)
    assert clock.now() == Now(4_110.0, "2026-11-22T13:00:10Z")


def test_a_second_jump_is_told_as_another() -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    clock.now()
    machine.set_wall(DAY_S)
    first = clock.now()
    machine.set_wall(3 * DAY_S)
    second = clock.now()
    assert (first.utc, second.utc) == (NOON, NOON)
    assert "24h00m ahead" in first.doubt
    assert "96h00m ahead" in second.doubt


def test_a_clock_that_starts_behind_the_store_waits_for_it() -> None:
    machine = Machine()
    machine.set_wall(-DAY_S)
    clock = SteadyClock(machine, NOON)
    told = clock.now()
    assert told.utc == NOON
    assert told.doubt == (
        "the wall clock says 2026-11-21T12:00:00Z, 24h00m behind: the newest record here is of "
        "2026-11-22T12:00:00Z"
    )
    machine.wait(DAY_S / 2)
    assert clock.now().utc == NOON
    machine.set_wall(DAY_S * 40)  # it was set right, after a month without a coordinator
    assert clock.now() == machine.now()


@pytest.mark.parametrize("floor", ["", NOON, "2026-11-22T12:00:59Z", "2025-01-01T00:00:00Z"])
def test_any_other_start_is_believed(floor: str) -> None:
    machine = Machine()
    assert SteadyClock(machine, floor).now() == machine.now()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-JUMP_S + 1, JUMP_S - 1))))
def test_small_steps_are_taken_as_they_are(steps: list[tuple[float, float]]) -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    for passed, step in steps:
        clock.now()
        machine.wait(passed)
        machine.set_wall(step)
        assert clock.now() == machine.now()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e8, 1e8)), max_size=8))
def test_time_never_goes_further_than_what_passed(steps: list[tuple[float, float]]) -> None:
    """However the clock is set: per look at most a step that is believed is added."""
    machine = Machine()
    clock = SteadyClock(machine)
    before = datetime.fromisoformat(clock.now().utc)
    for passed, step in steps:
        machine.wait(passed)
        machine.set_wall(step)
        told = datetime.fromisoformat(clock.now().utc)
        assert abs((told - before).total_seconds() - passed) <= JUMP_S + 2
        before = told
