"""What is asked of the hands, one action at a time: looked at afresh, consented to, done, and told.

Each action is durable before its first effect and has one end, which is in the journal together
with the event for the cluster, the room that was kept for that event, and the reset history. What
a crash cut short is ended at the next start, before anything else is done. This module must never
act on evidence that is older than its own look, nor do an id twice.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from vfio_agent.actuate.execution import carry_out, has_moves, resume
from vfio_agent.actuate.preparation import Prepared, prepare_on
from vfio_agent.actuate.reach import Reach
from vfio_agent.actuate.records import Operation
from vfio_agent.actuate.reports import begin_report, refuse, report_operation, report_reset
from vfio_agent.actuate.reset_trial import ResetResult, foresee_loss
from vfio_agent.actuate.steps import Verb
from vfio_agent.collect.root import Root
from vfio_agent.hostd.aftermath import (
    NO_BOOT,
    UNSEEN,
    foresee_nothing,
    heard_until,
    judge_again,
    moved_by,
    read_expected,
    tell_reset,
)
from vfio_agent.hostd.job import Done, Job, Told, Valid, concerned_by
from vfio_agent.inspect import now
from vfio_agent.journal import Journal, JournalFull, Loss, SpoolFull
from vfio_contract.action import ActionReport, AskedUnit, Outcome, ended_event
from vfio_contract.action_codes import (
    ACTION_LIMIT,
    ACTION_QUEUE_FULL,
    ACTION_UNFINISHED,
)
from vfio_contract.address import Address
from vfio_contract.artifact import encode
from vfio_contract.codes import JOURNAL_FAILED, SPOOL_FULL
from vfio_contract.findings import Finding
from vfio_contract.host import Host
from vfio_contract.ledger import ResetAttempt

log = logging.getLogger("vfio-hostd")

MAX_QUEUED = 16
"""Actions that may wait; a reset can take three minutes."""

RETRY_S = 5.0
"""Between two looks whether what waits for the kernel, or for room on the disk, can go on."""

CLOSE_S = 5.0
"""For an action to end when hostd does; the next start ends it otherwise."""


class Acting:
    """The actions of one host. `submit` may be called from any thread."""

    def __init__(
        self,
        journal: Journal,
        reach: Reach,
        *,
        on_end: Callable[[], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        """`on_end` is called after each action, `on_fault` with a fault of our own."""
        self._journal = journal
        self._reach = reach
        self._on_end = on_end
        self._on_fault = on_fault
        self._turn = threading.Condition()
        # Below: guarded by _turn.
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._ending = False
        # Below: the worker's.
        self._waiting: list[Job] = []

    def start(self) -> None:
        """Begin to end what a crash cut short; JournalError."""
        for kept in self._journal.actions.unfinished():
            if kept.verb in tuple(Verb):
                address = Address("") if kept.loss is None else kept.loss.report.address
                self._put(Job(kept.id, Verb(kept.verb), address, resumed=True))

    def close(self) -> None:
        """End after the action that is under way, or leave it to the next start."""
        with self._turn:
            self._ending = True
            self._turn.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_S)

    def submit(
        self,
        *,
        id: str,
        verb: Verb,
        address: Address,
        expected: AskedUnit | None,
        done: Done,
        valid: Valid | None = None,
    ) -> None:
        """Have it done; `done` gets the report once.

        An id that has ended gives its stored report, one under way its end. `expected` is the unit
        as its asker saw it. `valid` is asked just before the effect, which may be long after this.
        A report that says WAITING is not the end: that comes as an event, and to whoever submits
        the id again.
        """
        with self._turn:
            if self._ending:
                return  # who asked is told by the end of hostd, and asks again
            job = self._jobs.get(id)
            if job is not None:
                job.askers.append(done)
                return
            job = Job(id, verb, address, expected, valid, askers=[done])
            report = self._accept(job)
        if report is not None:
            done(report)

    def _accept(self, job: Job) -> ActionReport | None:
        """Queue it, its intent durable; its report where it has ended or is refused."""
        kept = self._journal.actions.find(job.id)
        if kept is not None and kept.report is not None:
            return kept.report
        if len(self._jobs) >= MAX_QUEUED:
            text = f"{len(self._jobs)} have not ended, {MAX_QUEUED} may wait"
            refused = refuse(job.bare(), job.reason(ACTION_QUEUE_FULL, "actions", text))
            return refused if kept is None else self._end_now(job, refused)
        try:
            self._begin(job)
        except JournalFull as error:
            return refuse(job.bare(), job.reason(JOURNAL_FAILED, "journal", error))
        self._put(job)
        return None

    def _end_now(self, job: Job, report: ActionReport) -> ActionReport | None:
        """Store it; None where there is no room: then the worker does, later."""
        try:
            return self._store(job, report)
        except (JournalFull, SpoolFull):
            job.told = report, ()
            self._put(job)
            return None

    def _begin(self, job: Job) -> None:
        asked = encode({"address": job.address, "expected": job.expected}).decode("ascii")
        loss = foresee_nothing(job.id, job.verb, job.address)
        self._journal.actions.begin(job.id, verb=job.verb, asked=asked, sequence=None, loss=loss)

    def _put(self, job: Job) -> None:
        with self._turn:
            self._jobs[job.id] = job
            self._queue.append(job)
            self._turn.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="acting", daemon=True)
                self._thread.start()

    # --- the worker ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._advance(job)
        except BaseException as error:
            if not self._ending:  # else the journal was closed under an action that took long
                self._on_fault(error)

    def _next(self) -> Job | None:
        """The next to be advanced; None at the end."""
        while not self._ending:
            with self._turn:
                if not (self._queue or self._ending):
                    self._turn.wait(RETRY_S if self._waiting else None)
                if self._queue:
                    return self._queue.popleft()
            stuck = frozenset(self._reach.hands.waiting())
            job = next((j for j in self._waiting if not j.waits_for & stuck), None)
            if job is not None:
                self._waiting.remove(job)
                return job
        return None

    def _advance(self, job: Job) -> None:
        try:
            if job.told is None:
                told = self._perform(job)
                if told[0].outcome is Outcome.WAITING:
                    self._wait(job, told[0])
                    return
                job.told = told
            report = self._store(job, *job.told)
        except (JournalFull, SpoolFull) as error:
            if job.told is not None:
                report = replace(
                    job.told[0], detail=f"{job.told[0].detail} (not recorded: {error})"
                )
            else:
                detail = f"stopped until there is room: {error}"
                report = replace(job.bare(), outcome=Outcome.WAITING, detail=detail)
            self._wait(job, report)
            return
        self._answer(job, report, ended=True)

    def _wait(self, job: Job, report: ActionReport) -> None:
        """Tell who asked, the first time, and go on with it later."""
        first, job.waited = not job.waited, True
        in_kernel = bool(report.steps) and job.told is None
        job.waits_for = frozenset(self._reach.hands.waiting() if in_kernel else ())
        self._waiting.append(job)
        if first:
            self._answer(job, report, ended=False)

    def _answer(self, job: Job, report: ActionReport, *, ended: bool) -> None:
        why = report.detail or ", ".join(dict.fromkeys(reason.code for reason in report.reasons))
        log.info("%s of %s: %s %s", report.verb, report.address, report.outcome, why)
        with self._turn:
            if ended:
                del self._jobs[job.id]
            askers, job.askers = job.askers, []
        for done in askers:
            done(report)
        if report.outcome is not Outcome.PLANNED:
            self._on_end()

    def _store(
        self, job: Job, report: ActionReport, attempts: tuple[ResetAttempt, ...] = ()
    ) -> ActionReport:
        """Make its end durable; the report that stands. JournalFull or SpoolFull: not yet."""
        actions = self._journal.actions
        event = ended_event(report, identity=job.identity, at=now(self._reach.boot_id()))
        room = actions.reservation(job.id)
        return actions.end(job.id, report, event, room, attempts=attempts)

    # --- one action ---------------------------------------------------------------------------

    def _perform(self, job: Job) -> Told:
        """Begin it, or go on with it; WAITING is no end."""
        if job.again is not None:
            return job.again()
        operation = self._journal.diary.find(job.id)
        if operation is not None:
            return self._go_on(job, operation)
        if job.resumed:
            return self._tell_loss(job)
        report, _, host, prepared = self._look(job)
        if prepared.unit is not None:
            job.concerns = concerned_by(host, prepared.verb, prepared.unit)
        against = self._find_against(job, host)
        if against:
            report = refuse(report, *against)
        if report.outcome is not Outcome.PLANNED:
            return report, ()
        try:
            self._reserve(job, report, host, prepared)
        except SpoolFull as error:
            return refuse(report, job.reason(SPOOL_FULL, "spool", error)), ()
        except JournalFull as error:
            return refuse(report, job.reason(JOURNAL_FAILED, "journal", error)), ()
        if prepared.plan is None:
            result = self._reach.reset(host, job.address, operation=job.id)
            return self._tell_reset(job, report, result)
        boot_id = host.readings.boot_id or ""
        operation = Operation(job.id, boot_id, prepared.plan)
        carry_out(operation, self._reach.hands, self._journal.diary, boot_id=boot_id)
        return self._tell_operation(report, operation, boot_id), ()

    def _find_against(self, job: Job, host: Host) -> list[Finding]:
        """What the guard does not know: another action, a boot without a name, the asker's word."""
        found = []
        conflict = self._find_conflict(job)
        if conflict is not None:
            found.append(conflict)
        boot_id = host.readings.boot_id
        if not boot_id:
            found.append(job.miss("the boot id", "cat /proc/sys/kernel/random/boot_id"))
        if job.valid is not None:
            found += self._find_against_command(job, job.valid, boot_id or "")
        return found

    def _find_against_command(self, job: Job, valid: Valid, boot_id: str) -> Iterator[Finding]:
        invalid = valid()
        if invalid is not None:
            yield job.reason(invalid[0], "command", invalid[1])
        allowance = self._reach.allow()
        count = len(self._journal.actions.effects(boot_id, now("").boottime_ms))
        if count >= allowance.per_hour:
            text = f"{count} commands acted in the last hour, per_hour is {allowance.per_hour}"
            yield job.reason(ACTION_LIMIT, allowance.source, text)

    def _reserve(self, job: Job, report: ActionReport, host: Host, prepared: Prepared) -> None:
        """Room for its end and, of a reset, what is to be told if nobody comes back."""
        actions = self._journal.actions
        if actions.reservation(job.id) is None:
            self._journal.spool.reserve(job.id)
            if job.valid is not None:
                actions.count_effect(host.readings.boot_id or "", now("").boottime_ms)
        if prepared.plan is None:
            attempts = foresee_loss(host, job.address, operation=job.id)
            unseen = replace(report, outcome=Outcome.UNKNOWN, detail=UNSEEN)
            actions.provide(job.id, Loss(unseen, attempts, heard_until(host)))

    def _look(self, job: Job) -> tuple[ActionReport, Root, Host, Prepared]:
        """What could be done about it now, PLANNED or refused."""
        looked_at_ms = now("").boottime_ms
        root, host = self._reach.look()
        known = host.identities.get(job.address)
        job.identity = "" if known is None else known.identity
        allowance = self._reach.allow()
        prepared = prepare_on(root, host, job.verb, job.address, allowance, expected=job.expected)
        return begin_report(job.id, prepared, job.address, looked_at_ms), root, host, prepared

    def _find_conflict(self, job: Job) -> Finding | None:
        """An action on the same functions of which the end is open."""
        for other in self._waiting:
            both = job.concerns & other.concerns
            if both and other.told is None:
                text = f"{other.verb} of {other.address} ({other.id}): {' '.join(sorted(both))}"
                return job.reason(ACTION_UNFINISHED, "actions", text)
        return None

    def _tell_reset(self, job: Job, report: ActionReport, result: ResetResult) -> Told:
        again = result.again
        job.again = None if again is None else lambda: self._tell_reset(job, report, again())
        return report_reset(report, result), result.attempts

    def _tell_operation(
        self, report: ActionReport, operation: Operation, boot_id: str
    ) -> ActionReport:
        entries = self._journal.diary.entries(operation.id)
        return report_operation(report, operation, entries, boot_id=boot_id)

    # --- what was cut short -------------------------------------------------------------------

    def _go_on(self, job: Job, operation: Operation) -> Told:
        """End what was begun: it is judged again, because much may have happened meanwhile."""
        job.address = operation.plan.primary
        job.concerns |= frozenset(moved_by(operation.plan))
        report, root, host, _ = self._look(job)
        boot_id = host.readings.boot_id
        if not boot_id:
            return replace(job.bare(), outcome=Outcome.WAITING, detail=NO_BOOT), ()
        entries = self._journal.diary.entries(job.id)
        kept = self._journal.actions.find(job.id)
        expected = None if kept is None else read_expected(kept.asked)
        against = judge_again(operation.plan, root, host, self._reach.allow(), expected=expected)
        moves = operation.boot_id == boot_id and has_moves(operation, entries, self._reach.hands)
        if against and moves:
            codes = ", ".join(dict.fromkeys(reason.code for reason in against))
            report = self._tell_operation(replace(report, reasons=against), operation, boot_id)
            detail = f"it was cut short, and may not be gone on with: {codes}"
            return replace(report, outcome=Outcome.FAILED, detail=detail), ()
        resume(operation, entries, self._reach.hands, self._journal.diary, boot_id=boot_id)
        return self._tell_operation(replace(report, reasons=()), operation, boot_id), ()

    def _tell_loss(self, job: Job) -> Told:
        """What is left to tell of an action without a diary."""
        kept = self._journal.actions.find(job.id)
        loss = None if kept is None else kept.loss
        if loss is None:
            loss = foresee_nothing(job.id, job.verb, job.address)
        if not loss.attempts:
            return loss.report, ()
        job.concerns = frozenset((*loss.report.assign, *loss.report.hold))
        _, _, host, _ = self._look(job)  # so that what the kernel said is in the history
        attempts = self._journal.attempts()
        return tell_reset(loss, attempts, host, boottime_ms=now("").boottime_ms)
