"""What hostd and the network process say to each other: frozen values and their bytes.

    {"body": {...}, "id": 7, "kind": "fence.obey"}          canonical JSON, one a frame

A request carries an id that its answer repeats; an observation is pushed with id 0. Reading is
strict, because either side may be somebody else: an unknown kind, a key that is missing, unknown or
of another type is refused with its name. That the two speak the same version is settled by the
first request. This module must never hold a message that lets the other side name a path, a program
or a device file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType, NoReturn, TypeVar

from vfio_agent.fence import Fence
from vfio_contract.action import ActionReport
from vfio_contract.address import Address
from vfio_contract.artifact import ArtifactError, encode, from_plain
from vfio_contract.command import Command, CommandAnswer
from vfio_contract.durable import JournalStatus, Mark
from vfio_contract.ledger import ResetAttempt

PROTOCOL = 2
"""Both halves are of one installation; they differ only while an upgrade is under way."""

REQUEST_LIMIT_BYTES = 64 * 1024
"""Largest request; a command has at most 48 KiB, all others less than 1 KiB."""

ANSWER_LIMIT_BYTES = 32 * 1024 * 1024
"""Largest answer or observation; one of a 256-function host has about 0.1 MB."""

MAX_ID = (1 << 53) - 1
"""JSON's largest exact integer."""

PUSHED = 0
"""The id of what nobody asked for by itself."""

_SHOWN_CHARACTERS = 60

Value = TypeVar("Value")

Base64 = NewType("Base64", str)
"""Bytes inside JSON, RFC 4648 section 4."""


class MessageError(ValueError):
    """A message that is not taken; the text names the field and what was expected.

    `id` is the request's where that could be read.
    """

    def __init__(self, problem: str, *, id: int | None = None) -> None:
        super().__init__(problem)
        self.id = id


# --- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greet:
    """The first request of a connection. Answer: `Greeting`."""

    protocol: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answer: `Done`."""


@dataclass(frozen=True, slots=True)
class Observe:
    """Push the latest `Observation` now and each newer one. Answer: `Done`."""


@dataclass(frozen=True, slots=True)
class GetFence:
    """Answer: `Obeyed`, the highest fence."""


@dataclass(frozen=True, slots=True)
class ObeyFence:
    """Make this fence durable; refused if it is lower or another cluster's. Answer: `Obeyed`."""

    fence: Fence


@dataclass(frozen=True, slots=True)
class SetPace:
    """Seconds between two looks, within hostd's own limits; 0 for its default. Answer: `Done`."""

    interval_s: float


@dataclass(frozen=True, slots=True)
class Rescan:
    """Look soon; many before that look are one. Answer: `Done`, before it."""


@dataclass(frozen=True, slots=True)
class GetLedger:
    """Answer: `Ledger`."""


@dataclass(frozen=True, slots=True)
class GetEvents:
    """The oldest durable events beyond `seq`. Answer: `Events`."""

    seq: int
    limit: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The cluster holds the spool up to this mark: forget it. Answer: `Acknowledged`."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class TakeCommand:
    """What a coordinator wants done. Answer: `CommandTaken`, before it is done."""

    command: Command


@dataclass(frozen=True, slots=True)
class GetBundle:
    """The node's credentials, for the child of a hostd that has them. Answer: `Credentials`."""


@dataclass(frozen=True, slots=True)
class Act:
    """Bind, unbind or reset-test, for root alone. Answer: `Acted`, when it has ended.

    `id` is the asker's own and names this action for ever: the same one is done once.
    """

    id: str
    verb: str
    address: Address


REQUESTS: Mapping[str, type] = {
    "greet": Greet,
    "ping": Ping,
    "observe": Observe,
    "fence.get": GetFence,
    "fence.obey": ObeyFence,
    "pace": SetPace,
    "rescan": Rescan,
    "ledger": GetLedger,
    "spool.after": GetEvents,
    "spool.acknowledge": Acknowledge,
    "bundle": GetBundle,
    "act": Act,
    "command": TakeCommand,
}

# --- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greeting:
    """Whom the connection reached; the state id is the journal's."""

    protocol: int
    version: str
    state_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """It was done, or will be."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It was not done, and nothing was changed; `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Obeyed:
    """The highest fence that is durable."""

    fence: Fence


@dataclass(frozen=True, slots=True)
class Ledger:
    """The newest reset attempts in the order they happened; `left_out` counts the older ones."""

    attempts: tuple[ResetAttempt, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class PackedEvent:
    """A durable event with its number; `body` is `encode_event`'s."""

    seq: int
    body: str


@dataclass(frozen=True, slots=True)
class Events:
    """Durable events in their order."""

    events: tuple[PackedEvent, ...]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """`known` is false if the mark is not of this spool."""

    known: bool


@dataclass(frozen=True, slots=True)
class SpoolState:
    """Pushed when there is something new in the spool, or its status changed."""

    spool_id: str
    last: int
    status: JournalStatus


@dataclass(frozen=True, slots=True)
class CommandTaken:
    """What became of a command at once. `answer` is None where it cannot be judged or recorded now
    and must be asked again; `reason` says why then."""

    answer: CommandAnswer | None
    reason: str


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of an action."""

    report: ActionReport


@dataclass(frozen=True, slots=True)
class BundleProblem:
    """A `BundleError` by its parts."""

    field: str
    problem: str
    fix: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """A `Bundle`, or why there is none; all else is "" then."""

    ca: str
    certificate: str
    key: str = field(repr=False)
    endpoint: str
    problem: BundleProblem | None


@dataclass(frozen=True, slots=True)
class Observation:
    """One look, packed by hostd; `Observed` with its bytes as text."""

    digest: str
    facts_zlib: Base64
    parts_zlib: Base64
    boot_id: str
    product_uuid: str
    checks_version: str
    at_s: float


ANSWERS: Mapping[str, type] = {
    "greeting": Greeting,
    "done": Done,
    "refused": Refused,
    "obeyed": Obeyed,
    "ledger.of": Ledger,
    "events": Events,
    "acknowledged": Acknowledged,
    "spool": SpoolState,
    "credentials": Credentials,
    "acted": Acted,
    "command.taken": CommandTaken,
    "observation": Observation,
}

PUSHES = (SpoolState, Observation)
"""What is pushed, in the order in which the latest of each is sent."""

_NAMES = {kind: name for names in (REQUESTS, ANSWERS) for name, kind in names.items()}


# --- bytes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and the id that ties an answer to its request."""

    id: int
    message: Any


def write_message(id: int, message: object, *, name: str = "") -> bytes:
    """The canonical bytes; `name` for a kind that is not of this module."""
    kind = name or _NAMES[type(message)]
    return encode({"kind": kind, "id": id, "body": message})


def read_message(data: bytes, kinds: Mapping[str, type]) -> Envelope:
    """The message in these bytes, of one of these kinds; MessageError names what does not fit."""
    try:
        plain = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {show(str(error))}") from None
    _require_keys(plain, ("body", "id", "kind"), "message")
    id, kind = plain["id"], plain["kind"]
    if type(id) is not int or not PUSHED <= id <= MAX_ID:
        raise MessageError(f"message.id: expected 0 to {MAX_ID}, got {show(id)}")
    known = kinds.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise MessageError(f"message.kind: {show(kind)} is not known here", id=id)
    try:
        return Envelope(id, _read_body(known, plain["body"], kind))
    except MessageError as error:
        raise MessageError(str(error), id=id) from None


def _read_body(kind: type[Value], plain: object, where: str) -> Value:
    names = tuple(f.name for f in dataclasses.fields(kind))  # type: ignore[arg-type]  # every body is one
    _require_keys(plain, names, where)
    try:
        return from_plain(kind, plain, where)
    except ArtifactError as error:
        raise MessageError(show(str(error), 200)) from None


def _require_keys(plain: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(plain, dict):
        raise MessageError(f"{where}: expected an object, got {type(plain).__name__}")
    for name in names:
        if name not in plain:
            raise MessageError(f"{where}.{name}: missing")
    for name in plain:
        if name not in names:
            raise MessageError(f"{where}.{show(name)}: not known here")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def show(value: object, limit: int = _SHOWN_CHARACTERS) -> str:
    """What a peer wrote, for a log: one line, bounded, no control characters."""
    text = value if isinstance(value, str) else repr(value)
    return "".join(c if c.isprintable() else " " for c in text[:limit])
