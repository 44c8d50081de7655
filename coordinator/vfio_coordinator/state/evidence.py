"""Inventories and observations of agents: what a node is, and how its units stand.

Facts are kept compressed; from them only the layouts of units and the drift are derived, once per
inventory. Findings are kept where they are not PASS. An observation counts only for the session it
came in and the facts it was made from; one whose facts are not here yet waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from immutables import Map

from vfio_contract import codes
from vfio_contract.address import is_address
from vfio_contract.artifact import ArtifactError
from vfio_contract.codes import Code
from vfio_contract.drift import describe
from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict, summarise
from vfio_contract.host import Host
from vfio_contract.ledger import firmware_digest
from vfio_contract.machine import find_other_machine
from vfio_contract.model import Facts
from vfio_contract.stale import StaleReference, find_stale
from vfio_contract.views import Reason
from vfio_coordinator.scheduler.layout import survey
from vfio_coordinator.scheduler.qualify import qualify
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.baseline_history import choose, parts_of
from vfio_coordinator.state.cohorts import CHECKS, traits_of_host
from vfio_coordinator.state.drift import find_differences, host_of, unpack_facts
from vfio_coordinator.state.effects import Acknowledge, CloseSession, WantInventory, WantWhole
from vfio_coordinator.state.events import (
    InventoryReceived,
    ObservationChanged,
    ObservationReceived,
)
from vfio_coordinator.state.judge import list_texts
from vfio_coordinator.state.ledger import find_condemned, merge_ledger, write_ledger
from vfio_coordinator.state.model import (
    Baseline,
    Drift,
    Inventory,
    Node,
    Observation,
)
from vfio_coordinator.state.presence import is_current
from vfio_coordinator.state.turn import Turn

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
        firmware_parts=parts_of(event.facts),
        firmware_digest=firmware_digest(event.facts),
        boot_id=node.boot_id,
    )
    inventory = replace(inventory, before=_carried(node.inventory, inventory))
    turn.learn(event.node, traits_of_host(host))
    was_known = node.inventory is not None
    before, doubted = node.drift, node.doubt
    node = replace(node, inventory=inventory, digest=event.digest)
    node = _compared(node, host)
    turn.put_node(node)
    _tell_doubt(turn, node, doubted)
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
    records = merge_ledger(node, readings, turn.now.utc)
    standings = qualify(
        node.inventory.units,
        event.findings,
        holders=readings.holders,
        names=dict(readings.names),
        condemned=find_condemned(node, readings),
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
    turn.learn(event.node, {CHECKS: event.checks_version or None})
    turn.emit(Acknowledge(event.node, event.session, event.sequence))
    if records and not node.ledger_txn:
        write_ledger(turn, event.node, records)


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


def _carried(last: Inventory | None, now: Inventory) -> tuple[tuple[str, str, str], ...]:
    """Parts of the firmware that were known last and are not told now."""
    if last is None:
        return ()
    known = {name: (name, value, boot_id) for name, value, boot_id in last.before}
    for name, value in last.firmware_parts:
        if value is not None:
            known[name] = (name, value, last.boot_id)
    return tuple(
        known[name] for name, value in now.firmware_parts if value is None and name in known
    )


def _firmware(facts: Facts) -> str:
    parts = (facts.firmware.bios_version, facts.firmware.bios_date)
    return " ".join(part for part in parts if part)


# --- drift ---------------------------------------------------------------------------------------


def _compared(node: Node, host: Host | None) -> Node:
    """With the baseline in force now and what differs from it; `host` is that of the inventory,
    None to make it where it is needed."""
    present = node.inventory.firmware_parts if node.inventory is not None else ()
    baseline, inventory = choose(node.baselines, present), node.inventory
    node = replace(node, baseline=baseline, drift=(), undecided=frozenset(), unread=())
    node = replace(node, former=Map(), stale=(), doubt=None)
    if baseline is None or inventory is None or baseline.record.digest == inventory.digest:
        return node
    if host is None:
        host = host_of(unpack_facts(inventory.facts_zlib))
    try:
        before = host_of(unpack_facts(baseline.facts_zlib or b""))
    except ArtifactError as error:
        return _doubted(node, codes.BASELINE_UNREADABLE, f"cannot be read: {error}")
    other = find_other_machine(before.facts, host.facts)
    if other:
        return _doubted(node, codes.BASELINE_FOREIGN, f"is of another machine: {other}")
    try:
        stale = _find_stale(node.baselines, baseline, before, host)
    except ArtifactError as error:
        return _doubted(node, codes.BASELINE_UNREADABLE, f"cannot be read: {error}")
    found = find_differences(before, host, claimed=set(node.held))
    return replace(
        node,
        drift=found.drift,
        undecided=found.undecided,
        unread=found.unread,
        former=found.former,
        stale=stale,
    )


def _find_stale(
    baselines: Sequence[Baseline], baseline: Baseline, before: Host, host: Host
) -> tuple[StaleReference, ...]:
    """Lines to edit. On a node that went back to an earlier firmware they may have been edited
    since, so that they mean what they meant at the last acceptance. Raises ArtifactError."""
    found = list(find_stale(before, host))
    kept = [row for row in baselines if row.facts_zlib is not None]
    last = kept[-1] if kept else baseline
    if last.record.number > baseline.record.number:
        facts = unpack_facts(last.facts_zlib or b"")
        found += find_stale(host_of(facts), host)
    # of the same edit the one that comes last is kept: the line that some baseline has is not newer
    rows = sorted(found, key=lambda r: (r.file, r.line, r.edit, not r.newer))
    return tuple({replace(r, newer=False): r for r in rows}.values())


def _doubted(node: Node, code: Code, text: str) -> Node:
    """Nothing is compared; what cordons the node may be there or not, and so it stays."""
    cordons = node.admin.cordons if node.admin is not None else ()
    known = frozenset(key for cordon in cordons for key in cordon.causes)
    text = f"baseline {text}; waits for: vfioctl baseline accept {node.name}"
    doubt = Reason(code.name, f"auto:{code.name}", text)
    return replace(node, doubt=doubt, undecided=known)


def _tell_doubt(turn: Turn, node: Node, before: Reason | None) -> None:
    if node.doubt is not None and node.doubt != before:
        turn.note(f"node:{node.name}", node.doubt.code, node.doubt.text, node.doubt.owner)


def renew_drift(turn: Turn, name: str) -> None:
    """Compare again after the baselines changed."""
    node = turn.state.nodes[name]
    compared = _compared(node, None)
    turn.put_node(compared)
    _tell_doubt(turn, compared, node.doubt)


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
