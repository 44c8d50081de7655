"""What the coordinator tells people: status, nodes, units, VMs, placements and refusals.

Values only. They cross the wire as the messages of the same name and field (see `codec`) and are
printed by the CLI as they are. Ages are seconds on the coordinator's monotonic clock; `at` is UTC
in ISO 8601. A node that is not heard is never shown as healthy.

Length: the views of one api, all of them plain values.
"""

from dataclasses import dataclass
from enum import StrEnum

from vfio_contract.findings import Verdict
from vfio_contract.stale import StaleReference


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node is not simply ready.

    `owner` is `auto:<CODE>` or `user:<name>`. `since` is when this node began to show it, UTC, ""
    where that is not kept.
    """

    code: str
    owner: str
    text: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class UnitView:
    """A unit as placement sees it.

    `state` is free, claimed, foreign (a process outside our claims holds it), unfit, unknown or
    pending. `addresses` begin with the function that `kind` and `model` are of. `why` is the first
    gate that refuses, in words; `needs` lists the `--allow` words that would admit it. `vm` is the
    claim's holder, "" for none. `reset` is the worst class of its functions' reset histories
    (`ledger.ResetState`), "" where its agent told of no reset.
    """

    id: str
    kind: str
    model: str
    ids: str
    addresses: tuple[str, ...]
    numa_node: int
    intended: bool
    state: str
    why: str
    needs: tuple[str, ...]
    vm: str
    reset: str = ""


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One difference from the baseline; fields as in `drift.Change`.

    `units` are ids of the intended or claimed units that it concerns, `vms` those that have a claim
    on them or whose configuration on the host names them.
    """

    code: str
    identity: str
    address_before: str
    address_after: str
    detail: str
    before: str
    after: str
    harms: bool
    confidence: str = ""
    units: tuple[str, ...] = ()
    vms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node on one line; from `units` on all is detail.

    `state` is ready, cordoned, draining, drained, revalidating or lost. `verdict` is the worst of
    its findings as last heard, UNKNOWN when not heard. `heard_age_s` is -1 when never heard since
    the coordinator's start. `firmware_before` are parts that cannot be read now, in words.
    """

    name: str
    state: str
    reasons: tuple[Reason, ...]
    verdict: Verdict
    heard_age_s: float
    evidence_age_s: float
    firmware: str
    kernel: str
    boot_id: str
    agent: str
    baseline: str
    units_free: int
    units_total: int
    vms: tuple[str, ...]
    units: tuple[UnitView, ...] = ()
    drift: tuple[ChangeView, ...] = ()
    findings: tuple["FindingView", ...] = ()
    risks: tuple["RiskView", ...] = ()
    commands: tuple["CommandView", ...] = ()
    stale: tuple[StaleReference, ...] = ()
    firmware_before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandView:
    """Something that a node was told to do.

    `state` is waiting (for the node), sent, taken or ended, `outcome` "" before it ended. An
    outcome of `unknown` says that nobody knows what became of it. `seen` is True once the cluster's
    state holds what a look saw.
    """

    id: str
    node: str
    verb: str
    address: str
    state: str
    outcome: str
    code: str
    text: str
    by: str
    at: str
    ended_at: str
    seen: bool = False


@dataclass(frozen=True, slots=True)
class FindingView:
    """A finding that is not PASS."""

    check: str
    subject: str
    verdict: Verdict
    code: str
    evidence: tuple[str, ...]
    meaning: str
    decision: str
    intended: bool


@dataclass(frozen=True, slots=True)
class RiskView:
    """The last decision about one risk of a node; the earlier ones are in the event log.

    `code` is a WARN that placement refuses unless it was accepted (`ACS_OVERRIDE` and the like).
    `state` is accepted, expired or revoked. `until` is the last second in which it holds.
    `accepted_by` and `ended_by` are bare user names, `ended_by` `auto:<CODE>` when nobody did it;
    both `ended_*` are "" while it is in force. `seen` says whether the node's present evidence
    shows the risk: yes, no or unknown. `vms` stand on the decision.
    """

    id: str
    node: str
    code: str
    state: str
    reason: str
    accepted_by: str
    accepted_at: str
    until: str
    ended_by: str
    ended_at: str
    seen: str
    vms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthItem:
    """One line of HEALTH: level ERR or WARN, a stable code, whom it concerns, what it means.

    `count` is how many nodes, 0 for the cluster itself. `since` is when the code was first seen in
    the cluster, UTC in ISO 8601, "" where that is not known. `muted` says in words who does not
    want to hear of it and until when, "" for nobody: such a line does not count in the roll-up.
    `incident` is the id of the open incident that it is about, "" for none, and `common` what its
    nodes have in common, in words.
    """

    level: str
    code: str
    scope: str
    text: str
    next: str
    count: int = 0
    since: str = ""
    muted: str = ""
    incident: str = ""
    common: str = ""


@dataclass(frozen=True, slots=True)
class UnitCount:
    """How the units of one kind stand; the parts add up to the total."""

    kind: str
    total: int
    free: int
    claimed: int
    foreign: int
    unfit: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the event log. `seq` only grows.

    `subject` is `node:N`, `vm:V`, `incident:INC-N` or `cluster`.
    """

    seq: int
    at: str
    subject: str
    code: str
    text: str
    actor: str


@dataclass(frozen=True, slots=True)
class VmView:
    """A VM with a claim. `state` is reserved, starting, running, stopping, released or unknown.

    `kind` is `placed` (ours to start) or `external` (claimed for another orchestrator). `at_risk`
    says in words why its node no longer vouches for it, "" otherwise. `generation` and `token` are
    the fence.
    """

    name: str
    node: str
    generation: int
    token: int
    state: str
    kind: str
    units: tuple[str, ...]
    addresses: tuple[str, ...]
    at_risk: str
    requested: str
    owner: str
    at: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The one screen. `health` is HEALTH_OK, HEALTH_WARN or HEALTH_ERR."""

    cluster: str
    health: str
    coordinator: str
    revision: int
    epoch: int
    at: str
    items: tuple[HealthItem, ...]
    nodes: tuple[NodeView, ...]
    units: tuple[UnitCount, ...]
    vms: tuple[VmView, ...]
    recent: tuple[Event, ...]
    next: str


class WatchKind(StrEnum):
    """What of the cluster is watched."""

    SUMMARY = "summary"
    NODES = "nodes"
    VMS = "vms"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class WatchCursor:
    """A place in what a coordinator tells its watchers.

    `seq` counts changes of one epoch (one process); `event_seq` is a number of the event log, which
    is durable: it holds across epochs. A new incarnation is a store restored from a backup. What
    went away up to `floor` need not be told: the list that the watcher has was begun after it.
    """

    incarnation: int
    epoch: int
    seq: int
    event_seq: int
    floor: int = 0


@dataclass(frozen=True, slots=True)
class VmKey:
    """A VM's claim."""

    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class ClusterChange:
    """What changed between two cursors; `cursor` is the later one.

    `reset`: a fresh list begins, rows from before are void, events go on. `current`: everything is
    told now; until then a list is not whole. `summary` is a status without nodes and VMs, None
    where it did not change. Rows replace those of the same name (and generation); time alone
    changes none, so their ages are of the moment when the row was made.
    """

    cursor: WatchCursor
    reset: bool
    current: bool
    at: str
    summary: ClusterStatus | None
    nodes: tuple[NodeView, ...]
    nodes_gone: tuple[str, ...]
    vms: tuple[VmView, ...]
    vms_gone: tuple[VmKey, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """`gpu:a5000=2` is kind gpu, model a5000, count 2. An empty model matches any."""

    kind: str
    model: str
    count: int


@dataclass(frozen=True, slots=True)
class PlaceRequest:
    """A VM that needs devices. `node` pins it, "" for anywhere. `allow` lists accepted risks:
    `acs-override`, `unsafe-interrupts`, `one-shot-reset`. `request_id` makes a retry the same
    request. `external` reserves for another orchestrator and never starts.
    """

    vm: str
    devices: tuple[DeviceRequest, ...]
    same_numa: bool
    allow: tuple[str, ...]
    node: str
    external: bool
    dry_run: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class GateProof:
    """One gate that a placed unit passed: its verdict, the evidence and that evidence's age."""

    gate: str
    verdict: Verdict
    code: str
    evidence: tuple[str, ...]
    age_s: float


@dataclass(frozen=True, slots=True)
class PlacedUnit:
    """A unit given to the VM; `assign` addresses are passed, `hold` are kept off host drivers."""

    unit: str
    kind: str
    model: str
    assign: tuple[str, ...]
    hold: tuple[str, ...]
    numa_node: int
    proof: tuple[GateProof, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where it goes and why that is safe. `token` is 0 for a dry run."""

    vm: str
    node: str
    generation: int
    token: int
    revision: int
    units: tuple[PlacedUnit, ...]


@dataclass(frozen=True, slots=True)
class StageCount:
    """How many nodes a stage refused, and why in one line; the counts of a refusal add up."""

    stage: str
    nodes: int
    why: str


@dataclass(frozen=True, slots=True)
class NodeRefusal:
    """One node, the first stage that refused it, and the evidence."""

    node: str
    stage: str
    reason: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nearest:
    """A node that would fit after one change, and the command that makes it."""

    node: str
    change: str
    command: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing fits. An answer, not an error: stages sum to `nodes_total`, each node is listed."""

    vm: str
    revision: int
    at: str
    nodes_total: int
    stages: tuple[StageCount, ...]
    nearest: tuple[Nearest, ...]
    nodes: tuple[NodeRefusal, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a request: exactly one of the two is set."""

    placement: Placement | None
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class BaselineView:
    """An accepted baseline.

    `drift` is of now only where `compared` is True; else it is as last heard, and `why` says what
    is missing. `reason` is why it was forced, `doubt` why it cannot be compared, each "" for no.
    `of_this_firmware` is True where no part of the firmware tuple that is known differs now.
    `present_digest` is of the facts that it is compared with, "" for none. `intended_units` are
    those of then, at their addresses of then; it vouches for those whose ids are in `passed`.
    `unread` are facts in words that it knows and the node does not tell now, where that may hide
    harm to a unit that is intended or claimed.
    """

    node: str
    digest: str
    accepted_at: str
    accepted_by: str
    firmware: tuple[str, ...]
    intended_units: tuple[UnitView, ...]
    drift: tuple[ChangeView, ...]
    compared: bool = False
    why: str = ""
    reason: str = ""
    doubt: str = ""
    of_this_firmware: bool = False
    stale: tuple[StaleReference, ...] = ()
    present_digest: str = ""
    passed: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
