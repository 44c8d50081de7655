"""The journal's tables, and the way to them from each older schema.

A migration is one transaction that ends with the new schema's number, so a start that is cut short
begins it again. It must never drop what an older version kept.
"""

from __future__ import annotations

SCHEMA_VERSION = 5
"""2 added the spool of durable events, 3 the diary of operations, 4 what was asked of the hands,
5 where, when and for how long a reset was, on which firmware in words, and attempts nobody saw."""

APPLICATION_ID = 0x7666616A
"""`vfaj` at byte 68 of the file (sqlite.org/fileformat.html): not the coordinator's store."""

PAGE_BYTES = 4096

_SPOOL = """
CREATE TABLE spool (  -- a gap stands for the numbers `first` to `seq`; an event has both the same
    seq INTEGER PRIMARY KEY, first INTEGER NOT NULL, critical INTEGER NOT NULL,
    gap INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX spool_droppable ON spool (seq) WHERE critical = 0;
CREATE TABLE reservations (id INTEGER PRIMARY KEY AUTOINCREMENT, purpose TEXT NOT NULL);
INSERT INTO meta VALUES ('spool_id', lower(hex(randomblob(16)))), ('spool_last', '0'),
    ('spool_held', '');
"""

_DIARY = """
CREATE TABLE operations (id TEXT PRIMARY KEY, boot_id TEXT NOT NULL, plan TEXT NOT NULL);
CREATE TABLE operation_entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, operation TEXT NOT NULL, step INTEGER NOT NULL,
    state TEXT NOT NULL, detail TEXT NOT NULL, seconds REAL NOT NULL, undoing INTEGER NOT NULL);
CREATE INDEX entries_of ON operation_entries (operation, seq);
"""

_ACTIONS = """
CREATE TABLE actions (
    id TEXT PRIMARY KEY, verb TEXT NOT NULL, asked TEXT NOT NULL, sequence INTEGER,
    loss BLOB, report BLOB);
"""

_DETAIL = """
ALTER TABLE attempts ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN duration_ms INTEGER;
ALTER TABLE attempts ADD COLUMN told_at_ms INTEGER;
ALTER TABLE attempts ADD COLUMN firmware_text TEXT NOT NULL DEFAULT '';
ALTER TABLE totals ADD COLUMN unobserved INTEGER NOT NULL DEFAULT 0;
UPDATE totals SET unobserved = (SELECT count(*) FROM attempts AS a
    WHERE a.identity = totals.identity AND a.firmware = totals.firmware
    AND a.outcome = 'unobserved');
"""

CREATE = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
BEGIN IMMEDIATE;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE attempts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL, place TEXT NOT NULL,
    firmware TEXT NOT NULL, boot_id TEXT NOT NULL, key TEXT NOT NULL, method TEXT NOT NULL,
    outcome TEXT NOT NULL, evidence TEXT NOT NULL, UNIQUE (boot_id, key, identity));
CREATE INDEX attempts_of ON attempts (identity, firmware);
CREATE TABLE totals (
    identity TEXT NOT NULL, firmware TEXT NOT NULL, attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL, PRIMARY KEY (identity, firmware)) WITHOUT ROWID;
CREATE TABLE seen (
    boot_id TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (boot_id, key)) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}'), ('state_id', lower(hex(randomblob(16))));
{_SPOOL}
{_DIARY}
{_ACTIONS}
{_DETAIL}
COMMIT;
"""

MIGRATIONS = {
    1: f"""
BEGIN IMMEDIATE;
{_SPOOL}
UPDATE meta SET value = '2' WHERE key = 'schema';
COMMIT;
""",
    2: f"""
BEGIN IMMEDIATE;
{_DIARY}
UPDATE meta SET value = '3' WHERE key = 'schema';
COMMIT;
""",
    3: f"""
BEGIN IMMEDIATE;
{_ACTIONS}
UPDATE meta SET value = '4' WHERE key = 'schema';
COMMIT;
""",
    4: f"""
BEGIN IMMEDIATE;
{_DETAIL}
UPDATE meta SET value = '5' WHERE key = 'schema';
COMMIT;
""",
}
"""From a schema to the next."""
