"""Carries a plan out, step by step, so that a crash at any moment can be made good.

Each step is looked at before it is done: what is as it should be is left, what is as it was is
moved, and what is neither belongs to somebody else by now, so that everything stops. The same call
with the same operation is therefore also the way on after a crash. A step that fails takes back
those before it; one that the kernel has not answered yet is neither done nor taken back. This
module must never have an effect whose intent is not on disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vfio_agent.actuate.hands import Hands, Waiting
from vfio_agent.actuate.records import Diary, Entry, Operation, State
from vfio_agent.actuate.steps import ANY_HOST_DRIVER, Kind, Plan, Step, only_files, undo
from vfio_contract.intention import VFIO_DRIVERS

WHOLE = -1
"""The step number of entries about an operation as a whole."""

_UNSEEN = frozenset({Kind.MODULE, Kind.FORGET})
"""What cannot be looked at, and takes nothing from anybody."""

_SETTLED = frozenset({State.DONE, State.ALREADY})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended: DONE, UNDONE, WAITING, FAILED or CHANGED.

    `entries` are the results of its steps in order, those of the way back included. UNDONE is what
    a failure leads to when everything could be taken back.
    """

    state: State
    entries: tuple[Entry, ...]


def resume(
    operation: Operation, entries: Iterable[Entry], hands: Hands, diary: Diary, *, boot_id: str
) -> Outcome:
    """Go on with an operation that a crash cut short, in the direction in which it went.

    `entries` are all that the diary holds of it.
    """
    if any(entry.undoing for entry in entries):
        if operation.boot_id != boot_id:  # the bindings are those of the new boot: not ours
            operation = replace(operation, plan=only_files(operation.plan))
        return take_back(operation, hands, diary)
    return carry_out(operation, hands, diary, boot_id=boot_id)


def has_moves(operation: Operation, entries: Iterable[Entry], hands: Hands) -> bool:
    """False when `resume` would find every driver, override and file as it is to be."""
    plan = operation.plan
    steps = undo(plan).steps if any(entry.undoing for entry in entries) else plan.steps
    try:
        return any(
            not is_done(step, steps[number + 1 :], hands.observe(step))
            for number, step in enumerate(steps)
            if step.kind not in _UNSEEN
        )
    except OSError:
        return True


class _Stop(Exception):
    """A step that did not come to its end; the entry says how."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.detail)
        self.entry = entry


def carry_out(operation: Operation, hands: Hands, diary: Diary, *, boot_id: str) -> Outcome:
    """Do the operation, or what is left of it; undo it where a step fails.

    After a reboot (another `boot_id`) the bindings are gone and nobody has agreed to them for this
    boot: then only its files are taken back. Whatever the diary raises ends it at once: what is not
    on disk is not done.
    """
    diary.begin(operation)
    run = _Run(operation, hands, diary)
    if operation.boot_id != boot_id:
        return run.take_back(only_files(operation.plan), "the host was rebooted meanwhile")
    try:
        run.perform(operation.plan)
    except _Stop as stop:
        if stop.entry.state is State.WAITING:
            return run.end(State.WAITING, stop.entry.detail)
        return run.take_back(operation.plan, stop.entry.detail)
    return run.end(State.DONE, "")


def take_back(operation: Operation, hands: Hands, diary: Diary) -> Outcome:
    """Bring back what an operation found, whichever of its steps were done."""
    diary.begin(operation)
    return _Run(operation, hands, diary).take_back(operation.plan, "asked for")


class _Run:
    def __init__(self, operation: Operation, hands: Hands, diary: Diary) -> None:
        self._operation = operation
        self._hands = hands
        self._diary = diary
        self._entries: list[Entry] = []

    def end(self, state: State, detail: str) -> Outcome:
        self._diary.note(Entry(self._operation.id, WHOLE, state, detail))
        return Outcome(state, tuple(self._entries))

    def take_back(self, plan: Plan, why: str) -> Outcome:
        """Every thing on its own: what somebody else has changed must not keep the rest."""
        self._diary.note(Entry(self._operation.id, WHOLE, State.INTENDED, why, undoing=True))
        back = undo(plan).steps
        left = []
        for number in range(len(back)):
            result = self._do(back, number, undoing=True)
            if result.state is State.WAITING:
                return self.end(State.WAITING, f"{why}; not taken back yet: {result.detail}")
            if result.state not in _SETTLED:
                left.append(result)
        if left:
            details = "; ".join(entry.detail for entry in left)
            return self.end(left[0].state, f"{why}; not taken back: {details}")
        return self.end(State.UNDONE, why)

    def perform(self, plan: Plan) -> None:
        for number in range(len(plan.steps)):
            result = self._do(plan.steps, number)
            if result.state not in _SETTLED:
                raise _Stop(result)

    def _do(self, steps: Sequence[Step], number: int, *, undoing: bool = False) -> Entry:
        entry = Entry(self._operation.id, number, State.INTENDED, undoing=undoing)
        result = self._perform(steps[number], steps[number + 1 :], entry)
        self._entries.append(result)
        self._diary.note(result)
        return result

    def _perform(self, step: Step, later: Sequence[Step], entry: Entry) -> Entry:
        began = time.monotonic()

        def result(state: State, detail: str = "") -> Entry:
            return replace(entry, state=state, detail=detail, seconds=time.monotonic() - began)

        try:
            now = self._hands.observe(step)
            if is_done(step, later, now):
                return result(State.ALREADY)
            if not _is(now, step.old, step):
                return result(State.CHANGED, _say_changed(step, now))
            self._diary.note(entry)
            self._hands.apply(step)
            return self._verify(step, result(State.DONE))
        except Waiting as error:
            return result(State.WAITING, str(error))
        except OSError as error:
            return result(State.FAILED, f"{step.path}: {error.strerror or error}")

    def _verify(self, step: Step, entry: Entry) -> Entry:
        """A write that the kernel took is not yet an effect."""
        if step.kind in _UNSEEN:
            return entry
        now = self._hands.observe(step)
        if _is(now, step.new, step):
            return entry
        if step.new == ANY_HOST_DRIVER and now == "":
            return replace(entry, detail="no driver of the host took it")
        detail = f"{step.thing}: is {now or 'nothing'} afterwards, not {step.new or 'nothing'}"
        return replace(entry, state=State.FAILED, detail=detail)


def is_done(step: Step, later: Sequence[Step], now: str | None) -> bool:
    """True when the thing is as this step leaves it, or as a later one does.

    A function's driver goes through several values in one plan; on a second run the last one may
    be there already.
    """
    if step.kind is Kind.FORGET or (step.kind is Kind.MODULE and now != step.new):
        return False
    return any(_is(now, s.new, s) for s in (step, *later) if s.thing == step.thing)


def _is(now: str | None, wanted: str | None, step: Step) -> bool:
    if wanted == ANY_HOST_DRIVER and step.kind in (Kind.BIND, Kind.UNBIND):
        return bool(now) and not _is_vfio(now or "")
    return now == wanted


def _is_vfio(driver: str) -> bool:
    return driver in VFIO_DRIVERS or driver.endswith(("-vfio-pci", "_vfio_pci"))


def _say_changed(step: Step, now: str | None) -> str:
    if step.kind is Kind.FILE:
        return f"{step.path}: was changed by somebody else since it was planned"
    return f"{step.thing}: is {now or 'nothing'}, neither {step.old or 'nothing'} nor as planned"
