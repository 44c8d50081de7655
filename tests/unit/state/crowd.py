"""Thousands of nodes of few kinds through the real reducer: each kind's facts are made once.

Commits are answered at once, without a store unless one is given; nothing checks the invariants in
between. The same events as real agents send, for tests and benches of what a fleet costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.fakes.snapshots import nvme
from tests.unit.scheduler.findings import passing
from tests.unit.state.hosts import BOOTS, cards, snapshot
from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.findings import Finding
from vfio_contract.host import Host
from vfio_contract.model import Snapshot
from vfio_coordinator.state.effects import Commit, Effect
from vfio_coordinator.state.events import (
    BaselineAcceptRequested,
    CommitOutcome,
    Event,
    InventoryReceived,
    NodeHello,
    Now,
    ObservationReceived,
    Outcome,
    Restored,
    SessionClosed,
)
from vfio_coordinator.state.model import Limits, State, start
from vfio_coordinator.state.reducer import apply
from vfio_coordinator.store.interface import KeyValue, ValueIs
from vfio_coordinator.store.memory import MemoryStore


@dataclass(frozen=True)
class Kind:
    """One kind of host, as its agents tell of it."""

    snapshot: Snapshot
    digest: str
    facts_zlib: bytes
    findings: tuple[Finding, ...]


def make_kind(
    *, wide: bool = False, bios: str = "F10", kernel: str = "6.8.12-4", board: str = "X12DPi"
) -> Kind:
    functions = (*cards(1), nvme("0000:09:00.0", group=1, driver="nvme")) if wide else cards(1)
    made = snapshot(*functions, bios=bios)
    facts = replace(
        made.facts,
        kernel=replace(made.facts.kernel, release=kernel),
        firmware=replace(made.facts.firmware, board_name=board),
    )
    made = replace(made, facts=facts)
    data = encode(facts)
    return Kind(made, digest_bytes(data), compress(data), passing(Host(made)))


class Crowd:
    """See the module. `effects` are all since the last `clear`."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        items: Iterable[KeyValue] = (),
        store: MemoryStore | None = None,
    ) -> None:
        self.store = store
        self.now = Now(1_000.0, "2026-11-22T00:00:00Z")
        self.effects: list[Effect] = []
        self.sessions: dict[str, int] = {}
        self.boots: dict[str, int] = {}
        self.revision = 1
        self.state: State = start(limits)
        self.send(
            Restored(
                cluster_id="c",
                incarnation=1,
                epoch=1,
                fence=ValueIs("meta/epoch", b""),
                items=tuple(items),
                revision=1,
            )
        )

    def clear(self) -> None:
        self.effects.clear()

    def send(self, event: Event) -> None:
        """The event, and the outcomes of all that it writes."""
        waiting = [event]
        while waiting:
            self.state, effects = apply(self.state, waiting.pop(0), self.now)
            self.effects += effects
            for effect in effects:
                if isinstance(effect, Commit):
                    waiting.append(self._committed(effect))

    def _committed(self, effect: Commit) -> CommitOutcome:
        self.revision += 1
        if self.store is not None:
            self.store.commit([replace(effect.txn, compares=())])
        return CommitOutcome(txn_id=effect.txn_id, outcome=Outcome.OK, revision=self.revision)

    def join(self, name: str, kind: Kind, *, agent: str = "0.1.0") -> None:
        """A new session of this boot: hello, facts, findings."""
        if name in self.sessions:
            self.send(SessionClosed(name, self.sessions[name]))
        number = self.sessions[name] = len(self.sessions) + 1 + self.sessions.get(name, 0)
        boot = BOOTS[self.boots.setdefault(name, 0)]
        self.send(
            NodeHello(
                node=name,
                session=number,
                boot_id=boot,
                product_uuid=f"uuid-{name}",
                agent_state_id=f"state-{name}",
                agent_version=agent,
                inventory_digest=kind.digest,
                cluster_id="",
                highest_incarnation=0,
                highest_epoch=0,
            )
        )
        self.send(
            InventoryReceived(
                node=name,
                session=number,
                digest=kind.digest,
                facts=kind.snapshot.facts,
                facts_zlib=kind.facts_zlib,
            )
        )
        self.observe(name, kind)

    def observe(self, name: str, kind: Kind, *, sequence: int = 1) -> None:
        boot = BOOTS[self.boots[name]]
        self.send(
            ObservationReceived(
                node=name,
                session=self.sessions[name],
                sequence=sequence,
                inventory_digest=kind.digest,
                readings=replace(kind.snapshot.readings, boot_id=boot),
                findings=kind.findings,
                age_s=0.0,
                checks_version="checks-1",
            )
        )

    def accept(self, name: str) -> None:
        self.send(BaselineAcceptRequested(ticket=1, node=name, actor="ann"))

    def reboot(self, name: str, kind: Kind) -> None:
        self.boots[name] = (self.boots[name] + 1) % len(BOOTS)
        self.join(name, kind)
