"""From a state directory to a serving coordinator: lock, store, epoch, certificates, servers.

The order is the safety: nothing listens before the directory is locked and private, the store has
passed its check, and an epoch higher than every earlier one is durable. A damaged store ends the
start with its path and what to do, and is left as it was found. The end is in order too: streams
are told, calls finish, commits finish, and only then are the store and the directory let go.

Certificates are issued at the start and renewed while it runs (`certificates`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc.aio

from vfio_contract.address import check_name
from vfio_contract.bundle import (
    ENDPOINT_FILE,
    BundleError,
    parse_endpoint,
    write_file,
)
from vfio_contract.views import Event
from vfio_coordinator.api.server import make_local_server, make_tls_server, require_private
from vfio_coordinator.certificates import Certificates
from vfio_coordinator.clock import Clock, SteadyClock, SystemClock, wall_time
from vfio_coordinator.notify_config import NotifyConfigError, read_targets
from vfio_coordinator.runtime import Runtime
from vfio_coordinator.start_screen import start_screen
from vfio_coordinator.state.bootstrap import open_cluster
from vfio_coordinator.state.events import Restored
from vfio_coordinator.state.keys import EVENTS, META_CLUSTER, META_EPOCH
from vfio_coordinator.state.model import Limits, start
from vfio_coordinator.state.records import EpochRecord
from vfio_coordinator.state.restore import RestoreError, read_record
from vfio_coordinator.store.interface import Store, StoreError
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.sqlite import SqliteStore

log = logging.getLogger("vfio-coordinator")

LIMITS = Limits(lost_after_s=10.0, reconnect_window_s=60.0, evidence_max_age_s=300.0)
"""Deadlines that fit the intervals in Welcome (api.session)."""

GRACE_S = 3.0
"""How long open calls may go on after SIGTERM."""

FAILED_GRACE_S = 1.0
"""How long callers may take to hear that the store has failed."""

ANY_HOST = frozenset({"0.0.0.0", "[::]"})


class StartError(Exception):
    """The coordinator cannot be started: one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a coordinator is started; ValueError names what cannot be.

    `listen` is host:port, port 0 picks one; an IPv6 address stands in brackets. `names` are further
    DNS names or addresses under which agents reach it. `nodes` get a certificate bundle under
    `state`/nodes. `notify` says whom to tell of incidents, None for nobody.
    """

    state: Path
    listen: str
    names: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    notify: Path | None = None

    def __post_init__(self) -> None:
        host, _, port = self.listen.rpartition(":")
        try:
            parse_endpoint(f"{host}:1" if port == "0" else self.listen)
        except BundleError as error:
            raise ValueError(
                f"--listen {self.listen!r} is not host:port, like 127.0.0.1:7443 or [::1]:7443"
            ) from error
        for name in self.nodes:
            check_name(name, field="--node")


class Serving:
    """A running coordinator. `endpoint` is where it listens, with the port that was picked."""

    def __init__(
        self,
        runtime: Runtime,
        endpoint: str,
        servers: Sequence[grpc.aio.Server],
        renewing: asyncio.Task[None],
        resources: ExitStack,
    ) -> None:
        self.runtime = runtime
        self.endpoint = endpoint
        self._servers = servers
        self._renewing = renewing
        self._resources = resources

    async def stop(self) -> bool:
        """Stop in order. False when the store failed or hangs: then only the process's end helps,
        and the directory is let go by that."""
        self._renewing.cancel()
        self.runtime.end_sessions()
        grace = FAILED_GRACE_S if self.runtime.failed.done() else GRACE_S
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        finished = await self.runtime.stop()
        if not finished or self.runtime.failed.done():
            return False
        try:
            self._resources.close()
        except StoreError as error:
            log.critical("%s", error)
            return False
        return True


async def serve(settings: Settings, clock: Clock) -> Serving:
    """Start everything. StartError says in one line why it cannot be."""
    with ExitStack() as resources:
        try:
            return await _serve(settings, clock, resources)
        except (StoreError, RestoreError, BundleError, NotifyConfigError, OSError) as error:
            raise StartError(str(error)) from error


async def _serve(settings: Settings, clock: Clock, resources: ExitStack) -> Serving:
    targets = () if settings.notify is None else read_targets(settings.notify)
    lock = StateLock.acquire(settings.state)
    resources.callback(lock.release)
    require_private(settings.state, uid=os.geteuid())
    told = settings.state / ENDPOINT_FILE
    told.unlink(missing_ok=True)
    store = SqliteStore.open(lock)
    resources.callback(store.close)
    clock = SteadyClock(clock, newest_moment(store))
    runtime = Runtime(store, start(LIMITS), clock, socket.gethostname(), targets)
    runtime.receive(raise_epoch(store, clock.now().utc))
    certificates = Certificates(
        settings.state, names=_server_names(settings), nodes=settings.nodes, now=wall_time(clock)
    )
    tls, port = make_tls_server(runtime, clock, certificates, settings.listen)
    servers = [tls]
    try:
        servers.append(make_local_server(runtime, clock, settings.state))
        endpoint = f"{settings.listen.rpartition(':')[0]}:{port}"
        certificates.make_bundles(reachable(endpoint))
        write_file(told, f"{reachable(endpoint)}\n".encode(), mode=0o644)
    except BaseException:
        await asyncio.gather(*(server.stop(None) for server in servers))
        raise
    runtime.start()
    for server in servers:
        await server.start()
    renewing = asyncio.create_task(certificates.keep(clock, runtime.feed))
    until = f"{certificates.until:%Y-%m-%d}"
    log.info("epoch %d; certificate holds until %s", runtime.state.epoch, until)
    resources.callback(told.unlink, missing_ok=True)
    return Serving(runtime, endpoint, servers, renewing, resources.pop_all())


def newest_moment(store: Store) -> str:
    """When this store was last written, as its records say; "" for a new one.

    Raises RestoreError.
    """
    epoch, rows = store.get(META_EPOCH), store.range(EVENTS)
    moments = [] if epoch is None else [(read_record(EpochRecord, epoch).started_at, epoch.key)]
    moments += [(read_record(Event, row).at, row.key) for row in rows[-1:]]
    for moment, key in moments:
        try:
            datetime.fromisoformat(moment)
        except ValueError:
            raise RestoreError(key, f"{moment[:40]!r} is no time") from None
    return max(moments)[0] if moments else ""


def raise_epoch(store: Store, utc: str) -> Restored:
    """Commit epoch+1, then read back everything the store holds."""
    opening = open_cluster(
        store.get(META_CLUSTER),
        store.get(META_EPOCH),
        new_cluster_id=secrets.token_hex(8),
        utc=utc,
    )
    (result,) = store.commit([opening.txn])
    if not result.succeeded:
        raise StoreError("another coordinator raised the epoch while this one started")
    everything = store.read("")
    return Restored(
        cluster_id=opening.cluster.cluster_id,
        incarnation=opening.cluster.incarnation,
        epoch=opening.epoch.epoch,
        fence=opening.fence,
        items=everything.items,
        revision=everything.revision,
    )


def reachable(endpoint: str) -> str:
    """Where others find an endpoint that listens on every address: this host's name."""
    host, _, port = endpoint.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in ANY_HOST else endpoint


def _server_names(settings: Settings) -> Sequence[str]:
    host, own = settings.listen.rpartition(":")[0], socket.gethostname()
    named = () if host in ANY_HOST else (host.strip("[]"),)
    # A container's name may be a number by chance, which no certificate takes for a name.
    known = () if own.rpartition(".")[2].isdigit() else (own,)
    return tuple(dict.fromkeys((*named, *settings.names, "localhost", "127.0.0.1", *known)))


async def run(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT; False when it ended because the store or the state failed."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = await serve(settings, SystemClock())
    screen = start_screen(
        serving.runtime.state,
        endpoint=serving.endpoint,
        directory=settings.state.absolute(),
        nodes=settings.nodes,
    )
    print(screen, end="", flush=True)
    stopped = asyncio.create_task(stopping.wait())
    ends: tuple[asyncio.Future[Any], ...] = (stopped, serving.runtime.failed)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return await serving.stop()
