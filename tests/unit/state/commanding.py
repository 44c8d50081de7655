"""A cluster with a node that takes commands: asking it, and being it."""

from __future__ import annotations

from typing import Any

from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import agent, cards
from vfio_contract.action import ActionReport, Outcome, ended_event
from vfio_contract.address import Address
from vfio_contract.artifact import decode
from vfio_contract.command import ACTS, VERSION, CommandAnswer, Order
from vfio_contract.durable import DurableEvent, Spooled, Stamp
from vfio_contract.views import CommandView
from vfio_coordinator.state import keys
from vfio_coordinator.state.command_waits import command_views
from vfio_coordinator.state.effects import Effect, Failure, SendCommand
from vfio_coordinator.state.events import (
    CommandAnswered,
    CommandAwaited,
    CommandRequested,
    EventsReceived,
)
from vfio_coordinator.state.model import Limits
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
