"""What agents send, as events: bounded, unpacked, decoded and compared with its digest.

Nothing of a message is believed before that. Each refusal is a ClusterError that names the field.
Nothing here keeps anything or looks at the state; it may run on any thread.
"""

from __future__ import annotations

from typing import TypeVar

from vfio_contract import codes
from vfio_contract.artifact import ArtifactError, decode, decompress, digest_bytes
from vfio_contract.codec import event_from_message, from_message
from vfio_contract.command import CommandAnswer
from vfio_contract.durable import MAX_SEQ, JournalStatus, Spooled
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Finding
from vfio_contract.model import SCHEMA, Facts, Readings
from vfio_coordinator.api.observations import Heard, Limits, read_parts, share
from vfio_coordinator.state.effects import WantWhole
from vfio_coordinator.state.events import (
    CommandAnswered,
    Event,
    EventsReceived,
    Heartbeat,
    InventoryReceived,
    JournalReported,
    NodeHello,
    ObservationReceived,
)
from vfio_coordinator.state.model import Observation
from vfioctl.v1 import session_pb2 as wire

Value = TypeVar("Value")

PROTOCOL = 1
"""The one protocol that this version speaks."""

MAX_UNPACKED_BYTES = 16 * 1024 * 1024
"""Facts or readings when unpacked; a 256-function host has about 0.5 MB, 4,096 VFs about 8 MB."""

MAX_FINDINGS = 20_000
"""Findings in one observation; a 256-function host has about 1,300."""

LIMITS = Limits(unpacked_bytes=MAX_UNPACKED_BYTES, findings=MAX_FINDINGS)

MAX_EVENTS = 256
"""Durable events in one message; agents send at most 64."""

MAX_EVENTS_BYTES = 1024 * 1024
"""Of such a message; agents stop at 256 KiB unless one event alone is more."""

MAX_ANSWER_BYTES = 64 * 1024
"""Of what became of a command; a report has at most 48 KiB."""

MAX_WALL_MS = 253_402_300_799_000
"""The last second of the year 9999: what is later is no time that can be shown."""

JOURNAL_CODES = frozenset({codes.JOURNAL_FAILED.name, codes.HOSTD_AWAY.name, codes.SPOOL_FULL.name})

MAX_TEXT = 128
"""Characters of an id, a digest or a version; some of them are stored, others shown."""

HELLO_TEXTS = (
    "boot_id",
    "product_uuid",
    "agent_state_id",
    "inventory_digest",
    "agent_version",
    "cluster_id",
    "spool_id",
)


def check_hello(request: wire.SessionRequest, node: str) -> wire.Hello:
    """The Hello of a stream whose certificate says `node`, in a protocol that both speak."""
    if request.WhichOneof("body") != "hello":
        raise ClusterError(ErrorCode.BAD_REQUEST, "the first message must be Hello")
    hello = request.hello
    if hello.node != node:
        raise ClusterError(
            ErrorCode.NODE_MISMATCH, f"Hello says node {hello.node!r}, the certificate {node!r}"
        )
    if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
        raise ClusterError(
            ErrorCode.PROTOCOL_UNSUPPORTED,
            f"the agent speaks protocol {hello.protocol_min} to {hello.protocol_max}, "
            f"this coordinator {PROTOCOL} to {PROTOCOL}",
        )
    for field in HELLO_TEXTS:
        _check_text(field, getattr(hello, field), ErrorCode.BAD_REQUEST)
    return hello


def read_hello(hello: wire.Hello, session: int, *, waited_ms: int = 0) -> NodeHello:
    """The event of a checked Hello that came so long ago."""
    return NodeHello(
        node=hello.node,
        session=session,
        boot_id=hello.boot_id,
        product_uuid=hello.product_uuid,
        agent_state_id=hello.agent_state_id,
        agent_version=hello.agent_version,
        inventory_digest=hello.inventory_digest,
        cluster_id=hello.cluster_id,
        highest_incarnation=hello.highest_incarnation,
        highest_epoch=hello.highest_epoch,
        spool_id=hello.spool_id,
        commands=hello.commands,
        boottime_ms=max(0, hello.boottime_ms) + waited_ms,
    )


def read_message(
    request: wire.SessionRequest, node: str, session: int, held: Observation | None = None
) -> Event | WantWhole | None:
    """The event of a message after Hello; None for a body that this version does not know.

    `held` is what the state holds of this session, for what changes it.
    """
    match request.WhichOneof("body"):
        case "heartbeat":
            return Heartbeat(node=node, session=session)
        case "inventory":
            return _inventory(request.inventory, node, session)
        case "observation":
            return _observation(request.observation, node, session, held)
        case "events":
            return _events(request.events, node, session)
        case "journal":
            status = JournalStatus(request.journal.code, request.journal.text)
            if status.code and status.code not in JOURNAL_CODES:
                raise ClusterError(ErrorCode.BAD_REQUEST, f"journal.code: {status.code!r}")
            return JournalReported(node=node, session=session, status=status)
        case "command_answer":
            return CommandAnswered(
                node=node, session=session, answer=_answer(request.command_answer)
            )
        case "hello":
            raise ClusterError(ErrorCode.BAD_REQUEST, "a second Hello in one session")
    return None


def _inventory(message: wire.Inventory, node: str, session: int) -> InventoryReceived:
    if message.schema != SCHEMA:
        raise _bad(f"schema {message.schema!r}, this coordinator reads {SCHEMA!r}")
    data = _unpack("facts_zlib", message.facts_zlib)
    found = digest_bytes(data)
    if found != message.digest:
        raise _bad(f"digest {message.digest!r}, but its facts are {found}")
    facts = _decode(Facts, "facts_zlib", data)
    return InventoryReceived(
        node=node, session=session, digest=found, facts=facts, facts_zlib=message.facts_zlib
    )


def _observation(
    message: wire.Observation, node: str, session: int, held: Observation | None
) -> Heard:
    if len(message.findings) > MAX_FINDINGS:
        raise _bad(f"findings: {len(message.findings)} of them, at most {MAX_FINDINGS}")
    for field in ("inventory_digest", "checks_version", "digest", "base_digest"):
        _check_text(field, getattr(message, field), ErrorCode.BAD_SNAPSHOT)
    if message.digest:
        try:
            return read_parts(message, node, session, held, LIMITS)
        except ArtifactError as error:
            raise _bad(f"parts_zlib: {error}") from error
    readings = _decode(Readings, "readings_zlib", _unpack("readings_zlib", message.readings_zlib))
    return ObservationReceived(
        node=node,
        session=session,
        sequence=message.sequence,
        inventory_digest=message.inventory_digest,
        readings=readings,
        findings=share(from_message(Finding, finding) for finding in message.findings),
        age_s=message.age_ms / 1000,
        checks_version=message.checks_version,
        began_boottime_ms=message.began_boottime_ms,
    )


def _events(message: wire.EventBatch, node: str, session: int) -> EventsReceived:
    size = message.ByteSize()
    if len(message.events) > MAX_EVENTS or size > MAX_EVENTS_BYTES:
        raise ClusterError(
            ErrorCode.BAD_REQUEST,
            f"events: {len(message.events)} of {size} bytes, at most {MAX_EVENTS} of "
            f"{MAX_EVENTS_BYTES}",
        )
    events = tuple(event_from_message(event) for event in message.events)
    for event in events:
        _check_event(event)
    return EventsReceived(node=node, session=session, spool_id=message.spool_id, events=events)


def _answer(message: wire.CommandAnswer) -> CommandAnswer:
    if message.ByteSize() > MAX_ANSWER_BYTES:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"command_answer: {message.ByteSize()} bytes")
    for field in ("id", "state", "code"):
        _check_text(f"command_answer.{field}", getattr(message, field), ErrorCode.BAD_REQUEST)
    return from_message(CommandAnswer, message)


def _check_event(event: Spooled) -> None:
    at = event.event.at
    if not 1 <= event.first <= event.seq <= MAX_SEQ:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"events.seq: {event.first} to {event.seq}")
    if not (0 <= at.boottime_ms <= MAX_SEQ and 0 <= at.wall_ms <= MAX_WALL_MS):
        raise ClusterError(ErrorCode.BAD_REQUEST, f"events of {event.seq}: no moment: {at}"[:400])


def _check_text(field: str, text: str, code: ErrorCode) -> None:
    if len(text) > MAX_TEXT or not (text.isascii() and text.isprintable()):
        raise ClusterError(
            code,
            f"{field} {text[:MAX_TEXT]!r} is not at most {MAX_TEXT} printable ASCII characters",
        )


def _unpack(field: str, data: bytes) -> bytes:
    try:
        return decompress(data, limit=MAX_UNPACKED_BYTES)
    except ArtifactError as error:
        raise _bad(f"{field}: {error}") from error


def _decode(kind: type[Value], field: str, data: bytes) -> Value:
    try:
        return decode(kind, data)
    except ArtifactError as error:
        raise _bad(f"{field}: {error}") from error


def _bad(detail: str) -> ClusterError:
    return ClusterError(ErrorCode.BAD_SNAPSHOT, detail)
