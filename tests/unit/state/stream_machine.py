"""One agent's stream to the reducer, which hypothesis may cut, hold back and lose at any point.

What a machine's rules share who drives a real journal against the real reducer over a real store:
messages wait in each direction and are lost with their session, commits are held back, answered or
not. Rules of a subclass say what happens; this must never say anything of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.unit.state.cluster import Agent, Cluster
from vfio_agent.session.delivery import Delivery
from vfio_contract.artifact import decode
from vfio_contract.durable import Spooled
from vfio_contract.views import Event as LogRow
from vfio_coordinator.state import keys
from vfio_coordinator.state.effects import (
    AcceptSession,
    CloseSession,
    Effect,
    HoldEvents,
    SendCommand,
)
from vfio_coordinator.state.events import Event, EventsReceived
from vfio_coordinator.state.model import Limits

NODE = "pve01"


@dataclass(slots=True)
class Session:
    """One stream: what is on its way in each direction."""

    id: int
    spool_id: str
    delivery: Delivery
    up: list[Event] = field(default_factory=list)
    down: list[SendCommand | HoldEvents] = field(default_factory=list)

    def tell(self, events: tuple[Spooled, ...]) -> None:
        """Send these; nothing for none."""
        if events:
            told = EventsReceived(node=NODE, session=self.id, spool_id=self.spool_id, events=events)
            self.up.append(told)


class StreamMachine(RuleBasedStateMachine):
    """A node, its present session, and what an earlier one still had on its way up."""

    def __init__(self, agent: Agent, limits: Limits) -> None:
        super().__init__()
        self.agent = agent
        self.cluster = Cluster(limits=limits)
        self.cluster.held = True
        self.session: Session | None = None
        self.late: list[Event] = []

    # --- the stream ---

    def begin(self, effects: Iterable[Effect], delivery: Delivery, spool_id: str) -> bool:
        """What came of a Hello; False where it was refused."""
        told = list(effects)
        if not any(isinstance(effect, AcceptSession) for effect in told):
            return False
        self.session = Session(self.agent.session, spool_id, delivery)
        self.collect(told)
        return True

    def leave(self) -> None:
        if self.session is not None:
            self.late = self.session.up
            self.session = None

    @precondition(lambda self: self.session)
    @rule()
    def disconnect(self) -> None:
        self.leave()
        self.cluster.close(self.agent)

    @precondition(lambda self: self.session and self.session.up)
    @rule()
    def arrive(self) -> None:
        assert self.session is not None
        self.collect(self.cluster.send(self.session.up.pop(0)))

    def collect(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            assert not isinstance(effect, CloseSession) or effect.session != self.agent.session, (
                effect
            )
            if (
                isinstance(effect, SendCommand | HoldEvents)
                and self.session is not None
                and effect.session == self.session.id
            ):
                self.session.down.append(effect)

    # --- the coordinator ---

    @precondition(lambda self: self.cluster.queue)
    @rule()
    def commit(self) -> None:
        first = len(self.cluster.effects)
        self.cluster.commit_one()
        self.collect(self.cluster.effects[first:])

    @precondition(lambda self: self.cluster.queue)
    @rule(landed=st.booleans())
    def lose_answer(self, landed: bool) -> None:
        first = len(self.cluster.effects)
        self.cluster.lose_answer(landed=landed)
        self.collect(self.cluster.effects[first:])

    def crash(self, landed: int) -> None:
        """Some commits are on disk, of which nobody heard."""
        for _, txn in self.cluster.queue[:landed]:
            self.cluster.store.commit([txn])
        self.leave()
        self.cluster.restart()

    def rows(self) -> list[LogRow]:
        return [decode(LogRow, item.value) for item in self.cluster.store.range(keys.EVENTS)]
