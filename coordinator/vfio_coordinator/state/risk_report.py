"""Risk decisions as people see them, and beside the findings that they are about.

Accepted and not accepted never read alike, and what is not accepted names the command that would
accept it. Nothing here decides or writes.
"""

from __future__ import annotations

from vfio_contract.findings import Finding, Verdict
from vfio_contract.views import RiskView
from vfio_coordinator.scheduler.gates import ALLOWS
from vfio_coordinator.scheduler.risk import accept_command, describe_risk
from vfio_coordinator.state.judge import claims_on
from vfio_coordinator.state.model import Node, RiskHeld, State


def risk_views(state: State, node: str = "") -> tuple[RiskView, ...]:
    """The last decision about each risk, ended ones too, by node and code; of one node or all."""
    rows = [state.nodes[node]] if node else state.nodes.values()
    found = [(one.name, code) for one in rows for code in one.risks]
    return tuple(risk_view(state, name, code) for name, code in sorted(found))


def risk_view(state: State, name: str, code: str) -> RiskView:
    """One decision. KeyError when there is none."""
    node = state.nodes[name]
    held: RiskHeld = node.risks[code]
    decision, record = held.decision, held.record
    return RiskView(
        id=decision.id,
        node=name,
        code=code,
        state=decision.ended or "accepted",
        reason=decision.reason,
        accepted_by=decision.by,
        accepted_at=record.at,
        until=decision.until,
        ended_by=decision.ended_by,
        ended_at=decision.ended_at,
        seen=_seen(node, code),
        vms=find_standing(state, name, code),
    )


def find_standing(state: State, node: str, code: str) -> tuple[str, ...]:
    """VMs whose claim on the node stands on a decision about this risk, by name."""
    claims = claims_on(state, node)
    return tuple(dict.fromkeys(claim.vm for claim in claims if code in claim.risks))


def _seen(node: Node, code: str) -> str:
    observation, judgement = node.observation, node.judgement
    if observation is None or judgement is None or not judgement.fresh:
        return "unknown"
    return "yes" if any(is_risk(f) and f.code == code for f in observation.findings) else "no"


def is_risk(finding: Finding) -> bool:
    """Whether a finding is a WARN that somebody may decide to carry."""
    return finding.verdict is Verdict.WARN and finding.code in ALLOWS


_GET = "Get the missing evidence below, then: "
_BELOW = "missing evidence below is there: "


def _on_the_node(decision: str) -> str:
    if decision.startswith(_GET):
        return f"On the node: sudo {decision.removeprefix(_GET)}"
    return decision.replace(_BELOW, "missing evidence is there; on the node: sudo ")


def decision_text(node: Node, finding: Finding) -> str:
    """What a finding asks for, with the decision that was made about its risk before it.

    Which evidence is missing is listed on the node alone: a view of the finding says so.
    """
    if not is_risk(finding):
        return _on_the_node(finding.decision)
    held = node.risks.get(finding.code)
    known = describe_risk(held.decision if held is not None else None)
    known = f"{known[0].upper()}{known[1:]}"
    if held is not None and held.decision.in_force:
        word = ALLOWS[finding.code]
        return (
            f"{known}: {held.decision.reason} ({held.decision.id}). Requests need --allow {word}."
        )
    return f"{known}: {accept_command(node.name, finding.code)}. {finding.decision}".rstrip()
