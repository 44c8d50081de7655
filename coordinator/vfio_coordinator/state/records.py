"""What is durable, as values: one dataclass for each kind of key in `keys`.

They are written as canonical JSON and read by older and newer versions: fields are only added, and
with a default. A record must never hold what a person's or agent's next message would tell anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vfio_contract.action import AskedUnit
from vfio_contract.durable import NO_MOMENT, Mark, Stamp
from vfio_contract.views import GateProof, PlaceRequest


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """`meta/cluster`: made once with the store; the incarnation grows with each restore."""

    cluster_id: str
    incarnation: int
    created_at: str


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """`meta/epoch`: one more at each start of a coordinator."""

    epoch: int
    started_at: str


@dataclass(frozen=True, slots=True)
class Cordon:
    """Why a node takes no VM. `owner` is `auto:<CODE>` or `user:<name>`.

    `causes` name what automation saw (`GROUP_WIDENED <identity>`); () for a person's cordon.
    """

    code: str
    owner: str
    text: str
    at: str
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdminRecord:
    """`nodes/<node>`: what a claim's transaction compares.

    `boot_id` is the last one that was validated, "" for none yet. `product_uuid` is "" until an
    agent could read it. `waived` are causes that a person uncordoned the node in spite of: they
    cordon it no more until they have been gone once.
    """

    node: str
    product_uuid: str
    boot_id: str
    joined_at: str
    cordons: tuple[Cordon, ...] = ()
    waived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BaselineRecord:
    """`baselines/<node>/<number>`: one acceptance: the facts' digest, and what was good then.

    `passed` are the intended units that passed every gate, WARN included. `chunks` says how many
    parts the compressed facts have, 0 once they gave way to a newer acceptance of the same
    firmware. `number` grows with each acceptance of the node; 0 is one from before there was a
    history, at `baselines/<node>`. `firmware` is the firmware tuple of the facts (empty in such
    an old one), `agent_version` that of the agent which told them. `reason` says why it was forced
    on a broken host, "" where it was not. `accepted_by` is `auto:POLICY` where `policy` is True.
    `board` is the maker and name of the board, "" for one that is not known. `passed_elsewhere` is
    True where no unit passed under this firmware: what is there passed under another one, when
    a new version of the checks judged it.
    """

    node: str
    digest: str
    chunks: int
    passed: tuple[str, ...]
    checks_version: str
    accepted_by: str
    accepted_at: str
    number: int = 0
    firmware: tuple[tuple[str, str | None], ...] = ()
    agent_version: str = ""
    reason: str = ""
    policy: bool = False
    board: str = ""
    passed_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """`policies/<name>`: what a setting of `vfio_contract.policy` was set to, and by whom."""

    name: str
    value: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class ClaimedUnit:
    """A unit as it was when it was claimed.

    `places` are its endpoints' (identity, place, address) at that time; `keys` are taken.
    """

    unit: str
    kind: str
    model: str
    assign: tuple[str, ...]
    hold: tuple[str, ...]
    numa_node: int
    places: tuple[tuple[str, str, str], ...]
    keys: tuple[str, ...]
    proof: tuple[GateProof, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """`claims/<vm>/<generation>`: these units belong to this VM; `token` is the fence.

    `revision` is the store's at the decision, `owner` is `user:<name>`. `state` is `reserved`:
    nothing starts VMs yet. `risks` are the codes whose risk decisions it was placed on.
    """

    vm: str
    generation: int
    token: int
    node: str
    boot_id: str
    units: tuple[ClaimedUnit, ...]
    request: PlaceRequest
    state: str
    external: bool
    owner: str
    at: str
    revision: int = 0
    risks: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All identities that it claims."""
        return tuple(key for unit in self.units for key in unit.keys)


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """`units/<node>/<identity>`: which claim holds this function."""

    node: str
    identity: str
    vm: str
    generation: int
    token: int


@dataclass(frozen=True, slots=True)
class VmRecord:
    """`vms/<vm>`: who owns the VM, and the last generation ever given: none is given twice.

    `generation` is 0 and `node` "" when nobody owns it.
    """

    vm: str
    node: str
    boot_id: str
    generation: int
    last_generation: int


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """`ledger/<node>/<identity>`: the coordinator's copy of a reset history.

    `firmware` is the digest of the tuple that the state is told of, `agent_state` the journal that
    told it; "" in a record from before they were kept.
    """

    node: str
    identity: str
    state: str
    attempts: int
    failures: int
    last_outcome: str
    last_evidence: str
    boot_id: str
    at: str
    firmware: str = ""
    agent_state: str = ""


@dataclass(frozen=True, slots=True)
class RiskRecord:
    """`risks/<node>/<code>`: `by` carries this risk of the node, because of `reason`.

    `until` is the last second in which it holds. `ended` is "" until it expired or was revoked, by
    `ended_by` (a user's name or `auto:<CODE>`). A new decision takes the record's place; what was
    before is in the event log.
    """

    id: str
    node: str
    code: str
    reason: str
    by: str
    at: str
    until: str
    ended: str = ""
    ended_by: str = ""
    ended_at: str = ""


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """`spools/<node>`: of spool `spool_id`, everything up to `seq` is applied.

    `at` is the moment of the event of that number. `applied` and `lost` count over all spools of
    the node; `former` are the marks of its earlier spools, the newest last: a journal that is put
    back goes on where it was.
    """

    node: str
    spool_id: str
    seq: int
    at: Stamp = NO_MOMENT
    applied: int = 0
    lost: int = 0
    former: tuple[Mark, ...] = ()

    @property
    def mark(self) -> Mark:
        """How far its present spool is held."""
        return Mark(self.spool_id, self.seq, self.at)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One reset as an agent told it. `told_at_ms` is the host's wall clock, `order` the node's
    count of applied events then, `address` where the function was."""

    key: str
    boot_id: str
    method: str
    outcome: str
    evidence: str
    told_at_ms: int
    duration_ms: int | None = None
    order: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class AttemptsRecord:
    """`attempts/<node>/...`: totals, and those attempts that `ledger.choose_kept` keeps, in order.

    `order` is the node's count of applied events at the last change: the lowest is the oldest.
    `place` is the identity without a serial number and `address` where the function was, as last
    told; `firmware_text` is the tuple for people.
    """

    node: str
    identity: str
    firmware: str
    order: int
    attempts: int
    failures: int
    newest: tuple[AttemptRecord, ...] = ()
    unobserved: int = 0
    place: str = ""
    address: str = ""
    firmware_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """`commands/<node>/<id>`: who had the node do what, and how that ended.

    The fields of `command.Command` but the fence, which is that of whoever sends it. `by` is a
    user's name. `outcome` is "" until it ended; `unknown` says that nobody knows what became of it,
    and gives way to a result that still comes. `report` is an action's `ActionEnded.report` as
    base64. `began_boottime_ms` is when the look began that a look's result tells of. `taken` says
    of what acts that the host made its intent durable.
    """

    id: str
    node: str
    verb: str
    address: str
    by: str
    at: str
    sequence: int
    product_uuid: str
    boot_id: str
    agent_state_id: str
    deadline_boottime_ms: int
    unit: AskedUnit | None = None
    outcome: str = ""
    code: str = ""
    text: str = ""
    ended_at: str = ""
    report: str = field(default="", repr=False)
    began_boottime_ms: int = 0
    taken: bool = False


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """`health/<code>`: a health code that some node shows, and when the first one did."""

    code: str
    since: str


@dataclass(frozen=True, slots=True)
class MuteRecord:
    """`mutes/<code>/<node or *>`: somebody does not want to hear of a code for a while.

    `node` is "" for all. What it covers: `level` as it was then ("" when nothing showed it, which
    covers either), as many `nodes`, and these `vms` at risk. `until` is its last second. Of a mute
    of all nodes `covered` holds the digests of those that showed the code, and of the VMs that
    `vms` has no room for (`mutes.cover`); "" where that was not kept yet.
    """

    code: str
    node: str
    reason: str
    by: str
    at: str
    until: str
    level: str
    nodes: int
    vms: tuple[str, ...] = ()
    covered: str = ""


def short_id(id: str) -> str:
    """What people see of a command's id; it is found by that (`command_waits.find_command`)."""
    return id[:12]
