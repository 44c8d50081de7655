"""Commands: asked for, committed, sent, answered, ended; each of them once.

    asked -> record written under the fence -> sent -> (taken) -> ended

What is asked is judged in `command_requests`, and nothing is sent before its record is in the
store. What has not ended is sent again to each new session of the same agent, and only to the same:
another boot or another database of the agent ends it as `unknown`, because nobody can know whether
it was done; a result that still comes takes that end's place. How it ended is a durable event of
the agent, applied with its mark (`event_batch`). Only a refusal, or an end whose event another life
of the store held already, comes as an answer and is written here. That the host took what acts is
written as well: a refusal after that is not believed, because the host has forgotten then what it
may have done.

A node has one command at a time that acts; looks go beside it. Numbers begin with the incarnation:
a store that was restored has a higher one, so what it sends is above all that the host has taken.
It must never end a command because time has passed: only the host knows what became of it.
"""

from __future__ import annotations

import base64
from dataclasses import replace

from vfio_contract.action import Outcome as Ended
from vfio_contract.action import unpack_report
from vfio_contract.artifact import ArtifactError, encode
from vfio_contract.command import (
    ACTS,
    LOOKS,
    VERSION,
    AnswerState,
    Command,
    CommandAnswer,
)
from vfio_contract.command_codes import COMMAND_LOST
from vfio_contract.durable import ActionEnded
from vfio_contract.errors import ErrorCode
from vfio_coordinator.state import keys
from vfio_coordinator.state.command_waits import command_view
from vfio_coordinator.state.effects import SendCommand
from vfio_coordinator.state.events import (
    CommandAnswered,
    CommitOutcome,
    Outcome,
)
from vfio_coordinator.state.model import (
    CommandHeld,
    CommandWrite,
    Node,
    NodeCommands,
    Session,
    State,
)
from vfio_coordinator.state.presence import is_current
from vfio_coordinator.state.records import CommandRecord, short_id
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import ModRevisionIs, Put

_TEXT = 400
"""Characters of what a host says, in a record."""


# --- sending -------------------------------------------------------------------------------------


def make_command(state: State, record: CommandRecord) -> Command:
    """What is sent: the record under the present fence."""
    return Command(
        id=record.id,
        verb=record.verb,
        node=record.node,
        product_uuid=record.product_uuid,
        boot_id=record.boot_id,
        agent_state_id=record.agent_state_id,
        sequence=record.sequence,
        deadline_boottime_ms=record.deadline_boottime_ms,
        cluster_id=state.cluster_id,
        incarnation=state.incarnation,
        epoch=state.epoch,
        address=record.address,
        unit=record.unit,
    )


def resume_commands(turn: Turn, name: str) -> None:
    """A session was accepted: what has not ended is sent again, or is known to be lost."""
    known = commands_of(turn.state, name)
    for held in sorted(known.held.values(), key=lambda h: h.record.sequence):
        if held.open or held.session:
            put_command(turn, replace(held, session=0, taken=False))
            _go_on(turn, name, held.record.id)


def pause_commands(turn: Turn, name: str) -> None:
    """The session is over."""
    for held in commands_of(turn.state, name).held.values():
        if held.session:
            put_command(turn, replace(held, session=0, taken=False))


def _go_on(turn: Turn, name: str, id: str) -> None:
    """Send it in the open session, if it is for that one; end it if it can never be."""
    held = commands_of(turn.state, name).held.get(id)
    node = turn.state.nodes.get(name)
    session = node.session if node is not None else None
    if held is None or node is None or session is None or not held.open or held.txn:
        return
    lost = _why_lost(held.record, node, session)
    if lost:
        note = _note(held.record, COMMAND_LOST.name, lost, f"auto:{COMMAND_LOST.name}")
        _end(turn, held, Ended.UNKNOWN.value, COMMAND_LOST.name, lost, note)
    elif session.commands >= VERSION and held.session != session.id:
        put_command(turn, replace(held, session=session.id, taken=False))
        turn.emit(SendCommand(name, session.id, make_command(turn.state, held.record)))


def _why_lost(record: CommandRecord, node: Node, session: Session) -> str:
    if node.boot_id and node.boot_id != record.boot_id:
        return "the host has booted since; whether it was done before is not known"
    if session.agent_state_id != record.agent_state_id:
        return "the agent has another database since; whether it was done before is not known"
    return ""


# --- ending --------------------------------------------------------------------------------------


def hear_answer(turn: Turn, event: CommandAnswered) -> None:
    """What the agent says at once. Of what is not open, or not its, nothing changes."""
    if not is_current(turn.state, event.node, event.session):
        return
    heard = turn.state.heard.set(event.node, turn.now.monotonic_s)
    turn.state = replace(turn.state, heard=heard)
    answer = event.answer
    held = commands_of(turn.state, event.node).held.get(answer.id)
    if held is None or not held.open or held.txn or held.session != event.session:
        return
    if answer.state == AnswerState.TAKEN:
        held = replace(held, taken=True)
        put_command(turn, held)
        if held.record.verb in ACTS and not held.record.taken:
            note = _note(held.record, "COMMAND_TAKEN", "taken", f"node:{event.node}")
            _write(turn, held, replace(held.record, taken=True), note)
    elif answer.state == AnswerState.REFUSED:
        _hear_refusal(turn, held, answer)
    elif answer.state == AnswerState.ENDED and answer.ended is not None:
        record = ended_record(held.record, answer.ended, turn.now.utc)
        text = f"{record.outcome}: {record.text}; it was told before, to a store that was lost"
        note = _note(record, "COMMAND_ENDED", text, f"node:{event.node}")
        _write(turn, held, record, note)


def _hear_refusal(turn: Turn, held: CommandHeld, answer: CommandAnswer) -> None:
    """Nothing was done, unless the host had taken it before: then it has forgotten that."""
    outcome, code, text = Ended.REFUSED.value, answer.code, answer.text[:_TEXT]
    row, said = "COMMAND_REFUSED", f"{code}: {text}"
    if held.record.taken:
        outcome, code, row = Ended.UNKNOWN.value, COMMAND_LOST.name, COMMAND_LOST.name
        text = said = f"the host took it and knows nothing of it now ({said})"[:_TEXT]
    note = _note(held.record, row, said, f"node:{held.record.node}")
    _end(turn, held, outcome, code, text, note)


def ended_record(record: CommandRecord, ended: ActionEnded, utc: str) -> CommandRecord:
    """The command with the end that its result tells."""
    code, began_ms = "", 0
    is_look = record.verb in LOOKS  # of a look, its words and its moment are all there is to it
    try:
        report = unpack_report(ended.report) if ended.report else None
    except ArtifactError:
        report = None  # its words stand; nothing is decided by a report
    if report is not None:
        code = next((finding.code for finding in report.reasons), "")
        began_ms = report.looked_at_ms or 0
    return replace(
        record,
        outcome=ended.outcome[:_TEXT] or Ended.UNKNOWN.value,
        code=code[:_TEXT],
        text=ended.detail[:_TEXT],
        ended_at=utc,
        report="" if is_look else base64.b64encode(ended.report).decode("ascii"),
        began_boottime_ms=began_ms,
    )


def takes_result(held: CommandHeld | None) -> bool:
    """True where a result ends the command: it is open, or nobody knew what became of it."""
    return held is not None and (held.open or held.record.code == COMMAND_LOST.name)


def _note(record: CommandRecord, code: str, text: str, actor: str) -> Note:
    about = f"{record.verb} {record.address}".rstrip()
    said = f"{about}: {text} (command {short_id(record.id)} of {record.by})"
    return Note(f"node:{record.node}", code, said, actor)


def _end(turn: Turn, held: CommandHeld, outcome: str, code: str, text: str, note: Note) -> None:
    record = replace(held.record, outcome=outcome, code=code, text=text, ended_at=turn.now.utc)
    _write(turn, held, record, note)


def _write(turn: Turn, held: CommandHeld, record: CommandRecord, note: Note) -> None:
    txn_id = turn.next_txn()
    put_command(turn, replace(held, txn=txn_id))
    key = keys.command_key(record.node, record.id)
    turn.commit(
        CommandWrite(txn_id=txn_id, rows=turn.number_rows([note]), record=record, new=False),
        compares=[ModRevisionIs(key, held.revision)],
        ops=[Put(key, encode(record))],
    )


# --- the store -----------------------------------------------------------------------------------


def finish_command(turn: Turn, write: CommandWrite, event: CommitOutcome) -> None:
    """Believe the outcome; a new command leaves only now."""
    record, done = write.record, event.outcome is Outcome.OK
    if write.new:
        known = commands_of(turn.state, record.node)
        acting = "" if known.acting == record.id else known.acting
        known = replace(known, creating=known.creating - {record.id}, acting=acting)
        put_commands(turn, record.node, known)
    else:
        held = commands_of(turn.state, record.node).held.get(record.id)
        if held is not None:
            # what was not written is answered again, so it is said again
            put_command(turn, replace(held, txn=0, session=held.session if done else 0))
    if done:
        for id in write.forgotten:
            forget_command(turn, record.node, id)
        keep_command(turn, record, event.revision)
    else:
        detail = f"command {record.id} was not written"
        turn.fail(write.tickets, ErrorCode.STORE_UNAVAILABLE, detail)
    _go_on(turn, record.node, record.id)
    if done and write.new:
        turn.reply(write.tickets, command_view(turn.state, record.node, record.id))


def keep_command(turn: Turn, record: CommandRecord, revision: int) -> None:
    """A command as the store holds it."""
    known = commands_of(turn.state, record.node)
    held = known.held.get(record.id) or CommandHeld(record, revision)
    held = replace(held, record=record, revision=revision)
    sequence = max(known.sequence, record.sequence)
    put_commands(turn, record.node, replace(known, sequence=sequence))
    put_command(turn, held)


def forget_command(turn: Turn, node: str, id: str) -> None:
    """The store holds no such command."""
    known = commands_of(turn.state, node)
    if id in known.held:
        put_commands(turn, node, replace(known, held=known.held.delete(id)))


def commands_of(state: State, node: str) -> NodeCommands:
    """All that is known of a node's commands."""
    known: NodeCommands | None = state.commands.get(node)
    return known or NodeCommands()


def put_command(turn: Turn, held: CommandHeld) -> None:
    """The state with this command as given."""
    node, id = held.record.node, held.record.id
    known = commands_of(turn.state, node)
    put_commands(turn, node, replace(known, held=known.held.set(id, held)))


def put_commands(turn: Turn, node: str, known: NodeCommands) -> None:
    """The state with a node's commands as given."""
    turn.state = replace(turn.state, commands=turn.state.commands.set(node, known))
