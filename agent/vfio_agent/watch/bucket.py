"""A token bucket: at most `burst` at once and `per_s` on average.

Pure: time is an argument, in seconds on any clock that does not go back. It must never lose a
token to rounding: what `ready_at` promises, `take` keeps.
"""

from __future__ import annotations

from math import inf

_ROUNDING_S = 1e-6
"""More than a sum of periods is off by on a clock that has run for years."""


class Bucket:
    """Full when new.

    Kept as the time at which it will be full again (GCRA, ITU-T I.371), so that nothing adds up.
    """

    __slots__ = ("_full_at", "_period_s", "_slack_s")

    def __init__(self, *, burst: int, per_s: float) -> None:
        self._period_s = 1.0 / per_s
        self._slack_s = (burst - 1) * self._period_s + _ROUNDING_S
        self._full_at = -inf

    def ready_at(self) -> float:
        """The earliest time at which `take` says True; -inf when nothing was ever taken."""
        return self._full_at - self._slack_s

    def take(self, now_s: float) -> bool:
        """Take one token if there is one."""
        if now_s < self.ready_at():
            return False
        self._full_at = max(self._full_at, now_s) + self._period_s
        return True

    def is_full(self, now_s: float) -> bool:
        """True when nothing of the past matters any more: as good as a new one."""
        return now_s >= self._full_at
