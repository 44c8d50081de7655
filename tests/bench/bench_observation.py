"""What an observation of an unchanged host costs, whole and in parts: `name value unit`.

The agent's own packing and words go through the coordinator's reading and reducer. Of each look
only the clock and the free memory differ, and two findings that name them. The last figures are
what the coordinator keeps of an observation to compare the next with. It runs under `make bench`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from tests.cluster.noticing import HOSTS
from tests.fakes.sysfs_tree import SysfsTree, make_big_host
from tests.unit.state.cluster import Agent, Cluster
from vfio_agent.checks import in_order
from vfio_agent.inspect import Inspection, inspect_host
from vfio_agent.session.outbox import Packer
from vfio_agent.session.telling import Telling
from vfio_contract.model import Memory
from vfio_coordinator.api.messages import read_message
from vfio_coordinator.state.events import ObservationChanged, ObservationReceived
from vfioctl.v1.session_pb2 import SessionRequest

ROUNDS = 20
MOVING = ("memory-headroom", "host-contention")
NODE = "pve01"


def measure(name: str, seen: Inspection, *, in_parts: bool, report: Callable[[str], None]) -> None:
    cluster, agent = Cluster(), Agent(NODE, seen.snapshot)
    cluster.hello(agent)
    cluster.inventory(agent)
    telling, packer = Telling(in_parts=in_parts), Packer()
    spent: dict[str, list[float]] = {"pack": [], "say": [], "read": [], "apply": []}
    sizes: list[int] = []
    for number in range(ROUNDS):
        readings = replace(
            seen.snapshot.readings, uptime_seconds=number, memory=Memory(number, 0, 0, 0)
        )
        findings = tuple(
            replace(f, meaning=str(number)) if f.check in MOVING else f
            for f in in_order(seen.report.findings)
        )
        moments = [time.process_time()]
        snapshot = replace(seen.snapshot, readings=readings)
        observed = packer.pack(snapshot, findings, checks_version="c", at_s=0.0)
        moments.append(time.process_time())
        message = telling.say(observed)
        data = SessionRequest(observation=message).SerializeToString()
        moments.append(time.process_time())
        held = cluster.state.nodes[NODE].observation
        heard = read_message(SessionRequest.FromString(data), NODE, agent.session, held)
        assert isinstance(heard, ObservationReceived | ObservationChanged)
        moments.append(time.process_time())
        cluster.send(heard)
        moments.append(time.process_time())
        telling.hold(message.sequence)
        sizes.append(len(data))
        for part, began, ended in zip(spent, moments, moments[1:], strict=False):
            spent[part].append((ended - began) * 1_000)
    report(f"{name}.first {sizes[0]} bytes")
    report(f"{name}.each {median(sizes[1:]):.0f} bytes")
    for part, values in spent.items():
        report(f"{name}.{part} {median(values[1:]):.2f} ms")
    held = cluster.state.nodes[NODE].observation
    parts = None if held is None else held.parts
    kept = 0 if parts is None else len(parts.digests + parts.first + parts.later)
    report(f"{name}.kept {kept} bytes")


@pytest.mark.bench
def test_observation_figures(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path / "big")
    make_big_host(tree, functions=256)
    print()
    for name, root in (("lab31", HOSTS / "m3-intel-6.1.tar.gz"), ("big256", tree.top)):
        seen = inspect_host(str(root))
        measure(f"observation.{name}.whole", seen, in_parts=False, report=print)
        measure(f"observation.{name}.parts", seen, in_parts=True, report=print)
