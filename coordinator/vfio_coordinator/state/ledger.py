"""The coordinator's copies of reset histories: what an agent tells now beside what is durable here.

An agent's journal may be lost, begun anew, or put back as it was some time ago. The journal that
told us before and knows no less is simply believed. Any other may make a history worse; it never
takes a failure away, but for a cycle that it saw in a later boot than the failure's, and what was
proven before its time is no proof any more.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_contract.ledger import BAD, VM_CYCLE, WORST_FIRST, Outcome, ResetState, read_state
from vfio_contract.model import Readings, ResetSummary
from vfio_coordinator.state import events, keys
from vfio_coordinator.state.model import LedgerWrite, Node
from vfio_coordinator.state.records import LedgerRecord
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Put

_RESET_CODES = {
    ResetState.CAPABLE: "RESET_CLEAN",
    ResetState.PROVEN: "RESET_PROVEN",
    ResetState.ONE_SHOT: "RESET_ONE_SHOT",
    ResetState.PROBATION: "RESET_PROBATION",
    ResetState.FAILING: "RESET_FAILED",
    ResetState.WEDGED: "RESET_WEDGED",
}
"""The codes of the reset-history check."""

_LEDGER_TOGETHER = 30
"""Histories in one transaction: each is a put, with a log row's put and delete."""


def merge_ledger(node: Node, readings: Readings, utc: str) -> tuple[LedgerRecord, ...]:
    """The records that what the agent tells now asks to be written."""
    found = []
    for summary in readings.ledger or ():
        known = node.ledger.get(summary.identity)
        record = _record(node, readings, summary, at=utc if known is None else known.at)
        if known is None:
            wanted = summary.attempts > 0
        else:
            wanted = not _is_alike(record, known) and _takes_over(record, known, summary)
        if wanted:
            found.append(replace(record, at=utc))
    return tuple(found)


def find_condemned(node: Node, readings: Readings) -> dict[str, tuple[str, str]]:
    """Code and evidence of functions that failed to reset in this boot, of which the agent has lost
    the history."""
    told = {s.identity: s for s in readings.ledger or ()}
    return {
        identity: (_RESET_CODES[state], record.last_evidence)
        for identity, record in node.ledger.items()
        if (state := read_state(record.state)) in BAD
        and state is not None
        and record.boot_id == node.boot_id
        and not _is_told(node, readings, told.get(identity), record)
    }


def _is_told(
    node: Node, readings: Readings, summary: ResetSummary | None, known: LedgerRecord
) -> bool:
    """Whether the agent's own word on it is to be believed."""
    if summary is None:
        return False
    record = _record(node, readings, summary, at=known.at)
    return read_state(summary.state) in BAD or _takes_over(record, known, summary)


def standing_of(node: Node, record: LedgerRecord) -> ResetState | None:
    """What it amounts to in the node's present boot, on its firmware and by its journal; None for a
    word that this version does not know."""
    state = _as_of(record, node.boot_id)
    if state is not ResetState.PROVEN:
        return state
    session, inventory = node.session, node.inventory
    other_journal = session is not None and session.agent_state_id != record.agent_state
    other_firmware = inventory is not None and inventory.firmware_digest != record.firmware
    return ResetState.CAPABLE if other_journal or other_firmware else state


def is_proven(node: Node, identity: str) -> bool:
    """Whether the journal that its agent has now saw this device work for one VM after another, on
    the firmware that runs."""
    record = node.ledger.get(identity)
    if record is None or node.session is None or node.inventory is None:
        return False
    known = record.agent_state and record.firmware
    return bool(known) and standing_of(node, record) is ResetState.PROVEN


def _record(node: Node, readings: Readings, summary: ResetSummary, *, at: str) -> LedgerRecord:
    return LedgerRecord(
        node=node.name,
        identity=summary.identity,
        state=summary.state,
        attempts=summary.attempts,
        failures=summary.failures,
        last_outcome=summary.last_outcome,
        last_evidence=summary.last_evidence,
        boot_id=readings.boot_id or "",
        at=at,
        firmware=node.inventory.firmware_digest if node.inventory is not None else "",
        agent_state=node.session.agent_state_id if node.session is not None else "",
    )


def _is_alike(record: LedgerRecord, known: LedgerRecord) -> bool:
    """Whether they differ in no more than the word that a version has for the state."""
    same = replace(record, state=known.state) == known
    return same and read_state(record.state) is read_state(known.state)


def _takes_over(record: LedgerRecord, known: LedgerRecord, summary: ResetSummary) -> bool:
    """Whether what is told now takes the place of what is known; see the module."""
    same = known.agent_state in ("", record.agent_state)
    if same and record.attempts >= known.attempts and record.failures >= known.failures:
        return True
    now, before = read_state(record.state), _as_of(known, record.boot_id)
    if now is None or before is None:
        return now is None
    if now is ResetState.PROVEN:
        good = before in (ResetState.PROVEN, ResetState.CAPABLE)
        return good or (_is_later(record, known) and _has_cycled(summary))
    return WORST_FIRST.index(now) < WORST_FIRST.index(before)


def _as_of(record: LedgerRecord, boot_id: str) -> ResetState | None:
    state = read_state(record.state)
    if state in BAD and boot_id and record.boot_id not in ("", boot_id):
        return ResetState.PROBATION
    return state


def _is_later(record: LedgerRecord, known: LedgerRecord) -> bool:
    return "" not in (record.boot_id, known.boot_id) and record.boot_id != known.boot_id


def _has_cycled(summary: ResetSummary) -> bool:
    return any(
        (row.method, row.outcome, row.this_boot) == (VM_CYCLE, str(Outcome.SUCCESS), True)
        for row in summary.recent
    )


# --- writing -------------------------------------------------------------------------------------


def write_ledger(turn: Turn, name: str, records: tuple[LedgerRecord, ...]) -> None:
    """Make them durable, as many as fit; the next observation brings the others."""
    chosen = records[:_LEDGER_TOGETHER]
    actor = f"node:{name}"
    notes = [
        Note(actor, _reset_code(r.state), f"{r.identity}: {r.last_evidence}", actor) for r in chosen
    ]
    txn_id = turn.next_txn()
    rows = turn.number_rows(notes)
    turn.commit(
        LedgerWrite(txn_id=txn_id, rows=rows, node=name, records=chosen),
        ops=[Put(keys.ledger_key(name, r.identity), encode(r)) for r in chosen],
    )
    turn.put_node(replace(turn.state.nodes[name], ledger_txn=txn_id))


def _reset_code(state: str) -> str:
    known = read_state(state)
    return "HISTORY_UNKNOWN" if known is None else _RESET_CODES[known]


def finish_ledger(turn: Turn, write: LedgerWrite, event: events.CommitOutcome) -> None:
    """The coordinator's copy is what the store holds."""
    node = replace(turn.state.nodes[write.node], ledger_txn=0)
    if event.outcome is events.Outcome.OK:
        ledger = node.ledger
        for record in write.records:
            ledger = ledger.set(record.identity, record)
        node = replace(node, ledger=ledger)
    turn.put_node(node)
