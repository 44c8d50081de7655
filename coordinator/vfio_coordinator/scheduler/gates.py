"""The gates of placement: which finding is looked at, in which order, and what a request may allow.

The order of the stages is the order in which a refusal names its reason. FAIL, UNKNOWN, BLOCKED and
a missing finding refuse; WARN passes, except the codes of `ALLOWS`, which pass only for a request
that accepts that risk by name, on a node for which somebody decided to carry it (DESIGN, Who
decides what). This module must never judge evidence:
the checks have done that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vfio_contract.findings import Verdict

STAGES = (
    "heard",
    "admitted",
    "model",
    "platform",
    "isolation",
    "host-critical",
    "binding",
    "reset",
    "free",
    "topology",
)
"""Each node that is refused is counted under the first of these that refuses it."""

ORDER = {stage: number for number, stage in enumerate(STAGES)}

PASSED = len(STAGES)
"""The order number of a unit that no stage refuses."""


class Scope(Enum):
    """Whose finding a gate asks for.

    GROUPS: each IOMMU group of the unit's functions, held ones included. ALL: each endpoint, held
    ones included. ASSIGNED: the functions that go to the VM; a held function is not passed and not
    reset by the VM, and that no host driver has it is part of its group's isolation.
    """

    NODE = "node"
    GROUPS = "groups"
    ALL = "all"
    ASSIGNED = "assigned"


@dataclass(frozen=True, slots=True)
class Gate:
    """A check whose findings decide at a stage."""

    check: str
    stage: str
    scope: Scope


GATES = (
    Gate("iommu-active", "platform", Scope.NODE),
    Gate("interrupt-remapping", "platform", Scope.NODE),
    Gate("cpu-virtualization", "platform", Scope.NODE),
    Gate("group-isolation", "isolation", Scope.GROUPS),
    Gate("host-critical", "host-critical", Scope.ALL),
    Gate("driver-binding", "binding", Scope.ASSIGNED),
    Gate("reset-capability", "reset", Scope.ASSIGNED),
    Gate("reset-history", "reset", Scope.ASSIGNED),
)

ALLOWS = {
    "ACS_OVERRIDE": "acs-override",
    "UNSAFE_INTERRUPTS": "unsafe-interrupts",
    "RESET_ONE_SHOT": "one-shot-reset",
}
"""Code of a WARN -> the word of `--allow` without which it refuses.

The word alone is not enough: the node needs a decision about that code in force (`risk`), which is
the policy's permission.
"""

RISKS = {
    "interrupt-remapping": "UNSAFE_INTERRUPTS",
    "group-isolation": "ACS_OVERRIDE",
    "reset-capability": "RESET_ONE_SHOT",
    "reset-history": "RESET_ONE_SHOT",
}
"""Check -> the code of `ALLOWS` that is about it; what else it finds nobody can accept."""

WEDGED = "RESET_WEDGED"
"""The code that is named before the stages of its unit: a device that did not come back answers
nothing, so that its header, group and binding cannot be read either. Only what is wrong with the
platform comes first."""

PF_HAS_VFS = "PF_HAS_VFS"
"""Code of a `device-functions` finding: the function's VFs are enabled, so it is in use."""

PASSING = frozenset({Verdict.PASS, Verdict.WARN, Verdict.NOT_APPLICABLE})
"""NOT_APPLICABLE passes: the question does not arise on that platform."""
