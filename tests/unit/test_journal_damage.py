"""What the agent's journal must survive: SIGKILL, damage, newer versions, a disk that fails."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.journal_writer import BOOT as WRITERS_BOOT
from tests.unit.journal_writer import DEVICES
from tests.unit.journal_writer import attempt as writers_attempt
from tests.unit.journals import BOOT, attempt, contents, kill_after, opened, reading, start_writer
from vfio_agent.journal import (
    KEPT_ATTEMPTS,
    NO_FENCE,
    Journal,
    JournalError,
)

KILLS = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


# --- damage ----------------------------------------------------------------------------------


def alter(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def overwrite(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(1).randbytes(size))


def replace_by_foreign(path: Path) -> None:
    path.unlink()
    alter(path, "CREATE TABLE meta (key TEXT, value TEXT)", "INSERT INTO meta VALUES ('schema', 1)")


def replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("unmounted"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "emptied": (lambda p: os.truncate(p, 0), "no SQLite database (0 bytes)"),
    "header cut": (lambda p: os.truncate(p, 60), "no SQLite database (60 bytes)"),
    "cut in half": (lambda p: os.truncate(p, p.stat().st_size // 8192 * 4096), "malformed"),
    "last byte cut": (lambda p: os.truncate(p, p.stat().st_size - 1), "cut short"),
    "text": (lambda p: p.write_text("hello " * 99), "no SQLite database"),
    "garbage": (lambda p: overwrite(p, 0, 20_000), "no SQLite database"),
    "garbage pages": (lambda p: overwrite(p, 4096, 20_000), ""),
    "foreign": (replace_by_foreign, "not an agent's journal"),
    "dangling link": (replace_by_dangling_link, "No such file"),
    "no meta": (lambda p: alter(p, "DROP TABLE meta"), "no such table: meta"),
    "no schema": (lambda p: alter(p, "DELETE FROM meta"), "schema ''"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_left_byte_for_byte(path: Path, damage: str) -> None:
    with opened(path) as journal:
        journal.record([attempt(n, identity=f"dsn-{n}.0") for n in range(60)], boot_id=BOOT)
    harm, found = DAMAGES[damage]
    harm(path)
    if damage == "dangling link":
        with pytest.raises(JournalError, match=rf"{path}: cannot be opened: {found}"):
            Journal.open(path)
        assert path.is_symlink()
        return
    before = contents(path)
    for open_it in (Journal.open, Journal.open_readonly, Journal.open):
        with pytest.raises(JournalError) as refused:
            open_it(path)
        assert str(path) in str(refused.value)
        assert found in str(refused.value)
        assert "Move it away" in str(refused.value)
        assert contents(path) == before


def test_a_damaged_file_keeps_its_log(path: Path) -> None:
    kill_after(start_writer(path), 30)
    overwrite(path, 0, 4096)
    before = contents(path)
    assert f"{path.name}-wal" in before
    with pytest.raises(JournalError, match="Move it away"):
        Journal.open(path)
    assert contents(path) == before


def test_a_log_without_its_database_is_damage(path: Path) -> None:
    kill_after(start_writer(path), 3)
    path.unlink()
    before = contents(path)
    with pytest.raises(JournalError, match=r"is missing, but journal\.db-wal is there"):
        Journal.open(path)
    assert contents(path) == before


def test_a_newer_schema_is_not_touched(path: Path) -> None:
    with opened(path) as journal:
        journal.record([attempt()], boot_id=BOOT)
    alter(path, "UPDATE meta SET value = '99' WHERE key = 'schema'", "DROP TABLE seen")
    before = contents(path)
    for open_it in (Journal.open, Journal.open_readonly):
        with pytest.raises(JournalError, match=rf"{path}: written by a newer version \(schema 99"):
            open_it(path)
    assert contents(path) == before


def test_a_start_that_was_cut_short_is_begun_again(path: Path) -> None:
    path.parent.mkdir()
    for suffix in ("", "-wal", "-journal"):
        path.with_name(f"{path.name}.new{suffix}").write_bytes(b"half")
    with opened(path) as journal:
        assert journal.attempts() == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"file/journal\.db: cannot be locked: File exists"):
        Journal.open(tmp_path / "file" / "journal.db")
    with pytest.raises(JournalError, match=r"proc/agent/journal\.db: cannot be locked: "):
        Journal.open(Path("/proc/agent/journal.db"))


def test_an_error_while_writing_ends_the_use_of_the_journal(path: Path) -> None:
    with opened(path) as journal:
        journal.record([attempt(1)], boot_id=BOOT)
        with closing(sqlite3.connect(path, isolation_level=None)) as intruder:
            intruder.execute("DROP TABLE totals")
        with pytest.raises(JournalError, match=rf"{path}: SQLite says: no such table: totals"):
            journal.record([attempt(2)], boot_id=BOOT)
        for use in (journal.attempts, lambda: journal.state_id, lambda: journal.obey(NO_FENCE)):
            with pytest.raises(JournalError, match="no such table"):
                use()
    with reading(path) as other:
        assert other.attempts() == [attempt(1)], "half a record was kept"


# --- crash -----------------------------------------------------------------------------------


def test_sigkill_loses_no_acknowledged_row(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    state_ids = set()
    for _ in range(KILLS):
        acknowledged = kill_after(start_writer(path), chance.randint(1, 40))
        with reading(path) as other:
            assert sum(tried for tried, _ in other.totals().values()) >= acknowledged
        with opened(path) as journal:
            state_ids.add(journal.state_id)
            last = sum(tried for tried, _ in journal.totals().values())
            assert last in (acknowledged, acknowledged + 1)
            kept = journal.attempts()
            for device in range(DEVICES):
                numbers = [n for n in range(1, last + 1) if n % DEVICES == device]
                assert [row for row in kept if row.identity == f"device-{device}"] == [
                    writers_attempt(n) for n in numbers[-KEPT_ATTEMPTS:]
                ]
            assert journal.fence().epoch >= acknowledged // 5 * 5
            again = [writers_attempt(n) for n in range(1, last + 1)]
            assert journal.record(again, boot_id=WRITERS_BOOT) == 0
    assert len(state_ids) == 1
