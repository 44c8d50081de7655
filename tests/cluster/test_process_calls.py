"""What each half of the agent asks the kernel for, seen by strace: no host there, no network here.

From the first instruction to a clean end, with sessions, a restart of the other half, and all
threads. Failed attempts count too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.agent_side import House, make_house
from tests.cluster.two_processes import Halves, halves
from tests.fakes.recording_coordinator import RecordingCoordinator
from tests.fakes.sysfs_tree import SysfsTree
from vfioctl.v1.session_pb2 import Observation

pytestmark = pytest.mark.strace

COUNTING = re.compile(r"/sys/devices/system/cpu/(online|cpu0/tsc_freq_khz)")
"""libc counts processors there for gRPC's threads; the unit makes even that inaccessible."""

PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
FORBIDDEN = re.compile(
    r"/sys(/|$)|/dev/(kmsg|vfio|kvm|mem|cpu)|/proc/([0-9]+|self)/fd(/|$)|/etc/(pve|libvirt)"
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def coordinator(house: House) -> Iterator[RecordingCoordinator]:
    with RecordingCoordinator(house.server) as server:
        yield server


@pytest.fixture
def both(house: House, tmp_path: Path, coordinator: RecordingCoordinator) -> Iterator[Halves]:
    tree = SysfsTree(tmp_path / "root")
    tree.host(boot_id="boot-1")
    tree.iommu()
    with halves(house.node, tmp_path / "root", coordinator.endpoint) as made:
        yield made


def traced(log: Path, calls: str) -> tuple[str, ...]:
    return (
        "strace",
        "--daemonize",
        "--follow-forks",
        "--quiet=all",
        f"--trace={calls}",
        f"--output={log}",
    )


def test_the_network_process_opens_nothing_of_the_host(
    both: Halves, coordinator: RecordingCoordinator, tmp_path: Path
) -> None:
    log = tmp_path / "network.strace"
    hostd = both.hostd()
    network = both.network(prefix=traced(log, "%file,%network"))
    first = coordinator.next_stream()
    first.hear("hello")
    first.welcome(observation_interval_ms=1_000, heartbeat_interval_ms=100)
    first.hear("inventory")
    first.hear("observation")
    hostd.end()
    both.hostd()
    network.until("hostd is back")
    first.end()
    second = coordinator.next_stream()
    second.hear("hello")
    second.welcome(held=True)
    while not isinstance(second.hear("journal", "observation"), Observation):
        pass  # hostd's return may be heard before or after what it saw
    assert network.end()[0] == 0
    calls = log.read_text().splitlines()
    assert any("hostd.sock" in call for call in calls), "strace saw nothing"
    assert any("/tls/key.pem" in call for call in calls), "strace saw nothing"
    paths = {path for call in calls for path in PATH.findall(call)}
    touched = {path for path in paths if FORBIDDEN.match(path) and not COUNTING.fullmatch(path)}
    assert touched == set()
    begun = next(at for at, call in enumerate(calls) if "hostd.sock" in call)
    late = [call for call in calls[begun:] if re.search(r"open.*\.(py|pyc|so)\"", call)]
    assert late == [], "it imports after it gave up root"


def test_hostd_opens_no_network(
    both: Halves, coordinator: RecordingCoordinator, tmp_path: Path
) -> None:
    log = tmp_path / "hostd.strace"
    both.root = Path("/")
    hostd = both.hostd(prefix=traced(log, "%network,execve"))
    both.network()
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome()
    stream.hear("inventory")
    stream.hear("observation")
    assert hostd.end()[0] == 0
    calls = log.read_text().splitlines()
    assert any("AF_UNIX" in call for call in calls), "strace saw nothing"
    assert [call for call in calls if "AF_INET" in call or "AF_PACKET" in call] == []
    started = [call for call in calls if "execve(" in call and "vfioctl-reader" not in call]
    assert len(started) == 1, "it starts programs beside itself and what reads for it"
