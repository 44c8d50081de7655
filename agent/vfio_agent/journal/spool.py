"""The spool: durable events on disk until the coordinator holds them.

Keyed by (spool id, seq). The id is random with the database; a number is given once, in the
transaction that makes its event durable, and stands for ever for that event or for a gap. What is
critical is never dropped: where there is no room for it, the caller is refused (SpoolFull) and an
action is refused before it begins (`reserve`). Of the others the oldest give way to a gap record.

Invariants (checked by the state machine in tests):
 1. The rows cover each number from the lowest kept to `last` exactly once.
 2. An event is dropped only if it is not critical, and only into a gap that counts it by kind.
 3. Events and reservations never exceed the bounds.
 4. A reservation's event always finds its room within the bounds. (A full disk can still refuse
    it; then the reservation stays, and tells after a restart that an action has no end yet.)
 5. Nothing is forgotten that no mark of this very spool covers.

Full disk: SQLite refuses the write before it counts (JournalFull). What is not critical then waits
as a count, and is written as a gap with the next event that gets through; that count alone is in
memory. `status` says all of this with a health code. It must never lose a number in silence.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from vfio_agent.journal.database import Database, JournalError, JournalFull
from vfio_agent.journal.spool_rows import RESERVED_BYTES, Bounds, Rows, Usage, lost_kinds
from vfio_contract.codes import JOURNAL_FAILED, SPOOL_FULL
from vfio_contract.durable import (
    CRITICAL,
    NO_MOMENT,
    DurableEvent,
    EventsLost,
    JournalStatus,
    Mark,
    Spooled,
    Stamp,
    decode_event,
)

DEFAULT_BOUNDS = Bounds()

BATCH_BYTES = 256 * 1024
"""At most what `after` returns, unless one event alone is more."""


class SpoolFull(JournalError):
    """No room for what must not be dropped. Nothing was done; it fits again after the coordinator
    has acknowledged some."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for the record of one action; durable, so that it outlives a crash in the middle."""

    id: int
    purpose: str


class Spool:
    """One spool. Its methods may be called from any thread; all raise JournalError."""

    def __init__(self, database: Database, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self._database = database
        self._bounds = bounds
        self._usage: Usage | None = None
        self._owed: Counter[str] = Counter()
        self._owed_at = NO_MOMENT
        self._wake: Callable[[], None] | None = None
        self._opened_at = int(database.meta("spool_last"))

    @property
    def id(self) -> str:
        """Random, made with the spool."""
        return self._database.meta("spool_id")

    @property
    def last(self) -> int:
        """The highest number given, 0 before the first."""
        return int(self._database.meta("spool_last"))

    def attach(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` whenever there is something new or the status changed; None to stop."""
        self._wake = wake

    def status(self) -> JournalStatus:
        """How the journal is; never raises."""
        if self._database.failure:
            return JournalStatus(JOURNAL_FAILED.name, self._database.failure)
        if self._database.full:
            owed = sum(self._owed.values())
            lost = f"; {owed} events could not be written" if owed else ""
            return JournalStatus(JOURNAL_FAILED.name, f"{self._database.full}{lost}")
        try:
            with self._database.guarded():
                self._check_action_room(self._measured())
        except SpoolFull as error:
            return JournalStatus(SPOOL_FULL.name, str(error))
        except JournalError as error:
            return JournalStatus(JOURNAL_FAILED.name, str(error))
        return JournalStatus()

    def append(self, event: DurableEvent) -> int:
        """Make it durable; its number. See `extend`."""
        return self.extend([event])

    def extend(
        self, events: Sequence[DurableEvent], *, beside: tuple[str, str] | None = None
    ) -> int:
        """Make all of them durable together, or none; the number of the last.

        `beside` is a name and a value to keep in the same transaction. SpoolFull or JournalFull if
        one of them is critical and cannot be stored: the caller still has it and tries again.
        Without a critical one among them it never raises for that: what does not fit is counted in
        a gap, and a full disk keeps `beside` as it was.
        """
        if not events and beside is None:
            raise ValueError("there is nothing to spool")
        with self._database.guarded():
            try:
                with self._changing() as rows:
                    if beside is not None:
                        self._database.put_meta(*beside)
                    for event in events:
                        self._place(rows, event)
                    last = rows.usage.last
            except JournalFull:
                if any(isinstance(event.payload, CRITICAL) for event in events):
                    raise
                for event in events:
                    self._owed.update(lost_kinds(event))
                    self._owed_at = event.at
                last = self.last + sum(self._owed.values())
        self.tell()
        return last

    def flush(self) -> None:
        """Write what a full disk kept back, if it can be written now; JournalFull if not."""
        with self._database.guarded():
            if not (self._database.full or self._owed):
                return
            with self._changing():
                pass
        self.tell()

    def add_within(self, events: Sequence[DurableEvent]) -> None:
        """Inside a transaction of the journal: what has no room becomes a gap, critical or not.

        Only for what is stored beside it in the same transaction, and so is not lost with it.
        """
        with self._database.joined() as db:
            usage, self._usage = self._measured(), None  # measured anew, whatever comes of this
            rows = Rows(db, usage, self._bounds)
            for event in events:
                if not rows.place(event):
                    rows.lose(lost_kinds(event), event.at)
            self._database.put_meta("spool_last", str(rows.usage.last))

    def after(self, seq: int, limit: int) -> list[Spooled]:
        """The oldest events beyond a number: at most `limit`, and BATCH_BYTES."""
        rows = self._database.rows(
            "SELECT seq, body FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit
        )
        chosen: list[Spooled] = []
        size = 0
        for number, body in rows:
            size += len(body)
            if chosen and size > BATCH_BYTES:
                break
            chosen.append(Spooled(number, decode_event(body)))
        return chosen

    def acknowledge(self, mark: Mark) -> bool:
        """The cluster holds everything up to this mark: forget it.

        False if the mark is not of this spool. Where it has the id of this one but not its past,
        this file was restored from an older copy: a new spool begins, with what was appended since
        the file was opened; what was there before may have been delivered, and is a gap.
        """
        with self._database.guarded():
            if mark.spool_id != self.id:
                return False
            if not self._knows(mark):
                self._begin_anew()
                known = False
            elif mark.seq > self._held()[0]:
                with self._changing() as rows:
                    rows.forget(mark.seq)
                    held = json.dumps([mark.seq, *astuple(mark.at)])
                    self._database.put_meta("spool_held", held)
                known = True
            else:
                return True
        self.tell()
        return known

    # --- actions ----------------------------------------------------------------------------

    def reserve(self, purpose: str) -> Reservation:
        """Room for one critical event, before the action that it will tell of; SpoolFull if there
        is none, and then the action is refused."""
        with self._database.guarded():
            self._check_action_room(self._measured())
            with self._changing() as rows, self._database.joined() as db:
                done = db.execute("INSERT INTO reservations (purpose) VALUES (?)", (purpose,))
                rows.hold_back()
                return Reservation(int(done.lastrowid or 0), purpose)

    def reservations(self) -> list[Reservation]:
        """Those of actions that have not told how they ended: after a crash, to be looked into."""
        rows = self._database.rows("SELECT id, purpose FROM reservations ORDER BY id")
        return [Reservation(number, purpose) for number, purpose in rows]

    @contextmanager
    def ending(
        self, event: DurableEvent, reservation: Reservation | None
    ) -> Iterator[Callable[[DurableEvent], None]]:
        """One transaction of what the body does and then of the event, which takes its room.

        The body gets a function that adds events as `add_within` does. SpoolFull if there is no
        room, ValueError if the reservation was used before; then nothing was done.
        """
        with self._changing() as rows:

            def add(one: DurableEvent) -> None:
                if not rows.place(one):
                    rows.lose(lost_kinds(one), one.at)

            yield add
            if reservation is not None:
                self._release(rows, reservation)
            self._place(rows, event)

    def _release(self, rows: Rows, reservation: Reservation) -> None:
        with self._database.joined() as db:
            done = db.execute("DELETE FROM reservations WHERE id = ?", (reservation.id,))
        if done.rowcount != 1:
            raise ValueError(f"{reservation} is not there any more")
        rows.usage.reserved -= 1

    def _check_action_room(self, usage: Usage) -> None:
        share, bounds = self._bounds.action_share, self._bounds
        events = usage.fixed_events + usage.reserved + 1
        size = usage.fixed_bytes + (usage.reserved + 1) * RESERVED_BYTES
        if events > share * bounds.events or size > share * bounds.bytes:
            raise SpoolFull(
                f"{self._database.path}: {usage.fixed_events} events that must not be dropped "
                f"({usage.fixed_bytes} bytes) and {usage.reserved} actions wait for the "
                f"coordinator; of {bounds.events} events and {bounds.bytes} bytes, {share:.0%} "
                "are for actions"
            )

    # --- one transaction --------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Rows]:
        """Rows in a transaction of their own, and first what a full disk kept back."""
        with self._database.transaction() as db:
            usage, self._usage = self._measured(), None  # measured anew if this fails
            rows = Rows(db, usage, self._bounds)
            if self._owed:
                rows.lose(self._owed, self._owed_at)
            yield rows
            self._database.put_meta("spool_last", str(rows.usage.last))
        self._usage = rows.usage
        self._owed.clear()

    def _measured(self) -> Usage:
        if self._usage is None:
            with self._database.joined() as db:
                self._usage = Rows.measure(db)
        return self._usage

    def _place(self, rows: Rows, event: DurableEvent) -> None:
        if isinstance(event.payload, EventsLost):
            raise ValueError("the spool alone makes gaps")
        if not rows.place(event):
            raise SpoolFull(
                f"{self._database.path}: no room for an event that must not be dropped; "
                f"{rows.usage.fixed_events} such wait for the coordinator"
            )

    def _held(self) -> tuple[int, Stamp]:
        """The highest number that was acknowledged, and the moment of its event."""
        text = self._database.meta("spool_held")
        if not text:
            return 0, NO_MOMENT
        seq, *at = json.loads(text)
        return int(seq), Stamp(*at)

    def _knows(self, mark: Mark) -> bool:
        """False where this spool gave that number to another event, or never."""
        if mark.seq > self.last + sum(self._owed.values()):
            return False
        seq, at = self._held()
        if mark.seq == seq:
            return mark.at == at
        rows = self._database.rows("SELECT body FROM spool WHERE seq = ?", mark.seq)
        return not rows or decode_event(rows[0][0]).at == mark.at

    def _begin_anew(self) -> None:
        with self._changing() as rows:
            kept = rows.clear()
            before: Counter[str] = Counter()
            for _, seq, event in kept:
                if seq <= self._opened_at:
                    before.update(lost_kinds(event))
                    at = event.at
            if before:
                rows.lose(before, at)
            for _, seq, event in kept:
                if seq <= self._opened_at:
                    continue
                if isinstance(event.payload, EventsLost) or not rows.place(event):
                    rows.lose(lost_kinds(event), event.at)
            self._database.put_meta("spool_id", secrets.token_hex(16))
            self._database.put_meta("spool_held", "")
        self._opened_at = 0

    def tell(self) -> None:
        """Wake whoever listens; not with the journal's lock held."""
        wake = self._wake
        if wake is not None:
            wake()
