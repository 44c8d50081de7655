"""What the agent's journal must survive: restarts, crashes, damage, floods, a second agent."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.journal_writer import BOOT as WRITERS_BOOT
from tests.unit.journal_writer import DEVICES
from tests.unit.journal_writer import attempt as writers_attempt
from vfio_agent.journal import (
    KEPT_ATTEMPTS,
    NO_FENCE,
    SEEN_LIMIT,
    Fence,
    Journal,
    JournalError,
)
from vfio_contract.ledger import FAILURES, Outcome, ResetAttempt, summarise_attempts

BOOT = "boot-1"
KILLS = 8
NOBODY = 65534


def attempt(
    number: int = 1,
    outcome: Outcome = Outcome.FAILED,
    *,
    identity: str = "dsn-1.0",
    firmware: str = "F10",
    boot: str = BOOT,
) -> ResetAttempt:
    return ResetAttempt(
        key=f"line-{number}",
        identity=identity,
        firmware=firmware,
        boot_id=boot,
        method="flr",
        outcome=outcome,
        evidence=f"[{number:12.6f}] not ready",
        place=f"8086:10c9@\\_SB_.PCI0/{identity}",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    with closing(Journal.open(path)) as journal:
        yield journal


@contextmanager
def reading(path: Path) -> Iterator[Journal]:
    journal = Journal.open_readonly(path)
    assert journal is not None
    with closing(journal):
        yield journal


def contents(path: Path) -> dict[str, str]:
    """Digest by name of everything that belongs to the journal, its lock apart."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.parent.iterdir()
        if not file.name.endswith((".lock", "-shm"))
    }


# --- restart ---------------------------------------------------------------------------------


def test_a_restart_keeps_state_id_fence_and_attempts(path: Path) -> None:
    rows = [attempt(1), attempt(2, Outcome.WEDGED, identity="dsn-2.0"), attempt(3)]
    with opened(path) as journal:
        state_id = journal.state_id
        assert len(state_id) == 32
        assert journal.fence() == NO_FENCE
        assert journal.fed_boot() == ""
        journal.obey(Fence("a cluster with spaces", 2, (1 << 64) - 1))
        assert journal.record(rows, boot_id=BOOT) == 3
    with opened(path) as journal:
        assert journal.state_id == state_id
        assert journal.fence() == Fence("a cluster with spaces", 2, (1 << 64) - 1)
        assert journal.attempts() == rows
        assert journal.totals() == {"dsn-1.0": (2, 2), "dsn-2.0": (1, 1)}
        assert journal.fed_boot() == BOOT


def test_another_database_is_another_agent(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "journal.db") as one, opened(tmp_path / "b" / "journal.db") as two:
        assert one.state_id != two.state_id


def test_only_its_owner_may_enter(path: Path) -> None:
    with opened(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600


def test_one_agent_at_a_time(path: Path) -> None:
    with opened(path) as journal:
        with pytest.raises(
            JournalError, match=rf"{path}: another agent uses it \(pid {os.getpid()}\)"
        ):
            Journal.open(path)
        assert journal.record([attempt()], boot_id=BOOT) == 1
    with opened(path) as journal:
        assert journal.attempts() == [attempt()]


def test_a_closed_journal_answers_nothing(path: Path) -> None:
    journal = Journal.open(path)
    journal.close()
    journal.close()
    for use in (journal.attempts, journal.fence, lambda: journal.record([], boot_id=BOOT)):
        with pytest.raises(JournalError, match="was closed"):
            use()


# --- rows ------------------------------------------------------------------------------------


def test_the_same_line_is_one_row_however_often_it_is_read(path: Path) -> None:
    rows = [attempt(n) for n in range(1, 6)]
    with opened(path) as journal:
        for upto in range(1, 6):
            assert journal.record(rows[:upto], boot_id=BOOT) == 1
        assert journal.record(rows, boot_id=BOOT) == 0
        assert journal.record([*rows, *rows], boot_id=BOOT) == 0
        assert journal.attempts() == rows
    with opened(path) as journal:
        assert journal.record(reversed(rows), boot_id=BOOT) == 0
        assert journal.totals() == {"dsn-1.0": (5, 5)}


def test_one_line_about_many_devices_is_a_row_for_each_at_once_and_none_later(path: Path) -> None:
    first = [attempt(1, identity=f"dsn-{n}.0") for n in range(3)]
    with opened(path) as journal:
        assert journal.record([*first, *first], boot_id=BOOT) == 3
        late = [*first, attempt(1, identity="dsn-put-in-later.0")]
        assert journal.record(late, boot_id=BOOT) == 0
        assert journal.attempts() == first


def test_the_same_words_in_another_boot_are_another_event(path: Path) -> None:
    with opened(path) as journal:
        for boot in ("boot-1", "boot-2", "boot-1"):
            journal.record([attempt(boot=boot)], boot_id=boot)
        assert [row.boot_id for row in journal.attempts()] == ["boot-1", "boot-2"]
        assert journal.fed_boot() == "boot-1"
        assert journal.seen("boot-2") == journal.seen("") == {"line-1"}
        assert journal.seen("boot-3") == frozenset()


@pytest.mark.parametrize("boot", ["", "boot-2"])
def test_attempts_of_another_or_no_boot_are_refused(path: Path, boot: str) -> None:
    with opened(path) as journal:
        with pytest.raises(ValueError, match="one known boot"):
            journal.record([attempt()], boot_id=boot)
        assert journal.attempts() == []


def test_rows_are_bounded_and_totals_are_kept(path: Path) -> None:
    rows = [attempt(n) for n in range(1, 101)]
    others = [attempt(n + 1000, firmware="F11") for n in range(40)]
    with opened(path) as journal:
        assert journal.record(rows, boot_id=BOOT) == 100
        journal.record([*rows, *others], boot_id=BOOT)
        assert journal.attempts() == rows[-KEPT_ATTEMPTS:] + others[-KEPT_ATTEMPTS:]
        assert journal.totals() == {"dsn-1.0": (140, 140)}
        assert journal.record([*rows, *others], boot_id=BOOT) == 0, "trimmed lines came back"
    with opened(path) as journal:
        assert journal.record([*rows, *others], boot_id=BOOT) == 0
        assert journal.totals() == {"dsn-1.0": (140, 140)}


@given(
    st.lists(
        st.tuples(st.sampled_from(Outcome), st.sampled_from(["F10", "F11"]), st.integers(1, 70)),
        max_size=6,
    )
)
def test_trimming_never_changes_what_the_history_amounts_to(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[Outcome, str, int]]
) -> None:
    rows: list[ResetAttempt] = []
    for index, (outcome, firmware, count) in enumerate(runs):
        boot = f"boot-{index // 2}"
        rows += [
            attempt(len(rows) + n, outcome, firmware=firmware, boot=boot) for n in range(count)
        ]
    with opened(tmp_path_factory.mktemp("trim") / "journal.db") as journal:
        for boot in dict.fromkeys(row.boot_id for row in rows):
            journal.record([row for row in rows if row.boot_id == boot], boot_id=boot)
        kept = journal.attempts()
        failures = sum(row.outcome in FAILURES for row in rows)
        assert journal.totals() == ({"dsn-1.0": (len(rows), failures)} if rows else {})
    assert len(kept) <= 2 * KEPT_ATTEMPTS
    assert kept == [row for row in rows if row in kept]
    for boot_id in (rows[-1].boot_id if rows else BOOT, "a later boot", None):
        for firmware in ("F10", "F11"):
            before, after = (
                summarise_attempts("dsn-1.0", history, boot_id=boot_id, firmware=firmware)
                for history in (rows, kept)
            )
            assert after.state == before.state
            assert after.last_outcome == before.last_outcome


def test_a_flood_is_forgotten_only_where_the_log_has_lost_it(path: Path) -> None:
    rows = [attempt(n) for n in range(SEEN_LIMIT + 200)]
    with opened(path) as journal:
        assert journal.record(rows[:SEEN_LIMIT], boot_id=BOOT) == SEEN_LIMIT
        window = rows[:100] + rows[-300:]
        assert journal.record(window, boot_id=BOOT) == 200
        assert len(journal.seen(BOOT)) == len(window), "bounded, and what is visible is known"
        assert journal.record(window, boot_id=BOOT) == 0
        assert journal.totals() == {"dsn-1.0": (len(rows), len(rows))}


def test_many_threads_lose_nothing(path: Path) -> None:
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(20):
                row = attempt(number, identity=f"dsn-{worker}.0")
                journal.record([replace(row, key=f"{worker}-{number}")], boot_id=BOOT)
                journal.obey(Fence("c", 1, number))
                assert journal.fence().cluster_id == "c"
        except BaseException as error:
            failures.append(error)

    with opened(path) as journal:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert journal.totals() == {f"dsn-{n}.0": (20, 20) for n in range(6)}


# --- read by others --------------------------------------------------------------------------


def test_a_live_journal_can_be_read_and_goes_on(path: Path) -> None:
    with opened(path) as journal:
        journal.record([attempt(1)], boot_id=BOOT)
        with reading(path) as other:
            assert other.attempts() == [attempt(1)]
            journal.record([attempt(1), attempt(2)], boot_id=BOOT)
            assert other.attempts() == [attempt(1), attempt(2)]
            assert other.state_id == journal.state_id
            with pytest.raises(JournalError, match="readonly"):
                other.obey(Fence("c", 1, 1))
        assert journal.record([attempt(3)], boot_id=BOOT) == 1


def test_reading_a_journal_at_rest_leaves_nothing_behind(path: Path) -> None:
    with opened(path) as journal:
        journal.record([attempt()], boot_id=BOOT)
    before = sorted(path.parent.iterdir()), contents(path)
    with reading(path) as other:
        assert other.attempts() == [attempt()]
        assert (sorted(path.parent.iterdir()), contents(path)) == before
    assert (sorted(path.parent.iterdir()), contents(path)) == before


def test_no_journal_is_not_a_journal_that_cannot_be_read(path: Path) -> None:
    assert Journal.open_readonly(path) is None
    path.parent.write_text("a file where a directory belongs")
    assert Journal.open_readonly(path) is None


def test_an_ordinary_user_is_told_that_it_cannot_be_read(path: Path) -> None:
    with opened(path):
        pass
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from vfio_agent.journal import Journal\n"
        "path = Path(sys.argv[1])\n"
        "if os.geteuid() == 0:\n"
        f"    os.setuid({NOBODY})\n"
        "else:\n"
        "    os.chmod(path.parent, 0)\n"
        "try:\n"
        "    Journal.open_readonly(path)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    path.parent.chmod(0o700)
    assert done.stdout == f"JournalError {path}: cannot be opened: Permission denied\n"


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
    alter(path, "UPDATE meta SET value = '2' WHERE key = 'schema'", "DROP TABLE seen")
    before = contents(path)
    for open_it in (Journal.open, Journal.open_readonly):
        with pytest.raises(JournalError, match=rf"{path}: written by a newer version \(schema 2"):
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


def start_writer(path: Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("journal_writer.py")
    writer = subprocess.Popen(
        [sys.executable, str(script), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline().startswith("ready ")
    return writer


def kill_after(writer: subprocess.Popen[str], lines: int) -> int:
    """SIGKILL it once it printed that many numbers; the last that was acknowledged."""
    assert writer.stdout is not None
    printed = [writer.stdout.readline() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    with writer:
        printed += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return max(int(line) for line in printed if line.endswith("\n"))


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
