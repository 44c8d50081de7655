"""Bad weather at full length: a partition of 30 s and a coordinator that is frozen for a minute.

The same spells run with the tests, as short as it takes to notice them. Nothing may be lost, told
twice or out of order (tests.cluster.outdoors); how soon it is noticed, and over, is printed, one
line each. It runs under `make bench`, and needs root.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.outdoors import Spell
from tests.cluster.test_weather_frozen import frozen_coordinator
from tests.cluster.test_weather_wire import partition
from tests.cluster.weather import NEEDS_ROOT

PARTITION_S = 30.0
FROZEN_S = 60.0


def measure(directory: Path, report: Callable[[str], None]) -> None:
    spell = asyncio.run(partition(directory / "p", directory / "p-root", seconds=PARTITION_S))
    tell("partition", spell, report)
    spell = asyncio.run(frozen_coordinator(directory / "f", directory / "f-root", seconds=FROZEN_S))
    tell("frozen", spell, report)


def tell(name: str, spell: Spell, report: Callable[[str], None]) -> None:
    figures = {
        "lasted": spell.lasted_s,
        "agent_noticed": spell.agent_s,
        "coordinator_noticed": spell.coordinator_s,
        "back_after": spell.back_s,
    }
    for what, seconds in figures.items():
        if seconds is not None:
            report(f"weather.{name}.{what} {seconds:.1f} s")
    report(f"weather.{name}.lost 0 events")
    report(f"weather.{name}.twice 0 events")


@pytest.mark.bench
@pytest.mark.timeout(600)
@NEEDS_ROOT
def test_weather_figures(tmp_path: Path) -> None:
    measure(tmp_path, print)
