"""Commands in the state: durable before they leave, to the right host, ended once.

Length: each way of a command, asked to ended, in one place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import agent, cards, reboot
from vfio_contract.action import ActionReport, Outcome, ended_event
from vfio_contract.address import Address
from vfio_contract.artifact import decode
from vfio_contract.codes import HOSTD_AWAY
from vfio_contract.command import ACTS, SENDING_S, VERSION, AnswerState, CommandAnswer, Order
from vfio_contract.command_codes import COMMAND_EXPIRED, COMMAND_LOST
from vfio_contract.durable import ActionEnded, DurableEvent, JournalStatus, Spooled, Stamp
from vfio_contract.errors import ErrorCode
from vfio_contract.views import CommandView, Decision
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.command_waits import artifact_of, command_views, report_of
from vfio_coordinator.state.effects import Effect, Failure, SendCommand
from vfio_coordinator.state.events import (
    CommandAnswered,
    CommandAwaited,
    CommandRequested,
    EventsReceived,
)
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.presence import AWAY
from vfio_coordinator.state.records import CommandRecord

CARD = "0000:01:00.0"
SPOOL = "a" * 32
STARTED_MS = 5_000_000


def hello(cluster: Cluster, one: Agent, **changes: Any) -> list[Effect]:
    given = {"spool_id": SPOOL, "commands": VERSION, "boottime_ms": STARTED_MS}
    return cluster.hello(one, **(given | changes))


def joined(limits: Limits | None = None, **changes: Any) -> tuple[Cluster, Agent]:
    cluster, one = Cluster(limits=limits), agent("pve01", *cards(2))
    hello(cluster, one, **changes)
    cluster.inventory(one)
    cluster.observe(one)
    return cluster, one


def ask_later(cluster: Cluster, verb: str = Order.BIND, number: int = 1, **changes: str) -> int:
    given = {"node": "pve01", "address": CARD if verb in ACTS else "", "actor": "ann"} | changes
    return cluster.ask_later(
        lambda t: CommandRequested(ticket=t, id=f"{number:08x}", verb=verb, **given)
    )


def ask(cluster: Cluster, verb: str = Order.BIND, number: int = 1, **changes: str) -> CommandView:
    answer = cluster.replies[ask_later(cluster, verb, number, **changes)]
    assert isinstance(answer, CommandView), answer
    return answer


def refusal(cluster: Cluster, verb: str = Order.BIND, **changes: str) -> Failure:
    answer = cluster.replies[ask_later(cluster, verb, 99, **changes)]
    assert isinstance(answer, Failure), answer
    assert not command_views(cluster.state, "")[1:]
    return answer


def sent(effects: list[Effect]) -> list[SendCommand]:
    return [effect for effect in effects if isinstance(effect, SendCommand)]


def record(cluster: Cluster, number: int = 1) -> CommandRecord:
    item = cluster.store.get(keys.command_key("pve01", f"{number:08x}"))
    assert item is not None
    return decode(CommandRecord, item.value)


def view(cluster: Cluster, number: int = 1) -> CommandView:
    (found,) = [v for v in command_views(cluster.state, "pve01") if v.id == f"{number:08x}"]
    return found


def answer(cluster: Cluster, one: Agent, state: str, number: int = 1, **more: Any) -> None:
    said = CommandAnswer(f"{number:08x}", state, **more)
    cluster.send(CommandAnswered(node=one.name, session=one.session, answer=said))


def end(
    verb: str = "bind", number: int = 1, outcome: Outcome = Outcome.DONE, looked_at_ms: int = 0
) -> DurableEvent:
    made = ActionReport(
        id=f"{number:08x}",
        verb=verb,
        address=Address(CARD if verb in ACTS else ""),
        outcome=outcome,
        detail="as it should",
        looked_at_ms=looked_at_ms,
    )
    return ended_event(made, identity="", at=Stamp("boot-1", 1, 1_795_000_000_000))


def tell(cluster: Cluster, one: Agent, seq: int, event: DurableEvent) -> list[Effect]:
    events = (Spooled(seq, event),)
    return cluster.send(
        EventsReceived(node=one.name, session=one.session, spool_id=SPOOL, events=events)
    )


def wait(cluster: Cluster, seconds: float = 10.0, number: int = 1) -> int:
    id = f"{number:08x}"
    return cluster.ask_later(lambda t: CommandAwaited(ticket=t, id=id, wait_s=seconds))


# --- asking --------------------------------------------------------------------------------------


def test_a_command_leaves_after_its_commit_and_not_before() -> None:
    cluster, one = joined()
    cluster.held = True
    before = len(cluster.effects)
    ticket = ask_later(cluster)
    assert sent(cluster.effects[before:]) == []
    assert ticket not in cluster.replies
    cluster.settle_store()
    (word,) = sent(cluster.effects[before:])
    assert word.session == one.session
    command, kept = word.command, record(cluster)
    state = cluster.state
    assert (command.cluster_id, command.incarnation, command.epoch) == (
        *(state.cluster_id, state.incarnation, state.epoch),
    )
    assert (command.product_uuid, command.boot_id) == ("uuid-pve01", one.boot_id)
    assert (command.agent_state_id, command.node) == ("state-pve01", "pve01")
    assert (command.verb, command.address, command.sequence) == ("bind", CARD, kept.sequence)
    assert (kept.by, kept.outcome) == ("ann", "")
    assert cluster.replies[ticket].state == "sent"
    (row,) = [r for r in report.list_events(state)[0] if r.code == "COMMAND_SENT"]
    assert (row.actor, row.subject) == ("user:ann", "node:pve01")
    assert CARD in row.text
    assert kept.id in row.text


def test_the_deadline_is_in_the_agents_own_clock() -> None:
    cluster, _ = joined()
    cluster.wait(7.0)
    cluster.send(_heartbeat(cluster))
    ask(cluster)
    assert record(cluster).deadline_boottime_ms == STARTED_MS + int((7.0 + SENDING_S) * 1000)


def _heartbeat(cluster: Cluster) -> Any:
    from vfio_coordinator.state.events import Heartbeat

    node = cluster.state.nodes["pve01"]
    assert node.session is not None
    return Heartbeat(node.name, node.session.id)


def test_what_acts_carries_the_unit_as_it_was_seen() -> None:
    cluster, one = joined()
    ask(cluster)
    (word,) = sent(cluster.effects)
    unit = word.command.unit
    assert unit is not None
    (found,) = [u for u in _host(one).units if CARD in u.addresses]
    assert (unit.keys, unit.assign, unit.hold) == (found.keys, found.assign, found.hold)


def _host(one: Agent) -> Any:
    from vfio_contract.host import Host

    return Host(one.snapshot)


@pytest.mark.parametrize("verb", [Order.RESCAN, Order.CHECK, Order.COLLECT])
def test_a_look_is_about_no_function(verb: Order) -> None:
    cluster, _ = joined()
    ask(cluster, verb)
    (word,) = sent(cluster.effects)
    assert (word.command.verb, word.command.address, word.command.unit) == (verb, "", None)


def test_a_silent_node_is_told_as_such() -> None:
    cluster, one = joined()
    cluster.close(one)
    found = refusal(cluster)
    assert found.code is ErrorCode.NODE_UNHEARD
    assert "last 0s ago" in found.detail
    hello(cluster, one)
    cluster.wait(cluster.limits.lost_after_s + 1)
    assert refusal(cluster).code is ErrorCode.NODE_UNHEARD


@pytest.mark.parametrize("verb", list(Order))
def test_of_a_host_that_nobody_looks_at_nothing_is_asked(verb: Order) -> None:
    cluster, one = joined()
    cluster.say_journal(one, JournalStatus(HOSTD_AWAY.name, "away"))
    found = refusal(cluster, verb)
    assert found.code is ErrorCode.HOSTD_AWAY
    assert AWAY in found.detail
    cluster.say_journal(one, JournalStatus())
    assert ask(cluster, verb).state == "sent"


def test_an_agent_that_takes_no_commands_is_told_as_such() -> None:
    cluster, _ = joined(commands=0)
    found = refusal(cluster)
    assert (found.code, "0.1.0" in found.detail) == (ErrorCode.AGENT_TOO_OLD, True)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"node": "pve09"}, ErrorCode.UNKNOWN_NODE),
        ({"verb": "drain"}, ErrorCode.BAD_REQUEST),
        ({"verb": ""}, ErrorCode.BAD_REQUEST),
        ({"address": "nonsense"}, ErrorCode.BAD_REQUEST),
        ({"address": ""}, ErrorCode.BAD_REQUEST),
        ({"address": "0000:77:00.0"}, ErrorCode.UNKNOWN_DEVICE),
    ],
)
def test_what_cannot_be_asked(changes: dict[str, str], code: ErrorCode) -> None:
    cluster, _ = joined()
    verb = changes.pop("verb", Order.BIND.value)
    assert refusal(cluster, verb, **changes).code is code


def test_before_its_inventory_nothing_acts_on_a_node() -> None:
    cluster, one = Cluster(), agent("pve01", *cards(2))
    hello(cluster, one)
    assert refusal(cluster).code is ErrorCode.NO_INVENTORY
    assert ask(cluster, Order.CHECK).state == "sent"


def test_one_at_a_time_acts_on_a_node_and_looks_go_beside_it() -> None:
    cluster, one = joined()
    cluster.held = True
    ask_later(cluster)
    second = cluster.replies[ask_later(cluster, Order.UNBIND, 2)]
    assert second.code is ErrorCode.NODE_BUSY, "while the first is being written"
    cluster.held = False
    cluster.settle_store()
    found = refusal_of(cluster, Order.RESET_TEST, 3)
    assert (found.code, "bind 0000:01:00.0 of ann" in found.detail) == (ErrorCode.NODE_BUSY, True)
    assert ask(cluster, Order.CHECK, 4).state == "sent"
    tell(cluster, one, 1, end())
    assert ask(cluster, Order.UNBIND, 5).state == "sent"
    numbers = [word.command.sequence for word in sent(cluster.effects)]
    assert numbers == sorted(set(numbers))


def refusal_of(cluster: Cluster, verb: str, number: int) -> Failure:
    found = cluster.replies[ask_later(cluster, verb, number)]
    assert isinstance(found, Failure)
    return found


def test_what_a_vm_holds_is_not_acted_on() -> None:
    cluster, _ = joined()
    placed = cluster.place(Decision, ask_for("vm1")).placement
    assert placed is not None
    (card,) = placed.units[0].assign
    for number, verb in enumerate(sorted(ACTS), 1):
        found = cluster.replies[ask_later(cluster, verb, number, address=card)]
        assert (found.code, "VM vm1" in found.detail) == (ErrorCode.DEVICE_CLAIMED, True)
    assert command_views(cluster.state, "") == ()
    other = "0000:01:00.0" if card != CARD else "0000:02:00.0"
    assert ask(cluster, Order.UNBIND, 9, address=other).state == "sent"


def test_another_unit_than_the_asker_saw_is_not_acted_on() -> None:
    cluster, one = joined()
    (seen,) = [unit for unit in _host(one).units if CARD in unit.addresses]
    found = refusal(cluster, Order.BIND, unit="nic-00000000")
    assert (found.code, seen.id in found.detail) == (ErrorCode.UNKNOWN_DEVICE, True)
    assert ask(cluster, unit=seen.id).state == "sent"


def test_looks_leave_a_place_for_what_acts() -> None:
    cluster, _ = joined(Limits(looks_open=3))
    for number in range(1, 4):
        ask(cluster, Order.CHECK, number)
    assert ask(cluster, Order.BIND, 4).state == "sent"


def test_open_looks_of_a_node_are_bounded() -> None:
    cluster, _ = joined(Limits(looks_open=3))
    for number in range(1, 4):
        ask(cluster, Order.CHECK, number)
    assert refusal_of(cluster, Order.CHECK, 4).code is ErrorCode.NODE_BUSY


def test_a_restored_store_numbers_above_all_that_was_sent() -> None:
    cluster, _ = joined()
    ask(cluster)
    first = record(cluster).sequence
    cluster.state = replace(cluster.state, incarnation=cluster.state.incarnation + 1)
    ask(cluster, Order.CHECK, 2)
    assert record(cluster, 2).sequence > first + 1_000_000


# --- ends ----------------------------------------------------------------------------------------


def test_the_result_is_applied_once_with_its_mark() -> None:
    cluster, one = joined()
    ask(cluster)
    answer(cluster, one, AnswerState.TAKEN)
    assert view(cluster).state == "taken"
    ticket = wait(cluster)
    assert ticket not in cluster.replies
    cluster.held = True
    tell(cluster, one, 1, end())
    (txn,) = [txn for _, txn in cluster.queue]
    written = {op.key for op in txn.ops}
    assert {keys.spool_key("pve01"), keys.command_key("pve01", "00000001")} <= written
    cluster.held = False
    cluster.settle_store()
    shown = cluster.replies[ticket]
    assert (shown.state, shown.outcome, shown.text) == ("ended", "done", "as it should")
    assert report_of(cluster.state, "00000001") == _payload(end()).report
    hello(cluster, one)
    tell(cluster, one, 1, end(outcome=Outcome.FAILED))
    tell(cluster, one, 2, end(outcome=Outcome.FAILED))
    assert record(cluster).outcome == "done", "of two ends the first"
    rows = [r for r in report.list_events(cluster.state)[0] if r.code == "ACTION_ENDED"]
    assert len(rows) == 2
    assert "asked by ann" in rows[0].text


def _payload(event: DurableEvent) -> ActionEnded:
    assert isinstance(event.payload, ActionEnded)
    return event.payload


def test_an_end_that_nobody_asked_for_here_is_a_row_and_nothing_else() -> None:
    cluster, one = joined()
    tell(cluster, one, 1, end(number=77))
    assert command_views(cluster.state, "pve01") == ()
    assert "ACTION_ENDED" in cluster.codes("pve01")


def test_a_refusal_of_the_host_ends_it_by_name() -> None:
    cluster, one = joined()
    ask(cluster)
    answer(
        cluster, one, AnswerState.REFUSED, code=COMMAND_EXPIRED.name, text="it came 3 s too late"
    )
    shown = view(cluster)
    assert (shown.state, shown.outcome, shown.code) == ("ended", "refused", "COMMAND_EXPIRED")
    assert record(cluster).text == "it came 3 s too late"
    answer(cluster, one, AnswerState.TAKEN)
    assert view(cluster).state == "ended"
    assert cluster.codes("pve01").count("COMMAND_REFUSED") == 1


def test_a_refusal_of_what_was_taken_before_is_not_believed() -> None:
    cluster, one = joined()
    ask(cluster)
    answer(cluster, one, AnswerState.TAKEN)
    cluster.restart()
    hello(cluster, one)  # its journal was put back from a copy: the same state id, an older past
    answer(cluster, one, AnswerState.REFUSED, code=COMMAND_EXPIRED.name, text="too late")
    assert (view(cluster).outcome, view(cluster).code) == ("unknown", COMMAND_LOST.name)
    assert "COMMAND_EXPIRED: too late" in view(cluster).text
    tell(cluster, one, 1, end())
    assert (record(cluster).outcome, record(cluster).code) == ("done", "")


def test_a_refusal_that_could_not_be_written_is_asked_for_again() -> None:
    cluster, one = joined()
    ask(cluster)
    cluster.held = True
    refused: dict[str, Any] = {"code": COMMAND_EXPIRED.name, "text": "too late"}
    answer(cluster, one, AnswerState.REFUSED, **refused)
    before = len(cluster.effects)
    cluster.lose_answer(landed=False)
    (again,) = sent(cluster.effects[before:])
    assert (again.command.id, again.session) == ("00000001", one.session)
    cluster.held = False
    answer(cluster, one, AnswerState.REFUSED, **refused)
    assert view(cluster).outcome == "refused"


def test_an_answer_that_comes_twice_is_written_once() -> None:
    cluster, one = joined()
    ask(cluster)
    cluster.held = True
    for text in ("first", "second"):
        answer(cluster, one, AnswerState.REFUSED, code="COMMAND_STALE", text=text)
    assert len(cluster.queue) == 1
    cluster.held = False
    cluster.settle_store()
    assert (view(cluster).text, cluster.codes("pve01").count("COMMAND_REFUSED")) == ("first", 1)


def test_answers_of_another_session_are_dropped() -> None:
    cluster, one = joined()
    ask(cluster)
    old = one.session
    hello(cluster, one)
    said = CommandAnswer("00000001", AnswerState.REFUSED, "COMMAND_STALE", "no")
    cluster.send(CommandAnswered(node="pve01", session=old, answer=said))
    assert view(cluster).state == "sent"


def test_what_has_not_ended_is_sent_again_to_the_same_agent_with_its_first_deadline() -> None:
    cluster, one = joined()
    ask(cluster)
    (first,) = sent(cluster.effects)
    cluster.close(one)
    assert view(cluster).state == "waiting"
    cluster.restart()
    effects = hello(cluster, one, boottime_ms=STARTED_MS + 99_000)
    (again,) = sent(effects)
    assert again.command == replace(first.command, epoch=cluster.state.epoch)
    tell(cluster, one, 1, end())
    assert sent(hello(cluster, one)) == []


def test_a_session_that_comes_before_the_commit_gets_it_once() -> None:
    cluster, one = joined()
    cluster.held = True
    ask_later(cluster)
    assert sent(hello(cluster, one)) == []
    cluster.held = False
    cluster.settle_store()
    assert [word.session for word in sent(cluster.effects)] == [one.session]


def test_another_boot_ends_it_as_not_known_and_a_result_that_still_comes_is_recorded() -> None:
    cluster, one = joined()
    ask(cluster)
    ticket = wait(cluster)
    one.snapshot = _rebooted(one)
    assert sent(hello(cluster, one)) == []
    shown = cluster.replies[ticket]
    assert (shown.outcome, shown.code) == ("unknown", COMMAND_LOST.name)
    assert "booted" in shown.text
    tell(cluster, one, 1, end())
    assert (record(cluster).outcome, record(cluster).code) == ("done", "")
    tell(cluster, one, 2, end(outcome=Outcome.FAILED))
    assert record(cluster).outcome == "done"


def _rebooted(one: Agent) -> Any:
    made = one.snapshot
    return replace(made, readings=replace(made.readings, boot_id="another boot"))


def test_another_database_of_the_agent_ends_it_as_not_known() -> None:
    cluster, one = joined()
    ask(cluster)
    cluster.close(one)
    assert sent(hello(cluster, one, agent_state_id="reinstalled")) == []
    assert view(cluster).code == COMMAND_LOST.name
    assert "database" in view(cluster).text


def test_a_boot_while_it_is_being_written_never_gets_it() -> None:
    cluster, one = joined()
    cluster.held = True
    ask_later(cluster)
    one.snapshot = _rebooted(one)
    hello(cluster, one)
    cluster.held = False
    cluster.settle_store()
    assert sent(cluster.effects) == []
    assert view(cluster).outcome == "unknown"


def test_an_older_agent_in_its_place_gets_nothing() -> None:
    cluster, one = joined()
    ask(cluster)
    assert sent(hello(cluster, one, commands=0)) == []
    assert (view(cluster).state, view(cluster).outcome) == ("waiting", "")
    assert "takes no commands" in view(cluster).text


def test_an_end_that_another_life_of_the_store_held_comes_as_an_answer() -> None:
    cluster, one = joined()
    ask(cluster)
    answer(cluster, one, AnswerState.ENDED, ended=_payload(end()))
    assert (view(cluster).outcome, view(cluster).text) == ("done", "as it should")
    assert cluster.codes("pve01").count("COMMAND_ENDED") == 1
    assert "ACTION_ENDED" not in cluster.codes("pve01")


def test_an_answer_and_the_event_at_once_end_it_once() -> None:
    cluster, one = joined()
    ask(cluster)
    cluster.held = True
    answer(cluster, one, AnswerState.ENDED, ended=_payload(end()))
    tell(cluster, one, 1, end(outcome=Outcome.FAILED))
    cluster.held = False
    cluster.settle_store()
    assert record(cluster).outcome == "done"
    assert view(cluster).outcome == "done"
    assert cluster.state.intakes["pve01"].mark_of(SPOOL).seq == 1


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_whose_answer_was_lost_is_read_back(landed: bool) -> None:
    cluster, _ = joined()
    cluster.held = True
    ticket = ask_later(cluster)
    cluster.lose_answer(landed=landed)
    assert bool(sent(cluster.effects)) == landed
    found = cluster.replies[ticket]
    assert isinstance(found, CommandView) == landed
    assert landed or found.code is ErrorCode.STORE_UNAVAILABLE


def test_ended_commands_of_a_node_are_bounded_and_open_ones_stay() -> None:
    cluster, one = joined(Limits(commands_kept=4))
    ask(cluster, Order.CHECK, 1)
    for number in range(2, 12):
        ask(cluster, Order.CHECK, number)
        tell(cluster, one, number - 1, end("check", number))
    kept = [item.key for item in cluster.store.range(keys.COMMANDS)]
    assert len(kept) == 5
    assert kept == [keys.command_key("pve01", v.id) for v in _by_id(cluster)]
    assert kept[0].endswith("00000001")


def _by_id(cluster: Cluster) -> list[CommandView]:
    return sorted(command_views(cluster.state, ""), key=lambda v: v.id)


# --- looking -------------------------------------------------------------------------------------


def test_a_look_has_its_end_once_the_state_holds_what_it_saw() -> None:
    cluster, one = joined()
    ask(cluster, Order.COLLECT)
    ticket = wait(cluster)
    cluster.observe(one, began_boottime_ms=4_000)
    tell(cluster, one, 1, end("collect", looked_at_ms=5_000))
    assert ticket not in cluster.replies, "that one began before it"
    assert not view(cluster).seen
    with pytest.raises(Exception, match="NO_ARTIFACT"):
        artifact_of(cluster.state, "00000001")
    cluster.observe(one, began_boottime_ms=5_000)
    assert cluster.replies[ticket].seen


def test_a_look_that_was_not_made_is_not_waited_for() -> None:
    cluster, one = joined()
    ask(cluster, Order.CHECK)
    ticket = wait(cluster)
    answer(cluster, one, AnswerState.REFUSED, code="COMMAND_STALE", text="old")
    assert cluster.replies[ticket].outcome == "refused"


def test_whoever_waits_too_long_gets_it_as_it_stands() -> None:
    cluster, _ = joined()
    ask(cluster)
    ticket = wait(cluster, 5.0)
    cluster.wait(4.0)
    assert ticket not in cluster.replies
    cluster.wait(1.0)
    assert cluster.replies[ticket].state == "sent"


@pytest.mark.parametrize("id", ["", "77"])
def test_a_command_that_is_not_kept_is_told_as_such(id: str) -> None:
    cluster, _ = joined()
    ask(cluster)
    ticket = cluster.ask_later(lambda t: CommandAwaited(ticket=t, id=id, wait_s=1.0))
    assert cluster.replies[ticket].code is ErrorCode.UNKNOWN_COMMAND


def test_a_prefix_names_a_command_where_it_fits_one() -> None:
    cluster, _ = joined()
    ask(cluster, Order.CHECK, 0x10)
    ask(cluster, Order.CHECK, 0x20)
    assert cluster.replies[wait(cluster, 0.0, 0x10)].id == "00000010"
    ticket = cluster.ask_later(lambda t: CommandAwaited(ticket=t, id="000000", wait_s=1.0))
    assert cluster.replies[ticket].code is ErrorCode.BAD_REQUEST


def test_a_node_shows_its_commands() -> None:
    cluster, one = joined()
    ask(cluster, Order.CHECK, 1)
    ask(cluster, Order.BIND, 2)
    assert [c.id for c in cluster.view("pve01").commands] == ["00000002", "00000001"]
    reboot(cluster, one, *cards(2))


def test_who_waits_is_told_when_another_coordinator_takes_over() -> None:
    cluster, one = joined()
    ask(cluster, Order.CHECK)
    ticket = wait(cluster, 15.0)
    other = Cluster(store=cluster.store)
    assert other.state.epoch > cluster.state.epoch
    answer(cluster, one, AnswerState.REFUSED, code="COMMAND_STALE", text="old")
    assert cluster.stepped_down
    assert cluster.replies[ticket].code is ErrorCode.SHUTTING_DOWN
