"""Users of a coordinator over real gRPC: requests and answers as values, refusals as `Refused`.

Nothing here waits for time to pass: what is awaited is an answer that a condition holds for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio
import pytest

from vfio_contract.codec import from_message, to_message
from vfio_contract.views import (
    ClusterChange,
    ClusterStatus,
    Decision,
    DeviceRequest,
    Event,
    NodeView,
    PlaceRequest,
    Refusal,
    WatchCursor,
    WatchKind,
)
from vfioctl.v1 import cluster_pb2
from vfioctl.v1.cluster_pb2_grpc import ClusterServiceStub

DEADLINE_S = 30.0
"""Ends what hangs; no test depends on how long anything takes."""

OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)


class Refused(Exception):
    """A call or stream that ended with an error: its status and the stable code of its message."""

    def __init__(self, status: grpc.StatusCode, message: str | None) -> None:
        self.status = status
        self.message = message or ""
        self.code = self.message.partition(":")[0]
        super().__init__(f"{self.status.name}: {self.message}")


def want(
    vm: str,
    *devices: tuple[str, str, int],
    node: str = "",
    dry_run: bool = False,
    request_id: str = "",
    **changes: Any,
) -> PlaceRequest:
    """A request for devices as (kind, model, count); for one network card when none is named."""
    wanted = devices or (("nic", "", 1),)
    values: dict[str, Any] = {"same_numa": False, "allow": (), "external": False}
    return PlaceRequest(
        vm=vm,
        devices=tuple(DeviceRequest(*device) for device in wanted),
        node=node,
        dry_run=dry_run,
        request_id=request_id or f"request-{vm}",
        **(values | changes),
    )


class Watch:
    """One stream of changes, as values. Refused when it ends."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def hear(self) -> ClusterChange:
        """The next change."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                response: Any = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise Refused(error.code(), error.details()) from None
        assert response is not grpc.aio.EOF, "the coordinator ended the stream in peace"
        return from_message(ClusterChange, response.change)

    async def until(self, holds: Callable[[ClusterChange], bool]) -> list[ClusterChange]:
        """Every change up to the first that is as wanted."""
        heard = [await self.hear()]
        while not holds(heard[-1]):
            heard.append(await self.hear())
        return heard

    async def end(self) -> Refused:
        """The error that ends it, whatever else is still told before."""
        while True:
            try:
                await self.hear()
            except Refused as refused:
                return refused

    async def metadata(self) -> dict[str, str]:
        """What the end carried."""
        return {str(key): str(value) for key, value in await self.call.trailing_metadata()}


class User:
    """The calls of one user, as values; a refused call raises Refused."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = ClusterServiceStub(channel)

    async def call(self, method: str, **fields: Any) -> Any:
        """`method` with the request message of that name."""
        request = getattr(cluster_pb2, f"{method}Request")(**fields)
        try:
            return await getattr(self.stub, method)(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise Refused(error.code(), error.details()) from None

    def watch(
        self,
        cursor: WatchCursor | None = None,
        *,
        kinds: Iterable[WatchKind] = (),
        node: str = "",
    ) -> Watch:
        """A stream of what changes after a cursor."""
        names = [f"WATCH_KIND_{kind.name}" for kind in kinds]
        message = cluster_pb2.WatchRequest(
            cursor=None if cursor is None else to_message(cursor),
            kinds=[cluster_pb2.WatchKind.Value(name) for name in names],
            node=node,
        )
        return Watch(self.stub.Watch(message))

    async def refusal(self, method: str, **fields: Any) -> Refused:
        """How that call is refused; it must be."""
        with pytest.raises(Refused) as caught:
            await self.call(method, **fields)
        return caught.value

    async def status(self) -> ClusterStatus:
        return from_message(ClusterStatus, (await self.call("GetStatus")).status)

    async def node(self, name: str) -> NodeView:
        return from_message(NodeView, (await self.call("GetNode", node=name)).node)

    async def events(self, **fields: Any) -> tuple[Event, ...]:
        response = await self.call("ListEvents", **fields)
        return tuple(from_message(Event, event) for event in response.events)

    async def place(self, request: PlaceRequest) -> Decision:
        response = await self.call("PlaceVm", request=to_message(request))
        return from_message(Decision, response.decision)

    async def place_refusal(self, request: PlaceRequest) -> Refused:
        """How that request is refused as one; that nothing fits is no such refusal."""
        return await self.refusal("PlaceVm", request=to_message(request))

    async def until_event(self, code: str) -> tuple[Event, ...]:
        """The events of this code once there is one: a row is told after its commit."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    rows = await self.events()
                    if found := tuple(row for row in rows if row.code == code):
                        return found
        except TimeoutError:
            raise AssertionError(f"no {code} in {[row.code for row in rows]}") from None

    async def until(
        self, name: str, holds: Callable[[NodeView], bool], *, what: str = ""
    ) -> NodeView:
        """The node once that is true of it: asks again and again, each time over the wire."""
        view = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    view = await self.node(name)
                    if holds(view):
                        return view
        except TimeoutError:
            raise AssertionError(f"{name} never was {what or 'as wanted'}; last: {view}") from None

    async def until_state(self, name: str, state: str) -> NodeView:
        return await self.until(name, lambda view: view.state == state, what=state)


def is_unheard(view: NodeView) -> bool:
    """Silent, but not long enough to be lost."""
    return view.state == "revalidating" and view.reasons[0].code == "NODE_UNHEARD"


def stage_of(refusal: Refusal | None) -> str:
    """The one stage at which the one node was refused."""
    assert refusal is not None
    assert refusal.nodes_total == 1
    (stage,) = (count.stage for count in refusal.stages if count.nodes)
    return stage
