"""How the resets of one function went, from what is durable: also of a node that is lost.

What gates placement is the agent's own summary (`Node.ledger`); the attempts are those that its
durable events told (`Intake.attempts`), which outlive its journal. This module must never answer
for a function of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfio_contract.address import parse_address
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.ledger import (
    Outcome,
    ResetAttempt,
    ResetState,
    Total,
    firmware_digest,
)
from vfio_contract.ledger_views import DeviceHistory
from vfio_contract.reset_report import report_resets
from vfio_coordinator.state.drift import unpack_facts
from vfio_coordinator.state.judge import addresses_of
from vfio_coordinator.state.ledger import standing_of
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import Intake, Node, State
from vfio_coordinator.state.records import AttemptsRecord


def report_history(state: State, node: str, device: str) -> DeviceHistory:
    """`device` is an identity, or an address where the function is or was.

    Raises ClusterError UNKNOWN_NODE or UNKNOWN_DEVICE.
    """
    held = state.nodes[find_node(state, node)]
    intake = state.intakes.get(held.name) or Intake()
    records = sorted(intake.attempts.values(), key=lambda record: record.order)
    found = addresses_of(held)
    identity = _find_identity(held, records, found, device)
    if not identity:
        detail = f"{device!r} on {held.name}: no such function, and no reset of one"
        raise ClusterError(ErrorCode.UNKNOWN_DEVICE, detail)
    own = _records_of(records, identity)
    facts = unpack_facts(held.inventory.facts_zlib) if held.inventory is not None else None
    return report_resets(
        read_attempts(own),
        _sum(own),
        node=held.name,
        identity=identity,
        address=found.get(identity, ""),
        gone=identity not in found,
        boot_id=held.boot_id or None,
        firmware="" if facts is None else firmware_digest(facts),
        state=state_of(held, identity),
    )


def state_of(node: Node, identity: str) -> ResetState | None:
    """What its agent last made of a function's history; None where it never told of one."""
    record = node.ledger.get(identity)
    return None if record is None else standing_of(node, record)


def read_attempts(records: Iterable[AttemptsRecord]) -> list[ResetAttempt]:
    """The attempts of one function, of all firmware tuples, in the order they were told."""
    rows = [(row.order, record, row) for record in records for row in record.newest]
    return [
        ResetAttempt(
            key=row.key,
            identity=record.identity,
            firmware=record.firmware,
            boot_id=row.boot_id,
            method=row.method,
            outcome=_outcome(row.outcome),
            evidence=row.evidence,
            place=record.place,
            address=row.address,
            duration_ms=row.duration_ms,
            told_at_ms=row.told_at_ms,
            firmware_text=record.firmware_text,
        )
        for _, record, row in sorted(rows, key=lambda found: found[0])
    ]


def _sum(records: Iterable[AttemptsRecord]) -> dict[str, Total]:
    found: dict[str, Total] = {}
    for r in records:
        old = found.get(r.firmware, Total(0, 0, 0))
        found[r.firmware] = old + Total(r.attempts, r.failures, r.unobserved)
    return found


def _outcome(word: str) -> Outcome:
    """A word of a newer version is no success."""
    return Outcome(word) if word in tuple(Outcome) else Outcome.UNOBSERVED


def _records_of(records: Iterable[AttemptsRecord], identity: str) -> list[AttemptsRecord]:
    """Its own, and those told while it answered no serial number."""
    places = {r.place for r in records if r.identity == identity and r.place}
    return [r for r in records if r.identity == identity or r.identity in places]


def _find_identity(
    node: Node, records: list[AttemptsRecord], found: dict[str, str], device: str
) -> str:
    """The identity that people mean; "" for none. What is there now goes before what was at the
    baseline, and that before where a reset was told."""
    known = {r.identity for r in records} | set(node.ledger) | set(found)
    if device in known:
        return device
    try:
        address = parse_address(device)
    except ValueError:
        return ""
    units = node.inventory.units if node.inventory is not None else ()
    for unit in units:
        for identity, _, there in unit.places:
            if there == address:
                return identity
    changes = (row.change for row in node.drift)
    were = (c.identity for c in changes if c.identity and c.address_before == address)
    told = (r.identity for r in reversed(records) if r.address == address)
    return next(were, "") or next(told, "")
