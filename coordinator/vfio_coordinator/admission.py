"""How much one node may ask of the coordinator, and how many agents may begin at once.

Three bounds, none of which needs to know who means harm:

- **Talk**: each message costs tokens, by number and by bytes. Who has none left is not read, which
  its own host feels as TCP back-pressure; who goes on like that for `FLOOD_S` is cut off.
- **Work**: unpacking and applying cost the processor time that they took. A node that has used its
  share waits before its next piece is begun, and of what waits only the newest counts.
- **The gate**: a session is expensive until its first observation is judged. `SETTLING` may be in
  that state at once; the others queue, and who would queue for longer than its agent waits is told
  when to come back. Each is told another moment, so that it has to come once.

A node's account outlives its streams: whoever reconnects gets nothing new. Pure but for the futures
on which those at the gate wait: time is an argument. This module must never drop what was said and
cannot be said again.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from vfio_contract.errors import ClusterError, ErrorCode

MESSAGES_PER_S = 500.0
MESSAGES_AT_ONCE = 1_000.0
"""An agent says one heartbeat in 3 s, and at most 250 messages a second while it tells of durable
events (`Limits.events_per_s`); reading one costs about 0.5 ms."""

TOKEN_BYTES = 16 * 1024
"""One token more for so many bytes: 8 MB/s at most. A large host's look is 0.5 MB."""

OPENING = 10.0
"""Tokens of a new stream: handshake, certificate and Hello cost about 5 ms."""

FLOOD_S = 5.0
"""Who has been out of tokens for so long does not mean to stop."""

SHUT_OUT_S = 15.0
"""Then; agents do not come back sooner after such a refusal."""

WORK_SHARE = 0.1
"""Of one core, for one node: a host of 256 functions takes 0.2 s a look, and looks once a minute,
or once a second while something happens to it."""

WORK_AT_ONCE_S = 1.0

SETTLING = 64
"""Sessions between Welcome and their first judged observation; each may hold some MB."""

SETTLE_S = 3.0
"""An agent that has not told what it saw by then has nothing to tell yet, and makes room."""

PATIENCE_S = 8.0
"""At the gate. Agents wait 20 s for Welcome, connecting included."""

LATEST_S = 120.0
"""No agent is sent away for longer."""

TOLD_EVERY_S = 60.0

_FIRST_RATE = 50.0
"""Sessions a second, until `_ENOUGH` have settled to measure it."""

_ENOUGH = 32


class Allowance:
    """Tokens that come back at `rate` a second, `burst` at most. What is charged may be a debt."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at_s = -math.inf
        self._out_since_s = math.inf

    def charge(self, cost: float, now_s: float) -> None:
        """Something was done."""
        self._refill(now_s)
        self._tokens -= cost
        if self._tokens < 0:
            self._out_since_s = min(self._out_since_s, now_s)

    def wait_s(self, now_s: float) -> float:
        """Seconds until the debt is paid, 0 for none."""
        self._refill(now_s)
        return max(0.0, -self._tokens / self._rate)

    def out_for_s(self, now_s: float) -> float:
        """Seconds since the tokens ran out; 0 once a quarter of them has come back."""
        self._refill(now_s)
        return max(0.0, now_s - self._out_since_s)

    def is_full(self, now_s: float) -> bool:
        """Nothing is to be remembered."""
        self._refill(now_s)
        return self._tokens >= self._burst

    def _refill(self, now_s: float) -> None:
        grown = self._tokens + self._rate * max(0.0, now_s - self._at_s)
        self._tokens, self._at_s = min(self._burst, grown), max(self._at_s, now_s)
        if self._tokens >= self._burst / 4:
            self._out_since_s = math.inf


def _make_talk() -> Allowance:
    return Allowance(rate=MESSAGES_PER_S, burst=MESSAGES_AT_ONCE)


def _make_work() -> Allowance:
    return Allowance(rate=WORK_SHARE, burst=WORK_AT_ONCE_S)


@dataclass(slots=True)
class Account:
    """What one node has used, over all of its streams, of which `streams` are open."""

    talk: Allowance = field(default_factory=_make_talk)
    work: Allowance = field(default_factory=_make_work)
    streams: int = 0
    shut_out_until_s: float = -math.inf

    def charge_message(self, size_bytes: int, now_s: float) -> None:
        """A message was read."""
        self.talk.charge(1 + size_bytes / TOKEN_BYTES, now_s)

    def wait_s(self, node: str, now_s: float) -> float:
        """Seconds until the next message may be read. Raises ClusterError(FLOODING)."""
        wait_s = self.talk.wait_s(now_s)
        if wait_s and self.talk.out_for_s(now_s) > FLOOD_S:
            self.shut_out_until_s = now_s + SHUT_OUT_S
            raise _flooding(node)
        return wait_s

    def is_idle(self, now_s: float) -> bool:
        """A new account would be the same."""
        quiet = not self.streams and now_s >= self.shut_out_until_s
        return quiet and self.talk.is_full(now_s) and self.work.is_full(now_s)


class Accounts:
    """Of the nodes that have a stream, or used something lately."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._closed: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, node: str, now_s: float) -> Account:
        """The account of a node that opens a stream; `close` it. Raises ClusterError(FLOODING)."""
        self._forget(now_s)
        account = self._accounts.get(node)
        if account is None:
            account = self._accounts[node] = Account()
        if now_s < account.shut_out_until_s or account.talk.wait_s(now_s) > 0:
            raise _flooding(node)
        account.talk.charge(OPENING, now_s)
        account.streams += 1
        self._closed.pop(node, None)
        return account

    def close(self, node: str) -> None:
        """One stream of it is over."""
        account = self._accounts[node]
        account.streams -= 1
        if not account.streams:
            self._closed[node] = None

    def _forget(self, now_s: float) -> None:
        """Look at two that are closed for each that opens: so there is an end to them."""
        for node in list(islice(self._closed, 2)):
            del self._closed[node]
            if self._accounts[node].is_idle(now_s):
                del self._accounts[node]
            else:
                self._closed[node] = None


def _flooding(node: str) -> ClusterError:
    """The end of a stream that says too much."""
    return ClusterError(
        ErrorCode.FLOODING,
        f"{node} said more than {MESSAGES_PER_S:.0f} messages or "
        f"{MESSAGES_PER_S * TOKEN_BYTES / 1e6:.0f} MB a second, for longer than {FLOOD_S:.0f} s",
    )


class Tally:
    """Refusals by code, for the log: one line in `TOLD_EVERY_S`, however many there are."""

    def __init__(self) -> None:
        self._counts: Counter[ErrorCode] = Counter()
        self._told_s = -math.inf

    def count(self, code: ErrorCode, now_s: float) -> str:
        """One more; the line that is due now, "" for none."""
        self._counts[code] += 1
        if now_s - self._told_s < TOLD_EVERY_S:
            return ""
        self._told_s = now_s
        counted = ", ".join(f"{code} {count}" for code, count in sorted(self._counts.items()))
        return f"sessions refused since the start: {counted}"


class Busy(ClusterError):
    """Too many came at once; this one is expected in `retry_after_s`."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(
            ErrorCode.BUSY, f"{waiting} agents wait before this one; again in {retry_after_s:.1f} s"
        )
        self.retry_after_s = retry_after_s


class Gate:
    """Lets `SETTLING` sessions begin at once, in the order in which they came.

    `clock` gives monotonic seconds. Every `enter` needs a `leave`, however it ended.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inside: dict[int, float] = {}
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._crowded_s = -math.inf
        self._settled = 0
        self._next_slot_s = -math.inf

    @property
    def is_crowded(self) -> bool:
        """Somebody waits at the gate, or was sent away and is still expected back."""
        return bool(self._queue) or self._next_slot_s + PATIENCE_S > self._clock()

    async def enter(self, session: int) -> None:
        """Wait for a place. Raises Busy at once where that would take too long."""
        self.make_room()
        if len(self._inside) < SETTLING and not self._queue:
            self._inside[session] = self._clock()
            return
        if (len(self._queue) + 1) / self._rate() > PATIENCE_S:
            raise self._turn_away()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (session, future)
        if not self._queue:
            self._crowded_s, self._settled = self._clock(), 0
        self._queue.append(place)
        try:
            await asyncio.wait_for(future, PATIENCE_S)
        except TimeoutError:
            raise self._turn_away() from None
        finally:
            if place in self._queue:
                self._queue.remove(place)

    def leave(self, session: int) -> None:
        """The session has settled, or is over; nothing happens for one that is not inside."""
        if self._inside.pop(session, None) is not None:
            self._settled += 1
            self.make_room()

    def make_room(self) -> None:
        """Let in who can be; those who have nothing to tell do not keep others waiting."""
        now_s = self._clock()
        late = [n for n, since_s in self._inside.items() if now_s - since_s > SETTLE_S]
        for session in late:
            del self._inside[session]
            self._settled += 1
        while self._queue and len(self._inside) < SETTLING:
            session, future = self._queue.popleft()
            if not future.done():
                self._inside[session] = now_s
                future.set_result(None)

    def _turn_away(self) -> Busy:
        """Each gets a moment of its own, at the pace at which sessions settle now."""
        now_s = self._clock()
        first_s = now_s + max(PATIENCE_S, len(self._queue) / self._rate())
        self._next_slot_s = max(first_s, self._next_slot_s + 1 / self._rate())
        self._next_slot_s = min(self._next_slot_s, now_s + LATEST_S)
        return Busy(len(self._queue), self._next_slot_s - now_s)

    def _rate(self) -> float:
        """Sessions that settled a second, since there is a queue."""
        took_s = self._clock() - self._crowded_s
        return self._settled / took_s if self._settled >= _ENOUGH and took_s > 0 else _FIRST_RATE
