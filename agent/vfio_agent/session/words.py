"""What an agent says, as messages of the wire, and what it hears of its events, as values.

It must never decide what is said, nor when.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfio_agent.session.outbox import Observed, seconds_up
from vfio_contract.codec import event_to_message, to_message
from vfio_contract.durable import JournalStatus, Mark, Spooled, Stamp
from vfio_contract.model import SCHEMA
from vfioctl.v1 import session_pb2 as wire
from vfioctl.v1.session_pb2 import EventBatch, EventsHeld, Inventory, Observation


def inventory_of(observed: Observed) -> Inventory:
    """The facts half."""
    return Inventory(digest=observed.digest, facts_zlib=observed.facts_zlib, schema=SCHEMA)


def observation_of(observed: Observed, sequence: int) -> Observation:
    """The readings half, and how old it is at this moment."""
    return Observation(
        sequence=sequence,
        inventory_digest=observed.digest,
        readings_zlib=observed.readings_zlib,
        findings=[to_message(finding) for finding in observed.findings],
        age_ms=max(0, int((seconds_up() - observed.at_s) * 1000)),
        checks_version=observed.checks_version,
    )


def batch_of(spool_id: str, events: Sequence[Spooled]) -> EventBatch:
    """Durable events of that spool."""
    return EventBatch(spool_id=spool_id, events=[event_to_message(row) for row in events])


def journal_of(status: JournalStatus) -> wire.JournalStatus:
    """How the journal is."""
    return wire.JournalStatus(code=status.code, text=status.text)


def read_mark(held: EventsHeld) -> Mark:
    """How far the cluster holds a spool."""
    at = Stamp(held.boot_id, held.boottime_ms, held.wall_ms)
    return Mark(held.spool_id, held.seq, at)
