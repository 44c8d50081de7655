"""A read that never returns, on the agent's host: a gap, and nothing else waits for it."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.noticing import unpack
from tests.cluster.outdoors import HOST, outdoors
from tests.cluster.weather import NEEDS_ROOT, never_answered

pytestmark = NEEDS_ROOT

NODE = "pve01"
AT_ONCE = 5

UNKNOWN = "CPU_VIRT_UNKNOWN"
"""What the blocked file makes unknown; it gates placement."""


async def test_a_read_that_never_returns_is_a_gap_and_nothing_waits_for_it(
    state: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    blocked = unpack(HOST, root) / "proc" / "cpuinfo"
    async with outdoors(state, NODE) as here:
        with never_answered(blocked):
            node = await here.add(NODE, root)
            await here.until_ready(node)
            view = await here.admin.node(NODE)
            assert UNKNOWN in {finding.code for finding in view.findings}
            assert view.units_free == 0
            node.say(AT_ONCE)
            await here.until_told(node)
            # the thread that waits for the file keeps nobody from ending
            status, said = node.hostd.end()
            assert (status, "Traceback" in said) == (0, False), said
            node.hostd = node.both.hostd()
            node.say(AT_ONCE)
            await here.until_told(node)
            assert (await here.admin.node(NODE)).units_free == 0
        node.say()
        await here.until(lambda: here.admin.node(NODE), lambda view: view.units_free > 0)
        await here.until_told(node)
        await here.until_held(node)
        node.end()
