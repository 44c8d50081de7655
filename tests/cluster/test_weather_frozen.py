"""Processes that stand still: each is missed by name, and goes on where it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cluster.outdoors import Spell, hear, outdoors

AT_ONCE = 5

AWAY = "no hostd, what it saw last grows old"


async def frozen_coordinator(state: Path, root: Path, *, seconds: float) -> Spell:
    """One that stands still for so long and until its agent has said so; how soon that was."""
    async with outdoors(state, "pve01") as here:
        node = await here.add("pve01", root)
        await here.until_ready(node)
        node.say(AT_ONCE)
        await here.until_told(node)
        os.kill(here.process.pid, signal.SIGSTOP)
        spell = Spell()
        node.say(AT_ONCE)
        await hear(node.network, "session ended")
        spell.agent_noticed()
        await spell.last(seconds)
        os.kill(here.process.pid, signal.SIGCONT)
        await hear(node.network, "in session with")
        await here.until_ready(node)
        spell.is_over()
        await here.until_told(node)
        node.say(AT_ONCE)
        await here.until_told(node)
        assert not {"EVENTS_LOST", "NODE_CLONED", "CLOCK_JUMP"} & set(await here.codes())
        assert "".join(node.network.said).count("in session with") == 2
        await here.until_held(node)
        node.end()
        return spell


async def test_a_frozen_coordinator_is_left_and_found_again(state: Path, tmp_path: Path) -> None:
    """As short as it takes the agent to notice; `bench_weather` has 60 s."""
    print(await frozen_coordinator(state, tmp_path / "root", seconds=0))


async def test_a_frozen_half_of_an_agent_is_named_and_the_other_goes_on(
    state: Path, tmp_path: Path
) -> None:
    async with outdoors(state, "pve01", "pve02") as here:
        mute = await here.add("pve01", tmp_path / "mute")
        blind = await here.add("pve02", tmp_path / "blind")
        for node in (mute, blind):
            await here.until_ready(node)
        mute.network.send(signal.SIGSTOP)
        blind.hostd.send(signal.SIGSTOP)
        for node in (mute, blind):
            node.say(AT_ONCE)
        texts = await here.until_health("NODE_UNHEARD", "HOSTD_AWAY")
        assert "pve01" in texts["NODE_UNHEARD"]
        assert AWAY in "".join(blind.network.said)
        rows = {row.name: row for row in (await here.status()).nodes}
        assert [rows[name].state for name in ("pve01", "pve02")] == ["revalidating"] * 2
        assert [reason.code for reason in rows["pve02"].reasons] == ["HOSTD_AWAY"]
        assert rows["pve02"].units_free == 0
        mute.network.send(signal.SIGCONT)
        blind.hostd.send(signal.SIGCONT)
        for node in (mute, blind):
            await here.until_told(node)
            await here.until_ready(node)
        await here.until_over("NODE_UNHEARD", "HOSTD_AWAY")
        assert not {"EVENTS_LOST", "NODE_CLONED"} & set(await here.codes())
        for node in (mute, blind):
            await here.until_held(node)
            node.end()
