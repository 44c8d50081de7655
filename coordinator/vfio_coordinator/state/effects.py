"""What the runtime must do after an event: the only way the state acts on the world.

Effects are performed in the order given. None of them may be skipped: a `Commit` that was not tried
is an outcome that never comes, and its units stay pending for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.command import Command
from vfio_contract.durable import Mark
from vfio_contract.errors import ErrorCode
from vfio_contract.incident_views import IncidentView
from vfio_contract.mute_views import MuteView
from vfio_contract.policy import PolicyView
from vfio_contract.views import BaselineView, CommandView, Decision, NodeView, RiskView, VmView
from vfio_coordinator.store.interface import Txn


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit this; answer with `CommitOutcome(txn_id, ...)`. Commits keep their order."""

    txn_id: int
    txn: Txn = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The outcome of `txn_id` is unknown: read `key`, when the write can no longer land.

    It happened exactly if the key holds `value`: then `CommitOutcome(OK, revision=mod_revision)`,
    else `CommitOutcome(FAILED, failed=())`.
    """

    txn_id: int
    key: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AcceptSession:
    """Answer Welcome. `inventory_held`: the coordinator has the facts of Hello's digest."""

    node: str
    session: int
    inventory_held: bool


@dataclass(frozen=True, slots=True)
class RefuseSession:
    """End a session that was never accepted, with this error."""

    node: str
    session: int
    code: ErrorCode
    detail: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End a session that was accepted; its buffered messages may still come and are dropped."""

    node: str
    session: int
    code: ErrorCode
    detail: str


@dataclass(frozen=True, slots=True)
class WantInventory:
    """Ask the agent for the facts of this digest."""

    node: str
    session: int
    digest: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The state holds this observation."""

    node: str
    session: int
    sequence: int


@dataclass(frozen=True, slots=True)
class HoldEvents:
    """Tell the agent how far its durable events are held, and how many more it may send."""

    node: str
    session: int
    mark: Mark
    window: int


@dataclass(frozen=True, slots=True)
class WantRescan:
    """Ask the agent to look at its host again."""

    node: str
    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class WantWhole:
    """Ask the agent for all of its newest observation: a part of it does not fit onto what is
    held."""

    node: str
    session: int


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Have the agent do this; its intent is in the store."""

    node: str
    session: int
    command: Command


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people of this incident; answer with one `NotifyEnded(incident.id, stamp, ...)`.

    What puts the cluster itself in doubt is told as one without an id, of `first_node` or of none.
    `reason` is `opened` or why it is worse, in words. `stamp` names this telling for ever: after a
    crash the same one may come again, so that a receiver can drop it.
    """

    incident: IncidentView
    stamp: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A refused request; the API raises it as `ClusterError(code, detail)`."""

    code: ErrorCode
    detail: str


Answer = (
    Decision
    | NodeView
    | VmView
    | BaselineView
    | BaselineRefusal
    | PolicyView
    | RiskView
    | CommandView
    | IncidentView
    | MuteView
    | Failure
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The one answer to a ticket.

    Place: Decision. Cordon, uncordon: NodeView. Release: VmView as it was. Baseline accept:
    BaselineView or BaselineRefusal. Policy set: PolicyView. Risk accept, revoke: RiskView. Command,
    wait: CommandView. Incident acknowledged: IncidentView. Mute, unmute: MuteView. Any of them:
    Failure.
    """

    ticket: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class StepDown:
    """The fence no longer holds: another coordinator leads. End the process; write nothing."""

    detail: str


Effect = (
    Commit
    | ReadBack
    | AcceptSession
    | RefuseSession
    | CloseSession
    | WantInventory
    | Acknowledge
    | HoldEvents
    | WantRescan
    | WantWhole
    | SendCommand
    | Notify
    | Reply
    | StepDown
)
