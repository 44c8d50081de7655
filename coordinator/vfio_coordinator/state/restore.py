"""Reading what is durable back into the state, at start and after a failed compare.

A record that cannot be read stops the start and names its key: guessing could free what is claimed.
Nothing that was soft comes back: no node is heard, none is healthy, and no unit is free before its
agent has spoken again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from vfio_contract.artifact import ArtifactError, decode
from vfio_contract.views import Event as LogRow
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import refresh, settle
from vfio_coordinator.state.baseline_history import intern_firmware
from vfio_coordinator.state.commands import forget_command, keep_command
from vfio_coordinator.state.durable_events import keep_attempts, keep_record
from vfio_coordinator.state.events import Restored
from vfio_coordinator.state.evidence import renew_drift
from vfio_coordinator.state.holdings import drop_claim, hold, keep_claim, unhold
from vfio_coordinator.state.incident_keeping import keep_incident, keep_member
from vfio_coordinator.state.incident_notices import notify_all
from vfio_coordinator.state.incident_records import IncidentNodeRecord, IncidentRecord
from vfio_coordinator.state.model import Baseline, Holding, LogWrite, Node, VmHeld
from vfio_coordinator.state.mutes import forget_mute, keep_mute
from vfio_coordinator.state.policy import forget_policy, keep_policy
from vfio_coordinator.state.records import (
    AdminRecord,
    AttemptsRecord,
    BaselineRecord,
    Claim,
    CodeRecord,
    CommandRecord,
    LedgerRecord,
    MuteRecord,
    PolicyRecord,
    RiskRecord,
    SpoolRecord,
    UnitRecord,
    VmRecord,
)
from vfio_coordinator.state.risks import end_risks, forget_risk, keep_risk
from vfio_coordinator.state.standing_codes import keep_code
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Delete, KeyValue

Value = TypeVar("Value")

_TRIMMED = 60
"""Stale log rows deleted at one start; each start does some more."""


class RestoreError(Exception):
    """A durable record that this version cannot read; `key` names it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"store key {key}: {problem}")
        self.key = key


def restore(turn: Turn, event: Restored) -> None:
    """Everything durable, into a state that has seen nothing else. Raises RestoreError."""
    turn.state = replace(
        turn.state,
        cluster_id=event.cluster_id,
        incarnation=event.incarnation,
        epoch=event.epoch,
        fence=event.fence,
        revision=event.revision,
        started_s=turn.now.monotonic_s,
    )
    items = {item.key: item for item in event.items}
    for item in event.items:
        if not item.key.startswith((keys.BASELINES, keys.CHUNKS)):
            adopt(turn, item.key, item)
    for item in event.items:
        if item.key.startswith(keys.BASELINES):
            _adopt_baseline(turn, item, items)
    for name in turn.state.nodes:
        renew_drift(turn, name)
    _start_log(turn, items)
    for name in turn.state.nodes:
        settle(turn, name)
    notify_all(turn)
    end_risks(turn)


def adopt(turn: Turn, key: str, item: KeyValue | None) -> None:
    """One key as the store holds it; None when it is absent. Raises RestoreError.

    Chunks are read with their baseline; a baseline that changed underneath is read at the next
    start, and until then its revision is wrong, so that no write can rest on it.
    """
    if key.startswith(keys.NODES):
        _adopt_node(turn, key.removeprefix(keys.NODES), item)
    elif key.startswith(keys.CLAIMS):
        _adopt_claim(turn, key, item)
    elif key.startswith(keys.VMS):
        _adopt_vm(turn, key.removeprefix(keys.VMS), item)
    elif key.startswith(keys.UNITS) and item is not None:
        _adopt_unit(turn, item)
    elif key.startswith(keys.LEDGER) and item is not None:
        record = read_record(LedgerRecord, item)
        node = _node(turn, record.node)
        turn.put_node(replace(node, ledger=node.ledger.set(record.identity, record)))
    elif key.startswith(keys.RISKS):
        _adopt_risk(turn, key, item)
    elif key.startswith((keys.SPOOLS, keys.ATTEMPTS)):
        _adopt_events(turn, key, item)
    elif key.startswith(keys.COMMANDS):
        _adopt_command(turn, key, item)
    elif key.startswith(keys.POLICIES):
        _adopt_policy(turn, key, item)
    elif key.startswith(keys.HEALTH) and item is not None:
        keep_code(turn, read_record(CodeRecord, item))
    elif key.startswith(keys.MUTES):
        _adopt_mute(turn, key, item)
    elif key.startswith(keys.INCIDENTS) and item is not None:
        _adopt_incident(turn, key, item)
    elif key.startswith(keys.EVENTS) and item is not None:
        row = read_record(LogRow, item)
        turn.state = replace(
            turn.state,
            log=turn.state.log.set(row.seq, row),
            next_seq=max(turn.state.next_seq, row.seq + 1),
        )


def _adopt_node(turn: Turn, name: str, item: KeyValue | None) -> None:
    node = _node(turn, name)
    if item is None:
        turn.put_node(replace(node, admin=None, admin_revision=0))
        return
    record = read_record(AdminRecord, item)
    turn.put_node(replace(node, admin=record, admin_revision=item.mod_revision))


def _adopt_claim(turn: Turn, key: str, item: KeyValue | None) -> None:
    if item is None:
        vm, _, generation = key.removeprefix(keys.CLAIMS).partition("/")
        known = turn.state.claims.get((vm, int(generation)))
        if known is not None:
            drop_claim(turn, vm, int(generation))
            unhold(turn, known.claim)
        return
    claim = read_record(Claim, item)
    _node(turn, claim.node)
    keep_claim(turn, claim, item.mod_revision, item.value)
    held = turn.state.vms.get(claim.vm)
    if held is None:
        # Its own record follows; without one, the claim itself says what is known of the VM.
        record = VmRecord(claim.vm, claim.node, claim.boot_id, claim.generation, claim.generation)
        held = VmHeld(record, 0)
    generations = tuple(sorted({*held.generations, claim.generation}))
    vms = turn.state.vms.set(claim.vm, replace(held, generations=generations))
    turn.state = replace(turn.state, vms=vms)
    hold(turn, claim, pending=False)


def _adopt_vm(turn: Turn, vm: str, item: KeyValue | None) -> None:
    known = turn.state.vms.get(vm)
    generations = known.generations if known is not None else ()
    if item is None:
        if known is not None:
            vms = turn.state.vms.set(vm, replace(known, mod_revision=0))
            turn.state = replace(turn.state, vms=vms)
        return
    held = VmHeld(read_record(VmRecord, item), item.mod_revision, generations)
    turn.state = replace(turn.state, vms=turn.state.vms.set(vm, held))


def _adopt_unit(turn: Turn, item: KeyValue) -> None:
    """A unit's key stays held even if its claim is not known: it is somebody's."""
    record = read_record(UnitRecord, item)
    node = _node(turn, record.node)
    holding = Holding(record.vm, record.generation, False)
    turn.put_node(replace(node, held=node.held.set(record.identity, holding)))
    if node.judgement is not None:
        refresh(turn, record.node)


def _adopt_risk(turn: Turn, key: str, item: KeyValue | None) -> None:
    if item is None:
        name, _, code = key.removeprefix(keys.RISKS).partition("/")
        forget_risk(turn, name, code)
        return
    record = read_record(RiskRecord, item)
    _node(turn, record.node)
    keep_risk(turn, record, item.mod_revision)


def _adopt_events(turn: Turn, key: str, item: KeyValue | None) -> None:
    if item is None:
        return  # only a transaction that compares the node's record writes either
    if key.startswith(keys.SPOOLS):
        keep_record(turn, read_record(SpoolRecord, item), item.mod_revision)
    else:
        keep_attempts(turn, read_record(AttemptsRecord, item))


def _adopt_incident(turn: Turn, key: str, item: KeyValue) -> None:
    if "/" in key.removeprefix(keys.INCIDENTS):
        member = read_record(IncidentNodeRecord, item)
        _node(turn, member.node)
        if member.number not in turn.state.incidents.held:
            raise RestoreError(key, f"the store holds no incident {member.number}")
        keep_member(turn, member)
    else:
        keep_incident(turn, read_record(IncidentRecord, item), item.mod_revision)


def _adopt_command(turn: Turn, key: str, item: KeyValue | None) -> None:
    if item is None:
        node, _, id = key.removeprefix(keys.COMMANDS).partition("/")
        forget_command(turn, node, id)
        return
    keep_command(turn, read_record(CommandRecord, item), item.mod_revision)


def _adopt_mute(turn: Turn, key: str, item: KeyValue | None) -> None:
    if item is None:
        code, _, node = key.removeprefix(keys.MUTES).partition("/")
        forget_mute(turn, code, "" if node == "*" else node)
        return
    record = read_record(MuteRecord, item)
    if record.node:
        _node(turn, record.node)
    keep_mute(turn, record, item.mod_revision)


def _adopt_policy(turn: Turn, key: str, item: KeyValue | None) -> None:
    if item is None:
        forget_policy(turn, key.removeprefix(keys.POLICIES))
    else:
        keep_policy(turn, read_record(PolicyRecord, item), item.mod_revision)


def _adopt_baseline(turn: Turn, item: KeyValue, items: Mapping[str, KeyValue]) -> None:
    record = intern_firmware(read_record(BaselineRecord, item))
    parts = [items.get(keys.chunk_key(record.node, record.digest, i)) for i in range(record.chunks)]
    if None in parts:
        raise RestoreError(item.key, "a part of its facts is missing from the store")
    facts = b"".join(part.value for part in parts if part is not None) or None
    node = _node(turn, record.node)
    rows = (*node.baselines, Baseline(record, item.mod_revision, facts))
    rows = tuple(sorted(rows, key=lambda row: row.record.number))
    turn.put_node(replace(node, baselines=rows))


def _start_log(turn: Turn, items: Mapping[str, KeyValue]) -> None:
    """The first row of this process, and the end of rows that are older than what is kept."""
    state = turn.state
    oldest = state.next_seq + 1 - state.limits.events_kept
    stale = sorted(seq for seq in state.log if seq < oldest)
    log = state.log
    for seq in stale:
        log = log.delete(seq)
    first = min(log, default=state.next_seq)
    turn.state = replace(state, log=log, log_first=first)
    text = f"coordinator started with epoch {state.epoch}, incarnation {state.incarnation}"
    rows = turn.number_rows([Note("cluster", "COORDINATOR_STARTED", text, "coordinator")])
    ops = [Delete(keys.event_key(seq)) for seq in stale[:_TRIMMED]]
    trimmed = {keys.event_key(row.seq - state.limits.events_kept) for row in rows}
    turn.commit(
        LogWrite(txn_id=turn.next_txn(), rows=rows),
        ops=[op for op in ops if op.key not in trimmed],
    )


def _node(turn: Turn, name: str) -> Node:
    """The node, made if nothing was known of it; a claim may name one whose record is not read."""
    if name not in turn.state.nodes:
        turn.put_node(Node(name))
    return turn.state.nodes[name]


def read_record(kind: type[Value], item: KeyValue) -> Value:
    """The record of a key. Raises RestoreError that names the key."""
    try:
        return decode(kind, item.value)
    except ArtifactError as error:
        raise RestoreError(item.key, str(error)) from error
