"""hostd's end of the socket: one thread for all connections, and a limit for everything.

It takes connections of the users that may ask, parses what they say, has the verbs handle it and
pushes what is new. It must never start a thread for a message, keep more than the latest
of each push, or let one peer hold up another or the looks at the host: whoever is slow, silent or
malformed is cut, whoever asks too much waits.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from vfio_agent.hostd.frames import FrameError
from vfio_agent.hostd.messages import (
    PROTOCOL,
    PUSHED,
    PUSHES,
    Done,
    Greet,
    Greeting,
    MessageError,
    Observe,
    Ping,
    Refused,
    read_message,
    write_message,
)
from vfio_agent.hostd.peer import (
    CHILD_GREETING_S,
    GREETING_S,
    Peer,
    PeerGone,
    credentials_of,
)
from vfio_agent.hostd.verbs import Answer, Verbs

log = logging.getLogger("vfio-hostd")

MAX_PEERS = 4
"""Connections at once: the network process, its successor, and a person who looks."""

FOR_ROOT = 1
"""Connections beside those that only root may have: whoever else asks cannot keep root out."""

_STOP_S = 5.0

_OWN = {"greet": Greet, "ping": Ping, "observe": Observe}
"""Requests about the connection itself."""


class Server:
    """Serves from `start` to `close`. A fault of our own in a handler goes to `on_fault`."""

    def __init__(
        self,
        verbs: Verbs,
        greeting: Greeting,
        *,
        listener: socket.socket | None,
        allowed: Iterable[int],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        """`allowed` are the uids that may connect to `listener`, which the caller closes."""
        self._verbs = verbs
        self._kinds = {**verbs.kinds, **_OWN}
        self._greeting = greeting
        self._listener = listener
        self._allowed = frozenset(allowed)
        self._on_fault = on_fault
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakes = socket.socketpair()
        self._answers: SimpleQueue[tuple[Peer, bytes]] = SimpleQueue()
        self._peers: dict[int, Peer] = {}
        self._latest: dict[type, bytes] = {}
        self._offering = threading.Lock()
        self._refused: set[int] = set()
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name="socket", daemon=True)

    def start(self, *connections: socket.socket) -> None:
        """Begin to serve; `connections` are open already and whoever has them may ask."""
        for end in (self._waker, self._wakes):
            end.setblocking(False)
        self._selector.register(self._wakes, selectors.EVENT_READ)
        if self._listener is not None:
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)
        for connection in connections:
            self._admit(connection, "the network process", uid=None, greeting_s=CHILD_GREETING_S)
        self._thread.start()

    def close(self) -> None:
        """End all connections, from any thread but the server's own."""
        self._ending = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def offer(self, message: object) -> None:
        """Push this from now on, and to whoever subscribes later. From any thread."""
        body = write_message(PUSHED, message)
        with self._offering:
            offered = {**self._latest, type(message): body}
            self._latest = {kind: offered[kind] for kind in PUSHES if kind in offered}
        self._wake()

    # --- the thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._ending:
                self._turn()
        except BaseException as error:
            self._on_fault(error)
        finally:
            self._ending = True
            for peer in list(self._peers.values()):
                self._drop(peer, "")
            for end in (self._selector, self._waker, self._wakes):
                end.close()

    def _turn(self) -> None:
        ready = self._selector.select(self._patience_s())
        now = time.monotonic()
        for key, events in ready:
            if key.fileobj is self._wakes:
                self._wakes.recv(4096)
            elif key.fileobj is self._listener:
                self._accept()
            elif events & selectors.EVENT_READ:
                self._attempt(self._receive, self._peers[key.fd], now)
        self._deliver(now)
        for peer in list(self._peers.values()):
            due_s, late = peer.due_s()
            if now >= due_s:
                self._drop(peer, late)
            else:
                self._attempt(self._advance, peer, now)

    def _patience_s(self) -> float | None:
        """Until the next thing that must be looked at by itself; None where nothing must."""
        now = time.monotonic()
        times = [peer.due_s()[0] for peer in self._peers.values()]
        times += [at for p in self._peers.values() if (at := p.resumes_s(now)) > now]
        return max(0.0, min(times) - now) if times else None

    def _accept(self) -> None:
        if self._listener is None:
            raise AssertionError("only a listener has somebody to accept")
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        who = credentials_of(connection)
        if who.uid not in self._allowed:
            if who.uid not in self._refused:
                log.warning("refused pid %d: uid %d may not ask", who.pid, who.uid)
                self._refused.add(who.uid)
            connection.close()
        elif not self._has_place(who.uid):
            log.warning("refused pid %d: %d are connected already", who.pid, len(self._peers))
            connection.close()
        else:
            self._admit(connection, f"pid {who.pid}, uid {who.uid}", uid=who.uid)

    def _has_place(self, uid: int) -> bool:
        if uid == 0:
            return len(self._peers) < MAX_PEERS + FOR_ROOT
        return sum(peer.uid != 0 for peer in self._peers.values()) < MAX_PEERS

    def _admit(
        self,
        connection: socket.socket,
        name: str,
        *,
        uid: int | None,
        greeting_s: float = GREETING_S,
    ) -> None:
        peer = Peer(connection, name, uid=uid, now=time.monotonic(), greeting_s=greeting_s)
        self._peers[connection.fileno()] = peer
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, peer: Peer, now: float) -> None:
        if peer.reads(now):
            peer.receive(now)

    def _advance(self, peer: Peer, now: float) -> None:
        """Handle what it asked, send what there is, and wait for what is missing then."""
        while True:
            while (body := peer.take(now)) is not None:
                self._handle(peer, body)
            self._deliver(now)
            if peer.wants_to_write:
                peer.send(now)
            while peer.push(self._latest, now):
                peer.send(now)
            if not peer.has_request(now):  # what left may have made room to take more
                break
        events = selectors.EVENT_READ if peer.reads(now) else 0
        events |= selectors.EVENT_WRITE if peer.wants_to_write else 0
        self._watch(peer, events)

    def _watch(self, peer: Peer, events: int) -> None:
        held = self._selector.get_map().get(peer.connection.fileno())
        if held is not None and not events:
            self._selector.unregister(peer.connection)
        elif held is None and events:
            self._selector.register(peer.connection, events)
        elif held is not None and held.events != events:
            self._selector.modify(peer.connection, events)

    def _attempt(self, step: Callable[[Peer, float], None], peer: Peer, now: float) -> None:
        try:
            step(peer, now)
        except (PeerGone, FrameError, MessageError) as error:
            self._drop(peer, str(error))

    def _drop(self, peer: Peer, why: str) -> None:
        if why:
            log.warning("ended the connection of %s: %s", peer.name, why)
        descriptor = peer.connection.fileno()
        self._peers.pop(descriptor, None)
        if descriptor in self._selector.get_map():
            self._selector.unregister(peer.connection)
        peer.connection.close()

    # --- requests -----------------------------------------------------------------------------

    def _handle(self, peer: Peer, body: bytes) -> None:
        try:
            envelope = read_message(body, self._kinds)
        except MessageError as error:
            if error.id is None or not peer.greeted:
                raise
            self._answer_to(peer, error.id)(Refused(str(error)))
            return
        request = envelope.message
        answer = self._answer_to(peer, envelope.id)
        if not peer.greeted:
            answer(self._greet(peer, request))
        elif isinstance(request, Ping):
            answer(Done())
        elif isinstance(request, Observe):
            peer.subscribed = True
            answer(Done())
        elif isinstance(request, Greet):
            answer(Refused("greet: was said already"))
        else:
            self._verbs.handle(request, answer, uid=peer.uid)

    def _greet(self, peer: Peer, request: object) -> object:
        if not isinstance(request, Greet):
            raise MessageError("message.kind: the first is greet")
        if request.protocol != PROTOCOL:
            return Refused(
                f"this hostd speaks protocol {PROTOCOL}, not {request.protocol}: restart both "
                "after an upgrade"
            )
        peer.greeted = True
        return self._greeting

    def _answer_to(self, peer: Peer, id: int) -> Answer:
        def answer(message: object) -> None:
            self._answers.put((peer, write_message(id, message)))
            self._wake()

        return answer

    def _deliver(self, now: float) -> None:
        while True:
            try:
                peer, body = self._answers.get_nowait()
            except Empty:
                return
            if peer.connection.fileno() >= 0:
                peer.answer(body, now)

    def _wake(self) -> None:
        try:
            self._waker.send(b"x")
        except BlockingIOError:
            pass  # it is awake already
        except OSError:
            if not self._ending:
                raise
