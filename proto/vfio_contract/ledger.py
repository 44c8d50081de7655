"""The reset ledger's values: what was tried on a function, how it ended, and what that amounts to.

Keyed by identity, firmware tuple and boot, never by address. No error line is not success: an
attempt nobody watched is `unobserved`. This module is pure; the agent's journal keeps the rows.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from vfio_contract.model import ResetEvent, ResetSummary

RECENT = 8
"""Attempts that a summary tells one by one."""

_STAMP = re.compile(r"\[ *(\d+\.\d+)\] ")
_WAITED = re.compile(r"not ready (\d{1,9})ms after|not set in (\d{1,9}) msec")
"""How long the kernel waited (drivers/pci/pci.c: pci_dev_wait(), pcie_wait_for_link_delay())."""


class Outcome(StrEnum):
    """How one reset ended."""

    SUCCESS = "success"
    FAILED = "failed"
    WEDGED = "wedged"
    UNOBSERVED = "unobserved"


FAILURES = frozenset({Outcome.FAILED, Outcome.WEDGED})


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

    `method` is a `reset_method` name or "" when the evidence does not tell. `boot_id` is "" where
    it is not known. `place` is what `identity` is without a serial number ("" where not known): a
    device that died has none left to read.
    """

    key: str
    identity: str
    firmware: str
    boot_id: str
    method: str
    outcome: Outcome
    evidence: str
    place: str = ""


def summarise_attempts(
    identity: str, attempts: Iterable[ResetAttempt], *, boot_id: str | None, firmware: str
) -> ResetSummary:
    """The state of one identity. `attempts` are in the order they happened, all firmware tuples.

    A failure stands until a success on its own firmware tuple or on this one. Of the standing
    failures, any that wedged the device in this boot make it wedged, else any of this boot failing,
    else those of earlier boots probation: a reboot may have cured it and may not. Where `boot_id`
    is None, or a failure's own is not known, no reboot lies between them for sure and it counts as
    of this boot. A success on another tuple proves nothing about this one: nothing here is PROVEN.
    """
    rows = [a for a in attempts if a.identity == identity]
    standing: list[ResetAttempt] = []
    for row in rows:
        if row.outcome is Outcome.SUCCESS:
            standing = [s for s in standing if row.firmware not in (firmware, s.firmware)]
        elif row.outcome in FAILURES:
            standing.append(row)
    now = {s.outcome for s in standing if boot_id is None or s.boot_id in ("", boot_id)}
    if Outcome.WEDGED in now:
        state = ResetState.WEDGED
    elif now:
        state = ResetState.FAILING
    else:
        state = ResetState.PROBATION if standing else ResetState.CLEAN
    last = rows[-1] if rows else None
    shown = standing[-1] if standing else last
    return ResetSummary(
        identity=identity,
        state=str(state),
        attempts=len(rows),
        failures=sum(row.outcome in FAILURES for row in rows),
        last_outcome=str(last.outcome) if last else "",
        last_evidence=shown.evidence if shown else "",
        recent=tuple(_make_event(row, boot_id) for row in rows[-RECENT:]),
    )


def kernel_seconds(evidence: str) -> float | None:
    """When the kernel wrote the line that an attempt quotes; None where it quotes none."""
    stamp = _STAMP.match(evidence)
    return None if stamp is None else float(stamp[1])


def _make_event(row: ResetAttempt, boot_id: str | None) -> ResetEvent:
    waited = _WAITED.search(row.evidence)
    return ResetEvent(
        method=row.method,
        outcome=str(row.outcome),
        waited_ms=None if waited is None else int(waited[1] or waited[2]),
        seconds=kernel_seconds(row.evidence),
        this_boot=row.boot_id == boot_id if row.boot_id and boot_id else None,
    )
