"""Actions in the journal: begun once, ended once, and never forgotten before their end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.journals import attempt, opened, reading
from vfio_agent.actuate.records import Operation
from vfio_agent.actuate.steps import Plan, Verb
from vfio_agent.journal import Journal, JournalError, Loss
from vfio_agent.journal import actions as actions_module
from vfio_contract.action import ActionReport, Outcome, ended_event
from vfio_contract.address import Address
from vfio_contract.durable import ActionEnded, ResetAttempted, Stamp
from vfio_contract.ledger import Outcome as ResetOutcome

ADDRESS = Address("0000:01:00.0")
AT = Stamp("boot-1", 1, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


def report(id: str = "c1", outcome: Outcome = Outcome.DONE) -> ActionReport:
    return ActionReport(id, "bind", ADDRESS, outcome)


def begin(journal: Journal, id: str = "c1", sequence: int | None = None) -> bool:
    return journal.actions.begin(id, verb="bind", asked="{}", sequence=sequence)


def end(journal: Journal, id: str = "c1", outcome: Outcome = Outcome.DONE) -> ActionReport:
    made = report(id, outcome)
    event = ended_event(made, identity="", at=AT)
    return journal.actions.end(id, made, event, journal.actions.reservation(id))


def payloads(journal: Journal) -> list[object]:
    return [row.event.payload for row in journal.spool.after(0, 1000)]


def test_an_id_is_begun_once_and_ended_once(path: Path) -> None:
    with opened(path) as journal:
        assert begin(journal)
        assert not begin(journal)
        journal.spool.reserve("c1")
        assert end(journal) == report()
        assert end(journal, outcome=Outcome.FAILED) == report(), "the first end stands"
    with opened(path) as journal:
        found = journal.actions.find("c1")
        assert found is not None
        assert (found.report, found.verb, found.asked) == (report(), "bind", "{}")
        assert journal.spool.reservations() == []
        assert [type(payload) for payload in payloads(journal)] == [ActionEnded]
        assert journal.actions.unfinished() == []
        assert not begin(journal)
        assert journal.actions.find("c2") is None


def test_what_was_never_begun_cannot_end(path: Path) -> None:
    with opened(path) as journal, pytest.raises(ValueError, match="never begun"):
        end(journal)


def test_a_sequence_is_taken_once_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions_module, "KEPT_ACTIONS", 2)
    with opened(path) as journal:
        assert journal.actions.sequence() == 0
        assert begin(journal, "c1", 5)
        end(journal)
        for taken in (5, 4):
            with pytest.raises(ValueError, match="was taken"):
                begin(journal, "c2", taken)
        assert journal.actions.find("c2") is None
        for number in range(5):
            begin(journal, f"x{number}")
            end(journal, f"x{number}")
        assert journal.actions.find("c1") is None
    with opened(path) as journal:
        assert journal.actions.sequence() == 5


def test_attempts_and_the_end_are_there_together(path: Path) -> None:
    row = attempt(1, ResetOutcome.SUCCESS)
    with opened(path) as journal:
        begin(journal)
        made = report()
        event = ended_event(made, identity="", at=AT)
        journal.actions.end("c1", made, event, None, attempts=[row, row])
        assert journal.attempts() == [replace(row, told_at_ms=AT.wall_ms)]
        assert journal.totals() == {row.identity: (1, 0)}
        assert journal.fed_boot() == "", "it says nothing of what the kernel's log holds"
        assert [type(payload) for payload in payloads(journal)] == [ResetAttempted, ActionEnded]


def test_what_is_to_be_told_of_a_loss_is_kept_until_the_end(path: Path) -> None:
    loss = Loss(report(outcome=Outcome.UNKNOWN), (attempt(1),), 12.5)
    with opened(path) as journal:
        begin(journal)
        journal.actions.provide("c1", loss)
    with opened(path) as journal:
        assert [kept.loss for kept in journal.actions.unfinished()] == [loss]
        end(journal)
        found = journal.actions.find("c1")
        assert found is not None
        assert found.loss is None


def test_only_what_has_ended_is_forgotten_and_its_diary_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions_module, "KEPT_ACTIONS", 3)
    with opened(path) as journal:
        for number in range(8):
            begin(journal, f"c{number}")
            plan = Plan(Verb.BIND, "unit-1", ADDRESS, ())
            journal.diary.begin(Operation(f"c{number}", "boot-1", plan))
            if number != 1:
                end(journal, f"c{number}")
        kept = [n for n in range(8) if journal.actions.find(f"c{n}") is not None]
        assert kept == [1, 5, 6, 7]
        assert [n for n in range(8) if journal.diary.find(f"c{n}") is not None] == kept
        assert [row.id for row in journal.actions.unfinished()] == ["c1"]


def test_who_only_reads_has_no_actions(path: Path) -> None:
    with opened(path) as journal:
        begin(journal)
        with reading(path) as other, pytest.raises(JournalError, match="reading only"):
            _ = other.actions
