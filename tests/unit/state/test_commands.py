"""How commands end: by their result, a refusal or another boot, and each of them once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.commanding import (
    SPOOL,
    STARTED_MS,
    answer,
    ask,
    ask_later,
    end,
    hello,
    joined,
    record,
    sent,
    tell,
    view,
    wait,
)
from vfio_contract.action import Outcome
from vfio_contract.command import AnswerState, CommandAnswer, Order
from vfio_contract.command_codes import COMMAND_EXPIRED, COMMAND_LOST
from vfio_contract.durable import ActionEnded, DurableEvent
from vfio_contract.errors import ErrorCode
from vfio_contract.views import CommandView
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.command_waits import command_views, report_of
from vfio_coordinator.state.events import (
    CommandAnswered,
)
from vfio_coordinator.state.model import Limits


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
