"""Conditions: what one node has that somebody should know of, each under a stable code.

Health groups them over nodes, mutes and incidents count them. Findings count only where they are of
intended devices or of the node itself, and only from nodes whose evidence vouches for them; silence
has its own condition. Pure over one node; nothing here may leave out what is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vfio_contract import codes
from vfio_contract.findings import Finding, Verdict
from vfio_coordinator.scheduler.risk import accept_command, describe_risk
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.model import Cause, Node, State
from vfio_coordinator.state.outliers import find_outliers
from vfio_coordinator.state.presence import span
from vfio_coordinator.state.risk_report import is_risk

ERR, WARN = "ERR", "WARN"

CLUSTER = "cluster"
"""The scope of what concerns no single node."""

CHANGED, FOUND, NOT_KNOWN = range(3)
"""Of one level come first the state of nodes, drift and risks; then findings; then what nobody
knows."""

_ALWAYS_ERR = frozenset(
    {
        codes.NODE_LOST.name,
        codes.HOSTD_AWAY.name,
        codes.MACHINE_TWICE.name,
        codes.VM_ADDRESS_STALE.name,
        codes.DEVICE_VANISHED.name,
    }
)
_SILENT = frozenset({codes.GROUP_RENUMBERED.name})
"""Reasons that are no health matter."""

_VERDICTS = {Verdict.FAIL: ERR, Verdict.WARN: WARN, Verdict.UNKNOWN: WARN}


@dataclass(frozen=True, slots=True)
class Condition:
    """`level` is ERR or WARN, `rank` one of CHANGED, FOUND, NOT_KNOWN.

    `about` is what it is about: a unit's id, an identity, the subject of a finding, "" for the
    node. `run` is the command to look at it, "" for showing the node. `until` is the end of the
    decision that accepts it, "" for none.
    """

    code: str
    level: str
    rank: int
    text: str
    about: str = ""
    run: str = ""
    until: str = ""


def conditions_of(node: Node) -> tuple[Condition, ...]:
    """All of one node, a code several times where it has several; () before it was judged."""
    return tuple(_conditions(node))


def _conditions(node: Node) -> Iterator[Condition]:
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
        yield Condition(reason.code, level, CHANGED, reason.text, run=run)
    for cause in judgement.causes:
        # A person may have waived the cordon; the harm is there all the same.
        yield Condition(cause.code, ERR, CHANGED, cause.text, about=_subject_of_cause(cause))
    if observation is None or not judgement.fresh:
        return
    for finding in observation.findings:
        level = _VERDICTS.get(finding.verdict, "")
        if level and finding.intended is not False:
            yield _of_finding(node, finding, level)


def cluster_conditions(state: State, now: Now) -> Iterator[tuple[str, Condition]]:
    """(scope, condition) of what is no node's own evidence; the scope is a node or `cluster`."""
    if state.rewound:
        code = codes.STORE_REWOUND
        yield CLUSTER, Condition(code.name, ERR, CHANGED, state.rewound, run=code.decision)
    if state.clock_doubt:
        code = codes.CLOCK_JUMP
        yield CLUSTER, Condition(code.name, WARN, CHANGED, state.clock_doubt, run=code.decision)
    if state.notify_trouble:
        code = codes.NOTIFY_FAILED
        yield CLUSTER, Condition(code.name, WARN, CHANGED, state.notify_trouble, run=code.decision)
    if state.cert_trouble:
        code = codes.CERT_NOT_RENEWED
        yield CLUSTER, Condition(code.name, WARN, CHANGED, state.cert_trouble, run=code.decision)
    for clone in state.clones.values():
        age = now.monotonic_s - clone.at_s
        if age <= state.limits.clone_shown_s:
            text = f"{clone.who} said this name {span(age)} ago and was refused"
            yield clone.node, Condition(codes.NODE_CLONED.name, ERR, CHANGED, text)
    for name, intake in state.intakes.items():
        status = intake.status
        if status.code and status.code != codes.HOSTD_AWAY.name:  # that is a state of its node
            yield name, Condition(status.code, ERR, CHANGED, status.text)


def peer_conditions(state: State) -> Iterator[tuple[str, Condition]]:
    """(node, condition) of what shows only beside other nodes."""
    for outlier in find_outliers(state):
        yield outlier.node, Condition(codes.PEER_OUTLIER.name, WARN, CHANGED, outlier.text)


def _subject_of_cause(cause: Cause) -> str:
    return cause.unit or cause.key.partition(" ")[2]


def _of_finding(node: Node, finding: Finding, level: str) -> Condition:
    about = finding.subject.partition(":")[2]
    if is_risk(finding):
        return _of_risk(node, finding, about)
    rank = NOT_KNOWN if finding.verdict is Verdict.UNKNOWN else FOUND
    return Condition(finding.code, level, rank, describe_subject(finding), about=about)


def _of_risk(node: Node, finding: Finding, about: str) -> Condition:
    """A risk that somebody carries, or the command that would say so."""
    held = node.risks.get(finding.code)
    decision = held.decision if held is not None else None
    text, code = describe_risk(decision), finding.code
    if decision is not None and decision.in_force:
        run, until = f"vfioctl risk list --node {node.name}", decision.until
        return Condition(code, WARN, CHANGED, text, about=about, run=run, until=until)
    run = accept_command(node.name, code)
    return Condition(
        code, WARN, CHANGED, f"{describe_subject(finding)}; {text}", about=about, run=run
    )


def describe_subject(finding: Finding) -> str:
    """What a finding is about in a few words; the node's own by its first evidence."""
    kind, _, name = finding.subject.partition(":")
    if name:
        return f"group {name}" if kind == "group" else name
    first = finding.evidence[0] if finding.evidence else None
    return finding.meaning if first is None else f"{first.source}: {first.text}"
