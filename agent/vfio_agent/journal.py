"""The agent's journal: what must survive a crash, an upgrade and a kernel log that rolled over.

It holds the agent's own state id, the highest fence it ever obeyed, and the reset history of this
host's devices. The only module of the agent that knows SQLite. It must never answer from a damaged
file, nor write to a file that it has not verified: such a file is left untouched and named, because
the history in it may still be saved. One agent at a time owns a journal (a lock beside it); others
may read it (`open_readonly`) and never change anything.

A row is committed before its caller goes on (`synchronous=FULL`), so a crash loses nothing that was
reported. The same kernel line is the same row however often it is read: its key stays in `seen`,
also when the rows it made have been trimmed. Any error of the database ends the use of the journal:
what a failed sync left behind can only be learned by the next start.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from vfio_agent.lock import AlreadyLocked, FileLock
from vfio_contract.ledger import FAILURES, Outcome, ResetAttempt

SCHEMA_VERSION = 1

APPLICATION_ID = 0x7666616A
"""`vfaj` at byte 68 of the file (sqlite.org/fileformat.html): not the coordinator's store."""

KEPT_ATTEMPTS = 32
"""Kept per identity and firmware tuple; older attempts live on in the totals.

The newest of each outcome is always among them, so that what the history amounts to does not change
by trimming.
"""

SEEN_LIMIT = 10_000
"""Keys remembered before those are forgotten that the kernel log no longer holds."""

_PAGE_BYTES = 4096
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_LOCK_SUFFIX = ".lock"
"""A file of its own: closing any descriptor of the database drops the locks SQLite holds on it."""

_ADVICE = (
    "it was left as it is. Move it away together with its -wal file, keep both for the reset "
    "history, and start again"
)

_CREATE = f"""
PRAGMA page_size = {_PAGE_BYTES};
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
COMMIT;
"""

_COLUMNS = "key, identity, firmware, boot_id, method, outcome, evidence, place"
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


class JournalError(Exception):
    """The journal cannot be used: what is wrong with which file, and what to do."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The highest coordinator this agent has obeyed; the cluster id is "" before the first."""

    cluster_id: str
    incarnation: int
    epoch: int


NO_FENCE = Fence("", 0, 0)


class Journal:
    """One open journal. Its methods may be called from any thread; all raise JournalError."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, lock: FileLock | None = None
    ) -> None:
        self._db = connection
        self._path = path
        self._lock = lock
        self._turn = threading.RLock()
        self._failure = ""

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Own `path`, made if it is not there; JournalError names the file and the fix."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock.acquire(path.with_name(path.name + _LOCK_SUFFIX))
        except AlreadyLocked as error:
            raise JournalError(
                f"{path}: another agent uses it ({error.holder}); stop it, or give this one its "
                "own state directory"
            ) from None
        except OSError as error:
            raise JournalError(f"{path}: cannot be locked: {error.strerror}") from error
        try:
            with _translated(path):
                if not os.path.lexists(path):
                    _create(path)
                _verify(path)
                return cls(_connect(path), path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_readonly(cls, path: Path) -> Journal | None:
        """The journal as another process sees it; None when there provably is none.

        Nothing is written, not even beside it. JournalError where it cannot be read.
        """
        with _translated(path):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            _verify(path)
            return cls(_connect_readonly(path), path)

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        with self._turn:
            self._failure = self._failure or f"{self._path}: was closed"
            self._db.close()
            if self._lock is not None:
                self._lock.release()

    @property
    def state_id(self) -> str:
        """Random, made with this database: a reinstalled agent is a different one."""
        return self._meta("state_id")

    def fence(self) -> Fence:
        """The highest fence obeyed."""
        text = self._meta("fence")
        return Fence(*json.loads(text)) if text else NO_FENCE

    def obey(self, fence: Fence) -> None:
        """Remember a fence, durably, before anything is done under it."""
        with self._transaction():
            self._put_meta("fence", json.dumps([fence.cluster_id, fence.incarnation, fence.epoch]))

    def fed_boot(self) -> str:
        """The newest boot of which a kernel log was recorded, "" before the first."""
        return self._meta("fed_boot")

    def record(self, attempts: Iterable[ResetAttempt], *, boot_id: str) -> int:
        """Store what the kernel log of this boot says, in its order; the number of new rows.

        A key that was recorded before is left out, also for functions that it did not concern then:
        a device put in later is not blamed for an old line.
        """
        rows = tuple(attempts)
        if not boot_id or any(row.boot_id != boot_id for row in rows):
            raise ValueError("a record holds the attempts of one known boot")
        with self._turn:
            known = self.seen(boot_id)
            new = [row for row in rows if row.key not in known]
            if not new and self.fed_boot() == boot_id:
                return 0
            with self._transaction():
                self._put_meta("fed_boot", boot_id)
                added = sum(self._insert(row) for row in new)
                self._remember({row.key for row in new}, {row.key for row in rows}, boot_id)
        return added

    def seen(self, boot_id: str) -> frozenset[str]:
        """Keys recorded in this boot, whether or not their rows are still kept; "" for any boot."""
        with self._guarded():
            found = self._db.execute(
                "SELECT key FROM seen WHERE ? IN ('', boot_id)"
                " UNION SELECT key FROM attempts WHERE ? IN ('', boot_id)",
                (boot_id, boot_id),
            )
            return frozenset(key for (key,) in found)

    def attempts(self) -> list[ResetAttempt]:
        """All kept attempts in the order they happened."""
        with self._guarded():
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM attempts ORDER BY seq").fetchall()
        attempts = (ResetAttempt(*row) for row in rows)
        return [replace(attempt, outcome=Outcome(attempt.outcome)) for attempt in attempts]

    def totals(self) -> dict[str, tuple[int, int]]:
        """(attempts, failures) ever recorded, by identity, over all firmware tuples."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT identity, sum(attempts), sum(failures) FROM totals GROUP BY identity"
            ).fetchall()
        return {identity: (int(tried), int(failed)) for identity, tried, failed in rows}

    def _insert(self, row: ResetAttempt) -> bool:
        done = self._db.execute(
            f"INSERT OR IGNORE INTO attempts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            astuple(row),
        )
        if done.rowcount != 1:
            return False  # twice in one record
        of = (row.identity, row.firmware)
        self._db.execute(_ADD_TOTAL, (*of, int(row.outcome in FAILURES)))
        self._db.execute(_TRIM, (*of, KEPT_ATTEMPTS))
        return True

    def _remember(self, new: set[str], visible: set[str], boot_id: str) -> None:
        """Keys of other boots never come back, nor do lines that the log has lost."""
        self._db.execute("DELETE FROM seen WHERE boot_id != ?", (boot_id,))
        (count,) = self._db.execute("SELECT count(*) FROM seen").fetchone()
        if count + len(new) > SEEN_LIMIT:
            self._db.execute("DELETE FROM seen")
            new = visible
        self._db.executemany("INSERT INTO seen VALUES (?, ?)", [(boot_id, key) for key in new])

    def _meta(self, key: str) -> str:
        with self._guarded():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def _put_meta(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    self._db.rollback()
                raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._turn:
            if self._failure:
                raise JournalError(self._failure)
            try:
                yield
            except sqlite3.Error as error:
                self._failure = f"{self._path}: {_name(error)}"
                raise JournalError(self._failure) from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """While opening: tell damage from a file that is refused or held."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"{path}: cannot be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        broken = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        advice = f"; {_ADVICE}" if code in broken else ""
        raise JournalError(f"{path}: {_name(error)}{advice}") from error


def _name(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorname", "")
    return f"SQLite says: {error}" + (f" ({code})" if code else "")


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"


def _create(path: Path) -> None:
    """Make it under another name and move it into place once it is whole and synced.

    So an empty or half-made file under the journal's own name is always damage, never a new agent.
    """
    if _wal(path).exists():
        raise JournalError(
            f"{path}: is missing, but {_wal(path).name} is there; restore it, or "
            "move that file away to begin without a reset history"
        )
    fresh = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{fresh}{suffix}").unlink(missing_ok=True)  # of a start that was cut short
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(_uri(fresh, "mode=rw"), uri=True, isolation_level=None)) as db:
        db.executescript(_CREATE)
    _sync(fresh)
    fresh.rename(path)
    _sync(path.parent)


def _verify(path: Path) -> None:
    """Refuse a file that is not a sound journal of the schema that this version knows.

    Read-only on purpose: closing a writing connection would copy the log into a file that was just
    found broken. No descriptor of ours is open on the file while SQLite has it open.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        size = file.seek(0, os.SEEK_END)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise JournalError(f"{path}: no SQLite database ({size} bytes); {_ADVICE}")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise JournalError(f"{path}: not an agent's journal; {_ADVICE}")
    if size % _PAGE_BYTES and not _has_wal(path):  # SQLite would fill the last page with zeros
        raise JournalError(f"{path}: cut short ({size} bytes); {_ADVICE}")
    with closing(_connect_readonly(path)) as db:
        found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        schema = "" if found is None else str(found[0])
        if schema.isdigit() and int(schema) > SCHEMA_VERSION:
            raise JournalError(
                f"{path}: written by a newer version (schema {schema}, this one knows "
                f"{SCHEMA_VERSION}); upgrade vfioctl on this host"
            )
        if schema != str(SCHEMA_VERSION):
            raise JournalError(f"{path}: schema {schema!r}; {_ADVICE}")
        problems = [text for (text,) in db.execute("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise JournalError(f"{path}: damaged ({'; '.join(problems):.200}); {_ADVICE}")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        _uri(path, "mode=rw"), uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        db.execute("PRAGMA synchronous = FULL")
        (level,) = db.execute("PRAGMA synchronous").fetchone()
        if mode != "wal" or level != 2:
            raise JournalError(f"{path}: SQLite refuses WAL with full synchronisation here")
        return db
    except BaseException:
        db.close()
        raise


def _connect_readonly(path: Path) -> sqlite3.Connection:
    """Without a log nobody has it open for writing, and `immutable` keeps SQLite from making one.

    An agent that starts at this very moment changes nothing before its first checkpoint.
    """
    options = "mode=ro" if _has_wal(path) else "mode=ro&immutable=1"
    return sqlite3.connect(_uri(path, options), uri=True, check_same_thread=False)


def _wal(path: Path) -> Path:
    return Path(f"{os.path.realpath(path)}-wal")  # SQLite follows a link too


def _has_wal(path: Path) -> bool:
    return _wal(path).exists()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
