"""The loop that carries events and effects, on a store in memory: what a caller is told when the
store or another coordinator ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.cluster.agents import FakeClock, product_uuid
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.views import NodeView
from vfio_coordinator import runtime as module
from vfio_coordinator.bootstrap import LIMITS, raise_epoch
from vfio_coordinator.runtime import Runtime
from vfio_coordinator.state.effects import AcceptSession
from vfio_coordinator.state.events import CordonRequested, NodeHello
from vfio_coordinator.state.keys import META_EPOCH
from vfio_coordinator.state.model import start
from vfio_coordinator.store.interface import Delete, Store, Txn
from vfio_coordinator.store.memory import MemoryStore

NODE = "pve01"


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[Runtime]:
    """A runtime that has read the store and knows one node."""
    clock = FakeClock()
    runtime = Runtime(store, start(LIMITS), clock, "co1")
    runtime.receive(raise_epoch(store, clock.now().utc))
    runtime.start()
    port = runtime.open_session(NODE)
    runtime.receive(hello(port.id))
    assert await port.next_word() == AcceptSession(NODE, port.id, inventory_held=False)
    await cordon(runtime, "waits for the node's own record")
    yield runtime
    assert await runtime.stop()


def hello(session: int) -> NodeHello:
    return NodeHello(
        node=NODE,
        session=session,
        boot_id="boot",
        product_uuid=product_uuid(1),
        agent_state_id="",
        agent_version="",
        inventory_digest="",
        cluster_id="",
        highest_incarnation=0,
        highest_epoch=0,
    )


async def cordon(runtime: Runtime, reason: str) -> NodeView:
    async with asyncio.timeout(30):
        return await runtime.ask(
            NodeView,
            lambda ticket: CordonRequested(ticket=ticket, node=NODE, actor="ann", reason=reason),
        )


async def refusal(runtime: Runtime) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await cordon(runtime, "another")
    return caught.value


async def test_an_answer_comes_after_its_commit() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        before = store.revision()
        view = await cordon(runtime, "new cooler")
        assert store.revision() > before
        assert [r.text for r in view.reasons if r.owner == "user:ann"] == ["new cooler"]


async def test_a_coordinator_that_lost_the_fence_says_so_and_ends() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        store.commit([Txn((), (Delete(META_EPOCH),))])
        error = await refusal(runtime)
        assert error.code is ErrorCode.SHUTTING_DOWN
        assert "taken over" in error.detail
        async with asyncio.timeout(30):
            assert "taken over" in await runtime.failed
        with pytest.raises(ClusterError, match="taken over"):
            runtime.receive(hello(99))
        with pytest.raises(ClusterError, match="SHUTTING_DOWN"):
            runtime.open_session(NODE)


async def test_a_store_that_fails_leaves_the_outcome_unknown() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        store.close()
        error = await refusal(runtime)
        assert error.code is ErrorCode.OUTCOME_UNKNOWN
        assert "closed" in error.detail
        assert runtime.failed.done()


async def test_calls_at_the_end_are_answered_or_told_that_nobody_knows() -> None:
    async with running(MemoryStore()) as runtime:
        calls = [asyncio.create_task(cordon(runtime, f"reason {n}")) for n in range(5)]
        await asyncio.sleep(0)  # each has asked
        await runtime.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
    views = [result for result in results if isinstance(result, NodeView)]
    errors = [result for result in results if isinstance(result, ClusterError)]
    assert len(views) + len(errors) == 5
    assert {error.code for error in errors} <= {ErrorCode.OUTCOME_UNKNOWN}
    assert not runtime.failed.done()


async def test_an_answer_of_another_kind_is_our_own_fault() -> None:
    async with running(MemoryStore()) as runtime:
        with pytest.raises(TypeError, match="expected ErrorCode, the state answered"):
            await runtime.ask(
                ErrorCode,
                lambda ticket: CordonRequested(ticket=ticket, node=NODE, actor="ann", reason=""),
            )


async def test_a_session_that_ends_is_told_to_the_state_once() -> None:
    async with running(MemoryStore()) as runtime:
        port = runtime.open_session(NODE)
        runtime.receive(replace(hello(port.id), boot_id="next"))
        assert await port.next_word() == AcceptSession(NODE, port.id, inventory_held=False)
        runtime.close_session(port)
        assert runtime.state.nodes[NODE].session is None
        before = runtime.state
        runtime.close_session(port)
        assert runtime.state is before


async def test_a_commit_that_takes_too_long_is_unknown_to_its_caller_and_counts_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.05)
        with store.changed:  # the writer's thread waits here, as it would for a slow disk
            error = await refusal(runtime)
        assert error.code is ErrorCode.OUTCOME_UNKNOWN
        monkeypatch.undo()
        view = await cordon(runtime, "the last word")
        assert not runtime.failed.done()
        assert [r.text for r in view.reasons if r.owner == "user:ann"] == ["the last word"]
        texts = [row.text for row in runtime.state.log.values()]
        assert any("another" in text for text in texts), "what nobody waited for has happened"
