"""Nodes that spool durable events and a coordinator that is killed: what came of it, at both ends.

Each node has a real journal and a real link to the real coordinator process; only its host is left
out. Events carry numbers of their own (`tests.fakes.durable`), appended at a steady rate whether or
not anybody listens. A follower reads the event log over the local socket, as `vfioctl events` does.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio

from tests.cluster.processes import Process, serving
from tests.cluster.users import OPTIONS, User
from tests.fakes.durable import line, numbers_in, reset
from vfio_agent.journal import Journal, Spool
from vfio_agent.session.conversation import Speaker
from vfio_agent.session.link import Link
from vfio_agent.session.outbox import Outbox
from vfio_contract.bundle import Bundle, load_bundle

TOGETHER = 5
"""Events that one look of an agent finds, and so in one sync."""

RESETS_EVERY = 10

RECONNECT_S = 0.3

SETTLE_S = 90.0
"""Ends a run that never comes to rest."""


class Source:
    """One node: a thread that appends, and one that keeps a session."""

    def __init__(self, name: str, journal: Journal, bundle: Path, *, per_second: float) -> None:
        self.name = name
        self.journal = journal
        self.appended = 0
        self.failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self._period_s = TOGETHER / per_second
        self._bundle = bundle
        self._full = threading.Event()
        self._ended = threading.Event()
        self._link: Link | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(work,))
            for work in (self._append, self._talk)
        ]
        self.endpoint = ""

    @property
    def spool(self) -> Spool:
        return self.journal.spool

    def start(self, endpoint: str) -> None:
        self.endpoint = endpoint
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what went wrong in one of the threads."""
        if not self.failures.empty():
            raise self.failures.get()

    def stop_appending(self) -> None:
        self._full.set()
        self._threads[0].join()

    def end(self) -> None:
        self._full.set()
        self._ended.set()
        if self._link is not None:
            self._link.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failures.put(error)

    def _load_bundle(self) -> Bundle:
        return load_bundle(self._bundle, now=datetime.now(UTC))

    def _append(self) -> None:
        due = time.monotonic()
        while not self._full.wait(max(0.0, due - time.monotonic())):
            first = self.appended + 1
            numbers = range(first, first + TOGETHER)
            self.spool.extend([line(n) if n % RESETS_EVERY else reset(n) for n in numbers])
            self.appended += TOGETHER
            due += self._period_s

    def _talk(self) -> None:
        while not self._ended.is_set():
            self._link = Link(
                endpoint=self.endpoint,
                bundle=self._load_bundle,
                speaker=Speaker(self.name, self.journal.state_id, "0.1.0"),
                outbox=Outbox(),
                fences=self.journal,
                on_terms=lambda terms: None,
                events=self.spool,
            )
            if not self._ended.is_set():
                self._link.run()
            self._ended.wait(random.uniform(0, RECONNECT_S))


@dataclass(slots=True)
class Count:
    """What a run came to. `logged` are the numbers in the event log by node, in its order."""

    appended: dict[str, int]
    logged: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    codes: set[str] = field(default_factory=set)
    kills: int = 0
    seen: int = 0
    seconds: float = 0.0
    deepest: int = 0


def check(count: Count) -> None:
    """None lost, none twice, all in order, no gap."""
    for name, appended in count.appended.items():
        numbers = count.logged[name]
        assert numbers == sorted(set(numbers)), f"{name}: twice or out of order"
        assert numbers == list(range(1, appended + 1)), f"{name}: {appended - len(numbers)} lost"
    assert not count.codes & {"EVENTS_LOST", "JOURNAL_FAILED", "SPOOL_FULL"}, count.codes


async def run(
    directory: Path, *, nodes: int, per_second: float, lives: int, life_s: float
) -> Count:
    """That many lives of a coordinator, each ended by SIGKILL, and a last one until all is told."""
    names = [f"pve{number:02}" for number in range(1, nodes + 1)]
    state = directory / "c"
    options = tuple(itertools.chain(*(("--node", name) for name in names)))
    async with serving(state, *options) as first:
        endpoint = first.endpoint
    listen = (*options, "--listen", endpoint)
    count = Count({})
    with ExitStack() as stack:
        sources = []
        for name in names:
            journal = stack.enter_context(closing(Journal.open(directory / name / "journal.db")))
            bundle = state / "nodes" / name
            sources.append(Source(name, journal, bundle, per_second=per_second / nodes))
        for source in sources:
            stack.callback(source.end)
        began = time.monotonic()
        for source in sources:
            source.start(endpoint)
        for _ in range(lives):
            async with serving(state, *listen) as process:
                await _follow(state, count, seconds=life_s)
                process.kill()
                count.kills += 1
                await process.ended()
        async with serving(state, *listen) as process:
            for source in sources:
                await asyncio.to_thread(source.stop_appending)
            count.seconds = time.monotonic() - began
            count.appended = {source.name: source.appended for source in sources}
            await _settle(state, count, sources, process)
    return count


async def _settle(state: Path, count: Count, sources: list[Source], process: Process) -> None:
    deadline = time.monotonic() + SETTLE_S
    while any(source.spool.after(0, 1) for source in sources):
        assert time.monotonic() < deadline, [len(s.spool.after(0, 10_000)) for s in sources]
        for source in sources:
            source.check()
        await _follow(state, count, seconds=0.5)
    await _follow(state, count, seconds=0.0)


async def _follow(state: Path, count: Count, *, seconds: float) -> None:
    """Read the event log for so long; once to its end at least."""
    ending = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(f"unix:{state}/api.sock", options=OPTIONS) as channel:
        user = User(channel)
        while True:
            rows = await user.events(after_seq=count.seen)
            for row in rows:
                assert not count.seen or row.seq > count.seen
                count.seen = row.seq
                count.codes.add(row.code)
                count.logged[row.subject.removeprefix("node:")] += numbers_in([row])
            count.deepest = max(count.deepest, len(rows))
            if rows:
                continue
            if time.monotonic() >= ending:
                return
            await asyncio.sleep(0.1)
