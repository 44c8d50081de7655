"""Actions, one at a time and once each, whatever ends the process, fills the disk or blocks.

Length: one actor on one host; the scenes share its fixtures.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.both_ends import compare_ends
from tests.fakes.acting_host import BOUND, DISK, FREE, ActingHost
from tests.fakes.orders import as_asked
from tests.unit.acting_runner import ID, act, tell
from tests.unit.journals import MEMORY, opened
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import cards, snapshot
from vfio_agent.actuate.preview import preview
from vfio_agent.actuate.reset_trial import ResetResult
from vfio_agent.actuate.steps import Verb
from vfio_agent.collect.root import LiveRoot
from vfio_agent.hostd import acting as acting_module
from vfio_agent.hostd.acting import Acting
from vfio_agent.hostd.aftermath import NOTHING_DONE, UNSEEN
from vfio_agent.inspect import observe
from vfio_agent.journal import Bounds, Journal, Kept
from vfio_contract.action import ActionReport, AskedUnit, Outcome
from vfio_contract.address import Address
from vfio_contract.artifact import decode, to_plain
from vfio_contract.durable import Spooled, decode_event
from vfio_contract.host import Host
from vfio_contract.ledger import ResetAttempt
from vfio_contract.model import LogLine
from vfio_contract.reset_report import report_resets
from vfio_coordinator.state.events import EventsReceived
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.reset_history import report_history

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
OTHER_ID = "f" * 32

RULE = f"etc/udev/rules.d/05-vfioctl-{FREE}.rules"
FILES = ["etc/modules-load.d/vfioctl.conf", RULE]

Reports = SimpleQueue[ActionReport | BaseException]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ActingHost]:
    made = ActingHost(tmp_path / "host").make()
    yield made
    made.release()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


class Gate:
    """Looks wait for it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(DEADLINE_S)


@contextmanager
def acting_on(
    journal: Journal, host: ActingHost, gate: Gate | None = None
) -> Iterator[tuple[Acting, Reports]]:
    """Started, with a queue for faults and ends."""
    reports: Reports = SimpleQueue()
    reach = host.reach(journal)
    if gate is not None:
        look = reach.look

        def wait_and_look() -> Any:
            gate.pass_through()
            return look()

        reach = replace(reach, look=wait_and_look)
    made = Acting(journal, reach, on_end=lambda: None, on_fault=reports.put)
    made.start()
    try:
        yield made, reports
    finally:
        if gate is not None:
            gate.opened.set()
        made.close()


def submit(
    acting: Acting,
    reports: Reports,
    verb: Verb = Verb.BIND,
    address: Address = FREE,
    *,
    id: str = ID,
    **more: Any,
) -> None:
    given = {"expected": None, "done": reports.put} | more
    acting.submit(id=id, verb=verb, address=address, **given)


def next_of(reports: Reports) -> ActionReport:
    report = reports.get(timeout=DEADLINE_S)
    assert isinstance(report, ActionReport), report
    return report


def codes(report: ActionReport) -> list[str]:
    return [reason.code for reason in report.reasons]


def kept(journal: Journal, id: str = ID) -> Kept:
    found = journal.actions.find(id)
    assert found is not None
    return found


def calls(host: ActingHost) -> int:
    made = host.top / "calls"
    return len(made.read_text().splitlines()) if made.exists() else 0


# --- killed at every commit ----------------------------------------------------------------------


def sweep(folder: Path, verb: Verb, address: Address, *, first: int = 1) -> list[dict[str, Any]]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.acting_runner", str(folder), verb, address, str(first)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture
def memory() -> Iterator[Path]:
    """Where syncs cost nothing."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def check_ended_once(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert (row["reserved"], row["open"]) == (0, 0), row
        assert row["ends"] == [[ID, row["outcome"], row["outcome"]]], row


def test_killed_at_any_commit_it_is_ended_once_by_the_next_start(memory: Path) -> None:
    rows = sweep(memory, Verb.BIND, FREE)

    check_ended_once(rows)
    for row in rows:
        if row["outcome"] == "done":
            assert (row["driver"], row["files"]) == ("vfio-pci", FILES), row
        else:
            assert (row["outcome"], row["detail"]) == ("failed", NOTHING_DONE), row
            assert (row["driver"], row["files"]) == ("virtio-pci", []), row
    # both happen, and what was begun in the diary is gone on with
    assert {row["outcome"] for row in rows} == {"done", "failed"}
    assert sum("already" in row["states"] for row in rows) > 5


def test_what_is_found_done_needs_no_second_consent(memory: Path) -> None:
    """A card that is back with the host may carry it by then: nothing is left to be moved."""
    rows = sweep(memory, Verb.UNBIND, BOUND, first=11)

    check_ended_once(rows)
    assert {(row["outcome"], row["driver"]) for row in rows} == {("done", "e1000e")}
    assert sum(row["states"][-1] == "already" for row in rows) >= 2


def test_a_reset_is_in_the_history_once_wherever_it_is_killed(memory: Path) -> None:
    rows = sweep(memory, Verb.RESET_TEST, BOUND)

    check_ended_once(rows)
    for row in rows:
        assert row["told"] == len(row["attempts"]) == row["resets"], row
        if row["outcome"] == "unknown":
            assert (row["detail"], row["attempts"]) == (UNSEEN, ["unobserved"]), row
    assert {row["outcome"] for row in rows} == {"done", "failed", "unknown"}
    tried = sum(bool(check_both_ends(row)) for row in rows)
    assert tried == sum(row["resets"] for row in rows)


def check_both_ends(row: dict[str, Any]) -> list[ResetAttempt]:
    """The cluster has the attempts of this journal, also where each event comes twice."""
    attempts = [decode(ResetAttempt, text.encode()) for text in row["ledger"]]
    cluster = Cluster(limits=Limits(events_per_s=1e6, events_burst=1e6))
    agent = Agent("pve01", snapshot(*cards(1)))
    events = tuple(Spooled(seq, decode_event(text.encode())) for seq, text in row["spool"])
    for _ in range(2):
        cluster.hello(agent, spool_id="a" * 32)
        told = EventsReceived(node="pve01", session=agent.session, spool_id="a" * 32, events=events)
        cluster.send(told)
    cluster.restart()
    for identity in {attempt.identity for attempt in attempts}:
        there = report_history(cluster.state, "pve01", identity)
        here = report_resets(
            [a for a in attempts if a.identity == identity],
            {},
            node="pve01",
            identity=identity,
            address="",
            gone=False,
            boot_id=None,
            firmware="",
        )
        assert compare_ends(to_plain(here), to_plain(there)) == []
    kept = cluster.state.intakes["pve01"].attempts
    assert {of[0] for of in kept} == {attempt.identity for attempt in attempts}
    return attempts


def die(path: Path, host: ActingHost, verb: Verb, address: Address) -> None:
    """A process that is killed in the middle."""
    argv = ["-m", "tests.unit.acting_runner", "die", str(host.top), str(path), verb, address]
    died = subprocess.run([sys.executable, *argv], cwd=CHECKOUT, check=False)
    assert died.returncode == -signal.SIGKILL


def test_what_the_kernel_told_of_a_lost_reset_is_not_counted_twice(
    path: Path, host: ActingHost
) -> None:
    host.say(f"vfio-pci {BOUND}: not ready 1023ms after FLR; giving up", seconds=50)
    die(path, host, Verb.RESET_TEST, BOUND)
    host.say(f"vfio-pci {BOUND}: not ready 65535ms after FLR; giving up", seconds=60)

    with opened(path) as journal:
        report = act(journal, host, Verb.RESET_TEST, BOUND)
        assert report.outcome is Outcome.FAILED
        assert "65535ms" in report.detail
        assert "1023ms" not in report.detail
        assert [row.key for row in journal.attempts() if row.key == ID] == []
        assert len(journal.attempts()) == 2


def test_an_old_line_does_not_tell_of_a_lost_reset(path: Path, host: ActingHost) -> None:
    host.say(f"vfio-pci {BOUND}: not ready 1023ms after FLR; giving up", seconds=50)
    die(path, host, Verb.RESET_TEST, BOUND)

    with opened(path) as journal:
        report = act(journal, host, Verb.RESET_TEST, BOUND)
        assert (report.outcome, report.detail) == (Outcome.UNKNOWN, UNSEEN)
        assert [row.outcome for row in journal.attempts() if row.key == ID] == ["unobserved"]


def die_in_bind(path: Path, host: ActingHost) -> None:
    """Killed by its second write into the kernel."""
    (host.top / "script").write_text("before 2")
    die(path, host, Verb.BIND, FREE)
    (host.top / "script").unlink()


def test_what_may_no_longer_be_done_is_not_gone_on_with(path: Path, host: ActingHost) -> None:
    die_in_bind(path, host)
    host.permitted = False
    before = calls(host)

    with opened(path) as journal:
        report = act(journal, host, Verb.BIND, FREE)
        assert report.outcome is Outcome.FAILED
        assert report.detail.endswith("not be gone on with: ACTION_NOT_PERMITTED")
        assert codes(report) == ["ACTION_NOT_PERMITTED"]
        assert [step.state for step in report.steps][:3] == ["done", "intended", "untouched"]
    assert (calls(host), host.driver(FREE)) == (before, "")
    with opened(path) as journal, acting_on(journal, host):
        assert journal.actions.unfinished() == []


def test_after_a_reboot_only_its_files_are_taken_back(path: Path, host: ActingHost) -> None:
    die_in_bind(path, host)
    (host.top / "proc/sys/kernel/random/boot_id").write_text("another-boot\n")
    before = calls(host)

    with opened(path) as journal:
        report = act(journal, host, Verb.BIND, FREE)
        assert (report.outcome, report.detail) == (
            Outcome.UNDONE,
            "the host was rebooted meanwhile",
        )
    assert (calls(host), host.written()) == (before, [])


# --- once ----------------------------------------------------------------------------------------


def test_an_id_that_ended_is_answered_from_the_journal(path: Path, host: ActingHost) -> None:
    with opened(path) as journal:
        first = act(journal, host, Verb.BIND, FREE)
    before = calls(host)
    with opened(path) as journal:
        assert act(journal, host, Verb.BIND, FREE) == first
        # even for something else: the id is what was asked
        assert act(journal, host, Verb.UNBIND, BOUND) == first
        assert tell(journal, host, first)["ends"] == [[ID, "done", "done"]]
    assert calls(host) == before


def test_who_asks_for_one_under_way_gets_its_end(path: Path, host: ActingHost) -> None:
    gate = Gate()
    with opened(path) as journal, acting_on(journal, host, gate) as (acting, reports):
        submit(acting, reports)
        assert gate.reached.wait(DEADLINE_S)
        submit(acting, reports)
        gate.opened.set()
        assert next_of(reports) == next_of(reports)
        assert tell(journal, host, kept_report(journal))["ends"] == [[ID, "done", "done"]]


def kept_report(journal: Journal, id: str = ID) -> ActionReport:
    report = kept(journal, id).report
    assert report is not None
    return report


def test_one_that_a_command_began_keeps_its_sequence(path: Path, host: ActingHost) -> None:
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        journal.actions.begin(ID, verb="bind", asked="{}", sequence=7)
        submit(acting, reports)
        assert next_of(reports).outcome is Outcome.DONE
        found = kept(journal)
        assert (found.asked, found.sequence) == ("{}", 7)


# --- one at a time -------------------------------------------------------------------------------


def test_more_than_may_wait_is_refused_and_can_be_asked_again(
    path: Path, host: ActingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting_module, "MAX_QUEUED", 1)
    gate = Gate()
    with opened(path) as journal, acting_on(journal, host, gate) as (acting, reports):
        submit(acting, reports)
        assert gate.reached.wait(DEADLINE_S)
        submit(acting, reports, Verb.UNBIND, BOUND, id=OTHER_ID)
        refused = next_of(reports)
        assert (refused.outcome, codes(refused)) == (Outcome.REFUSED, ["ACTION_QUEUE_FULL"])
        assert journal.actions.find(OTHER_ID) is None

        command = "c" * 32
        journal.actions.begin(command, verb="unbind", asked="{}", sequence=1)
        submit(acting, reports, Verb.UNBIND, BOUND, id=command)
        assert codes(next_of(reports)) == ["ACTION_QUEUE_FULL"]
        ended = kept(journal, command).report
        assert ended is not None
        assert codes(ended) == ["ACTION_QUEUE_FULL"]

        gate.opened.set()
        assert next_of(reports).outcome is Outcome.DONE
        submit(acting, reports, Verb.UNBIND, BOUND, id=OTHER_ID)
        assert next_of(reports).outcome is Outcome.DONE


def test_what_the_kernel_does_not_answer_waits_and_is_gone_on_with(
    path: Path, host: ActingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting_module, "RETRY_S", 0.05)
    host.deadline_s = 2.0
    (host.top / "script").write_text(f"hang {FREE}")
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        submit(acting, reports)
        waiting = next_of(reports)
        assert waiting.outcome is Outcome.WAITING
        assert waiting.steps[0].state == "waiting"
        assert kept(journal).report is None

        submit(acting, reports, Verb.UNBIND, FREE, id=OTHER_ID)
        refused = next_of(reports)
        assert (refused.outcome, codes(refused)) == (Outcome.REFUSED, ["ACTION_UNFINISHED"])

        submit(acting, reports)  # who asks again waits for the end
        (host.top / "script").unlink()
        host.release()
        assert next_of(reports).outcome is Outcome.DONE
        assert host.driver(FREE) == "vfio-pci"
        ends = tell(journal, host, kept_report(journal))["ends"]
        assert len(ends) == 2
        assert [ID, "done", "done"] in ends


# --- refused -------------------------------------------------------------------------------------


def test_what_is_refused_is_told_with_every_reason(path: Path, host: ActingHost) -> None:
    host.permitted = False
    with opened(path) as journal:
        report = act(journal, host, Verb.RESET_TEST, DISK)
        assert report.outcome is Outcome.REFUSED
        assert {"ACTION_NOT_PERMITTED", "HOST_CRITICAL", "ACTION_HOST_DRIVER"} <= set(codes(report))
        assert kept_report(journal) == report
        assert tell(journal, host, report)["ends"] == [[ID, "refused", "refused"]]
    assert (calls(host), host.resets()) == (0, 0)


def test_another_unit_than_was_asked_about_is_refused(path: Path, host: ActingHost) -> None:
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        seen = observe(LiveRoot(str(host.top)), journal, None).host
        other = replace(as_asked(seen.unit_of[FREE]), assign=(FREE, BOUND))
        submit(acting, reports, expected=other)
        assert codes(next_of(reports)) == ["UNIT_CHANGED"]
        submit(acting, reports, id=OTHER_ID, expected=as_asked(seen.unit_of[FREE]))
        assert next_of(reports).outcome is Outcome.DONE


def test_without_room_for_its_end_nothing_is_begun(path: Path, host: ActingHost) -> None:
    with closing(Journal.open(path, bounds=Bounds(bytes=200 * 1024))) as journal:
        report = act(journal, host, Verb.BIND, FREE)
        assert (report.outcome, codes(report)) == (Outcome.REFUSED, ["SPOOL_FULL"])
        assert kept_report(journal) == report
    assert calls(host) == 0


def fill_disk(journal: Journal) -> Callable[[], None]:
    """As SQLite sees one: the file may not grow, so that nothing of some KiB can be written.

    What makes room is returned.
    """
    db = journal._database._db
    (count,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {count}")

    def make_room() -> None:
        db.execute("PRAGMA max_page_count = 1000000")

    return make_room


def test_on_a_full_disk_nothing_is_begun(path: Path, host: ActingHost) -> None:
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        fill_disk(journal)
        submit(acting, reports, expected=AskedUnit("u" * 9000, (), (), ()))
        report = next_of(reports)
        assert (report.outcome, codes(report)) == (Outcome.REFUSED, ["JOURNAL_FAILED"])
    assert calls(host) == 0


def test_an_end_without_room_on_the_disk_is_told_and_written_later(
    path: Path, host: ActingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting_module, "RETRY_S", 0.05)
    make_room: list[Callable[[], None]] = []
    with opened(path) as journal:
        reports: Reports = SimpleQueue()
        reach = host.reach(journal)

        def reset(host: Host, target: Address, *, operation: str) -> ResetResult:
            make_room.append(fill_disk(journal))
            # a report of many pages
            lines = tuple(LogLine(n, 60.0, random.randbytes(200).hex()) for n in range(60))
            return replace(reach.reset(host, target, operation=operation), lines=lines)

        acting = Acting(
            journal, replace(reach, reset=reset), on_end=lambda: None, on_fault=reports.put
        )
        submit(acting, reports, Verb.RESET_TEST, BOUND)
        told = next_of(reports)
        assert (told.outcome, "not recorded" in told.detail) == (Outcome.DONE, True)
        assert kept(journal).report is None
        submit(acting, reports, Verb.RESET_TEST, BOUND)
        make_room[0]()
        assert next_of(reports).detail == ""
        row = tell(journal, host, kept_report(journal))
        assert (row["resets"], row["attempts"], row["reserved"]) == (1, ["success"], 0)
        acting.close()


# --- only shown ----------------------------------------------------------------------------------


def test_a_dry_run_needs_no_permission_and_leaves_nothing(path: Path, host: ActingHost) -> None:
    host.permitted = False
    with opened(path) as journal:
        reach = host.reach(journal)
        report = preview(*reach.look(), Verb.BIND, FREE, reach.allow(), id=ID, looked_at_ms=1)
        assert report.outcome is Outcome.PLANNED
        assert [step.state for step in report.steps] == ["planned"] * 5
        assert any("not permitted yet" in note for note in report.notes)
        assert any("driver_override" in line for step in report.steps for line in step.change)
        assert journal.actions.find(ID) is None
        assert (calls(host), host.written()) == (0, [])
