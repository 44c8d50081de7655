"""The network process's end of the socket to hostd.

One thread holds the connection, asks again and again whether hostd is there, and hands on what
hostd saw. It must never wait for hostd without a deadline, take an observation from anybody else,
or make up what hostd did not say: without hostd the last observation grows old, and that is all.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vfio_agent.fence import NO_FENCE, Fence
from vfio_agent.hostd.frames import FrameError
from vfio_agent.hostd.line import ANSWER_S, Heard, HostdError, HostdRefused, Line, connect
from vfio_agent.hostd.messages import (
    PROTOCOL,
    Acknowledge,
    Acknowledged,
    CommandTaken,
    Credentials,
    Done,
    Events,
    GetBundle,
    GetEvents,
    GetFence,
    Greet,
    Greeting,
    MessageError,
    Obeyed,
    ObeyFence,
    Observation,
    Observe,
    Ping,
    Rescan,
    SetPace,
    SpoolState,
    TakeCommand,
)
from vfio_agent.hostd.packing import unpack_bundle, unpack_events, unpack_observed
from vfio_agent.session.orders import TakerAway
from vfio_agent.session.outbox import Observed
from vfio_contract.bundle import Bundle
from vfio_contract.codes import HOSTD_AWAY
from vfio_contract.command import Command, CommandAnswer, refuse
from vfio_contract.command_codes import COMMAND_UNKNOWN
from vfio_contract.durable import JournalStatus, Mark, Spooled, SpoolUnavailable

log = logging.getLogger("vfio-agent")

PING_S = 5.0
"""Between two questions whether hostd is there: silence is noticed within PING_S + ANSWER_S."""

RETRY_S = 1.0
"""Between two attempts to connect; on one host there is no herd to spread."""

AWAY = JournalStatus(
    HOSTD_AWAY.name, "hostd is away: nothing new is seen or recorded; its log says why"
)

Kind = TypeVar("Kind")


class HostdEnded(Exception):
    """The connection that cannot be opened again is over: hostd was this process's parent."""


class HostdReplaced(Exception):
    """Another journal answers now: this host has another state id, so the session's Hello is no
    longer true."""


class Client:
    """The connection to one hostd, made again as often as it ends."""

    def __init__(
        self,
        where: Path | socket.socket,
        *,
        on_news: Callable[[], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        """`where` is a path to connect to, or a connection that a parent made. After `on_news`
        somebody must call `deliver`. Both callbacks run on the client's thread and must not wait.
        """
        self._where = where
        self._on_news = on_news
        self._on_fault = on_fault
        self._waker, self._wakes = socket.socketpair()
        self._ending = threading.Event()
        self._line: Line | None = None
        self._state_id = ""
        self._fence = NO_FENCE
        self._interval_s = 0.0
        self._said = ""
        self._spool: SpoolState | None = None
        self._wake_session: Callable[[], None] | None = None
        self._lock = threading.Lock()
        # Below: guarded by _lock.
        self._news = False
        self._observed: Observed | None = None
        self._thread = threading.Thread(target=self._hold, name="hostd", daemon=True)

    @property
    def state_id(self) -> str:
        """The journal's id, "" before hostd first answered."""
        return self._state_id

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def close(self) -> None:
        """End the connection and all waiting, from any thread but the client's."""
        self._ending.set()
        self._waker.send(b"x")
        if self._thread.ident is not None:
            self._thread.join(ANSWER_S)
        if not self._thread.is_alive():
            self._waker.close()
            self._wakes.close()

    def deliver(self, offer: Callable[[Observed], None]) -> None:
        """Hand on what came since the last time: the latest observation to `offer`, all else by
        waking the session. Both may wait for a session that asks hostd just now, so this is not for
        the client's own thread."""
        with self._lock:
            self._news = False
            observed, self._observed = self._observed, None
        if observed is not None:
            offer(observed)
        wake = self._wake_session
        if wake is not None:
            wake()

    # --- what the session asks, on its own thread ---------------------------------------------

    def fence(self) -> Fence:
        """The highest fence that hostd is known to have obeyed."""
        return self._fence

    def obey(self, fence: Fence) -> None:
        """Have hostd make it durable; HostdError where it did not, and nothing may follow then."""
        self._fence = self._ask(ObeyFence(fence), Obeyed).fence

    def bundle(self) -> Bundle:
        """The node's credentials, from a parent that has them; BundleError says why not."""
        return unpack_bundle(self._ask(GetBundle(), Credentials))

    def set_pace(self, interval_s: float) -> None:
        """Seconds between looks, now and for every hostd that comes after this one."""
        self._interval_s = interval_s
        try:
            self._ask(SetPace(interval_s), Done)
        except HostdError as error:
            log.warning("the interval is said again once hostd is back: %s", error)

    def rescan(self) -> None:
        """Have hostd look soon; one that is away looks as soon as it is back."""
        try:
            self._ask(Rescan(), Done)
        except HostdError as error:
            log.warning("hostd was not asked for a look: %s", error)

    def take(self, command: Command) -> CommandAnswer:
        """Have hostd take it; TakerAway while it cannot answer."""
        try:
            said = self._ask(TakeCommand(command), CommandTaken)
        except HostdRefused as error:  # it will not, however often it is asked
            return refuse(command, COMMAND_UNKNOWN, str(error))
        except HostdError as error:
            raise TakerAway(str(error)) from None
        if said.answer is None:
            raise TakerAway(said.reason)
        return said.answer

    def _ask(self, request: object, kind: type[Kind]) -> Kind:
        line = self._line
        if line is None:
            raise HostdError("hostd is away")
        return line.ask(request, kind)

    # --- durable events: the spool's other end (session.delivery.Events) -----------------------

    @property
    def id(self) -> str:
        """Random, made with hostd's spool."""
        if self._spool is None:
            raise SpoolUnavailable("hostd has not told of its spool yet")
        return self._spool.spool_id

    def after(self, seq: int, limit: int) -> Sequence[Spooled]:
        """The oldest events beyond a number."""
        with _as_unavailable():
            return unpack_events(self._ask(GetEvents(seq, limit), Events))

    def acknowledge(self, mark: Mark) -> bool:
        """Forget what the cluster holds; False if the mark is not of this spool."""
        with _as_unavailable():
            return self._ask(Acknowledge(mark), Acknowledged).known

    def status(self) -> JournalStatus:
        """How hostd's journal is; while hostd is away nothing is recorded there."""
        if self._said:
            return AWAY
        return JournalStatus() if self._spool is None else self._spool.status

    def attach(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` when there is something new or the status changed; None to stop."""
        self._wake_session = wake

    def _take_push(self, message: object) -> None:
        match message:
            case Observation():
                self._tell(unpack_observed(message))
            case SpoolState():
                self._spool = message
                self._tell()
            case _:
                raise MessageError(f"message.kind: {type(message).__name__} is never pushed")

    def _tell(self, observed: Observed | None = None) -> None:
        with self._lock:
            self._observed = observed or self._observed
            told, self._news = self._news, True
        if not told:
            self._on_news()

    # --- the thread ---------------------------------------------------------------------------

    def _hold(self) -> None:
        try:
            while not self._ending.is_set():
                why = self._hold_once()
                if self._ending.is_set():
                    return
                if isinstance(self._where, socket.socket):
                    raise HostdEnded(why)
                if why != self._said:
                    log.warning("no hostd, what it saw last grows old: %s", why)
                    self._said = why
                    self._tell()
                select.select([self._wakes], [], [], RETRY_S)
        except BaseException as error:
            self._on_fault(error)

    def _hold_once(self) -> str:
        """Connect and listen until it ends; why it did."""
        try:
            line = Line(self._connect(), self._wakes, self._take_push)
        except OSError as error:
            return f"{self._where}: {error.strerror or error}"
        except HostdError as error:
            return str(error)
        try:
            self._begin(line)
            self._line = line
            while True:
                heard = line.listen(time.monotonic() + PING_S)
                if heard is Heard.WAKE:
                    return "closed by the agent"
                if heard is Heard.NOTHING:
                    line.ask_here(Ping(), Done)
        except (HostdError, FrameError, MessageError, OSError) as error:
            return str(error)
        finally:
            self._line = None
            line.end()

    def _begin(self, line: Line) -> None:
        greeting = line.ask_here(Greet(PROTOCOL), Greeting)
        if self._state_id not in ("", greeting.state_id):
            raise HostdReplaced("hostd has another journal than before: this agent starts again")
        self._fence = line.ask_here(GetFence(), Obeyed).fence
        self._state_id = greeting.state_id
        if self._interval_s:
            line.ask_here(SetPace(self._interval_s), Done)
        line.ask_here(Observe(), Done)
        if self._said:
            log.info("hostd is back")
            self._said = ""
            self._tell()

    def _connect(self) -> socket.socket:
        if isinstance(self._where, socket.socket):
            return self._where
        return connect(self._where)


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except (HostdError, MessageError) as error:
        raise SpoolUnavailable(str(error)) from None
