"""A cluster in one process: the real reducer over a real store, without a network or a clock.

Commits go to a `MemoryStore` in order, at once or when the test says so; every step checks the
invariants. Agents are snapshots with findings. Time passes only by `wait`.

Length: one scene for all tests of the reducer; each method is one thing that happens or is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tests.unit.scheduler.findings import Replaced, passing
from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.durable import JournalStatus
from vfio_contract.findings import Finding
from vfio_contract.host import Host
from vfio_contract.model import Snapshot
from vfio_contract.views import DeviceRequest, NodeView, PlaceRequest
from vfio_coordinator.state import report
from vfio_coordinator.state.bootstrap import open_cluster
from vfio_coordinator.state.effects import (
    AcceptSession,
    Acknowledge,
    CloseSession,
    Commit,
    Effect,
    ReadBack,
    RefuseSession,
    Reply,
    StepDown,
    WantInventory,
)
from vfio_coordinator.state.events import (
    BaselineAcceptRequested,
    CommitOutcome,
    CordonRequested,
    Event,
    InventoryReceived,
    JournalReported,
    MuteRequested,
    NodeHello,
    Now,
    ObservationReceived,
    Outcome,
    PlaceRequested,
    PolicySetRequested,
    ReleaseRequested,
    Restored,
    RiskAcceptRequested,
    RiskRevokeRequested,
    SessionClosed,
    Tick,
    UncordonRequested,
    UnmuteRequested,
)
from vfio_coordinator.state.invariants import check_invariants
from vfio_coordinator.state.keys import META_CLUSTER, META_EPOCH
from vfio_coordinator.state.model import Limits, State, start
from vfio_coordinator.state.reducer import apply
from vfio_coordinator.store.interface import Txn
from vfio_coordinator.store.memory import MemoryStore

Answer = TypeVar("Answer")

CHECKS = "checks-1"

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
"""Wall time at second 0, until `set_wall`."""


@dataclass(repr=False)
class Agent:
    """What one node would send."""

    name: str
    snapshot: Snapshot
    replaced: Replaced = field(default_factory=dict)
    findings: tuple[Finding, ...] | None = None
    uuid: str = ""
    checks: str = CHECKS
    session: int = 0
    sequence: int = 0

    def __repr__(self) -> str:
        return f"Agent({self.name}, session {self.session}, boot {self.boot_id[:1]})"

    @property
    def digest(self) -> str:
        return digest_bytes(encode(self.snapshot.facts))

    @property
    def boot_id(self) -> str:
        return self.snapshot.readings.boot_id or ""

    def judged(self) -> tuple[Finding, ...]:
        if self.findings is not None:
            return self.findings
        return passing(Host(self.snapshot), self.replaced)


class Cluster:
    """See the module. `held` True keeps commits back until `settle_store`.

    A test of hundreds of nodes sets `checked` to False and checks the invariants itself.
    """

    checked = True

    def __init__(self, *, store: MemoryStore | None = None, limits: Limits | None = None) -> None:
        self.store = store or MemoryStore()
        self.limits = limits or Limits()
        self.seconds = 1_000.0
        self.ahead = timedelta()
        self.held = False
        self.queue: list[tuple[int, Txn]] = []
        self.effects: list[Effect] = []
        self.replies: dict[int, Any] = {}
        self.stepped_down = False
        self._tickets = 0
        self._sessions = 0
        self.state: State = start(self.limits)
        self.restart()

    # --- time and events ---

    @property
    def now(self) -> Now:
        wall = MIDNIGHT + timedelta(seconds=int(self.seconds)) + self.ahead
        return Now(self.seconds, wall.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def set_wall(self, utc: str) -> None:
        """The wall clock alone; nothing is told of it before the next event."""
        self.ahead += datetime.fromisoformat(utc) - datetime.fromisoformat(self.now.utc)

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.send(Tick())

    def send(self, event: Event) -> list[Effect]:
        before = self.state
        first = len(self.effects)
        self.state, effects = apply(before, event, self.now)
        if self.checked:
            check_invariants(self.state)
        self.effects.extend(effects)
        for effect in effects:
            match effect:
                case Commit(txn_id, txn):
                    self.queue.append((txn_id, txn))
                case Reply(ticket, answer):
                    assert ticket not in self.replies, f"two replies for ticket {ticket}"
                    self.replies[ticket] = answer
                case StepDown():
                    self.stepped_down = True
                case _:
                    pass
        if not self.held:
            self.settle_store()
        return self.effects[first:]

    def settle_store(self) -> None:
        """Commit everything that waits, and what follows from it."""
        while self.queue:
            self.commit_one()

    def commit_one(self) -> None:
        txn_id, txn = self.queue.pop(0)
        (result,) = self.store.commit([txn])
        found = tuple((c.key, self.store.get(c.key)) for c in result.failed)
        outcome = Outcome.OK if result.succeeded else Outcome.FAILED
        held, self.held = self.held, True
        self.send(
            CommitOutcome(
                txn_id=txn_id,
                outcome=outcome,
                revision=result.revision,
                failed=result.failed,
                found=found,
            )
        )
        self.held = held

    def lose_answer(self, *, landed: bool) -> None:
        """The next commit's outcome is unknown, whether it landed or not; then it is read back."""
        txn_id, txn = self.queue.pop(0)
        if landed:
            self.store.commit([txn])
        effects = self.send(CommitOutcome(txn_id=txn_id, outcome=Outcome.UNKNOWN, revision=0))
        (asked,) = [e for e in effects if isinstance(e, ReadBack)]
        item = self.store.get(asked.key)
        found = item is not None and item.value == asked.value
        self.send(
            CommitOutcome(
                txn_id=asked.txn_id,
                outcome=Outcome.OK if found else Outcome.FAILED,
                revision=item.mod_revision if item is not None else 0,
            )
        )

    def restart(self) -> None:
        """A new process on the same store; whatever was not committed is gone."""
        self.queue.clear()
        self.state = start(self.limits)
        opening = open_cluster(
            self.store.get(META_CLUSTER),
            self.store.get(META_EPOCH),
            new_cluster_id="cluster-1",
            utc=self.now.utc,
        )
        (result,) = self.store.commit([opening.txn])
        assert result.succeeded
        shown = self.store.read("")
        self.send(
            Restored(
                cluster_id=opening.cluster.cluster_id,
                incarnation=opening.cluster.incarnation,
                epoch=opening.epoch.epoch,
                fence=opening.fence,
                items=shown.items,
                revision=shown.revision,
            )
        )

    # --- agents ---

    def hello(self, agent: Agent, **changes: Any) -> list[Effect]:
        self._sessions += 1
        agent.session, agent.sequence = self._sessions, 0
        event = NodeHello(
            node=agent.name,
            session=agent.session,
            boot_id=agent.boot_id,
            product_uuid=agent.uuid or f"uuid-{agent.name}",
            agent_state_id=f"state-{agent.name}",
            agent_version="0.1.0",
            inventory_digest=agent.digest,
            cluster_id="",
            highest_incarnation=0,
            highest_epoch=0,
        )
        return self.send(replace(event, **changes))

    def inventory(self, agent: Agent) -> list[Effect]:
        facts = agent.snapshot.facts
        return self.send(
            InventoryReceived(
                node=agent.name,
                session=agent.session,
                digest=agent.digest,
                facts=facts,
                facts_zlib=compress(encode(facts)),
            )
        )

    def observe(self, agent: Agent, *, age_s: float = 0.0, **changes: Any) -> list[Effect]:
        agent.sequence += 1
        event = ObservationReceived(
            node=agent.name,
            session=agent.session,
            sequence=agent.sequence,
            inventory_digest=agent.digest,
            readings=agent.snapshot.readings,
            findings=agent.judged(),
            age_s=age_s,
            checks_version=agent.checks,
        )
        return self.send(replace(event, **changes))

    def join(self, *agents: Agent) -> None:
        """Hello, inventory unless held, findings."""
        for agent in agents:
            effects = self.hello(agent)
            accepted = [e for e in effects if isinstance(e, AcceptSession)]
            assert accepted, effects
            if not accepted[0].inventory_held:
                self.inventory(agent)
            self.observe(agent)

    def change(self, agent: Agent, snapshot: Snapshot) -> None:
        """The same session sends other facts."""
        agent.snapshot = snapshot
        self.inventory(agent)
        self.observe(agent)

    def say_journal(self, agent: Agent, status: JournalStatus) -> list[Effect]:
        return self.send(JournalReported(node=agent.name, session=agent.session, status=status))

    def close(self, agent: Agent) -> list[Effect]:
        return self.send(SessionClosed(agent.name, agent.session))

    # --- people ---

    def ask(self, kind: type[Answer], make: Any) -> Answer:
        answer = self.replies[self.ask_later(make)]
        assert isinstance(answer, kind), f"not a {kind.__name__}: {str(answer)[:300]}"
        return answer

    def ask_later(self, make: Any) -> int:
        self._tickets += 1
        self.send(make(self._tickets))
        return self._tickets

    def cordon(self, kind: type[Answer], node: str, reason: str = "", actor: str = "ann") -> Answer:
        return self.ask(
            kind,
            lambda t: CordonRequested(ticket=t, node=node, actor=actor, reason=reason),
        )

    def uncordon(self, kind: type[Answer], node: str, actor: str = "ann") -> Answer:
        return self.ask(kind, lambda t: UncordonRequested(ticket=t, node=node, actor=actor))

    def accept(self, kind: type[Answer], node: str, **changes: Any) -> Answer:
        event = {"node": node, "actor": "ann"} | changes
        return self.ask(kind, lambda t: BaselineAcceptRequested(ticket=t, **event))

    def set_policy(self, kind: type[Answer], *changes: str) -> Answer:
        """`set_policy(PolicyView, "baseline=auto")`."""
        pairs = tuple((name, value) for name, _, value in (c.partition("=") for c in changes))
        return self.ask(kind, lambda t: PolicySetRequested(ticket=t, changes=pairs, actor="root"))

    def accept_risk(self, kind: type[Answer], node: str, **changes: str) -> Answer:
        return self.ask(kind, lambda t: risk_request(t, node, **changes))

    def revoke_risk(self, kind: type[Answer], **named: str) -> Answer:
        event = {"node": "", "code": "", "id": "", "actor": "bob"} | named
        return self.ask(kind, lambda t: RiskRevokeRequested(ticket=t, **event))

    def mute(self, kind: type[Answer], code: str, node: str = "", **terms: str) -> Answer:
        event = {"reason": "known", "until": "", "actor": "ann"} | terms
        return self.ask(kind, lambda t: MuteRequested(ticket=t, code=code, node=node, **event))

    def unmute(self, kind: type[Answer], code: str, node: str = "") -> Answer:
        return self.ask(
            kind, lambda t: UnmuteRequested(ticket=t, code=code, node=node, actor="bob")
        )

    def place(self, kind: type[Answer], request: PlaceRequest) -> Answer:
        return self.ask(kind, lambda t: PlaceRequested(ticket=t, request=request, actor="ann"))

    def place_later(self, request: PlaceRequest) -> int:
        return self.ask_later(lambda t: PlaceRequested(ticket=t, request=request, actor="ann"))

    def release(self, kind: type[Answer], vm: str) -> Answer:
        return self.ask(kind, lambda t: ReleaseRequested(ticket=t, vm=vm, actor="ann"))

    # --- looking ---

    def view(self, node: str) -> NodeView:
        return report.node_view(self.state, node, self.now)

    def codes(self, node: str = "") -> list[str]:
        rows, _ = report.list_events(self.state, node=node)
        return [row.code for row in rows]

    def last(self, kinds: type | tuple[type, ...]) -> list[Effect]:
        return [e for e in self.effects if isinstance(e, kinds)]


def risk_request(ticket: int, node: str, **changes: str) -> RiskAcceptRequested:
    """`ann` carries the ACS override until the end of 2027-03-01, unless `changes` say more."""
    terms = {
        "code": "ACS_OVERRIDE",
        "reason": "one tenant",
        "until": "2027-03-01",
        "actor": "ann",
    }
    return RiskAcceptRequested(ticket=ticket, node=node, **(terms | changes))


def ask_for(vm: str, *devices: str, **changes: Any) -> PlaceRequest:
    """`ask_for("vm1", "gpu:a5000=2", "nic")`."""
    rows = []
    for text in devices or ("nic",):
        head, _, count = text.partition("=")
        kind, _, model = head.partition(":")
        rows.append(DeviceRequest(kind, model, int(count or 1)))
    request = PlaceRequest(
        vm=vm,
        devices=tuple(rows),
        same_numa=False,
        allow=(),
        node="",
        external=False,
        dry_run=False,
        request_id="",
    )
    return replace(request, **changes)


def store_text(store: MemoryStore, prefix: str) -> list[str]:
    return [item.key for item in store.range(prefix)]


__all__ = [
    "Acknowledge",
    "Agent",
    "CloseSession",
    "Cluster",
    "RefuseSession",
    "WantInventory",
    "ask_for",
    "risk_request",
    "store_text",
]
