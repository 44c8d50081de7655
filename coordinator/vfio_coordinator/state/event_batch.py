"""One transaction's worth of a node's durable events: log rows, reset histories, and the mark.

Pure bookkeeping over an intake; `durable_events` commits what comes of it. It must never go over
what one transaction may hold, whatever a host sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from vfio_contract import codes
from vfio_contract.durable import (
    ActionEnded,
    BindingChanged,
    DeviceAppeared,
    DeviceRemoved,
    DurableEvent,
    EventsLost,
    HolderChanged,
    KernelLine,
    ResetAttempted,
    Spooled,
    VmStarted,
    VmStopped,
)
from vfio_contract.ledger import FAILURES, Outcome, choose_kept
from vfio_coordinator.state.commands import ended_record, takes_result
from vfio_coordinator.state.model import Intake, NodeCommands
from vfio_coordinator.state.records import (
    AttemptRecord,
    AttemptsRecord,
    CommandRecord,
    SpoolRecord,
    short_id,
)
from vfio_coordinator.state.turn import Note

ROWS = 40
"""Log rows in one transaction: each is a put and a delete, of 100 keys at most."""

HISTORIES = 5
"""Reset histories in one transaction: at worst 200 KB each (32 attempts of 500 characters, each of
12 bytes as JSON, and what they have in common), and 245 KB of rows beside them, of 1,280 KiB."""

ENDS = 1
"""Ends of commands in one transaction: each writes a record of up to 110 KB again (a unit and a
report, as base64)."""

KEPT_HISTORIES = 512
"""Of one node; the one that was longest without a reset gives way."""

FORMER_SPOOLS = 8
"""Marks kept of a node's earlier journals."""

_ROW_TEXT = 400
_EVIDENCE = 256
_WORD = 48
_LATE_S = 60.0


class EventBatch:
    """See the module. `record`, `notes`, `attempts`, `ended` and `losses` are what to write.

    `addresses` are those of the identities in the node's inventory of now.
    """

    def __init__(
        self,
        node: str,
        intake: Intake,
        commands: NodeCommands,
        addresses: Mapping[str, str],
        utc: str,
    ) -> None:
        self.notes: list[Note] = []
        self.losses: list[str] = []
        self.attempts: dict[tuple[str, str], AttemptsRecord] = {}
        self.ended: dict[str, CommandRecord] = {}
        self.taken = 0
        self._subject = f"node:{node}"
        self._intake = intake
        self._commands = commands.held
        self._addresses = addresses
        self._utc = utc
        self.record = intake.record or SpoolRecord(node, intake.spool_id, 0)

    def replace_spool(self) -> None:
        """The node's journal is another one now; an earlier one goes on where it was."""
        old, mark = self.record, self._intake.mark_of(self._intake.spool_id)
        others = (m for m in (*old.former, old.mark) if m.spool_id != mark.spool_id)
        former = tuple(others)[-FORMER_SPOOLS:]
        self.record = replace(old, spool_id=mark.spool_id, seq=mark.seq, at=mark.at, former=former)
        self._note_loss(
            "the agent's journal was replaced: what the one before held beyond event "
            f"{old.seq}, if anything, is lost"
        )

    def has_room(self, row: Spooled) -> bool:
        """Whether this event still fits, with the row of a jump before it."""
        if len(self.notes) + 2 > ROWS:
            return False
        payload = row.event.payload
        if isinstance(payload, ActionEnded) and len(self.ended) >= ENDS:
            return payload.id not in self._commands
        return (
            not isinstance(payload, ResetAttempted)
            or (row.event.identity, payload.firmware) in self.attempts
            or len(self.attempts) < HISTORIES
        )

    def add(self, row: Spooled) -> None:
        """The next event; what lies between it and the mark is lost."""
        record, event = self.record, row.event
        expected, lost = record.seq + 1, record.lost
        if row.first > expected:
            count = row.first - expected
            lost += count
            self._note_loss(
                f"{count} events, numbers {expected} to {row.first - 1}: the agent does not have "
                "them any more and the cluster never had"
            )
        applied = record.applied
        if isinstance(event.payload, EventsLost):
            first = max(row.first, expected)
            lost += row.seq - first + 1
            self._note_loss(_describe_gap(event.payload, first, row.seq))
        else:
            applied += 1
            self._note(*self._describe(event))
        self.record = replace(record, seq=row.seq, at=event.at, applied=applied, lost=lost)
        if isinstance(event.payload, ResetAttempted):
            self._add_attempt(event, event.payload)
        elif isinstance(event.payload, ActionEnded):
            self._end_command(event.payload)
        self.taken += 1

    def forgotten(self) -> tuple[tuple[str, str], ...]:
        """Histories beyond what a node may have, the oldest."""
        known = self._intake.attempts
        new = sum(of not in known for of in self.attempts)
        excess = len(known) + new - KEPT_HISTORIES
        if excess <= 0:
            return ()
        old = sorted((r.order, of) for of, r in known.items() if of not in self.attempts)
        return tuple(of for _, of in old[:excess])

    def _describe(self, event: DurableEvent) -> tuple[str, str, str, int]:
        # one that names no address is known to people by where its function is now
        address = event.address or self._addresses.get(event.identity, "")
        code, about, text, wall_ms = _describe(replace(event, address=address))
        payload = event.payload
        held = self._commands.get(payload.id) if isinstance(payload, ActionEnded) else None
        return code, about, text if held is None else f"{text} (asked by {held.record.by})", wall_ms

    def _end_command(self, payload: ActionEnded) -> None:
        held = self._commands.get(payload.id)
        if held is not None and takes_result(held):
            self.ended[payload.id] = ended_record(held.record, payload, self._utc)

    def _add_attempt(self, event: DurableEvent, payload: ResetAttempted) -> None:
        of = (event.identity, payload.firmware)
        known = self.attempts.get(of) or self._intake.attempts.get(of)
        if known is None:
            known = AttemptsRecord(self.record.node, *of, order=0, attempts=0, failures=0)
        attempt = AttemptRecord(
            key=payload.key[:_WORD],
            boot_id=(payload.boot_id or event.at.boot_id)[:_WORD],
            method=payload.method[:_WORD],
            outcome=payload.outcome[:_WORD],
            evidence=payload.evidence[:_EVIDENCE],
            told_at_ms=event.at.wall_ms,
            duration_ms=payload.duration_ms,
            order=self.record.applied,
            address=event.address[:_WORD],
        )
        if any((row.key, row.boot_id) == (attempt.key, attempt.boot_id) for row in known.newest):
            return  # a journal that was begun anew read the same kernel line again
        self.attempts[of] = replace(
            known,
            order=self.record.applied,
            attempts=known.attempts + 1,
            failures=known.failures + (payload.outcome in FAILURES),
            unobserved=known.unobserved + (payload.outcome == Outcome.UNOBSERVED),
            newest=tuple(choose_kept((*known.newest, attempt))),
            place=payload.place[:_EVIDENCE] or known.place,
            address=event.address[:_WORD] or known.address,
            firmware_text=payload.firmware_text[:_EVIDENCE] or known.firmware_text,
        )

    def _note_loss(self, text: str) -> None:
        self.losses.append(text)
        self.notes.append(Note(self._subject, codes.EVENTS_LOST.name, text, self._subject))

    def _note(self, code: str, about: str, text: str, wall_ms: int) -> None:
        said = f"{about}: {text}" if about else text
        late = _tell_time(wall_ms, self._utc)
        self.notes.append(Note(self._subject, code, f"{said[:_ROW_TEXT]}{late}", self._subject))


def _describe(event: DurableEvent) -> tuple[str, str, str, int]:
    """Code, what it is about, text, and the host's wall clock."""
    address, identity = event.address[:_WORD], event.identity[:_EVIDENCE]
    about = f"{address} ({identity})" if address and identity else address or identity
    code, text = _words(event)
    return code, about, text, event.at.wall_ms


def _words(event: DurableEvent) -> tuple[str, str]:
    match event.payload:
        case ResetAttempted(method=method, outcome=outcome, evidence=evidence):
            return "RESET_ATTEMPT", f"{method or 'reset'} {outcome}: {evidence}"
        case KernelLine(category=category, line=line, suppressed=suppressed, foreign=foreign):
            more = f" ({suppressed} alike before it)" if suppressed else ""
            whose = " (a process wrote this, not the kernel)" if foreign else ""
            return "KERNEL_LINE", f"{category}: {line}{more}{whose}"
        case BindingChanged(before=before, after=after, between=between):
            text = f"{before or 'no driver'} -> {after or 'no driver'}"
            return "BINDING_CHANGED", text + _tell_between(between)
        case DeviceAppeared(ids=ids, between=between):
            return "DEVICE_ADDED", f"came to the bus {ids}".rstrip() + _tell_between(between)
        case DeviceRemoved(ids=ids, between=between):
            return "DEVICE_REMOVED", f"left the bus {ids}".rstrip() + _tell_between(between)
        case VmStarted(vm=vm, hypervisor=hypervisor):
            return "VM_STARTED", f"{vm} ({hypervisor})"
        case VmStopped(vm=vm, hypervisor=hypervisor):
            return "VM_STOPPED", f"{vm} ({hypervisor})"
        case HolderChanged(process=process, held=held, between=between):
            text = f"{process or 'a process'} {'opened it' if held else 'let go of it'}"
            return "HOLDER_CHANGED", text + _tell_between(between)
        case ActionEnded(id=number, verb=verb, outcome=outcome, detail=detail):
            return "ACTION_ENDED", f"{verb} {short_id(number)} {outcome}: {detail}"
        case _:
            return "EVENT_UNREADABLE", "an event of a kind that this version does not know"


def _tell_between(count: int) -> str:
    """How the kernel alone tells of it."""
    if not count:
        return ""
    times = "once" if count == 1 else f"{count} times"
    return f" ({times} between two looks at the host, which show no difference)"


def _describe_gap(gap: EventsLost, first: int, last: int) -> str:
    kinds = ", ".join(_kinds(gap))
    return f"{last - first + 1} events, numbers {first} to {last}, did not fit on the host: {kinds}"


def _kinds(gap: EventsLost) -> Iterator[str]:
    for row in gap.kinds[:_WORD]:
        yield f"{row.count} {row.kind[:_WORD]}"


def _tell_time(wall_ms: int, utc: str) -> str:
    """When it was by the host's clock, where that is not now."""
    moment = datetime.fromtimestamp(wall_ms / 1000, tz=UTC)
    if abs((datetime.fromisoformat(utc) - moment).total_seconds()) <= _LATE_S:
        return ""
    return f" (at {moment:%Y-%m-%dT%H:%M:%SZ} by its clock)"
