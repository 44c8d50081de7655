"""What people see of the state: nodes, VMs, events and the one status screen.

Pure functions of the state and the moment. Offline or stale is unknown, never healthy. Nothing here
decides anything: what is shown was judged when the evidence came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from vfio_contract.findings import Finding, Verdict, severity
from vfio_contract.firmware import shorten
from vfio_contract.views import (
    ChangeView,
    ClusterStatus,
    Event,
    FindingView,
    NodeView,
    Reason,
)
from vfio_coordinator.scheduler.index import FREE
from vfio_coordinator.state.command_waits import command_views
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.explain import explain
from vfio_coordinator.state.health import find_health, level_of, next_of
from vfio_coordinator.state.judge import claims_on, vms_of
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import Drift, Inventory, Node, Presence, State
from vfio_coordinator.state.outliers import outlier_reasons
from vfio_coordinator.state.presence import evidence_age, heard_age
from vfio_coordinator.state.risk_report import decision_text, risk_views
from vfio_coordinator.state.units_report import count_units, intended_states, unit_views
from vfio_coordinator.state.vm_report import placement_of, vm_view, vm_views

_STATE_RANK = ("lost", "cordoned", "draining", "drained", "revalidating", "ready")
_RECENT = 10

EVENTS_LIMIT = 1_000
"""Rows in one answer when the caller names no limit."""

__all__ = [
    "change_views",
    "explain",
    "find_node",
    "list_events",
    "node_view",
    "node_views",
    "placement_of",
    "risk_views",
    "status",
    "vm_view",
    "vm_views",
]


def status(state: State, now: Now, *, coordinator: str = "") -> ClusterStatus:
    """The one screen. Nodes come without detail."""
    items = find_health(state, now)
    counted = {name: tuple(intended_states(state, node)) for name, node in state.nodes.items()}
    return ClusterStatus(
        cluster=state.cluster_id,
        health=level_of(items),
        coordinator=coordinator,
        revision=state.revision,
        epoch=state.epoch,
        at=now.utc,
        items=items,
        nodes=_node_rows(state, now, counted),
        units=count_units(row for rows in counted.values() for row in rows),
        vms=vm_views(state, now),
        recent=tuple(islice(_newest_first(state), _RECENT)),
        next=next_of(items),
    )


def node_views(state: State, now: Now) -> tuple[NodeView, ...]:
    """All nodes, worst first: by state, then by verdict, then by name."""
    counted = {name: tuple(intended_states(state, node)) for name, node in state.nodes.items()}
    return _node_rows(state, now, counted)


_Counted = Mapping[str, Sequence[tuple[str, str]]]
"""Node -> (kind, state) of each of its units that count."""


def _node_rows(state: State, now: Now, counted: _Counted) -> tuple[NodeView, ...]:
    rows = [_node_view(state, n, now, counted[n.name], detail=False) for n in state.nodes.values()]
    return tuple(
        sorted(rows, key=lambda v: (_STATE_RANK.index(v.state), -severity(v.verdict), v.name))
    )


def node_view(state: State, name: str, now: Now, *, detail: bool = True) -> NodeView:
    """One node; `name` may be a unique prefix. Raises ClusterError UNKNOWN_NODE."""
    node = state.nodes[find_node(state, name)]
    return _node_view(state, node, now, tuple(intended_states(state, node)), detail=detail)


def _node_view(
    state: State, node: Node, now: Now, counted: Sequence[tuple[str, str]], *, detail: bool
) -> NodeView:
    judgement, observation, inventory = node.judgement, node.observation, node.inventory
    if judgement is None:
        raise ValueError(f"{node.name} was never judged")
    vouched = judgement.presence is Presence.HEARD and judgement.fresh and observation is not None
    free = sum(shown == FREE for _, shown in counted)
    session = node.session
    reasons = judgement.reasons
    if detail:
        more = outlier_reasons(state, node.name)
        reasons = tuple(_with_since(state, node.name, reason) for reason in (*reasons, *more))
    return NodeView(
        name=node.name,
        state=judgement.state,
        reasons=reasons,
        verdict=observation.verdict if vouched and observation is not None else Verdict.UNKNOWN,
        heard_age_s=heard_age(state, node, now),
        evidence_age_s=evidence_age(node, now),
        firmware=inventory.firmware if inventory is not None else "",
        kernel=inventory.kernel if inventory is not None else "",
        boot_id=node.boot_id or (node.admin.boot_id if node.admin is not None else ""),
        agent=session.agent_version if session is not None else "",
        baseline=node.baseline.record.digest if node.baseline is not None else "",
        units_free=free,
        units_total=len(counted),
        vms=tuple(dict.fromkeys(claim.vm for claim in claims_on(state, node.name))),
        units=unit_views(state, node) if detail else (),
        drift=change_views(state, node) if detail else (),
        findings=_finding_views(node) if detail else (),
        risks=risk_views(state, node.name) if detail else (),
        commands=command_views(state, node.name) if detail else (),
        stale=node.stale if detail else (),
        firmware_before=_before(inventory) if detail and inventory is not None else (),
    )


def _with_since(state: State, name: str, reason: Reason) -> Reason:
    """With the moment since when this node shows it: a cordon has its own, what is an incident has
    the one at which the node joined; of all else none is kept."""
    number = state.incidents.membership_of(name).get(reason.code)
    if reason.since or number is None:
        return reason
    member = state.incidents.held[number].wanted.get(name)
    return reason if member is None else replace(reason, since=member.at)


def _before(inventory: Inventory) -> tuple[str, ...]:
    return tuple(
        f"{name} {shorten(value) or 'empty'} in boot {boot_id[:8] or 'not known'}"
        for name, value, boot_id in inventory.before
    )


def change_views(state: State, node: Node) -> tuple[ChangeView, ...]:
    """What differs from the baseline, with the units and VMs that it concerns."""
    claims = claims_on(state, node.name)
    return tuple(_change_view(drift, vms_of(node, claims, drift.units)) for drift in node.drift)


def _change_view(drift: Drift, claimed_by: tuple[str, ...]) -> ChangeView:
    change = drift.change
    return ChangeView(
        code=change.code,
        identity=change.identity,
        address_before=change.address_before,
        address_after=change.address_after,
        detail=change.detail,
        before=change.before,
        after=change.after,
        harms=change.harms,
        confidence=change.confidence,
        units=drift.units,
        vms=tuple(dict.fromkeys((*claimed_by, *drift.named_by))),
    )


def _finding_views(node: Node) -> tuple[FindingView, ...]:
    findings = node.observation.findings if node.observation is not None else ()
    return tuple(_finding_view(node, finding) for finding in findings)


def _finding_view(node: Node, finding: Finding) -> FindingView:
    return FindingView(
        check=finding.check,
        subject=finding.subject,
        verdict=finding.verdict,
        code=finding.code,
        evidence=tuple(f"{e.source}: {e.text}" if e.source else e.text for e in finding.evidence),
        meaning=finding.meaning,
        decision=decision_text(node, finding),
        intended=finding.intended is not False,
    )


# --- events ------------------------------------------------------------------------------------


def list_events(
    state: State, *, after_seq: int = 0, limit: int = 0, node: str = ""
) -> tuple[tuple[Event, ...], int]:
    """Rows after a number, oldest first, and the highest number in the log."""
    wanted = f"node:{node}"
    size = min(limit, EVENTS_LIMIT) if limit > 0 else EVENTS_LIMIT
    seqs = range(max(after_seq + 1, state.log_first), state.next_seq)
    rows = (state.log[seq] for seq in seqs if seq in state.log)
    chosen = islice((row for row in rows if not node or row.subject == wanted), size)
    last = next(_newest_first(state), None)
    return tuple(chosen), last.seq if last is not None else 0


def _newest_first(state: State) -> Iterator[Event]:
    for seq in range(state.next_seq - 1, state.log_first - 1, -1):
        if seq in state.log:
            yield state.log[seq]
