"""What the store answered: learn from it, then let the write's owner go on.

A failed compare brings the keys as they stand; they are believed before anything is decided again.
A failed fence ends this coordinator: another one leads. An unknown outcome changes nothing: what it
touched stays pending until the key of its first log row, or of an incident's record, was read back.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import finish_admin, settle
from vfio_coordinator.state.baseline import accept_by_policy, finish_baseline
from vfio_coordinator.state.claims import finish_claim
from vfio_coordinator.state.command_waits import fail_waiters
from vfio_coordinator.state.commands import finish_command
from vfio_coordinator.state.durable_events import finish_events
from vfio_coordinator.state.effects import ReadBack, StepDown
from vfio_coordinator.state.events import CommitOutcome, Outcome
from vfio_coordinator.state.incident_notices import notify_all
from vfio_coordinator.state.incident_writes import finish_incident
from vfio_coordinator.state.ledger import finish_ledger
from vfio_coordinator.state.model import (
    AdminWrite,
    AnyWrite,
    BaselineWrite,
    ClaimWrite,
    CommandWrite,
    EventsWrite,
    HealthWrite,
    IncidentWrite,
    LedgerWrite,
    LogWrite,
    MuteWrite,
    PolicyWrite,
    ReleaseWrite,
    RiskWrite,
)
from vfio_coordinator.state.mutes import finish_mute
from vfio_coordinator.state.policy import finish_policy
from vfio_coordinator.state.releases import finish_release
from vfio_coordinator.state.restore import adopt
from vfio_coordinator.state.risks import finish_risk
from vfio_coordinator.state.standing_codes import finish_health
from vfio_coordinator.state.turn import Turn


def conclude(turn: Turn, event: CommitOutcome) -> None:
    """The outcome of a write; one that is not pending was answered before and changes nothing."""
    write = turn.state.pending.get(event.txn_id)
    if write is None:
        return
    if event.outcome is Outcome.UNKNOWN:
        turn.emit(_read_back(write))
        return
    if event.outcome is Outcome.FAILED and turn.state.fence in event.failed:
        _step_down(turn, write)
        return
    revision = max(turn.state.revision, event.revision)
    pending = turn.state.pending.delete(event.txn_id)
    turn.state = replace(turn.state, pending=pending, revision=revision)
    if event.outcome is Outcome.OK:
        turn.add_to_log(write.rows)
    else:
        for key, item in event.found:
            adopt(turn, key, item)
            name = key.removeprefix(keys.NODES)
            if key.startswith(keys.NODES) and not isinstance(write, AdminWrite):
                settle(turn, name)
            elif key.startswith(keys.RISKS):
                settle(turn, key.removeprefix(keys.RISKS).partition("/")[0])
    try:
        _finish(turn, write, event)
    except ClusterError as error:
        turn.fail(write.tickets, error.code, error.detail)


def _read_back(write: AnyWrite) -> ReadBack:
    """What is in the store exactly if the write landed."""
    if isinstance(write, IncidentWrite):
        key = keys.incident_key(write.record.number)
        return ReadBack(write.txn_id, key, encode(write.record))
    row = write.rows[0]
    return ReadBack(write.txn_id, keys.event_key(row.seq), encode(row))


def _finish(turn: Turn, write: AnyWrite, event: CommitOutcome) -> None:
    match write:
        case AdminWrite():
            finish_admin(turn, write, event)
            accept_by_policy(turn, write.node)
        case BaselineWrite():
            finish_baseline(turn, write, event)
        case PolicyWrite():
            finish_policy(turn, write, event)
        case ClaimWrite():
            finish_claim(turn, write, event)
        case ReleaseWrite():
            finish_release(turn, write, event)
        case LedgerWrite():
            finish_ledger(turn, write, event)
        case RiskWrite():
            finish_risk(turn, write, event)
        case HealthWrite():
            finish_health(turn, write, event)
        case MuteWrite():
            finish_mute(turn, write, event)
            notify_all(turn)
        case EventsWrite():
            finish_events(turn, write, event)
        case CommandWrite():
            finish_command(turn, write, event)
        case IncidentWrite():
            finish_incident(turn, write, event)
        case LogWrite():
            pass


def _step_down(turn: Turn, write: AnyWrite) -> None:
    """Nothing more is written; everyone who waits is told. What is pending stays pending."""
    detail = "another coordinator has taken over this store"
    if not turn.state.stopped:
        turn.state = replace(turn.state, stopped=True)
        turn.emit(StepDown(detail))
    turn.fail(write.tickets, ErrorCode.SHUTTING_DOWN, detail)
    fail_waiters(turn, detail)
    answered = turn.state.pending.set(write.txn_id, replace(write, tickets=()))
    turn.state = replace(turn.state, pending=answered)
