"""What one node may ask, and how many begin at once: by numbers, with time as an argument."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.admission import (
    FLOOD_S,
    LATEST_S,
    MESSAGES_AT_ONCE,
    MESSAGES_PER_S,
    OPENING,
    PATIENCE_S,
    SETTLE_S,
    SETTLING,
    SHUT_OUT_S,
    TOKEN_BYTES,
    TOLD_EVERY_S,
    Account,
    Accounts,
    Allowance,
    Busy,
    Gate,
    Tally,
)

# --- allowances ----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 10)), min_size=1, max_size=60),
    st.floats(0.1, 100),
    st.floats(1, 100),
)
def test_who_waits_as_told_never_gets_more_than_the_rate(
    steps: list[tuple[float, float]], rate: float, burst: float
) -> None:
    allowance, now_s, last, total = Allowance(rate=rate, burst=burst), 0.0, 0.0, 0.0
    for cost, pause_s in steps:
        now_s += pause_s
        now_s += allowance.wait_s(now_s)
        allowance.charge(cost, now_s)
        total, last = total + cost, cost
    assert total - last <= (burst + rate * now_s) * (1 + 1e-9) + 1e-6


def test_a_debt_is_waited_for_in_full_and_is_over_then() -> None:
    allowance = Allowance(rate=2.0, burst=10.0)
    allowance.charge(10.0, 0.0)
    assert allowance.wait_s(0.0) == 0.0
    allowance.charge(6.0, 0.0)
    assert allowance.wait_s(0.0) == 3.0
    assert allowance.wait_s(2.0) == 1.0
    assert allowance.wait_s(3.0) == 0.0


def test_only_who_never_pauses_is_out_of_tokens_for_long() -> None:
    allowance = Allowance(rate=1.0, burst=8.0)
    allowance.charge(9.0, 0.0)
    now_s = 0.0
    for _ in range(20):  # as fast as it is let
        now_s += allowance.wait_s(now_s)
        allowance.charge(1.0, now_s)
    assert allowance.out_for_s(now_s) == now_s
    assert now_s >= 19
    assert allowance.out_for_s(now_s + 3.5) == 0.0, "a quarter of the tokens has come back"


def test_an_agent_at_its_busiest_is_far_from_a_flood() -> None:
    account, now_s = Account(), 0.0
    for number in range(60 * 250):  # durable events one by one, and a large host's look a second
        now_s = number / 250
        account.charge_message(600_000 if number % 250 == 0 else 500, now_s)
        assert account.talk.wait_s(now_s) == 0.0


def test_bytes_count_as_well_as_messages() -> None:
    account = Account()
    for _ in range(3):
        account.charge_message(8 * 1024 * 1024, 0.0)
    owed = 3 * (1 + 8 * 1024 * 1024 / TOKEN_BYTES) - MESSAGES_AT_ONCE
    assert account.talk.wait_s(0.0) == pytest.approx(owed / MESSAGES_PER_S)


def test_who_was_cut_off_stays_out_for_a_while() -> None:
    accounts, now_s = Accounts(), 0.0
    account = accounts.open("pve01", now_s)
    with pytest.raises(ClusterError) as caught:
        talk_for_ever(account)
    assert caught.value.code is ErrorCode.FLOODING
    accounts.close("pve01")
    now_s = account.shut_out_until_s - SHUT_OUT_S
    assert FLOOD_S < now_s < 2 * FLOOD_S + MESSAGES_AT_ONCE / MESSAGES_PER_S
    for passed_s in (0.0, 1.0, SHUT_OUT_S - 0.1):
        with pytest.raises(ClusterError):
            accounts.open("pve01", now_s + passed_s)
    accounts.open("pve02", now_s + 5)
    assert len(accounts) == 2
    assert accounts.open("pve01", now_s + SHUT_OUT_S).streams == 1


def talk_for_ever(account: Account) -> None:
    """As fast as it is let."""
    now_s = 0.0
    while True:
        account.charge_message(10, now_s)
        now_s += account.wait_s("pve01", now_s)


def test_whoever_reconnects_gets_nothing_new_and_nobody_is_kept_for_ever() -> None:
    accounts = Accounts()
    for _ in range(int(MESSAGES_AT_ONCE / OPENING) + 1):
        accounts.open("pve01", 0.0)
        accounts.close("pve01")
    with pytest.raises(ClusterError) as caught:
        accounts.open("pve01", 0.0)
    assert caught.value.code is ErrorCode.FLOODING
    accounts.open("pve02", 0.0)
    assert len(accounts) == 2
    accounts.open("pve03", 3600.0)
    assert len(accounts) == 2, "one is open, one opens, and the one that is idle was forgotten"
    assert accounts.open("pve01", 3600.0).talk.wait_s(3600.0) == 0.0


def test_refusals_are_counted_and_told_once_a_minute() -> None:
    tally = Tally()
    first = tally.count(ErrorCode.BAD_REQUEST, 0.0)
    assert first == "sessions refused since the start: BAD_REQUEST 1"
    for number in range(1, 600):
        assert not tally.count(ErrorCode.FLOODING, number / 10)
    told = tally.count(ErrorCode.FLOODING, TOLD_EVERY_S)
    assert told == "sessions refused since the start: BAD_REQUEST 1, FLOODING 600"


# --- the gate ------------------------------------------------------------------------------------


class Crowd:
    """A gate whose time only a test moves, and those who stand before it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.gate = Gate(lambda: self.now_s)
        self.inside: list[int] = []
        self.sent_away: list[float] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *sessions: int) -> None:
        for session in sessions:
            self.tasks[session] = asyncio.create_task(self._enter(session))
        await self.settle()

    async def settle(self) -> None:
        """Let everybody take the steps that they can take now."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def _enter(self, session: int) -> None:
        try:
            await self.gate.enter(session)
            self.inside.append(session)
        except Busy as busy:
            self.sent_away.append(busy.retry_after_s)


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    made = Crowd()
    yield made
    for task in made.tasks.values():
        task.cancel()
    await asyncio.gather(*made.tasks.values(), return_exceptions=True)


def test_so_many_begin_at_once_and_the_others_follow_in_their_order() -> None:
    async def run() -> None:
        async with crowd() as here:
            await here.come(*range(SETTLING + 3))
            assert here.inside == list(range(SETTLING))
            assert here.gate.is_crowded
            here.gate.leave(5)
            here.gate.leave(5)
            here.gate.leave(7)
            await here.settle()
            assert here.inside[SETTLING:] == [SETTLING, SETTLING + 1]
            here.gate.leave(SETTLING + 2)  # still before the gate: nothing happens
            await here.settle()
            assert len(here.inside) == SETTLING + 2
            here.gate.leave(0)
            await here.settle()
            assert not here.gate.is_crowded

    asyncio.run(run())


def test_who_has_nothing_to_tell_makes_room() -> None:
    async def run() -> None:
        async with crowd() as here:
            await here.come(*range(SETTLING + 1))
            here.now_s += SETTLE_S
            here.gate.make_room()
            await here.settle()
            assert len(here.inside) == SETTLING
            here.now_s += 0.1
            here.gate.make_room()
            await here.settle()
            assert here.inside[-1] == SETTLING

    asyncio.run(run())


def test_who_goes_away_in_the_queue_takes_nobodys_place() -> None:
    async def run() -> None:
        async with crowd() as here:
            await here.come(*range(SETTLING + 2))
            here.tasks[SETTLING].cancel()
            await here.settle()
            here.gate.leave(0)
            await here.settle()
            assert here.inside[-1] == SETTLING + 1

    asyncio.run(run())


def test_each_that_would_wait_too_long_is_told_another_moment() -> None:
    async def run() -> None:
        async with crowd() as here:
            await here.come(*range(3_000))
            waiting = 3_000 - SETTLING - len(here.sent_away)
            assert 0 < waiting / 50 <= PATIENCE_S
            assert min(here.sent_away) >= PATIENCE_S
            gaps = [b - a for a, b in zip(here.sent_away, here.sent_away[1:], strict=False)]
            assert all(gap == pytest.approx(1 / 50) for gap in gaps)
            # as long as those are expected, the cluster is not complete
            for session in range(3_000):
                here.gate.leave(session)
                await here.settle()
            assert here.gate.is_crowded
            here.now_s += max(here.sent_away) + PATIENCE_S
            assert not here.gate.is_crowded

    asyncio.run(run())


def test_nobody_is_sent_away_for_longer_than_the_limit() -> None:
    async def run() -> None:
        async with crowd() as here:
            await here.come(*range(12_000))
            assert max(here.sent_away) <= LATEST_S

    asyncio.run(run())


def test_the_pace_that_is_told_is_the_pace_that_is_measured() -> None:
    async def run() -> None:
        async with crowd() as here:
            await here.come(*range(SETTLING + 400))
            for session in range(300):
                here.now_s += 1 / 30
                here.gate.leave(session)
                await here.settle()
            await here.come(*range(1_000, 1_200))
            places = int(30 * PATIENCE_S) - 100
            assert len(here.sent_away) == pytest.approx(200 - places, abs=2)
            gaps = [b - a for a, b in zip(here.sent_away, here.sent_away[1:], strict=False)]
            assert all(gap == pytest.approx(1 / 30) for gap in gaps)

    asyncio.run(run())


def test_a_flood_is_longer_than_any_wait_that_honest_peers_have() -> None:
    largest = 1 + 8 * 1024 * 1024 / TOKEN_BYTES
    assert largest / MESSAGES_PER_S < FLOOD_S / 2
