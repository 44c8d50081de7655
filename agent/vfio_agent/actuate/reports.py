"""From what the hands did to the report that people and the cluster read.

Pure. It must never call done what was not seen done, nor leave out a step that was begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vfio_agent.actuate.execution import WHOLE
from vfio_agent.actuate.preparation import Prepared
from vfio_agent.actuate.records import Entry, Operation, State
from vfio_agent.actuate.reset_trial import Ending, ResetResult
from vfio_agent.actuate.steps import Plan, Step, describe_change, only_files, undo
from vfio_contract import ledger
from vfio_contract.action import (
    ActionReport,
    ActionStep,
    FunctionChanges,
    Outcome,
    ResetProof,
)
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import LogLine

PLANNED, UNTOUCHED = "planned", "untouched"
"""States of a step beside those of an `Entry`: to be done, and never begun."""

_ENDS = {
    State.DONE: Outcome.DONE,
    State.UNDONE: Outcome.UNDONE,
    State.WAITING: Outcome.WAITING,
}
"""Of an operation; every other state leaves something half done."""

_RESETS = {
    ledger.Outcome.SUCCESS: Outcome.DONE,
    ledger.Outcome.UNOBSERVED: Outcome.UNKNOWN,
}


def begin_report(
    id: str, prepared: Prepared, address: Address, looked_at_ms: int | None
) -> ActionReport:
    """Who was asked about what, before anything was done: PLANNED, or why not."""
    unit, plan = prepared.unit, prepared.plan
    report = ActionReport(
        id=id,
        verb=prepared.verb,
        address=address,
        outcome=Outcome.PLANNED if prepared.consented else judge_reasons(prepared.reasons),
        reasons=prepared.reasons,
        looked_at_ms=looked_at_ms,
    )
    if unit is not None:
        report = replace(report, unit=unit.id, assign=unit.assign, hold=unit.hold)
    if plan is None:
        return report
    return _with_plan(report, plan, tuple(_step(step, PLANNED) for step in plan.steps))


def refuse(report: ActionReport, *reasons: Finding) -> ActionReport:
    """The report with more reasons against it."""
    found = (*report.reasons, *reasons)
    return replace(report, outcome=judge_reasons(found), reasons=found, steps=())


def judge_reasons(reasons: Sequence[Finding]) -> Outcome:
    """REFUSED where one of them is a fact; UNKNOWN where it is only not known to be safe."""
    verdicts = {finding.verdict for finding in reasons}
    if Verdict.FAIL in verdicts or not verdicts & {Verdict.UNKNOWN, Verdict.BLOCKED}:
        return Outcome.REFUSED
    return Outcome.UNKNOWN


def report_operation(
    report: ActionReport, operation: Operation, entries: Sequence[Entry], *, boot_id: str
) -> ActionReport:
    """How an operation stands. `entries` are all that the diary holds of it."""
    plan = operation.plan
    whole = [entry for entry in entries if entry.step == WHOLE]
    state = whole[-1].state if whole else State.INTENDED
    back = _way_back(plan, entries, rebooted=operation.boot_id != boot_id)
    steps = (*_forward(plan, entries), *back)
    detail = whole[-1].detail if whole else ""
    outcome = _ENDS.get(state, Outcome.FAILED)
    return _with_plan(replace(report, outcome=outcome, detail=detail), plan, steps)


def report_reset(report: ActionReport, result: ResetResult) -> ActionReport:
    """What a reset test proved."""
    proof = ResetProof(
        method=result.method,
        ending=result.ending.value,
        outcome="" if result.outcome is None else result.outcome.value,
        why=result.why,
        seconds=result.seconds,
        changes=tuple(
            FunctionChanges(address, tuple(str(change) for change in rows))
            for address, rows in result.changes
        ),
        lines=None if result.lines is None else tuple(_show(line) for line in result.lines),
    )
    outcome = Outcome.FAILED
    if result.ending is Ending.WAITING:
        outcome = Outcome.WAITING
    elif result.ending is Ending.REFUSED:
        outcome = Outcome.REFUSED
    elif result.outcome is not None:
        outcome = _RESETS.get(result.outcome, Outcome.FAILED)
    detail = "" if outcome is Outcome.DONE else result.why
    return replace(report, outcome=outcome, detail=detail, method="", reset=proof)


def _with_plan(report: ActionReport, plan: Plan, steps: tuple[ActionStep, ...]) -> ActionReport:
    return replace(report, steps=steps, method=plan.method, because=plan.reasons, notes=plan.notes)


def _forward(plan: Plan, entries: Sequence[Entry]) -> Iterator[ActionStep]:
    last = {entry.step: entry for entry in entries if not entry.undoing}
    for number, step in enumerate(plan.steps):
        entry = last.get(number)
        yield _step(step, UNTOUCHED) if entry is None else _told(step, entry)


def _way_back(plan: Plan, entries: Sequence[Entry], *, rebooted: bool) -> Iterator[ActionStep]:
    """Steps of the last way back, as far as it was gone."""
    begun = [number for number, entry in enumerate(entries) if entry.undoing and _is_whole(entry)]
    if not begun:
        return
    steps = undo(only_files(plan) if rebooted else plan).steps
    last = {e.step: e for e in entries[begun[-1] :] if e.undoing and not _is_whole(e)}
    for number, entry in sorted(last.items()):
        if number < len(steps):
            yield _told(steps[number], entry)


def _is_whole(entry: Entry) -> bool:
    return entry.step == WHOLE


def _step(step: Step, state: str) -> ActionStep:
    return ActionStep(
        kind=step.kind,
        subject=step.subject,
        path=step.path,
        change=tuple(describe_change(step)),
        state=state,
    )


def _told(step: Step, entry: Entry) -> ActionStep:
    return replace(
        _step(step, entry.state.value),
        detail=entry.detail,
        seconds=round(entry.seconds, 6),
        undoing=entry.undoing,
    )


def _show(line: LogLine) -> str:
    return line.text if line.seconds is None else f"[{line.seconds:12.6f}] {line.text}"
