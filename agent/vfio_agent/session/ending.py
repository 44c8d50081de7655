"""How a session ended, and what that means for the next one.

Nothing of what the peer wrote is passed on as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from vfio_contract.errors import RETRY_METADATA, ErrorCode

_REASON_CHARACTERS = 400

_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        # A server under a herd of connects answers INTERNAL, a cut connection may read UNKNOWN.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Statuses that may be gone at the next attempt; all others stand until something is changed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a session ended. `useful`: the coordinator took an observation. `slow`: it will not help
    to ask again soon. `retry_after_s`: when the coordinator has time, 0 where it did not say."""

    reason: str
    useful: bool = False
    slow: bool = False
    retry_after_s: float = 0.0


def read_status(error: grpc.RpcError) -> Ended:
    """grpc raises its own call objects; they answer code() and details()."""
    code = getattr(error, "code", lambda: None)()
    details = str(getattr(error, "details", lambda: "")() or "")
    word = details.partition(":")[0]
    status = "UNKNOWN" if code is None else code.name
    # Another process speaks for this node: taking the session back at once would never end.
    slow = (code is not None and code not in _PASSING) or word == ErrorCode.SESSION_REPLACED
    reason = f"{status}: {printable(details)}"
    return Ended(reason, slow=slow, retry_after_s=_named_s(error))


def _named_s(error: grpc.RpcError) -> float:
    """After how long the coordinator that sent us away wants us back, 0 where it does not say."""
    metadata = getattr(error, "trailing_metadata", lambda: ())()
    named = [str(value) for name, value in metadata or () if name == RETRY_METADATA]
    return int(named[0]) / 1_000 if named and named[0].isdecimal() and len(named[0]) < 10 else 0.0


def printable(text: str) -> str:
    """What a peer wrote, for a log: one line, bounded, no control characters."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(kept.split())[:_REASON_CHARACTERS]
