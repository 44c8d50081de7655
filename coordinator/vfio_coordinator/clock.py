"""The coordinator's two clocks, behind one interface so that tests bring their own.

Durations are measured on the monotonic clock only; the wall clock is for people. Nothing in the
pure core may read either.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

from vfio_coordinator.state.events import Now


class Clock(Protocol):
    """Where the runtime takes the time from."""

    def now(self) -> Now:
        """This moment."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        """Monotonic seconds, and UTC to the second in ISO 8601."""
        return Now(
            monotonic_s=time.monotonic(), utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        )


def wall_time(clock: Clock) -> datetime:
    """UTC of this moment, to judge a certificate's dates by."""
    return datetime.fromisoformat(clock.now().utc)
