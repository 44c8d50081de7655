"""What may be said and done about an action that was cut short: pure, on a look made afterwards.

A bind or unbind is judged again, by the functions that it moves and not by where they were; of a
reset it is told once how it went. This module must never take what was not read for consent, nor
call a reset lost while somebody may still be making it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.guard import ID
from vfio_agent.actuate.preparation import prepare_on
from vfio_agent.actuate.reset_trial import DEADLINE_S
from vfio_agent.actuate.steps import Kind, Plan, Verb
from vfio_agent.checks.holding import find_holders
from vfio_agent.collect.root import Root
from vfio_agent.journal import Loss
from vfio_contract.action import ActionReport, AskedUnit, Outcome
from vfio_contract.action_codes import ACTION_EVIDENCE_MISSING
from vfio_contract.address import Address
from vfio_contract.artifact import from_plain
from vfio_contract.codes import make_finding
from vfio_contract.findings import Finding, Missing
from vfio_contract.host import Host
from vfio_contract.ledger import ResetAttempt, kernel_seconds

LOST_AFTER_S = DEADLINE_S + 60.0
"""Since the look before a reset: then nobody is still making it, whoever has the device open."""

NOTHING_DONE = "the agent ended before it began: nothing was done"
UNSEEN = "the agent ended before it saw how the reset went"
NO_BOOT = "it was cut short, and waits until the kernel tells which boot this is"
STILL_HELD = f"{UNSEEN}, and somebody has the device open: it may still be under way"

_ON_FUNCTIONS = frozenset({Kind.UNBIND, Kind.OVERRIDE, Kind.BIND, Kind.FORGET})


def moved_by(plan: Plan) -> tuple[Address, ...]:
    """The functions that its steps are about, and the one that was asked for."""
    moved = (Address(step.subject) for step in plan.steps if step.kind in _ON_FUNCTIONS)
    return tuple(dict.fromkeys((plan.primary, *moved)))


def judge_again(
    plan: Plan, root: Root, host: Host, allowance: Allowance, *, expected: AskedUnit | None
) -> tuple[Finding, ...]:
    """Every reason against going on with it, whatever its functions belong to by now.

    A function that is provably gone is no reason: it cannot be moved. `expected` is the unit as it
    was asked about.
    """
    if host.facts.functions is None:
        return (
            make_finding(
                ID,
                f"function:{plan.primary}",
                ACTION_EVIDENCE_MISSING,
                missing=(Missing("the functions of this host", "ls /sys/bus/pci/devices"),),
            ),
        )
    judged: set[Address] = set()
    reasons: list[Finding] = []
    for address in moved_by(plan):
        if address in judged or address not in host.by_address:
            continue
        prepared = prepare_on(root, host, plan.verb, address, allowance, expected=expected)
        judged.update(() if prepared.unit is None else prepared.unit.addresses)
        reasons += prepared.reasons
    return tuple(dict.fromkeys(reasons))


def read_expected(asked: str) -> AskedUnit | None:
    """The unit in what an asker's text kept: of an action on the host, or of a command."""
    row = json.loads(asked)
    found = row.get("expected") or row.get("unit")
    return None if found is None else from_plain(AskedUnit, found)


def heard_until(host: Host) -> float | None:
    """The kernel log's own time of its newest line, in seconds; None where it was not read."""
    kernel_log = host.readings.kernel_log
    if kernel_log is None:
        return None
    return max((line.seconds or 0.0 for line in kernel_log.lines), default=0.0)


def foresee_nothing(id: str, verb: Verb, address: Address) -> Loss:
    """What is told of an action that was taken and that nobody came back to begin."""
    report = ActionReport(id, verb, address, Outcome.FAILED, detail=NOTHING_DONE)
    return Loss(report, (), None)


def tell_reset(
    loss: Loss, attempts: Iterable[ResetAttempt], host: Host, *, boottime_ms: int
) -> tuple[ActionReport, tuple[ResetAttempt, ...]]:
    """The end of a reset that nobody saw, and its rows; WAITING while it may not have come.

    `attempts` are the history after the look at `host`, `boottime_ms` is now.
    """
    said = _find_told(attempts, loss)
    if said is not None:
        detail = f"{loss.report.detail}; the kernel said: {said.evidence}"
        return replace(loss.report, outcome=Outcome.FAILED, detail=detail), ()
    if _is_under_way(loss, host, boottime_ms):
        return replace(loss.report, outcome=Outcome.WAITING, detail=STILL_HELD), ()
    return loss.report, loss.attempts


def _find_told(attempts: Iterable[ResetAttempt], loss: Loss) -> ResetAttempt | None:
    """The newest row of the kernel's log about the reset of which nobody saw the end."""
    if loss.heard_until is None:
        return None
    lost = {(attempt.identity, attempt.boot_id) for attempt in loss.attempts}
    told = None
    for row in attempts:
        at = kernel_seconds(row.evidence)
        if at is not None and at > loss.heard_until and (row.identity, row.boot_id) in lost:
            told = row
    return told


def _is_under_way(loss: Loss, host: Host, boottime_ms: int) -> bool:
    """True while the child that the lost agent left may still be making the reset.

    It holds the group for as long, and the kernel tells of a failure at its end. No child
    outlives its boot.
    """
    boot_id, began_ms = host.readings.boot_id, loss.report.looked_at_ms
    if boot_id and any(attempt.boot_id != boot_id for attempt in loss.attempts):
        return False
    if began_ms is not None and boottime_ms - began_ms > LOST_AFTER_S * 1000:
        return False
    if host.facts.functions is None:
        return True
    concerned = (loss.report.address, *loss.report.assign)
    rows = [host.by_address[a] for a in concerned if a in host.by_address]
    return any(find_holders(host, row) != [] for row in rows)
