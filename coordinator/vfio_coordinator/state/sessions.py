"""Agents coming, speaking and going: hello, heartbeat, close, and the passing of time.

One session per node: a newer Hello closes the older, and whatever the older one had buffered is
dropped by its number. A second machine under a node's name is refused, and so is every agent once
one of them knew a higher fence than this store: then the store was rewound.

Copies of one machine may share even its DMI UUID. While a session is heard, two things cannot be of
the same machine: a boot that the present one has replaced, and another agent's database in the same
boot. A reboot brings a boot that was never seen, and a reinstalled agent's old stream has ended;
whoever is refused by mistake gets in as soon as the present session is silent for long enough.
"""

from __future__ import annotations

import math
from dataclasses import replace

from vfio_contract import codes
from vfio_contract.errors import ErrorCode
from vfio_contract.machine import telling_uuid
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.cohorts import AGENT
from vfio_coordinator.state.commands import pause_commands, resume_commands
from vfio_coordinator.state.durable_events import begin_events, end_events, go_on
from vfio_coordinator.state.effects import AcceptSession, CloseSession, RefuseSession
from vfio_coordinator.state.events import Heartbeat, NodeHello, SessionClosed, Tick
from vfio_coordinator.state.model import AdminWrite, Clone, Node, Presence, Session, State
from vfio_coordinator.state.presence import (
    deadline_of,
    is_current,
    is_fresh,
    presence_of,
    reconnect_until,
)
from vfio_coordinator.state.turn import Turn

_BOOTS_KEPT = 8
"""Copies of one machine that take turns; more than that are told by the others."""


def greet(turn: Turn, event: NodeHello) -> None:
    """Accept or refuse a session."""
    node = turn.state.nodes.get(event.node, Node(event.node))
    refusal = _refusal(turn, event, node)
    if refusal is not None:
        turn.emit(RefuseSession(event.node, event.session, *refusal))
        return
    if node.session is not None:
        detail = f"session {event.session} of {event.node} took over"
        old = node.session.id
        turn.emit(CloseSession(event.node, old, ErrorCode.SESSION_REPLACED, detail))
    if node.boot_id and node.boot_id != event.boot_id:
        text = f"booted: {event.boot_id or 'boot id not known'}"
        turn.note(f"node:{event.node}", "NODE_BOOTED", text, f"node:{event.node}")
    session = Session(
        id=event.session,
        agent_version=event.agent_version,
        agent_state_id=event.agent_state_id,
        product_uuid=event.product_uuid,
        commands=event.commands,
        boottime_ms=event.boottime_ms,
        opened_s=turn.now.monotonic_s,
    )
    same_boot = node.boot_id == event.boot_id
    held = node.inventory is not None and node.inventory.digest == event.inventory_digest
    turn.put_node(
        replace(
            node,
            session=session,
            boot_id=event.boot_id,
            digest=event.inventory_digest,
            left_boots=_left_boots(node, event.boot_id),
            boot_since_s=node.boot_since_s if same_boot else turn.now.monotonic_s,
            unjudged=None,
        )
    )
    turn.learn(event.node, {AGENT: event.agent_version or None})
    _hear(turn, event.node)
    turn.emit(AcceptSession(event.node, event.session, held))
    begin_events(turn, event)
    resume_commands(turn, event.node)
    settle(turn, event.node)


def _refusal(turn: Turn, event: NodeHello, node: Node) -> tuple[ErrorCode, str] | None:
    state = turn.state
    if not state.restored or state.stopped:
        return ErrorCode.SHUTTING_DOWN, "the coordinator is starting or stopping"
    knows = (event.highest_incarnation, event.highest_epoch)
    ours = (state.incarnation, state.epoch)
    if event.cluster_id == state.cluster_id and knows > ours:
        detail = (
            f"{event.node} obeyed incarnation {knows[0]} epoch {knows[1]}, "
            f"this store is at {ours[0]} epoch {ours[1]}"
        )
        if not state.rewound:
            code = codes.STORE_REWOUND.name
            turn.note("cluster", code, detail, f"node:{event.node}")
            turn.state = replace(state, rewound=detail)
        return ErrorCode.STORE_REWOUND, detail
    if node.session is not None and node.session.id >= event.session:
        return ErrorCode.SESSION_REPLACED, f"session {node.session.id} is newer"
    known = telling_uuid(_known_uuid(state, node))
    if known and telling_uuid(event.product_uuid) and known != event.product_uuid:
        detail = f"{event.node} is the machine {known}; {event.product_uuid} was refused"
        _remember_clone(turn, event, event.product_uuid, detail)
        return ErrorCode.NODE_CLONED, detail
    copy = _copy_of(turn, event, node)
    if copy:
        detail = f"{event.node} is heard in boot {node.boot_id}; {copy} was refused"
        _remember_clone(turn, event, copy, detail)
        return ErrorCode.NODE_CLONED, detail
    return None


def _copy_of(turn: Turn, event: NodeHello, node: Node) -> str:
    """What proves that the newcomer is not the machine that is heard now, "" for nothing."""
    session = node.session
    if session is None or presence_of(turn.state, node, turn.now) is not Presence.HEARD:
        return ""
    if event.boot_id != node.boot_id:
        left = event.boot_id in node.left_boots
        return f"its earlier boot {event.boot_id}, on a copy of it," if left else ""
    theirs, ours = event.agent_state_id, session.agent_state_id
    if event.boot_id and theirs and ours and theirs != ours:
        return f"a second agent of that boot, with state {theirs},"
    return ""


def _known_uuid(state: State, node: Node) -> str:
    write = state.pending.get(node.admin_txn)
    if isinstance(write, AdminWrite) and write.record.product_uuid:
        return write.record.product_uuid
    return node.admin.product_uuid if node.admin is not None else ""


def _remember_clone(turn: Turn, event: NodeHello, who: str, detail: str) -> None:
    """Health shows it; the log says it once per machine, however often it tries."""
    clones = turn.state.clones
    known = clones.get(event.node)
    if known is None or known.who != who:
        subject = f"node:{event.node}"
        turn.note(subject, codes.NODE_CLONED.name, detail, subject)
    if known is None and len(clones) >= turn.state.limits.clones_kept:
        clones = clones.delete(min(clones.values(), key=lambda c: (c.at_s, c.node)).node)
    clone = Clone(event.node, who, turn.now.monotonic_s, turn.now.utc)
    turn.state = replace(turn.state, clones=clones.set(event.node, clone))


def _left_boots(node: Node, boot_id: str) -> tuple[str, ...]:
    """The boots that this one has replaced, the newest last."""
    others = tuple(b for b in (*node.left_boots, node.boot_id) if b and b != boot_id)
    return tuple(dict.fromkeys(others))[-_BOOTS_KEPT:]


def hear(turn: Turn, event: Heartbeat) -> None:
    """The agent lives."""
    if not is_current(turn.state, event.node, event.session):
        return
    _hear(turn, event.node)
    judgement = turn.state.nodes[event.node].judgement
    if judgement is None or judgement.presence is not Presence.HEARD:
        settle(turn, event.node)


def close(turn: Turn, event: SessionClosed) -> None:
    """The stream ended: from now on the node is not heard."""
    if not is_current(turn.state, event.node, event.session):
        return
    turn.put_node(replace(turn.state.nodes[event.node], session=None, unjudged=None))
    end_events(turn, event.node)
    pause_commands(turn, event.node)
    settle(turn, event.node)


def tick(turn: Turn, event: Tick) -> None:
    """Deadlines: silence, and evidence that grew too old.

    All nodes are looked at only when the earliest deadline has passed; hearing from a node moves
    its own deadline away, and whatever brings one nearer lowers the earliest (`admin.settle`).
    """
    go_on(turn)
    state, now = turn.state, turn.now
    if event.crowded and now.monotonic_s <= reconnect_until(state):
        turn.state = state = replace(state, crowded_s=now.monotonic_s)
    if now.monotonic_s < state.next_deadline_s:
        return
    for name, node in state.nodes.items():
        judgement = node.judgement
        presence = presence_of(state, node, now)
        heard = presence is Presence.HEARD
        if judgement is None or (judgement.presence, judgement.fresh) != (
            presence,
            heard and is_fresh(state, node, now),
        ):
            settle(turn, name)
    state = turn.state
    deadlines = [deadline_of(state, node, now) for node in state.nodes.values()]
    turn.state = replace(state, next_deadline_s=min(deadlines, default=math.inf))


def _hear(turn: Turn, name: str) -> None:
    heard = turn.state.heard.set(name, turn.now.monotonic_s)
    turn.state = replace(turn.state, heard=heard)
