"""What would be done, shown before anything is: nothing has to be permitted for that.

Reads and never writes. It must never make a plan look permitted that is not: the notes say it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vfio_agent.actuate.allowance import EVERY, Allowance
from vfio_agent.actuate.preparation import Prepared, prepare_on
from vfio_agent.actuate.reports import begin_report
from vfio_agent.actuate.reset_trial import method_of, plan_reset
from vfio_agent.actuate.steps import Verb
from vfio_agent.collect.root import Root
from vfio_contract.action import NOT_PERMITTED, ActionReport, AskedUnit
from vfio_contract.address import Address
from vfio_contract.host import Host


def preview(
    root: Root,
    host: Host,
    verb: Verb,
    address: Address,
    allowance: Allowance | None,
    *,
    id: str,
    looked_at_ms: int | None,
    expected: AskedUnit | None = None,
) -> ActionReport:
    """PLANNED with all steps, or all reasons against it but that it is not permitted.

    `allowance` is the owner's, None for a host that is elsewhere.
    """
    anything = Allowance(frozenset(Verb), frozenset({EVERY}), "")
    prepared = prepare_on(root, host, verb, address, anything, expected=expected)
    report = begin_report(id, prepared, address, looked_at_ms)
    notes = (*report.notes, *_notes(prepared, host, address, allowance))
    return replace(report, notes=notes)


def _notes(
    prepared: Prepared, host: Host, address: Address, allowance: Allowance | None
) -> Iterator[str]:
    unit, verb = prepared.unit, prepared.verb
    if unit is None:
        return
    if prepared.consented and verb is Verb.RESET_TEST:
        request = plan_reset(host, host.by_address[address])
        name = method_of(host.by_address[address], request.how) or "kernel's own choice of"
        yield f"{name} reset of {address}, in which it is held by nobody else"
        others = [a for a in request.domain if a != address]
        if others:
            yield f"it takes along {' '.join(others)}"
    if allowance is None:
        return
    denied = [a for a in unit.assign if not allowance.permits(verb, host.by_address[a])]
    if denied:
        yield f"{NOT_PERMITTED}: {allowance.source} permits no {verb} of {' '.join(denied)}"
