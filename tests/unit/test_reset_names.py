"""Whose a history is where a serial number is there only before or after."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.fakes.snapshots import make_log
from tests.unit.test_reset_history import card, see, summary_of
from vfio_agent.journal import Journal
from vfio_agent.recall import recall_resets
from vfio_agent.reset_history import with_history
from vfio_contract.host import Host
from vfio_contract.ledger import VM_CYCLE, Outcome, ResetAttempt, firmware_digest
from vfio_contract.model import PciFunction

SERIAL = card(serial="00-1b-21-ff-ff-01-02-03")
OTHER = card(serial="00-1b-21-ff-ff-0a-0b-0c")
PLAIN = card()


def cycle(outcome: Outcome = Outcome.SUCCESS, *, key: str = "1", of: PciFunction) -> ResetAttempt:
    host = Host(see(of))
    identified = host.identities[of.address]
    return ResetAttempt(
        key=key,
        identity=identified.identity,
        firmware=firmware_digest(host.facts),
        boot_id="boot-1",
        method=VM_CYCLE,
        outcome=outcome,
        evidence="seen",
        place=identified.place,
    )


def told(journal: Journal, function: PciFunction) -> tuple[str, int]:
    seen = with_history(see(function, log=make_log(), boot_id="boot-2"), journal)
    row = summary_of(seen)
    return ("nothing", 0) if row is None else (row.state, row.attempts)


def test_another_card_in_the_place_inherits_failures_and_nothing_good(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path / "journal.db")) as journal:
        journal.record([cycle(of=SERIAL)], boot_id="boot-1")
        assert told(journal, SERIAL) == ("proven", 1)
        assert told(journal, PLAIN) == ("nothing", 0)
        asleep = replace(SERIAL, config=None)
        assert told(journal, asleep) == ("proven", 1), "it may well be the same"
        journal.record([cycle(Outcome.FAILED, key="2", of=SERIAL)], boot_id="boot-1")
        assert told(journal, PLAIN) == ("probation", 1)


def test_a_card_with_a_serial_number_inherits_failures_of_one_without(tmp_path: Path) -> None:
    with closing(Journal.open(tmp_path / "journal.db")) as journal:
        journal.record([cycle(of=PLAIN)], boot_id="boot-1")
        assert told(journal, PLAIN) == ("proven", 1)
        assert told(journal, OTHER) == ("nothing", 0)
        journal.record([cycle(Outcome.WEDGED, key="2", of=PLAIN)], boot_id="boot-1")
        assert told(journal, OTHER) == ("probation", 1)


def test_the_local_history_tells_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(Journal.open(path)) as journal:
        rows = [cycle(of=SERIAL), cycle(Outcome.FAILED, key="2", of=SERIAL)]
        journal.record(rows, boot_id="boot-1")
        told(journal, PLAIN)
    counts = []
    for function in (SERIAL, PLAIN):
        snapshot = see(function, log=make_log(), boot_id="boot-2")
        found = recall_resets(snapshot, function.address, journal=path)
        assert found is not None
        (one,) = found.tuples
        counts.append((found.state, one.attempts, one.failures, len(one.newest)))
    assert counts == [("probation", 2, 1, 2), ("probation", 1, 1, 1)]
