"""Commands of the coordinator, as hostd takes them: refused by name, or taken once.

Whatever the network process believes, this is where a command is compared with the host: cluster
and fence, machine, boot, journal, number and time. The journal's id is random and no other host
has it, so it says which node is meant. A command is taken when its intent is durable, with the
number that no later one may fall below; the same id again is answered with what is known of it. A
look is ended by the next look that began after it was taken; what acts goes to the hands. This
module must never do what a command says in words, because it says nothing in words.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.steps import Verb
from vfio_agent.hostd.aftermath import foresee_nothing
from vfio_agent.hostd.job import Done, Valid
from vfio_agent.inspect import now
from vfio_agent.journal import Journal, JournalFull, Kept, Loss, SpoolFull
from vfio_agent.session.outbox import Observed, seconds_up
from vfio_contract import command_codes as codes
from vfio_contract.action import ActionReport, AskedUnit, Outcome, ended_event
from vfio_contract.address import Address
from vfio_contract.artifact import encode
from vfio_contract.codes import SPOOL_FULL, Code
from vfio_contract.command import (
    ACTS,
    COUNT_BITS,
    LOOKS,
    AnswerState,
    Command,
    CommandAnswer,
    find_mistake,
    refuse,
)
from vfio_contract.durable import ActionEnded
from vfio_contract.findings import WORST_FIRST, summarise
from vfio_contract.parts import read_findings

MAX_LOOKS = 64
"""Open at once; more than a coordinator that is in order asks for."""


class NotYet(Exception):
    """The host has not been looked at, so nothing can be compared with it: ask again."""


class Submit(Protocol):
    """`Acting.submit`."""

    def __call__(
        self,
        *,
        id: str,
        verb: Verb,
        address: Address,
        expected: AskedUnit | None,
        done: Done,
        valid: Valid | None = None,
    ) -> None:
        """Have it done."""


class Commands:
    """All commands of one hostd. Its methods may be called from any thread."""

    def __init__(
        self,
        journal: Journal,
        *,
        submit: Submit,
        allow: Callable[[], Allowance],
        look_soon: Callable[[], None],
    ) -> None:
        """`allow` tells what the host's owner permits, `look_soon` asks for a look."""
        self._journal = journal
        self._submit = submit
        self._allow = allow
        self._look_soon = look_soon
        self._lock = threading.Lock()
        # Below: guarded by _lock.
        self._seen: Observed | None = None
        self._looks = {k.id: 0.0 for k in journal.actions.unfinished() if k.verb in LOOKS}

    def take(self, command: Command) -> CommandAnswer:
        """Take it, refuse it, or say what is known of it; NotYet before the first look."""
        with self._lock:
            seen = self._seen
        if seen is None:
            raise NotYet("this host has not been looked at yet")
        # first of all: what is refused was never begun, whoever says it again
        kept = self._journal.actions.find(command.id)
        if kept is not None:
            return self._tell(kept)
        fenced = self._find_fence(command)
        if fenced is not None:
            return refuse(command, codes.COMMAND_FENCED, fenced)
        refusal = self._find_refusal(command, seen)
        return self._accept(command) if refusal is None else refuse(command, *refusal)

    def observed(self, seen: Observed) -> None:
        """A look was made and told: looks that were asked for before it began have their end."""
        with self._lock:
            self._seen = seen
            due = [id for id, asked_s in self._looks.items() if asked_s <= seen.at_s]
        for id in due:
            try:
                self._end_look(id, seen)
            except (SpoolFull, JournalFull):
                continue  # the spool's status says it; the next look tries again
            with self._lock:
                del self._looks[id]

    # --- taking -------------------------------------------------------------------------------

    def _find_fence(self, command: Command) -> str | None:
        known = self._journal.fence()
        told = (command.cluster_id, command.incarnation, command.epoch)
        obeyed = (known.cluster_id, known.incarnation, known.epoch)
        if told == obeyed:
            return None
        return f"it is of {_fence(*told)}, this host obeys {_fence(*obeyed)}"

    def _find_refusal(self, command: Command, seen: Observed) -> tuple[Code, str] | None:
        state_id, taken = self._journal.state_id, self._journal.actions.sequence()
        if command.product_uuid != seen.product_uuid:
            text = f"it is for machine {command.product_uuid!r:.80}, this is {seen.product_uuid!r}"
            return codes.COMMAND_MISDIRECTED, text
        if command.agent_state_id != state_id:
            text = f"it is for the agent {command.agent_state_id!r:.80}, this is {state_id}"
            return codes.COMMAND_OTHER_STATE, text
        if command.boot_id != seen.boot_id:
            text = f"it is for boot {command.boot_id!r:.80}, this is {seen.boot_id!r}"
            return codes.COMMAND_OTHER_BOOT, text
        if command.sequence <= taken:
            text = f"its number is {command.sequence}, {taken} was taken before"
            return codes.COMMAND_STALE, text
        counted_in = command.sequence >> COUNT_BITS
        if counted_in != command.incarnation:  # a higher number would shut out all that follow
            text = f"its number is of incarnation {counted_in}, not {command.incarnation}"
            old = counted_in < command.incarnation
            return codes.COMMAND_STALE if old else codes.COMMAND_UNKNOWN, text
        late_s = _seconds_late(command)
        if late_s > 0:
            return codes.COMMAND_EXPIRED, f"it came {late_s:.1f} s after its deadline"
        mistake = find_mistake(command)
        if mistake:
            return codes.COMMAND_UNKNOWN, mistake
        if command.verb in ACTS:
            refusal = self._find_ban(command)
        elif command.verb not in LOOKS:
            refusal = codes.COMMAND_UNKNOWN, f"verb {command.verb!r:.40}"
        else:
            refusal = None
        return refusal or self._find_shortage()

    def _find_ban(self, command: Command) -> tuple[Code, str] | None:
        if not command.address or command.unit is None:
            return codes.COMMAND_UNKNOWN, f"{command.verb} without a function or its unit"
        allowance = self._allow()
        if Verb(command.verb) not in allowance.verbs:
            text = f"{command.verb} is not permitted: {allowance.source}"
            return codes.COMMAND_NOT_PERMITTED, text
        return None

    def _find_shortage(self) -> tuple[Code, str] | None:
        """Each end is an event that must not be dropped: none is begun without room for it."""
        with self._lock:
            looks = len(self._looks)
        status = self._journal.spool.status()
        if status.code == SPOOL_FULL.name:
            return codes.COMMAND_NOT_RECORDED, status.text
        if looks >= MAX_LOOKS:
            return codes.COMMAND_NOT_RECORDED, f"{looks} looks wait for their end to be recorded"
        return None

    def _find_lapse(self, command: Command) -> tuple[Code, str] | None:
        """What has come in between while a command that was taken waited for its turn."""
        fenced, late_s = self._find_fence(command), _seconds_late(command)
        if fenced is not None:
            return codes.COMMAND_FENCED, fenced
        if late_s > 0:
            return codes.COMMAND_EXPIRED, f"its turn came {late_s:.1f} s after its deadline"
        return None

    def _accept(self, command: Command) -> CommandAnswer:
        asked_s = seconds_up()
        try:
            asked = encode(command).decode("ascii")
            self._journal.actions.begin(
                command.id,
                verb=command.verb,
                asked=asked,
                sequence=command.sequence,
                loss=_foresee(command),
            )
        except JournalFull as error:
            return refuse(command, codes.COMMAND_NOT_RECORDED, str(error))
        if command.verb in LOOKS:
            with self._lock:
                self._looks[command.id] = asked_s
            self._look_soon()
        else:
            self._submit(
                id=command.id,
                verb=Verb(command.verb),
                address=Address(command.address),
                expected=command.unit,
                done=lambda report: None,  # its end is an event
                valid=lambda: self._find_lapse(command),
            )
        return CommandAnswer(command.id, AnswerState.TAKEN)

    def _tell(self, kept: Kept) -> CommandAnswer:
        """What is known of a command that was taken before."""
        if kept.report is None or self._journal.actions.is_untold(kept.id):
            return CommandAnswer(kept.id, AnswerState.TAKEN)
        event = ended_event(kept.report, identity="", at=now(None))
        if not isinstance(event.payload, ActionEnded):
            raise AssertionError("an end is told by its own kind of event")
        return CommandAnswer(kept.id, AnswerState.ENDED, ended=event.payload)

    # --- looks --------------------------------------------------------------------------------

    def _end_look(self, id: str, seen: Observed) -> None:
        kept = self._journal.actions.find(id)
        if kept is None:
            raise AssertionError(f"look {id} was never begun")
        report = ActionReport(
            id=id,
            verb=kept.verb,
            address=Address(""),
            outcome=Outcome.DONE,
            detail=_count(seen),
            looked_at_ms=int(seen.at_s * 1000),
        )
        event = ended_event(report, identity="", at=now(seen.boot_id))
        self._journal.actions.end(id, report, event, None)


def _foresee(command: Command) -> Loss | None:
    if command.verb in LOOKS:
        return None
    return foresee_nothing(command.id, Verb(command.verb), Address(command.address))


def _count(seen: Observed) -> str:
    """What the findings that count add up to, and how many there are of which verdict."""
    report = summarise("", read_findings(seen.lines()))
    found = Counter(f.verdict for f in report.findings if f.intended is not False)
    ranks = sorted(found, key=WORST_FIRST.index)
    return f"{report.verdict}: {', '.join(f'{found[v]} {v}' for v in ranks)}"


def _seconds_late(command: Command) -> float:
    """How long its deadline is over by the host's clock; less than 0 before it."""
    return seconds_up() - command.deadline_boottime_ms / 1000


def _fence(cluster_id: str, incarnation: int, epoch: int) -> str:
    return f"cluster {cluster_id[:80] or 'none'} incarnation {incarnation} epoch {epoch}"
