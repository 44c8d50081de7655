"""Where the pure state meets the world: one loop feeds events, performs effects, in that order.

Everything that changes the cluster's state passes through here on the event loop's thread, one
event at a time; nothing leaves before its intent is committed, because the state only asks for a
reply in answer to a commit's outcome. This module must never decide anything: it carries.

When `apply` raises, that is our own fault, and the state is still exactly what it was before the
event. What somebody sent (`receive`) is then refused to its sender alone: one odd host must not
take the cluster down with it, again after each restart. An event of our own (`feed`) cannot be
skipped: a lost outcome would leave its units pending and a lost tick would show the dead as alive,
so the process ends, as it does when the store fails.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.admission import Gate
from vfio_coordinator.clock import Clock
from vfio_coordinator.notify import Notifier
from vfio_coordinator.notify_config import AnyTarget
from vfio_coordinator.publisher import Publisher
from vfio_coordinator.session_port import SessionPort, Word
from vfio_coordinator.state.effects import (
    AcceptSession,
    Acknowledge,
    CloseSession,
    Commit,
    Effect,
    Failure,
    HoldEvents,
    Notify,
    ReadBack,
    RefuseSession,
    Reply,
    SendCommand,
    StepDown,
    WantInventory,
    WantRescan,
    WantWhole,
)
from vfio_coordinator.state.events import CommitOutcome, Event, Outcome, SessionClosed, Tick
from vfio_coordinator.state.model import State
from vfio_coordinator.state.reducer import apply
from vfio_coordinator.store.interface import KeyValue, Store
from vfio_coordinator.writer import Committed, Writer

log = logging.getLogger("vfio-coordinator")

TICK_S = 0.5
"""How often deadlines are looked at; they are seconds long."""

CALL_TIMEOUT_S = 20.0
"""A request whose commit has not come back by then is told that its outcome is unknown."""

CLOSE_TIMEOUT_S = 20.0
"""How long the last commits may take at the end."""

Answer = TypeVar("Answer")


class Runtime:
    """Owns the state, the writer and the open streams. Lives on one event loop.

    `targets` are told of incidents. `failed` gets the reason once the process can only end; nothing
    is carried after that.
    """

    def __init__(
        self,
        store: Store,
        state: State,
        clock: Clock,
        coordinator: str,
        targets: Sequence[AnyTarget] = (),
    ) -> None:
        self.state = state
        self.coordinator = coordinator
        self.publisher = Publisher(lambda: self.state, clock, coordinator)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(store, self._store_failed)
        self._notifier = Notifier(
            targets, self.feed, lambda: (self.state.cluster_id, self.state.incarnation)
        )
        self._sessions: dict[int, SessionPort] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._ticker: asyncio.Task[None] | None = None
        self._stopping = False
        self._over = ""
        self.gate = Gate(self._loop.time)
        self.failed: asyncio.Future[str] = self._loop.create_future()

    def start(self) -> None:
        """Begin to write and to look at deadlines."""
        self._writer.start()
        self._notifier.start()
        self._ticker = asyncio.create_task(self._tick())

    def end_sessions(self) -> None:
        """Tell every stream, and each that still comes, that the coordinator is stopping."""
        self._stopping = True
        for port in self._sessions.values():
            port.end(ClusterError(ErrorCode.SHUTTING_DOWN, f"{self.coordinator} is ending"))
        self.publisher.end(ClusterError(ErrorCode.SHUTTING_DOWN, f"{self.coordinator} is ending"))

    async def stop(self) -> bool:
        """Finish the commits that were submitted and stop; False if the store hangs in one."""
        if self._ticker is not None:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker
        await self._notifier.stop()
        # Their outcomes reach this loop before the thread's end does: both are queued in order.
        finished = await asyncio.to_thread(self._writer.close, CLOSE_TIMEOUT_S)
        self._end("the coordinator has ended")
        return finished

    def feed(self, event: Event) -> None:
        """Apply an event of our own; a failure ends the process."""
        if self._over:
            return
        try:
            self.receive(event)
        except Exception:
            self._fail(event)

    def receive(self, event: Event) -> None:
        """Apply what somebody sent. What `apply` raises goes to the caller, nothing has changed."""
        if self._over:
            raise ClusterError(ErrorCode.SHUTTING_DOWN, self._over)
        state, effects = apply(self.state, event, self._clock.now())
        self.state = state
        self.publisher.note_change()
        try:
            for effect in effects:
                self._perform(effect)
        except Exception:
            # Some effects happened and others did not: nothing that follows could be believed.
            self._fail(event)

    async def ask(self, kind: type[Answer], make: Callable[[int], Event]) -> Answer:
        """Feed the event that `make` gives for a new ticket, and wait for its answer."""
        ticket = next(self._numbers)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls[ticket] = future
        try:
            self.receive(make(ticket))
            answer = await asyncio.wait_for(future, CALL_TIMEOUT_S)
        except TimeoutError:
            raise ClusterError(
                ErrorCode.OUTCOME_UNKNOWN, f"no answer within {CALL_TIMEOUT_S:.0f} s"
            ) from None
        finally:
            del self._calls[ticket]
        if isinstance(answer, Failure):
            raise ClusterError(answer.code, answer.detail)
        if not isinstance(answer, kind):
            raise TypeError(f"expected {kind.__name__}, the state answered {answer!r}")
        return answer

    def open_session(self, node: str) -> SessionPort:
        """A port for a stream that is to say Hello; ClusterError when it comes too late."""
        if self._stopping:
            raise ClusterError(ErrorCode.SHUTTING_DOWN, f"{self.coordinator} is ending")
        port = SessionPort(next(self._numbers), node)
        self._sessions[port.id] = port
        return port

    def close_session(self, port: SessionPort) -> None:
        """The stream ended; a second call does nothing."""
        if self._sessions.pop(port.id, None) is not None:
            self.feed(SessionClosed(node=port.node, session=port.id))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Commit(txn_id=number, txn=txn):
                self._writer.commit(
                    txn, lambda done: self._call_soon(self._committed, number, done)
                )
            case ReadBack(txn_id=number, key=key, value=value):
                self._writer.read(
                    key, lambda item: self._call_soon(self._read_back, number, value, item)
                )
            case Reply(ticket=ticket, answer=answer):
                future = self._calls.get(ticket)
                if future is not None and not future.done():
                    future.set_result(answer)
            case (
                AcceptSession()
                | WantInventory()
                | Acknowledge()
                | HoldEvents()
                | WantRescan()
                | WantWhole()
                | SendCommand()
            ):
                self._tell(effect)
            case RefuseSession() | CloseSession():
                port = self._sessions.get(effect.session)
                if port is not None:
                    port.end(ClusterError(effect.code, effect.detail))
            case Notify():
                self._notifier.tell(effect)
            case StepDown(detail=detail):
                # After the effects that follow: they tell who waits what did not happen.
                self._loop.call_soon(self._die, detail)

    def _tell(self, word: Word) -> None:
        port = self._sessions.get(word.session)
        if port is not None:
            port.tell(word)

    def _committed(self, number: int, done: Committed) -> None:
        outcome = Outcome.OK if done.result.succeeded else Outcome.FAILED
        self.feed(
            CommitOutcome(
                txn_id=number,
                outcome=outcome,
                revision=done.result.revision,
                failed=done.result.failed,
                found=done.found,
            )
        )

    def _read_back(self, number: int, value: bytes, item: KeyValue | None) -> None:
        landed = item is not None and item.value == value
        self.feed(
            CommitOutcome(
                txn_id=number,
                outcome=Outcome.OK if landed else Outcome.FAILED,
                revision=item.mod_revision if item is not None else 0,
            )
        )

    def _store_failed(self, reason: str) -> None:
        self._call_soon(self._die, reason)

    def _fail(self, event: Event) -> None:
        log.exception("the state failed on %s", type(event).__name__)
        self._die(f"the state failed on {type(event).__name__}; the log says where")

    def _die(self, reason: str) -> None:
        if not self.failed.done():
            log.critical("%s", reason)
            self.failed.set_result(reason)
        self._end(reason)

    def _end(self, reason: str) -> None:
        """Carry nothing any more; whoever waits is told that the outcome is unknown."""
        self._over = self._over or reason
        for call in self._calls.values():
            if not call.done():
                call.set_exception(ClusterError(ErrorCode.OUTCOME_UNKNOWN, reason))
        self.end_sessions()

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        """From the writer's thread; a loop that is gone has nobody left to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.gate.make_room()
            self.feed(Tick(crowded=self.gate.is_crowded))
