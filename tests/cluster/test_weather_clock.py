"""Wall clocks that jump by a day: it is said until it is over, and nothing ends early or late.

The coordinator's rule is in docs/adr/019; what is believed step by step, in
`tests/unit/test_steady_clock`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.agents import Cluster
from tests.cluster.outdoors import outdoors
from tests.cluster.test_risks import NODE, accept, overridden, risks
from tests.cluster.users import DEADLINE_S, User, want
from tests.cluster.weather import NEEDS_FAKETIME, NEEDS_ROOT, WallClock, shifted
from vfio_contract.artifact import encode
from vfio_contract.views import ClusterChange, Event, WatchKind
from vfio_coordinator.bootstrap import newest_moment, raise_epoch
from vfio_coordinator.peer import Role
from vfio_coordinator.state.events import Tick
from vfio_coordinator.state.keys import event_key
from vfio_coordinator.state.restore import RestoreError
from vfio_coordinator.store.interface import Put, Txn
from vfio_coordinator.store.memory import MemoryStore

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
AT_ONCE = 5


def set_wall(cluster: Cluster, by: timedelta) -> None:
    """Somebody sets the coordinator's clock, and it looks at it."""
    cluster.clock.wall += by
    cluster.serving.runtime.feed(Tick())


async def jumps(user: User) -> list[str]:
    """What health says of the clock."""
    items = (await user.status()).items
    return [f"{item.level} {item.text}" for item in items if item.code == "CLOCK_JUMP"]


async def told(user: User, *, rows: int) -> list[str]:
    """What the event log says of it, once there are so many rows: they come after their commit."""
    async with asyncio.timeout(DEADLINE_S):
        while len(found := await user.until_event("CLOCK_JUMP")) < rows:
            continue
    return [row.text for row in found]


async def decision_of(user: User) -> str:
    (decision,) = await risks(user)
    return decision.state


@pytest.mark.parametrize(("by", "word"), [(DAY, "ahead"), (-DAY, "behind")])
async def test_a_decision_lasts_as_long_as_it_was_made_for(
    state: Path, by: timedelta, word: str
) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE, overridden())
        admin = await cluster.admin()
        await accept(admin, until="12h")
        before = cluster.clock.now().utc
        set_wall(cluster, by)
        (said,) = await jumps(admin)
        assert said == f"WARN the wall clock went to {cluster.clock.now().utc} at {before}, " + (
            f"24h00m {word}"
        )
        assert (await admin.status()).at == before
        assert await decision_of(admin) == "accepted"
        placed = await admin.place(want("vm1", allow=("acs-override",)))
        assert placed.placement is not None
        # heard is heard: that is measured by another clock
        assert (await admin.node(NODE)).state == "ready"
        cluster.advance(13 * 3_600)
        assert len(await admin.until_event("RISK_EXPIRED")) == 1
        assert await decision_of(admin) == "expired"
        assert len(await jumps(admin)) == 1
        set_wall(cluster, -by)
        assert await jumps(admin) == []
        assert len(await admin.until_event("RISK_EXPIRED")) == 1
        assert await told(admin, rows=2) == [
            said.removeprefix("WARN "),
            "over: the wall clock is believed again",
        ]


async def test_a_jump_makes_nobody_s_certificate_old(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        user = await cluster.user(Role.ADMIN)
        set_wall(cluster, 91 * DAY)
        assert len(await jumps(user)) == 1
        await agent.observe()
        assert (await user.node(NODE)).state == "ready"


async def test_a_watcher_sees_it_come_and_go(state: Path) -> None:
    async with Cluster(state) as cluster:
        stream = (await cluster.admin()).watch(kinds=(WatchKind.SUMMARY,))
        await stream.until(lambda change: change.summary is not None)
        for by in (DAY, -DAY):
            set_wall(cluster, by)
            expected = {"CLOCK_JUMP"} if by == DAY else set[str]()
            await stream.until(partial(shows, expected))
        stream.call.cancel()


def shows(expected: set[str], change: ClusterChange) -> bool:
    """Whether health, as told, says that of the clock."""
    if change.summary is None:
        return False
    return {"CLOCK_JUMP"} & {item.code for item in change.summary.items} == expected


async def test_a_start_is_believed_unless_the_store_knows_better(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE, overridden())
        await accept(await cluster.admin(), until="12h")
        # as long as nobody restarts it, it is a day ahead
        set_wall(cluster, DAY)
        cluster.clock.wall -= 2 * DAY
        await cluster.restart()
        cluster.serving.runtime.feed(Tick())
        admin = await cluster.admin()
        (said,) = await jumps(admin)
        assert "24h00m behind: the newest record here is of" in said
        assert await decision_of(admin) == "accepted"
        cluster.clock.wall += DAY
        cluster.serving.runtime.feed(Tick())
        assert await jumps(admin) == []
        # a coordinator that was away for long and a clock that jumped look the same
        cluster.clock.wall += DAY
        await cluster.restart()
        admin = await cluster.admin()
        cluster.serving.runtime.feed(Tick())
        assert await jumps(admin) == []
        assert len(await admin.until_event("RISK_EXPIRED")) == 1


def test_the_newest_moment_of_a_store() -> None:
    store = MemoryStore()
    assert newest_moment(store) == ""
    raise_epoch(store, "2026-11-22T12:00:00Z")
    assert newest_moment(store) == "2026-11-22T12:00:00Z"
    for seq, at in ((1, "2026-11-22T13:00:00Z"), (2, "2026-11-22T14:00:00Z")):
        put(store, Event(seq, at, "cluster", "X", "", ""))
    assert newest_moment(store) == "2026-11-22T14:00:00Z"
    put(store, Event(3, "noon", "cluster", "X", "", ""))
    with pytest.raises(RestoreError, match=r"events/0+3: 'noon' is no time"):
        newest_moment(store)


def put(store: MemoryStore, event: Event) -> None:
    (result,) = store.commit([Txn((), (Put(event_key(event.seq), encode(event)),))])
    assert result.succeeded


@NEEDS_ROOT
@NEEDS_FAKETIME
async def test_processes_whose_clocks_are_a_day_off(state: Path, tmp_path: Path) -> None:
    """Those of the hosts for ever, the coordinator's now and then."""
    clock = WallClock(tmp_path / "wall")
    began = datetime.now(UTC)
    async with outdoors(state, "pve01", "pve02", prefix=clock.prefix) as here:
        late = await here.add("pve01", tmp_path / "late", hostd=shifted(-DAY))
        early = await here.add("pve02", tmp_path / "early", hostd=shifted(DAY))
        for node in (late, early):
            await here.until_ready(node)
        for off, word in ((DAY, "24h00m ahead"), (-DAY, "24h00m behind")):
            clock.set(off)
            await here.until_text(word)
            for node in (late, early):
                node.say(AT_ONCE)
                await here.until_told(node)
                await here.until_ready(node)
        clock.set(timedelta())
        await here.until_over("CLOCK_JUMP")
        rows = sorted(await here.admin.events(), key=lambda row: row.seq)
        # all rows by the coordinator's time, as it passed; the hosts' clocks are only words
        times = [datetime.fromisoformat(row.at) for row in rows]
        assert times == sorted(times)
        assert began - SECOND <= times[0]
        assert times[-1] <= datetime.now(UTC) + SECOND
        lines = [row.text for row in rows if row.code == "KERNEL_LINE"]
        assert len(lines) == 4 * AT_ONCE
        assert all("by its clock)" in line for line in lines)
        assert not {"EVENTS_LOST", "NODE_LOST", "NODE_CLONED"} & {row.code for row in rows}
        for node in (late, early):
            await here.until_held(node)
            assert "session ended" not in "".join(node.network.said)
            node.end()
