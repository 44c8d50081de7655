"""`vfioctl device history` on this host: from the journal, for a function that is there or was."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli import history_samples as samples
from vfio_agent.inspect import inspect_host
from vfio_agent.journal import Journal
from vfio_agent.recall import recall_resets
from vfio_cli.commands.history import exit_of
from vfio_cli.main import run
from vfio_cli.screens.history import history_screen
from vfio_cli.screens.layout import plain
from vfio_contract.address import Address
from vfio_contract.durable import Stamp
from vfio_contract.host import Host
from vfio_contract.ledger import VM_START, Outcome, ResetAttempt, ResetState, firmware_digest
from vfio_contract.ledger_views import DeviceHistory
from vfio_contract.model import Snapshot

AT = Stamp("b", 1, 1_795_000_000_000)


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return inspect_host(str(Path(__file__).parents[2] / "data/hosts/gpubox-f10.tar.gz")).snapshot


def record(folder: Path, *rows: ResetAttempt) -> Path:
    path = folder / "journal.db"
    with closing(Journal.open(path)) as journal:
        for row in rows:
            journal.record([row], boot_id=row.boot_id, at=replace(AT, boot_id=row.boot_id))
    return path


def attempt(identity: str, key: str = "k", **changes: str) -> ResetAttempt:
    row = ResetAttempt(
        key=key,
        identity=identity,
        firmware="F0",
        boot_id="an earlier one",
        method="flr",
        outcome=Outcome.FAILED,
        evidence="x",
        duration_ms=21,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def test_the_journal_s_attempts_are_told_by_address_and_by_identity(
    tmp_path: Path, snapshot: Snapshot
) -> None:
    address = "0000:01:00.0"
    identity = str(Host(snapshot).identities[Address(address)].identity)
    boot_id = snapshot.readings.boot_id or ""
    old = attempt(identity, "old", address="0000:09:00.0")
    now = replace(
        attempt(identity, "new", boot_id=boot_id, firmware=firmware_digest(snapshot.facts)),
        outcome=Outcome.SUCCESS,
        method=VM_START,
        evidence="it works",
    )
    journal = record(tmp_path, old, now)
    found = recall_resets(snapshot, address, journal=journal)
    assert found is not None
    assert found == recall_resets(snapshot, identity, journal=journal)
    assert found == recall_resets(snapshot, "0000:09:00.0", journal=journal), "where it was"
    assert (found.identity, found.address, found.gone) == (identity, address, False)
    assert (found.state, found.used) == ("probation", True)
    first, second = found.tuples
    assert (first.present, second.present, second.firmware) == (True, False, "F0")
    assert [row.told_at_ms for row in (*first.newest, *second.newest)] == [AT.wall_ms] * 2
    assert second.durations[0].median_ms == 21


def test_a_function_that_left_is_found_where_it_was(tmp_path: Path, snapshot: Snapshot) -> None:
    journal = record(tmp_path, attempt("dsn-gone.0", address="0000:fe:00.0"))
    for name in ("dsn-gone.0", "0000:fe:00.0", "fe:00.0"):
        found = recall_resets(snapshot, name, journal=journal)
        assert found is not None
        assert (found.identity, found.address, found.gone) == ("dsn-gone.0", "0000:fe:00.0", True)
    assert recall_resets(snapshot, "0000:fd:00.0", journal=journal) is None
    assert recall_resets(snapshot, "nobody", journal=journal) is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, attempt("dsn-gone.0", address="0000:fe:00.0"))
    words = ["device", "history", "dsn-gone.0", "--state", str(tmp_path)]
    assert run([*words, "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vfioctl.device-history/v1"
    assert document["history"]["state"] == "probation"
    assert run(words) == 1
    assert "PROBATION" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nobody"], 64, "no such function here"),
        (["a", "b", "c"], 64, "at most one NODE"),
        (["pve03", "41:00.0"], 64, "--state is about this host"),
    ],
)
def test_what_is_typed_and_cannot_be(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    said: str,
) -> None:
    record(tmp_path)
    assert run(["device", "history", *words, "--state", str(tmp_path)]) == status
    assert said in capsys.readouterr().err


def test_no_journal_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["device", "history", "0000:01:00.0", "--state", str(tmp_path)]
    assert run(words) == 3
    assert "there is none" in capsys.readouterr().err
    (tmp_path / "journal.db").write_text("no database")
    assert run(words) == 3
    assert "no SQLite database" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (ResetState.PROVEN, 0),
        (ResetState.CAPABLE, 0),
        (ResetState.PROBATION, 1),
        (ResetState.ONE_SHOT, 1),
        (ResetState.FAILING, 2),
        (ResetState.WEDGED, 2),
        ("melted", 3),
    ],
)
def test_the_class_is_the_exit_code_and_each_has_its_words(state: str, status: int) -> None:
    history: DeviceHistory = replace(samples.proven(), state=str(state))
    assert exit_of(history) == status
    assert str(state).upper() in plain(history_screen(history)).splitlines()[0]
