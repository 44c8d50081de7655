"""Actions that were cut short, kept waiting or overtaken: none goes on without consent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.acting_host import BOUND, DISK, FREE, ActingHost
from tests.fakes.orders import as_asked
from tests.unit.acting_runner import ID, act
from tests.unit.journals import opened
from tests.unit.test_acting import (
    OTHER_ID,
    RULE,
    Gate,
    Reports,
    acting_on,
    calls,
    codes,
    die,
    die_in_bind,
    fill_disk,
    kept,
    kept_report,
    next_of,
    submit,
)
from tests.unit.test_acting import host as host
from tests.unit.test_acting import path as path
from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.reach import Reach
from vfio_agent.actuate.reset_child import Answer
from vfio_agent.actuate.reset_trial import ResetResult, judge_answer, plan_reset
from vfio_agent.actuate.steps import Kind, Plan, Step, Verb
from vfio_agent.collect.root import Root
from vfio_agent.hostd import acting as acting_module
from vfio_agent.hostd.acting import Acting
from vfio_agent.hostd.aftermath import UNSEEN, judge_again, read_expected
from vfio_agent.journal import Bounds, Journal, JournalFull
from vfio_agent.journal.actions import HOUR_MS
from vfio_contract.action import AskedUnit, Outcome
from vfio_contract.address import Address
from vfio_contract.artifact import encode
from vfio_contract.command_codes import COMMAND_EXPIRED
from vfio_contract.durable import DurableEvent, Mark, Stamp, VmStarted
from vfio_contract.host import Host

ALL = Allowance(frozenset(Verb), frozenset("*"), "the test")
GONE = Address("0000:ff:00.0")
UNLIKE = AskedUnit("another", (), (FREE,), ())


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting_module, "RETRY_S", 0.05)


@contextmanager
def acting_through(journal: Journal, reach: Reach) -> Iterator[tuple[Acting, Reports]]:
    reports: Reports = Reports()
    made = Acting(journal, reach, on_end=lambda: None, on_fault=reports.put)
    made.start()
    try:
        yield made, reports
    finally:
        made.close()


# --- consent to go on ----------------------------------------------------------------------------


def test_what_was_not_read_is_no_consent_to_go_on(path: Path, host: ActingHost) -> None:
    die_in_bind(path, host)
    before = calls(host), host.driver(FREE)
    with opened(path) as journal:
        reach = host.reach(journal)

        def look() -> tuple[Root, Host]:
            root, seen = reach.look()
            facts = replace(seen.facts, functions=None)
            return root, Host(replace(seen.snapshot, facts=facts))

        with acting_through(journal, replace(reach, look=look)) as (acting, reports):
            submit(acting, reports)
            report = next_of(reports)
    assert (report.outcome, codes(report)) == (Outcome.FAILED, ["ACTION_EVIDENCE_MISSING"])
    assert (calls(host), host.driver(FREE)) == before


def test_what_was_asked_about_is_compared_after_a_crash_too(path: Path, host: ActingHost) -> None:
    die_in_bind(path, host)
    before = calls(host)
    with opened(path) as journal:
        with journal._database.transaction() as db:
            asked = encode({"address": FREE, "expected": UNLIKE}).decode()
            db.execute("UPDATE actions SET asked = ?", (asked,))
        report = act(journal, host, Verb.BIND, FREE)
    assert (report.outcome, codes(report)) == (Outcome.FAILED, ["UNIT_CHANGED"])
    assert calls(host) == before


@pytest.mark.parametrize("name", ["expected", "unit"])
def test_the_unit_is_found_in_what_the_host_and_the_cluster_asked(name: str) -> None:
    assert read_expected(encode({"address": FREE, name: UNLIKE}).decode()) == UNLIKE
    assert read_expected(encode({"address": FREE, name: None}).decode()) is None


def moving(*addresses: Address) -> Plan:
    steps = tuple(Step(Kind.BIND, a, "", "vfio-pci", "") for a in addresses)
    return Plan(Verb.BIND, "unit", GONE, steps)


def test_each_function_that_a_plan_moves_is_judged(path: Path, host: ActingHost) -> None:
    with opened(path) as journal:
        root, seen = host.reach(journal).look()

    def judge(plan: Plan, expected: AskedUnit | None = None) -> set[str]:
        return {r.code for r in judge_again(plan, root, seen, ALL, expected=expected)}

    assert judge(moving(GONE)) == set(), "what is gone cannot be moved"
    assert judge(moving(FREE)) == set()
    assert "HOST_CRITICAL" in judge(moving(FREE, DISK))
    assert judge(moving(FREE), as_asked(seen.unit_of[FREE])) == set()
    assert judge(moving(FREE), UNLIKE) == {"UNIT_CHANGED"}
    bridge = next(f.address for f in seen.functions if f.is_bridge)
    assert judge(moving(bridge)) == {"NO_UNIT"}


# --- which boot this is --------------------------------------------------------------------------


def forget_boot(host: ActingHost) -> Callable[[], None]:
    """The kernel does not tell; what makes it tell again is returned."""
    file = host.top / "proc/sys/kernel/random/boot_id"
    told = file.read_text()
    file.write_text("\n")

    def remember() -> None:
        file.write_text(told)

    return remember


def test_in_a_boot_without_a_name_nothing_is_begun(path: Path, host: ActingHost) -> None:
    forget_boot(host)
    with opened(path) as journal:
        report = act(journal, host, Verb.BIND, FREE)
    assert (report.outcome, codes(report)) == (Outcome.UNKNOWN, ["ACTION_EVIDENCE_MISSING"])
    assert calls(host) == 0


def test_what_was_cut_short_waits_until_the_boot_is_known(path: Path, host: ActingHost) -> None:
    die_in_bind(path, host)
    remember = forget_boot(host)
    before = calls(host), host.written()
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        submit(acting, reports)
        assert next_of(reports).outcome is Outcome.WAITING
        assert (calls(host), host.written()) == before
        submit(acting, reports)
        remember()
        assert next_of(reports).outcome is Outcome.DONE
    assert host.driver(FREE) == "vfio-pci"


# --- resets that take long -----------------------------------------------------------------------


class SlowReset:
    """A reset of which the kernel has not come back until `answer` is there."""

    def __init__(self) -> None:
        self.answer: Answer | int = 4242

    def __call__(self, host: Host, target: Address, *, operation: str) -> ResetResult:
        request = plan_reset(host, host.by_address[target])
        result = judge_answer(host, request, self.answer, (), operation=operation)
        if self.answer != 4242:
            return result
        return replace(result, again=lambda: self(host, target, operation=operation))


def test_a_reset_that_hangs_has_no_end_until_its_child_answers(
    path: Path, host: ActingHost
) -> None:
    reset = SlowReset()
    with opened(path) as journal:
        reach = replace(host.reach(journal), reset=reset)
        with acting_through(journal, reach) as (acting, reports):
            submit(acting, reports, Verb.RESET_TEST, BOUND)
            assert next_of(reports).outcome is Outcome.WAITING
            found = kept(journal)
            assert (found.report, found.loss is None) == (None, False)
            submit(acting, reports, Verb.UNBIND, BOUND, id=OTHER_ID)
            assert codes(next_of(reports)) == ["ACTION_UNFINISHED"]

            submit(acting, reports, Verb.RESET_TEST, BOUND)
            config = {str(BOUND): bytes(64).hex()}
            reset.answer = Answer("done", 0, "", 70.0, config, config)
            assert next_of(reports).outcome is Outcome.DONE
        assert [a.outcome for a in journal.attempts() if a.key == ID] == ["success"]
        assert journal.spool.reservations() == []


def test_what_a_hanging_reset_was_is_not_lost_with_the_agent(path: Path, host: ActingHost) -> None:
    with opened(path) as journal:
        reach = replace(host.reach(journal), reset=SlowReset())
        with acting_through(journal, reach) as (acting, reports):
            submit(acting, reports, Verb.RESET_TEST, BOUND)
            assert next_of(reports).outcome is Outcome.WAITING
    with opened(path) as journal:
        report = act(journal, host, Verb.RESET_TEST, BOUND)
        assert (report.outcome, report.detail) == (Outcome.UNKNOWN, UNSEEN)
        assert [a.outcome for a in journal.attempts() if a.key == ID] == ["unobserved"]


@pytest.mark.parametrize("said", [True, False])
def test_a_lost_reset_is_counted_once_when_its_child_has_ended(
    path: Path, host: ActingHost, said: bool
) -> None:
    die(path, host, Verb.RESET_TEST, BOUND)
    host.hold(BOUND)
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        submit(acting, reports, Verb.RESET_TEST, BOUND)
        assert next_of(reports).outcome is Outcome.WAITING
        assert journal.attempts() == []
        submit(acting, reports, Verb.RESET_TEST, BOUND)
        if said:
            host.say(f"vfio-pci {BOUND}: not ready 65535ms after FLR; giving up", seconds=2000)
        host.let_go()
        report = next_of(reports)
        assert report.outcome is (Outcome.FAILED if said else Outcome.UNKNOWN)
        assert len(journal.attempts()) == 1
        assert sum(tried for tried, _ in journal.totals().values()) == 1


# --- what is full --------------------------------------------------------------------------------


def test_a_refusal_without_room_in_the_spool_is_kept_when_there_is(
    path: Path, host: ActingHost
) -> None:
    with closing(Journal.open(path, bounds=Bounds(events=20))) as journal:
        for number in range(20):
            event = VmStarted(f"vm{number}", "qemu")
            journal.spool.append(DurableEvent(Stamp("b", number, number), "", "", event))
        with acting_on(journal, host) as (acting, reports):
            submit(acting, reports)
            told = next_of(reports)
            assert codes(told) == ["SPOOL_FULL"]
            assert "not recorded" in told.detail
            assert kept(journal).report is None
            submit(acting, reports)
            last = journal.spool.after(0, 1000)[-1]
            journal.spool.acknowledge(Mark(journal.spool.id, last.seq, last.event.at))
            assert next_of(reports) == kept_report(journal)
    assert calls(host) == 0


def test_a_full_queue_on_a_full_disk_is_told_later_and_raises_nothing(
    path: Path, host: ActingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting_module, "MAX_QUEUED", 1)
    gate = Gate()
    with opened(path) as journal, acting_on(journal, host, gate) as (acting, reports):
        submit(acting, reports)
        assert gate.reached.wait(60)
        unit = AskedUnit("u" * 4000, (), (), ())
        asked = encode({"address": BOUND, "unit": unit}).decode()
        journal.actions.begin(OTHER_ID, verb="unbind", asked=asked, sequence=1)
        make_room = fill_disk(journal)
        later: Reports = Reports()
        while not journal._database.full:  # some small rows still fit
            event = VmStarted("vm", "qemu")
            with suppress(JournalFull):
                journal.spool.append(DurableEvent(Stamp("b", 1, 1), "", "", event))
        submit(acting, later, Verb.UNBIND, BOUND, id=OTHER_ID)
        assert kept(journal, OTHER_ID).report is None
        make_room()
        gate.opened.set()
        assert next_of(reports).outcome is Outcome.DONE
        assert codes(next_of(later)) == ["ACTION_QUEUE_FULL"]
        assert codes(kept_report(journal, OTHER_ID)) == ["ACTION_QUEUE_FULL"]


def test_what_waits_for_room_before_it_began_is_begun_then(path: Path, host: ActingHost) -> None:
    rule = host.top / RULE  # it makes the plan larger than what still fits
    rule.parent.mkdir(parents=True, exist_ok=True)
    rule.write_text(f"# {'x' * 20_000}\n")
    made: list[Callable[[], None]] = []
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):

        def fill() -> None:
            if not made:
                made.append(fill_disk(journal))

        submit(acting, reports, valid=fill)
        told = next_of(reports)
        assert (told.outcome, told.detail[:26]) == (Outcome.WAITING, "stopped until there is roo")
        submit(acting, reports)
        made[0]()
        assert next_of(reports).outcome is Outcome.DONE
        assert journal.spool.reservations() == []
    assert host.driver(FREE) == "vfio-pci"


# --- overtaken -----------------------------------------------------------------------------------


def test_its_asker_is_asked_again_just_before_the_effect(path: Path, host: ActingHost) -> None:
    gate = Gate()
    against: list[tuple[object, str]] = []
    with opened(path) as journal, acting_on(journal, host, gate) as (acting, reports):
        submit(acting, reports, valid=lambda: against[0] if against else None)
        assert gate.reached.wait(60)
        against.append((COMMAND_EXPIRED, "it is late"))
        gate.opened.set()
        report = next_of(reports)
        assert (report.outcome, codes(report)) == (Outcome.REFUSED, ["COMMAND_EXPIRED"])
        assert journal.spool.reservations() == []
    assert calls(host) == 0


def test_the_cluster_may_do_no_more_in_an_hour_than_the_owner_says(
    path: Path, host: ActingHost
) -> None:
    host.per_hour = 1
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        submit(acting, reports)  # root on the host could write the file, and is not counted
        assert next_of(reports).outcome is Outcome.DONE
        submit(acting, reports, Verb.UNBIND, id=OTHER_ID, valid=nothing)
        assert next_of(reports).outcome is Outcome.DONE
    with opened(path) as journal, acting_on(journal, host) as (acting, reports):
        submit(acting, reports, id="e" * 32, valid=nothing)
        report = next_of(reports)
        assert (report.outcome, codes(report)) == (Outcome.REFUSED, ["ACTION_LIMIT"])
        assert host.driver(FREE) == "virtio-pci"
        submit(acting, reports, id="d" * 32)
        assert next_of(reports).outcome is Outcome.DONE
    assert host.driver(FREE) == "vfio-pci"


def nothing() -> None:
    """Nothing is against it."""


def test_effects_are_counted_by_the_hour_of_one_boot(path: Path) -> None:
    with opened(path) as journal:
        actions = journal.actions
        actions.count_effect("boot-1", 1_000)
        actions.count_effect("boot-1", HOUR_MS)
        assert actions.effects("boot-1", HOUR_MS) == [1_000, HOUR_MS]
        assert actions.effects("boot-1", HOUR_MS + 1_000) == [HOUR_MS]
        assert actions.effects("boot-2", HOUR_MS) == []
