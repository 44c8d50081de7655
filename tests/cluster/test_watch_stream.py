"""The stream of changes over real gRPC: what it tells, how it is resumed, and how it ends.

Time is the cluster's own clock; the pace of the publisher is real and short, and nothing here waits
for it but for a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.cluster.agents import Cluster, FakeClock, full_host, nic_host
from tests.cluster.users import DEADLINE_S, Refused, User, Watch, want
from tests.unit.test_watch_feed import node as node_row
from vfio_cli.live import Live
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.views import ClusterChange, ClusterStatus, WatchCursor, WatchKind
from vfio_coordinator.api.errors import Context, refuse
from vfio_coordinator.api.watch import Watching, tell_resume
from vfio_coordinator.feed import RowKey
from vfio_coordinator.mirror import Mirror
from vfio_coordinator.peer import Role
from vfio_coordinator.publisher import Publisher
from vfio_coordinator.state.model import start
from vfioctl.v1 import cluster_pb2

NODE = "pve01"


async def current(stream: Watch, live: Live | None = None) -> ClusterChange:
    """The first change after which everything is told."""
    heard = await stream.until(lambda change: change.current)
    for change in heard:
        if live is not None:
            live.take(change, now_s=0.0)
    return heard[-1]


def codes_of(heard: list[ClusterChange]) -> list[str]:
    return [event.code for change in heard for event in change.events]


# --- what it tells -------------------------------------------------------------------------------


async def test_a_viewer_sees_a_cordon_in_the_stream(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        viewer, operator = await cluster.user(Role.VIEWER), await cluster.user(Role.OPERATOR)
        stream = viewer.watch()
        first = await current(stream)
        assert [node.name for node in first.nodes] == [NODE]
        assert (first.reset, first.events) == (True, ())
        await operator.call("CordonNode", node=NODE, reason="new cooler")
        heard = await stream.until(lambda c: any(n.state == "cordoned" for n in c.nodes))
        rest = (
            []
            if "NODE_CORDONED" in codes_of(heard)
            else await stream.until(lambda c: any(e.code == "NODE_CORDONED" for e in c.events))
        )
        told = codes_of([*heard, *rest])
        assert told.count("NODE_CORDONED") == 1
        assert not any(change.reset for change in heard)


async def test_what_was_put_together_is_the_status(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE, full_host())
        admin, live = await cluster.admin(), Live()
        stream = admin.watch(kinds=(WatchKind.SUMMARY, WatchKind.NODES, WatchKind.VMS))
        await current(stream, live)
        await admin.place(want("vm1", ("gpu", "", 1)))
        await admin.place(want("vm2"))
        await admin.call("ReleaseVm", vm="vm2")
        await cluster.join("pve02", nic_host(2), number=2)
        wanted = await admin.status()

        def shown() -> ClusterStatus | None:
            return live.status(now_s=0.0)

        while shown() != wanted:
            live.take(await stream.hear(), now_s=0.0)
        assert [vm.name for vm in live.vms()] == ["vm1"]


async def test_a_silent_node_is_told_without_being_asked(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        stream = (await cluster.admin()).watch(kinds=(WatchKind.NODES,))
        await current(stream)
        agent.stream.cancel()
        heard = await stream.until(lambda c: any(n.state == "revalidating" for n in c.nodes))
        assert heard[-1].nodes[0].reasons[0].code == "NODE_UNHEARD"


async def test_events_of_one_node_are_picked_by_a_short_name(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        await cluster.join("web02", nic_host(2), number=2)
        admin = await cluster.admin()
        stream = admin.watch(WatchCursor(0, 0, 0, 0), kinds=(WatchKind.EVENTS,), node="web")
        heard = await stream.until(lambda c: "NODE_VALIDATED" in codes_of([c]))
        assert {e.subject for change in heard for e in change.events} == {"node:web02"}
        assert not any(change.nodes for change in heard)
        refused = await admin.watch(node="nobody").end()
        assert refused.code == "UNKNOWN_NODE"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cursor": {"incarnation": 1, "epoch": 1, "seq": -1}}, "negative"),
        ({"kinds": [1, 99]}, "unknown"),
        ({"kinds": [0]}, "unknown"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    state: Path, fields: dict[str, Any], said: str
) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        refused = await Watch(admin.stub.Watch(cluster_pb2.WatchRequest(**fields))).end()
        assert refused.code == "BAD_REQUEST"
        assert said in refused.message


# --- going on ------------------------------------------------------------------------------------


async def test_a_watcher_that_was_away_hears_what_it_missed_once(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        admin = await cluster.admin()
        stream = admin.watch()
        cursor = (await current(stream)).cursor
        stream.call.cancel()
        for reason in ("one", "two", "three"):
            await admin.call("CordonNode", node=NODE, reason=reason)
        stream = admin.watch(cursor)
        heard = await stream.until(lambda c: c.cursor.event_seq >= cursor.event_seq + 3)
        assert codes_of(heard) == ["NODE_CORDONED"] * 3
        assert not any(change.reset for change in heard)
        assert sum(len(change.nodes) for change in heard) <= 2, "rows were not coalesced"


async def test_a_restart_resets_rows_and_repeats_no_event(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        admin = await cluster.admin()
        stream = admin.watch()
        await current(stream)
        await admin.call("CordonNode", node=NODE, reason="one")
        heard = await stream.until(lambda c: "NODE_CORDONED" in codes_of([c]))
        cursor = heard[-1].cursor

        await cluster.restart()

        admin = await cluster.admin()
        stream = admin.watch(cursor)
        again = await stream.until(lambda c: "COORDINATOR_STARTED" in codes_of([c]))
        assert again[0].reset
        assert [node.name for node in again[0].nodes] == [NODE]
        assert again[0].cursor.epoch == cursor.epoch + 1
        assert codes_of(again) == ["COORDINATOR_STARTED"]


async def test_a_cursor_older_than_what_is_kept_is_compacted(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        admin = await cluster.admin()
        await current(admin.watch())
        feed = cluster.serving.runtime.publisher.feed
        feed._event_floor = 2
        stream = admin.watch(WatchCursor(0, 0, 0, 1), kinds=(WatchKind.EVENTS,))
        refused = await stream.end()
        assert (refused.code, refused.status) == ("COMPACTED", grpc.StatusCode.OUT_OF_RANGE)
        assert "events 2 to 2" in refused.message
        resume = (await stream.metadata())["vfioctl-cursor"]
        again = admin.watch(WatchCursor(*map(int, resume.split("."))), kinds=(WatchKind.EVENTS,))
        assert (await current(again)).cursor.event_seq > 2


# --- the end -------------------------------------------------------------------------------------


async def test_a_stream_does_not_outlive_its_user(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        stream = (await cluster.user(Role.VIEWER)).watch(kinds=(WatchKind.NODES,))
        await current(stream)
        cluster.clock.go_on(timedelta(days=91))
        agent.stream.cancel()
        refused = await stream.end()
        assert (refused.code, refused.status) == (
            "UNAUTHENTICATED",
            grpc.StatusCode.UNAUTHENTICATED,
        )


async def test_a_stop_ends_every_stream_in_words(state: Path) -> None:
    cluster = Cluster(state)
    async with cluster:
        streams = [(await cluster.admin()).watch() for _ in range(3)]
        for stream in streams:
            await current(stream)
        ends = [asyncio.create_task(stream.end()) for stream in streams]
        assert await cluster.stop()
        assert {end.code for end in await asyncio.gather(*ends)} == {"SHUTTING_DOWN"}


async def test_a_fault_of_the_watch_costs_watchers_only(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        admin = await cluster.admin()
        stream = admin.watch()
        await current(stream)

        def fail(*_: object) -> None:
            raise RuntimeError("a fault")

        monkeypatch.setattr(Mirror, "update", fail)
        await admin.call("CordonNode", node=NODE, reason="one")
        assert (await stream.end()).code == "INTERNAL"
        assert (await admin.watch().end()).code == "INTERNAL"
        assert (await admin.status()).nodes[0].state == "cordoned"
    assert "the watch failed" in caplog.text


# --- who does not read ---------------------------------------------------------------------------

ROWS = 3_000
TEXT = "x" * 5_000
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", 64 * 1024 * 1024))
"""A connection that buffers 64 KB, so that a reader who stops is noticed."""


class OnlyWatch:
    """The stream alone, over rows that a test puts there."""

    def __init__(self, publisher: Publisher, clock: Any, patience_s: float) -> None:
        self._watching = Watching(publisher, clock)
        self.patience_s = patience_s
        self.dropped = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        method = grpc.unary_stream_rpc_method_handler(
            self.watch,
            request_deserializer=cluster_pb2.WatchRequest.FromString,
            response_serializer=cluster_pb2.WatchResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("vfioctl.v1.ClusterService", {"Watch": method})

    async def watch(self, request: cluster_pb2.WatchRequest, context: Context) -> None:
        try:
            await self._watching.stream(
                request, context, node="", require=lambda: "ann", patience_s=self.patience_s
            )
        except ClusterError as error:
            self.dropped.set()
            tell_resume(context, error)
            await refuse(context, error)


@asynccontextmanager
async def many_rows() -> AsyncIterator[tuple[OnlyWatch, Publisher, User]]:
    before, clock, empty = asyncio.all_tasks(), FakeClock(), start()
    telling = Publisher(lambda: empty, clock, "co1")
    for number in range(ROWS):
        name = f"n{number:05}"
        telling.feed.put(RowKey(WatchKind.NODES, name), node_row(name, TEXT))
    servicer = OnlyWatch(telling, clock, patience_s=30.0)
    server = grpc.aio.server(options=NARROW)
    server.add_generic_rpc_handlers((servicer.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=NARROW) as channel:
            yield servicer, telling, User(channel)
    finally:
        telling.end(ClusterError(ErrorCode.SHUTTING_DOWN, "the test is over"))
        await server.stop(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            # grpc's own tasks of a cancelled call end some steps later
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0)


async def test_who_does_not_read_is_dropped_and_goes_on_from_its_cursor() -> None:
    async with many_rows() as (servicer, telling, user):
        servicer.patience_s = 0.05
        stream = user.watch(kinds=(WatchKind.NODES,))
        names: list[str] = []
        first = await stream.hear()
        names += [row.name for row in first.nodes]
        cursor = first.cursor
        async with asyncio.timeout(DEADLINE_S):
            await servicer.dropped.wait()
        refused = None
        while refused is None:
            try:
                change = await stream.hear()
            except Refused as error:
                refused = error
            else:
                names += [row.name for row in change.nodes]
                cursor = change.cursor
        assert (refused.code, refused.status) == (
            "SLOW_CONSUMER",
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        told = WatchCursor(*map(int, (await stream.metadata())["vfioctl-cursor"].split(".")))
        assert told.seq <= cursor.seq < telling.feed.newest.seq
        servicer.patience_s = 30.0
        again = user.watch(cursor, kinds=(WatchKind.NODES,))
        for change in await again.until(lambda c: c.current):
            assert not change.reset
            names += [row.name for row in change.nodes]
        assert names == [f"n{number:05}" for number in range(ROWS)]


async def test_one_who_does_not_read_holds_up_nobody() -> None:
    async with many_rows() as (_, telling, user):
        asleep = user.watch(kinds=(WatchKind.NODES,))
        await asleep.hear()
        awake = user.watch(kinds=(WatchKind.NODES,))
        heard = await awake.until(lambda c: c.current)
        assert sum(len(change.nodes) for change in heard) == ROWS
        assert telling.feed.newest.seq >= ROWS
