"""The embedded store: one SQLite file in the coordinator's state directory.

A group is evaluated before the first write (`group`), then written as one SQLite transaction and so
with one sync (WAL, `synchronous=FULL`). One connection does everything, checkpoints included, and
keeps the file locked for itself: SQLite before 3.51.3 can corrupt a WAL that several connections
reset, and Debian 12 ships 3.40.1. Whoever wants a running coordinator's data asks the coordinator.

It must never write to a file that it has not verified, never replace one, and never go on after
an error: what a failed sync left behind can only be learned by the next start. Verification knows
structure, not content: SQLite pages carry no checksums.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from vfio_coordinator.store.group import Group
from vfio_coordinator.store.interface import (
    DEFAULT_RETENTION,
    FIRST_REVISION,
    DeleteEvent,
    Event,
    KeyValue,
    PutEvent,
    Range,
    Retention,
    SchemaTooNew,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreInaccessible,
    StoreLocked,
    Txn,
    TxnResult,
    Watch,
    check_key,
    prefix_end,
)
from vfio_coordinator.store.lock import StateLock, sync_path
from vfio_coordinator.store.watch import LocalWatch

DATABASE_NAME = "store.db"
SCHEMA = 1
APPLICATION_ID = 0x7666696F  # "vfio", at byte 68 of the file: sqlite.org/fileformat.html

CHECKPOINT_BYTES = 8 * 1024 * 1024
"""How much is logged, at most, before it is copied into the database file; SQLite's own default
is 1,000 pages of 4 KiB, which our estimate reaches at about this figure. We call the checkpoint,
because SQLite keeps an automatic one's errors to itself."""

PAGE_BYTES = 4096

BUSY_SECONDS = 1.0  # how long opening waits for another program that is just reading the file

_ADVICE = (
    "Nothing was changed. Move it out of the directory together with its -wal file, keep both,"
    " put a backup in their place and start again"
)
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100

_CREATE = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
BEGIN IMMEDIATE;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE kv (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE history (  -- value NULL: the key was deleted
    revision INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (revision, seq)
) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', {SCHEMA}), ('revision', {FIRST_REVISION}),
    ('oldest', {FIRST_REVISION});
COMMIT;
"""

_GET = "SELECT value, create_revision, mod_revision, version FROM kv WHERE key = ?"
_RANGE = (
    "SELECT key, value, create_revision, mod_revision, version FROM kv"
    " WHERE key >= ? AND key < ? ORDER BY key"
)
_PUT = "INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM kv WHERE key = ?"
_EVENT = "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)"
_EVENTS = (
    "SELECT key, value, create_revision, revision, version FROM history"
    " WHERE revision BETWEEN ? AND ? AND key >= ? AND key < ? ORDER BY revision, seq"
)


class SqliteStore:
    """Implements `Store`; make one with `SqliteStore.open`. One lock orders all calls, and a
    commit holds it through its sync."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, retention: Retention, checkpoint_bytes: int
    ) -> None:
        self.changed = threading.Condition()
        self.path = path
        self._db = db
        self._retention = retention
        self._checkpoint_bytes = checkpoint_bytes
        self._failure = ""
        self._closed = False
        meta = dict(db.execute("SELECT name, value FROM meta"))
        self._revision: int = meta["revision"]
        self._oldest: int = meta["oldest"]
        self._history_bytes: int = _number(db, "SELECT total(size) FROM history")
        self._logged_bytes = 0

    @classmethod
    def open(
        cls,
        lock: StateLock,
        *,
        retention: Retention = DEFAULT_RETENTION,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> Self:
        """Open, or make, the database in the locked directory. The lock stays the caller's.

        Raises: StoreCorrupt, SchemaTooNew, StoreLocked, StoreInaccessible; the file is then as
        it was before.
        """
        if not lock.held:
            raise StoreError(f"{lock.directory}: the directory's lock was already released")
        path = lock.directory / DATABASE_NAME
        with _translated(path):
            if not os.path.lexists(path):
                _create(path)
            _verify(path)
            connection = _connect(path)
            try:
                return cls(path, connection, retention=retention, checkpoint_bytes=checkpoint_bytes)
            except BaseException:
                connection.close()
                raise

    def revision(self) -> int:
        with self._guarded():
            return self._revision

    def get(self, key: str) -> KeyValue | None:
        check_key(key)
        with self._guarded():
            return self._get(key)

    def range(self, prefix: str) -> list[KeyValue]:
        return list(self.read(prefix).items)

    def read(self, prefix: str) -> Range:
        end = prefix_end(prefix)
        with self._guarded():
            rows = self._db.execute(_RANGE, (prefix, end))
            return Range(prefix, self._revision, tuple(_item(*row) for row in rows))

    def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        with self._guarded():
            results = self._commit_group(txns) if txns else []
            self.changed.notify_all()
            return results

    def watch(self, prefix: str, from_revision: int) -> Watch:
        return LocalWatch(self, prefix, from_revision)

    def close(self) -> None:
        with self.changed:
            if self._closed:
                return
            self._closed = True
            self.changed.notify_all()
            try:
                self._db.close()  # checkpoints and removes the log
            except sqlite3.Error as err:
                raise self._fail(f"closing {self.path}", err) from err

    def check_usable(self) -> None:
        if self._failure:
            raise StoreFailed(self._failure)
        if self._closed:
            raise StoreClosed("the store was closed")

    def bounds(self) -> tuple[int, int]:
        return self._oldest, self._revision

    def events(self, prefix: str, *, first: int, last: int) -> list[Event]:
        with self._guarded():
            rows = self._db.execute(_EVENTS, (first, last, prefix, prefix_end(prefix)))
            return [_event(*row) for row in rows]

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Hold the lock; any interruption of a database call ends the use of the store."""
        with self.changed:
            self.check_usable()
            try:
                yield
            except sqlite3.Error as err:
                raise self._fail(str(self.path), err) from err
            except BaseException as err:
                self._fail(str(self.path), err)
                raise

    def _fail(self, doing: str, err: BaseException) -> StoreFailed:
        name = getattr(err, "sqlite_errorname", type(err).__name__)
        self._failure = f"{doing}: {err} ({name})"
        self.changed.notify_all()
        return StoreFailed(self._failure)

    def _get(self, key: str) -> KeyValue | None:
        row = self._db.execute(_GET, (key,)).fetchone()
        return _item(key, *row) if row else None

    def _commit_group(self, txns: Sequence[Txn]) -> list[TxnResult]:
        if self._logged_bytes >= self._checkpoint_bytes:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._logged_bytes = 0
        group = Group(self._get, self._revision)
        results = [group.evaluate(txn) for txn in txns]
        if group.events:
            self._db.execute("BEGIN IMMEDIATE")
            written, oldest, held = self._write(group)
            self._db.execute("COMMIT")
            self._revision, self._oldest, self._history_bytes = group.revision, oldest, held
            self._logged_bytes += 2 * written + PAGE_BYTES * (len(group.events) + 3)
        return results

    def _write(self, group: Group) -> tuple[int, int, int]:
        """Write what a group changes; return its bytes and the history's oldest revision and
        bytes after it."""
        puts = [_row(item) for item in group.changed.values() if item]
        deletes = [(key,) for key, item in group.changed.items() if not item]
        history = [_event_row(seq, event) for seq, event in enumerate(group.events)]
        self._db.executemany(_PUT, puts)
        self._db.executemany(_DELETE, deletes)
        self._db.executemany(_EVENT, history)
        written = sum(row[-1] for row in history)
        oldest, held = self._trim(group.revision, self._history_bytes + written)
        meta = ((group.revision, "revision"), (oldest, "oldest"))
        self._db.executemany("UPDATE meta SET value = ? WHERE name = ?", meta)
        return written, oldest, held

    def _trim(self, revision: int, held: int) -> tuple[int, int]:
        """Forget history beyond the retention; return its oldest revision and its bytes."""
        oldest = max(self._oldest, revision - self._retention.revisions + 1)
        if oldest > self._oldest:
            held -= _number(self._db, "SELECT total(size) FROM history WHERE revision < ?", oldest)
        while held > self._retention.bytes and oldest < revision:
            held -= _number(self._db, "SELECT total(size) FROM history WHERE revision = ?", oldest)
            oldest += 1
        if oldest > self._oldest:
            self._db.execute("DELETE FROM history WHERE revision < ?", (oldest,))
        return oldest, held


def _row(item: KeyValue) -> tuple[str, bytes, int, int, int]:
    return item.key, item.value, item.create_revision, item.mod_revision, item.version


def _event_row(seq: int, event: Event) -> tuple[int, int, str, bytes | None, int, int, int]:
    if isinstance(event, DeleteEvent):
        return event.revision, seq, event.key, None, 0, 0, len(event.key)
    item = event.item
    size = len(item.key) + len(item.value)
    return event.revision, seq, item.key, item.value, item.create_revision, item.version, size


def _item(key: str, value: bytes, created: int, modified: int, version: int) -> KeyValue:
    return KeyValue(key, value, create_revision=created, mod_revision=modified, version=version)


def _event(key: str, value: bytes | None, created: int, revision: int, version: int) -> Event:
    if value is None:
        return DeleteEvent(key, revision)
    return PutEvent(_item(key, value, created, revision, version))


def _number(connection: sqlite3.Connection, query: str, *values: int) -> int:
    (number,) = connection.execute(query, values).fetchone()
    return int(number)


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _log_bytes(path: Path) -> int:
    log = Path(f"{os.path.realpath(path)}-wal")  # SQLite follows a link too
    return log.stat().st_size if log.exists() else 0


def _create(path: Path) -> None:
    """Make an empty database beside `path` and move it there once it is whole and synced, so
    that an empty or half-made file under that name is always damage, never a new store."""
    if _log_bytes(path):
        raise StoreCorrupt(str(path), f"is missing but its log {path.name}-wal is there. {_ADVICE}")
    fresh = path.with_name(f"{path.name}.new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{fresh}{suffix}").unlink(missing_ok=True)  # of a start that was cut short
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(_uri(fresh, "rw"), uri=True)) as connection:
        connection.executescript(_CREATE)
    sync_path(fresh)
    fresh.rename(path)
    sync_path(path.parent)


def _verify(path: Path) -> None:
    """Refuse a file that is not a sound store of a schema we know.

    The connection is read-only on purpose: closing a writing one would copy the log into a file
    that was just found broken, and delete the log.
    """
    if path.is_symlink() and not path.exists():
        raise StoreCorrupt(
            str(path), f"is a link to {path.readlink()}, which is not there. {_ADVICE}"
        )
    with path.open("r+b") as file:
        header = file.read(_HEADER_BYTES)
        size = file.seek(0, os.SEEK_END)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        found = f"is {size} bytes long and begins with {header[:16]!r}: not an SQLite database"
        raise StoreCorrupt(str(path), f"{found}. {_ADVICE}")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StoreCorrupt(str(path), f"is an SQLite database that vfioctl did not make. {_ADVICE}")
    if size % PAGE_BYTES and not _log_bytes(path):  # SQLite would fill the last page with zeros
        raise StoreCorrupt(str(path), f"{size} bytes are no whole number of pages. {_ADVICE}")
    connection = sqlite3.connect(_uri(path, "ro"), uri=True, timeout=BUSY_SECONDS)
    with contextlib.closing(connection):
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        known = all(isinstance(meta.get(name), int) for name in ("schema", "revision", "oldest"))
        if known and meta["schema"] > SCHEMA:
            raise SchemaTooNew(str(path), found=meta["schema"], known=SCHEMA)
        if not known or meta["schema"] != SCHEMA:
            raise StoreCorrupt(str(path), f"its meta table reads {meta!r:.200}. {_ADVICE}")
        problems = [text for (text,) in connection.execute("PRAGMA quick_check(10)")]
        if problems != ["ok"]:
            found = " ".join("; ".join(problems).split())
            raise StoreCorrupt(str(path), f"quick_check says {found}. {_ADVICE}")
        newest = _number(connection, "SELECT coalesce(max(revision), 1) FROM history")
        if newest > meta["revision"]:
            found = f"its history reaches revision {newest}, its meta table only"
            raise StoreCorrupt(str(path), f"{found} {meta['revision']}. {_ADVICE}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        _uri(path, "rw"),
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun and ended by name, below
        check_same_thread=False,  # the store's lock orders the threads
    )
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if journal != "wal" or _number(connection, "PRAGMA synchronous") != 2:
            raise StoreInaccessible(str(path), "SQLite refuses WAL with full synchronisation")
        return connection
    except BaseException:
        connection.close()
        raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """While opening: tell damage from a file that is held or refused."""
    try:
        yield
    except OSError as err:
        raise StoreInaccessible(str(path), f"cannot be read and written: {err.strerror}") from err
    except sqlite3.Error as err:
        match getattr(err, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise StoreLocked(str(path), "another program that has the database open") from err
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
                raise StoreCorrupt(str(path), f"SQLite says: {err}. {_ADVICE}") from err
            case _:
                raise StoreInaccessible(str(path), f"SQLite says: {err}") from err
