"""One connection to hostd: what came in, what is to go out, and until when it may take its time.

It holds at most one request that is not understood yet, a bounded number that are not answered, and
one push that has not left; a peer that sends more is not read from. It must never trust a
number that the peer wrote, nor wait: its socket does not block and time is an argument.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from vfio_agent.hostd.frames import CHUNK_BYTES, FrameReader, to_frame
from vfio_agent.hostd.messages import REQUEST_LIMIT_BYTES

GREETING_S = 5.0
"""From connecting to the first whole request."""

CHILD_GREETING_S = 60.0
"""The same for the network process that hostd has started itself: nobody else has that connection,
that it ended is noticed, and on a busy host a Python process takes long to begin."""

REQUEST_S = 5.0
"""From a request's first byte to its last."""

TAKING_S = 10.0
"""For a peer to take anything of what is there for it."""

SILENCE_S = 60.0
"""For a peer to say nothing; the network process pings every few seconds."""

MAX_PENDING = 8
"""Requests of one peer that wait for their answers; the next ones stay in the socket."""

MAX_UNSENT_BYTES = 256 * 1024
"""With more to take, a peer's requests stay in the socket."""

RATE_PER_S = 50.0
BURST = 100.0
"""Requests of one peer. The network process has about one in five seconds."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who opened the other end (SO_PEERCRED, unix(7)), as it was then."""

    pid: int
    uid: int


def credentials_of(connection: socket.socket) -> Credentials:
    """The peer of a connected Unix socket. Source: `struct ucred` of <sys/socket.h>."""
    form = struct.Struct("iII")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    pid, uid, _ = form.unpack(raw)
    return Credentials(pid, uid)


class PeerGone(Exception):
    """The connection is over; the text says why, "" when the peer simply closed it."""


class Peer:
    """One connection. All times are seconds of the monotonic clock."""

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        *,
        uid: int | None,
        now: float,
        greeting_s: float = GREETING_S,
    ) -> None:
        """`uid` is the kernel's word; None for a connection that hostd made for its own child."""
        connection.setblocking(False)
        self.connection = connection
        self.name = name
        self.uid = uid
        self.greeted = False
        self.subscribed = False
        self._pushed: dict[type, bytes] = {}
        self._reader = FrameReader(REQUEST_LIMIT_BYTES)
        self._unsent = bytearray()
        self._pending = 0
        self._greeting_s = greeting_s
        self._opened_s = now
        self._heard_s = now
        self._partial_since_s: float | None = None
        self._stalled_since_s: float | None = None
        self._tokens = BURST
        self._tokens_at_s = now

    # --- what to wait for ---------------------------------------------------------------------

    @property
    def wants_to_write(self) -> bool:
        """True while something is to go out."""
        return bool(self._unsent)

    @property
    def patient(self) -> bool:
        """True while it has as much unanswered or untaken as it may: it is not read from then."""
        return self._pending >= MAX_PENDING or len(self._unsent) > MAX_UNSENT_BYTES

    def reads(self, now: float) -> bool:
        """True when it may send more: what it sent was taken, and it is not to wait."""
        return not self.patient and not self._reader.whole and self.resumes_s(now) <= now

    def has_request(self, now: float) -> bool:
        """True when `take` would give a request, or refuse what is there."""
        return self._reader.whole and not self.patient and self.resumes_s(now) <= now

    def resumes_s(self, now: float) -> float:
        """When its next request is taken, `now` or later."""
        self._tokens = min(BURST, self._tokens + (now - self._tokens_at_s) * RATE_PER_S)
        self._tokens_at_s = now
        return now if self._tokens >= 1 else now + (1 - self._tokens) / RATE_PER_S

    def due_s(self) -> tuple[float, str]:
        """Until when it must have done something, and what to say if it has not."""
        dues = [(self._heard_s + SILENCE_S, f"said nothing for {SILENCE_S:g} s")]
        if not self.greeted:
            due = self._opened_s + self._greeting_s
            dues.append((due, f"did not greet within {self._greeting_s:g} s"))
        if self._partial_since_s is not None and not self.patient:
            due = self._partial_since_s + REQUEST_S
            dues.append((due, f"did not finish its request within {REQUEST_S:g} s"))
        if self._stalled_since_s is not None:
            due = self._stalled_since_s + TAKING_S
            dues.append((due, f"took nothing for {TAKING_S:g} s"))
        return min(dues)

    # --- in -----------------------------------------------------------------------------------

    def take(self, now: float) -> bytes | None:
        """The next whole request; None until there is one, or while it is paced or patient.

        FrameError for what is no frame.
        """
        if not self.has_request(now):
            return None
        body = self._reader.take()
        if body is not None:
            self._tokens -= 1
            self._pending += 1
            self._partial_since_s = now if self._reader.partial else None
        return body

    def receive(self, now: float) -> None:
        """Read what is there; only while it `reads`. PeerGone at the end."""
        try:
            data = self.connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise PeerGone(error.strerror or str(error)) from None
        if not data:
            raise PeerGone("")
        self._reader.feed(data)
        self._heard_s = now
        if self._partial_since_s is None:
            self._partial_since_s = now

    # --- out ----------------------------------------------------------------------------------

    def answer(self, body: bytes, now: float) -> None:
        """Put the answer to one request among what is to go out."""
        self._pending -= 1
        self._put(body, now)

    def push(self, latest: Mapping[type, bytes], now: float) -> bool:
        """Put the latest of one kind there that it has not been sent; False if there is none, or
        while anything has not left."""
        if not self.subscribed or self._unsent:
            return False
        for kind, body in latest.items():
            if self._pushed.get(kind) is not body:
                self._pushed[kind] = body
                self._put(body, now)
                return True
        return False

    def send(self, now: float) -> None:
        """Write what the socket takes; PeerGone when it takes nothing any more."""
        try:
            sent = self.connection.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            raise PeerGone(error.strerror or str(error)) from None
        del self._unsent[:sent]
        self._stalled_since_s = now if self._unsent else None

    def _put(self, body: bytes, now: float) -> None:
        if not self._unsent:
            self._stalled_since_s = now
        self._unsent += to_frame(body)
