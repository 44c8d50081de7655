"""What watching costs: `name value unit`, no limits asserted.

`watch.mirror`: a state of 10,000 nodes of 8 units, compared and told. `watch.stream.N`: N watchers
with mutual TLS on one real coordinator process; latencies begin when the change is asked for, so
they hold its commit, and the reading of all watchers in this one process. It runs under
`make bench`, or alone: `python -m tests.bench.bench_watch`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest

from tests.bench.bench_place import Machine, hardware
from tests.cluster.processes import Process, serving
from tests.cluster.test_coordinator_restart import admin_of, ready_agent
from tests.cluster.users import OPTIONS, User, Watch
from tests.fakes.snapshots import make_host
from tests.unit.scheduler.findings import passing
from vfio_contract.artifact import compress, encode
from vfio_contract.bundle import Bundle, load_bundle
from vfio_contract.codec import to_message
from vfio_contract.views import WatchKind
from vfio_coordinator.mirror import Mirror
from vfio_coordinator.peer import Role
from vfio_coordinator.pki import Authority
from vfio_coordinator.scheduler.index import put
from vfio_coordinator.state.events import InventoryReceived, NodeHello, Now, ObservationReceived
from vfio_coordinator.state.model import State

NODES = 10_000
WATCHERS = (50, 1_000)
CHANNELS = 20
ROUNDS = 40
NODE = "pve01"


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1_000


def fleet() -> State:
    """One node that joined, 10,000 times over."""
    host = make_host(*hardware())
    facts, readings, machine = host.facts, host.readings, Machine()
    machine.send(
        NodeHello(
            node="node",
            session=1,
            boot_id=readings.boot_id or "",
            product_uuid="node",
            agent_state_id="",
            agent_version="bench",
            inventory_digest="sha256:bench",
            cluster_id="",
            highest_incarnation=0,
            highest_epoch=0,
        )
    )
    machine.send(
        InventoryReceived(
            node="node",
            session=1,
            digest="sha256:bench",
            facts=facts,
            facts_zlib=compress(encode(facts)),
        )
    )
    machine.send(
        ObservationReceived(
            node="node",
            session=1,
            sequence=1,
            inventory_digest="sha256:bench",
            readings=readings,
            findings=passing(host),
            age_s=0.0,
            checks_version="1",
        )
    )
    state = machine.state
    node, entry = state.nodes["node"], state.index.entries["node"]
    nodes, index = state.nodes, state.index
    for number in range(NODES):
        name = f"node-{number:05}"
        nodes = nodes.set(name, replace(node, name=name))
        index = put(index, replace(entry, node=name))
    return replace(state, nodes=nodes, index=index)


def bench_mirror() -> None:
    state, now = fleet(), Now(2.0, "2026-11-22T00:00:00Z")
    mirror = Mirror(state)
    print(f"watch.mirror.first {timed(lambda: mirror.update(state, now)):.0f} ms")
    looks, summaries = [], []
    for number in range(50):
        name = f"node-{number:05}"
        state = replace(
            state, nodes=state.nodes.set(name, replace(state.nodes[name], boot_id=str(number)))
        )
        shown = state
        looks.append(timed(lambda shown=shown: mirror.update(shown, now)))  # type: ignore[misc]
        summaries.append(
            timed(lambda shown=shown: mirror.update_summary(shown, now, coordinator="co1"))  # type: ignore[misc]
        )
    print(f"watch.mirror.one_changed {median(looks):.2f} ms")
    print(f"watch.mirror.summary {median(summaries):.1f} ms")
    size, cursor, parts = 0, None, []
    while True:
        began = time.perf_counter()
        change = mirror.feed.since(cursor)
        data = to_message(change).SerializeToString()
        parts.append((time.perf_counter() - began) * 1_000)
        size, cursor = size + len(data), change.cursor
        if change.current:
            break
    print(f"watch.feed.fresh_list {sum(parts):.0f} ms")
    print(f"watch.feed.longest_part {max(parts):.1f} ms")
    print(f"watch.feed.fresh_list_size {size / 1e6:.1f} MB")
    caught = [timed(lambda: mirror.feed.since(cursor)) for _ in range(1_000)]
    print(f"watch.feed.nothing_new {median(caught) * 1_000:.1f} us")


async def bench_streams(state: Path, watchers: int) -> None:
    async with (
        serving(state, "--node", NODE) as process,
        ready_agent(state, process),
        admin_of(state) as admin,
        AsyncExitStack() as channels,
    ):
        name = f"watch.stream.{watchers}"
        authority = Authority.open_or_create(state / "ca", now=datetime.now(UTC))
        bundles = [
            authority.ensure_user_bundle(name, Role.VIEWER, state / "users" / name)
            for name in (f"viewer-{number}" for number in range(CHANNELS))
        ]
        users = [await user(channels, process, load_bundle(bundle)) for bundle in bundles]
        first = users[0].watch(kinds=(WatchKind.NODES, WatchKind.EVENTS))
        await first.until(lambda change: change.current)
        rss, began = rss_kb(process.pid), time.perf_counter()
        streams = [
            users[number % CHANNELS].watch(kinds=(WatchKind.NODES, WatchKind.EVENTS))
            for number in range(watchers)
        ]
        await asyncio.gather(*(stream.until(lambda c: c.current) for stream in streams))
        print(f"{name}.open {time.perf_counter() - began:.2f} s")
        print(f"{name}.memory {(rss_kb(process.pid) - rss) / watchers:.1f} KB/watcher")
        spent, took, lasts = cpu_s(process.pid), [], []
        for number in range(ROUNDS):
            wanted = "NODE_UNCORDONED" if number % 2 else "NODE_CORDONED"
            began = time.perf_counter()
            hearing = [asyncio.create_task(hear(stream, wanted)) for stream in streams]
            method = "UncordonNode" if number % 2 else "CordonNode"
            await admin.call(method, node=NODE)
            ends = [end - began for end in await asyncio.gather(*hearing)]
            took += ends
            lasts.append(max(ends))
        spent = cpu_s(process.pid) - spent
        took.sort()
        print(f"{name}.latency_p50 {took[len(took) // 2] * 1_000:.0f} ms")
        print(f"{name}.latency_p99 {took[len(took) * 99 // 100] * 1_000:.0f} ms")
        print(f"{name}.last {median(lasts) * 1_000:.0f} ms")
        print(f"{name}.server_cpu {spent / ROUNDS / watchers * 1e6:.0f} us/change/watcher")
        print(f"{name}.memory_after {(rss_kb(process.pid) - rss) / watchers:.1f} KB/watcher")


async def hear(stream: Watch, wanted: str) -> float:
    """The moment when an event of this code was told."""
    await stream.until(lambda change: any(event.code == wanted for event in change.events))
    return time.perf_counter()


async def user(channels: AsyncExitStack, process: Process, bundle: Bundle) -> User:
    """A person with a connection of their own."""
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
    options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    opened = grpc.aio.secure_channel(process.endpoint, credentials, options=options)
    return User(await channels.enter_async_context(opened))


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def rss_kb(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS:"))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.bench
def test_bench_mirror() -> None:
    bench_mirror()


@pytest.mark.bench
@pytest.mark.parametrize("watchers", WATCHERS)
def test_bench_streams(tmp_path: Path, watchers: int) -> None:
    asyncio.run(bench_streams(tmp_path / "s", watchers))


if __name__ == "__main__":
    bench_mirror()
    for count in WATCHERS:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(bench_streams(Path(folder) / "s", count))
