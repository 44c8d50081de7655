"""The reset ledger's values: what was tried on a function, how it ended, and what that amounts to.

Keyed by identity, firmware tuple and boot, never by address. No error line is not success: an
attempt nobody watched is `unobserved`. This module is pure; the agent's journal keeps the rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from vfio_contract.model import ResetSummary


class Outcome(StrEnum):
    """How one reset ended."""

    SUCCESS = "success"
    FAILED = "failed"
    WEDGED = "wedged"
    UNOBSERVED = "unobserved"


class ResetState(StrEnum):
    """What the history amounts to. FAILING and WEDGED refuse placement; CLEAN is not PROVEN."""

    CLEAN = "clean"
    PROVEN = "proven"
    FAILING = "failing"
    WEDGED = "wedged"
    PROBATION = "probation"


@dataclass(frozen=True, slots=True)
class ResetAttempt:
    """One reset. `firmware` is the tuple's digest; `key` makes the same kernel line the same row.

    `method` is a `reset_method` name or "" when the evidence does not tell.
    """

    key: str
    identity: str
    firmware: str
    boot_id: str
    method: str
    outcome: Outcome
    evidence: str


def summarise_attempts(
    identity: str, attempts: Iterable[ResetAttempt], *, boot_id: str, firmware: str
) -> ResetSummary:
    """The state of one identity. `attempts` are in the order they happened.

    Wedged in this boot stays wedged until a later success in it; wedged in an earlier boot becomes
    probation, and only a later success clears that. Failures in this boot after the last success
    are failing; older failures on the same firmware tuple are probation too. Success under another
    firmware tuple proves nothing here.
    """
    rows = [a for a in attempts if a.identity == identity]
    failures = [a for a in rows if a.outcome in (Outcome.FAILED, Outcome.WEDGED)]
    state = ResetState.CLEAN
    for row in rows:
        if row.outcome is Outcome.SUCCESS and row.firmware == firmware:
            state = ResetState.CLEAN
        elif row.outcome is Outcome.WEDGED:
            state = ResetState.WEDGED if row.boot_id == boot_id else ResetState.PROBATION
        elif row.outcome is Outcome.FAILED:
            if row.boot_id == boot_id:
                worse = state is ResetState.WEDGED
                state = ResetState.WEDGED if worse else ResetState.FAILING
            else:
                state = ResetState.PROBATION
    last = rows[-1] if rows else None
    shown = failures[-1] if failures else last
    return ResetSummary(
        identity=identity,
        state=str(state),
        attempts=len(rows),
        failures=len(failures),
        last_outcome=str(last.outcome) if last else "",
        last_evidence=shown.evidence if shown else "",
    )
