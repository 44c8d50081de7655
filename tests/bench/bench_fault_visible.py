"""From a host's kernel log to who watches the cluster: `name value unit`, no limits asserted.

A captured host says that a function did not come back from its reset. The clock runs from the line
in its log to the event at a watcher of the coordinator, and to the node's row with a unit less:
through hostd, its journal, the network process, gRPC, the coordinator's store and its publisher.
The trials come at random moments, as faults do. VFIOCTL_FAULT_TRIALS is how many (default 200). It
runs under `make bench`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from tests.cluster.noticing import NODE, Scene, scene, unpack

pytestmark = [pytest.mark.bench, pytest.mark.timeout(0)]

TRIALS = int(os.environ.get("VFIOCTL_FAULT_TRIALS", "200"))
HOST = "m3-intel-6.1"
PAUSE_S = 2.0
"""At most, between two trials: a fault every second, which no limit of the agent's holds back."""

FAULT = "vfio-pci {}: not ready 65535ms after FLR; giving up"


async def measure(here: Scene, address: str, *, left: int) -> tuple[float, float]:
    """Milliseconds until the event and until the row."""
    began = time.perf_counter()
    here.say(FAULT.format(address))
    told = shown = 0.0
    while not (told and shown):
        change = await here.stream.hear()
        now = (time.perf_counter() - began) * 1_000
        if any(e.code == "KERNEL_LINE" and address in e.text for e in change.events):
            told = told or now
        if any(n.name == NODE and n.units_free < left for n in change.nodes):
            shown = shown or now
    return told, shown


async def run(folder: Path, trials: int) -> tuple[list[float], list[float]]:
    told: list[float] = []
    shown: list[float] = []
    chance = random.Random(0)
    for number in range(trials):
        if len(told) >= trials:
            break
        root = unpack(HOST, folder / f"root{number}")
        async with scene(folder / f"s{number}", root) as here:
            while (free := await here.free()) and len(told) < trials:
                await asyncio.sleep(chance.uniform(0.0, PAUSE_S))
                event_ms, row_ms = await measure(here, free[0], left=len(free))
                told.append(event_ms)
                shown.append(row_ms)
    return told, shown


def report(name: str, values: list[float]) -> None:
    values = sorted(values)
    for percent in (50, 99):
        print(f"{name}_p{percent} {values[len(values) * percent // 100]:.0f} ms")
    print(f"{name}_max {values[-1]:.0f} ms")


def test_bench_fault_visible(tmp_path: Path) -> None:
    told, shown = asyncio.run(run(tmp_path, TRIALS))
    print(f"\nfault_visible_trials {len(told)} faults")
    report("fault_visible_event", told)
    report("fault_visible_unit", shown)
