"""A node's baselines as people see them: the one in force with what differs now, and the history.

Pure functions of the state. Drift that is not of now is shown as last heard and said to be so.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.artifact import ArtifactError
from vfio_contract.baseline_views import BaselineRow
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.views import BaselineView, UnitView
from vfio_coordinator.scheduler.layout import UnitLayout, survey
from vfio_coordinator.state.baseline_history import Parts, is_same_firmware, parts_of
from vfio_coordinator.state.drift import host_of, unpack_facts
from vfio_coordinator.state.judge import unread_facts
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import Baseline, Inventory, Node, State
from vfio_coordinator.state.report import change_views
from vfio_coordinator.state.units_report import unit_views


def baseline_view(state: State, name: str) -> BaselineView:
    """The baseline in force and what differs now. Raises ClusterError."""
    node, baseline = find_baseline(state, name)
    record = baseline.record
    doubt = f"{node.doubt.code}: {node.doubt.text}" if node.doubt is not None else ""
    firmware = record.firmware
    layouts: tuple[UnitLayout, ...] = ()
    try:
        facts = unpack_facts(baseline.facts_zlib or b"")
    except ArtifactError as error:
        doubt = doubt or f"its facts cannot be read: {error}"
    else:
        firmware = firmware or parts_of(facts)
        layouts = survey(host_of(facts))
    present = {node.accepted_id(unit.id): unit for unit in unit_views(state, node)}
    why = doubt or _not_compared(node)
    here = node.inventory.firmware_parts if node.inventory is not None else ()
    return BaselineView(
        node=node.name,
        digest=record.digest,
        accepted_at=record.accepted_at,
        accepted_by=record.accepted_by,
        firmware=_lines(firmware),
        intended_units=tuple(
            _unit_then(layout, present.get(layout.id)) for layout in layouts if layout.intended
        ),
        passed=record.passed,
        drift=change_views(state, node),
        stale=node.stale,
        compared=not why,
        why=why,
        reason=record.reason,
        doubt=doubt,
        of_this_firmware=is_same_firmware(firmware, here),
        present_digest=node.inventory.digest if node.inventory is not None else "",
        unread=unread_facts(node),
    )


def baseline_rows(state: State, name: str) -> tuple[str, tuple[BaselineRow, ...]]:
    """The node's full name and every acceptance that is kept, newest first. Raises ClusterError."""
    node, in_force = find_baseline(state, name)
    return node.name, tuple(_row(b, in_force) for b in reversed(node.baselines))


def _row(baseline: Baseline, in_force: Baseline) -> BaselineRow:
    record = baseline.record
    return BaselineRow(
        number=record.number,
        accepted_at=record.accepted_at,
        accepted_by=record.accepted_by,
        digest=record.digest,
        firmware=_lines(record.firmware),
        passed=record.passed,
        reason=record.reason,
        agent_version=record.agent_version,
        in_force=record.number == in_force.record.number,
        facts_kept=baseline.facts_zlib is not None,
    )


def find_baseline(state: State, name: str) -> tuple[Node, Baseline]:
    """The node and its baseline in force; `name` may be a prefix. Raises ClusterError."""
    node = state.nodes[find_node(state, name)]
    if node.baseline is None:
        raise ClusterError(ErrorCode.NO_BASELINE, f"node {node.name}")
    return node, node.baseline


def present_facts(state: State, name: str) -> tuple[Node, Inventory, str]:
    """The node, its facts as last received, and why they vouch for nothing ("" where they do).

    Raises ClusterError.
    """
    node = state.nodes[find_node(state, name)]
    if node.inventory is None:
        raise ClusterError(ErrorCode.NO_INVENTORY, f"node {node.name}")
    return node, node.inventory, _not_compared(node)


def _lines(firmware: Parts) -> tuple[str, ...]:
    return tuple(f"{part}: {value or 'not known'}" for part, value in firmware)


def _unit_then(layout: UnitLayout, present: UnitView | None) -> UnitView:
    """A unit where it was at the baseline, with the name and the state that it has now."""
    if present is None:
        return _gone(layout)
    return replace(present, id=layout.id, addresses=layout.addresses)


def _gone(layout: UnitLayout) -> UnitView:
    return UnitView(
        id=layout.id,
        kind=layout.kind,
        model=layout.ids,
        ids=layout.ids,
        addresses=layout.addresses,
        numa_node=-1 if layout.numa_node is None else layout.numa_node,
        intended=True,
        state="unknown",
        why="not in the inventory now",
        needs=(),
        vm="",
    )


def _not_compared(node: Node) -> str:
    """Why the drift is not of now; "" where evidence that vouches for the node was compared."""
    judgement = node.judgement
    if judgement is None or not judgement.fresh:
        return (judgement.why if judgement is not None else "") or "nothing vouches for it now"
    return ""
