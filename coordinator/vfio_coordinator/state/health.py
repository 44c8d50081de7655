"""Health: what is wrong in the cluster, worst first, each line with what to do next.

Lines are grouped by code over nodes, and what is merely not known is one line for all codes, so
that it never pushes out what is known to be wrong. Findings count only where they are of intended
devices or of the node itself, and only from nodes that are heard; silence has its own line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
    {
        codes.NODE_LOST.name,
        codes.HOSTD_AWAY.name,
        codes.VM_ADDRESS_STALE.name,
        codes.DEVICE_VANISHED.name,
    }
)
_SILENT = frozenset({codes.GROUP_RENUMBERED.name})
"""Reasons that are no health matter."""

_CHANGED, _FOUND, _NOT_KNOWN = range(3)
"""Of one level come first the state of nodes, drift and risks; then findings; then what nobody
knows."""

_VERDICTS = {Verdict.FAIL: ERR, Verdict.WARN: WARN, Verdict.UNKNOWN: WARN}


def find_health(state: State, now: Now) -> tuple[HealthItem, ...]:
    """All lines, ERR before WARN, then by what they are, then by how many nodes they concern."""
    items = [(_CHANGED, item) for item in _cluster_items(state, now)]
    rows: dict[tuple[str, bool], dict[str, _Row]] = {}
    for node in state.nodes.values():
        for code, row in _node_items(node):
            per_node = rows.setdefault((code, bool(row.until)), {})
            known = per_node.get(node.name)
            if known is None or _weight(row) < _weight(known):
                per_node[node.name] = row
    unknown: dict[str, dict[str, _Row]] = {}
    for (code, accepted), per_node in rows.items():
        for level in (ERR, WARN):
            chosen = {
                name: row
                for name, row in per_node.items()
                if row.level == level and row.rank != _NOT_KNOWN
            }
            names = sorted(chosen)
            if names and accepted:
                # the decision that ends first is named
                names.sort(key=lambda name: (per_node[name].until, name))
            if names:
                rank = min(row.rank for row in chosen.values())
                items.append((rank, _group(code, names, [chosen[name] for name in names])))
        found = {name: row for name, row in per_node.items() if row.rank == _NOT_KNOWN}
        if found:
            unknown[code] = found
    if unknown:
        items.append((_NOT_KNOWN, _group_unknown(unknown)))
    items.sort(key=lambda i: (i[1].level != ERR, i[0], -_nodes(i[1]), i[1].code, i[1].text))
    return tuple(item for _, item in items)


def _weight(row: _Row) -> tuple[bool, int]:
    """The least is what a node shows under a code that it has several times."""
    return row.level != ERR, row.rank


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
    if state.clock_doubt:
        code = codes.CLOCK_JUMP
        yield HealthItem(WARN, code.name, "cluster", state.clock_doubt, code.decision)
    for clone in state.clones.values():
        age = now.monotonic_s - clone.at_s
        if age <= state.limits.clone_shown_s:
            text = f"{clone.who} said this name {span(age)} ago and was refused"
            yield HealthItem(
                ERR, codes.NODE_CLONED.name, clone.node, text, f"vfioctl node show {clone.node}"
            )

    for name, intake in state.intakes.items():
        status = intake.status
        if status.code and status.code != codes.HOSTD_AWAY.name:  # that is a state of its node
            yield HealthItem(ERR, status.code, name, status.text, f"vfioctl node show {name}")


@dataclass(frozen=True, slots=True)
class _Row:
    """What one node adds under a code. `until` is the end of the decision that accepts it, if any.

    `next` is what to run, "" for showing the node.
    """

    level: str
    text: str
    next: str = ""
    until: str = ""
    rank: int = _CHANGED


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
            yield finding.code, _finding_row(node, finding, level)


def _finding_row(node: Node, finding: Finding, level: str) -> _Row:
    if is_risk(finding):
        return _risk_row(node, finding)
    rank = _NOT_KNOWN if finding.verdict is Verdict.UNKNOWN else _FOUND
    return _Row(level, _subject_of(finding), rank=rank)


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


def _group(code: str, names: Sequence[str], rows: Sequence[_Row]) -> HealthItem:
    """One code over its nodes; what one of them shows stands beside its name alone."""
    first = rows[0]
    listed = _list(names)
    text = f"{listed}{', ' if first.until else ': '}{first.text}"
    if first.until and len(names) > 1:
        text = f"{listed}, risks accepted; first to end: {names[0]}, {first.text}"
    elif any(row.text != first.text for row in rows):
        text = f"{listed}; {names[0]}: {first.text}"
    run = first.next or f"vfioctl node show {names[0]}"
    return HealthItem(first.level, code, _scope(len(names)), text, run)


def _group_unknown(found: Mapping[str, Mapping[str, _Row]]) -> HealthItem:
    """All codes that say that something is not known, those of most nodes first.

    The one code of a single kind keeps its own line, with its evidence.
    """
    if len(found) == 1:
        ((code, per_node),) = found.items()
        names = sorted(per_node)
        item = _group(code, names, [per_node[name] for name in names])
        return replace(item, next=f"vfioctl check --node {names[0]}")
    nodes = Counter(name for per_node in found.values() for name in per_node)
    most = min(nodes, key=lambda name: (-nodes[name], name))
    listed = ", ".join(sorted(found, key=lambda code: (-len(found[code]), code)))
    text = f"{len(found)} codes: {listed}"
    return HealthItem(WARN, "UNKNOWN", _scope(len(nodes)), text, f"vfioctl check --node {most}")


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " ".join(names[:_NAMED]) + more


def _scope(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"


def _nodes(item: HealthItem) -> int:
    head = item.scope.partition(" ")[0]
    return int(head) if head.isdigit() else 1
