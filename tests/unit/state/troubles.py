"""A small fleet in which things go wrong: for the tests of incidents.

Hosts have two cards each; a wide one shares a group with a disk. Firmware, kernel and versions are
as a test says. What people are told stands in `told`; `deliver` says that they were.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from tests.fakes.snapshots import nvme
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import BOOTS, cards, snapshot
from vfio_contract.incident_views import IncidentView
from vfio_contract.model import Snapshot
from vfio_contract.views import BaselineView
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import Heartbeat, IncidentAckRequested, NotifyEnded, Tick
from vfio_coordinator.state.incident_notices import HOLD_S
from vfio_coordinator.state.incident_report import list_incidents, show_incident

Answer = TypeVar("Answer")

WIDE = (*cards(2), nvme("0000:09:00.0", group=1, driver="nvme"))
WIDER = (*cards(2), nvme("0000:09:00.0", group=2, driver="nvme"))


def host(
    *,
    wide: bool = False,
    bios: str = "F10",
    kernel: str = "6.8.12-4",
    boot: int = 0,
    **changes: Any,
) -> Snapshot:
    made = snapshot(*(WIDE if wide else cards(2)), bios=bios, boot=boot)
    facts = replace(made.facts, kernel=replace(made.facts.kernel, release=kernel), **changes)
    return replace(made, facts=facts)


class Fleet(Cluster):
    """Nodes by name, accepted as they first were."""

    def __init__(self, *names: str, **changes: Any) -> None:
        super().__init__(**changes)
        self.agents: dict[str, Agent] = {}
        self.add(*names)

    def add(self, *names: str, **changes: Any) -> None:
        for name in names:
            self.agents[name] = Agent(name, host(**changes))
            self.join(self.agents[name])
            self.accept(BaselineView, name)

    def boot(self, *names: str, hello: Any = None, **changes: Any) -> None:
        """They come back from a reboot like this."""
        for name in names:
            one = self.agents[name]
            number = BOOTS.index(one.boot_id) + 1
            one.snapshot = host(boot=number % len(BOOTS), **changes)
            self.close(one)
            self.hello(one, **(hello or {}))
            self.inventory(one)
            self.observe(one)

    def heal(self, *names: str) -> None:
        """The same boots, as they were accepted."""
        for name in names:
            one = self.agents[name]
            self.change(one, host(boot=BOOTS.index(one.boot_id)))

    def silence(self, *names: str) -> None:
        """Nothing is heard of them until they are lost; the others say something."""
        for name in names:
            self.close(self.agents[name])
        self.wait(self.limits.reconnect_window_s / 2)
        for name in set(self.agents) - set(names):
            self.observe(self.agents[name])
        self.wait(self.limits.reconnect_window_s)
        for name in set(self.agents) - set(names):
            self.observe(self.agents[name])

    # --- what came of it ---

    @property
    def told(self) -> list[Notify]:
        return [e for e in self.effects if isinstance(e, Notify)]

    def pass_hold(self) -> None:
        """What is to be told has waited long enough; all sessions live on."""
        self.seconds += HOLD_S
        for one in self.agents.values():
            self.send(Heartbeat(node=one.name, session=one.session))
        self.send(Tick())

    def deliver(self, *, ok: bool = True) -> Notify:
        """The last telling ended, after its time to wait."""
        self.pass_hold()
        last = self.told[-1]
        detail = "" if ok else "refused"
        self.send(NotifyEnded(incident=last.incident.id, stamp=last.stamp, ok=ok, detail=detail))
        return last

    def ack(self, kind: type[Answer], id: str, reason: str = "", actor: str = "ann") -> Answer:
        return self.ask(
            kind, lambda t: IncidentAckRequested(ticket=t, id=id, actor=actor, reason=reason)
        )

    def ask_ack(self, id: str, actor: str) -> int:
        return self.ask_later(
            lambda t: IncidentAckRequested(ticket=t, id=id, actor=actor, reason="")
        )

    def open(self) -> list[IncidentView]:
        return list(list_incidents(self.state, closed=False, limit=0)[0])

    def all(self) -> list[IncidentView]:
        return list(list_incidents(self.state, closed=True, limit=0)[0])

    def show(self, id: str) -> IncidentView:
        return show_incident(self.state, id)

    def nodes_of(self, id: str) -> list[str]:
        return [member.node for member in self.show(id).members]

    def rows(self, code: str) -> list[str]:
        return [row.text for _, row in sorted(self.state.log.items()) if row.code == code]
