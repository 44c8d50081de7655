"""A coordinator in this process, and agents and users that reach it over real gRPC with real TLS.

Everything here speaks the wire as a stranger would: certificates come from the coordinator's own
authority, sessions from the stubs, findings from the agent's own checks. Time is a clock that only
a test moves. Nothing waits for time to pass: what is awaited is a message, the end of a stream, or
an answer that a condition holds for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import pytest

from tests.cluster.users import DEADLINE_S, OPTIONS, Refused, User
from tests.fakes.snapshots import behind, bridge, gpu, make_snapshot, nic, nvme
from vfio_agent.checks import checks_version, judge
from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.bundle import Bundle, load_bundle
from vfio_contract.codec import to_message
from vfio_contract.findings import Finding
from vfio_contract.host import Host
from vfio_contract.model import SCHEMA, Snapshot
from vfio_coordinator.bootstrap import Serving, Settings, serve
from vfio_coordinator.peer import Role
from vfio_coordinator.pki import Authority
from vfio_coordinator.state.events import Now, Tick
from vfio_coordinator.state.invariants import check_invariants
from vfioctl.v1 import session_pb2
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub


@dataclass(slots=True)
class FakeClock:
    """Stands still until it is moved. It begins today, because certificates are of today."""

    at_s: float = 1_000.0
    wall: datetime = field(default_factory=lambda: datetime.now(UTC))

    def go_on(self, passed: timedelta) -> None:
        """Time passes, by both clocks."""
        self.at_s += passed.total_seconds()
        self.wall += passed

    def now(self) -> Now:
        return Now(monotonic_s=self.at_s, utc=self.wall.strftime("%Y-%m-%dT%H:%M:%SZ"))


# --- hosts ---------------------------------------------------------------------------------------


def nic_host(number: int = 1, **changes: Any) -> Snapshot:
    """A host that qualifies, with one free network card; another machine for each number."""
    return host(*behind(bridge("0000:00:01.0"), nic("0000:01:00.0", group=2)), n=number, **changes)


def full_host(number: int = 1, **changes: Any) -> Snapshot:
    """A host that qualifies, with a network card, an NVMe disk and a GPU with its audio."""
    functions = (
        *behind(bridge("0000:00:01.0", group=1), nic("0000:01:00.0", group=2)),
        *behind(bridge("0000:00:02.0", group=3), nvme("0000:02:00.0", group=4)),
        *behind(bridge("0000:00:03.0", group=5), gpu("0000:03:00.0", group=6)),
    )
    return host(*functions, n=number, **changes)


def host(*functions: Any, n: int = 1, **changes: Any) -> Snapshot:
    """A snapshot of machine number `n`: its own UUID and boot id."""
    snapshot = make_snapshot(*functions, **{"boot_id": f"boot-{n}-1"} | changes)
    return snapshot


def product_uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


# --- one stream ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Stream:
    """An agent's side of one session."""

    call: Any

    async def say(self, **body: Any) -> None:
        """One message; Refused when the stream is over."""
        try:
            await self.call.write(session_pb2.SessionRequest(**body))
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            raise await self._refusal() from None

    async def hear(self) -> session_pb2.SessionResponse:
        """The next message; Refused when the stream ended with an error, EOFError when without."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                response: Any = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise Refused(error.code(), error.details()) from None
        if response is grpc.aio.EOF:
            raise EOFError("the coordinator ended the stream in peace")
        assert isinstance(response, session_pb2.SessionResponse)
        return response

    async def hear_one(self, body: str) -> Any:
        """The next message, which must have this body."""
        response = await self.hear()
        assert response.WhichOneof("body") == body, response
        return getattr(response, body)

    async def end(self) -> Refused:
        """The error that ends the stream, whatever else is still said before it."""
        while True:
            try:
                await self.hear()
            except Refused as refused:
                return refused

    async def _refusal(self) -> Refused:
        try:
            async with asyncio.timeout(DEADLINE_S):
                code, details = await self.call.code(), await self.call.details()
        except TimeoutError:
            raise AssertionError("the stream takes no messages and does not end") from None
        return Refused(code, details)

    def cancel(self) -> None:
        """Vanish without a word."""
        self.call.cancel()


@dataclass(slots=True)
class Agent:
    """Says what an agent says of `snapshot`, as node `node` with the certificate in `bundle`."""

    node: str
    channel: grpc.aio.Channel
    snapshot: Snapshot
    number: int = 1
    sequence: int = 0
    cluster_id: str = ""
    highest: tuple[int, int] = (0, 0)
    stream: Stream = field(init=False)

    def open(self) -> Stream:
        """A fresh stream on which nothing was said."""
        stub: Any = AgentSessionServiceStub(self.channel)
        self.stream = Stream(stub.Session())
        return self.stream

    def hello(self, **changes: Any) -> session_pb2.Hello:
        values: dict[str, Any] = {
            "protocol_min": 1,
            "protocol_max": 1,
            "node": self.node,
            "boot_id": self.snapshot.readings.boot_id or "",
            "product_uuid": product_uuid(self.number),
            "agent_state_id": f"state-{self.number}",
            "inventory_digest": self.digest,
            "agent_version": "0.1.0",
            "cluster_id": self.cluster_id,
            "highest_incarnation": self.highest[0],
            "highest_epoch": self.highest[1],
        }
        return session_pb2.Hello(**(values | changes))

    @property
    def digest(self) -> str:
        return digest_bytes(encode(self.snapshot.facts))

    def inventory(self, **changes: Any) -> session_pb2.Inventory:
        values: dict[str, Any] = {
            "digest": self.digest,
            "facts_zlib": compress(encode(self.snapshot.facts)),
            "schema": SCHEMA,
        }
        return session_pb2.Inventory(**(values | changes))

    def observation(self, **changes: Any) -> session_pb2.Observation:
        self.sequence += 1
        findings: Sequence[Finding] = judge(Host(self.snapshot)).findings
        values: dict[str, Any] = {
            "sequence": self.sequence,
            "inventory_digest": self.digest,
            "readings_zlib": compress(encode(self.snapshot.readings)),
            "findings": [to_message(finding) for finding in findings],
            "age_ms": 0,
            "checks_version": checks_version(),
        }
        return session_pb2.Observation(**(values | changes))

    async def greet(self, **changes: Any) -> session_pb2.Welcome:
        """A new stream up to its Welcome; Refused with why there is none."""
        stream = self.open()
        self.sequence = 0
        await stream.say(hello=self.hello(**changes))
        welcome: session_pb2.Welcome = await stream.hear_one("welcome")
        self.cluster_id = welcome.cluster_id
        self.highest = (welcome.incarnation, welcome.epoch)
        return welcome

    async def refusal(self, **changes: Any) -> Refused:
        """How such a Hello is refused; it must be."""
        with pytest.raises(Refused) as caught:
            await self.greet(**changes)
        return caught.value

    async def tell(self, snapshot: Snapshot | None = None) -> None:
        """The facts and what one collection saw, until the state holds them."""
        self.snapshot = snapshot or self.snapshot
        await self.stream.say(inventory=self.inventory())
        await self.observe()

    async def observe(self, **changes: Any) -> None:
        """One observation, until it is acknowledged."""
        await self.stream.say(observation=self.observation(**changes))
        acknowledged = await self.stream.hear_one("acknowledged")
        assert acknowledged.sequence == self.sequence

    async def join(self) -> None:
        """Everything an agent does at first."""
        await self.greet()
        await self.tell()

    async def beat(self) -> None:
        await self.stream.say(heartbeat=session_pb2.Heartbeat(sequence=self.sequence))


# --- one coordinator -----------------------------------------------------------------------------


class Cluster:
    """A serving coordinator with its state in `directory`; `async with` stops it in order."""

    def __init__(self, directory: Path, *, listen: str = "127.0.0.1:0") -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.settings = Settings(directory, listen)
        self._serving: Serving | None = None
        self._channels = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._serving = await serve(self.settings, self.clock)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channels.aclose()
        if self._serving is not None:
            await self.stop()

    async def stop(self) -> bool:
        """Stop the coordinator, whose state must be sound; the clients' channels stay."""
        assert self._serving is not None
        serving, self._serving = self._serving, None
        check_invariants(serving.runtime.state)
        return await serving.stop()

    async def restart(self) -> None:
        """A stop in order and a new start, with new connections."""
        await self._channels.aclose()
        self._channels = AsyncExitStack()
        assert await self.stop()
        self._serving = await serve(self.settings, self.clock)

    @property
    def serving(self) -> Serving:
        assert self._serving is not None
        return self._serving

    @property
    def authority(self) -> Authority:
        return Authority.open_or_create(self.directory / "ca", now=datetime.now(UTC))

    def advance(self, seconds: float) -> None:
        """Let time pass, and let the coordinator notice."""
        self.clock.go_on(timedelta(seconds=seconds))
        self.serving.runtime.feed(Tick())

    def node_bundle(self, name: str) -> Bundle:
        directory = self.directory / "nodes" / name
        return load_bundle(self.authority.ensure_node_bundle(name, directory))

    def user_bundle(self, name: str, role: Role) -> Bundle:
        directory = self.directory / "users" / name
        return load_bundle(self.authority.ensure_user_bundle(name, role, directory))

    async def channel(self, bundle: Bundle) -> grpc.aio.Channel:
        opened = secure_channel(self.serving.endpoint, bundle)
        return await self._channels.enter_async_context(opened)

    async def agent(self, node: str, snapshot: Snapshot | None = None, *, number: int = 1) -> Agent:
        """An agent that has said nothing yet."""
        channel = await self.channel(self.node_bundle(node))
        return Agent(node, channel, snapshot or nic_host(number), number)

    async def join(self, node: str, snapshot: Snapshot | None = None, *, number: int = 1) -> Agent:
        """An agent whose node takes placements."""
        agent = await self.agent(node, snapshot, number=number)
        await agent.join()
        admin = await self.admin()
        await admin.until_state(node, "ready")
        return agent

    async def admin(self) -> User:
        """Whoever reaches the Unix socket."""
        opened = grpc.aio.insecure_channel(f"unix:{self.directory}/api.sock", options=OPTIONS)
        return User(await self._channels.enter_async_context(opened))

    async def user(self, role: Role, name: str = "") -> User:
        """A person with a certificate, over TLS."""
        return User(await self.channel(self.user_bundle(name or role.value, role)))


def secure_channel(endpoint: str, bundle: Bundle) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
    return grpc.aio.secure_channel(endpoint, credentials, options=OPTIONS)


@asynccontextmanager
async def no_leftovers() -> AsyncIterator[None]:
    """No task outlives what is inside, but for those that were there before or are about to end."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before
    if left:
        # grpc's server says that it has stopped before the tasks of its last calls return
        _, left = await asyncio.wait(left, timeout=DEADLINE_S)
    assert not left, left
