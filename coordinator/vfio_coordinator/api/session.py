"""The agents' stream: messages in, events to the runtime; the runtime's words out.

A node speaks only for itself: the name in Hello must be the certificate's. Messages of one stream
are taken one after the other, so that their order is the agent's; what is wrong with one of them
(`api.messages`) ends the stream with a code that names the field. However a stream ends, the state
is told, at once.

What is expensive to read waits in the stream's inbox until its node has a share of the processor
for it (`admission`), and then in one line with one piece of each other stream: so the work that one
node makes is bounded, and nobody waits for more than one piece of it. Heartbeats never wait there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc.aio

from vfio_contract.codec import to_message
from vfio_contract.errors import RETRY_METADATA, ClusterError, ErrorCode
from vfio_coordinator.admission import Account, Accounts, Busy, Tally
from vfio_coordinator.api.errors import Context, refuse
from vfio_coordinator.api.inbox import KINDS, Inbox
from vfio_coordinator.api.messages import PROTOCOL, check_hello, read_hello, read_message
from vfio_coordinator.clock import Clock, wall_time
from vfio_coordinator.peer import NodeIdentity, Unidentified, identify
from vfio_coordinator.runtime import Runtime
from vfio_coordinator.session_port import SessionPort, Word
from vfio_coordinator.state.effects import (
    AcceptSession,
    Acknowledge,
    HoldEvents,
    SendCommand,
    WantInventory,
    WantRescan,
    WantWhole,
)
from vfio_coordinator.state.events import (
    Event,
    Heartbeat,
    ObservationChanged,
    ObservationReceived,
)
from vfio_coordinator.state.model import Observation
from vfioctl.v1 import session_pb2 as wire
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceServicer

log = logging.getLogger("vfio-coordinator")

HELLO_TIMEOUT_S = 15.0
"""A stream that has not said Hello by then is closed: it holds a slot and says nothing."""

HEARTBEAT_INTERVAL_MS = 3_000
"""A third of `Limits.lost_after_s`: two may be late before a node is called lost."""

OBSERVATION_INTERVAL_MS = 60_000
"""How often an agent looks at its host again at the latest; well within `evidence_max_age_s`."""

SILENCE_S = 20 * HEARTBEAT_INTERVAL_MS / 1_000
"""A stream whose peer answers pings and says nothing for so long is closed."""

DECODERS = 2
"""Threads that unpack and decode; bounds how many large messages are unpacked at once."""

SLOWLY_S = 2.0
"""A peer that floods with connections is answered so late, because each costs a handshake."""


class SessionServicer(AgentSessionServiceServicer):
    """Thin: it checks who speaks and what was said, the state decides."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._accounts = Accounts()
        self._open_ports: set[int] = set()
        self._tally = Tally()
        self._greeting: dict[str, SessionPort] = {}

    async def Session(
        self, request_iterator: AsyncIterator[wire.SessionRequest], context: Context
    ) -> AsyncIterator[wire.SessionResponse]:
        """One stream of one agent."""
        try:
            port, account = self._open(self._node_of(context))
        except ClusterError as error:
            self._count(error)
            if error.code is ErrorCode.FLOODING:
                await asyncio.sleep(SLOWLY_S)
            await refuse(context, error)
        # A peer that goes away while a word is being sent leaves this generator suspended until
        # it is collected; the state learns of it from the call itself.
        when_done: Any = context.add_done_callback  # typed so that no function fits
        when_done(lambda _: self._close(port))
        inbox = Inbox()
        works = (
            self._read(request_iterator, port, inbox, account, context),
            self._work(port, inbox, account, context),
        )
        tasks = [asyncio.create_task(self._end_with(work, port, context)) for work in works]
        try:
            while (word := await port.next_word()) is not None:
                if isinstance(word, Acknowledge):
                    self._runtime.gate.leave(port.id)
                yield self._response(word)
        except ClusterError as error:
            self._count(error)
            if isinstance(error, Busy):
                after = str(round(error.retry_after_s * 1_000))
                context.set_trailing_metadata(((RETRY_METADATA, after),))
            await refuse(context, error)
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            self._close(port)

    def _open(self, node: str) -> tuple[SessionPort, Account]:
        """A new stream; of those of a node that have not said Hello only the newest stays."""
        account = self._accounts.open(node, _now_s())
        try:
            port = self._runtime.open_session(node)
        except ClusterError:
            self._accounts.close(node)
            raise
        self._open_ports.add(port.id)
        earlier = self._greeting.get(node)
        if earlier is not None:
            detail = f"{node} opened another stream before this one began"
            earlier.end(ClusterError(ErrorCode.SESSION_REPLACED, detail))
        self._greeting[node] = port
        return port, account

    def _close(self, port: SessionPort) -> None:
        """The stream is over; a second call does nothing."""
        if port.id not in self._open_ports:
            return
        self._open_ports.remove(port.id)
        self._accounts.close(port.node)
        self._begun(port)
        self._runtime.gate.leave(port.id)
        self._runtime.close_session(port)

    def _count(self, error: ClusterError) -> None:
        line = self._tally.count(error.code, _now_s())
        if line:
            log.info("%s", line)

    def _begun(self, port: SessionPort) -> None:
        if self._greeting.get(port.node) is port:
            del self._greeting[port.node]

    async def _end_with(
        self, work: Coroutine[Any, Any, None], port: SessionPort, context: Context
    ) -> None:
        """End the stream when the work is over, with what was wrong."""
        end: ClusterError | None = None
        try:
            await work
        except ClusterError as error:
            if not isinstance(error, Busy):
                log.warning("session of %s (%s) refused: %s", port.node, context.peer(), error)
            end = error
        except (grpc.aio.UsageError, grpc.aio.AbortError):
            # grpc's answers to reading from a call that is over
            pass
        except Exception:
            log.exception("a message of %s failed", port.node)
            end = ClusterError(ErrorCode.INTERNAL, f"a message of {port.node}")
        port.end(end)

    async def _read(
        self,
        requests: AsyncIterator[wire.SessionRequest],
        port: SessionPort,
        inbox: Inbox,
        account: Account,
        context: Context,
    ) -> None:
        """Hand on what the agent says until it stops."""
        hello = check_hello(await _first(requests), port.node)
        came_s = _now_s()
        await self._runtime.gate.enter(port.id)
        waited_ms = round((_now_s() - came_s) * 1_000)
        self._runtime.receive(read_hello(hello, port.id, waited_ms=waited_ms))
        self._begun(port)
        while (request := await _next(requests)) is not None:
            account.charge_message(request.ByteSize(), _now_s())
            if request.WhichOneof("body") in KINDS:
                inbox.put(request, _now_s())
            else:
                await self._take(request, port, context)
            await _hold_back(account, port.node)
        await inbox.all_read()

    async def _take(
        self, request: wire.SessionRequest, port: SessionPort, context: Context
    ) -> None:
        if request.HasField("heartbeat"):
            self._runtime.receive(Heartbeat(node=port.node, session=port.id))
            return
        # A stream can outlive the certificate that opened it.
        self._node_of(context)
        event, _ = await self._decode(request, port)
        if event is not None:
            self._runtime.receive(event)

    async def _work(
        self, port: SessionPort, inbox: Inbox, account: Account, context: Context
    ) -> None:
        """Read what is expensive, as the node's share allows it, for as long as the stream is."""
        while True:
            await inbox.filled()
            while wait_s := account.work.wait_s(_now_s()):
                await asyncio.sleep(wait_s)
            self._node_of(context)
            await self._work_off(port, inbox, account)

    async def _work_off(self, port: SessionPort, inbox: Inbox, account: Account) -> None:
        """Read the next of the inbox. It is let go of here: a stream that waits must not hold
        what it read last, which is more than all that the state keeps of a node."""
        request, came_s = inbox.take()
        event, spent_s = await self._decode(request, port)
        if isinstance(event, ObservationReceived | ObservationChanged):
            event = replace(event, age_s=event.age_s + _now_s() - came_s)
        began_s = time.thread_time()
        if event is not None:
            self._runtime.receive(event)
        account.work.charge(spent_s + time.thread_time() - began_s, _now_s())
        inbox.done()

    async def _decode(
        self, request: wire.SessionRequest, port: SessionPort
    ) -> tuple[Event | None, float]:
        """The event of a message, and the processor time that it took."""
        event, spent_s = await asyncio.get_running_loop().run_in_executor(
            self._decoders, _timed_read, request, port, self._held(port)
        )
        if isinstance(event, WantWhole):
            port.tell(event)
            return None, spent_s
        return event, spent_s

    def _held(self, port: SessionPort) -> Observation | None:
        """What the state holds of this session's observations."""
        node = self._runtime.state.nodes.get(port.node)
        last = None if node is None else node.observation
        return last if last is not None and last.session == port.id else None

    def _node_of(self, context: Context) -> str:
        try:
            identity = identify(context, now=wall_time(self._clock))
        except Unidentified as error:
            raise ClusterError(ErrorCode.UNAUTHENTICATED, str(error)) from error
        if not isinstance(identity, NodeIdentity):
            raise ClusterError(ErrorCode.PERMISSION_DENIED, f"{identity} is no node")
        return identity.name

    def _response(self, word: Word) -> wire.SessionResponse:
        match word:
            case AcceptSession(inventory_held=held):
                state = self._runtime.state
                return wire.SessionResponse(
                    welcome=wire.Welcome(
                        protocol=PROTOCOL,
                        cluster_id=state.cluster_id,
                        incarnation=state.incarnation,
                        epoch=state.epoch,
                        heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
                        observation_interval_ms=OBSERVATION_INTERVAL_MS,
                        inventory_held=held,
                        takes_parts=True,
                    )
                )
            case WantInventory(digest=digest):
                return wire.SessionResponse(inventory_wanted=wire.InventoryWanted(digest=digest))
            case Acknowledge(sequence=sequence):
                return wire.SessionResponse(acknowledged=wire.Acknowledged(sequence=sequence))
            case HoldEvents(mark=mark, window=window):
                return wire.SessionResponse(
                    events_held=wire.EventsHeld(
                        spool_id=mark.spool_id,
                        seq=mark.seq,
                        boot_id=mark.at.boot_id,
                        boottime_ms=mark.at.boottime_ms,
                        wall_ms=mark.at.wall_ms,
                        window_events=window,
                    )
                )
            case WantWhole():
                return wire.SessionResponse(whole_wanted=wire.WholeWanted())
            case SendCommand(command=command):
                return wire.SessionResponse(command=to_message(command))
            case WantRescan(reason=reason):
                return wire.SessionResponse(rescan_wanted=wire.RescanWanted(reason=reason))


async def _first(requests: AsyncIterator[wire.SessionRequest]) -> wire.SessionRequest:
    try:
        return await asyncio.wait_for(anext(requests), HELLO_TIMEOUT_S)
    except TimeoutError:
        raise ClusterError(
            ErrorCode.BAD_REQUEST, f"no Hello within {HELLO_TIMEOUT_S:.0f} s"
        ) from None
    except StopAsyncIteration:
        raise ClusterError(ErrorCode.BAD_REQUEST, "the stream ended before Hello") from None


async def _next(requests: AsyncIterator[wire.SessionRequest]) -> wire.SessionRequest | None:
    """The next message, None at the end."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(requests, None)
    except TimeoutError:
        raise ClusterError(ErrorCode.SILENT, f"not a word for {SILENCE_S:.0f} s") from None


async def _hold_back(account: Account, node: str) -> None:
    """Read no more of a node that has said more than its share, until it has one again."""
    while wait_s := account.wait_s(node, _now_s()):
        await asyncio.sleep(wait_s)


def _timed_read(
    request: wire.SessionRequest, port: SessionPort, held: Observation | None
) -> tuple[Event | WantWhole | None, float]:
    began_s = time.thread_time()
    event = read_message(request, port.node, port.id, held)
    return event, time.thread_time() - began_s


def _now_s() -> float:
    """Of the machine, not of the cluster's clock: what is shared out here is the machine."""
    return time.monotonic()
