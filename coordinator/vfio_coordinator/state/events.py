"""What can happen to the cluster's state: everything `apply` understands, as values.

The runtime makes an event of each message, request, outcome and tick, and gives them to `apply` one
at a time. An event holds what was said or measured and nothing decided. A `ticket` is the runtime's
number for a caller who waits: exactly one `Reply` with it follows, at once or after a commit. No
event may hold a clock reading other than through `Now`.

Length: one list of all that can happen, each a value without behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vfio_contract.command import CommandAnswer
from vfio_contract.durable import JournalStatus, Spooled
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import Facts, Readings
from vfio_contract.parts import Parts
from vfio_contract.views import PlaceRequest
from vfio_coordinator.store.interface import Compare, KeyValue


@dataclass(frozen=True, slots=True)
class Now:
    """The moment of an event: seconds of a monotonic clock, and UTC as ISO 8601 ending in Z.

    `doubt` says in words why UTC is not what the wall clock says, "" where it is.
    """

    monotonic_s: float
    utc: str
    doubt: str = ""


# --- start ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The first event of a process: all that the store holds, after this start's epoch was put.

    `items` are all keys of the store (or of every prefix in `keys.PREFIXES`) at `revision`. `fence`
    is the compare that every write repeats; it fails once another coordinator took over.
    """

    cluster_id: str
    incarnation: int
    epoch: int
    fence: Compare
    items: tuple[KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. At least once a second: deadlines are looked at here.

    `crowded`: agents are waiting to be let in, so that a silent node may be one of them.
    """

    crowded: bool = False


# --- agents --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHello:
    """An agent opened a session. `session` is the runtime's number, growing with each session.

    Fields are those of the wire's Hello. Answered by exactly one `AcceptSession` or
    `RefuseSession`.
    """

    node: str
    session: int
    boot_id: str
    product_uuid: str
    agent_state_id: str
    agent_version: str
    inventory_digest: str
    cluster_id: str
    highest_incarnation: int
    highest_epoch: int
    spool_id: str = ""
    commands: int = 0
    boottime_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReceived:
    """Facts of a node. The runtime has checked that `digest` is the digest of `facts`."""

    node: str
    session: int
    digest: str
    facts: Facts = field(repr=False)
    facts_zlib: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationReceived:
    """Readings and all findings of one collection, made from the facts of `inventory_digest`.

    `age_s` is how long ago the collection began, `began_boottime_ms` when by the host's clock (0
    where the agent does not say). `parts` are what it can be changed by later, None from an agent
    that sends none.
    """

    node: str
    session: int
    sequence: int
    inventory_digest: str
    readings: Readings = field(repr=False)
    findings: tuple[Finding, ...] = field(repr=False)
    age_s: float
    checks_version: str
    began_boottime_ms: int = 0
    parts: Parts | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationChanged:
    """What differs from the observation of number `base`, which decides about no unit.

    Inventory, checks and boot are the same. `parts` is the whole observation as it is now,
    `verdict` the host's and `findings` those that are not PASS. For the rest see
    `ObservationReceived`.
    """

    node: str
    session: int
    sequence: int
    base: int
    parts: Parts = field(repr=False)
    verdict: Verdict
    findings: tuple[Finding, ...] = field(repr=False)
    age_s: float
    began_boottime_ms: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The agent lives."""

    node: str
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsReceived:
    """Durable events of a node, oldest first; numbers and moments are within their ranges."""

    node: str
    session: int
    spool_id: str
    events: tuple[Spooled, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReported:
    """How the agent's journal is from now on."""

    node: str
    session: int
    status: JournalStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAnswered:
    """What the agent says of a command that it was sent."""

    node: str
    session: int
    answer: CommandAnswer


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The stream ended, for whatever reason."""

    node: str
    session: int


# --- people and scripts --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CordonRequested:
    """`node` may be a prefix that fits one node. `actor` is the user's name."""

    ticket: int
    node: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UncordonRequested:
    """Lifts every cordon of the node, automatic ones too."""

    ticket: int
    node: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineAcceptRequested:
    """Accepts the node's present facts as known-good; with `force` on a broken host too, for
    `reason`; with `digest`, or its beginning, only while they are these."""

    ticket: int
    node: str
    actor: str
    force: bool = False
    reason: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySetRequested:
    """Settings become these values, all of them or none. (name, value), as typed."""

    ticket: int
    changes: tuple[tuple[str, str], ...]
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskAcceptRequested:
    """`actor` carries the risk `code` of the node. `until` is a day or a duration, as typed."""

    ticket: int
    node: str
    code: str
    reason: str
    until: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskRevokeRequested:
    """Ends a decision: by node and code, or by its id or a prefix of it, the others "" then."""

    ticket: int
    node: str
    code: str
    id: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MuteRequested:
    """`actor` does not want to hear of `code`, on one node or with "" on all. `until` is a day or a
    duration, as typed."""

    ticket: int
    code: str
    node: str
    reason: str
    until: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmuteRequested:
    """Ends a mute: the one of this node, or with "" the one of all."""

    ticket: int
    code: str
    node: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRequested:
    """Decide and, unless it is a dry run, reserve."""

    ticket: int
    request: PlaceRequest
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequested:
    """Free the VM's claim."""

    ticket: int
    vm: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequested:
    """Have the node do something. `id` is random and new; `verb` is an `Order`; `unit` is the id of
    the function's unit as the asker saw it, "" for whichever it is."""

    ticket: int
    id: str
    node: str
    verb: str
    address: str
    actor: str
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAwaited:
    """Answer with the command once it has ended, or after `wait_s`. `id` may be a prefix."""

    ticket: int
    id: str
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentAckRequested:
    """`actor` has seen the incident: it tells nobody any more unless it gets worse.

    `id` is `INC-7`, `7`, or a prefix that fits one incident that is open.
    """

    ticket: int
    id: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyEnded:
    """What became of a `Notify`, once for each. `ok`: told, or nobody is to be told; else given up
    for now, because of `detail`: it is tried again when the incident changes or at a start."""

    incident: str
    stamp: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesSeen:
    """The coordinator looked at its certificates. `trouble`: which could not be renewed and why, ""
    where each is in the first two thirds of its life."""

    trouble: str


# --- the store -----------------------------------------------------------------------------------


class Outcome(StrEnum):
    """How a commit ended. UNKNOWN: it may or may not have happened."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOutcome:
    """The answer to one `Commit`, or to the `ReadBack` that followed an UNKNOWN.

    `revision` is the store's after it (for a read-back that found it: the key's mod_revision).
    `failed` are the compares that did not hold, and `found` their keys as they stand now (None for
    an absent one), read after the failure: the state learns from it and decides again.
    """

    txn_id: int
    outcome: Outcome
    revision: int
    failed: tuple[Compare, ...] = ()
    found: tuple[tuple[str, KeyValue | None], ...] = ()


Event = (
    Restored
    | Tick
    | NodeHello
    | InventoryReceived
    | ObservationReceived
    | ObservationChanged
    | Heartbeat
    | EventsReceived
    | JournalReported
    | CommandAnswered
    | SessionClosed
    | CordonRequested
    | UncordonRequested
    | BaselineAcceptRequested
    | PolicySetRequested
    | RiskAcceptRequested
    | RiskRevokeRequested
    | MuteRequested
    | UnmuteRequested
    | PlaceRequested
    | ReleaseRequested
    | CommandRequested
    | CommandAwaited
    | IncidentAckRequested
    | NotifyEnded
    | CertificatesSeen
    | CommitOutcome
)
