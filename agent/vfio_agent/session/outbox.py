"""What the agent has to say, at most one of it: the latest observation wins.

A slow or absent coordinator must never make the agent queue: a newer observation replaces one that
was not sent, and a new session starts by saying the latest again. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.findings import Finding
from vfio_contract.model import Snapshot


@dataclass(frozen=True, slots=True)
class Observed:
    """One collection, ready to send. `at_s` is when it began, on the monotonic clock."""

    digest: str
    facts_zlib: bytes
    readings_zlib: bytes
    findings: tuple[Finding, ...]
    boot_id: str
    product_uuid: str
    checks_version: str
    at_s: float


def pack(
    snapshot: Snapshot, findings: tuple[Finding, ...], *, checks_version: str, at_s: float
) -> Observed:
    """Encode once, send as often as needed."""
    facts = encode(snapshot.facts)
    return Observed(
        digest=digest_bytes(facts),
        facts_zlib=compress(facts),
        readings_zlib=compress(encode(snapshot.readings)),
        findings=findings,
        boot_id=snapshot.readings.boot_id or "",
        product_uuid=snapshot.facts.firmware.product_uuid or "",
        checks_version=checks_version,
        at_s=at_s,
    )


class Outbox:
    """The latest observation and whom to wake when there is a newer one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: Observed | None = None
        self._wake: Callable[[], None] | None = None
        self._first = threading.Event()

    def offer(self, observed: Observed) -> None:
        """Replace what was not sent yet."""
        with self._lock:
            self._latest = observed
            wake = self._wake
        self._first.set()
        if wake is not None:
            wake()

    def latest(self) -> Observed | None:
        """The newest observation, None before the first."""
        with self._lock:
            return self._latest

    def wait_first(self, timeout_s: float) -> bool:
        """True once there is something to say."""
        return self._first.wait(timeout_s)

    def attach(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` on each offer from now on; None to stop."""
        with self._lock:
            self._wake = wake
