"""Reset attempts as rows, and as the events that tell the cluster of them.

Whoever is inside a transaction of the journal adds rows here, so that an attempt and what belongs
to it are there together or not at all. A row is the same row however often it is added: boot, key
and identity name it. It must never count one twice.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple

from vfio_contract.durable import DurableEvent, ResetAttempted, Stamp
from vfio_contract.ledger import FAILURES, ResetAttempt

KEPT_ATTEMPTS = 32
"""Kept per identity and firmware tuple; older attempts live on in the totals.

The newest of each outcome is always among them, so that what the history amounts to does not change
by trimming.
"""

COLUMNS = "key, identity, firmware, boot_id, method, outcome, evidence, place"
"""In the order of the fields of `ResetAttempt`."""

_TRIM = """
DELETE FROM attempts WHERE seq IN (
    SELECT seq FROM (
        SELECT seq, seq = max(seq) OVER (PARTITION BY outcome) AS newest
        FROM attempts WHERE identity = ? AND firmware = ?)
    ORDER BY newest DESC, seq DESC LIMIT -1 OFFSET ?)
"""

_ADD_TOTAL = """
INSERT INTO totals VALUES (?, ?, 1, ?) ON CONFLICT (identity, firmware)
DO UPDATE SET attempts = attempts + 1, failures = failures + excluded.failures
"""


def add_attempt(db: sqlite3.Connection, row: ResetAttempt) -> bool:
    """Add it and count it; False where it is there already."""
    done = db.execute(
        f"INSERT OR IGNORE INTO attempts ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        astuple(row),
    )
    if done.rowcount != 1:
        return False
    of = (row.identity, row.firmware)
    db.execute(_ADD_TOTAL, (*of, int(row.outcome in FAILURES)))
    db.execute(_TRIM, (*of, KEPT_ATTEMPTS))
    return True


def tell_attempt(row: ResetAttempt, at: Stamp, more: str = "") -> DurableEvent:
    """The event of a row; `more` is added to its evidence."""
    payload = ResetAttempted(
        key=row.key,
        firmware=row.firmware,
        method=row.method,
        outcome=row.outcome.value,
        evidence=row.evidence + more,
        place=row.place,
    )
    return DurableEvent(at=at, identity=row.identity, address="", payload=payload)
