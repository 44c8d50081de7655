"""What a stream said that is expensive to read, until there is time: the newest of each kind.

An older inventory or observation is worth nothing once a newer one is here ("latest snapshot
wins"), so a host that tells of itself all the time costs one reading at a time and no memory.
Nothing else may wait here: what counts once, like durable events, is never passed over.
"""

from __future__ import annotations

import asyncio

from vfioctl.v1 import session_pb2 as wire

KINDS = ("inventory", "observation")
"""In the order in which they are read: an observation is about the inventory that came before."""


class Inbox:
    """Of one stream."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[wire.SessionRequest, float]] = {}
        self._filled = asyncio.Event()
        self._read = asyncio.Event()
        self._read.set()

    def put(self, request: wire.SessionRequest, came_s: float) -> None:
        """A message of one of `KINDS`, in place of an older one that nobody has read."""
        kind = request.WhichOneof("body")
        if kind not in KINDS:
            raise ValueError(f"{kind} must not wait")
        self._waiting[kind] = (request, came_s)
        self._filled.set()
        self._read.clear()

    async def filled(self) -> None:
        """Until there is something to take."""
        await self._filled.wait()

    def take(self) -> tuple[wire.SessionRequest, float]:
        """The next to read, and when it came. `done` follows."""
        kind = next(kind for kind in KINDS if kind in self._waiting)
        taken = self._waiting.pop(kind)
        if not self._waiting:
            self._filled.clear()
        return taken

    def done(self) -> None:
        """What was taken has been read."""
        if not self._waiting:
            self._read.set()

    async def all_read(self) -> None:
        """Until nothing waits and nothing is being read."""
        await self._read.wait()
