"""A whole fleet that comes back after the coordinator was killed: `name value unit`.

N agents with mutual TLS and a connection each, from a few processes on the same machine, of hosts
with 22 functions. They say what an agent says and wait as one waits (`session.backoff`); only their
hosts and their journals are left out. The coordinator is killed, starts again on the same port, and
the time runs from its start until the last of them has been told that its observation is held. In
the meantime an operator asks again and again. What 10,000 would take is a ratio, and honest only as
far as everything grows evenly: the agents' own work, about as much as the coordinator's, is done on
the same cores here. It runs under `make bench`, or alone:
`python -m tests.bench.bench_reconnect [AGENTS]`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.bench.bench_place import hardware
from tests.bench.bench_watch import cpu_s, median, rss_kb
from tests.cluster.processes import Process, serving
from tests.cluster.test_coordinator_restart import admin_of
from tests.fakes.snapshots import make_snapshot
from vfio_agent.checks import checks_version, judge
from vfio_agent.session.backoff import Backoff
from vfio_agent.session.ending import read_status
from vfio_agent.session.link import CHANNEL_OPTIONS
from vfio_agent.session.outbox import Observed, Packer, seconds_up
from vfio_agent.session.telling import Telling
from vfio_agent.session.words import inventory_of
from vfio_contract.bundle import load_bundle
from vfio_contract.host import Host
from vfio_coordinator.pki import Authority
from vfioctl.v1 import session_pb2
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

AGENTS = 500
PROCESSES = 4
BUDGET_AGENTS, BUDGET_S = 10_000, 60.0
TIMEOUT_S = 600.0
WELCOME_S = 20.0
BEAT_S = 2.7


def name_of(number: int) -> str:
    return f"node-{number:05}"


def look() -> Observed:
    snapshot = make_snapshot(*hardware(), boot_id="boot-1")
    findings = judge(Host(snapshot)).findings
    return Packer().pack(snapshot, findings, checks_version=checks_version(), at_s=seconds_up())


# --- agents --------------------------------------------------------------------------------------


class FakeAgent:
    """One node; what it says is made once for all."""

    def __init__(self, number: int, state: Path, endpoint: str, observed: Observed) -> None:
        self.number = number
        self._bundle = load_bundle(state / "nodes" / name_of(number))
        self._endpoint = endpoint
        self._observed = observed
        self._sent_away = 0

    async def live(self) -> None:
        backoff = Backoff(random.uniform)
        while True:
            try:
                await self._session(backoff)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                ended = read_status(error) if isinstance(error, grpc.RpcError) else None
                named_s = ended.retry_after_s if ended is not None else 0.0
                self._sent_away += named_s > 0
                slow = ended is not None and ended.slow
                await asyncio.sleep(backoff.next_delay(slow=slow, named_s=named_s))

    async def _session(self, backoff: Backoff) -> None:
        bundle = self._bundle
        credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
        async with grpc.aio.secure_channel(
            self._endpoint, credentials, options=CHANNEL_OPTIONS
        ) as channel:
            stub: Any = AgentSessionServiceStub(channel)
            call = stub.Session()
            async with asyncio.timeout(WELCOME_S):
                await call.write(session_pb2.SessionRequest(hello=self._hello()))
                response = await call.read()
            if response is grpc.aio.EOF:
                return
            telling = Telling(in_parts=response.welcome.takes_parts)
            if not response.welcome.inventory_held:
                await call.write(session_pb2.SessionRequest(inventory=inventory_of(self._observed)))
            await call.write(session_pb2.SessionRequest(observation=telling.say(self._observed)))
            beats = asyncio.create_task(_beat(call))
            try:
                while (response := await call.read()) is not grpc.aio.EOF:
                    if response.WhichOneof("body") == "acknowledged":
                        backoff.succeed()
                        print(f"current {self.number} {time.monotonic()} {self._sent_away}")
                        self._sent_away = 0
            finally:
                beats.cancel()

    def _hello(self) -> session_pb2.Hello:
        return session_pb2.Hello(
            protocol_min=1,
            protocol_max=1,
            node=name_of(self.number),
            boot_id=self._observed.boot_id,
            product_uuid=f"00000000-0000-4000-8000-{self.number:012}",
            agent_state_id=f"state-{self.number}",
            inventory_digest=self._observed.digest,
            agent_version="bench",
        )


async def _beat(call: Any) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        await call.write(session_pb2.SessionRequest(heartbeat=session_pb2.Heartbeat()))


async def run_agents(state: Path, endpoint: str, numbers: Sequence[int]) -> None:
    """Until the process is killed."""
    observed = look()
    await asyncio.gather(
        *(FakeAgent(number, state, endpoint, observed).live() for number in numbers)
    )


class Fleet:
    """Processes of agents, and when each of them was last told that it is current."""

    def __init__(self, agents: int) -> None:
        self.agents = agents
        self.current: dict[int, float] = {}
        self.sent_away = 0
        self.changed = asyncio.Event()

    async def read(self, stdout: asyncio.StreamReader) -> None:
        while line := (await stdout.readline()).split():
            self.current[int(line[1])] = float(line[2])
            self.sent_away += int(line[3])
            self.changed.set()

    async def all_current(self, since: float) -> list[float]:
        """Seconds after `since` at which each became current, sorted."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.current) < self.agents or min(self.current.values()) < since:
                self.changed.clear()
                await self.changed.wait()
        return sorted(at - since for at in self.current.values())


@asynccontextmanager
async def fleet(state: Path, endpoint: str, agents: int) -> AsyncIterator[Fleet]:
    made = Fleet(agents)
    running, readers = [], []
    for first in range(PROCESSES):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.bench.bench_reconnect", "agents", str(state), endpoint),
            *(str(number) for number in (first, agents, PROCESSES)),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "NONE"},
        )
        assert process.stdout is not None
        running.append(process)
        readers.append(asyncio.create_task(made.read(process.stdout)))
    try:
        yield made
    finally:
        for process in running:
            process.kill()
        await asyncio.gather(*readers, *(process.wait() for process in running))


# --- the measure ---------------------------------------------------------------------------------


async def ask(state: Path, asked: list[float], ages: list[float]) -> None:
    """As an operator: the status twice a second, and every 2 s how long each was not heard."""
    async with admin_of(state) as admin:
        listed = 0.0
        while True:
            began = time.perf_counter()
            await admin.call("GetStatus")
            asked.append((time.perf_counter() - began) * 1_000)
            if time.monotonic() - listed > 2.0:
                response = await admin.call("ListNodes")
                ages += [view.heard_age_s for view in response.nodes if view.heard_age_s >= 0]
                listed = time.monotonic()
            await asyncio.sleep(0.5)


async def count_lost(state: Path) -> int:
    async with admin_of(state) as admin:
        response = await admin.call("ListNodes")
        return sum(view.state == "lost" for view in response.nodes)


async def measure(state: Path, agents: int) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(state))
        authority = Authority.open_or_create(state / "ca", now=datetime.now(UTC))
        for number in range(agents):
            authority.ensure_node_bundle(name_of(number), state / "nodes" / name_of(number))
        idle = rss_kb(first.pid)
        began = time.monotonic()
        herd = await stack.enter_async_context(fleet(state, first.endpoint, agents))
        await herd.all_current(began)
        print(f"reconnect.memory {(rss_kb(first.pid) - idle) / agents:.0f} KB/agent")
        first.kill()
        await first.ended()
        started = time.monotonic()
        async with serving(state, "--listen", first.endpoint) as again:
            await measure_return(state, again, herd, started)


async def measure_return(state: Path, again: Process, herd: Fleet, started: float) -> None:
    asked: list[float] = []
    ages: list[float] = []
    agents, herd.sent_away = herd.agents, 0
    listening, spent = time.monotonic(), cpu_s(again.pid)
    asking = asyncio.create_task(ask(state, asked, ages))
    took = await herd.all_current(started)
    asking.cancel()
    spent = cpu_s(again.pid) - spent
    per_agent_s = spent / agents
    print(f"reconnect.agents {agents} agents")
    print(f"reconnect.restart {listening - started:.2f} s")
    print(f"reconnect.current_p50 {median(took):.1f} s")
    print(f"reconnect.all_current {took[-1]:.1f} s")
    print(f"reconnect.server_cpu {per_agent_s * 1_000:.1f} ms/agent")
    print(f"reconnect.sent_away {herd.sent_away} times")
    print(f"reconnect.worst_heartbeat_age {max(ages, default=-1.0):.1f} s")
    print(f"reconnect.called_lost {await count_lost(state)} nodes")
    asked.sort()
    print(f"reconnect.operator_p50 {median(asked):.0f} ms")
    print(f"reconnect.operator_worst {asked[-1]:.0f} ms")
    rate = agents / (took[-1] - (listening - started))
    print(f"reconnect.rate {rate:.0f} agents/s")
    print(f"reconnect.budget_ratio {BUDGET_AGENTS / rate / BUDGET_S:.2f} of_60_s_for_10000")
    print(f"reconnect.budget_ratio_cpu {per_agent_s * BUDGET_AGENTS / BUDGET_S:.2f} of_one_core")


@pytest.mark.bench
@pytest.mark.timeout(1_200)
def test_reconnect_figures(tmp_path: Path) -> None:
    asyncio.run(measure(tmp_path / "s", AGENTS))


def main(words: Sequence[str]) -> None:
    if words and words[0] == "agents":
        _, state, endpoint, first, agents, step = words
        numbers = range(int(first), int(agents), int(step))
        asyncio.run(run_agents(Path(state), endpoint, numbers))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder) / "s", int(words[0]) if words else AGENTS))


if __name__ == "__main__":
    main(sys.argv[1:])
