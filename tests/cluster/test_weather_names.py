"""Agents under one name: one that was reinstalled, and two of one host at once.

Two machines under one name are in `test_bad_input_cluster`, copies of journals in
`tests/unit/test_spool_survival`.
"""

from __future__ import annotations

from pathlib import Path

from tests.cluster.outdoors import hear, outdoors

NODE = "pve01"
AT_ONCE = 5


async def test_a_reinstalled_agent_is_a_new_one_and_repeats_nothing(
    state: Path, tmp_path: Path
) -> None:
    """The same host, name and certificate; the state directory is gone."""
    async with outdoors(state, NODE) as here:
        node = await here.add(NODE, tmp_path / "root")
        await here.until_ready(node)
        node.say(AT_ONCE)
        await here.until_told(node)
        await here.until_held(node)
        node.end()
        node.journal.rename(tmp_path / "before")
        # its numbers begin with 1 again, and what the kernel log held before it is no news
        node.start()
        (lost,) = await here.admin.until_event("EVENTS_LOST")
        assert lost.text.startswith("the agent's journal was replaced: what the one before held ")
        await here.until_ready(node)
        node.say(AT_ONCE)
        await here.until_told(node)
        await here.until_held(node)
        assert (await here.codes()).count("EVENTS_LOST") == 1
        node.end()


async def test_a_second_agent_of_a_host_is_refused_while_the_first_is_heard(
    state: Path, tmp_path: Path
) -> None:
    async with outdoors(state, NODE) as here:
        node = await here.add(NODE, tmp_path / "root")
        await here.until_ready(node)
        twin = await here.add(NODE, tmp_path / "root")
        refused = await hear(twin.network, "NODE_CLONED")
        assert "a second agent of that boot" in refused
        await here.until_health("NODE_CLONED")
        node.say(AT_ONCE)
        await here.until_told(node)
        await here.until_held(node)
        assert not {"EVENTS_LOST", "SESSION_REPLACED"} & set(await here.codes())
        assert "session ended" not in "".join(node.network.said)
        twin.end()
        node.end()
