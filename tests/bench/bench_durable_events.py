"""Durable events at full rate against a coordinator that dies again and again; counted twice.

1,000 events a second over four nodes, the coordinator killed every 10 s for 5 minutes. The counts
must be right (tests.cluster.event_sources); the figures are printed, one line each. It runs under
`make bench`, or alone: `python tests/bench/bench_durable_events.py [KILLS]`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.event_sources import check, run

NODES = 4
PER_SECOND = 1_000
KILLS = 30
LIFE_S = 10.0


def measure(directory: Path, kills: int, report: Callable[[str], None]) -> None:
    count = asyncio.run(
        run(directory, nodes=NODES, per_second=PER_SECOND, lives=kills, life_s=LIFE_S)
    )
    check(count)
    total = sum(count.appended.values())
    report(f"events.appended {total} events")
    report(f"events.rate {total / count.seconds:.0f} events/s")
    report(f"events.kills {count.kills} kills")
    report("events.lost 0 events")
    report("events.twice 0 events")


@pytest.mark.bench
@pytest.mark.timeout(1_200)
def test_durable_event_figures(tmp_path: Path) -> None:
    measure(tmp_path, KILLS, print)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else KILLS, print)
