"""A wire that loses packets, and one that is cut: it is said so, and nothing is lost or twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cluster.outdoors import Node, Outdoors, Spell, hear, outdoors
from tests.cluster.weather import EAST, NEEDS_ROOT, Wire, wire

pytestmark = NEEDS_ROOT

NODE = "pve01"

ENOUGH_LOST = 4
"""Packets, some 400 of which this takes."""

AT_ONCE = 5


@asynccontextmanager
async def far_node(state: Path, root: Path) -> AsyncIterator[tuple[Wire, Outdoors, Node]]:
    """A coordinator at one end of a wire, and what a node says to it at the other."""
    with wire() as over:
        east, options = over.prefix(over.east), ("--listen", f"{EAST}:0")
        async with outdoors(state, NODE, options=options, prefix=east) as here:
            node = await here.add(NODE, root, network=over.prefix(over.west))
            await here.until_ready(node)
            yield over, here, node


async def partition(state: Path, root: Path, *, seconds: float) -> Spell:
    """A cut wire, for so long and until both ends have said so; how soon they did."""
    async with far_node(state, root) as (over, here, node):
        node.say(AT_ONCE)
        await here.until_told(node)
        over.cut()
        spell = Spell()
        node.say(AT_ONCE)
        await hear(node.network, "session ended")
        spell.agent_noticed()
        # in the coordinator's first minute; NODE_LOST after that
        await here.until_any_health("NODE_UNHEARD", "NODE_LOST")
        spell.coordinator_noticed()
        assert await here.numbers(node) == [*range(1, AT_ONCE + 1)]
        await spell.last(seconds)
        over.lose(0)
        await here.until_ready(node)
        spell.is_over()
        await here.until_told(node)
        await here.until_over("NODE_UNHEARD", "NODE_LOST")
        assert not {"EVENTS_LOST", "NODE_CLONED"} & set(await here.codes())
        assert "".join(node.network.said).count("in session with") == 2
        await here.until_held(node)
        node.end()
        return spell


async def test_one_percent_loss_is_nobody_s_trouble(state: Path, tmp_path: Path) -> None:
    async with far_node(state, tmp_path / "root") as (over, here, node):
        over.lose(0.01)
        while over.lost() < ENOUGH_LOST:
            node.say(AT_ONCE)
            await here.until_told(node)
        over.lose(0)
        print(f"{over.lost()} packets lost, {node.said} lines told")
        assert not {"NODE_LOST", "EVENTS_LOST", "NODE_CLONED"} & set(await here.codes())
        assert "session ended" not in "".join(node.network.said)
        await here.until_held(node)
        node.end()


async def test_a_partition_is_seen_from_both_ends_and_forgotten(
    state: Path, tmp_path: Path
) -> None:
    """As short as it takes both ends to notice; `bench_weather` has 30 s."""
    print(await partition(state, tmp_path / "root", seconds=0))
