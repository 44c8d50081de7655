"""Reconnect delays: exponential with full jitter, so that a fleet does not come back at once.

The n-th wait is uniform in [0, min(cap, base * 2**n)]. Worst case from a failure to the next
attempt: `CAP_S`. A refusal that will not lift by itself waits between half the cap and the cap each
time, because asking again soon only costs both sides a handshake. A coordinator that many agents
come back to at once may name the moment when it has time for this one; it is taken at its word, but
for `LATEST_S` at most.
"""

from __future__ import annotations

from collections.abc import Callable

BASE_S = 0.5
CAP_S = 30.0
LATEST_S = 120.0

_LATE = 1.1
"""The named moments of many agents lie apart already; early would be too early."""

_MAX_DOUBLINGS = 16


class Backoff:
    """Counts failures since the last success; `uniform(low, high)` is the random source."""

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._failures = 0

    def succeed(self) -> None:
        """A session did its work: the next wait starts small again."""
        self._failures = 0

    def next_delay(self, *, slow: bool = False, named_s: float = 0.0) -> float:
        """Seconds to wait before the next attempt; `slow` after a refusal that will stand.

        `named_s` is after how long the coordinator wants to be asked again, 0 where it did not say.
        """
        if named_s > 0:
            named_s = min(named_s, LATEST_S)
            return self._uniform(named_s, min(named_s * _LATE, LATEST_S))
        if slow:
            return self._uniform(CAP_S / 2, CAP_S)
        ceiling = min(CAP_S, BASE_S * 2.0 ** min(self._failures, _MAX_DOUBLINGS))
        self._failures += 1
        return self._uniform(0.0, ceiling)
