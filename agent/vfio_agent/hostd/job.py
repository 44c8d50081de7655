"""One action while it has no end: what was asked, who waits for it, and how far it came.

A value that `acting` changes, and what is said of it. It must never do anything itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vfio_agent.actuate.guard import ID, touched_by
from vfio_agent.actuate.steps import Verb
from vfio_contract.action import ActionReport, AskedUnit, Outcome
from vfio_contract.action_codes import ACTION_EVIDENCE_MISSING
from vfio_contract.address import Address
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing
from vfio_contract.host import Host
from vfio_contract.ledger import ResetAttempt
from vfio_contract.units import Unit

Told = tuple[ActionReport, tuple[ResetAttempt, ...]]
"""How an action ended, and what the reset history gets of it."""

Done = Callable[[ActionReport], None]
"""Takes the report, on the worker's thread or the caller's; it must not wait."""

Valid = Callable[[], tuple[Code, str] | None]
"""What the asker has against it by now: a code and the text for people, None for nothing. It is
called on the worker's thread."""


@dataclass(slots=True)
class Job:
    """An action that was asked for and has not ended.

    `resumed` is one that an earlier process took. `concerns` are functions that it may still move.
    `again` asks how a reset stands that the kernel keeps. `told` is what could not be stored yet.
    """

    id: str
    verb: Verb
    address: Address
    expected: AskedUnit | None = None
    valid: Valid | None = None
    resumed: bool = False
    identity: str = ""
    concerns: frozenset[Address] = frozenset()
    waits_for: frozenset[int] = frozenset()
    waited: bool = False
    again: Callable[[], Told] | None = None
    told: Told | None = None
    askers: list[Done] = field(default_factory=list)

    def bare(self) -> ActionReport:
        """A report of it that says nothing but REFUSED."""
        return ActionReport(self.id, self.verb, self.address, Outcome.REFUSED)

    def reason(self, code: Code, source: str, text: object) -> Finding:
        """A reason against it."""
        return make_finding(ID, f"function:{self.address}", code, Evidence(source, str(text)))

    def miss(self, evidence: str, command: str) -> Finding:
        """That something which decides was not read, with the command that gets it."""
        missing = (Missing(evidence, command),)
        return make_finding(
            ID, f"function:{self.address}", ACTION_EVIDENCE_MISSING, missing=missing
        )


def concerned_by(host: Host, verb: Verb, unit: Unit) -> frozenset[Address]:
    """The functions on which no other action may be under way."""
    touched = [f.address for f in touched_by(verb, host, unit) if not f.is_bridge]
    return frozenset((*unit.addresses, *touched))
