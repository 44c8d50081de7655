"""What 50 quiet agents notice of one that floods: `name value unit`.

Each quiet agent looks every 2.5 s; a latency runs from saying an observation to being told that it
is held. Beside them either nobody, or one agent that says heartbeats as fast as they are taken, or
one that says observations so, for 10 s each; one that is cut off comes back at once, and has only
what processor time the others leave. Hosts have 22 functions. It runs under `make bench`, or alone:
`python -m tests.bench.bench_flood`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.bench.bench_place import hardware
from tests.bench.bench_watch import cpu_s
from tests.cluster.agents import Agent, secure_channel
from tests.cluster.processes import Process, serving
from tests.fakes.snapshots import make_snapshot
from vfio_contract.bundle import load_bundle
from vfioctl.v1 import session_pb2
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

QUIET = 50
SECONDS = 10.0
PERIOD_S = 2.5
WILD = "wild"


def make_agent(channel: Any, node: str, number: int) -> Agent:
    return Agent(node, channel, make_snapshot(*hardware(), boot_id=f"boot-{number}"), number)


async def tell(agent: Agent, told: session_pb2.Observation) -> float:
    """Milliseconds until one observation is held."""
    agent.sequence += 1
    told.sequence = agent.sequence
    began = time.perf_counter()
    await agent.stream.say(observation=told)
    while (await agent.stream.hear_one("acknowledged")).sequence < agent.sequence:
        pass
    return (time.perf_counter() - began) * 1_000


async def live(agent: Agent, phase_s: float, until_s: float) -> list[float]:
    """One quiet agent's latencies."""
    told = agent.observation()
    took = []
    await asyncio.sleep(phase_s)
    while time.monotonic() < until_s:
        took.append(await tell(agent, told))
        await asyncio.sleep(max(0.0, PERIOD_S - took[-1] / 1_000))
    return took


async def measure(state: Path) -> None:
    nodes = [f"quiet-{number:02}" for number in range(QUIET)]
    options = [word for node in (*nodes, WILD) for word in ("--node", node)]
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(serving(state, *options))
        agents = []
        for number, node in enumerate(nodes):
            opened = secure_channel(process.endpoint, load_bundle(state / "nodes" / node))
            agent = make_agent(await stack.enter_async_context(opened), node, number)
            await agent.join()
            agents.append(agent)
        for storm in ("none", "heartbeats", "looks"):
            await measure_storm(state, process, agents, storm)


async def measure_storm(state: Path, process: Process, agents: Sequence[Agent], storm: str) -> None:
    wild = None
    if storm != "none":
        wild = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.bench.bench_flood", storm, str(state), process.endpoint),
            stdout=asyncio.subprocess.PIPE,
        )
        assert wild.stdout is not None
        await wild.stdout.readline()
    spent, until_s = cpu_s(process.pid), time.monotonic() + SECONDS
    rows = await asyncio.gather(
        *(live(agent, n * PERIOD_S / QUIET, until_s) for n, agent in enumerate(agents))
    )
    spent = cpu_s(process.pid) - spent
    if wild is not None:
        wild.kill()
        await wild.wait()
    took = sorted(value for row in rows for value in row)
    print(f"flood.{storm}.latency_p50 {took[len(took) // 2]:.0f} ms")
    print(f"flood.{storm}.latency_p99 {took[len(took) * 99 // 100]:.0f} ms")
    print(f"flood.{storm}.latency_worst {took[-1]:.0f} ms")
    print(f"flood.{storm}.server_cpu {spent / SECONDS:.2f} of_one_core")


def flood(storm: str, state: Path, endpoint: str) -> None:
    """Until the process is killed."""
    os.nice(19)
    bundle = load_bundle(state / "nodes" / WILD)
    agent = make_agent(None, WILD, 99)
    told = agent.observation()
    beat = session_pb2.SessionRequest(heartbeat=session_pb2.Heartbeat())
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
    print("begins", flush=True)

    def words() -> Any:
        yield session_pb2.SessionRequest(hello=agent.hello())
        yield session_pb2.SessionRequest(inventory=agent.inventory())
        while True:
            told.sequence += 1
            looks = storm == "looks"
            yield session_pb2.SessionRequest(observation=told) if looks else beat

    while True:
        with (
            suppress(grpc.RpcError),
            grpc.secure_channel(endpoint, credentials) as channel,
        ):
            for _ in AgentSessionServiceStub(channel).Session(words()):
                pass


@pytest.mark.bench
def test_flood_figures(tmp_path: Path) -> None:
    asyncio.run(measure(tmp_path / "s"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        flood(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder) / "s"))
