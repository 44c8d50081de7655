"""What hostd makes of a command: refused by name, taken once, and told how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.commanded import NOTHING, CommandedHost
from tests.fakes.snapshots import make_snapshot
from tests.unit.scheduler.findings import make
from tests.unit.test_acting import fill_disk
from vfio_agent.fence import Fence
from vfio_agent.hostd.commands import MAX_LOOKS, NotYet
from vfio_agent.journal.spool_rows import Bounds
from vfio_agent.session.outbox import seconds_up
from vfio_contract.action import AskedUnit, Outcome, unpack_report
from vfio_contract.address import Address, Identity
from vfio_contract.command import COUNT_BITS, AnswerState, Command, CommandAnswer, Order
from vfio_contract.command_codes import (
    COMMAND_EXPIRED,
    COMMAND_FENCED,
    COMMAND_MISDIRECTED,
    COMMAND_NOT_PERMITTED,
    COMMAND_NOT_RECORDED,
    COMMAND_OTHER_BOOT,
    COMMAND_OTHER_STATE,
    COMMAND_STALE,
    COMMAND_UNKNOWN,
)
from vfio_contract.durable import ActionEnded, Mark
from vfio_contract.findings import NODE, Verdict

UUID = "4c4c4544-0000-4000-8000-000000000001"
FENCE = Fence("cluster-1", 2, 7)
CARD = Address("0000:01:00.0")
UNIT = AskedUnit("nic-1", (Identity("dsn-1.0"),), (CARD,), ())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[CommandedHost]:
    made = CommandedHost(tmp_path, make_snapshot(boot_id="boot-1"), uuid=UUID)
    made.obey(FENCE)
    made.look()
    yield made
    made.close()


def command(
    host: CommandedHost, verb: str = Order.RESCAN, number: int = 1, **changes: Any
) -> Command:
    acts = verb not in (Order.RESCAN, Order.CHECK, Order.COLLECT)
    made = Command(
        id=f"{number:016x}",
        verb=verb,
        node="pve01",
        product_uuid=UUID,
        boot_id="boot-1",
        agent_state_id=host.journal.state_id,
        sequence=FENCE.incarnation << COUNT_BITS | number,
        deadline_boottime_ms=int((seconds_up() + 30) * 1000),
        cluster_id=FENCE.cluster_id,
        incarnation=FENCE.incarnation,
        epoch=FENCE.epoch,
        address=CARD if acts else "",
        unit=UNIT if acts else None,
    )
    return replace(made, **changes)


def ends(host: CommandedHost) -> list[ActionEnded]:
    rows = host.journal.spool.after(0, 100)
    return [row.event.payload for row in rows if isinstance(row.event.payload, ActionEnded)]


TAKEN = AnswerState.TAKEN


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"product_uuid": "another"}, COMMAND_MISDIRECTED),
        ({"product_uuid": ""}, COMMAND_MISDIRECTED),
        ({"agent_state_id": "f" * 32}, COMMAND_OTHER_STATE),
        ({"boot_id": "boot-0"}, COMMAND_OTHER_BOOT),
        ({"boot_id": ""}, COMMAND_OTHER_BOOT),
        ({"deadline_boottime_ms": 1}, COMMAND_EXPIRED),
        ({"epoch": 6}, COMMAND_FENCED),
        ({"epoch": 8}, COMMAND_FENCED),
        ({"incarnation": 1, "epoch": 99}, COMMAND_FENCED),
        ({"cluster_id": "cluster-2"}, COMMAND_FENCED),
        ({"sequence": 0}, COMMAND_STALE),
        ({"sequence": 2 << COUNT_BITS - 1}, COMMAND_STALE),
        ({"sequence": 3 << COUNT_BITS}, COMMAND_UNKNOWN),
        ({"sequence": (1 << 63) - 1}, COMMAND_UNKNOWN),
        ({"sequence": (1 << 64) - 1}, COMMAND_UNKNOWN),
        ({"verb": "drain"}, COMMAND_UNKNOWN),
        ({"verb": ""}, COMMAND_UNKNOWN),
        ({"address": ""}, COMMAND_UNKNOWN),
        ({"address": "0000:01:00.0; reboot"}, COMMAND_UNKNOWN),
        ({"id": "../x"}, COMMAND_UNKNOWN),
        ({"unit": replace(UNIT, hold=(Address("x"),))}, COMMAND_UNKNOWN),
        ({"unit": replace(UNIT, keys=(Identity("k" * 50_000),))}, COMMAND_UNKNOWN),
        ({"unit": None}, COMMAND_UNKNOWN),
    ],
)
def test_what_is_not_for_this_host_now_is_refused_by_name(
    host: CommandedHost, changes: dict[str, Any], code: Any
) -> None:
    answer = host.commands.take(replace(command(host, Order.BIND), **changes))
    assert (answer.state, answer.code) == (AnswerState.REFUSED, code.name)
    assert answer.text
    assert not host.pending
    assert host.journal.actions.unfinished() == []
    assert host.commands.take(command(host, Order.BIND)).state == TAKEN, "it changed nothing"


def test_a_number_beyond_what_the_journal_holds_is_refused(host: CommandedHost) -> None:
    host.obey(Fence(FENCE.cluster_id, 1 << 31, 1))
    beyond = command(host, incarnation=1 << 31, epoch=1, sequence=1 << 63)
    assert host.commands.take(beyond).code == COMMAND_UNKNOWN.name


def test_a_lower_number_than_any_taken_is_refused_after_a_crash_too(host: CommandedHost) -> None:
    assert host.commands.take(command(host, number=5)).state == TAKEN
    host.look()
    host.crash()
    host.look()
    for number in (4, 5):
        again = command(host, number=number, id=f"{99 + number:016x}")
        assert host.commands.take(again).code == COMMAND_STALE.name
    assert host.commands.take(command(host, number=6)).state == TAKEN


@pytest.mark.parametrize("verb", [Order.BIND, Order.UNBIND, Order.RESET_TEST])
def test_what_the_owner_does_not_permit_is_refused(host: CommandedHost, verb: Order) -> None:
    host.allowance = NOTHING
    answer = host.commands.take(command(host, verb))
    assert answer.code == COMMAND_NOT_PERMITTED.name
    assert "the test" in answer.text
    assert not host.pending
    assert host.commands.take(command(host, Order.CHECK)).state == TAKEN, "looks need no permission"


def test_on_a_full_disk_nothing_is_taken_and_what_was_is_told_later(host: CommandedHost) -> None:
    make_room = fill_disk(host.journal)
    answers = [host.commands.take(command(host, number=n)) for n in range(1, 200)]
    taken = [answer.id for answer in answers if answer.state == TAKEN]
    refused = [answer for answer in answers if answer.state != TAKEN]
    assert {answer.code for answer in refused} == {COMMAND_NOT_RECORDED.name}
    assert "full" in refused[0].text
    host.look()
    assert len(ends(host)) < len(taken)
    make_room()
    host.look()
    assert sorted(end.id for end in ends(host)) == taken


def test_without_room_for_its_end_nothing_is_taken(tmp_path: Path) -> None:
    made = CommandedHost(
        tmp_path, make_snapshot(boot_id="boot-1"), uuid=UUID, bounds=Bounds(events=8)
    )
    made.obey(FENCE)
    answers = []
    for number in range(1, 10):
        made.look()
        answers.append(made.commands.take(command(made, number=number)))
    refused = [answer for answer in answers if answer.state != TAKEN]
    assert {answer.code for answer in refused} == {COMMAND_NOT_RECORDED.name}
    assert 0 < len(refused) < 9
    assert made.commands.take(command(made, Order.BIND, 99)).code == COMMAND_NOT_RECORDED.name
    assert len(made.journal.spool.after(0, 100)) < 8, "what the host tells by itself has room"
    made.close()


def test_open_looks_are_bounded(host: CommandedHost) -> None:
    for number in range(1, MAX_LOOKS + 1):
        assert host.commands.take(command(host, number=number)).state == TAKEN
    late = command(host, number=MAX_LOOKS + 1)
    assert host.commands.take(late).code == COMMAND_NOT_RECORDED.name
    host.look()
    assert host.commands.take(late).state == TAKEN


def test_before_the_first_look_nothing_is_compared(host: CommandedHost) -> None:
    host.crash()
    with pytest.raises(NotYet):
        host.commands.take(command(host))
    host.look()
    assert host.commands.take(command(host)).state == TAKEN


# --- taken ---------------------------------------------------------------------------------------


def test_the_hands_get_the_unit_as_the_asker_saw_it(host: CommandedHost) -> None:
    given = command(host, Order.BIND)
    assert host.commands.take(given) == CommandAnswer(given.id, TAKEN)
    assert host.units[given.id] == UNIT
    kept = host.journal.actions.find(given.id)
    assert kept is not None
    assert kept.loss is not None, "durable with the intent: what a crash now leaves to be told"
    assert (kept.sequence, kept.loss.report.outcome) == (given.sequence, Outcome.FAILED)
    host.act(given.id)
    (end,) = ends(host)
    assert (end.id, end.verb, end.outcome) == (given.id, "bind", "done")


def test_what_waits_for_its_turn_is_judged_again_then(host: CommandedHost) -> None:
    soon_ms = int((seconds_up() + 1) * 1000)
    given = command(host, Order.BIND, deadline_boottime_ms=soon_ms)
    other = command(host, Order.UNBIND, 2)
    for one in (given, other):
        assert host.commands.take(one).state == TAKEN
    valid = host.pending[given.id].valid
    assert valid is not None
    until = seconds_up() + 20
    while (lapse := valid()) is None and seconds_up() < until:
        pass
    assert lapse is not None
    assert lapse[0] is COMMAND_EXPIRED
    valid = host.pending[other.id].valid
    assert valid is not None
    assert valid() is None
    host.obey(Fence(FENCE.cluster_id, FENCE.incarnation, FENCE.epoch + 1))
    lapse = valid()
    assert lapse is not None
    assert lapse[0] is COMMAND_FENCED


def test_the_same_command_again_is_done_once(host: CommandedHost) -> None:
    given = command(host, Order.BIND)
    for _ in range(3):
        assert host.commands.take(given).state == TAKEN
    host.act(given.id)
    assert host.commands.take(given).state == TAKEN, "its end is on its way"
    host.journal.spool.acknowledge(_mark(host))
    answer = host.commands.take(given)
    assert answer.state == AnswerState.ENDED
    assert answer.ended is not None
    assert (answer.ended.id, answer.ended.outcome) == (given.id, "done")
    assert unpack_report(answer.ended.report).verb == "bind"
    assert host.effects == {given.id: 1}
    for changes in ({"epoch": 6}, {"boot_id": "another"}, {"deadline_boottime_ms": 1}):
        again = host.commands.take(replace(given, **changes))
        assert again.state == AnswerState.ENDED, "what was done is never called refused"


def _mark(host: CommandedHost) -> Mark:
    (*_, last) = host.journal.spool.after(0, 100)
    return Mark(host.journal.spool.id, last.seq, last.event.at)


@pytest.mark.parametrize("verb", [Order.RESCAN, Order.CHECK, Order.COLLECT])
def test_a_look_ends_with_the_next_one_that_begins_after_it(
    host: CommandedHost, verb: Order
) -> None:
    under_way = host.look()
    given = command(host, verb)
    host.commands.take(given)
    assert host.looks_wanted == 1
    host.commands.observed(under_way)
    assert ends(host) == [], "that one began before anybody asked"
    findings = (
        make("iommu-active", NODE, Verdict.FAIL, "IOMMU_OFF"),
        make("cpu-virtualization", NODE, Verdict.PASS, "KVM_READY"),
        make("sriov", f"function:{CARD}", Verdict.FAIL, "SRIOV_BROKEN", intended=False),
    )
    seen = host.look(findings)
    (end,) = ends(host)
    report = unpack_report(end.report)
    assert (report.verb, report.outcome) == (verb, "done")
    assert report.looked_at_ms == int(seen.at_s * 1000)
    assert end.detail == "FAIL: 1 FAIL, 1 PASS"
    host.look()
    assert len(ends(host)) == 1


def test_a_look_that_a_crash_cut_short_is_ended_by_the_next(host: CommandedHost) -> None:
    given = command(host)
    host.commands.take(given)
    host.crash()
    assert ends(host) == []
    host.look()
    assert [end.id for end in ends(host)] == [given.id]
    host.crash()
    host.look()
    assert len(ends(host)) == 1
