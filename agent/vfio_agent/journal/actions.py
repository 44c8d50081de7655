"""What was asked of the hands, and what became of each: durable before any effect, told once.

The intent is on disk before anything is done, with the number by which its command is known; the
end is one transaction of the report, the event that tells the cluster, the room that was kept for
it, and the reset history where there is any. An id has one end: whoever asks again reads it. It
must never forget what has not come to its end, nor the highest sequence that was taken.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from vfio_agent.journal.attempts import add_attempt, tell_attempt
from vfio_agent.journal.database import Database
from vfio_agent.journal.spool import Reservation, Spool
from vfio_contract.action import ActionReport, pack_report, unpack_report
from vfio_contract.artifact import decode, encode
from vfio_contract.durable import DurableEvent
from vfio_contract.ledger import ResetAttempt

KEPT_ACTIONS = 1_000
"""Of those that have ended; see `diary.KEPT_OPERATIONS`."""

_SEQUENCE = "command_sequence"
_EFFECTS = "command_effects"

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Loss:
    """What is to be told of an action if nobody comes back to tell it.

    `attempts` are for the reset history. `heard_until` is the kernel log's own time up to which it
    was read before, in seconds, None where that is not known.
    """

    report: ActionReport
    attempts: tuple[ResetAttempt, ...]
    heard_until: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """One action. `asked` is its asker's own text, `sequence` a command's, None for one that was
    asked for on the host. `report` is None until it has ended."""

    id: str
    verb: str
    asked: str
    sequence: int | None
    loss: Loss | None
    report: ActionReport | None


class Actions:
    """All actions of this journal. All methods raise JournalError."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    def begin(
        self, id: str, *, verb: str, asked: str, sequence: int | None, loss: Loss | None = None
    ) -> bool:
        """Make the intent durable; False, and nothing is changed, where this id is there already.

        ValueError for a sequence that is not above the highest that was taken.
        """
        with self._database.guarded():
            if self.find(id) is not None:
                return False
            if sequence is not None and sequence <= self.sequence():
                raise ValueError(f"sequence {sequence} was taken, the highest is {self.sequence()}")
            with self._database.transaction() as db:
                _forget_oldest(db)
                db.execute(
                    "INSERT INTO actions VALUES (?, ?, ?, ?, ?, NULL)",
                    (id, verb, asked, sequence, None if loss is None else encode(loss)),
                )
                if sequence is not None:
                    self._database.put_meta(_SEQUENCE, str(sequence))
        return True

    def sequence(self) -> int:
        """The highest sequence that was taken, 0 before the first."""
        return int(self._database.meta(_SEQUENCE) or 0)

    def find(self, id: str) -> Kept | None:
        """What is known of that id, None where it was never asked for."""
        return next(iter(self._select("WHERE id = ?", id)), None)

    def unfinished(self) -> list[Kept]:
        """Those without an end, the oldest first."""
        return self._select("WHERE report IS NULL ORDER BY rowid")

    def provide(self, id: str, loss: Loss) -> None:
        """Keep what is to be told if nobody comes back: durable before a reset."""
        with self._database.transaction() as db:
            db.execute("UPDATE actions SET loss = ? WHERE id = ?", (encode(loss), id))

    def count_effect(self, boot_id: str, boottime_ms: int) -> None:
        """Remember that a command is about to have an effect, at this moment of this boot."""
        with self._database.transaction():
            times = [*self.effects(boot_id, boottime_ms), boottime_ms]
            self._database.put_meta(_EFFECTS, json.dumps([boot_id, times]))

    def effects(self, boot_id: str, boottime_ms: int) -> list[int]:
        """When commands had effects in the hour before this moment; of another boot none is."""
        boot, times = json.loads(self._database.meta(_EFFECTS) or '["", []]')
        return [at for at in times if boot == boot_id and at > boottime_ms - HOUR_MS]

    def end(
        self,
        id: str,
        report: ActionReport,
        event: DurableEvent,
        reservation: Reservation | None,
        *,
        attempts: Iterable[ResetAttempt] = (),
    ) -> ActionReport:
        """Its one end, durable as a whole; the report that stands: of two ends the first.

        `attempts` become rows of the reset history and events, as in `Journal.record`; they say
        nothing about what the kernel log holds. SpoolFull where there is no room for the event,
        which is never so with a reservation.
        """
        with self._database.guarded():
            kept = self.find(id)
            if kept is None:
                raise ValueError(f"action {id} was never begun")
            if kept.report is not None:
                return kept.report
            with self._spool.ending(event, reservation) as add, self._database.joined() as db:
                db.execute(
                    "UPDATE actions SET report = ?, loss = NULL WHERE id = ?",
                    (pack_report(report), id),
                )
                for row in attempts:
                    if add_attempt(db, row, wall_ms=event.at.wall_ms):
                        add(tell_attempt(row, event.at))
        self._spool.tell()
        return report

    def is_untold(self, id: str) -> bool:
        """True while the event of its end waits in the spool: no cluster is known to hold it."""
        name = encode({"id": id}).strip(b"{}\n")
        rows = self._database.rows(
            "SELECT seq FROM spool WHERE critical = 1 AND instr(body, ?) > 0 LIMIT 1", name
        )
        return bool(rows)

    def reservation(self, id: str) -> Reservation | None:
        """The room that is kept for its end, None where there is none."""
        rows = (row for row in self._spool.reservations() if row.purpose == id)
        return next(rows, None)

    def _select(self, where: str, *values: object) -> list[Kept]:
        rows = self._database.rows(
            f"SELECT id, verb, asked, sequence, loss, report FROM actions {where}", *values
        )
        return [
            Kept(
                *(id, verb, asked, sequence),
                loss=None if loss is None else decode(Loss, loss),
                report=None if report is None else unpack_report(report),
            )
            for id, verb, asked, sequence, loss, report in rows
        ]


def _forget_oldest(db: sqlite3.Connection) -> None:
    old = db.execute(
        "SELECT id FROM actions WHERE report IS NOT NULL ORDER BY rowid DESC LIMIT -1 OFFSET ?",
        (KEPT_ACTIONS - 1,),
    ).fetchall()
    # what an action left undone was told in its report: nobody goes on with it
    for table, column in (("operation_entries", "operation"), ("operations", "id")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", old)
    db.executemany("DELETE FROM actions WHERE id = ?", old)
