"""Durable events of agents: applied exactly once, in order, and not faster than is fair.

What arrives waits in the node's intake. A write takes some of it, at most one write per node at a
time, and puts the log rows, the copies of reset histories and the new mark in one transaction: so
a crash at any point leaves either all of it or nothing, and the mark that the next session is told
is the truth. Only a committed mark is ever told to an agent, which forgets what it covers.

- An event at or below the mark was applied before: passed over.
- The first event of a session may lie beyond the mark: then those between are gone (this store was
  restored, or the agent's file), which is recorded as EVENTS_LOST like a gap that the agent tells.
- Within a session the numbers follow each other; a stream keeps its order, so anything else is a
  fault of the agent and ends the session, as does sending beyond the window.
- Another spool replaces the node's present one: what that may still have held is lost, and said.
- After a loss the node's evidence counts only from a look at the host that began later.

Each node has a bucket of tokens, one an event; without one its events wait, are not answered, and
the window stops the agent. It must never answer for what is not committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_contract.codes import HOSTD_AWAY
from vfio_contract.errors import ErrorCode
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.commands import commands_of, keep_command
from vfio_coordinator.state.effects import CloseSession, HoldEvents, WantRescan
from vfio_coordinator.state.event_batch import EventBatch
from vfio_coordinator.state.events import (
    CommitOutcome,
    EventsReceived,
    JournalReported,
    NodeHello,
    Outcome,
)
from vfio_coordinator.state.judge import addresses_of
from vfio_coordinator.state.model import EventsWrite, Intake
from vfio_coordinator.state.presence import AFTER_AWAY, blindness_of, is_current
from vfio_coordinator.state.records import AttemptsRecord, SpoolRecord
from vfio_coordinator.state.turn import Turn
from vfio_coordinator.store.interface import Delete, ModRevisionIs, Put


def begin_events(turn: Turn, event: NodeHello) -> None:
    """A session was accepted; an agent with a spool is told how far it is held."""
    intake = _intake(turn, event.node)
    intake = replace(_without_session(intake), session=event.session, spool_id=event.spool_id)
    _put(turn, event.node, intake)
    if event.spool_id:
        _tell(turn, event.node)
        _advance(turn, event.node)


def end_events(turn: Turn, node: str) -> None:
    """The session is over: what waits is sent again by the next."""
    intake = turn.state.intakes.get(node)
    if intake is not None:
        _put(turn, node, _without_session(intake))


def receive_events(turn: Turn, event: EventsReceived) -> None:
    """Events of a session: all of them are taken, or the session ends."""
    if not is_current(turn.state, event.node, event.session):
        return
    heard = turn.state.heard.set(event.node, turn.now.monotonic_s)
    turn.state = replace(turn.state, heard=heard)
    intake = _intake(turn, event.node)
    if not intake.session:
        return
    problem = _find_problem(intake, event, turn.state.limits.events_window)
    if problem:
        _put(turn, event.node, _without_session(intake))
        turn.emit(CloseSession(event.node, event.session, ErrorCode.BAD_REQUEST, problem))
        return
    mark = intake.mark_of(intake.spool_id)
    new = tuple(row for row in event.events if row.seq > mark.seq)
    expected = event.events[-1].seq + 1 if event.events else intake.expected
    intake = replace(intake, waiting=(*intake.waiting, *new), expected=expected)
    _put(turn, event.node, intake)
    if event.events and not new:
        _tell(turn, event.node)
    _advance(turn, event.node)


def hear_journal(turn: Turn, event: JournalReported) -> None:
    """How the agent's journal is; health shows it while the session is open. A node that nobody
    looks at takes no placement from now on, and is to be looked at as soon as somebody can."""
    if not is_current(turn.state, event.node, event.session):
        return
    intake, code = _intake(turn, event.node), event.status.code
    if code and code != intake.status.code:
        subject = f"node:{event.node}"
        turn.note(subject, code, event.status.text, subject)
    away_s = turn.now.monotonic_s if code == HOSTD_AWAY.name else intake.away_s
    was_away = intake.status.code == HOSTD_AWAY.name
    _put(turn, event.node, replace(intake, status=event.status, away_s=away_s))
    if was_away and blindness_of(turn.state, turn.state.nodes[event.node]) == AFTER_AWAY:
        turn.emit(WantRescan(event.node, event.session, AFTER_AWAY))
    settle(turn, event.node)


def go_on(turn: Turn) -> None:
    """Time has passed: nodes that waited for tokens."""
    for name in sorted(turn.state.throttled):
        _advance(turn, name)


def keep_record(turn: Turn, record: SpoolRecord, revision: int) -> None:
    """How far a node's events are applied, as the store holds it."""
    intake = replace(_intake(turn, record.node), record=record, revision=revision)
    _put(turn, record.node, _without_applied(intake))


def keep_attempts(turn: Turn, record: AttemptsRecord) -> None:
    """The resets of one function, as the store holds them."""
    intake = _intake(turn, record.node)
    attempts = intake.attempts.set((record.identity, record.firmware), record)
    _put(turn, record.node, replace(intake, attempts=attempts))


def finish_events(turn: Turn, write: EventsWrite, event: CommitOutcome) -> None:
    """The mark moved, or nothing happened and the same is tried again."""
    name = write.node
    _put(turn, name, replace(_intake(turn, name), txn=0))
    if event.outcome is Outcome.OK:
        keep_record(turn, write.record, event.revision)
        for record in write.attempts:
            keep_attempts(turn, record)
        for command in write.commands:
            keep_command(turn, command, event.revision)
        intake = _intake(turn, name)
        attempts = intake.attempts
        for of in write.forgotten:
            attempts = attempts.delete(of)
        _put(turn, name, replace(intake, attempts=attempts))
        _tell(turn, name)
        if write.loss:
            _want_rescan(turn, name, write.loss)
    _advance(turn, name)


def _find_problem(intake: Intake, event: EventsReceived, window: int) -> str:
    """What no agent of ours does, in words; "" for nothing."""
    if event.spool_id != intake.spool_id:
        return f"events of spool {event.spool_id[:40]!r}, Hello said {intake.spool_id[:40]!r}"
    if len(intake.waiting) + len(event.events) > window:
        return f"{len(event.events)} events after {len(intake.waiting)}: the window is {window}"
    expected = intake.expected
    for row in event.events:
        if expected and not row.first <= expected <= row.seq:
            return f"event {row.first} to {row.seq} where {expected} comes next"
        expected = row.seq + 1
    return ""


def _want_rescan(turn: Turn, name: str, reason: str) -> None:
    node = turn.state.nodes.get(name)
    if node is None:
        return
    turn.put_node(replace(node, lost_events_s=turn.now.monotonic_s))
    if node.session is not None:
        turn.emit(WantRescan(name, node.session.id, reason))
    settle(turn, name)


def _advance(turn: Turn, name: str) -> None:
    """Begin the node's next write, if there is something to write, and no other one of its own."""
    intake = _refilled(turn, _intake(turn, name))
    replaced = intake.record is not None and intake.record.spool_id != intake.spool_id
    busy = bool(intake.txn) or not intake.session or not intake.spool_id or turn.state.stopped
    if busy or not (replaced or intake.waiting):
        _throttle(turn, name, throttled=False)
        return
    if intake.tokens < 1:
        _put(turn, name, intake)
        _throttle(turn, name, throttled=True)
        return
    commands = commands_of(turn.state, name)
    node = turn.state.nodes.get(name)
    addresses = addresses_of(node) if node is not None else {}
    batch = EventBatch(name, intake, commands, addresses, turn.now.utc)
    if replaced:
        batch.replace_spool()
    for row in intake.waiting[: int(intake.tokens)]:
        if not batch.has_room(row):
            break
        batch.add(row)
    txn_id = turn.next_txn()
    tokens = intake.tokens - max(1, batch.taken)
    _put(turn, name, replace(intake, txn=txn_id, tokens=max(0.0, tokens)))
    _throttle(turn, name, throttled=False)
    forgotten = batch.forgotten()
    write = EventsWrite(
        txn_id=txn_id,
        rows=turn.number_rows(batch.notes),
        node=name,
        record=batch.record,
        attempts=tuple(batch.attempts.values()),
        forgotten=forgotten,
        loss="; ".join(batch.losses),
        commands=tuple(batch.ended.values()),
    )
    key = keys.spool_key(name)
    turn.commit(
        write,
        compares=[
            ModRevisionIs(key, intake.revision),
            *(
                ModRevisionIs(keys.command_key(name, id), commands.held[id].revision)
                for id in batch.ended
            ),
        ],
        ops=[
            Put(key, encode(batch.record)),
            *(Put(keys.command_key(name, id), encode(r)) for id, r in batch.ended.items()),
            *(
                Put(keys.attempts_key(name, *of), encode(record))
                for of, record in batch.attempts.items()
            ),
            *(Delete(keys.attempts_key(name, *of)) for of in forgotten),
        ],
    )


def _refilled(turn: Turn, intake: Intake) -> Intake:
    limits, now_s = turn.state.limits, turn.now.monotonic_s
    grown = intake.tokens + limits.events_per_s * max(0.0, now_s - intake.tokens_at_s)
    return replace(intake, tokens=min(limits.events_burst, grown), tokens_at_s=now_s)


def _tell(turn: Turn, name: str) -> None:
    intake = _intake(turn, name)
    if intake.session and intake.spool_id:
        mark = intake.mark_of(intake.spool_id)
        turn.emit(HoldEvents(name, intake.session, mark, turn.state.limits.events_window))


def _without_session(intake: Intake) -> Intake:
    return replace(intake, session=0, spool_id="", expected=0, waiting=(), status=Intake().status)


def _without_applied(intake: Intake) -> Intake:
    mark = intake.mark_of(intake.spool_id)
    left = tuple(row for row in intake.waiting if row.seq > mark.seq)
    return replace(intake, waiting=left)


def _intake(turn: Turn, name: str) -> Intake:
    known: Mapping[str, Intake] = turn.state.intakes
    return known.get(name) or Intake()


def _put(turn: Turn, name: str, intake: Intake) -> None:
    turn.state = replace(turn.state, intakes=turn.state.intakes.set(name, intake))


def _throttle(turn: Turn, name: str, *, throttled: bool) -> None:
    known = turn.state.throttled
    if throttled != (name in known):
        turn.state = replace(turn.state, throttled=known ^ {name})
