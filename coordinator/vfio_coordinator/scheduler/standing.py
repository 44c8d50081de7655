"""How one unit stands with the gates, and how it is offered to placement.

A `Standing` follows from the findings; an `Offer` adds who has the unit. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vfio_contract.address import Address
from vfio_contract.findings import Verdict
from vfio_coordinator.scheduler.layout import UnitLayout
from vfio_coordinator.scheduler.risk import RiskDecision
from vfio_coordinator.scheduler.shape import UnitClass


@dataclass(frozen=True, slots=True)
class Refusing:
    """A gate that refuses a unit: its verdict, where, and the evidence as `source: text` lines."""

    gate: str
    stage: str
    verdict: Verdict
    code: str
    reason: str
    evidence: tuple[str, ...]

    @property
    def told(self) -> str:
        """The reason for a line that says the code already: `where: what was seen`."""
        where, named, seen = self.reason.partition(f"{self.code}: ")
        if not self.code or not named:
            return self.reason
        where = where.rstrip()
        return f"{where}: {seen}" if where and not seen.startswith(where) else seen


@dataclass(frozen=True, slots=True)
class Need:
    """A risk that a request must accept by `word` where a decision permits `code`; the stage that
    refuses it otherwise."""

    word: str
    stage: str
    code: str
    reason: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """A unit and its gates.

    `refusing` are the gates that do not pass, in stage order but for `gates.WEDGED`; `busy` says
    that something outside our claims has it, or that this is not known (stage `free`), and
    `foreign` that it is a process. `proof` is what `read_proof` reads; b"" for a unit that some
    gate refuses.
    """

    layout: UnitLayout
    model: str
    refusing: tuple[Refusing, ...]
    needs: tuple[Need, ...]
    busy: Refusing | None
    foreign: bool
    proof: bytes = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        """PASS or WARN when every gate passes (WARN: with needs), FAIL, or UNKNOWN."""
        if any(r.verdict is Verdict.FAIL for r in self.refusing):
            return Verdict.FAIL
        if self.refusing:
            return Verdict.UNKNOWN
        return Verdict.WARN if self.needs else Verdict.PASS


@dataclass(frozen=True, slots=True)
class Offer:
    """A unit as placement sees it.

    `state` is free, claimed, pending, foreign, unfit or unknown; `vm` the holder's name. `shape`
    is all that choosing between units looks at. `free_of_claims` is True when neither the unit nor
    the PF of its VFs is claimed. `risks` are the node's decisions about its needs, ended ones too.
    """

    standing: Standing
    state: str
    vm: str
    why: str
    shape: UnitClass
    free_of_claims: bool
    risks: tuple[RiskDecision, ...] = ()

    def decision_about(self, code: str) -> RiskDecision | None:
        """The node's last decision about one of its needs, None for none."""
        return next((d for d in self.risks if d.code == code), None)

    @property
    def unit(self) -> str:
        """The unit's id."""
        return self.standing.layout.id

    @property
    def primary(self) -> Address:
        """The function by which people know it."""
        return self.standing.layout.primary
