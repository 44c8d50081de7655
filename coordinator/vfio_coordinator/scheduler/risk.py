"""What a person decided about a risk on a node, as placement sees it, and the words for it.

A WARN of `gates.ALLOWS` is a risk that somebody must carry: the request says so by `--allow`, and
the node's recorded decision is the policy's permission. Values and texts only: whether a decision
is in force was settled by the state, which knows the time. Nothing here may turn a missing decision
into one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from vfio_contract import codes

EXPIRED, REVOKED = "expired", "revoked"
"""How a decision ends."""

GATE = "risk-decision"
"""The row of a proof that names the decision."""

_DAY_END = "T23:59:59Z"


@dataclass(frozen=True, slots=True)
class RiskDecision:
    """`by` accepted the risk `code` because of `reason`; `until` is the last second it holds.

    `ended` is "" while it is in force, else how it ended; then `ended_by` and `ended_at` say who
    (`auto:...` or a user's name) and when. Times are UTC in ISO 8601.
    """

    code: str
    id: str
    reason: str
    by: str
    until: str
    ended: str = ""
    ended_by: str = ""
    ended_at: str = ""

    @property
    def in_force(self) -> bool:
        """True while it permits anything."""
        return not self.ended


Risks = Mapping[str, RiskDecision]
"""Code -> the last decision about it on one node."""

NO_RISKS: Risks = {}


def permits(risks: Risks, code: str) -> bool:
    """Whether a decision about this risk is in force."""
    decision = risks.get(code)
    return decision is not None and decision.in_force


def describe_end(until: str) -> str:
    """`2027-03-01` for the end of that day, else the moment."""
    return until.removesuffix(_DAY_END)


def describe_risk(decision: RiskDecision | None) -> str:
    """Accepted by whom until when, or why it is not."""
    if decision is None:
        return "no risk decision recorded"
    if decision.in_force:
        return f"risk accepted by {decision.by} until {describe_end(decision.until)}"
    if decision.ended == EXPIRED:
        return f"the risk decision of {decision.by} expired {describe_end(decision.until)}"
    by = decision.ended_by
    return f"the risk decision of {decision.by} was {decision.ended} by {by} {decision.ended_at}"


def accept_command(node: str, code: str) -> str:
    """The command that records a decision; who runs it fills in the words in capitals."""
    words = ["vfioctl", "risk", "accept", "--node", node, "--code", code]
    return shlex.join([*words, "--reason", "TEXT", "--until", "DATE"])


def name_end(decision: RiskDecision | None) -> tuple[str, str] | None:
    """Code and words for a risk that nobody carries any more, None for one that somebody does."""
    if decision is not None and decision.in_force:
        return None
    expired = decision is not None and decision.ended == EXPIRED
    name = codes.RISK_EXPIRED.name if expired else codes.RISK_REVOKED.name
    return name, describe_risk(decision)
