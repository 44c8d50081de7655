"""A host under a real agent, a real coordinator and one who watches: what each notices, and when.

The host is a capture from `tests/data/hosts`, unpacked so that lines can be added to its log, or
this machine. Nothing here waits but for a change that is told.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.processes import Process, serving
from tests.cluster.test_coordinator_restart import admin_of
from tests.cluster.two_processes import Halves, halves
from tests.cluster.users import User, Watch
from vfio_contract.views import ClusterChange, Event, WatchKind

HOSTS = Path(__file__).parent.parent / "data" / "hosts"
NODE = "pve01"
KINDS = (WatchKind.NODES, WatchKind.EVENTS)


def unpack(host: str, into: Path) -> Path:
    """A captured host as a directory; its absolute links are the capture's own."""
    with tarfile.open(HOSTS / f"{host}.tar.gz") as tar:
        tar.extractall(into)  # our own capture; Debian 12's Python has no filters yet
    return into


@dataclass
class Scene:
    """One node, looked at by real processes. `stream` has told everything there was before."""

    both: Halves
    process: Process
    admin: User
    stream: Watch

    def say(self, line: str, *, seconds: float = 9000.0) -> None:
        """The captured host's kernel says this."""
        with (self.both.root / "dmesg").open("a") as log:
            log.write(f"[{seconds:12.6f}] {line}\n")

    async def event(self, holds: Callable[[Event], bool]) -> Event:
        """The first event like that."""
        heard = await self.stream.until(lambda change: any(holds(e) for e in change.events))
        return next(event for event in heard[-1].events if holds(event))

    async def row(self, holds: Callable[[int], bool]) -> list[ClusterChange]:
        """Until the node's row has such a number of free units."""
        return await self.stream.until(lambda c: any(holds(n.units_free) for n in c.nodes))

    async def free(self) -> list[str]:
        """The first address of each unit that a VM could have."""
        units = (await self.admin.node(NODE)).units
        return [unit.addresses[0] for unit in units if unit.state == "free"]


@contextmanager
def node_halves(state: Path, root: Path, endpoint: str) -> Iterator[Halves]:
    """Both halves of the node's agent, started."""
    with halves(state / "nodes" / NODE, root, endpoint) as both:
        both.node = NODE
        both.hostd()
        both.network()
        yield both


@asynccontextmanager
async def scene(state: Path, root: Path, *, until: str = "ready") -> AsyncIterator[Scene]:
    """The coordinator, the node's two processes and a watcher, as soon as the node is `until`."""
    async with serving(state, "--node", NODE) as process, admin_of(state) as admin:
        with node_halves(state, root, process.endpoint) as both:
            stream = admin.watch(kinds=KINDS)
            await stream.until(lambda change: any(n.state == until for n in change.nodes))
            yield Scene(both, process, admin, stream)
            stream.call.cancel()
