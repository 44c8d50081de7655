"""Telling people of what puts the cluster itself in doubt: a second host under one name, a store
that lost what it knew, a wall clock that is not believed.

None of it is a node's own evidence, so none is an incident; nor can it be muted. Each is told once
when it begins, tried again until it was taken, and told anew where it comes back a while after it
was gone. What is told is not durable: who has been told is told again after a restart, if it is
still so, since then it was found anew. Nothing here tells of notifications that fail: nobody would
hear it.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract import codes
from vfio_contract.incident_views import IncidentView
from vfio_coordinator.state.conditions import CLUSTER, Condition, cluster_conditions
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import NotifyEnded
from vfio_coordinator.state.incident_notices import QUIET
from vfio_coordinator.state.model import Alarm
from vfio_coordinator.state.notify_trouble import AGAIN_S
from vfio_coordinator.state.turn import Turn

TOLD = frozenset({codes.STORE_REWOUND.name, codes.NODE_CLONED.name, codes.CLOCK_JUMP.name})


def tell_cluster(turn: Turn) -> None:
    """With each tick: what began is told, what is long gone is forgotten."""
    state, now_s = turn.state, turn.now.monotonic_s
    alarms = state.alarms
    if not state.restored or state.stopped:
        return
    for scope, condition in cluster_conditions(state, turn.now):
        if condition.code not in TOLD:
            continue
        key = (condition.code, scope)
        alarm = alarms.get(key) or Alarm(turn.now.utc, now_s)
        if now_s >= alarm.due_s:
            alarm = replace(alarm, due_s=float("inf"))
            stamp = _stamp(condition.code, scope, alarm)
            turn.emit(Notify(_view(condition, scope, alarm), stamp, "began"))
        alarms = alarms.set(key, replace(alarm, seen_s=now_s))
    for key, alarm in alarms.items():
        if now_s - alarm.seen_s > QUIET.total_seconds():
            alarms = alarms.delete(key)
    if alarms is not state.alarms:
        turn.state = replace(state, alarms=alarms)


def hear_cluster_told(turn: Turn, event: NotifyEnded) -> None:
    """People were told of one of these, or it is tried again later."""
    if event.ok:
        return
    alarms = turn.state.alarms
    for key, alarm in alarms.items():
        if _stamp(*key, alarm) == event.stamp:
            again = replace(alarm, due_s=turn.now.monotonic_s + AGAIN_S)
            turn.state = replace(turn.state, alarms=alarms.set(key, again))


def _stamp(code: str, scope: str, alarm: Alarm) -> str:
    return f"{code}/{scope}/{alarm.at}"


def _view(condition: Condition, scope: str, alarm: Alarm) -> IncidentView:
    node = "" if scope == CLUSTER else scope
    return IncidentView(
        id="",
        code=condition.code,
        level=condition.level,
        state="open",
        text=condition.text,
        opened_at=alarm.at,
        closed_at="",
        first_node=node,
        nodes=1 if node else 0,
        peak=1 if node else 0,
        vms=0,
        acked_by="",
        acked_at="",
        ack_reason="",
        factors=(),
        next=condition.run or f"vfioctl node show {node}",
    )
