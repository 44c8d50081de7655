"""The loop's end of one agent stream: what the state says to it waits here until it is read.

Of each kind of word only the newest waits, so a stream whose peer does not read costs the same for
ever: a newer acknowledgement or mark covers the older ones, and only the newest inventory is
wanted. Commands alone wait each for itself, and a node has few of them. It must never block whoever
speaks.
"""

from __future__ import annotations

import asyncio

from vfio_contract.errors import ClusterError
from vfio_coordinator.state.effects import (
    AcceptSession,
    Acknowledge,
    HoldEvents,
    SendCommand,
    WantInventory,
    WantRescan,
    WantWhole,
)

Word = (
    AcceptSession | WantInventory | Acknowledge | HoldEvents | WantRescan | WantWhole | SendCommand
)


class SessionPort:
    """One stream of `node`; `id` is its number, which grows with each stream of the process."""

    def __init__(self, number: int, node: str) -> None:
        self.id = number
        self.node = node
        self._words: dict[type[Word] | str, Word] = {}
        self._ended = False
        self._error: ClusterError | None = None
        self._changed = asyncio.Event()

    def tell(self, word: Word) -> None:
        """Say it after what waits already, in place of an older word of its kind."""
        kind = word.command.id if isinstance(word, SendCommand) else type(word)
        self._words.pop(kind, None)
        self._words[kind] = word
        self._changed.set()

    def end(self, error: ClusterError | None = None) -> None:
        """End the stream after what waits: in peace, or with a refusal. The first end counts."""
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.set()

    async def next_word(self) -> Word | None:
        """What the agent is told next, None at the end; ClusterError where that is a refusal."""
        while not self._words and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._words:
            return self._words.pop(next(iter(self._words)))
        if self._error is not None:
            raise self._error
        return None
