"""Health: what is wrong in the cluster, worst first, each line with what to do next.

Lines are grouped by code over nodes. Findings count only where they are of intended devices or of
the node itself, and only from nodes that are heard; silence has its own line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vfio_contract import codes
from vfio_contract.findings import Finding, Verdict
from vfio_contract.views import HealthItem
from vfio_coordinator.scheduler.risk import accept_command, describe_risk
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.model import Node, State
from vfio_coordinator.state.presence import span
from vfio_coordinator.state.risk_report import is_risk

ERR, WARN = "ERR", "WARN"

_NAMED = 3

_ALWAYS_ERR = frozenset(
    {codes.NODE_LOST.name, codes.VM_ADDRESS_STALE.name, codes.DEVICE_VANISHED.name}
)
_SILENT = frozenset({codes.GROUP_RENUMBERED.name})
"""Reasons that are no health matter."""

_VERDICTS = {Verdict.FAIL: ERR, Verdict.WARN: WARN, Verdict.UNKNOWN: WARN}


def find_health(state: State, now: Now) -> tuple[HealthItem, ...]:
    """All lines, ERR before WARN, then by how many nodes they concern."""
    items = [*_cluster_items(state, now)]
    rows: dict[tuple[str, bool], dict[str, _Row]] = {}
    for node in state.nodes.values():
        for code, row in _node_items(node):
            per_node = rows.setdefault((code, bool(row.until)), {})
            known = per_node.get(node.name)
            if known is None or (known.level, row.level) == (WARN, ERR):
                per_node[node.name] = row
    for (code, accepted), per_node in rows.items():
        for level in (ERR, WARN):
            names = sorted(name for name, row in per_node.items() if row.level == level)
            if names and accepted:
                # the decision that ends first is named
                names.sort(key=lambda name: (per_node[name].until, name))
            if names:
                items.append(_group(code, names, per_node[names[0]]))
    items.sort(key=lambda item: (item.level != ERR, -_nodes(item), item.code, item.text))
    return tuple(items)


def level_of(items: Sequence[HealthItem]) -> str:
    """HEALTH_OK, HEALTH_WARN or HEALTH_ERR."""
    levels = {item.level for item in items}
    if ERR in levels:
        return "HEALTH_ERR"
    return "HEALTH_WARN" if levels else "HEALTH_OK"


def _cluster_items(state: State, now: Now) -> Iterator[HealthItem]:
    if state.rewound:
        code = codes.STORE_REWOUND
        yield HealthItem(ERR, code.name, "cluster", state.rewound, code.decision)
    for clone in state.clones.values():
        age = now.monotonic_s - clone.at_s
        if age <= state.limits.clone_shown_s:
            text = f"{clone.who} said this name {span(age)} ago and was refused"
            yield HealthItem(
                ERR, codes.NODE_CLONED.name, clone.node, text, f"vfioctl node show {clone.node}"
            )


@dataclass(frozen=True, slots=True)
class _Row:
    """What one node adds under a code. `until` is the end of the decision that accepts it, if any.

    `next` is what to run, "" for showing the node.
    """

    level: str
    text: str
    next: str = ""
    until: str = ""


def _node_items(node: Node) -> Iterator[tuple[str, _Row]]:
    """(code, row) of one node."""
    judgement, observation = node.judgement, node.observation
    if judgement is None:
        return
    cordoned = {c.code for c in node.admin.cordons} if node.admin is not None else set()
    for reason in judgement.reasons:
        if reason.code in _SILENT:
            continue
        automatic = reason.code in cordoned and reason.owner.startswith("auto:")
        level = ERR if automatic or reason.code in _ALWAYS_ERR else WARN
        about_risk = reason.code in (codes.RISK_EXPIRED.name, codes.RISK_REVOKED.name)
        run = f"vfioctl risk list --node {node.name}" if about_risk else ""
        yield reason.code, _Row(level, reason.text, run)
    for cause in judgement.causes:
        # A person may have waived the cordon; the harm is there all the same.
        yield cause.code, _Row(ERR, cause.text)
    if observation is None or not judgement.fresh:
        return
    for finding in observation.findings:
        level = _VERDICTS.get(finding.verdict, "")
        if level and finding.intended is not False:
            row = (
                _risk_row(node, finding) if is_risk(finding) else _Row(level, _subject_of(finding))
            )
            yield finding.code, row


def _risk_row(node: Node, finding: Finding) -> _Row:
    """A risk that somebody carries, or the command that would say so."""
    held = node.risks.get(finding.code)
    decision = held.decision if held is not None else None
    text = describe_risk(decision)
    if decision is not None and decision.in_force:
        return _Row(WARN, text, f"vfioctl risk list --node {node.name}", decision.until)
    command = accept_command(node.name, finding.code)
    return _Row(WARN, f"{_subject_of(finding)}; {text}", command)


def _subject_of(finding: Finding) -> str:
    """What a finding is about in a few words; the node's own by its first evidence."""
    kind, _, name = finding.subject.partition(":")
    if name:
        return f"group {name}" if kind == "group" else name
    first = finding.evidence[0] if finding.evidence else None
    return finding.meaning if first is None else f"{first.source}: {first.text}"


def _group(code: str, names: Sequence[str], first: _Row) -> HealthItem:
    count = len(names)
    scope = f"{count} node{'s' if count > 1 else ''}"
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    listed = " ".join(names[:_NAMED])
    text = f"{listed}{more}{', ' if first.until else ': '}{first.text}"
    if first.until and count > 1:
        text = f"{listed}{more}, risks accepted; first to end: {names[0]}, {first.text}"
    return HealthItem(first.level, code, scope, text, first.next or f"vfioctl node show {names[0]}")


def _nodes(item: HealthItem) -> int:
    head = item.scope.partition(" ")[0]
    return int(head) if head.isdigit() else 1
