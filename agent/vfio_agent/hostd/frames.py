"""Frames on a stream socket: four bytes of length, big-endian, then as many bytes.

A reader holds at most one frame and never more than its limit, whatever the other side sends. It
must never allocate by a length that it has not checked.
"""

from __future__ import annotations

_HEADER_BYTES = 4

CHUNK_BYTES = 64 * 1024
"""What is asked of the socket at once."""


class FrameError(ValueError):
    """What came is no frame; the text says why. Nothing after it can be understood."""


def to_frame(body: bytes) -> bytes:
    """The frame of a body."""
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


class FrameReader:
    """Takes bytes as they come and gives back bodies of at most `limit_bytes`, in order."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()

    @property
    def partial(self) -> bool:
        """True while something is held that was not given back."""
        return bool(self._held)

    @property
    def whole(self) -> bool:
        """True while `take` would give a body, or refuse what is there."""
        length = self._length
        if length is None:
            return False
        return not self._fits(length) or len(self._held) >= _HEADER_BYTES + length

    def feed(self, data: bytes) -> None:
        """Add what came. The caller feeds only while nothing is `whole`."""
        self._held += data

    def take(self) -> bytes | None:
        """The next body, None until it is whole; FrameError for an empty or too large one."""
        length = self._length
        if length is None:
            return None
        if not self._fits(length):
            raise FrameError(f"a frame of {length} bytes, expected 1 to {self._limit_bytes}")
        end = _HEADER_BYTES + length
        if len(self._held) < end:
            return None
        body = bytes(self._held[_HEADER_BYTES:end])
        del self._held[:end]
        return body

    @property
    def _length(self) -> int | None:
        """What the header says, None before it is whole."""
        if len(self._held) < _HEADER_BYTES:
            return None
        return int.from_bytes(self._held[:_HEADER_BYTES], "big")

    def _fits(self, length: int) -> bool:
        return 0 < length <= self._limit_bytes
