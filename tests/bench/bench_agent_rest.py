"""The agent at rest: memory and processor time of hostd and the network process.

Budget (DESIGN): together at most 60 MB RSS and 0.2% of a core. This host itself is looked at every
60 s, the coordinator hears a heartbeat every 10 s. PSS counts a page that both have once.
VFIOCTL_REST_SECONDS is how long processor time is counted (default 120; the issue asks for 600).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.cluster.agent_side import make_house
from tests.cluster.two_processes import Half, halves
from tests.fakes.recording_coordinator import RecordingCoordinator

pytestmark = [pytest.mark.bench, pytest.mark.timeout(0)]

SECONDS = int(os.environ.get("VFIOCTL_REST_SECONDS", "120"))
HEARTBEAT_MS = 10_000


def memory_kib(half: Half, word: str) -> int:
    """`Rss` or `Pss` of a process, in KiB (proc_pid_smaps(5))."""
    text = Path(f"/proc/{half.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{word}:"))


def cpu_s(half: Half) -> float:
    """Seconds of processor time so far, user and system (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{half.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_agent_at_rest(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    with (
        RecordingCoordinator(house.server) as coordinator,
        halves(house.node, Path("/"), coordinator.endpoint) as both,
    ):
        hostd, network = both.hostd(), both.network()
        stream = coordinator.next_stream()
        stream.hear("hello")
        stream.welcome(heartbeat_interval_ms=HEARTBEAT_MS)
        stream.hear("inventory")
        stream.hear("observation")
        stream.hear("heartbeat", beats=True)
        began, used = time.monotonic(), {half: cpu_s(half) for half in both.started}
        while time.monotonic() - began < SECONDS:
            stream.hear("heartbeat", "observation", "inventory", beats=True)
        passed = time.monotonic() - began
        print()
        total = 0.0
        for name, half in (("hostd", hostd), ("network", network)):
            percent = (cpu_s(half) - used[half]) / passed * 100
            total += percent
            print(f"agent_rest_{name}_rss {memory_kib(half, 'Rss') / 1024:.1f} MB")
            print(f"agent_rest_{name}_pss {memory_kib(half, 'Pss') / 1024:.1f} MB")
            print(f"agent_rest_{name}_cpu {percent:.3f} %")
        for word in ("Rss", "Pss"):
            both_kib = sum(memory_kib(half, word) for half in (hostd, network))
            print(f"agent_rest_{word.lower()} {both_kib / 1024:.1f} MB")
        print(f"agent_rest_cpu {total:.3f} %")
