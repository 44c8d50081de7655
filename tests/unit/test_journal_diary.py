"""The hands' diary: what a crash left open is found again, and what has ended is not done twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.journals import BOOT, opened, reading
from vfio_agent.actuate.execution import WHOLE
from vfio_agent.actuate.records import Entry, Operation, State
from vfio_agent.actuate.steps import Kind, Plan, Step, Verb
from vfio_agent.journal import JournalError
from vfio_agent.journal import diary as diary_module
from vfio_contract.address import Address

ADDRESS = Address("0000:01:00.0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


def operation(id: str = "c1") -> Operation:
    step = Step(Kind.BIND, ADDRESS, "", "vfio-pci", "for the VM")
    file = Step(Kind.FILE, "/etc/modprobe.d/x.conf", None, "softdep\n", "lasts")
    plan = Plan(
        verb=Verb.BIND,
        unit="unit-1",
        primary=ADDRESS,
        steps=(step, file),
        method="modprobe",
        reasons=("because",),
        notes=(),
        undoes=False,
    )
    return Operation(id, BOOT, plan)


def whole(id: str, state: State) -> Entry:
    return Entry(id, WHOLE, state, "x")


def test_what_was_noted_is_there_after_a_restart_in_its_order(path: Path) -> None:
    rows = [
        Entry("c1", 0, State.INTENDED),
        Entry("c1", 0, State.DONE, "", 0.25),
        Entry("c1", 1, State.FAILED, "disk full", 1.5, undoing=True),
    ]
    with opened(path) as journal:
        journal.diary.begin(operation())
        for row in rows:
            journal.diary.note(row)
        journal.diary.note(Entry("c2", 0, State.DONE))
    with opened(path) as journal:
        assert journal.diary.find("c1") == operation()
        assert journal.diary.find("c3") is None
        assert journal.diary.entries("c1") == rows
        assert journal.diary.unfinished() == [operation()]


def test_an_operation_that_is_there_stays_as_it_is(path: Path) -> None:
    with opened(path) as journal:
        journal.diary.begin(operation())
        journal.diary.begin(Operation("c1", "boot-2", operation().plan))
        assert journal.diary.find("c1") == operation()


@pytest.mark.parametrize("state", State)
def test_only_done_and_undone_are_ends(path: Path, state: State) -> None:
    with opened(path) as journal:
        journal.diary.begin(operation())
        journal.diary.note(Entry("c1", 0, State.DONE))
        journal.diary.note(whole("c1", state))
        ended = state in (State.DONE, State.UNDONE)
        assert journal.diary.unfinished() == ([] if ended else [operation()])
        journal.diary.note(whole("c1", State.WAITING))
        assert journal.diary.unfinished() == [operation()]


def test_only_what_has_ended_is_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diary_module, "KEPT_OPERATIONS", 3)
    with opened(path) as journal:
        for number in range(8):
            journal.diary.begin(operation(f"c{number}"))
            if number != 1:
                journal.diary.note(whole(f"c{number}", State.DONE))
        found = [n for n in range(8) if journal.diary.find(f"c{n}") is not None]
        assert found == [1, 5, 6, 7]
        assert journal.diary.entries("c0") == []
        assert [row.id for row in journal.diary.unfinished()] == ["c1"]


def test_who_only_reads_sees_it_and_changes_nothing(path: Path) -> None:
    with opened(path) as journal:
        journal.diary.begin(operation())
        with reading(path) as other:
            assert other.diary.unfinished() == [operation()]
            with pytest.raises(JournalError, match="readonly"):
                other.diary.note(whole("c1", State.DONE))


def test_damage_is_told(path: Path) -> None:
    with opened(path) as journal:
        journal.diary.begin(operation())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE operation_entries")
    with opened(path) as journal, pytest.raises(JournalError, match="operation_entries"):
        journal.diary.unfinished()
