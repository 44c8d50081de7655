"""What the hands wrote down: operations before their effects, and what became of each step.

A crash at any moment is made good from here, so each call is a commit of its own with a sync. It
must never forget an operation that has not come to its end, nor change one that is there.
"""

from __future__ import annotations

import sqlite3

from vfio_agent.actuate.records import ENDED, Entry, Operation, State
from vfio_agent.actuate.steps import decode_plan, encode_plan
from vfio_agent.journal.database import Database

KEPT_OPERATIONS = 1_000
"""Of those that have ended; a repeated command with an older id would be done again, so it is far
more than a coordinator has under way."""

WHOLE = -1
"""The step number of entries about an operation as a whole."""

_LAST_WHOLE = f"""
SELECT state FROM operation_entries WHERE operation = operations.id AND step = {WHOLE}
ORDER BY seq DESC LIMIT 1
"""
_ENDED = ", ".join(f"'{state.value}'" for state in sorted(ENDED))


class JournalDiary:
    """The journal as an `actuate.records.Diary`. All methods raise JournalError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, operation: Operation) -> None:
        """See `Diary`."""
        row = (operation.id, operation.boot_id, encode_plan(operation.plan))
        with self._database.transaction() as db:
            _forget_oldest(db)
            db.execute("INSERT OR IGNORE INTO operations VALUES (?, ?, ?)", row)

    def note(self, entry: Entry) -> None:
        """See `Diary`."""
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO operation_entries"
                " (operation, step, state, detail, seconds, undoing) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(entry.operation, entry.step, entry.state.value),
                    *(entry.detail, entry.seconds, int(entry.undoing)),
                ),
            )

    def find(self, id: str) -> Operation | None:
        """The operation of that id, None where there was none."""
        rows = self._database.rows("SELECT id, boot_id, plan FROM operations WHERE id = ?", id)
        return next((Operation(i, boot, decode_plan(plan)) for i, boot, plan in rows), None)

    def entries(self, id: str) -> list[Entry]:
        """All that was noted of an operation, in its order."""
        rows = self._database.rows(
            "SELECT operation, step, state, detail, seconds, undoing FROM operation_entries"
            " WHERE operation = ? ORDER BY seq",
            id,
        )
        return [
            Entry(operation, step, State(state), detail, seconds, bool(undoing))
            for operation, step, state, detail, seconds, undoing in rows
        ]

    def unfinished(self) -> list[Operation]:
        """Those that a crash cut short, or that wait, the oldest first."""
        rows = self._database.rows(
            "SELECT id, boot_id, plan FROM operations"
            f" WHERE ifnull(({_LAST_WHOLE}), '') NOT IN ({_ENDED}) ORDER BY rowid"
        )
        return [Operation(id, boot_id, decode_plan(plan)) for id, boot_id, plan in rows]


def _forget_oldest(db: sqlite3.Connection) -> None:
    old = db.execute(
        f"SELECT id FROM operations WHERE ({_LAST_WHOLE}) IN ({_ENDED})"
        " ORDER BY rowid DESC LIMIT -1 OFFSET ?",
        (KEPT_OPERATIONS - 1,),
    ).fetchall()
    db.executemany("DELETE FROM operation_entries WHERE operation = ?", old)
    db.executemany("DELETE FROM operations WHERE id = ?", old)
