"""Commands in one session: in order, again where the host did not answer, for this node only."""

from __future__ import annotations

from dataclasses import replace

from tests.fakes.orders import ORDER
from vfio_agent.session.orders import MAX_WAITING, Orders, TakerAway
from vfio_contract.command import AnswerState, Command, CommandAnswer
from vfio_contract.command_codes import COMMAND_MISDIRECTED, COMMAND_UNKNOWN


class Host:
    """Takes everything, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[str] = []

    def take(self, command: Command) -> CommandAnswer:
        if self.away:
            raise TakerAway("hostd is away")
        self.taken.append(command.id)
        return CommandAnswer(command.id, AnswerState.TAKEN)


def test_what_cannot_be_handed_on_waits_and_keeps_its_order() -> None:
    host = Host()
    orders = Orders(host, "pve07")
    assert orders.next_answer() is None
    for number in range(3):
        orders.hear(replace(ORDER, id=f"c{number}"))
    host.away = True
    assert orders.next_answer() is None
    host.away = False
    answers = [orders.next_answer() for _ in range(4)]
    assert host.taken == ["c0", "c1", "c2"]
    assert answers == [*(CommandAnswer(id, AnswerState.TAKEN) for id in host.taken), None]


def test_what_is_not_for_this_node_or_is_no_command_never_reaches_the_host() -> None:
    host = Host()
    orders = Orders(host, "pve07")
    orders.hear(replace(ORDER, node="pve08"))
    orders.hear(replace(ORDER, address="../../etc"))
    refused = [orders.next_answer(), orders.next_answer()]
    assert [(a.state, a.code) for a in refused if a is not None] == [
        (AnswerState.REFUSED, COMMAND_MISDIRECTED.name),
        (AnswerState.REFUSED, COMMAND_UNKNOWN.name),
    ]
    assert host.taken == []


def test_a_coordinator_that_says_too_much_costs_no_more_memory() -> None:
    host = Host()
    orders = Orders(host, "pve07")
    for number in range(10 * MAX_WAITING):
        orders.hear(replace(ORDER, id=f"c{number}"))
    while orders.next_answer() is not None:
        pass
    assert host.taken == [f"c{number}" for number in range(MAX_WAITING)]
