"""`apply`: one event in, a new state and the effects out. The whole coordinator turns on it.

Every event kind has one handler. A request that is refused gets its `Failure` and changes nothing;
requests before the store was read, or after another coordinator took over, are refused alike. The
old state stays as it was.
"""

from __future__ import annotations

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.state.admin import request_admin
from vfio_coordinator.state.baseline import (
    accept_baseline,
    accept_by_policy,
    recheck_baseline,
)
from vfio_coordinator.state.cert_trouble import follow_certificates
from vfio_coordinator.state.claims import request_place
from vfio_coordinator.state.clock_jump import follow_clock
from vfio_coordinator.state.cluster_notices import hear_cluster_told, tell_cluster
from vfio_coordinator.state.command_requests import request_command
from vfio_coordinator.state.command_waits import answer_waiters, await_command
from vfio_coordinator.state.commands import hear_answer
from vfio_coordinator.state.durable_events import hear_journal, receive_events
from vfio_coordinator.state.effects import Effect
from vfio_coordinator.state.events import (
    BaselineAcceptRequested,
    CertificatesSeen,
    CommandAnswered,
    CommandAwaited,
    CommandRequested,
    CommitOutcome,
    CordonRequested,
    Event,
    EventsReceived,
    Heartbeat,
    IncidentAckRequested,
    InventoryReceived,
    JournalReported,
    MuteRequested,
    NodeHello,
    NotifyEnded,
    Now,
    ObservationChanged,
    ObservationReceived,
    PlaceRequested,
    PolicySetRequested,
    ReleaseRequested,
    Restored,
    RiskAcceptRequested,
    RiskRevokeRequested,
    SessionClosed,
    Tick,
    UncordonRequested,
    UnmuteRequested,
)
from vfio_coordinator.state.evidence import observe, observe_change, receive_inventory
from vfio_coordinator.state.incident_notices import notify_due
from vfio_coordinator.state.incident_requests import acknowledge, hear_told
from vfio_coordinator.state.incidents import correlate_touched
from vfio_coordinator.state.machine_changes import follow_machines
from vfio_coordinator.state.model import State
from vfio_coordinator.state.mutes import end_mutes, request_mute
from vfio_coordinator.state.notify_trouble import follow_telling, tell_again
from vfio_coordinator.state.outcomes import conclude
from vfio_coordinator.state.policy import request_policy
from vfio_coordinator.state.releases import request_release
from vfio_coordinator.state.restore import restore
from vfio_coordinator.state.risks import end_risks, request_risk
from vfio_coordinator.state.sessions import close, greet, hear, tick
from vfio_coordinator.state.standing_codes import count_others, count_touched, write_seen
from vfio_coordinator.state.turn import Turn

Request = (
    CordonRequested
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
)


def apply(state: State, event: Event, now: Now) -> tuple[State, tuple[Effect, ...]]:
    """The state after an event, and what the runtime must do, in order.

    Raises RestoreError for `Restored` with a record that cannot be read; nothing else raises.
    """
    turn = Turn(state, now)
    if state.stopped and not isinstance(event, Request | CommitOutcome):
        return state, ()
    end_risks(turn)
    match event:
        case Restored():
            restore(turn, event)
        case Tick():
            follow_clock(turn)
            tell_again(turn)
            tick(turn, event)
        case NodeHello():
            greet(turn, event)
        case InventoryReceived():
            receive_inventory(turn, event)
            _recheck(turn, event.node)
        case ObservationReceived():
            observe(turn, event)
            _recheck(turn, event.node)
        case ObservationChanged():
            observe_change(turn, event)
            _recheck(turn, event.node)
        case Heartbeat():
            hear(turn, event)
        case EventsReceived():
            receive_events(turn, event)
        case JournalReported():
            hear_journal(turn, event)
        case CommandAnswered():
            hear_answer(turn, event)
        case SessionClosed():
            close(turn, event)
        case NotifyEnded():
            hear_told(turn, event)
            hear_cluster_told(turn, event)
            follow_telling(turn, event)
        case CertificatesSeen():
            follow_certificates(turn, event)
        case CommitOutcome():
            conclude(turn, event)
        case _:
            _request(turn, event)
    follow_machines(turn, state)
    answer_waiters(turn)
    correlate_touched(turn, state)
    _follow_health(turn, state, event)
    turn.flush_notes()
    return turn.state, tuple(turn.effects)


def _follow_health(turn: Turn, before: State, event: Event) -> None:
    """What follows from what the turn changed: the counts of health codes, and their mutes."""
    ticked = isinstance(event, Tick)
    count_touched(turn, before)
    if ticked:
        count_others(turn)
    if turn.state.stopped or not (turn.touched or ticked):
        return
    end_mutes(turn, all_marks=ticked)
    if ticked:
        write_seen(turn)
        tell_cluster(turn)
        notify_due(turn)


def _request(turn: Turn, event: Request) -> None:
    try:
        if not turn.state.restored:
            raise ClusterError(ErrorCode.STORE_UNAVAILABLE, "the store is still being read")
        if turn.state.stopped:
            raise ClusterError(ErrorCode.SHUTTING_DOWN, "another coordinator has taken over")
        match event:
            case CordonRequested() | UncordonRequested():
                request_admin(turn, event)
            case BaselineAcceptRequested():
                accept_baseline(turn, event)
            case PolicySetRequested():
                request_policy(turn, event)
            case RiskAcceptRequested() | RiskRevokeRequested():
                request_risk(turn, event)
            case MuteRequested() | UnmuteRequested():
                request_mute(turn, event)
            case PlaceRequested():
                request_place(turn, event)
            case ReleaseRequested():
                request_release(turn, event)
            case CommandRequested():
                request_command(turn, event)
            case CommandAwaited():
                await_command(turn, event)
            case IncidentAckRequested():
                acknowledge(turn, event)
    except ClusterError as error:
        turn.fail((event.ticket,), error.code, error.detail)


def _recheck(turn: Turn, node: str) -> None:
    if node in turn.state.nodes:
        recheck_baseline(turn, node)
        accept_by_policy(turn, node)
