"""Reconnect delays: exponential with full jitter, so that a fleet does not come back at once.

The n-th wait is uniform in [0, min(cap, base * 2**n)]. Worst case from failure to the next attempt:
`CAP_S`. A refusal that only a person can lift waits the cap each time.
"""

from collections.abc import Callable

BASE_S = 0.5
CAP_S = 30.0


class Backoff:
    """Counts failures since the last success; `uniform(low, high)` is the random source."""

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._failures = 0

    def succeeded(self) -> None:
        """A session was established: the next wait starts small again."""
        self._failures = 0

    def next_delay(self, *, permanent: bool = False) -> float:
        """Seconds to wait before the next attempt."""
        if permanent:
            return self._uniform(CAP_S / 2, CAP_S)
        ceiling = min(CAP_S, BASE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return self._uniform(0.0, ceiling)
