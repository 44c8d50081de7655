"""The agents' stream: messages in, events to the runtime; the runtime's words out.

A node speaks only for itself: the name in Hello must be the certificate's. Messages of one stream
are taken one after the other, so that their order is the agent's; what is wrong with one of them
(`api.messages`) ends the stream with a code that names the field. However a stream ends, the state
is told, at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc.aio

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.api.errors import Context, refuse
from vfio_coordinator.api.messages import PROTOCOL, check_hello, read_hello, read_message
from vfio_coordinator.clock import Clock, wall_time
from vfio_coordinator.peer import NodeIdentity, Unidentified, identify
from vfio_coordinator.runtime import Runtime
from vfio_coordinator.session_port import SessionPort, Word
from vfio_coordinator.state.effects import (
    AcceptSession,
    Acknowledge,
    HoldEvents,
    WantInventory,
    WantRescan,
)
from vfio_coordinator.state.events import Heartbeat
from vfioctl.v1 import session_pb2 as wire
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceServicer

log = logging.getLogger("vfio-coordinator")

HELLO_TIMEOUT_S = 15.0
"""A stream that has not said Hello by then is closed: it holds a slot and says nothing."""

HEARTBEAT_INTERVAL_MS = 3_000
"""A third of `Limits.lost_after_s`: two may be late before a node is called lost."""

OBSERVATION_INTERVAL_MS = 60_000
"""How often an agent looks at its host again at the latest; well within `evidence_max_age_s`."""

DECODERS = 2
"""Threads that unpack and decode; bounds how many large messages are unpacked at once."""


class SessionServicer(AgentSessionServiceServicer):
    """Thin: it checks who speaks and what was said, the state decides."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    async def Session(
        self, request_iterator: AsyncIterator[wire.SessionRequest], context: Context
    ) -> AsyncIterator[wire.SessionResponse]:
        """One stream of one agent."""
        try:
            port = self._runtime.open_session(self._node_of(context))
        except ClusterError as error:
            await refuse(context, error)
        # A peer that goes away while a word is being sent leaves this generator suspended until
        # it is collected; the state learns of it from the call itself.
        when_done: Any = context.add_done_callback  # typed so that no function fits
        when_done(lambda _: self._runtime.close_session(port))
        reader = asyncio.create_task(self._read(request_iterator, port, context))
        try:
            while (word := await port.next_word()) is not None:
                yield self._response(word)
        except ClusterError as error:
            await refuse(context, error)
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            self._runtime.close_session(port)

    async def _read(
        self, requests: AsyncIterator[wire.SessionRequest], port: SessionPort, context: Context
    ) -> None:
        """Hand on what the agent says until it stops, then end the stream."""
        end: ClusterError | None = None
        try:
            hello = check_hello(await _first(requests), port.node)
            self._runtime.receive(read_hello(hello, port.id))
            async for request in requests:
                await self._take(request, port, context)
        except ClusterError as error:
            log.warning("session of %s (%s) refused: %s", port.node, context.peer(), error)
            end = error
        except (grpc.aio.UsageError, grpc.aio.AbortError):
            # grpc's answers to reading from a call that is over
            pass
        except Exception:
            log.exception("a message of %s failed", port.node)
            end = ClusterError(ErrorCode.INTERNAL, f"a message of {port.node}")
        port.end(end)

    async def _take(
        self, request: wire.SessionRequest, port: SessionPort, context: Context
    ) -> None:
        if request.HasField("heartbeat"):
            self._runtime.receive(Heartbeat(node=port.node, session=port.id))
            return
        # A stream can outlive the certificate that opened it.
        self._node_of(context)
        event = await asyncio.get_running_loop().run_in_executor(
            self._decoders, read_message, request, port.node, port.id
        )
        if event is not None:
            self._runtime.receive(event)

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
