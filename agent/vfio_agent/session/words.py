"""What an agent says, as messages of the wire, and what it hears of its events, as values.

It must never decide what is said, nor when.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfio_agent.session.outbox import Observed, seconds_up
from vfio_contract.artifact import compress, encode
from vfio_contract.codec import event_to_message, from_message, to_message
from vfio_contract.command import Command, CommandAnswer
from vfio_contract.durable import JournalStatus, Mark, Spooled, Stamp
from vfio_contract.model import SCHEMA
from vfio_contract.parts import rank, read_findings, read_readings
from vfioctl.v1 import session_pb2 as wire
from vfioctl.v1.session_pb2 import EventBatch, EventsHeld, Inventory, Observation


def inventory_of(observed: Observed) -> Inventory:
    """The facts half."""
    return Inventory(digest=observed.digest, facts_zlib=observed.facts_zlib, schema=SCHEMA)


def observation_of(observed: Observed, sequence: int) -> Observation:
    """The head of an observation, and how old it is at this moment; what was seen is not in it."""
    return Observation(
        sequence=sequence,
        inventory_digest=observed.digest,
        age_ms=max(0, int((seconds_up() - observed.at_s) * 1000)),
        checks_version=observed.checks_version,
        began_boottime_ms=int(observed.at_s * 1000),
    )


def add_whole(message: Observation, observed: Observed) -> None:
    """All that was seen, for a coordinator that knows nothing of parts."""
    lines = observed.lines()
    message.readings_zlib = compress(encode(read_readings(lines)))
    message.findings.extend(to_message(finding) for finding in rank(read_findings(lines)))


def batch_of(spool_id: str, events: Sequence[Spooled]) -> EventBatch:
    """Durable events of that spool."""
    return EventBatch(spool_id=spool_id, events=[event_to_message(row) for row in events])


def journal_of(status: JournalStatus) -> wire.JournalStatus:
    """How the journal is."""
    return wire.JournalStatus(code=status.code, text=status.text)


def answer_of(answer: CommandAnswer) -> wire.CommandAnswer:
    """What became of a command."""
    message: wire.CommandAnswer = to_message(answer)
    return message


def read_command(message: wire.Command) -> Command:
    """What the coordinator wants done."""
    return from_message(Command, message)


def read_mark(held: EventsHeld) -> Mark:
    """How far the cluster holds a spool."""
    at = Stamp(held.boot_id, held.boottime_ms, held.wall_ms)
    return Mark(held.spool_id, held.seq, at)
