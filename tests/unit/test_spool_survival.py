"""What the spool must survive: copies put back, the schema before it, a full disk, SIGKILL."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.durable import line, reset
from tests.fakes.sysfs_tree import SysfsTree
from tests.unit.journals import BOOT, attempt, opened, reading
from tests.unit.test_spool import mark, shown
from vfio_agent.journal import JournalError
from vfio_agent.journal.schema import CREATE, SCHEMA_VERSION
from vfio_contract.durable import NO_MOMENT, Mark
from vfio_contract.ledger import Total

KILLS = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


# --- copies --------------------------------------------------------------------------------------


def test_a_file_that_was_put_back_begins_a_new_spool(path: Path) -> None:
    with opened(path) as journal:
        journal.spool.extend([line(1), line(2), line(3)])
        journal.spool.acknowledge(mark(journal.spool, 1, 1))
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    with opened(path) as journal:
        journal.spool.extend([line(4), line(5)])
        held = mark(journal.spool, 5, 5)
        journal.spool.acknowledge(held)
    shutil.copy(copy, path)
    with opened(path) as journal:
        before = journal.spool.id
        journal.spool.extend([reset(14), line(15), line(16)])  # under numbers 4, 5 and 6
        assert not journal.spool.acknowledge(held)
        assert journal.spool.id != before
        assert shown(journal.spool) == ["1-2 kernel_line=2", "3", "4", "5"]
        assert journal.spool.acknowledge(Mark(journal.spool.id, 0, NO_MOMENT))


def test_marks_of_the_same_past_are_known_after_a_restart(path: Path) -> None:
    with opened(path) as journal:
        journal.spool.extend([line(1), line(2), line(3)])
        assert journal.spool.acknowledge(mark(journal.spool, 2, 2))
    with opened(path) as journal:
        assert journal.spool.acknowledge(mark(journal.spool, 2, 2))
        assert not journal.spool.acknowledge(mark(journal.spool, 2, 77))


# --- older schemas --------------------------------------------------------------------------------


DETAIL = ("address", "duration_ms", "told_at_ms", "firmware_text")
OLDER = {
    4: (
        *(f"ALTER TABLE attempts DROP COLUMN {name}" for name in DETAIL),
        "ALTER TABLE totals DROP COLUMN unobserved",
    ),
    3: ("DROP TABLE actions",),
    2: ("DROP TABLE operations", "DROP TABLE operation_entries"),
    1: (
        "DROP TABLE spool",
        "DROP TABLE reservations",
        "DELETE FROM meta WHERE key LIKE 'spool%'",
    ),
}
"""What takes a schema away from the one after it."""


def make_schema(path: Path, wanted: int) -> None:
    """A journal as an older version left it."""
    with opened(path) as journal:
        journal.record([attempt(1)], boot_id=BOOT)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for schema, statements in OLDER.items():
            for statement in statements if schema >= wanted else ():
                db.execute(statement)
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(wanted),))


def schema_of(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {" ".join(text.split()) for (text,) in found}


@pytest.mark.parametrize("schema", OLDER)
def test_a_journal_of_an_older_version_is_taken_over_whole(path: Path, schema: int) -> None:
    make_schema(path, schema)
    with reading(path) as other:
        assert other.attempts() == [attempt(1)], "who only reads needs no migration"
        assert other.tuple_totals() == {("dsn-1.0", "F10"): Total(1, 1, 0)}
    with opened(path) as journal:
        assert journal.attempts() == [attempt(1)]
        assert journal.tuple_totals() == {("dsn-1.0", "F10"): Total(1, 1, 0)}
        assert journal.spool.append(line(1)) == 1
    with opened(path.with_name("fresh.db")):
        pass
    assert schema_of(path) == schema_of(path.with_name("fresh.db"))
    assert f"'{SCHEMA_VERSION}'" in CREATE


def test_who_only_reads_has_no_spool(path: Path) -> None:
    with opened(path):
        pass
    with reading(path) as other, pytest.raises(JournalError, match="reading only"):
        _ = other.spool


# --- a full disk ---------------------------------------------------------------------------------

FULL_DISK = """
import os, sys
from pathlib import Path
from tests.fakes.durable import line, moment, reset
from tests.unit.journals import BOOT, attempt
from vfio_agent.collect.root import open_root
from vfio_agent.inspect import observe
from vfio_agent.journal import Fence, Journal, JournalFull
from vfio_contract.durable import EventsLost

disk = Path(sys.argv[1])
journal = Journal.open(disk / "agent" / "journal.db")
spool = journal.spool
journal.tell([line(n) for n in range(1, 21)], place="here")
(disk / "ballast").write_bytes(b"x" * os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize)
number = 20
while not spool.status().code:
    number += 1
    assert spool.append(line(number)) == number
status = spool.status()
assert status.code == "JOURNAL_FAILED", status
assert "full" in status.text and "1 events could not be written" in status.text, status
assert spool.append(line(number + 1)) == number + 1
journal.tell([line(number + 2)], place="further")
assert journal.place() == "here"
seen = observe(open_root(sys.argv[2]), journal, None)
assert seen.snapshot.readings.ledger is None
assert [gap.path for gap in seen.snapshot.readings.gaps if "full" in gap.reason] == [
    str(journal.path)
]
for refused in (
    lambda: spool.append(reset(0)),
    lambda: spool.reserve("bind"),
    lambda: journal.obey(Fence("c", 1, 1)),
    lambda: journal.record([attempt()], boot_id=BOOT, at=moment(0)),
    spool.flush,
):
    try:
        refused()
    except JournalFull:
        continue
    raise AssertionError("it went on")
assert "3 events" in spool.status().text
assert journal.attempts() == []
(disk / "ballast").unlink()
assert spool.append(reset(99)) == number + 3
assert spool.status().code == ""
*_, gap, last = spool.after(0, 100000)
assert isinstance(gap.event.payload, EventsLost)
assert (gap.first, gap.seq, last.seq) == (number, number + 2, number + 3)
journal.close()
journal = Journal.open(disk / "agent" / "journal.db")
assert journal.spool.last == number + 3
seen = observe(open_root(sys.argv[2]), journal, None)
(row,) = seen.snapshot.readings.ledger
assert (row.state, row.attempts) == ("wedged", 1), row
journal.close()
print("good")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_what_it_cost_is_counted(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path / "host")
    tree.host(boot_id="boot-1")
    tree.function("0000:01:00.0", driver="vfio-pci", group=1)
    words = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
    tree.write(
        "/dmesg", f"[    0.000000] Linux version 6.1.0 (b@h) (gcc)\n[    9.500000] {words}\n"
    )
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1" "$4"'
    words_of_it = (str(tmp_path / "disk"), sys.executable, FULL_DISK, str(tmp_path / "host"))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words_of_it],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "good\n", done.stderr


# --- crash ---------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.fakes.durable import line, reset
from vfio_agent.journal import Bounds, Journal

spool = Journal.open(Path(sys.argv[1]), bounds=Bounds(events=50)).spool
while True:
    number = spool.last + 1
    print(spool.extend([line(number), reset(number + 1), line(number + 2)]), flush=True)
    if number > 100:
        row = spool.after(number - 40, 1)[0]
        from vfio_contract.durable import Mark
        spool.acknowledge(Mark(spool.id, row.seq, row.event.at))
"""


def test_sigkill_loses_no_number_that_was_given(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    given = 0
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdout is not None
            printed = [writer.stdout.readline() for _ in range(chance.randint(1, 30))]
            writer.send_signal(signal.SIGKILL)
            printed += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        given = max(given, *(int(text) for text in printed if text.endswith("\n")))
        with opened(path) as journal:
            assert journal.spool.last in (given, given + 3)
            given = journal.spool.last
            rows = journal.spool.after(0, 1000)
            ends = [row.seq for row in rows]
            assert [row.first for row in rows[1:]] == [end + 1 for end in ends[:-1]]
            assert ends[-1] == given
