"""Commands between the network process and hostd: what is asked again, and what is an answer."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.fakes.orders import ORDER
from vfio_agent.fence import NO_FENCE
from vfio_agent.hostd.client import Client
from vfio_agent.hostd.messages import (
    PROTOCOL,
    CommandTaken,
    GetFence,
    Greeting,
    Obeyed,
    TakeCommand,
)
from vfio_agent.hostd.server import Server
from vfio_agent.hostd.verbs import Answer, Refusal, Verbs
from vfio_agent.session.orders import Orders, TakerAway
from vfio_contract.command import AnswerState, CommandAnswer
from vfio_contract.command_codes import COMMAND_UNKNOWN

DEADLINE_S = 20.0


def old_verbs() -> Verbs:
    """Those of a hostd that knows of no commands."""
    verbs = Verbs()
    verbs.add("fence.get", GetFence, lambda _, answer: answer(Obeyed(NO_FENCE)))
    return verbs


@contextmanager
def connected(verbs: Verbs) -> Iterator[Client]:
    faults: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    news: queue.SimpleQueue[bool] = queue.SimpleQueue()
    greeting = Greeting(PROTOCOL, "v", "s")
    server = Server(verbs, greeting, listener=None, allowed=(), on_fault=faults.put)
    ours, theirs = socket.socketpair()
    client = Client(theirs, on_news=lambda: news.put(True), on_fault=faults.put)
    server.start(ours)
    client.start()
    try:
        yield client
    finally:
        client.close()
        server.close()
    assert faults.empty()


def take(client: Client, number: int = 1) -> CommandAnswer:
    """Once the connection is there."""
    for _ in range(1_000_000):
        try:
            return client.take(replace(ORDER, id=f"c{number}"))
        except TakerAway as away:
            if str(away) != "hostd is away":
                raise
    raise AssertionError("it never connects")


def test_what_hostd_will_not_take_is_refused_and_holds_up_nothing() -> None:
    def judge(request: TakeCommand, answer: Answer) -> None:
        if request.command.id == "c1":
            raise Refusal("never")
        answer(CommandTaken(CommandAnswer(request.command.id, AnswerState.TAKEN), ""))

    verbs = old_verbs()
    verbs.add("command", TakeCommand, judge)
    with connected(verbs) as client:
        take(client, 0)
        orders = Orders(client, ORDER.node)
        for number in (1, 2):
            orders.hear(replace(ORDER, id=f"c{number}"))
        first, second = orders.next_answer(), orders.next_answer()
    assert first == CommandAnswer(
        "c1", AnswerState.REFUSED, COMMAND_UNKNOWN.name, "hostd refused: never"
    )
    assert second == CommandAnswer("c2", AnswerState.TAKEN)


def test_a_hostd_that_knows_no_commands_refuses_them() -> None:
    with connected(old_verbs()) as client:
        answer = take(client)
    assert (answer.state, answer.code) == (AnswerState.REFUSED, COMMAND_UNKNOWN.name)


def test_what_cannot_be_judged_yet_is_asked_again() -> None:
    said = iter([CommandTaken(None, "not yet"), CommandTaken(CommandAnswer("c1", "taken"), "")])
    verbs = old_verbs()
    verbs.add("command", TakeCommand, lambda _, answer: answer(next(said)))
    with connected(verbs) as client:
        with pytest.raises(TakerAway, match="not yet"):
            take(client)
        assert take(client) == CommandAnswer("c1", AnswerState.TAKEN)
