"""Too much, too many, too slow and hostile: each is bounded, named by its code, and harms nobody.

What a single wrong message is answered with is in `test_coordinator_bad_input`.

Length: one coordinator and its hostile agents, each a short scene.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.cluster.agents import Agent, Cluster, nic_host, secure_channel
from tests.cluster.processes import Process, serving
from tests.cluster.test_coordinator_restart import admin_of
from tests.cluster.users import DEADLINE_S, Refused, User, is_unheard, want
from tests.fakes.durable import line
from vfio_agent.journal import Journal
from vfio_agent.session.conversation import Speaker
from vfio_agent.session.ending import Ended, read_status
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Outbox
from vfio_contract.artifact import compress, digest_bytes
from vfio_contract.bundle import Bundle, load_bundle
from vfio_contract.codec import event_to_message
from vfio_contract.durable import Spooled
from vfio_coordinator import admission
from vfio_coordinator.api import session, watch
from vfio_coordinator.api.messages import MAX_UNPACKED_BYTES
from vfio_coordinator.api.server import MAX_MESSAGE_BYTES, OPTIONS
from vfio_coordinator.peer import Role, server_credentials
from vfio_coordinator.state.model import Limits
from vfioctl.v1 import session_pb2
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

QUIET = ("quiet-1", "quiet-2", "quiet-3")
WILD = "wild-1"


@dataclass
class House:
    """A coordinator process and the agents of `QUIET`, of which each takes placements."""

    state: Path
    process: Process
    admin: User
    quiet: list[Agent]
    stack: AsyncExitStack

    async def agent(self, node: str, number: int) -> Agent:
        bundle = load_bundle(self.state / "nodes" / node)
        channel = await self.stack.enter_async_context(
            secure_channel(self.process.endpoint, bundle)
        )
        return Agent(node, channel, nic_host(number), number)

    async def all_quiet_well(self) -> None:
        """Each still has the session that it began with, and what it says arrives."""
        for agent in self.quiet:
            await agent.observe()
            assert (await self.admin.node(agent.node)).state == "ready"


@asynccontextmanager
async def house(state: Path) -> AsyncIterator[House]:
    options = [word for node in (*QUIET, WILD) for word in ("--node", node)]
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(serving(state, *options))
        admin = await stack.enter_async_context(admin_of(state))
        here = House(state, process, admin, [], stack)
        for number, node in enumerate(QUIET, start=1):
            agent = await here.agent(node, number)
            await agent.join()
            await admin.until_state(node, "ready")
            here.quiet.append(agent)
        yield here


# --- too much ------------------------------------------------------------------------------------


def flood(endpoint: str, bundle: Bundle, hello: session_pb2.Hello, messages: int) -> Ended:
    """A session of nothing but heartbeats, as fast as they are taken; how it ends for an agent."""
    welcomed = threading.Event()

    def words() -> Iterator[session_pb2.SessionRequest]:
        yield session_pb2.SessionRequest(hello=hello)
        welcomed.wait(DEADLINE_S)
        for number in range(messages):
            yield session_pb2.SessionRequest(heartbeat=session_pb2.Heartbeat(sequence=number))
        over.wait(DEADLINE_S)

    over = threading.Event()
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)
    with grpc.secure_channel(endpoint, credentials) as channel:
        try:
            for _ in AgentSessionServiceStub(channel).Session(words()):
                welcomed.set()
        except grpc.RpcError as error:
            return read_status(error)
        finally:
            over.set()
    raise AssertionError("ended in peace")


async def ended(agent: Agent, saying: Awaitable[None]) -> Refused:
    """How the agent's stream ends, while it says this or after."""
    try:
        await saying
    except Refused as refused:
        return refused
    return await agent.stream.end()


async def test_a_flooding_agent_waits_then_is_cut_off_and_nobody_else_notices(
    state: Path,
) -> None:
    async with house(state) as here:
        wild = await here.agent(WILD, 9)
        await wild.join()
        await here.admin.until_state(WILD, "ready")
        placed = await here.admin.place(want("vm1", node=WILD))
        assert placed.placement is not None
        vms = (await here.admin.status()).vms
        bundle = load_bundle(state / "nodes" / WILD)
        told = (here.process.endpoint, bundle, wild.hello(), 30_000)
        flooding = asyncio.create_task(asyncio.to_thread(flood, *told))
        rounds = 0
        while not flooding.done():
            await here.all_quiet_well()
            rounds += 1
        assert rounds > 1
        for _ in range(2):  # who comes back at once is not even let in
            ended = await flooding
            assert ended.reason.startswith(f"RESOURCE_EXHAUSTED: FLOODING: {WILD} said more than")
            assert ended.slow
            flooding = asyncio.create_task(asyncio.to_thread(flood, *told))
        await flooding
        await here.admin.until(WILD, is_unheard)
        (vm,) = (await here.admin.status()).vms
        assert vm.units == vms[0].units
        await here.all_quiet_well()


async def test_of_a_storm_of_looks_the_newest_counts_and_heartbeats_pass(state: Path) -> None:
    looks = 150
    async with Cluster(state) as cluster:
        agent = await cluster.join("pve01")
        first = agent.sequence
        for _ in range(looks):
            await agent.stream.say(observation=agent.observation())
        await agent.beat()
        heard: list[int] = []
        while not heard or heard[-1] < first + looks:
            heard.append((await agent.stream.hear_one("acknowledged")).sequence)
        assert heard == sorted(set(heard))
        assert len(heard) < looks, "what was superseded while it waited is not read"
        view = await (await cluster.admin()).node("pve01")
        assert view.evidence_age_s > 0, "the clock stands still, but it waited"
        await (await cluster.admin()).until_state("pve01", "ready")


async def test_a_node_that_used_its_share_waits_while_it_is_heard(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WORK_SHARE", 1e-9)  # the first look is the last
    monkeypatch.setattr(admission, "WORK_AT_ONCE_S", 1e-9)
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.agent("pve01")
        other = await cluster.agent("pve02", number=2)
        await agent.greet()
        await agent.stream.say(inventory=agent.inventory())
        await admin.until("pve01", lambda view: view.kernel != "")
        await agent.stream.say(observation=agent.observation())
        await other.greet()
        await other.stream.say(inventory=other.inventory())
        await admin.until("pve02", lambda view: view.kernel != "")
        cluster.clock.at_s += 5
        await agent.beat()
        await admin.until("pve01", lambda view: view.heard_age_s == 0)
        view = await admin.node("pve01")
        assert (view.state, view.evidence_age_s) == ("revalidating", -1)


# --- too many ------------------------------------------------------------------------------------


async def test_of_the_streams_of_a_node_that_say_nothing_the_newest_stays(state: Path) -> None:
    async with house(state) as here:
        wild = await here.agent(WILD, 9)
        await wild.join()
        kept = wild.stream
        streams = []
        for _ in range(30):
            streams.append(wild.open())
            await asyncio.sleep(0)
        for stream in streams[:-1]:
            assert (await stream.end()).code == "SESSION_REPLACED"
        wild.stream = kept
        await wild.observe()
        await here.all_quiet_well()


async def test_sessions_begin_in_turn_and_each_gets_its_own(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "SETTLING", 2)
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        agents = [await cluster.agent(f"pve{n}", number=n) for n in range(1, 9)]
        for agent in agents[:2]:
            await agent.greet()
        late = [asyncio.create_task(agent.join()) for agent in agents[2:]]
        # operators are answered while agents queue, and who queues is not there yet
        gate = cluster.serving.runtime.gate
        async with asyncio.timeout(DEADLINE_S):
            while not gate.is_crowded:
                assert (await admin.status()).nodes
        assert {node.name for node in (await admin.status()).nodes} == {"pve1", "pve2"}
        for agent in agents[:2]:
            await agent.tell()
        await asyncio.gather(*late)
        for agent in agents:
            await admin.until_state(agent.node, "ready")
        assert not gate.is_crowded


async def test_who_would_wait_too_long_is_told_when_to_come_back(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "SETTLING", 1)
    monkeypatch.setattr(admission, "PATIENCE_S", 0.01)
    async with Cluster(state) as cluster:
        first = await cluster.agent("pve01")
        await first.greet()
        cluster.node_bundle("pve02")
        with closing(Journal.open(tmp_path / "journal.db")) as journal:
            link = Link(
                endpoint=cluster.serving.endpoint,
                bundle=lambda: load_bundle(state / "nodes" / "pve02"),
                speaker=Speaker("pve02", journal.state_id, "0.1.0"),
                outbox=Outbox(),
                fences=journal,
                on_terms=lambda terms: None,
            )
            ended = await asyncio.to_thread(link.run)
        assert ended.reason.startswith("UNAVAILABLE: BUSY: ")
        assert 0 < ended.retry_after_s < 1
        assert not ended.slow


async def test_watchers_are_bounded_by_user_and_in_all(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_OF_ONE", 2)
    monkeypatch.setattr(watch, "MOST", 3)
    async with Cluster(state) as cluster:
        ann, bob = [await cluster.user(Role.VIEWER, name) for name in ("ann", "bob")]
        watches = [ann.watch(), ann.watch(), bob.watch()]
        for each in watches:
            await each.hear()
        for user, why in ((ann, "2 of ann (at most 2)"), (bob, "3 in all (at most 3)")):
            with pytest.raises(Refused) as caught:
                await user.watch().hear()
            assert caught.value.code == "TOO_MANY_WATCHERS"
            assert why in caught.value.message
        # the machine's own admin has places of their own
        local = (await cluster.admin()).watch()
        await local.hear()
        watches[0].call.cancel()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                again = bob.watch()
                with suppress(Refused):
                    await again.hear()
                    break
        for each in (*watches, local, again):
            each.call.cancel()


# --- too slow ------------------------------------------------------------------------------------


async def test_a_stream_that_falls_silent_is_closed_and_its_node_is_not_heard(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join("pve01")
        monkeypatch.setattr(session, "SILENCE_S", 0.05)
        await agent.beat()
        refused = await agent.stream.end()
        assert (refused.code, refused.status) == ("SILENT", grpc.StatusCode.ABORTED)
        await admin.until("pve01", is_unheard)


def short(option: str, value_ms: int) -> Sequence[tuple[str, Any]]:
    """The server's own options with one of its limits made short; it must be there."""
    assert option in dict(OPTIONS)
    return tuple((dict(OPTIONS) | {option: value_ms}).items())


@asynccontextmanager
async def bare_server(cluster: Cluster, options: Sequence[tuple[str, Any]]) -> AsyncIterator[int]:
    """A server with the coordinator's certificate and without any service."""
    bundle = load_bundle(cluster.authority.ensure_server(["localhost", "127.0.0.1"]))
    server = grpc.aio.server(options=options)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(bundle))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def until_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with suppress(ConnectionResetError, ssl.SSLError):
            while await reader.read(4096):
                pass


@pytest.mark.parametrize("said", [b"", b"\x16", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_connection_that_never_ends_its_handshake_is_closed(
    state: Path, said: bytes
) -> None:
    async with Cluster(state) as cluster:
        options = short("grpc.server_handshake_timeout_ms", 200)
        async with bare_server(cluster, options) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            await until_closed(reader)
            writer.close()


async def test_a_connection_without_a_call_is_closed(state: Path) -> None:
    async with Cluster(state) as cluster:
        options = short("grpc.max_connection_idle_ms", 200)
        async with bare_server(cluster, options) as port:
            cluster.node_bundle("pve01")
            files = state / "nodes" / "pve01"
            trust = ssl.create_default_context(cafile=str(files / "ca.pem"))
            trust.load_cert_chain(files / "cert.pem", files / "key.pem")
            trust.set_alpn_protocols(["h2"])
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=trust, server_hostname="localhost"
            )
            # the preface of HTTP/2 and empty settings (RFC 9113, 3.4)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            await until_closed(reader)
            writer.close()


# --- hostile -------------------------------------------------------------------------------------


def spooled(*numbers: int, spool: str = "spool-1") -> session_pb2.EventBatch:
    rows = [Spooled(n, line(n)) for n in numbers]
    return session_pb2.EventBatch(spool_id=spool, events=[event_to_message(row) for row in rows])


async def replay_hello(agent: Agent) -> None:
    await agent.stream.say(hello=agent.hello(spool_id="spool-1"))


async def lie_about_a_digest(agent: Agent) -> None:
    await agent.stream.say(inventory=agent.inventory(digest=digest_bytes(b"other")))


async def send_a_bomb(agent: Agent) -> None:
    bomb = zlib.compress(bytes(MAX_UNPACKED_BYTES + 1))
    await agent.stream.say(observation=agent.observation(readings_zlib=bomb))


async def send_a_bomb_in_parts(agent: Agent) -> None:
    bomb = zlib.compress(bytes(MAX_UNPACKED_BYTES + 1))
    told = agent.observation(readings_zlib=b"", findings=[], digest="sha256:0", parts_zlib=bomb)
    await agent.stream.say(observation=told)


async def send_too_much_at_once(agent: Agent) -> None:
    await agent.stream.say(inventory=agent.inventory(facts_zlib=bytes(MAX_MESSAGE_BYTES)))


async def send_garbage(agent: Agent) -> None:
    await agent.stream.say(inventory=agent.inventory(facts_zlib=compress(b"\xff" * 100)))


async def send_beyond_the_window(agent: Agent) -> None:
    await agent.stream.say(events=spooled(*range(1, Limits().events_window + 2)))


async def send_events_out_of_order(agent: Agent) -> None:
    await agent.stream.say(events=spooled(1, 2))
    await agent.stream.say(events=spooled(7, 8))


async def send_events_of_another_spool(agent: Agent) -> None:
    await agent.stream.say(events=spooled(1, spool="spool-2"))


HOSTILE: dict[str, tuple[Callable[[Agent], Awaitable[None]], str]] = {
    "a replayed Hello": (replay_hello, "BAD_REQUEST"),
    "a digest of other bytes": (lie_about_a_digest, "BAD_SNAPSHOT"),
    "a bomb": (send_a_bomb, "BAD_SNAPSHOT"),
    "a bomb in parts": (send_a_bomb_in_parts, "BAD_SNAPSHOT"),
    "a message that is too large": (send_too_much_at_once, "RESOURCE_EXHAUSTED"),
    "garbage": (send_garbage, "BAD_SNAPSHOT"),
    "events beyond the window": (send_beyond_the_window, "BAD_REQUEST"),
    "events out of order": (send_events_out_of_order, "BAD_REQUEST"),
    "events of another spool": (send_events_of_another_spool, "BAD_REQUEST"),
}


async def test_hostile_agents_are_named_by_code_and_the_others_go_on(state: Path) -> None:
    async with house(state) as here:
        placed = await here.admin.place(want("vm1", node=QUIET[0]))
        assert placed.placement is not None
        vms = (await here.admin.status()).vms
        wild = await here.agent(WILD, 9)
        for what, (act, code) in HOSTILE.items():
            await wild.greet(spool_id="spool-1")
            await wild.stream.hear_one("events_held")
            refused = await ended(wild, act(wild))
            assert code in (refused.code, refused.status.name), (what, refused)
            await here.all_quiet_well()
        thief = await here.agent(WILD, 9)
        assert (await thief.refusal(node=QUIET[0])).code == "NODE_MISMATCH"
        # the claim stands, and the one who behaves again is taken like anybody
        assert (await here.admin.status()).vms == vms
        await wild.join()
        await here.admin.until_state(WILD, "ready")
        await here.all_quiet_well()


async def test_bytes_that_are_no_message_end_their_own_stream(state: Path) -> None:
    async with house(state) as here:
        wild = await here.agent(WILD, 9)
        raw: Any = wild.channel.stream_stream("/vfioctl.v1.AgentSessionService/Session")
        for data in (b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", bytes(64)):
            call = raw()
            await call.write(data)
            async with asyncio.timeout(DEADLINE_S):
                with suppress(grpc.aio.AioRpcError):
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert await call.code() is grpc.StatusCode.INTERNAL
        await wild.join()
        await here.all_quiet_well()


async def test_observations_that_are_repeated_or_late_change_nothing(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join("pve01")
        old = agent.observation()
        agent.snapshot = nic_host(uptime_seconds=99.0)
        new = agent.observation()
        for told in (new, old, new, old):
            await agent.stream.say(observation=told)
        agent.sequence = new.sequence
        await agent.stream.hear_one("acknowledged")
        await agent.observe()
        view = await admin.node("pve01")
        assert view.state == "ready"
        told_of = await admin.events()
        assert len({event.seq for event in told_of}) == len(told_of)
