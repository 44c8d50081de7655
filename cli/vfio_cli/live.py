"""The cluster as its changes tell it: rows put together into what the screens show.

Pure but for what it is given; time is an argument. A list that is not whole yet is never shown: the
rows of before stand until then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vfio_contract import codes
from vfio_contract.findings import severity
from vfio_contract.views import ClusterChange, ClusterStatus, NodeView, VmView

_WORST_FIRST = ("lost", "cordoned", "draining", "drained", "revalidating", "ready")
"""As the coordinator lists nodes; a state of a newer version comes first."""


@dataclass(slots=True)
class _Rows:
    """By name; nodes with the moment in seconds when their row came."""

    summary: ClusterStatus | None = None
    nodes: dict[str, tuple[float, NodeView]] = field(default_factory=dict)
    vms: dict[tuple[str, int], VmView] = field(default_factory=dict)


class Live:
    """See the module. `now_s` is any clock that only grows."""

    def __init__(self) -> None:
        self._whole = _Rows()
        self._coming = self._whole
        self._at = ""

    def take(self, change: ClusterChange, *, now_s: float) -> bool:
        """Apply a change; True when what is shown is another one now."""
        if change.reset:
            self._coming = _Rows()
        rows = self._coming
        rows.summary = change.summary or rows.summary
        for node in change.nodes:
            rows.nodes[node.name] = (now_s, node)
        for name in change.nodes_gone:
            rows.nodes.pop(name, None)
        for vm in change.vms:
            rows.vms[(vm.name, vm.generation)] = vm
        for key in change.vms_gone:
            rows.vms.pop((key.name, key.generation), None)
        if not change.current:
            return False
        fresh, self._whole, self._at = rows is not self._whole, rows, change.at
        parts = (change.nodes, change.nodes_gone, change.vms, change.vms_gone)
        return fresh or change.summary is not None or any(parts)

    def nodes(self, *, now_s: float) -> tuple[NodeView, ...]:
        """All nodes, worst first: by state, verdict and name. The ages of silent ones go on."""
        rows = [_aged(view, now_s - came_s) for came_s, view in self._whole.nodes.values()]
        return tuple(sorted(rows, key=_order))

    def vms(self) -> tuple[VmView, ...]:
        """All claims, by VM and generation."""
        return tuple(vm for _, vm in sorted(self._whole.vms.items()))

    def status(self, *, now_s: float) -> ClusterStatus | None:
        """The whole screen, as of the last word of the coordinator; None before the first."""
        if self._whole.summary is None:
            return None
        return replace(
            self._whole.summary, at=self._at, nodes=self.nodes(now_s=now_s), vms=self.vms()
        )


def _order(node: NodeView) -> tuple[int, int, str]:
    return _rank(node.state), -severity(node.verdict), node.name


def _rank(state: str) -> int:
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else -1


def _aged(node: NodeView, elapsed_s: float) -> NodeView:
    """A silent node gets older; one that is heard is told of when that ends."""
    silent = node.state == "lost" or any(r.code == codes.NODE_UNHEARD.name for r in node.reasons)
    if not silent:
        return node
    heard, evidence = node.heard_age_s, node.evidence_age_s
    return replace(
        node,
        heard_age_s=heard + elapsed_s if heard >= 0 else heard,
        evidence_age_s=evidence + elapsed_s if evidence >= 0 else evidence,
    )
