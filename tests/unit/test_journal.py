"""What the agent's journal keeps: over restarts, in floods, and for those who only read it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.journals import BOOT, attempt, contents, opened, reading
from vfio_agent.journal import (
    KEPT_ATTEMPTS,
    NO_FENCE,
    SEEN_LIMIT,
    Fence,
    Journal,
    JournalError,
)
from vfio_contract.ledger import FAILURES, Outcome, ResetAttempt, summarise_attempts

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


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
