"""Risk decisions for the screens: one in force, one that expired under a VM, one revoked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.cli import samples
from vfio_contract.findings import Verdict
from vfio_contract.views import Decision, GateProof, NodeView, RiskView

COMMAND = "vfioctl risk accept --node pve05 --code ACS_OVERRIDE --reason TEXT --until DATE"


def risk(node: str = "pve03", **changes: Any) -> RiskView:
    """`ops` carries the ACS override of pve03 until 2027-03-01."""
    values: dict[str, Any] = {
        "id": "risk-1a2b3c4d",
        "node": node,
        "code": "ACS_OVERRIDE",
        "state": "accepted",
        "reason": "one tenant; the board is replaced in February",
        "accepted_by": "ops",
        "accepted_at": samples.AT,
        "until": "2027-03-01T23:59:59Z",
        "ended_by": "",
        "ended_at": "",
        "seen": "yes",
        "vms": ("train-9",),
    }
    return RiskView(**(values | changes))


def risks() -> tuple[RiskView, ...]:
    """One of each state, by node."""
    expired = {"state": "expired", "ended_by": "auto:RISK_EXPIRED"}
    revoked = {"state": "revoked", "ended_by": "ann", "ended_at": samples.AT, "vms": ()}
    return (
        risk(),
        risk(
            "pve05",
            id="risk-99aa00bb",
            until="2026-11-20T10:00:00Z",
            ended_at="2026-11-20T10:00:00Z",
            reason="lab",
            **expired,
        ),
        risk("pve06", id="risk-0c0d0e0f", code="UNSAFE_INTERRUPTS", reason="lab", **revoked),
    )


def node(*shown: RiskView) -> NodeView:
    """A node with one risky unit and these decisions."""
    plain = samples.node("pve03", verdict=Verdict.WARN)
    unit = samples.unit(3, state="unfit", why="group 17: ACS_OVERRIDE; risk accepted by ops")
    return replace(plain, units=(unit,), risks=shown)


def placement() -> Decision:
    """A unit that was given away on a decision."""
    whole = samples.placement()
    text = "ACS_OVERRIDE: risk accepted by ops until 2027-03-01: one tenant (risk-1a2b3c4d)"
    proof = GateProof("risk-decision", Verdict.WARN, "ACS_OVERRIDE", (text,), 12.0)
    unit = replace(whole.units[0], proof=(*whole.units[0].proof, proof))
    return Decision(placement=replace(whole, units=(unit,)), refusal=None)
