"""The cluster's state as one immutable value, and the invariants that hold of it.

    state.nodes      every node that ever joined, and those whose first join is being written
    state.heard      when each node's agent last said anything (apart, so that a heartbeat is cheap)
    state.claims     every confirmed claim, by (vm, generation)
    state.vms        owner and generations of each VM that ever held a claim
    state.intakes    each node's durable events: how far they are applied, and what waits
    state.throttled  nodes whose events wait for time to pass
    state.commands   each node's commands: the open ones and the last that ended
    state.waiters    who waits for a command's end, by ticket
    state.pending    every write whose outcome is not known yet, by transaction number
    state.index      what placement looks at: follows from all of the above
    state.incidents  what is wrong on which nodes for the same reason, as far as is known
    state.cohorts    which nodes have what in common, as last known since the start
    state.machines   which nodes say the same boot id or product UUID (`machines`)
    state.policies   the settings that somebody set, by name
    state.log        the newest rows of the event log
    state.next_deadline_s   before that moment, time alone changes no node's judgement
    state.next_end   the UTC second after which a risk decision ends next, "" for none in force
    state.census     how many nodes show each health code, and since when
    state.notify_trouble   why people could not be told of an incident, "" while they could;
    state.notify_again_s   when that is tried again
    state.mutes      who does not want to hear of which code, by (code, node)
    state.clock_doubt   why the wall clock is not believed, in words, "" while it is
    state.cert_trouble  which certificates could not be renewed and why, "" while all could

Invariants (checked after each step in tests by `invariants.check_invariants`):
 1. Two claims, pending ones included, never share a unit key on a node.
 2. `node.held` is exactly the keys of the claims and pending claims on that node.
 3. A unit of which any key is held is free in no entry and no count of the index.
 4. A node that is not heard, or that nobody looks at (HOSTD_AWAY), or whose evidence is not of this
    boot and fresh at the last tick, or whose durable admin record is being written, takes no
    placement and is never shown healthy.
 5. Durable records here equal what the store was last known to hold: they change only with a
    commit's outcome, and nothing is believed before it.
 6. Automation lifts only cordons that it set (owner `auto:<CODE>`).
 7. Generations and tokens only grow; no generation of a VM is ever given twice.
 8. A node's entry in the index equals one made afresh from the state.
 9. Each write in flight carries exactly one row of the event log per change, in its transaction.
10. A risk decision is in force only while its record is not ended and its end had not come at the
    last event; `next_end` is not later than the end of any that is in force.
11. What an `EventsWrite` applies, the mark and the counts change in its one transaction, one at a
    time per node; what waits is beyond the mark, in order without a hole, of the node's open
    session and its spool, and at most a window.

12. A command is sent only after its record is in the store, and only to the agent's database, boot
    and machine that the record names; of a node at most one that acts is open; its sequence is
    higher than that of every command before it. One that ended stays so, and only an `unknown`
    end gives way to a result.
13. The sets of `cohorts` are what they would be if made afresh from the traits of each node, and
    a node whose session said a version has it among them.
14. An open incident has a node in it, and one that is closed has none; of a code a node is in at
    most one open one. What an incident suspects had changed on each of its nodes; an open one is
    found by it. What the store does not know of it is in its write in flight or waits for the next.
15. `baselines` are in the order of their numbers, the last one has its facts, and of each firmware
    at most one has; `baseline` is the one that their order and the present firmware choose.
16. `machines` is what it would be if made afresh from the nodes, and no node takes a placement
    while another name stands before it for the same machine.

Nothing here decides; the handlers of `apply` do.

Length: every value that the state is made of, without logic, and is read as one page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from immutables import Map

from vfio_contract.drift import Change
from vfio_contract.durable import NO_MOMENT, JournalStatus, Mark, Spooled
from vfio_contract.findings import Finding, Verdict
from vfio_contract.parts import Parts
from vfio_contract.stale import StaleReference
from vfio_contract.views import Event as LogRow
from vfio_contract.views import PlaceRequest, Reason
from vfio_coordinator.scheduler.index import Index
from vfio_coordinator.scheduler.layout import UnitLayout
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.scheduler.risk import RiskDecision
from vfio_coordinator.scheduler.standing import Standing
from vfio_coordinator.state import events
from vfio_coordinator.state.census import Census
from vfio_coordinator.state.cohorts import Cohorts
from vfio_coordinator.state.incident_index import Incidents
from vfio_coordinator.state.incident_records import IncidentNodeRecord, IncidentRecord
from vfio_coordinator.state.records import (
    AdminRecord,
    AttemptsRecord,
    BaselineRecord,
    Claim,
    CommandRecord,
    LedgerRecord,
    MuteRecord,
    PolicyRecord,
    RiskRecord,
    SpoolRecord,
    VmRecord,
)
from vfio_coordinator.store.interface import Compare


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers of the reducer, in seconds unless the name says otherwise.

    `lost_after_s`: silence after which a node is lost (DESIGN: 10 s up to 1,000 agents, 20 s at
    10,000). `reconnect_window_s`: after the coordinator's start nothing is lost before that; while
    agents still wait to be let in it begins again, but for `reconnect_at_most_s` in all.
    `evidence_max_age_s`: older findings vouch for nothing. `place_attempts`: how often a write of
    any kind is decided before its caller is told CONFLICT. Of durable events a node may have
    `events_window` unanswered, and is answered for `events_per_s` after `events_burst` at once: a
    flood waits on its own host. A node may have `looks_open` looks that have not ended, beside the
    one that acts; of the commands that have, `commands_kept` are kept, and of closed incidents
    `incidents_kept`. Since when a health code is
    shown is written down when it has been for `code_settles_s`, and forgotten when it has not been
    for `code_gone_s`; of at most `codes_kept` codes, for a host may make them up.
    """

    lost_after_s: float = 10.0
    reconnect_window_s: float = 60.0
    reconnect_at_most_s: float = 300.0
    evidence_max_age_s: float = 300.0
    place_attempts: int = 3
    events_kept: int = 10_000
    refusals_kept: int = 256
    clones_kept: int = 64
    clone_shown_s: float = 600.0
    listed_nodes: int = 64
    events_window: int = 128
    events_per_s: float = 250.0
    events_burst: float = 1_000.0
    looks_open: int = 16
    commands_kept: int = 8
    code_settles_s: float = 30.0
    code_gone_s: float = 300.0
    codes_kept: int = 256
    mutes_kept: int = 256
    incidents_kept: int = 1_000


AdminRequest = events.CordonRequested | events.UncordonRequested
"""What changes a node's admin record because a person asked."""

RiskRequest = events.RiskAcceptRequested | events.RiskRevokeRequested
"""What changes a node's risk decisions because a person asked."""


@dataclass(frozen=True, slots=True)
class Session:
    """The node's one open stream.

    `commands` is the form of commands that the agent takes, 0 for none. Hello came at `opened_s`
    and said `boottime_ms`.
    """

    id: int
    agent_version: str
    agent_state_id: str
    product_uuid: str
    commands: int = 0
    boottime_ms: int = 0
    opened_s: float = 0.0

    def boottime_at(self, now_s: float) -> int:
        """The agent's CLOCK_BOOTTIME in milliseconds at a moment of our monotonic clock."""
        return self.boottime_ms + int((now_s - self.opened_s) * 1000)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The facts as last received: compressed, and what is derived from them.

    `complete` is False when the list of functions could not be read: then a device that is not in
    it proves nothing. `firmware` and `kernel` are for people; `firmware_parts` are
    `drift.firmware_tuple` of the facts, `firmware_digest` its short name in reset histories.
    `boot_id` is the boot in which they came. `before` are parts that they do not tell as an earlier
    inventory did: (name, value, boot). They are shown, and never compared: an unknown part is
    neither equal nor changed.
    """

    digest: str
    facts_zlib: bytes = field(repr=False)
    units: tuple[UnitLayout, ...]
    complete: bool
    firmware: str
    kernel: str
    firmware_parts: tuple[tuple[str, str | None], ...] = ()
    firmware_digest: str = ""
    boot_id: str = ""
    before: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """The newest collection of an agent. `findings` are those that are not PASS.

    `collected_s` is on the coordinator's monotonic clock. `verdict` is the host's. `parts` is all
    that was seen, compressed, None from an agent that sends no parts. `merged` is False while its
    reset histories are not known to be in the store: then the next one is taken as a whole.
    """

    session: int
    sequence: int
    inventory_digest: str
    boot_id: str
    collected_s: float
    checks_version: str
    verdict: Verdict
    findings: tuple[Finding, ...] = field(repr=False)
    began_boottime_ms: int = 0
    parts: Parts | None = field(default=None, repr=False)
    merged: bool = True


@dataclass(frozen=True, slots=True)
class Baseline:
    """One acceptance: its durable record, and the facts as they are stored.

    `facts_zlib` is None for one whose facts have given way to a newer one (`record.chunks` 0).
    """

    record: BaselineRecord
    revision: int
    facts_zlib: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Drift:
    """A change from the baseline, and whom it concerns.

    `units` are ids of units of today (or of the baseline, for what vanished) that it touches and
    that are intended or claimed; `named_by` are the host's own VMs whose configuration names one of
    those units.
    """

    change: Change
    units: tuple[str, ...]
    named_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unread:
    """A fact that the baseline knows and the present inventory does not tell: neither equal nor
    changed.

    `fact` is in words; `address` is the function's, "" for one of the node. `units` are as in
    `Drift`. `may_harm` is True where what cannot be told may be harm.
    """

    fact: str
    address: str = ""
    units: tuple[str, ...] = ()
    may_harm: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that automation cordons for, and the VMs that it concerns.

    `key` names it for ever: `CODE <identity or unit id>`. `unit` is the id of the unit that
    regressed, "" for a drift.
    """

    code: str
    key: str
    text: str
    vms: tuple[str, ...]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Holding:
    """Who has a unit key. A pending one waits for its commit's outcome."""

    vm: str
    generation: int
    pending: bool


@dataclass(frozen=True, slots=True)
class PolicyHeld:
    """A setting that somebody set, as the store holds it."""

    record: PolicyRecord
    revision: int


@dataclass(frozen=True, slots=True)
class RiskHeld:
    """A risk decision: its durable record, and what it amounts to now.

    `decision` is ended as soon as its end has come; the record says so once that is written.
    """

    record: RiskRecord
    revision: int
    decision: RiskDecision


@dataclass(frozen=True, slots=True)
class MuteHeld:
    """A mute: its durable record, and what it amounts to now.

    `over` says in words why it hides nothing any more, "" while it is in force: it is ended as soon
    as that is so, and deleted once that is written.
    """

    record: MuteRecord
    revision: int
    over: str = ""


class Presence(Enum):
    """HEARD; UNHEARD: silent, but not for long enough to be LOST."""

    HEARD = "heard"
    UNHEARD = "unheard"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from a node's evidence; remade whenever any of it changes.

    `state` is ready, cordoned, revalidating or lost. `stage` is "" when the node takes placements,
    else `heard` or `admitted`, and `why` says it in words. `fresh` is true when its evidence is of
    this session, this boot and these facts, and young enough. `holds` keep it revalidating;
    `causes` are what automation cordons for (known only while fresh); `reasons` are all of that for
    people. `at_risk` says by VM why its node no longer vouches for it.
    """

    state: str
    stage: str
    why: str
    presence: Presence
    fresh: bool
    holds: tuple[Reason, ...]
    causes: tuple[Cause, ...]
    reasons: tuple[Reason, ...]
    at_risk: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Node:
    """Everything known of one node. Soft but for `admin`, `baseline` and `ledger`.

    `boot_id` and `digest` are those that its newest Hello or Observation said. `standings` are the
    units with their gates as of the newest evaluated observation. `undecided` are causes (as
    `Cause.key`) of which the inventory does not tell whether they are there: they lift nothing.
    `unread` is what the baseline knows and the inventory does not tell, harm or not. `queue` are
    requests that wait for the admin write in flight (`admin_txn`, 0 for none). `unjudged` is an
    observation whose facts have not come yet. `risks` are the last decisions by code; `risk_txn`
    and `risk_queue` are for them what `admin_txn` and `queue` are for the admin record.
    `left_boots` are the last boots that another one has replaced: while that one is heard, none can
    come back. `boot_since_s` is when this process first heard of the present one, `lost_events_s`
    when a loss of events was last learned: evidence from before that vouches for nothing.
    `baselines` are the acceptances that are kept, oldest first, and `baseline`
    the one in force: of the present firmware, else the last. `doubt` is why that one cannot be
    compared, None where it can be. `stale` are the lines of the host's VM configurations and
    mappings that mean another device now than at the baseline. `former` are the ids that units of
    the inventory had at the baseline, where those differ: a serial number that is not told, or that
    two boards show, changes a unit's id and not the unit.
    """

    name: str
    admin: AdminRecord | None = None
    admin_revision: int = 0
    admin_txn: int = 0
    queue: tuple[AdminRequest, ...] = ()
    boot_id: str = ""
    digest: str = ""
    session: Session | None = None
    inventory: Inventory | None = None
    observation: Observation | None = None
    unjudged: events.ObservationReceived | None = None
    baseline: Baseline | None = None
    baselines: tuple[Baseline, ...] = ()
    doubt: Reason | None = None
    baseline_txn: int = 0
    drift: tuple[Drift, ...] = ()
    undecided: frozenset[str] = frozenset()
    unread: tuple[Unread, ...] = ()
    former: Map[str, str] = field(default_factory=Map)
    stale: tuple[StaleReference, ...] = ()
    standings: tuple[Standing, ...] = ()
    held: Map[str, Holding] = field(default_factory=Map)
    ledger: Map[str, LedgerRecord] = field(default_factory=Map)
    ledger_txn: int = 0
    judgement: Judgement | None = None
    risks: Map[str, RiskHeld] = field(default_factory=Map)
    risk_txn: int = 0
    risk_queue: tuple[RiskRequest, ...] = ()
    left_boots: tuple[str, ...] = ()
    boot_since_s: float = -math.inf
    lost_events_s: float = -math.inf

    def accepted_id(self, unit: str) -> str:
        """The id that this unit of the inventory has in the baseline."""
        return self.former.get(unit, unit)


@dataclass(frozen=True, slots=True)
class Intake:
    """A node's durable events.

    `record` is what the store holds, None before the first. `session` is the open one that sends
    events (0 for none) and `spool_id` its spool; `expected` is the number that must come next, 0
    before its first event. `waiting` are received and not applied, those of the write in flight
    (`txn`, 0 for none) included. `tokens` are what may be applied at once, as of `tokens_at_s`.
    `attempts` are the copies of reset histories, by identity and firmware. `away_s` is when the
    agent last said that it does not reach hostd: evidence from before that vouches for nothing.
    """

    record: SpoolRecord | None = None
    revision: int = 0
    txn: int = 0
    session: int = 0
    spool_id: str = ""
    expected: int = 0
    waiting: tuple[Spooled, ...] = field(default=(), repr=False)
    tokens: float = 0.0
    tokens_at_s: float = -math.inf
    status: JournalStatus = field(default_factory=JournalStatus)
    away_s: float = -math.inf
    attempts: Map[tuple[str, str], AttemptsRecord] = field(default_factory=Map)

    def mark_of(self, spool_id: str) -> Mark:
        """How far that spool is held, whether it is the present one or an earlier one."""
        if self.record is not None:
            for mark in (self.record.mark, *self.record.former):
                if mark.spool_id == spool_id:
                    return mark
        return Mark(spool_id, 0, NO_MOMENT)


@dataclass(frozen=True, slots=True)
class CommandHeld:
    """A command as the store holds it, and what happens to it now.

    `txn` is the write of its end in flight, 0 for none. `session` is the open one that it was sent
    in, 0 for none, and `taken` whether the agent said there that its intent is durable.
    """

    record: CommandRecord
    revision: int
    txn: int = 0
    session: int = 0
    taken: bool = False

    @property
    def open(self) -> bool:
        """True until it ended."""
        return not self.record.outcome


@dataclass(frozen=True, slots=True)
class NodeCommands:
    """A node's commands by id. `sequence` is the highest ever given; `creating` are the ids of
    those whose intent is being written, and `acting` the one of them that acts, "" for none."""

    held: Map[str, CommandHeld] = field(default_factory=Map)
    sequence: int = 0
    creating: frozenset[str] = frozenset()
    acting: str = ""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody waits for the end of a command, at most until this moment."""

    node: str
    id: str
    until_s: float


@dataclass(frozen=True, slots=True)
class ClaimHeld:
    """A confirmed claim, without its proof, and the whole record compressed (`packed`).

    `releasing` is the transaction that takes it away, 0 for none.
    """

    claim: Claim
    packed: bytes = field(repr=False)
    mod_revision: int
    releasing: int = 0


@dataclass(frozen=True, slots=True)
class VmHeld:
    """A VM's owner record with its revision, and the generations that hold a claim now."""

    record: VmRecord
    mod_revision: int
    generations: tuple[int, ...] = ()


# --- writes in flight ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A transaction whose outcome is not known. `rows` join the log when it succeeded."""

    txn_id: int
    rows: tuple[LogRow, ...]
    tickets: tuple[int, ...] = ()
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite(Write):
    """Only rows of the event log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminWrite(Write):
    """A node's admin record becomes `record`; `request` is who asked, None for automation.

    A request that came while another write was in flight waits in the node's queue.
    """

    node: str
    record: AdminRecord
    request: AdminRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineWrite(Write):
    """A node's acceptances become `baselines`; those of `numbers` are written and get the
    transaction's revision. `request` is who asked, None for automation.
    """

    node: str
    baselines: tuple[Baseline, ...]
    numbers: frozenset[int]
    request: events.BaselineAcceptRequested | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWrite(Write):
    """Settings become `records`. `request` is who asked."""

    records: tuple[PolicyRecord, ...]
    request: events.PolicySetRequested


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimWrite(Write):
    """A VM gets `claim`; its units are pending until the outcome. `data` are its stored bytes."""

    claim: Claim
    data: bytes = field(repr=False)
    vm: VmRecord
    request: PlaceRequest
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseWrite(Write):
    """A claim goes."""

    claim: Claim
    vm: VmRecord
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerWrite(Write):
    """Reset histories of a node."""

    node: str
    records: tuple[LedgerRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskWrite(Write):
    """A risk decision becomes `record`; `request` is who asked, None when it expired."""

    node: str
    record: RiskRecord
    request: RiskRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthWrite(Write):
    """Since when these codes are shown is written down, or forgotten for those that are `gone`."""

    kept: tuple[str, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MuteWrite(Write):
    """A mute becomes `record`, or goes (`ended`)."""

    record: MuteRecord
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsWrite(Write):
    """Durable events of a node are applied: its record becomes `record`.

    `forgotten` are the oldest reset histories, which give way; `loss` says in words what is lost,
    "" for nothing. `commands` are those whose end the events tell.
    """

    node: str
    record: SpoolRecord
    attempts: tuple[AttemptsRecord, ...]
    forgotten: tuple[tuple[str, str], ...]
    loss: str
    commands: tuple[CommandRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandWrite(Write):
    """A command is asked for (`new`) or ends otherwise than by its event.

    `forgotten` are the ids of the oldest that ended, which give way.
    """

    record: CommandRecord
    new: bool
    forgotten: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """Whose command it is."""
        return self.record.node


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentWrite(Write):
    """An incident becomes `record`. These nodes `joined` or changed in it, those `left`.

    `forgotten` are the numbers of the oldest closed ones, which give way. It has rows only where
    something happened to the incident itself; whether it landed is read from its record's key.
    """

    record: IncidentRecord
    joined: tuple[IncidentNodeRecord, ...]
    left: tuple[str, ...]
    forgotten: tuple[int, ...] = ()


AnyWrite = (
    LogWrite
    | AdminWrite
    | BaselineWrite
    | PolicyWrite
    | ClaimWrite
    | ReleaseWrite
    | LedgerWrite
    | RiskWrite
    | HealthWrite
    | MuteWrite
    | EventsWrite
    | CommandWrite
    | IncidentWrite
)


@dataclass(frozen=True, slots=True)
class Clone:
    """A refused newcomer that used a node's name; `who` tells it from others, in words."""

    node: str
    who: str
    at_s: float
    at: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that puts the cluster in doubt and of which people are told (`cluster_notices`).

    `at` is when it began, UTC; `seen_s` when it was there last, and `due_s` when people are to be
    told, inf where they were or are being told; both monotonic.
    """

    at: str
    seen_s: float
    due_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All of it; see the module."""

    limits: Limits
    cluster_id: str = ""
    incarnation: int = 0
    epoch: int = 0
    fence: Compare | None = None
    started_s: float = 0.0
    crowded_s: float = -math.inf
    revision: int = 0
    next_txn: int = 1
    next_seq: int = 1
    tokens: int = 0
    nodes: Map[str, Node] = field(default_factory=Map)
    heard: Map[str, float] = field(default_factory=Map)
    claims: Map[tuple[str, int], ClaimHeld] = field(default_factory=Map)
    vms: Map[str, VmHeld] = field(default_factory=Map)
    intakes: Map[str, Intake] = field(default_factory=Map)
    throttled: frozenset[str] = frozenset()
    commands: Map[str, NodeCommands] = field(default_factory=Map)
    waiters: Map[int, Waiter] = field(default_factory=Map)
    pending: Map[int, AnyWrite] = field(default_factory=Map)
    index: Index = field(default_factory=Index)
    incidents: Incidents = field(default_factory=Incidents)
    cohorts: Cohorts = field(default_factory=Cohorts)
    machines: Map[tuple[str, str], Names] = field(default_factory=Map)
    policies: Map[str, PolicyHeld] = field(default_factory=Map)
    log: Map[int, LogRow] = field(default_factory=Map)
    log_first: int = 1
    refused: Map[str, PlaceRequest] = field(default_factory=Map)
    refused_order: tuple[str, ...] = ()
    clones: Map[str, Clone] = field(default_factory=Map)
    alarms: Map[tuple[str, str], Alarm] = field(default_factory=Map)
    census: Census = field(default_factory=Census)
    mutes: Map[tuple[str, str], MuteHeld] = field(default_factory=Map)
    next_deadline_s: float = 0.0
    next_end: str = ""
    rewound: str = ""
    clock_doubt: str = ""
    cert_trouble: str = ""
    notify_trouble: str = ""
    notify_again_s: float = math.inf
    stopped: bool = False

    @property
    def restored(self) -> bool:
        """True once the durable records are here; before that nothing may be decided."""
        return self.fence is not None


def start(limits: Limits | None = None) -> State:
    """The state of a process that has read nothing yet. Its first event must be `Restored`."""
    return State(limits=limits or Limits())
