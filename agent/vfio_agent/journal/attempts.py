"""Reset attempts as rows, and as the events that tell the cluster of them.

Whoever is inside a transaction of the journal adds rows here, so that an attempt and what belongs
to it are there together or not at all. A row is the same row however often it is added: boot, key
and identity name it. It must never count one twice.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, fields, replace

from vfio_agent.journal.database import Database
from vfio_contract.durable import DurableEvent, ResetAttempted, Stamp
from vfio_contract.ledger import (
    FAILURES,
    KEPT_ATTEMPTS,
    Outcome,
    ResetAttempt,
    Total,
    choose_kept,
)

_NAMES = tuple(field.name for field in fields(ResetAttempt))
"""Of the columns, in the order of the values."""

_COLUMNS = ", ".join(_NAMES)
_PLACES = ", ".join("?" for _ in _NAMES)

_ADD_TOTAL = """
INSERT INTO totals VALUES (?, ?, 1, ?, ?) ON CONFLICT (identity, firmware)
DO UPDATE SET attempts = attempts + 1, failures = failures + excluded.failures,
    unobserved = unobserved + excluded.unobserved
"""


def add_attempt(db: sqlite3.Connection, row: ResetAttempt, *, wall_ms: int | None = None) -> bool:
    """Add it and count it; False where it is there already. `wall_ms` is when it is recorded."""
    done = db.execute(
        f"INSERT OR IGNORE INTO attempts ({_COLUMNS}) VALUES ({_PLACES})",
        astuple(replace(row, told_at_ms=wall_ms)),
    )
    if done.rowcount != 1:
        return False
    unseen = row.outcome is Outcome.UNOBSERVED
    of = (row.identity, row.firmware)
    db.execute(_ADD_TOTAL, (*of, int(row.outcome in FAILURES), int(unseen)))
    _trim(db, *of)
    return True


def read_attempts(database: Database) -> list[ResetAttempt]:
    """All kept attempts in the order they happened; what an older schema lacks is not known."""
    there = _columns(database, "attempts")
    names = [name for name in _NAMES if name in there]
    rows = database.rows(f"SELECT {', '.join(names)} FROM attempts ORDER BY seq")
    found = (ResetAttempt(**dict(zip(names, row, strict=True))) for row in rows)
    return [replace(attempt, outcome=Outcome(attempt.outcome)) for attempt in found]


def read_totals(database: Database) -> dict[tuple[str, str], Total]:
    """By identity and firmware tuple."""
    unobserved = "unobserved" if "unobserved" in _columns(database, "totals") else "0"
    rows = database.rows(f"SELECT identity, firmware, attempts, failures, {unobserved} FROM totals")
    return {(identity, firmware): Total(*counts) for identity, firmware, *counts in rows}


def _columns(database: Database, table: str) -> set[str]:
    return {name for (name,) in database.rows("SELECT name FROM pragma_table_info(?)", table)}


def tell_attempt(row: ResetAttempt, at: Stamp, more: str = "") -> DurableEvent:
    """The event of a row; `more` is added to its evidence."""
    payload = ResetAttempted(
        key=row.key,
        firmware=row.firmware,
        method=row.method,
        outcome=row.outcome.value,
        evidence=row.evidence + more,
        place=row.place,
        duration_ms=row.duration_ms,
        boot_id=row.boot_id,
        firmware_text=row.firmware_text,
    )
    return DurableEvent(at=at, identity=row.identity, address=row.address, payload=payload)


def _trim(db: sqlite3.Connection, identity: str, firmware: str) -> None:
    of = "FROM attempts WHERE identity = ? AND firmware = ?"
    (count,) = db.execute(f"SELECT count(*) {of}", (identity, firmware)).fetchone()
    if count <= KEPT_ATTEMPTS:
        return
    found = db.execute(
        f"SELECT seq, boot_id, method, outcome {of} ORDER BY seq", (identity, firmware)
    ).fetchall()
    rows = [_Numbered(*row) for row in found]
    gone = {row.seq for row in rows} - {row.seq for row in choose_kept(rows)}
    db.executemany("DELETE FROM attempts WHERE seq = ?", [(seq,) for seq in gone])


@dataclass(frozen=True, slots=True)
class _Numbered:
    seq: int
    boot_id: str
    method: str
    outcome: str
