"""What must hold of every state, checked after each step in tests.

The numbers are those of `model`. A violation is a bug of ours: the message names the invariant, the
thing and the values. Never called by the running coordinator: it costs time in proportion to the
cluster.
"""

from __future__ import annotations

from collections.abc import Mapping

from immutables import Map

from vfio_contract.codes import HOSTD_AWAY
from vfio_contract.command import ACTS
from vfio_coordinator.scheduler.index import CLAIMED, PENDING, Buckets, Index, put
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.scheduler.shape import Profile
from vfio_coordinator.state.admin import entry_of
from vfio_coordinator.state.baseline_history import choose
from vfio_coordinator.state.cohorts import AGENT, Cohorts, learn
from vfio_coordinator.state.incident_index import Incident, SuspectKey, suspect_keys
from vfio_coordinator.state.machines import Machines, names_before, record_node
from vfio_coordinator.state.model import (
    AdminWrite,
    BaselineWrite,
    ClaimWrite,
    CommandWrite,
    EventsWrite,
    HealthWrite,
    Holding,
    IncidentWrite,
    LedgerWrite,
    Node,
    Presence,
    RiskWrite,
    State,
)
from vfio_coordinator.state.records import Claim


class Violation(AssertionError):
    """An invariant does not hold."""


def check_invariants(state: State) -> None:
    """Raises Violation."""
    _check_holdings(state)
    for node in state.nodes.values():
        if node.judgement is not None:
            _check_entry(state, node)
            _check_placeable(state, node)
        _check_baselines(node)
    _check_machines(state)
    _check_index(state)
    _check_generations(state)
    _check_writes(state)
    _check_risks(state)
    _check_intakes(state)
    _check_commands(state)
    _check_cohorts(state)
    _check_incidents(state)


def _require(number: int, holds: bool, what: str) -> None:
    if not holds:
        raise Violation(f"invariant {number}: {what}")


def _check_holdings(state: State) -> None:
    expected: dict[tuple[str, str], Holding] = {}
    for claim, pending in _all_claims(state):
        for key in claim.keys:
            place = (claim.node, key)
            _require(1, place not in expected, f"{place} is in two claims, one of {claim.vm}")
            expected[place] = Holding(claim.vm, claim.generation, pending)
    for node in state.nodes.values():
        for key, holding in node.held.items():
            known = expected.pop((node.name, key), None)
            if known is None and not holding.pending:
                continue  # a unit record of the store whose claim is not known: still held
            _require(2, known == holding, f"{node.name} {key}: {holding} is not {known}")
    _require(2, not expected, f"claimed and not held: {sorted(expected)}")


def _all_claims(state: State) -> list[tuple[Claim, bool]]:
    confirmed = [(held.claim, False) for held in state.claims.values()]
    writes = [w for w in state.pending.values() if isinstance(w, ClaimWrite)]
    return [*confirmed, *((w.claim, True) for w in writes)]


def _check_entry(state: State, node: Node) -> None:
    entry = state.index.entries.get(node.name)
    _require(8, entry == entry_of(node), f"{node.name}: its entry is not what its state says")
    for offer in entry.offers if entry is not None else ():
        held = any(key in node.held for key in offer.standing.layout.keys)
        taken = offer.state in (CLAIMED, PENDING)
        _require(3, held == taken, f"{node.name} {offer.unit}: held {held}, shown {offer.state}")
        # a shape keeps the first stages that refuse, of which `free` need not be one
        _require(3, not held or bool(offer.shape.refused), f"{offer.unit} counts as free")


def _check_placeable(state: State, node: Node) -> None:
    judgement = node.judgement
    if judgement is None:
        return
    ready = judgement.state == "ready"
    _require(4, ready == (not judgement.stage), f"{node.name}: {judgement.state} and placeable")
    if not ready:
        return
    problems = [
        name
        for name, bad in (
            ("no session", node.session is None),
            ("silent", judgement.presence is not Presence.HEARD),
            ("nobody looks at it", _is_away(state, node)),
            ("evidence is not fresh", not judgement.fresh),
            ("admin record is being written", node.admin is None or bool(node.admin_txn)),
            ("boot not validated", node.admin is None or node.admin.boot_id != node.boot_id),
            ("cordoned", node.admin is not None and bool(node.admin.cordons)),
        )
        if bad
    ]
    _require(4, not problems, f"{node.name} is ready although: {', '.join(problems)}")


def _is_away(state: State, node: Node) -> bool:
    intake = state.intakes.get(node.name)
    if intake is None:
        return False
    seen_s = node.observation.collected_s if node.observation is not None else 0.0
    return intake.status.code == HOSTD_AWAY.name or seen_s <= intake.away_s


def _check_machines(state: State) -> None:
    fresh: Machines = Map()
    for node in state.nodes.values():
        fresh = record_node(fresh, None, node)
        ready = node.judgement is not None and node.judgement.state == "ready"
        before = names_before(state, node) if ready else ()
        _require(16, not before, f"{node.name} is ready, {before} stand for its machine")
    _require(16, _listed(state.machines) == _listed(fresh), "machines are not what nodes say")


def _check_baselines(node: Node) -> None:
    rows = node.baselines
    numbers = [row.record.number for row in rows]
    _require(15, numbers == sorted(set(numbers)), f"{node.name}: acceptances {numbers}")
    for row in rows:
        same = bool(row.record.chunks) == (row.facts_zlib is not None)
        _require(15, same, f"{node.name}: facts of {row.record.number}, {row.record.chunks} parts")
    kept = [row.record.firmware for row in rows if row.facts_zlib is not None]
    _require(15, len(kept) == len(set(kept)), f"{node.name}: one firmware twice in {numbers}")
    _require(15, not rows or rows[-1].facts_zlib is not None, f"{node.name}: the last lacks facts")
    present = node.inventory.firmware_parts if node.inventory is not None else ()
    _require(15, node.baseline == choose(rows, present), f"{node.name}: another one is in force")


def _check_index(state: State) -> None:
    fresh = Index()
    for entry in state.index.entries.values():
        fresh = put(fresh, entry)
    same = (
        {stage: tuple(names) for stage, names in fresh.aside.items()}
        == {stage: tuple(names) for stage, names in state.index.aside.items()}
        and _rows(fresh) == _rows(state.index)
        and _bucket_rows(fresh.by_shape) == _bucket_rows(state.index.by_shape)
    )
    _require(8, same, "the index depends on how it came about")


def _rows(index: Index) -> dict[str, object]:
    return {kind: _bucket_rows(buckets) for kind, buckets in index.by_kind.items()}


def _bucket_rows(buckets: Buckets) -> dict[Profile, dict[Profile, tuple[str, ...]]]:
    return {
        able: {profile: tuple(names) for profile, names in inner.items()}
        for able, inner in buckets.items()
    }


def _check_generations(state: State) -> None:
    tokens: set[int] = set()
    for claim, _ in _all_claims(state):
        _require(7, claim.token not in tokens, f"token {claim.token} was given twice")
        tokens.add(claim.token)
    for vm, held in state.vms.items():
        last = held.record.last_generation
        known = [g for name, g in state.claims if name == vm]
        _require(7, sorted(known) == list(held.generations), f"{vm}: {known}")
        _require(7, max(known, default=0) <= last, f"{vm}: generation above the last, {last}")


def _check_writes(state: State) -> None:
    for txn_id, write in state.pending.items():
        told = bool(write.rows) or isinstance(write, IncidentWrite)
        _require(9, told and write.txn_id == txn_id, f"write {txn_id} logs nothing")
        match write:
            case AdminWrite():
                busy = state.nodes[write.node].admin_txn
            case BaselineWrite():
                busy = state.nodes[write.node].baseline_txn
            case LedgerWrite():
                busy = state.nodes[write.node].ledger_txn
            case RiskWrite():
                busy = state.nodes[write.node].risk_txn
            case HealthWrite(kept=kept, gone=gone):
                seen = state.census.seen
                busy = txn_id if all(seen[c].txn == txn_id for c in (*kept, *gone)) else 0
            case IncidentWrite():
                busy = state.incidents.held[write.record.number].txn
            case EventsWrite():
                busy = state.intakes[write.node].txn
                record, known = write.record, state.intakes[write.node].record
                if known is not None:
                    _require(11, record.applied >= known.applied, f"{write.node}: {record}")
                    grows = record.seq > known.seq or record.spool_id != known.spool_id
                    _require(11, grows, f"{write.node}: {record} after {known}")
            case CommandWrite(record=command, new=new):
                known_ones = state.commands[command.node]
                held = known_ones.held.get(command.id)
                busy = txn_id if new and command.id in known_ones.creating else 0
                busy = busy or (held.txn if held is not None else 0)
            case _:
                continue
        _require(5, busy == txn_id, f"write {txn_id} is not the one in flight: {write}"[:400])
    for node in state.nodes.values():
        for txn_id in (node.admin_txn, node.baseline_txn, node.ledger_txn, node.risk_txn):
            _require(5, not txn_id or txn_id in state.pending, f"{node.name}: {txn_id} is nowhere")


def _check_risks(state: State) -> None:
    for node in state.nodes.values():
        for code, held in node.risks.items():
            record, decision = held.record, held.decision
            where = f"{node.name} {code}"
            _require(10, (record.node, record.code) == (node.name, code), f"{where}: {record}")
            same = (decision.id, decision.by, decision.until, decision.code)
            _require(10, same == (record.id, record.by, record.until, code), f"{where}: {decision}")
            if record.ended:
                _require(10, decision.ended == record.ended, f"{where}: {decision.ended!r}")
            if decision.in_force:
                early = bool(state.next_end) and state.next_end <= record.until
                _require(10, early, f"{where}: ends {record.until}, looked at {state.next_end!r}")
            elif not record.ended:
                busy = bool(node.risk_txn) or state.stopped
                _require(10, busy, f"{where}: its end is not being written")


def _check_intakes(state: State) -> None:
    for name, intake in state.intakes.items():
        _require(5, not intake.txn or intake.txn in state.pending, f"{name}: {intake.txn} is lost")
        if not intake.waiting:
            continue
        node = state.nodes[name]
        session = node.session.id if node.session is not None else 0
        _require(11, intake.session == session, f"{name}: events of session {intake.session} wait")
        most = state.limits.events_window
        _require(11, len(intake.waiting) <= most, f"{name}: {len(intake.waiting)} wait")
        mark = intake.mark_of(intake.spool_id)
        last = intake.waiting[0].first - 1
        for event in intake.waiting:
            _require(11, event.seq > mark.seq, f"{name}: {event.seq} waits and is applied")
            ordered = event.first <= last + 1 <= event.seq
            _require(11, ordered, f"{name}: {event.first} to {event.seq} waits after {last}")
            last = event.seq
        _require(11, last + 1 == intake.expected, f"{name}: expects {intake.expected}, not {last}")


def _check_commands(state: State) -> None:
    for name, known in state.commands.items():
        node = state.nodes.get(name)
        session = node.session if node is not None else None
        acting = [h for h in known.held.values() if h.open and h.record.verb in ACTS]
        one = len(acting) + bool(known.acting) <= 1
        _require(12, one or state.stopped, f"{name}: {len(acting)} act, and {known.acting!r}")
        numbers = [held.record.sequence for held in known.held.values()]
        _require(12, len(set(numbers)) == len(numbers), f"{name}: a number twice: {numbers}")
        highest = max(numbers, default=0)
        _require(12, highest <= known.sequence, f"{name}: {highest} above {known.sequence}")
        for id, held in known.held.items():
            where = f"{name} {id}"
            _require(12, (held.record.node, held.record.id) == (name, id), f"{where}: misplaced")
            lost = held.txn and held.txn not in state.pending
            _require(5, not lost, f"{where}: write {held.txn} is nowhere")
            if held.session:
                same = session is not None and held.session == session.id
                _require(12, same, f"{where}: sent in session {held.session}")
    for ticket, waiter in state.waiters.items():
        known_to = waiter.node in state.commands
        _require(12, known_to, f"ticket {ticket} waits for {waiter.id} of nobody")


def _check_cohorts(state: State) -> None:
    fresh = Cohorts()
    for name, traits in state.cohorts.traits.items():
        fresh = learn(fresh, name, traits.parts)
    known = state.cohorts
    for what, found, wanted in (
        ("names", _listed(known.names), _listed(fresh.names)),
        ("alike", _nested(known), _nested(fresh)),
        ("uneven", known.uneven, fresh.uneven),
    ):
        _require(13, found == wanted, f"{what} are {found}, not {wanted}")
    for name, node in state.nodes.items():
        if node.session is not None:
            told = known.traits_of(name)
            version = told.value(AGENT) if told is not None else None
            _require(13, (version or "") == node.session.agent_version, f"{name}: {version}")


def _listed(sets: Mapping[tuple[str, str], Names]) -> dict[tuple[str, str], tuple[str, ...]]:
    return {key: tuple(names) for key, names in sets.items()}


def _nested(cohorts: Cohorts) -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    return {
        key: {digest: tuple(names) for digest, names in inner.items()}
        for key, inner in cohorts.alike.items()
    }


def _check_incidents(state: State) -> None:
    incidents = state.incidents
    members: dict[tuple[str, str], int] = {}
    for number, incident in incidents.held.items():
        draft, wanted = incident.draft, incident.wanted
        _require(14, draft.number == number <= incidents.last, f"{draft.id} stands as {number}")
        _require(14, bool(wanted) == incident.is_open, f"{draft.id}: {len(wanted)} nodes")
        listed = number in incidents.open.get(draft.code, {}), number in incidents.closed
        _require(14, listed == (incident.is_open, not incident.is_open), f"{draft.id}: {listed}")
        counted = draft.nodes, draft.vms
        counts = len(wanted), sum(len(member.vms) for member in wanted.values())
        _require(14, counted == counts, f"{draft.id}: counts {counted}, has {counts}")
        _require(14, draft.peak >= draft.nodes, f"{draft.id}: {draft.peak} at most")
        _check_suspects(incident, found=number in incidents.suspected.get(_key(incident), {}))
        busy = incident.txn in state.pending
        _require(5, busy == bool(incident.txn), f"{draft.id}: write {incident.txn} is nowhere")
        told = bool(incident.touched or incident.txn or state.stopped)
        _require(5, told or dict(wanted) == dict(incident.members), f"{draft.id} is not written")
        for name in wanted if incident.is_open else ():
            place = (name, draft.code)
            _require(14, place not in members, f"{place} is in two open incidents")
            members[place] = number
    indexed = {(n, code): i for n, by in incidents.of_node.items() for code, i in by.items()}
    _require(14, members == indexed, f"nodes are in {members}, listed in {indexed}")


def _key(incident: Incident) -> SuspectKey:
    return suspect_keys(incident.draft.code, incident.draft.suspects)[0]


def _check_suspects(incident: Incident, *, found: bool) -> None:
    """What an incident suspects, each of its nodes does; an open one is found by it."""
    draft = incident.draft
    _require(14, found or not incident.is_open, f"{draft.id} is not found by {draft.suspects}")
    shared = {(s.part, s.after) for s in draft.suspects}
    for member in incident.wanted.values():
        own = {(s.part, s.after) for s in member.suspects}
        _require(14, shared <= own, f"{draft.id}: {shared - own} did not change on {member.node}")
        _require(14, bool(shared) == bool(own), f"{draft.id}: {member.node} has suspects, it none")
