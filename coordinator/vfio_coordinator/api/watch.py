"""One watcher's stream: what follows its cursor, bounded, and an end that can be resumed from.

A watcher holds a cursor and at most one response, so a thousand of them cost little; who does not
take a response in time is refused with the cursor from which it may go on. Whether the caller may
look is asked again before each response: a stream does not outlive its user.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple

from vfio_contract.codec import from_message, to_message
from vfio_contract.errors import CURSOR_METADATA, ClusterError, ErrorCode
from vfio_contract.views import ClusterChange, WatchCursor, WatchKind
from vfio_coordinator.api.errors import Context
from vfio_coordinator.clock import Clock
from vfio_coordinator.feed import ALL_KINDS, BATCH, Compacted, Feed
from vfio_coordinator.publisher import Publisher
from vfioctl.v1 import cluster_pb2 as wire

PATIENCE_S = 10.0
"""A response that is not taken by then has no reader."""

BOOKMARK_S = 10.0
"""A response comes at least so often: who hears nothing knows that something is wrong."""

MOST = 2_000
MOST_OF_ONE = 500
"""Streams of one server, and of one user of it: what one that reads holds is about 90 KB."""

_SHARED = 64
"""Responses kept for other watchers at the same place; most are at the newest."""

_Place = tuple[WatchCursor | None, frozenset[WatchKind], str]


class SlowConsumer(ClusterError):
    """Nobody took the response after `resume` in time."""

    def __init__(self, resume: WatchCursor) -> None:
        super().__init__(ErrorCode.SLOW_CONSUMER, f"a response was not read for {PATIENCE_S:.0f} s")
        self.resume = resume


class Watching:
    """The streams of one server over one publisher."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher = publisher
        self._clock = clock
        self._shared: dict[_Place, tuple[ClusterChange, wire.WatchResponse]] = {}
        self._shared_of: tuple[Feed, WatchCursor] | None = None
        self._open: Counter[str] = Counter()

    async def stream(
        self,
        request: wire.WatchRequest,
        context: Context,
        *,
        node: str,
        require: Callable[[], str],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Tell what changes until the caller goes away. Raises ClusterError.

        `require` gives the caller's name, or raises when they may not look (any more).
        """
        user = require()
        if self._open[user] >= MOST_OF_ONE or self._open.total() >= MOST:
            raise ClusterError(
                ErrorCode.TOO_MANY_WATCHERS,
                f"{self._open[user]} of {user} (at most {MOST_OF_ONE}), "
                f"{self._open.total()} in all (at most {MOST})",
            )
        self._open[user] += 1
        try:
            await self._tell(request, context, node=node, require=require, patience_s=patience_s)
        finally:
            self._open[user] -= 1

    async def _tell(
        self,
        request: wire.WatchRequest,
        context: Context,
        *,
        node: str,
        require: Callable[[], str],
        patience_s: float,
    ) -> None:
        cursor, kinds = read_cursor(request), read_kinds(request)
        # Or a refusal while the first response waits would be one header too many for grpc.
        await context.send_initial_metadata(())
        due = True
        while True:
            require()
            news = self._publisher.news
            change, response = self._next((cursor, kinds, node))
            if due or _says_something(change):
                response.change.at = self._clock.now().utc
                try:
                    await asyncio.wait_for(context.write(response), patience_s)
                except TimeoutError:
                    raise SlowConsumer(_resume(cursor, change)) from None
            due, cursor = False, change.cursor
            if change.current:
                try:
                    await asyncio.wait_for(news.wait(), BOOKMARK_S)
                except TimeoutError:
                    due = True

    def _next(self, place: _Place) -> tuple[ClusterChange, wire.WatchResponse]:
        """What follows a place; made once for all who are there."""
        feed = self._publisher.feed
        if self._shared_of != (feed, feed.newest):
            self._shared.clear()
            self._shared_of = (feed, feed.newest)
        known = self._shared.get(place)
        if known is None:
            cursor, kinds, node = place
            change = feed.since(cursor, kinds=kinds, node=node, limit=BATCH)
            known = change, wire.WatchResponse(change=to_message(change))
            if len(self._shared) < _SHARED:
                self._shared[place] = known
        return known


def read_cursor(request: wire.WatchRequest) -> WatchCursor | None:
    """The cursor to go on from, None for a fresh start. Raises ClusterError."""
    if not request.HasField("cursor"):
        return None
    cursor = from_message(WatchCursor, request.cursor)
    if min(astuple(cursor)) < 0:
        raise ClusterError(ErrorCode.BAD_REQUEST, "cursor: a number of it is negative")
    return cursor


def read_kinds(request: wire.WatchRequest) -> frozenset[WatchKind]:
    """What to tell; a kind that this version does not know is refused, for it would be missing."""
    if not request.kinds:
        return ALL_KINDS
    known = {wire.WatchKind.Value(f"WATCH_KIND_{kind.name}"): kind for kind in WatchKind}
    found = [known.get(number) for number in request.kinds]
    if None in found:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"kinds: one of {list(request.kinds)} is unknown")
    return frozenset(kind for kind in found if kind is not None)


def cursor_text(cursor: WatchCursor) -> str:
    """As the metadata of a refusal carries it."""
    return ".".join(map(str, astuple(cursor)))


def tell_resume(context: Context, error: ClusterError) -> None:
    """Let a refusal carry the cursor to go on from, where there is one."""
    if isinstance(error, SlowConsumer | Compacted):
        context.set_trailing_metadata(((CURSOR_METADATA, cursor_text(error.resume)),))


def _resume(cursor: WatchCursor | None, change: ClusterChange) -> WatchCursor:
    """From where a change that may not have arrived is told again.

    It may have: whoever received it goes on from its own cursor instead.
    """
    return cursor or WatchCursor(0, 0, 0, change.cursor.event_seq)


def _says_something(change: ClusterChange) -> bool:
    """False where only the place moved on, over what this watcher does not look at."""
    rows = (change.nodes, change.nodes_gone, change.vms, change.vms_gone, change.events)
    return change.reset or change.summary is not None or any(rows)
