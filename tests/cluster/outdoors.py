"""Nodes that are out in the weather: what is said on their hosts, and what arrives of it.

Everything is a process: a coordinator, and for each node both halves of an agent on a captured
host. Kernel lines carry numbers of their own, in the address of a function, so that what was said
can be compared with what the event log holds and with what the host's journal still keeps.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import NAMESPACE_URL, uuid5

from tests.cluster.noticing import unpack
from tests.cluster.processes import Process, serving
from tests.cluster.test_coordinator_restart import admin_of
from tests.cluster.two_processes import Half, Halves, halves
from tests.cluster.users import User
from vfio_agent.hostd.service import JOURNAL_FILE
from vfio_contract.views import ClusterStatus

Value = TypeVar("Value")

HOST = "gpubox-f10"
BOOT_ID = "proc/sys/kernel/random/boot_id"
PRODUCT_UUID = "sys/devices/virtual/dmi/id/product_uuid"

WAIT_S = 60.0
"""Ends what hangs: the slowest weather here is noticed within 20 s, and over as soon."""

LOOK_S = 0.1
"""Between two looks at what the coordinator shows."""

_ADDRESS = re.compile(r"0000:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7]): ")
_FIRST_BUS = 0x80
"""The captured hosts have no function from there on, so that a line is about nobody's device."""


def address_of(number: int) -> str:
    """The function with that number."""
    return f"0000:{_FIRST_BUS + number // 256:02x}:{number // 8 % 32:02x}.{number % 8}"


def read_number(text: str) -> int | None:
    """The number of an event's text; None for one about a device of the host."""
    found = _ADDRESS.match(text)
    assert found is not None, text
    bus, device, function = (int(part, 16) for part in found.groups())
    number = (bus - _FIRST_BUS) * 256 + device * 8 + function
    return number if number > 0 else None


@dataclass
class Spell:
    """How long bad weather lasted, and how soon it was noticed, in seconds from its beginning.

    `back_s` is from its end until the node took VMs again. None for what was not measured.
    """

    began: float = field(default_factory=time.monotonic, repr=False)
    lasted_s: float | None = None
    agent_s: float | None = None
    coordinator_s: float | None = None
    back_s: float | None = None

    def agent_noticed(self) -> None:
        self.agent_s = self._passed()

    def coordinator_noticed(self) -> None:
        self.coordinator_s = self._passed()

    async def last(self, seconds: float) -> None:
        """Stay until it has lasted so long; at once, if it has."""
        await asyncio.sleep(seconds - self._passed())
        self.lasted_s = self._passed()

    def is_over(self) -> None:
        assert self.lasted_s is not None
        self.back_s = self._passed() - self.lasted_s

    def _passed(self) -> float:
        return time.monotonic() - self.began


@dataclass
class Node:
    """One host and its agent."""

    name: str
    both: Halves
    hostd: Half
    network: Half
    journal: Path
    said: int = 0

    def say(self, count: int = 1) -> None:
        """The host's kernel says so many lines more, each with the next number."""
        for _ in range(count):
            self.said += 1
            self.say_wedged(address_of(self.said))

    def say_wedged(self, address: str) -> None:
        """The host's kernel says that a reset of this function failed for good."""
        with (self.both.root / "dmesg").open("a") as log:
            text = f"vfio-pci {address}: not ready 65535ms after FLR; giving up"
            log.write(f"[{9_000 + self.said:12.6f}] {text}\n")

    def end(self) -> None:
        """Both halves, in good order."""
        for half in (self.network, self.hostd):
            status, said = half.end()
            assert (status, "Traceback" in said) == (0, False), said

    def start(self) -> None:
        """Both halves again, once they have ended."""
        self.hostd, self.network = self.both.hostd(state=self.journal), self.both.network()

    def waiting(self) -> int:
        """Events that the journal keeps for the coordinator; hostd may have it open."""
        name = f"{(self.journal / JOURNAL_FILE).as_uri()}?mode=ro"
        with closing(sqlite3.connect(name, uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM spool").fetchone()
        return int(count)


@dataclass
class Outdoors:
    """A coordinator and its nodes."""

    state: Path
    process: Process
    admin: User
    asking: AsyncExitStack
    stack: AsyncExitStack

    async def start_again(self) -> None:
        """Another coordinator on the same state and address, once the first one has ended."""
        # gRPC would keep the dead connection, and its back-off, for whoever asks next
        await self.asking.aclose()
        again = serving(self.state, "--listen", self.process.endpoint)
        self.process = await self.stack.enter_async_context(again)
        self.admin = await self.asking.enter_async_context(admin_of(self.state))

    async def add(
        self,
        name: str,
        root: Path,
        *,
        hostd: Sequence[str] = (),
        network: Sequence[str] = (),
        journal: Path | None = None,
    ) -> Node:
        """A node on a captured host, unpacked at `root`, and both its halves behind prefixes.

        Each root is a machine of its own, however many names it gets. `journal` is hostd's state
        directory, where it is not to be its own.
        """
        if not root.exists():
            unpack(HOST, root)
            for file in (BOOT_ID, PRODUCT_UUID):
                (root / file).write_text(f"{uuid5(NAMESPACE_URL, f'{file} {root}')}\n")
        both = self.stack.enter_context(
            halves(self.state / "nodes" / name, root, self.process.endpoint)
        )
        both.node = name
        started = both.hostd(prefix=hostd, state=journal), both.network(prefix=network)
        return Node(name, both, *started, journal=journal or both.state)

    async def status(self) -> ClusterStatus:
        return await self.admin.status()

    async def until_ready(self, node: Node) -> None:
        """Until it has joined and takes VMs, as far as its state goes."""
        await self.until(
            self.status, lambda s: (node.name, "ready") in {(n.name, n.state) for n in s.nodes}
        )

    async def until_health(self, *codes: str) -> dict[str, str]:
        """Until health shows each of these, wherever; the texts."""

        def shows(status: ClusterStatus) -> bool:
            return {item.code for item in status.items} >= set(codes)

        status = await self.until(self.status, shows)
        return {item.code: item.text for item in status.items}

    async def until_text(self, words: str) -> None:
        """Until a line of health has these words."""
        await self.until(self.status, lambda s: any(words in item.text for item in s.items))

    async def until_any_health(self, *codes: str) -> None:
        """Until health shows one of these."""
        await self.until(self.status, lambda s: bool({item.code for item in s.items} & set(codes)))

    async def until_over(self, *codes: str) -> None:
        """Until health shows none of these any more."""
        await self.until(self.status, lambda s: not {item.code for item in s.items} & set(codes))

    async def until_told(self, node: Node, *, lost: int = 0) -> None:
        """Until the event log has all that was said but so many, each once and in order."""

        def enough(numbers: list[int]) -> bool:
            return len(numbers) >= node.said - lost

        numbers = await self.until(lambda: self.numbers(node), enough)
        assert numbers == sorted(set(numbers)), f"twice or out of order: {numbers}"
        assert len(numbers) == node.said - lost

    async def until_held(self, node: Node) -> None:
        """Until the host keeps nothing any more that the cluster has."""

        async def waiting() -> int:
            return node.waiting()

        await self.until(waiting, lambda count: count == 0)

    async def numbers(self, node: Node) -> list[int]:
        """Of the lines of that host that the event log holds, in its order."""
        rows = await self.admin.events(node=node.name)
        lines = [row for row in rows if row.code == "KERNEL_LINE"]
        found = (read_number(row.text) for row in sorted(lines, key=lambda row: row.seq))
        return [number for number in found if number is not None]

    async def codes(self) -> list[str]:
        """Of all rows of the event log."""
        return [row.code for row in await self.admin.events()]

    async def until(
        self, ask: Callable[[], Awaitable[Value]], holds: Callable[[Value], bool]
    ) -> Value:
        """The first answer of which that is true."""
        answer: Value | None = None
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    answer = await ask()
                    if holds(answer):
                        return answer
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise AssertionError(f"never came; last: {answer}") from None


@asynccontextmanager
async def outdoors(
    state: Path, *nodes: str, options: Sequence[str] = (), prefix: Sequence[str] = ()
) -> AsyncIterator[Outdoors]:
    """A coordinator behind a prefix, with bundles for these nodes, of which none has started."""
    named = [word for node in nodes for word in ("--node", node)]
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(serving(state, *named, *options, prefix=prefix))
        asking = await stack.enter_async_context(AsyncExitStack())
        admin = await asking.enter_async_context(admin_of(state))
        yield Outdoors(state, process, admin, asking, stack)


async def hear(half: Half, words: str) -> str:
    """The next line of a process with these words, without holding up everything else."""
    return await asyncio.to_thread(half.until, words)
