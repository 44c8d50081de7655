"""What the agent has to say, at most one of it: the latest observation wins.

A slow or absent coordinator must never make the agent queue: a newer observation replaces one that
was not sent, and a new session starts by saying the latest again. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.findings import Finding
from vfio_contract.model import Facts, Snapshot
from vfio_contract.parts import lines_of, pack_lines, read_lines


@dataclass(frozen=True, slots=True)
class Observed:
    """One collection, ready to send: facts, and all else as the lines of its parts, both zlib.

    `at_s` is when it began, on the clock of `seconds_up`.
    """

    digest: str
    facts_zlib: bytes
    parts_zlib: bytes
    boot_id: str
    product_uuid: str
    checks_version: str
    at_s: float

    def lines(self) -> dict[str, bytes]:
        """The lines of the parts."""
        return read_lines(self.parts_zlib)


def seconds_up() -> float:
    """Seconds since boot with the time in suspend: evidence ages while a host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Packer:
    """Encodes observations; facts that did not change are not encoded again."""

    def __init__(self) -> None:
        self._facts: Facts | None = None
        self._digest = ""
        self._zlib = b""

    def pack(
        self,
        snapshot: Snapshot,
        findings: tuple[Finding, ...],
        *,
        checks_version: str,
        at_s: float,
    ) -> Observed:
        """Encode once, send as often as needed. Findings that are equally bad keep their order."""
        if snapshot.facts != self._facts:
            facts = encode(snapshot.facts)
            self._digest, self._zlib = digest_bytes(facts), compress(facts)
            self._facts = snapshot.facts
        return Observed(
            digest=self._digest,
            facts_zlib=self._zlib,
            parts_zlib=pack_lines(lines_of(snapshot.readings, findings).values()),
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

    def offer(self, observed: Observed) -> None:
        """Replace what was not sent yet."""
        with self._lock:
            self._latest = observed
            wake = self._wake
        if wake is not None:
            wake()

    def latest(self) -> Observed | None:
        """The newest observation, None before the first."""
        with self._lock:
            return self._latest

    def attach(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` on each offer from now on; None to stop."""
        with self._lock:
            self._wake = wake
