"""The verb by which root acts: who may ask, and a wait that is as long as the action."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vfio_agent.hostd.line import HostdError, HostdRefused, Line
from vfio_agent.hostd.messages import PROTOCOL, Act, Acted, Done, Greet, Greeting
from vfio_agent.hostd.server import Server
from vfio_agent.hostd.verbs import Answer, Verbs
from vfio_contract.action import ActionReport, Outcome
from vfio_contract.address import Address

ACT = Act("0" * 32, "bind", Address("0000:01:00.0"))
ACTED = Acted(ActionReport(ACT.id, "bind", ACT.address, Outcome.DONE))
DEADLINE_S = 20.0


def make_verbs(asked: queue.SimpleQueue[Answer]) -> Verbs:
    verbs = Verbs()
    verbs.add("act", Act, lambda _, answer: asked.put(answer), for_root=True)
    return verbs


@pytest.mark.parametrize("uid", [None, 1, 1000])
def test_only_root_may_act(uid: int | None) -> None:
    asked: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    answers: list[object] = []
    make_verbs(asked).handle(ACT, answers.append, uid=uid)
    assert asked.empty()
    assert "only root may ask for that" in str(answers)
    make_verbs(asked).handle(ACT, answers.append, uid=0)
    assert not asked.empty()


@contextmanager
def connected(verbs: Verbs) -> Iterator[tuple[Line, Server]]:
    """A line to a server that made the connection itself, as for its network process."""
    faults: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    server = Server(
        verbs, Greeting(PROTOCOL, "v", "s"), listener=None, allowed=(), on_fault=faults.put
    )
    ours, theirs = socket.socketpair()
    never, quiet = socket.socketpair()
    with theirs, never, quiet:
        server.start(ours)
        line = Line(theirs, quiet, lambda _: None)
        try:
            line.ask_here(Greet(PROTOCOL), Greeting)
            yield line, server
        finally:
            line.end()
            server.close()
    assert faults.empty()


def test_the_network_process_is_refused_as_which_user_ever_it_runs() -> None:
    asked: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    with connected(make_verbs(asked)) as (line, _), pytest.raises(HostdRefused, match="only root"):
        line.ask_patiently(ACT, Acted, ping_s=1.0)
    assert asked.empty()


def slow_verbs(asked: queue.SimpleQueue[Answer]) -> Verbs:
    verbs = Verbs()
    verbs.add("act", Act, lambda _, answer: asked.put(answer))
    return verbs


def test_a_long_action_is_waited_for_while_hostd_answers_pings() -> None:
    asked: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    pings: queue.SimpleQueue[object] = queue.SimpleQueue()

    class Watched(Line):
        def ask_here(self, request: object, kind: type) -> object:  # type: ignore[override]
            pings.put(request)
            return super().ask_here(request, kind)

    def finish() -> None:
        answer = asked.get(timeout=DEADLINE_S)
        for _ in range(3):
            pings.get(timeout=DEADLINE_S)
        answer(ACTED)

    with connected(slow_verbs(asked)) as (line, _):
        line.__class__ = Watched
        threading.Thread(target=finish, daemon=True).start()
        assert line.ask_patiently(ACT, Acted, ping_s=0.01) == ACTED


def test_a_hostd_that_ends_meanwhile_is_told() -> None:
    asked: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    with connected(slow_verbs(asked)) as (line, server):

        def end() -> None:
            asked.get(timeout=DEADLINE_S)
            server.close()

        threading.Thread(target=end, daemon=True).start()
        with pytest.raises(HostdError):
            line.ask_patiently(ACT, Acted, ping_s=1.0)


def test_a_verb_is_in_the_registry_once() -> None:
    verbs = make_verbs(queue.SimpleQueue())
    with pytest.raises(ValueError, match="has a handler"):
        verbs.add("act", Done, lambda _, __: None)
