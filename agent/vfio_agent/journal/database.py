"""The journal's file: made, verified, migrated, and used by one connection.

It must never answer from a damaged file, nor write to a file that it has not verified: such a file
is left untouched and named, because the history in it may still be saved. One agent at a time owns
a journal (a lock beside it); others may read it and never change anything.

Any error of the database ends the use of the journal: what a failed sync left behind can only be
learned by the next start. A full disk is the exception (JournalFull): SQLite refuses the write
before anything of it counts, so what was committed stands and a later write may succeed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from vfio_agent.journal.schema import APPLICATION_ID, CREATE, MIGRATIONS, PAGE_BYTES, SCHEMA_VERSION
from vfio_agent.lock import AlreadyLocked, FileLock
from vfio_contract.durable import SpoolUnavailable

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_LOCK_SUFFIX = ".lock"
"""A file of its own: closing any descriptor of the database drops the locks SQLite holds on it."""

_ADVICE = (
    "it was left as it is. Move it away together with its -wal file, keep both for the reset "
    "history, and start again"
)


class JournalError(SpoolUnavailable):
    """The journal cannot be used: what is wrong with which file, and what to do."""


class JournalFull(JournalError):
    """The disk is full. Nothing of this write was kept, all before it was, and it may be tried
    again."""


class Database:
    """One open journal file. Its methods may be called from any thread; all raise JournalError.

    `full` says that the last write found the disk full, "" once one succeeded.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, lock: FileLock | None = None
    ) -> None:
        self.path = path
        self.writable = lock is not None
        self._db = connection
        self._lock = lock
        self.full = ""
        self._turn = threading.RLock()
        self._failure = ""

    @classmethod
    def open(cls, path: Path) -> Database:
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
                schema = _verify(path)
                connection = _connect(path)
                try:
                    for version in range(schema, SCHEMA_VERSION):
                        connection.executescript(MIGRATIONS[version])
                except BaseException:
                    connection.close()
                    raise
                return cls(connection, path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_readonly(cls, path: Path) -> Database | None:
        """The file as another process sees it; None when there provably is none.

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
            self._failure = self._failure or f"{self.path}: was closed"
            self._db.close()
            if self._lock is not None:
                self._lock.release()

    @property
    def failure(self) -> str:
        """Why the journal can no longer be used, "" while it can."""
        return self._failure

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.guarded():
            return self._db.execute(query, values).fetchall()

    def meta(self, key: str) -> str:
        """A value by name, "" when it was never put."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0][0]) if rows else ""

    def put_meta(self, key: str, value: str) -> None:
        """Only inside a transaction."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done inside is durable at its end, or none of it happened."""
        with self.guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
                self.full = ""
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    self._db.rollback()
                raise

    @contextmanager
    def joined(self) -> Iterator[sqlite3.Connection]:
        """Part of the transaction that the caller is in, or a read of its own."""
        with self.guarded():
            yield self._db

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Alone with the connection; an error of SQLite ends its use, but for a full disk."""
        with self._turn:
            if self._failure:
                raise JournalError(self._failure)
            try:
                yield
            except sqlite3.Error as error:
                found = f"{self.path}: {_name(error)}"
                if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                    self.full = found
                    raise JournalFull(found) from error
                self._failure = found
                raise JournalError(found) from error


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
        db.executescript(CREATE)
    _sync(fresh)
    fresh.rename(path)
    _sync(path.parent)


def _verify(path: Path) -> int:
    """Its schema; refuses a file that is not a sound journal of one that this version knows.

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
    if size % PAGE_BYTES and not _has_wal(path):  # SQLite would fill the last page with zeros
        raise JournalError(f"{path}: cut short ({size} bytes); {_ADVICE}")
    with closing(_connect_readonly(path)) as db:
        found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        schema = "" if found is None else str(found[0])
        if schema.isdigit() and int(schema) > SCHEMA_VERSION:
            raise JournalError(
                f"{path}: written by a newer version (schema {schema}, this one knows "
                f"{SCHEMA_VERSION}); upgrade vfioctl on this host"
            )
        if not schema.isdigit() or int(schema) not in (*MIGRATIONS, SCHEMA_VERSION):
            raise JournalError(f"{path}: schema {schema!r}; {_ADVICE}")
        problems = [text for (text,) in db.execute("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise JournalError(f"{path}: damaged ({'; '.join(problems):.200}); {_ADVICE}")
    return int(schema)


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
