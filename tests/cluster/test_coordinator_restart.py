"""Stops, starts and failures: what survives, what grows, and what the operator reads."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.cluster.agents import Agent, Cluster, full_host, nic_host, secure_channel
from tests.cluster.processes import Ended, Process, run_to_end, serving
from tests.cluster.users import OPTIONS, Refused, User, want
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import from_message
from vfio_contract.findings import Verdict
from vfio_contract.views import BaselineView, Decision, Placement
from vfio_coordinator.state.events import InventoryReceived, SessionClosed
from vfio_coordinator.store.sqlite import DATABASE_NAME

NODE = "pve01"


@asynccontextmanager
async def admin_of(state: Path) -> AsyncIterator[User]:
    """Whoever reaches the socket of the process on `state`."""
    async with grpc.aio.insecure_channel(f"unix:{state}/api.sock", options=OPTIONS) as channel:
        yield User(channel)


@asynccontextmanager
async def ready_agent(state: Path, process: Process) -> AsyncIterator[Agent]:
    """The one node of a process that was started with it, taking placements."""
    bundle = load_bundle(state / "nodes" / NODE)
    async with secure_channel(process.endpoint, bundle) as channel, admin_of(state) as admin:
        agent = Agent(NODE, channel, nic_host())
        await agent.join()
        await admin.until_state(NODE, "ready")
        yield agent


# --- what survives -------------------------------------------------------------------------------


async def test_a_restart_keeps_claims_cordons_baselines_and_events(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join("pve01", full_host())
        await cluster.join("pve02", nic_host(2), number=2)
        placed = (await admin.place(want("vm1", ("gpu", "", 1)))).placement
        await admin.call("CordonNode", node="pve02", reason="new cooler")
        accepted = (await admin.call("AcceptBaseline", node="pve01")).baseline
        before, told = await admin.status(), await admin.events()

        await cluster.restart()

        admin = await cluster.admin()
        after = await admin.status()
        assert (after.cluster, after.epoch) == (before.cluster, before.epoch + 1)
        assert after.revision > before.revision
        assert (await admin.events())[: len(told)] == told
        (vm,), (was,) = after.vms, before.vms
        assert (vm.node, vm.generation, vm.token, vm.units) == (
            was.node,
            was.generation,
            was.token,
            was.units,
        )
        assert vm.state == "unknown"
        response = await admin.call("ExplainVm", vm="vm1")
        explained = from_message(Decision, response.decision).placement
        assert placed is not None
        assert explained is not None
        # of now nothing is known; the proof of the placement is kept, and told apart
        assert {p.gate for p in explained.units[0].proof} == {"heard"}
        assert from_message(Placement, response.placed).units[0].proof == placed.units[0].proof
        view = await admin.node("pve02")
        assert ("user:local", "new cooler") in {(r.owner, r.text) for r in view.reasons}
        kept = from_message(BaselineView, (await admin.call("GetBaseline", node="pve01")).baseline)
        accepted = from_message(BaselineView, accepted)
        assert (kept.digest, kept.firmware) == (accepted.digest, accepted.firmware)


async def test_nothing_is_healthy_or_free_before_its_agent_spoke_again(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE, full_host())
        admin = await cluster.admin()
        placed = (await admin.place(want("vm1", ("gpu", "", 1)))).placement
        assert placed is not None

        await cluster.restart()

        admin = await cluster.admin()
        view = await admin.node(NODE)
        assert (view.state, view.verdict, view.units_free) == (
            "revalidating",
            Verdict.UNKNOWN,
            0,
        )
        assert view.heard_age_s == -1
        assert (await admin.place(want("vm2"))).placement is None
        again = await cluster.agent(NODE, full_host())
        again.cluster_id, again.highest = agent.cluster_id, agent.highest
        welcome = await again.greet()
        assert (welcome.epoch, welcome.inventory_held) == (2, False)
        await again.tell()
        await admin.until_state(NODE, "ready")
        assert (await admin.place(want("vm2", ("gpu", "", 1)))).placement is None, "vm1 has it"
        other = (await admin.place(want("vm3"))).placement
        assert other is not None
        assert other.token > placed.token


async def test_tokens_and_generations_only_grow(state: Path) -> None:
    tokens: list[int] = []
    async with Cluster(state) as cluster:
        for number in range(3):
            await cluster.join(NODE)
            admin = await cluster.admin()
            assert (await admin.status()).epoch == number + 1
            for attempt in range(2):
                request_id = f"{number}-{attempt}"
                placed = (await admin.place(want("vm1", request_id=request_id))).placement
                assert placed is not None
                assert placed.generation == len(tokens) + 1
                tokens.append(placed.token)
                await admin.call("ReleaseVm", vm="vm1")
            await cluster.restart()
    assert tokens == sorted(set(tokens))


async def test_a_stop_tells_agents_that_it_is_one(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        assert await cluster.stop()
        refused = await agent.stream.end()
        assert (refused.code, refused.status) == (
            "SHUTTING_DOWN",
            grpc.StatusCode.UNAVAILABLE,
        )


# --- our own failures ----------------------------------------------------------------------------


async def test_a_message_that_breaks_the_state_is_refused_and_changes_nothing(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        runtime = cluster.serving.runtime
        before, node = runtime.state, runtime.state.nodes[NODE]
        assert node.session is not None
        broken = InventoryReceived(
            node=NODE,
            session=node.session.id,
            digest="",
            facts=None,  # type: ignore[arg-type]
            facts_zlib=b"",
        )
        with pytest.raises(AttributeError):
            runtime.receive(broken)
        assert runtime.state is before
        assert not runtime.failed.done()
        assert (await (await cluster.admin()).node(NODE)).state == "ready"


async def test_an_event_of_our_own_that_breaks_the_state_ends_everything(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Cluster(state) as cluster:
        agent, admin = await cluster.join(NODE), await cluster.admin()
        runtime = cluster.serving.runtime
        before = runtime.state
        runtime.feed(SessionClosed(node=[], session=1))  # type: ignore[arg-type]
        assert runtime.failed.done()
        assert "SessionClosed" in runtime.failed.result()
        assert runtime.state is before
        assert (await agent.stream.end()).code == "SHUTTING_DOWN"
        with pytest.raises(Refused) as caught:
            await admin.place(want("vm1"))
        assert caught.value.code == "SHUTTING_DOWN"
        assert not await cluster.stop()
    assert "Traceback" in caplog.text


# --- the process ---------------------------------------------------------------------------------


def one_line(ended: Ended) -> str:
    """What it said; it must be one line without a traceback."""
    (line,) = ended.errors.splitlines()
    assert line.startswith("vfioctl coordinator run: ")
    return line


async def test_the_process_says_where_it_listens_and_ends_with_0(state: Path) -> None:
    async with serving(state, "--node", NODE) as process:
        assert (state / "endpoint").read_text() == f"{process.endpoint}\n"
        assert load_bundle(state / "nodes" / NODE).endpoint == process.endpoint
        async with ready_agent(state, process) as agent:
            mute = Agent(NODE, agent.channel, agent.snapshot).open()
            await mute.call.wait_for_connection()
            process.terminate()
            assert (await agent.stream.end()).code == "SHUTTING_DOWN"
            # one that had not reached its handler yet is ended by the server itself
            assert (await mute.end()).code in ("SHUTTING_DOWN", "CANCELLED")
        ended = await process.ended()
        assert (ended.status, "Traceback" in ended.errors) == (0, False)
    assert not (state / "endpoint").exists()


async def test_sigterm_lets_calls_finish(state: Path) -> None:
    """Each call is answered or refused; what was answered is there after the restart."""
    async with serving(state, "--node", NODE) as process:
        async with ready_agent(state, process), admin_of(state) as admin:
            reasons = [f"reason {number}" for number in range(200)]
            calls = [
                asyncio.create_task(admin.call("CordonNode", node=NODE, reason=reason))
                for reason in reasons
            ]
            await calls[0]
            process.terminate()
            results = await asyncio.gather(*calls, return_exceptions=True)
            ended = await process.ended()
        assert (ended.status, "Traceback" in ended.errors) == (0, False)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {type(error) for error in refused} <= {Refused}
    answered = [
        reason
        for reason, result in zip(reasons, results, strict=True)
        if not isinstance(result, Refused)
    ]
    assert answered
    async with serving(state), admin_of(state) as admin:
        told = {event.text for event in await admin.events()}
    assert all(any(reason in text for text in told) for reason in answered)


async def test_a_store_that_fails_ends_the_process(state: Path) -> None:
    async with (
        serving(state, "--node", NODE) as process,
        ready_agent(state, process),
        admin_of(state) as admin,
    ):
        # The next page of the log does not fit: what a full disk is to SQLite.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(Refused) as caught:
            await admin.place(want("vm1"))
        assert caught.value.code == "OUTCOME_UNKNOWN"
        ended = await process.ended()
    assert ended.status == 2
    assert "the store failed" in ended.errors
    async with serving(state), admin_of(state) as admin:
        assert (await admin.status()).vms == ()


async def stopped(state: Path) -> None:
    """A state directory that was used and left in order."""
    async with serving(state) as process:
        process.terminate()
        assert (await process.ended()).status == 0


@pytest.mark.parametrize("size", [0, 50, 4096, -4096, -1])
async def test_a_truncated_database_is_told_in_one_line_and_left_alone(
    state: Path, size: int
) -> None:
    await stopped(state)
    database = state / DATABASE_NAME
    data = database.read_bytes()[:size]
    database.write_bytes(data)
    ended = await run_to_end(state)
    assert ended.status == 2
    line = one_line(ended)
    assert str(database) in line
    assert "Nothing was changed" in line
    assert database.read_bytes() == data


async def test_a_second_coordinator_names_the_first(state: Path) -> None:
    async with serving(state) as process:
        ended = await run_to_end(state)
        assert ended.status == 2
        assert f"held by pid {process.pid} on {socket.gethostname()}" in one_line(ended)
        assert (state / "endpoint").read_text() == f"{process.endpoint}\n"
        async with admin_of(state) as admin:
            assert (await admin.status()).epoch == 1


async def test_a_taken_port_is_told_in_one_line(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await run_to_end(state, "--listen", endpoint)
    assert ended.status == 2
    assert f"cannot listen on {endpoint}" in ended.errors.splitlines()[-1]
    assert "Traceback" not in ended.errors


async def test_a_damaged_authority_is_told_in_one_line(state: Path) -> None:
    await stopped(state)
    (state / "ca" / "authority.pem").write_text("")
    ended = await run_to_end(state)
    assert ended.status == 2
    assert "authority.pem is damaged" in one_line(ended)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--listen", "7443"), "--listen '7443' is not host:port"),
        (("--listen", "localhost:"), "is not host:port"),
        (("--listen", "::1:7443"), "[::1]:7443"),
        (("--listen", "127.0.0.1:70000"), "is not host:port"),
        (("--listen", "*:7443"), "is not host:port"),
        (("--node", "PVE 1"), "--node 'PVE 1' is not a valid name"),
        (("--nodes",), "unrecognized arguments: --nodes"),
    ],
)
async def test_a_bad_argument_is_a_usage_error(
    state: Path, options: tuple[str, ...], why: str
) -> None:
    ended = await run_to_end(state, *options)
    assert ended.status == 64
    assert why in one_line(ended)
    assert not state.exists()


async def test_an_address_in_brackets_is_listened_on(state: Path) -> None:
    async with Cluster(state, listen="[::1]:0") as cluster:
        assert cluster.serving.endpoint.startswith("[::1]:")
        await cluster.join(NODE)
