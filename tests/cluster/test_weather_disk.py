"""Full disks under running processes: what cannot be written is said, and nothing is half there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.cluster.agents import Cluster
from tests.cluster.outdoors import Node, Outdoors, outdoors
from tests.cluster.processes import run_to_end
from tests.cluster.users import DEADLINE_S, Refused, want
from tests.cluster.weather import NEEDS_ROOT, small_disk
from vfio_contract.views import ClusterChange, WatchKind
from vfioctl.v1.session_pb2 import JournalStatus

NODE = "pve01"
AT_ONCE = 5

JOURNAL_KB, STORE_KB = 2_048, 4_096


@NEEDS_ROOT
async def test_an_agent_with_a_full_disk_looks_on_and_counts_what_it_cannot_write(
    state: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "journal", kilobytes=JOURNAL_KB) as disk:
        async with outdoors(state, NODE) as here:
            node = await here.add(NODE, tmp_path / "root", journal=disk.path)
            await here.until_ready(node)
            node.say(AT_ONCE)
            await here.until_told(node)
            victim, *rest = await free_units(here)
            disk.fill()
            await say_until_full(here, node)
            node.say_wedged(victim)
            # the reset cannot be written, so no reset history is known, and nothing is placed
            seen = await here.until_health("JOURNAL_FAILED", "HISTORY_UNKNOWN")
            assert "full" in seen["JOURNAL_FAILED"]
            assert await free_units(here) == []
            disk.free()
            node.say()
            await here.until_over("JOURNAL_FAILED", "HISTORY_UNKNOWN")
            await here.until_ready(node)
            # every line is told or counted, the victim's own among them
            await here.until_told(node, lost=await lost_of(here) - 1)
            # what must not be lost is there, once
            codes = await here.codes()
            assert codes.count("RESET_ATTEMPT") == 1
            assert await free_units(here) == rest
            await here.until_held(node)
            node.end()


async def say_until_full(here: Outdoors, node: Node) -> None:
    """Lines, until the journal has refused one."""

    async def full() -> bool:
        node.say()
        return any(item.code == "JOURNAL_FAILED" for item in (await here.status()).items)

    await here.until(full, bool)


async def free_units(here: Outdoors) -> list[str]:
    """The first address of each unit that a VM could have."""
    units = (await here.admin.node(NODE)).units
    return [unit.addresses[0] for unit in units if unit.state == "free"]


async def lost_of(here: Outdoors) -> int:
    """Events of which the event log says that they are lost."""
    rows = [row for row in await here.admin.events() if row.code == "EVENTS_LOST"]
    return sum(int(row.text.split()[0]) for row in rows)


@NEEDS_ROOT
async def test_a_coordinator_with_a_full_disk_ends_and_has_all_that_it_said(
    state: Path, tmp_path: Path
) -> None:
    with small_disk(state, kilobytes=STORE_KB) as disk:
        async with outdoors(state, NODE) as here:
            node = await here.add(NODE, tmp_path / "root")
            await here.until_ready(node)
            kept = (await here.admin.place(want("vm1"))).placement
            assert kept is not None
            disk.fill()
            answered = await say_until_it_ends(here, node)
            ended = await here.process.ended()
            assert ended.status == 2
            assert "Traceback" not in ended.errors.splitlines()[-1]
            assert str(state / "store.db") in ended.errors
            assert "full" in ended.errors
            # started again while nothing has changed, as a service manager does
            again = await run_to_end(state)
            assert again.status == 2
            assert "full" in again.errors.splitlines()[-1]
            assert str(state) in again.errors.splitlines()[-1]
            disk.free()
            await here.start_again()
            await here.until_ready(node)
            await here.until_told(node)
            assert answered <= set(await here.numbers(node))
            (vm,) = (await here.status()).vms
            assert (vm.name, vm.node, vm.token) == ("vm1", NODE, kept.token)
            assert "EVENTS_LOST" not in await here.codes()
            await here.until_held(node)
            node.end()


async def say_until_it_ends(here: Outdoors, node: Node) -> set[int]:
    """Lines, until the coordinator answers no more; what it had told by then."""
    told: set[int] = set()
    try:
        while True:
            node.say()
            told.update(await here.numbers(node))
    except Refused:
        return told


async def test_a_watcher_sees_a_failed_journal_come_and_go(state: Path) -> None:
    """That it is over is no row of the event log, and nothing else changes then."""
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        stream = (await cluster.admin()).watch(kinds=(WatchKind.SUMMARY,))
        await agent.stream.say(journal=JournalStatus(code="JOURNAL_FAILED", text="it is full"))
        await stream.until(lambda change: shows(change) == {"JOURNAL_FAILED"} and logs(change))
        await agent.stream.say(journal=JournalStatus())
        async with asyncio.timeout(DEADLINE_S):  # a silent stream is ended later, and that is news
            await stream.until(lambda change: shows(change) == set())
        stream.call.cancel()


def logs(change: ClusterChange) -> bool:
    """Whether the summary has its row of the event log, which comes after the commit."""
    return change.summary is not None and change.summary.recent[0].code == "JOURNAL_FAILED"


def shows(change: ClusterChange) -> set[str] | None:
    """What health says of journals, None for a change without it."""
    if change.summary is None:
        return None
    return {"JOURNAL_FAILED"} & {item.code for item in change.summary.items}
