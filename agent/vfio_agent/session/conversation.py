"""One session with the coordinator over one stream, from Hello to its end.

The order: Hello, Welcome, facts if the coordinator does not hold them, the latest observation,
durable events as far as the coordinator lets them (`delivery`), and a heartbeat whenever nothing
else was said for an interval. gRPC asks for the next word only when
the one before has left, so that nothing is ever queued. The conversation must never obey a
coordinator that is older than one that was obeyed before: (cluster id, incarnation, epoch) only
grows, and the journal has it before the first word is said under it. Nor may it swallow a fault of
our own: what goes wrong while speaking is raised by `run`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import grpc

from vfio_agent.fence import Fence
from vfio_agent.session.delivery import Delivery, Events
from vfio_agent.session.ending import Ended, printable, read_status
from vfio_agent.session.orders import Orders, Taker
from vfio_agent.session.outbox import Observed, Outbox, seconds_up
from vfio_agent.session.telling import Telling
from vfio_agent.session.words import (
    answer_of,
    batch_of,
    inventory_of,
    journal_of,
    read_command,
    read_mark,
)
from vfio_contract.command import VERSION
from vfio_contract.durable import JournalStatus
from vfio_contract.errors import ErrorCode
from vfioctl.v1.session_pb2 import (
    EventsHeld,
    Heartbeat,
    Hello,
    SessionRequest,
    SessionResponse,
    Welcome,
)
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

WELCOME_TIMEOUT_S = 20.0
"""A coordinator that has not answered Hello by then, connecting included, is treated as gone."""

DEFAULT_HEARTBEAT_S = 10.0
"""Where Welcome names no interval."""

MIN_HEARTBEAT_S = 0.1

_PUNCTUALITY = 0.9
"""Of the interval, after which a heartbeat is said: it is to arrive within it."""

MIN_INTERVAL_S = 1.0
MAX_INTERVAL_S = 600.0
"""Between observations: a coordinator can neither load its hosts nor blind itself."""


class Fences(Protocol):
    """Where the highest fence is kept: the journal."""

    def fence(self) -> Fence:
        """The highest fence obeyed."""

    def obey(self, fence: Fence) -> None:
        """Remember it durably."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks: the node's name, the journal's random id, and this program's version."""

    node: str
    state_id: str
    version: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What Welcome asks of the agent; 0 seconds where it asks nothing."""

    cluster_id: str
    epoch: int
    observation_interval_s: float


class Conversation:
    """One session; made for one `run`. `close` may be called from any thread at any time."""

    def __init__(
        self,
        *,
        speaker: Speaker,
        outbox: Outbox,
        fences: Fences,
        on_terms: Callable[[Terms], None],
        events: Events | None = None,
        on_rescan: Callable[[str], None] = lambda reason: None,
        taker: Taker | None = None,
        welcome_timeout_s: float = WELCOME_TIMEOUT_S,
    ) -> None:
        """Without `events` none are sent, without a `taker` no command is taken. `on_rescan` is
        told why the host must be looked at."""
        self._speaker = speaker
        self._outbox = outbox
        self._fences = fences
        self._on_terms = on_terms
        self._events = events
        self._on_rescan = on_rescan
        self._takes_commands = taker is not None
        self._welcome_timeout_s = welcome_timeout_s
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._call: grpc.Call | None = None
        self._welcome: Welcome | None = None
        self._delivery = Delivery(events)
        self._orders = Orders(taker, speaker.node)
        self._telling = Telling(in_parts=False)
        self._due = False
        self._wanted = False
        self._again = False
        self._useful = False
        self._ended: Ended | None = None
        self._fault: BaseException | None = None

    def close(self) -> None:
        """End it; `run` returns."""
        self._end(Ended("closed by the agent"))

    def run(self, stub: AgentSessionServiceStub) -> Ended:
        """Speak until the session ends, and say why it did."""
        self._outbox.attach(self._notify)
        if self._events is not None:
            self._events.attach(self._notify_events)
        try:
            call = stub.Session(self._requests())
            with self._changed:
                self._call = call
                closed = self._ended is not None
            if closed:
                call.cancel()  # there was no call to cancel yet
            for response in call:
                self._hear(response)
            self._end(Ended("the coordinator ended the session"))
        except grpc.RpcError as error:
            self._end(read_status(error))
        finally:
            self._outbox.attach(None)
            if self._events is not None:
                self._events.attach(None)
            ended = self._end(Ended("the agent failed"))  # frees the thread that speaks
        with self._changed:
            if self._fault is not None:
                raise self._fault
            return replace(ended, useful=self._useful)

    # --- hearing ----------------------------------------------------------------------------

    def _hear(self, response: SessionResponse) -> None:
        body = response.WhichOneof("body")
        if body == "welcome":
            self._hear_welcome(response.welcome)
            return
        if body == "events_held":
            self._hear_held(response.events_held)
            return
        if body == "rescan_wanted":
            self._on_rescan(printable(response.rescan_wanted.reason))
            return
        with self._changed:
            if body == "inventory_wanted":
                self._wanted = True
            elif body == "command":
                self._orders.hear(read_command(response.command))
                self._due = True
            elif body == "whole_wanted":
                self._telling.forget()
                self._again = True
            elif body == "acknowledged":
                self._useful = True
                self._telling.hold(response.acknowledged.sequence)
            self._changed.notify_all()

    def _hear_welcome(self, welcome: Welcome) -> None:
        refusal = self._refuse(welcome)
        if refusal:
            self._end(Ended(refusal, slow=True))
            return
        offered = Fence(welcome.cluster_id, welcome.incarnation, welcome.epoch)
        if offered != self._fences.fence():
            self._fences.obey(offered)
        asked_s = welcome.observation_interval_ms / 1000
        interval_s = min(max(asked_s, MIN_INTERVAL_S), MAX_INTERVAL_S) if asked_s else 0.0
        self._on_terms(Terms(welcome.cluster_id, welcome.epoch, interval_s))
        with self._changed:
            self._telling = Telling(in_parts=welcome.takes_parts)
            self._welcome = welcome
            self._changed.notify_all()

    def _hear_held(self, held: EventsHeld) -> None:
        with self._changed:
            problem = self._delivery.hear(read_mark(held), held.window_events)
            self._due = True
            self._changed.notify_all()
        if problem:
            self._end(Ended(problem))

    def _refuse(self, welcome: Welcome) -> str:
        """Why this coordinator is not obeyed; "" when it is."""
        if not PROTOCOL_MIN <= welcome.protocol <= PROTOCOL_MAX:
            return (
                f"{ErrorCode.PROTOCOL_UNSUPPORTED}: the coordinator chose protocol "
                f"{welcome.protocol}, this agent speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}"
            )
        if not welcome.cluster_id:
            return f"{ErrorCode.BAD_REQUEST}: the coordinator names no cluster"
        known = self._fences.fence()
        if known.cluster_id not in ("", welcome.cluster_id):
            return (
                f"this agent belongs to cluster {known.cluster_id}, the coordinator speaks for "
                f"{welcome.cluster_id}; to move the host, move the agent's state directory away"
            )
        if (welcome.incarnation, welcome.epoch) < (known.incarnation, known.epoch):
            return (
                f"{ErrorCode.STORE_REWOUND}: the coordinator is at incarnation "
                f"{welcome.incarnation} epoch {welcome.epoch}, this agent has obeyed incarnation "
                f"{known.incarnation} epoch {known.epoch}"
            )
        return ""

    # --- speaking, on a thread of gRPC --------------------------------------------------------

    def _requests(self) -> Iterator[SessionRequest]:
        try:
            yield from self._words()
        except Exception as error:
            with self._changed:
                self._fault = error
            self._end(Ended("the agent failed"))

    def _words(self) -> Iterator[SessionRequest]:
        greeted = self._outbox.latest()
        yield SessionRequest(hello=self._hello(greeted))
        welcome = self._await_welcome()
        if welcome is None:
            return
        interval_s = (welcome.heartbeat_interval_ms / 1000 or DEFAULT_HEARTBEAT_S) * _PUNCTUALITY
        held = greeted.digest if greeted is not None and welcome.inventory_held else ""
        # a host that nobody looks at must not pass for seen, not even for a moment
        status = self._next_status()
        if status is not None:
            yield SessionRequest(journal=journal_of(status))
        said: Observed | None = None
        beat_at = 0.0
        while True:
            latest, wanted, again = self._outbox.latest(), *self._take_wanted()
            if greeted is not None and latest is not None and _rebooted(greeted, latest):
                self._end(Ended("this host has rebooted"))
                return
            word: SessionRequest | None
            if latest is not None and (wanted or again or latest is not said):
                if wanted or latest.digest != held:
                    yield SessionRequest(inventory=inventory_of(latest))
                    held = latest.digest
                with self._changed:
                    word = SessionRequest(observation=self._telling.say(latest))
                said = latest
            else:
                word = self._next_of_host()
            if word is None and time.monotonic() >= beat_at:
                word = SessionRequest(heartbeat=Heartbeat(sequence=self._telling.sequence))
            if word is not None:  # else it was woken for nothing
                beat_at = time.monotonic() + max(MIN_HEARTBEAT_S, interval_s)
                yield word
            if not self._rest(beat_at, said):
                return

    def _await_welcome(self) -> Welcome | None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._welcome is not None or self._ended is not None,
                self._welcome_timeout_s,
            )
            welcome = self._welcome if self._ended is None else None
        if welcome is None:
            waited = f"the coordinator did not answer within {self._welcome_timeout_s:g} s"
            self._end(Ended(waited))
        return welcome

    def _next_of_host(self) -> SessionRequest | None:
        """What became of a command, or what the spool or its state has for the coordinator; None
        for nothing."""
        with self._changed:
            self._due = False
        answer = self._orders.next_answer()
        if answer is not None:
            self._notify_events()  # there may be more
            return SessionRequest(command_answer=answer_of(answer))
        with self._changed:
            status = self._delivery.next_status()
            batch = () if status is not None else self._delivery.next_batch()
            self._due = self._due or status is not None or bool(batch)  # there may be more
        if status is not None:
            return SessionRequest(journal=journal_of(status))
        return SessionRequest(events=batch_of(self._delivery.spool_id, batch)) if batch else None

    def _next_status(self) -> JournalStatus | None:
        with self._changed:
            return self._delivery.next_status()

    def _rest(self, until: float, said: Observed | None) -> bool:
        """Wait until there is something to say; False when the session has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._ended is not None
                    or self._wanted
                    or self._again
                    or self._due
                    or self._outbox.latest() is not said
                ),
                until - time.monotonic(),
            )
            return self._ended is None

    def _take_wanted(self) -> tuple[bool, bool]:
        """Whether the facts are wanted, and whether all of the observation is."""
        with self._changed:
            wanted, self._wanted = self._wanted, False
            again, self._again = self._again, False
            return wanted, again

    def _hello(self, latest: Observed | None) -> Hello:
        known = self._fences.fence()
        return Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            node=self._speaker.node,
            boot_id=latest.boot_id if latest is not None else "",
            product_uuid=latest.product_uuid if latest is not None else "",
            agent_state_id=self._speaker.state_id,
            inventory_digest=latest.digest if latest is not None else "",
            agent_version=self._speaker.version,
            highest_incarnation=known.incarnation,
            highest_epoch=known.epoch,
            cluster_id=known.cluster_id,
            spool_id=self._delivery.begin(),
            commands=VERSION if self._takes_commands else 0,
            boottime_ms=int(seconds_up() * 1000),
        )

    # --- ending -----------------------------------------------------------------------------

    def _notify_events(self) -> None:
        with self._changed:
            self._due = True
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _end(self, ended: Ended) -> Ended:
        """The first reason counts, and is returned. Cancelling a call that is over does nothing."""
        with self._changed:
            self._ended = ended = self._ended or ended
            call = self._call
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        return ended


def _rebooted(before: Observed, now: Observed) -> bool:
    """Hello speaks for one boot, so a new one needs a new Hello; a boot id not read is no boot."""
    return bool(before.boot_id and now.boot_id) and before.boot_id != now.boot_id
