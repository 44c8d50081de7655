"""What is said of each observation in one session: all of it, or what changed.

Only against what the coordinator has acknowledged, and only while nothing else is on its way, is an
observation said as a change; in any other case, and when the coordinator asks for it, all of it is.
It must never take for held what was merely sent. Used by one thread at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_agent.session.outbox import Observed
from vfio_agent.session.words import add_whole, observation_of
from vfio_contract.parts import digest_each, digest_whole, pack_lines
from vfioctl.v1.session_pb2 import Observation


@dataclass(frozen=True, slots=True)
class _Said:
    """An observation that was sent: its number, the digests of its lines and of the whole."""

    sequence: int
    digests: dict[str, bytes]
    digest: str


class Telling:
    """One session's. `in_parts` is what Welcome says of the coordinator."""

    def __init__(self, *, in_parts: bool) -> None:
        self._in_parts = in_parts
        self.sequence = 0
        self._last: _Said | None = None
        self._held: _Said | None = None

    def hold(self, sequence: int) -> None:
        """The cluster state holds the observation of this number."""
        if self._last is not None and self._last.sequence == sequence:
            self._held = self._last

    def forget(self) -> None:
        """The coordinator cannot tell what a change is about: the next one is said as a whole."""
        self._held = None

    def say(self, observed: Observed) -> Observation:
        """The next message."""
        self.sequence += 1
        message = observation_of(observed, self.sequence)
        if not self._in_parts:
            add_whole(message, observed)
            return message
        lines = observed.lines()
        digests = digest_each(lines)
        said = _Said(self.sequence, digests, digest_whole(digests))
        base = self._held if self._held is self._last else None
        if base is not None and tuple(base.digests) == tuple(digests):
            changed = (line for name, line in lines.items() if base.digests[name] != digests[name])
            message.parts_zlib, message.base_digest = pack_lines(changed), base.digest
        else:
            message.parts_zlib = observed.parts_zlib
        message.digest = said.digest
        self._last = said
        return message
