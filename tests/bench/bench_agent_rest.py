"""The agent at rest: memory and processor time of hostd, the network process and their children.

Budget (DESIGN): at most 60 MB RSS and 0.2% of a core. A host of 31 functions is replayed and looked
at every 60 s; a coordinator hears a heartbeat every 10 s over TLS. Compared with the budget are
`agent_rest_cpu` and `agent_rest_memory`, in which a page that several of the processes have counts
once: RSS counts it for each, and PSS is smaller the more other Pythons run on this machine. What
nothing of ours can go below is printed beside it as `agent_rest_floor`: two Pythons, one that can
keep and one that has spoken a session's first words.

Modules are compiled before, as in an installation. VFIOCTL_REST_SECONDS is how long processor time
is counted (default 600), VFIOCTL_REST_ROOT another host, `/` for this one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.agent_side import House, make_house
from tests.cluster.two_processes import Half, halves
from tests.fakes.recording_coordinator import RecordingCoordinator, Stream

pytestmark = [pytest.mark.bench, pytest.mark.timeout(0)]

SECONDS = int(os.environ.get("VFIOCTL_REST_SECONDS", "600"))
ROOT = os.environ.get("VFIOCTL_REST_ROOT", "")
CAPTURE = Path(__file__).parents[1] / "data" / "hosts" / "m3-intel-6.1.tar.gz"
HEARTBEAT_MS = 10_000
OBSERVATION_MS = 60_000

MB = 1024
"""In KiB."""

# What each process must load whatever we write: its way to keep, its way to speak.
HOSTD_FLOOR = """
import argparse, dataclasses, hashlib, json, logging, pathlib, socket, sqlite3, subprocess
print(flush=True)
input()
"""
NETWORK_FLOOR = """
import argparse, dataclasses, logging, os, pathlib, queue, sys
os.environ["GRPC_VERBOSITY"] = "NONE"
import grpc
from vfioctl.v1.session_pb2 import Heartbeat, Hello, SessionRequest
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

tls = [pathlib.Path(sys.argv[1], name).read_bytes() for name in ("ca.pem", "key.pem", "cert.pem")]
channel = grpc.secure_channel(sys.argv[2], grpc.ssl_channel_credentials(*tls))
words = queue.SimpleQueue()
words.put(SessionRequest(hello=Hello(protocol_min=1, protocol_max=1, node="pve07")))
answers = AgentSessionServiceStub(channel).Session(iter(words.get, None))
next(answers)
words.put(SessionRequest(heartbeat=Heartbeat()))
print(flush=True)
input()
words.put(None)
"""

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ (\d+)\s*(.*)")


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in KiB (proc_pid_smaps(5)); `shared` by file and offset."""

    rss: int
    pss: int
    uss: int
    anonymous: int
    shared: dict[tuple[str, str], int]


def memory_of(pid: int) -> Memory:
    sums = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous"), 0)
    shared: dict[tuple[str, str], int] = {}
    where = ("", "")
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := _MAPPING.fullmatch(line):
            where = (mapping[3], mapping[1]) if mapping[2] != "0" else ("", "")
            continue
        word, _, rest = line.partition(":")
        if word in sums:
            size = int(rest.split()[0])
            sums[word] += size
            if where[0] and word in ("Rss", "Anonymous"):
                shared[where] = shared.get(where, 0) + (size if word == "Rss" else -size)
    uss = sums["Private_Clean"] + sums["Private_Dirty"]
    return Memory(sums["Rss"], sums["Pss"], uss, sums["Anonymous"], shared)


def together(memories: Iterable[Memory]) -> int:
    """KiB, each page of a file once: the process that has most of a mapping counts for all."""
    files: dict[tuple[str, str], int] = {}
    anonymous = 0
    for memory in memories:
        anonymous += memory.anonymous
        for where, size in memory.shared.items():
            files[where] = max(files.get(where, 0), size)
    return anonymous + sum(files.values())


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def cpu_s(pid: int) -> float:
    """Seconds of processor time so far, with all children (proc_pid_stat(5), fields 14 to 17)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_s(child) for child in children_of(pid))


def floors_of(house: House) -> list[Memory]:
    """Of Pythons that only can keep, and only have spoken a session's first words."""
    with RecordingCoordinator(house.server) as coordinator:
        hostd = waiting(HOSTD_FLOOR)
        network = waiting(NETWORK_FLOOR, str(house.node), coordinator.endpoint)
        with hostd, network:
            stream = coordinator.next_stream()
            stream.hear("hello")
            stream.welcome()
            stream.hear("heartbeat", beats=True)
            return [settled(hostd), settled(network)]


def waiting(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A Python that prints a line when it has nothing more to do, and ends on one."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def settled(bare: subprocess.Popen[bytes]) -> Memory:
    """Once it waits; it is ended."""
    assert bare.stdout is not None
    bare.stdout.readline()
    memory = memory_of(bare.pid)
    bare.communicate(b"\n")
    return memory


@contextmanager
def running(house: House, root: Path) -> Iterator[tuple[dict[str, Half], Stream]]:
    """Both halves, and a session that has had its first observation."""
    with (
        RecordingCoordinator(house.server) as coordinator,
        halves(house.node, root, coordinator.endpoint) as both,
    ):
        parts = {"hostd": both.hostd(), "network": both.network()}
        stream = coordinator.next_stream()
        stream.hear("hello")
        stream.welcome(heartbeat_interval_ms=HEARTBEAT_MS, observation_interval_ms=OBSERVATION_MS)
        stream.hear("inventory")
        stream.acknowledge(stream.hear("observation").sequence)
        stream.hear("heartbeat", "observation", "inventory", beats=True)
        yield parts, stream


def listen(stream: Stream, seconds: float) -> tuple[float, int]:
    """Hear what comes for so long, and take each observation: seconds, observations."""
    began, looks = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        word = stream.hear("heartbeat", "observation", "inventory", beats=True)
        if type(word).__name__ == "Observation":
            looks += 1
            stream.acknowledge(word.sequence)
    return time.monotonic() - began, looks


def say(name: str, size_kib: int) -> None:
    print(f"agent_rest_{name} {size_kib / MB:.1f} MB")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if ROOT:
        return Path(ROOT)
    with tarfile.open(CAPTURE) as tar:
        tar.extractall(tmp_path / "host")  # our own capture; Debian 12's Python has no filters yet
    return tmp_path / "host"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where what is compiled is kept."""
    with tempfile.TemporaryDirectory(prefix="vfio-compiled-") as name:
        os.chmod(name, 0o777)  # the network process is another user
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        monkeypatch.setenv("PYTHONPYCACHEPREFIX", name)
        yield


def test_agent_at_rest(tmp_path: Path, root: Path) -> None:
    house = make_house(tmp_path)
    with running(house, root):
        pass  # all is compiled now: that leaves holes in a heap which an installation never has
    with running(house, root) as (parts, stream):
        used = {name: cpu_s(half.pid) for name, half in parts.items()}
        passed, looks = listen(stream, SECONDS)
        shares = {n: (cpu_s(half.pid) - used[n]) / passed * 100 for n, half in parts.items()}
        memories = {name: memory_of(half.pid) for name, half in parts.items()}
        children = [memory_of(c) for half in parts.values() for c in children_of(half.pid)]

    print()
    for name, memory in memories.items():
        say(f"{name}_rss", memory.rss)
        say(f"{name}_pss", memory.pss)
        say(f"{name}_uss", memory.uss)
        print(f"agent_rest_{name}_cpu {shares[name]:.3f} %")
    everything = [*memories.values(), *children]
    floors = floors_of(house)
    print(f"agent_rest_children {len(children)} processes")
    say("rss", sum(memory.rss for memory in everything))
    say("pss", sum(memory.pss for memory in everything))
    say("floor_rss", sum(memory.rss for memory in floors))
    say("floor", together(floors))
    say("memory", together(everything))
    print(f"agent_rest_looks {looks} in {passed:.0f} s")
    print(f"agent_rest_cpu {sum(shares.values()):.3f} %")
