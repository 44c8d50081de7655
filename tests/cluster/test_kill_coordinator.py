"""SIGKILL during placements: nothing that was acknowledged is lost, nothing is invented.

The real process is killed again and again while callers place and release VMs on nodes with real
sessions. What a caller heard is the truth that the next process is held to: an acknowledged claim
is there with the same node, generation and token, an acknowledged release is gone, what got no
answer may be either, and no unit ever has two owners.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc.aio
import pytest

from tests.cluster.agents import Agent, host, secure_channel
from tests.cluster.processes import Process, serving
from tests.cluster.users import OPTIONS, Refused, User, want
from tests.fakes.snapshots import behind, bridge, nic
from vfio_contract.artifact import decode
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import from_message
from vfio_contract.model import Snapshot
from vfio_contract.views import Placement, PlaceRequest, VmView
from vfio_coordinator.state.keys import CLAIMS, UNITS
from vfio_coordinator.state.records import Claim, UnitRecord
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.sqlite import SqliteStore

KILLS = 20
NODES = ("pve01", "pve02", "pve03")
CARDS = 12
"""Network cards of each node, one unit each."""

CALLERS = 6
MOST_ANSWERS = 16
"""A process is killed after 0 to this many answers, at a random moment."""

HEARTBEAT_S = 2.0
"""Below a third of the deadline of real time, in which the process lives."""


def many_cards(number: int) -> Snapshot:
    rows = [
        behind(
            bridge(f"0000:00:{slot:02x}.0", group=100 + slot),
            nic(f"0000:{slot:02x}:00.0", group=slot),
        )
        for slot in range(1, CARDS + 1)
    ]
    return host(*itertools.chain(*rows), n=number)


@dataclass(slots=True)
class Book:
    """What callers asked for and heard, over all processes."""

    random: Random
    numbers: Iterator[int] = field(default_factory=itertools.count)
    requested: dict[str, PlaceRequest] = field(default_factory=dict)
    placed: dict[str, Placement] = field(default_factory=dict)
    releasing: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    unanswered: list[str] = field(default_factory=list)
    answers: int = 0
    answered: asyncio.Condition = field(default_factory=asyncio.Condition)
    counts: Counter[str] = field(default_factory=Counter)

    def next_request(self) -> PlaceRequest:
        """A new VM, or one of which nobody knows whether it was placed, with the same id."""
        if self.unanswered and self.random.random() < 0.5:
            return self.requested[self.unanswered.pop()]
        request = want(f"vm-{next(self.numbers):04}")
        self.requested[request.vm] = request
        return request

    def releasable(self) -> list[str]:
        return sorted(set(self.placed) - self.releasing)

    async def answer(self, what: str) -> None:
        self.counts[what] += 1
        async with self.answered:
            self.answers += 1
            self.answered.notify_all()

    async def reach(self, answers: int) -> None:
        async with self.answered:
            await self.answered.wait_for(lambda: self.answers >= answers)


async def call_until_death(book: Book, user: User) -> None:
    """Place and release until a call gets no answer."""
    while True:
        held = book.releasable()
        releasing = bool(held) and book.random.random() < len(held) / (len(NODES) * CARDS)
        try:
            if releasing:
                await release(book, user, book.random.choice(held))
            else:
                await place(book, user)
        except Refused as refused:
            if refused.status is not grpc.StatusCode.UNAVAILABLE:
                raise
            book.counts["unanswered"] += 1
            return


async def place(book: Book, user: User) -> None:
    request = book.next_request()
    try:
        decision = await user.place(request)
    except Refused:
        book.unanswered.append(request.vm)
        raise
    if decision.placement is None:
        del book.requested[request.vm]
        await book.answer("full")
        return
    known = book.placed.setdefault(request.vm, decision.placement)
    assert fence(known) == fence(decision.placement)
    await book.answer("placed")


async def release(book: Book, user: User, vm: str) -> None:
    book.releasing.add(vm)
    await user.call("ReleaseVm", vm=vm)
    book.released.add(vm)
    await book.answer("released")


def fence(claim: Placement | VmView) -> tuple[str, int, int]:
    return claim.node, claim.generation, claim.token


def check(book: Book, claims: tuple[VmView, ...]) -> None:
    """The process's claims against what its predecessors' callers heard."""
    found = {claim.name: claim for claim in claims}
    assert len(found) == len(claims), "a VM has two claims"
    assert set(found) <= set(book.requested), "a claim that nobody asked for"
    for vm, placement in book.placed.items():
        if vm in book.released:
            assert vm not in found, f"{vm} was released"
        elif vm not in book.releasing or vm in found:
            assert vm in found, f"{vm} was acknowledged and is gone"
            assert fence(found[vm]) == fence(placement)
            assert found[vm].units == tuple(unit.unit for unit in placement.units)
    taken = Counter((claim.node, unit) for claim in claims for unit in claim.units)
    assert not taken or max(taken.values()) == 1, f"two owners: {taken.most_common(1)}"


@asynccontextmanager
async def agents(state: Path, process: Process) -> AsyncIterator[None]:
    """All nodes in session, and kept alive."""
    async with AsyncExitStack() as channels, asyncio.TaskGroup() as group:
        lives = []
        for number, name in enumerate(NODES, 1):
            bundle = load_bundle(state / "nodes" / name)
            channel = await channels.enter_async_context(secure_channel(process.endpoint, bundle))
            agent = Agent(name, channel, many_cards(number), number)
            await agent.join()
            lives.append(group.create_task(live(agent)))
        yield
        for life in lives:
            life.cancel()


async def live(agent: Agent) -> None:
    """Heartbeats until the stream breaks."""
    hearing = asyncio.create_task(agent.stream.hear())
    try:
        while not (await asyncio.wait({hearing}, timeout=HEARTBEAT_S))[0]:
            await agent.beat()
    except Refused:
        pass
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


async def one_life(state: Path, book: Book) -> None:
    """A process, its check, calls upon it, and its sudden death."""
    names = itertools.chain(*(("--node", name) for name in NODES))
    async with (
        serving(state, *names) as process,
        grpc.aio.insecure_channel(f"unix:{state}/api.sock", options=OPTIONS) as channel,
    ):
        user = User(channel)
        check(book, await claims_of(user))
        async with agents(state, process):
            for name in NODES:
                await user.until_state(name, "ready")
            callers = [asyncio.create_task(call_until_death(book, user)) for _ in range(CALLERS)]
            await book.reach(book.answers + book.random.randrange(MOST_ANSWERS + 1))
            for _ in range(book.random.randrange(100)):
                await asyncio.sleep(0)  # some steps of the loop, no time
            process.kill()
            await asyncio.gather(*callers)
            assert (await process.ended()).status == -9


async def claims_of(user: User) -> tuple[VmView, ...]:
    response = await user.call("ListVms")
    return tuple(from_message(VmView, vm) for vm in response.vms)


def check_store(state: Path) -> None:
    """Each unit's record names the one claim that has it, and no claim lacks a record."""
    with StateLock.acquire(state) as lock:
        store = SqliteStore.open(lock)
        claims = [decode(Claim, item.value) for item in store.range(CLAIMS)]
        units = [decode(UnitRecord, item.value) for item in store.range(UNITS)]
        store.close()
    wanted = [(c.node, key, c.vm, c.generation, c.token) for c in claims for key in c.keys]
    found = [(u.node, u.identity, u.vm, u.generation, u.token) for u in units]
    assert sorted(found) == sorted(wanted)
    assert len({(node, key) for node, key, *_ in found}) == len(found)


@pytest.mark.timeout(600)
async def test_twenty_kills_lose_no_claim_and_invent_none(state: Path, seed: int) -> None:
    book = Book(Random(seed))
    highest = 0
    for _ in range(KILLS):
        before = set(book.requested)
        await one_life(state, book)
        tokens = [p.token for vm, p in book.placed.items() if vm not in before]
        assert all(token > highest for token in tokens), "a token of an earlier process came back"
        highest = max([highest, *tokens])
        check_store(state)
    async with (
        serving(state),
        grpc.aio.insecure_channel(f"unix:{state}/api.sock", options=OPTIONS) as channel,
    ):
        check(book, await claims_of(User(channel)))
    print(f"seed {seed}: {dict(book.counts)}")
