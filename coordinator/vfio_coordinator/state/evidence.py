"""Inventories and observations of agents: what a node is, and how its units stand.

Facts are kept compressed; from them only the layouts of units and the drift are derived, once per
inventory. Findings are kept where they are not PASS. An observation counts only for the session it
came in and the facts it was made from; one whose facts are not here yet waits for them.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.address import is_address
from vfio_contract.artifact import ArtifactError, encode
from vfio_contract.drift import describe
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict, summarise
from vfio_contract.host import Host
from vfio_contract.model import Facts, Readings
from vfio_coordinator.scheduler.layout import survey
from vfio_coordinator.scheduler.qualify import qualify
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.drift import find_drift, find_undecided, host_of, unpack_facts
from vfio_coordinator.state.effects import Acknowledge, CloseSession, WantInventory, WantWhole
from vfio_coordinator.state.events import (
    CommitOutcome,
    InventoryReceived,
    ObservationChanged,
    ObservationReceived,
    Outcome,
)
from vfio_coordinator.state.judge import list_texts
from vfio_coordinator.state.model import (
    Drift,
    Inventory,
    LedgerWrite,
    Node,
    Observation,
)
from vfio_coordinator.state.presence import is_current
from vfio_coordinator.state.records import LedgerRecord
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Put

_RESET_CODES = {"failing": "RESET_FAILED", "wedged": "RESET_WEDGED"}
"""The codes of the reset-history check for the states that refuse."""

READ_READINGS = frozenset({"boot_id", "holders", "names", "ledger"})
"""Fields of the readings that something here follows from; all others are only kept."""

_MAX_NUMA_NODES = 1 << 16
"""Far above Linux's 1,024 (MAX_NUMNODES); what is more would not fit where it is shown."""


def receive_inventory(turn: Turn, event: InventoryReceived) -> None:
    """New facts of a node."""
    if not is_current(turn.state, event.node, event.session):
        return
    problem = _find_problem(event.facts)
    if problem:
        code = ErrorCode.BAD_SNAPSHOT
        turn.emit(CloseSession(event.node, event.session, code, problem))
        return
    node = turn.state.nodes[event.node]
    host = host_of(event.facts)
    inventory = Inventory(
        digest=event.digest,
        facts_zlib=event.facts_zlib,
        units=survey(host),
        complete=event.facts.functions is not None,
        firmware=_firmware(event.facts),
        kernel=event.facts.kernel.release or "",
    )
    was_known = node.inventory is not None
    before = node.drift
    node = replace(node, inventory=inventory, digest=event.digest)
    node = _compared(turn, node, host)
    turn.put_node(node)
    admin = node.admin
    if was_known or (admin is not None and admin.boot_id != node.boot_id):
        _tell_drift(turn, node, before)
    waiting = node.unjudged
    if waiting is not None and waiting.inventory_digest == event.digest:
        turn.put_node(replace(node, unjudged=None))
        _evaluate(turn, waiting)
    settle(turn, event.node)


def observe(turn: Turn, event: ObservationReceived) -> None:
    """What one collection saw."""
    if not is_current(turn.state, event.node, event.session):
        return
    node = turn.state.nodes[event.node]
    last = node.observation
    if last is not None and last.session == event.session and last.sequence >= event.sequence:
        return
    turn.state = replace(turn.state, heard=turn.state.heard.set(event.node, turn.now.monotonic_s))
    if node.inventory is None or node.inventory.digest != event.inventory_digest:
        turn.put_node(replace(node, unjudged=event, digest=event.inventory_digest))
        turn.emit(WantInventory(event.node, event.session, event.inventory_digest))
    else:
        turn.put_node(replace(node, unjudged=None, digest=event.inventory_digest))
        _evaluate(turn, event)
    settle(turn, event.node)


def observe_change(turn: Turn, event: ObservationChanged) -> None:
    """What one collection saw, where the units stand as they stood. It must be a change of the
    observation that is held, of the same facts; else the whole is asked for."""
    if not is_current(turn.state, event.node, event.session):
        return
    node = turn.state.nodes[event.node]
    last = node.observation
    if last is None or not _follows(event, last, node):
        turn.emit(WantWhole(event.node, event.session))
        return
    turn.state = replace(turn.state, heard=turn.state.heard.set(event.node, turn.now.monotonic_s))
    observation = replace(
        last,
        sequence=event.sequence,
        collected_s=turn.now.monotonic_s - max(0.0, event.age_s),
        verdict=event.verdict,
        findings=event.findings,
        began_boottime_ms=event.began_boottime_ms,
        parts=event.parts,
    )
    turn.put_node(replace(node, observation=observation))
    turn.emit(Acknowledge(event.node, event.session, event.sequence))
    settle(turn, event.node)


def _follows(event: ObservationChanged, last: Observation, node: Node) -> bool:
    of = (last.session, last.sequence)
    return (
        of == (event.session, event.base)
        and event.sequence > last.sequence
        and last.merged
        and node.unjudged is None
        and node.inventory is not None
        and node.inventory.digest == last.inventory_digest
    )


def _evaluate(turn: Turn, event: ObservationReceived) -> None:
    """How the units stand; the inventory is the one that the findings were made from."""
    node = turn.state.nodes[event.node]
    if node.inventory is None:
        raise ValueError(f"{node.name} has no inventory to judge")
    readings = event.readings
    records = _merge_ledger(node, readings, turn.now.utc)
    standings = qualify(
        node.inventory.units,
        event.findings,
        holders=readings.holders,
        names=dict(readings.names),
        condemned=_condemned(node, readings),
    )
    kept = tuple(f for f in event.findings if f.verdict is not Verdict.PASS)
    observation = Observation(
        session=event.session,
        sequence=event.sequence,
        inventory_digest=event.inventory_digest,
        boot_id=readings.boot_id or "",
        collected_s=turn.now.monotonic_s - max(0.0, event.age_s),
        checks_version=event.checks_version,
        verdict=summarise(node.name, event.findings).verdict,
        findings=kept,
        began_boottime_ms=event.began_boottime_ms,
        parts=event.parts,
        merged=not records,
    )
    turn.put_node(replace(node, observation=observation, standings=standings))
    turn.emit(Acknowledge(event.node, event.session, event.sequence))
    if records and not node.ledger_txn:
        _write_ledger(turn, event.node, records)


def _find_problem(facts: Facts) -> str:
    """Why no host can be made of these facts, in words; "" when one can."""
    seen: set[str] = set()
    for function in facts.functions or ():
        if not is_address(function.address):
            return f"facts.functions: not a PCI address: {function.address[:40]!r}"
        if function.address in seen:
            return f"facts.functions: {function.address} is there twice"
        numa = function.numa_node
        if numa is not None and not -1 <= numa < _MAX_NUMA_NODES:
            return f"facts.functions: {function.address} has no such NUMA node: {str(numa)[:40]}"
        seen.add(function.address)
    return ""


def _firmware(facts: Facts) -> str:
    parts = (facts.firmware.bios_version, facts.firmware.bios_date)
    return " ".join(part for part in parts if part)


# --- drift ---------------------------------------------------------------------------------------


def _compared(turn: Turn, node: Node, host: Host) -> Node:
    """With what differs from the baseline: nothing without one, and for the same facts."""
    node = replace(node, drift=(), undecided=frozenset())
    baseline, inventory = node.baseline, node.inventory
    if baseline is None or inventory is None or baseline.facts_zlib is None:
        return node
    if baseline.record.digest == inventory.digest:
        return node
    try:
        before = host_of(unpack_facts(baseline.facts_zlib))
    except ArtifactError as error:
        text = f"the baseline cannot be read: {error}"
        turn.note(f"node:{node.name}", "BASELINE_UNREADABLE", text, "auto:BASELINE_UNREADABLE")
        return node
    drift = find_drift(before, host, claimed=set(node.held))
    return replace(node, drift=drift, undecided=find_undecided(before, host))


def renew_drift(turn: Turn, name: str) -> None:
    """Compare again after the baseline changed."""
    node = turn.state.nodes[name]
    if node.inventory is None:
        return
    if node.baseline is not None and node.baseline.record.digest != node.inventory.digest:
        node = _compared(turn, node, host_of(unpack_facts(node.inventory.facts_zlib)))
    else:
        node = replace(node, drift=(), undecided=frozenset())
    turn.put_node(node)


def _tell_drift(turn: Turn, node: Node, before: tuple[Drift, ...]) -> None:
    """One row per code for changes that were not there before; harm is told by its cordon."""
    known = {d.change for d in before}
    rows: dict[str, list[str]] = {}
    for drift in node.drift:
        change = drift.change
        if change in known or change.harms:
            continue
        if drift.units or not change.identity:
            rows.setdefault(change.code, []).append(describe(change))
    for code, texts in rows.items():
        turn.note(f"node:{node.name}", code, list_texts(texts, most=4), f"auto:{code}")


# --- reset histories -----------------------------------------------------------------------------


def _merge_ledger(node: Node, readings: Readings, utc: str) -> tuple[LedgerRecord, ...]:
    """Histories that the agent knows at least as much of as we do, and differently."""
    found = []
    for summary in readings.ledger or ():
        known = node.ledger.get(summary.identity)
        if summary.attempts < (known.attempts if known is not None else 1):
            continue
        record = LedgerRecord(
            node=node.name,
            identity=summary.identity,
            state=summary.state,
            attempts=summary.attempts,
            failures=summary.failures,
            last_outcome=summary.last_outcome,
            last_evidence=summary.last_evidence,
            boot_id=readings.boot_id or "",
            at=known.at if known is not None else utc,
        )
        if record != known:
            found.append(replace(record, at=utc))
    return tuple(found)


def _condemned(node: Node, readings: Readings) -> dict[str, tuple[str, str]]:
    """Functions that failed to reset in this boot, of which the agent has lost the history."""
    told = {s.identity: s.attempts for s in readings.ledger or ()}
    return {
        identity: (_RESET_CODES[record.state], record.last_evidence)
        for identity, record in node.ledger.items()
        if record.state in _RESET_CODES
        and record.boot_id == node.boot_id
        and told.get(identity, 0) < record.attempts
    }


_LEDGER_TOGETHER = 30
"""Histories in one transaction: each is a put, with a log row's put and delete."""


def _write_ledger(turn: Turn, name: str, records: tuple[LedgerRecord, ...]) -> None:
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
    return _RESET_CODES.get(state, f"RESET_{state.upper()}")


def finish_ledger(turn: Turn, write: LedgerWrite, event: CommitOutcome) -> None:
    """The coordinator's copy is what the store holds."""
    node = replace(turn.state.nodes[write.node], ledger_txn=0)
    if event.outcome is Outcome.OK:
        ledger = node.ledger
        for record in write.records:
            ledger = ledger.set(record.identity, record)
        node = replace(node, ledger=ledger)
    turn.put_node(node)
