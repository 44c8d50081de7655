"""What SQLite must survive: SIGKILL, torn logs, full disks, damaged files, second owners.

A SIGKILL leaves the kernel's cache, so it proves atomicity and recovery. What a loss of power adds
is shown in two halves: no commit returns without a sync that succeeded, and a log cut or flipped
at a random place costs only its end.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.contract.store_backends import drain, write
from tests.contract.store_writer import COUNTER
from vfio_coordinator.store.interface import (
    Put,
    SchemaTooNew,
    StoreCorrupt,
    StoreError,
    StoreInaccessible,
    StoreLocked,
)
from vfio_coordinator.store.lock import LOCK_NAME, StateLock
from vfio_coordinator.store.sqlite import DATABASE_NAME, SCHEMA, SqliteStore

KILLS = 20
CUTS = 25
LARGE_BYTES = 20_000
OFTEN = 256 * 1024  # bytes between checkpoints: kills fall into them too
NEVER = 1 << 40
NOBODY = 65534


@contextmanager
def opened(directory: Path) -> Iterator[SqliteStore]:
    with StateLock.acquire(directory) as lock, closing(SqliteStore.open(lock)) as store:
        yield store


def start_writer(
    directory: Path, *, size: int = 16, checkpoint: int = NEVER, harm: str = ""
) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("store_writer.py")
    command = [sys.executable, str(script), str(directory), str(size), str(checkpoint)]
    command += [harm] if harm else []
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def kill_after(writer: subprocess.Popen[str], lines: int) -> dict[int, int]:
    """SIGKILL it once it printed that many lines; return revision by acknowledged number."""
    assert writer.stdout is not None
    printed = [writer.stdout.readline() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    with writer:
        printed += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return parse(line for line in printed if line.endswith("\n"))


def parse(lines: Iterable[str]) -> dict[int, int]:
    return {int(number): int(revision) for number, revision in map(str.split, lines)}


def assert_whole(store: SqliteStore, acknowledged: dict[int, int]) -> int:
    """Every acknowledged step is there, every step is whole, none is missing between."""
    counter = store.get(COUNTER)
    last = int(counter.value) if counter else 0
    for folder in ("a/", "b/"):
        found = {int(item.key[2:]): item for item in store.range(folder)}
        assert sorted(found) == list(range(1, last + 1))
        for number, item in found.items():
            assert int(item.value.split()[0]) == number
            assert item.mod_revision == item.create_revision == number + 1
    assert all(revision == number + 1 for number, revision in acknowledged.items())
    assert last >= max(acknowledged, default=0)
    assert store.get("never") is None
    assert store.revision() == last + 1
    return last


def contents(directory: Path) -> dict[str, str]:
    """Digest by name of the database and its log; an empty log is no log."""
    files = (directory / DATABASE_NAME, directory / f"{DATABASE_NAME}-wal")
    present = (file for file in files if file.exists() and file.stat().st_size)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in present}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a closed store of some hundred pages."""
    directory = tmp_path / "state"
    with opened(directory) as store:
        for number in range(20):
            write(store, *(Put(f"old/{number}/{part}", bytes(200)) for part in range(100)))
    return directory


def test_sigkill_loses_no_acknowledged_commit(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(KILLS):
        writer = start_writer(tmp_path, size=LARGE_BYTES, checkpoint=OFTEN)
        acknowledged = kill_after(writer, chance.randint(1, 60))
        with opened(tmp_path) as store:
            last = assert_whole(store, acknowledged)
            newest = range(max(2, last - 100), last + 2)
            events = drain(store.watch("", newest[0]))
            assert [event.revision for event in events[::3]] == list(newest)
            assert [event.key for event in events].count(COUNTER) == len(newest)


def test_a_torn_log_loses_only_the_end(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    source = tmp_path / "killed"
    acknowledged = kill_after(start_writer(source, size=500), 80)
    log = (source / f"{DATABASE_NAME}-wal").read_bytes()
    seen = set()
    for cut in range(CUTS):
        target = tmp_path / f"torn-{cut}"
        target.mkdir()
        shutil.copy(source / DATABASE_NAME, target)
        position = chance.randrange(len(log))
        torn = bytearray(log[:position] if cut % 2 else log)
        if not cut % 2:
            torn[position] ^= 0xFF
        (target / f"{DATABASE_NAME}-wal").write_bytes(torn)
        with opened(target) as store:
            seen.add(assert_whole(store, {}))
    assert len(seen) > CUTS // 3, "the cuts did not fall between commits"
    with opened(source) as store:
        assert_whole(store, acknowledged)


@pytest.mark.parametrize(
    ("harm", "code"),
    [("full", r"SQLITE_(FULL|IOERR)"), ("sync", "SQLITE_IOERR_FSYNC")],
)
def test_a_failed_write_or_sync_ends_the_use_of_the_store(
    tmp_path: Path, harm: str, code: str
) -> None:
    with start_writer(tmp_path, size=LARGE_BYTES, checkpoint=OFTEN, harm=harm) as writer:
        assert writer.stdout is not None
        lines = writer.stdout.read().splitlines()
    assert writer.returncode == 0
    harmed = lines.index("harmed")
    failed = next(index for index, line in enumerate(lines) if line.startswith("failed "))
    assert re.search(rf"{tmp_path / DATABASE_NAME}: .* \({code}", lines[failed])
    names = ("commit", "get", "range", "revision", "watch")
    assert lines[failed + 1 :] == [f"later {name} StoreFailed" for name in names]
    if harm == "sync":
        assert failed == harmed + 1, "a commit was acknowledged although no sync succeeded"
    acknowledged = parse([*lines[:harmed], *lines[harmed + 1 : failed]])
    assert acknowledged
    with opened(tmp_path) as store:
        assert_whole(store, acknowledged)
        write(store, Put("again", b""))


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        write(store, Put("a", b"1"), Put("b", b"2"))
        write(store, Put("a", b"3"))
        before = store.read(""), drain(store.watch("", 1))
    assert (tmp_path / DATABASE_NAME).stat().st_mode & 0o777 == 0o600
    with opened(tmp_path) as store:
        assert (store.read(""), drain(store.watch("", 1))) == before
        assert write(store, Put("c", b"")) == 4


def overwrite(path: Path, *, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(1).randbytes(size))


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def overwrite_root_of_keys(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'kv'"
        (page,) = connection.execute(query).fetchone()
    overwrite(path, start=(page - 1) * 4096, size=4096)


def replace_by_foreign(path: Path) -> None:
    path.unlink()
    alter(path, "CREATE TABLE t (x)")


def replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("unmounted"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "emptied": (lambda path: os.truncate(path, 0), "is 0 bytes long"),
    "header cut": (lambda path: os.truncate(path, 50), "is 50 bytes long"),
    "cut in half": (lambda path: os.truncate(path, path.stat().st_size // 2), "SQLite says"),
    "last byte cut": (lambda path: os.truncate(path, path.stat().st_size - 1), "no whole number"),
    "text": (lambda path: path.write_text("hello " * 99), "begins with b'hello hello hell'"),
    "garbage": (lambda path: overwrite(path, start=0, size=90_000), "not an SQLite database"),
    "garbage pages": (lambda path: overwrite(path, start=8192, size=90_000), ""),
    "garbage page": (overwrite_root_of_keys, "quick_check says"),
    "foreign": (replace_by_foreign, "that vfioctl did not make"),
    "dangling link": (replace_by_dangling_link, "which is not there"),
    "no meta": (lambda path: alter(path, "DROP TABLE meta"), "no such table: meta"),
    "no revision": (
        lambda path: alter(path, "DELETE FROM meta WHERE name = 'revision'"),
        "its meta table reads",
    ),
    "rewound": (
        lambda path: alter(path, "UPDATE meta SET value = 3 WHERE name = 'revision'"),
        "its history reaches revision 21, its meta table only 3",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_left_alone(state: Path, damage: str) -> None:
    path = state / DATABASE_NAME
    harm, found = DAMAGES[damage]
    harm(path)
    before = contents(state)
    for _ in range(2):
        with pytest.raises(StoreCorrupt) as refused, opened(state):
            pass
        assert refused.value.path == str(path)
        assert str(path) in str(refused.value)
        assert found in str(refused.value)
        assert "put a backup in their place" in str(refused.value)
        assert contents(state) == before


def test_a_damaged_file_keeps_its_log(state: Path) -> None:
    kill_after(start_writer(state), 3)
    overwrite(state / DATABASE_NAME, start=8192, size=400_000)
    before = contents(state)
    assert len(before) == 2
    with pytest.raises(StoreCorrupt), opened(state):
        pass
    assert contents(state) == before


def test_a_log_without_its_database_is_damage(state: Path) -> None:
    kill_after(start_writer(state), 3)
    (state / DATABASE_NAME).unlink()
    before = contents(state)
    found = r"is missing but its log store\.db-wal is there"
    with pytest.raises(StoreCorrupt, match=found), opened(state):
        pass
    assert contents(state) == before
    assert not (state / DATABASE_NAME).exists()


def test_a_first_start_that_was_cut_short_is_repeated(tmp_path: Path) -> None:
    (tmp_path / f"{DATABASE_NAME}.new").write_bytes(b"half")
    (tmp_path / f"{DATABASE_NAME}.new-wal").write_bytes(b"half")
    with opened(tmp_path) as store:
        assert store.revision() == 1
    assert sorted(path.name for path in tmp_path.glob("*.new*")) == []


def test_a_newer_schema_is_refused_and_left_alone(state: Path) -> None:
    path = state / DATABASE_NAME
    alter(path, f"UPDATE meta SET value = {SCHEMA + 1} WHERE name = 'schema'")
    before = contents(state)
    found = rf"schema {SCHEMA + 1} .* knows up to {SCHEMA}\."
    with pytest.raises(SchemaTooNew, match=found), opened(state):
        pass
    assert contents(state) == before


def test_a_backup_without_wal_mode_is_taken(state: Path) -> None:
    path, backup = state / DATABASE_NAME, state / "backup"
    alter(path, f"VACUUM INTO '{backup}'")
    backup.replace(path)
    with opened(state) as store:
        assert len(store.range("old/")) == 2000
        write(store, Put("new", b""))
        assert (state / f"{DATABASE_NAME}-wal").exists()


def test_no_other_program_reads_or_writes_a_running_store(state: Path) -> None:
    other = sqlite3.connect(state / DATABASE_NAME, timeout=0)
    with closing(other), opened(state), pytest.raises(sqlite3.OperationalError, match="is locked"):
        other.execute("SELECT * FROM meta").fetchall()


def test_a_database_that_another_program_holds_is_refused(state: Path) -> None:
    with closing(sqlite3.connect(state / DATABASE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        held = "another program that has the database open"
        with pytest.raises(StoreLocked, match=held), opened(state):
            pass
        other.execute("ROLLBACK")
    with opened(state) as store:
        assert len(store.range("old/")) == 2000


def test_a_second_coordinator_is_told_who_holds_the_directory(state: Path) -> None:
    writer = start_writer(state)
    with pytest.raises(StoreLocked, match=rf"{state}: held by pid {writer.pid} on ") as refused:
        StateLock.acquire(state)
    assert f"pid {writer.pid} " in refused.value.holder
    kill_after(writer, 1)
    with opened(state) as store:
        with pytest.raises(StoreLocked, match=f"held by pid {os.getpid()} on "):
            StateLock.acquire(state)
        assert store.revision() > 1


def test_a_released_lock_opens_no_store(state: Path) -> None:
    lock = StateLock.acquire(state)
    lock.release()
    lock.release()
    with pytest.raises(StoreError, match="already released"):
        SqliteStore.open(lock)


def test_a_state_directory_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreInaccessible, match="file/lock: cannot be opened for writing"):
        StateLock.acquire(tmp_path / "file")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "file")
    with pytest.raises(StoreInaccessible, match="symbolic links"):
        StateLock.acquire(tmp_path)


OPEN_UNPRIVILEGED = f"""
import os, sys
from pathlib import Path
from vfio_coordinator.store.interface import StoreInaccessible
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.sqlite import SqliteStore
if os.geteuid() == 0:  # root may write anywhere
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
os.listdir(sys.argv[1])
try:
    SqliteStore.open(StateLock.acquire(Path(sys.argv[1])))
except StoreInaccessible as err:
    print(err)
"""


@pytest.mark.parametrize("read_only", [".", DATABASE_NAME])
def test_a_read_only_directory_or_file_is_named(state: Path, read_only: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below tmp_path: others may enter it
        directory = Path(folder)
        shutil.copy(state / DATABASE_NAME, directory)
        (directory / LOCK_NAME).touch()
        modes = {".": 0o777, LOCK_NAME: 0o666, DATABASE_NAME: 0o666, read_only: 0o444}
        if read_only == ".":
            modes |= {".": 0o555, LOCK_NAME: 0o444}
        for name, mode in modes.items():
            (directory / name).chmod(mode)
        before = contents(directory)
        command = [sys.executable, "-c", OPEN_UNPRIVILEGED, folder]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert contents(directory) == before
        directory.chmod(0o755)
    name = LOCK_NAME if read_only == "." else DATABASE_NAME
    assert said.startswith(f"{directory / name}: cannot be ")
    assert said.endswith(": Permission denied\n")
