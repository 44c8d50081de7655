"""What speaks against accepting a node as it is, and when the policy may accept it by itself.

Pure over the state. A person may accept in spite of every problem, with a reason; the policy never
does, and looks only at a node that takes placements: its boot is validated on fresh evidence, and
nothing holds or cordons it. So automation never turns harm, a wait for a person, a risk that nobody
carries, or evidence that tells less than before into what is known as good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vfio_contract import codes
from vfio_contract.baseline_views import BaselineProblem
from vfio_contract.drift import CONSEQUENCES, Consequence
from vfio_contract.findings import NODE, Verdict
from vfio_contract.policy import BASELINE, BASELINE_RESETS
from vfio_coordinator.scheduler.layout import UnitLayout
from vfio_coordinator.scheduler.standing import Standing
from vfio_coordinator.state.baseline_history import is_other_firmware
from vfio_coordinator.state.judge import list_texts, unread_facts
from vfio_coordinator.state.ledger import is_proven
from vfio_coordinator.state.model import Node, State
from vfio_coordinator.state.policy import policy_value

_PASSING = (Verdict.PASS, Verdict.WARN)
_DECISIONS = {code.name: code.decision for code in codes.CLUSTER_CODES}


def find_problems(node: Node) -> tuple[BaselineProblem, ...]:
    """All that is broken on it now, () for nothing. Worst first: harm against its baseline, gates
    that fail, lines to edit, facts that are not told, and last what cannot be judged."""
    harm = list(_of_causes(node))
    gates = _of_gates(node, {(problem.code, problem.subject) for problem in harm})
    failing = [problem for problem, verdict in gates if verdict is Verdict.FAIL]
    open_ = [problem for problem, verdict in gates if verdict is not Verdict.FAIL]
    rows = (*harm, *failing, *_of_lines(node), *_of_unread(node), *open_)
    return tuple(dict.fromkeys(rows))


def _of_causes(node: Node) -> Iterator[BaselineProblem]:
    for cause in node.judgement.causes if node.judgement is not None else ():
        subject = cause.unit or cause.key.partition(" ")[2]
        decision = _decision_of(node, cause.code, cause.unit)
        yield BaselineProblem(cause.code, subject, cause.text, decision)


def _of_gates(
    node: Node, named: Collection[tuple[str, str]]
) -> list[tuple[BaselineProblem, Verdict]]:
    """What refuses each unit that somebody wants, a code once, but for what is named already."""
    found = []
    for standing in wanted_standings(node):
        unit, rows = standing.layout.id, standing.refusing
        for code, verdict in dict.fromkeys((row.code, row.verdict) for row in rows):
            if (code, unit) not in named:
                told = (r.told for r in rows if (r.code, r.verdict) == (code, verdict))
                decision = _decision_of(node, code, unit)
                problem = BaselineProblem(code, unit, list_texts(told), decision)
                found.append((problem, verdict))
    return found


def _of_lines(node: Node) -> Iterator[BaselineProblem]:
    for stale in node.stale:
        decision = "Edit that line"
        if stale.newer:
            decision += ", unless it means what is there now: then accept it as it is"
        yield BaselineProblem(stale.code, stale.owner, stale.text, f"{decision}.")


def _of_unread(node: Node) -> Iterator[BaselineProblem]:
    for fact in unread_facts(node):
        text = f"known at the baseline and cannot be compared now: {fact}"
        decision = f"See what is missing: vfioctl check --node {node.name}"
        yield BaselineProblem(codes.EVIDENCE_LOST.name, fact, text, decision)


def _decision_of(node: Node, code: str, unit: str) -> str:
    """What to do about a code: as the host says it of this unit, else as the cluster does."""
    if code in _DECISIONS:
        return _DECISIONS[code].replace("NODE", node.name)
    layout = next((s.layout for s in node.standings if s.layout.id == unit), None)
    subjects = {NODE}
    if layout is not None:
        subjects |= {f"function:{address}" for address in layout.endpoints}
        subjects |= {f"group:{number}" for number in layout.groups} | {f"unit:{unit}"}
    findings = node.observation.findings if node.observation is not None else ()
    told = (f.decision for f in findings if f.code == code and f.subject in subjects)
    return next(told, "")


def wanted_standings(node: Node) -> list[Standing]:
    """How the units stand that are intended or claimed."""
    return [s for s in node.standings if s.layout.intended or _is_claimed(node, s.layout)]


def _is_claimed(node: Node, layout: UnitLayout) -> bool:
    return any(key in node.held for key in layout.keys)


def passing_units(node: Node) -> tuple[str, ...]:
    """Ids of the units, intended or claimed, that pass every gate, with a WARN or without."""
    return tuple(sorted(s.layout.id for s in wanted_standings(node) if s.verdict in _PASSING))


def is_due(state: State, node: Node) -> bool:
    """True where the policy accepts this node as it is now, and that would tell something new."""
    judgement, inventory = node.judgement, node.inventory
    if policy_value(state, BASELINE) != "auto" or judgement is None or inventory is None:
        return False
    quiet = not node.baseline_txn and not node.admin_txn and node.unjudged is None
    if judgement.state != "ready" or not judgement.fresh or not quiet or not inventory.complete:
        return False
    if not _is_news(node) or find_problems(node) or node.unread or node.undecided:
        return False
    if any(CONSEQUENCES[d.change.code] is not Consequence.RETURNS for d in node.drift):
        return False
    wanted = [s for s in node.standings if s.layout.intended]
    if not all(_is_carried(node, need.code) for s in wanted_standings(node) for need in s.needs):
        return False
    return policy_value(state, BASELINE_RESETS) != "proven" or all(
        _is_proven(node, standing.layout) for standing in wanted
    )


def _is_carried(node: Node, code: str) -> bool:
    """Whether a decision about this risk is in force here."""
    held = node.risks.get(code)
    return held is not None and held.decision.in_force


def _is_news(node: Node) -> bool:
    """Something that the baseline in force does not know; not each edit of some other fact."""
    baseline, inventory = node.baseline, node.inventory
    if baseline is None or inventory is None or node.drift:
        return True
    accepted = baseline.record.firmware
    if not accepted or is_other_firmware(accepted, inventory.firmware_parts):
        return True
    intended = {s.layout.id for s in node.standings if s.layout.intended}
    passing = map(node.accepted_id, intended & set(passing_units(node)))
    return not set(passing) <= set(baseline.record.passed)


def _is_proven(node: Node, layout: UnitLayout) -> bool:
    """Every function that a VM would get has been through real starts and stops; what was told of
    its place is of whoever had no serial number there."""
    by_address = {address: identity for identity, _, address in layout.places}
    return all(is_proven(node, by_address.get(address, "")) for address in layout.assign)
