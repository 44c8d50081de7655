"""Durable events against a coordinator that is killed: none lost, none twice, counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.event_sources import check, run

NODES = 4
PER_SECOND = 1_000
LIVES = 3
LIFE_S = 9.0


@pytest.mark.timeout(240)
async def test_thirty_seconds_of_kills_lose_no_event_and_repeat_none(tmp_path: Path) -> None:
    count = await run(tmp_path, nodes=NODES, per_second=PER_SECOND, lives=LIVES, life_s=LIFE_S)
    check(count)
    total = sum(count.appended.values())
    assert count.kills == LIVES
    print(f"{total} events in {count.seconds:.0f} s, {count.kills} kills")
