"""Any order of events: the invariants hold, the store agrees, nobody's cordon is lifted for them.

Hypothesis drives the real reducer over a real store with agents that reboot, change, fall silent
and come back, while commits are held back, lost or interrupted by a restart.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.snapshots import nvme
from tests.unit.scheduler.findings import Replaced
from tests.unit.state.cluster import Agent, Cluster, ask_for, risk_request
from tests.unit.state.hosts import cards, snapshot
from vfio_contract.artifact import decode
from vfio_contract.durable import JournalStatus
from vfio_contract.findings import Verdict
from vfio_contract.model import PciFunction
from vfio_contract.views import Decision, NodeView, Placement
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.events import (
    BaselineAcceptRequested,
    CordonRequested,
    Heartbeat,
    PlaceRequested,
    PolicySetRequested,
    ReleaseRequested,
    RiskRevokeRequested,
    UncordonRequested,
)
from vfio_coordinator.state.model import Limits, Presence
from vfio_coordinator.state.presence import is_fresh, presence_of
from vfio_coordinator.state.records import BaselineRecord, Claim, UnitRecord

NAMES = ("pve01", "pve02", "pve03")
VMS = ("vm1", "vm2", "vm3")

HARDWARE: dict[str, tuple[PciFunction, ...]] = {
    "two": cards(2),
    "three": cards(3),
    "one": cards(1),
    "widened": (*cards(2), nvme("0000:09:00.0", group=1, driver="nvme")),
    "renumbered": tuple(replace(f, group=(f.group or 0) + 40) for f in cards(2)),
    "unbound": tuple(
        replace(f, driver="igb", vfio_device=False) if f.address == "0000:01:00.0" else f
        for f in cards(2)
    ),
    "blind": tuple(replace(f, group=None) if f.address == "0000:01:00.0" else f for f in cards(2)),
}

VERDICTS: tuple[Replaced, ...] = (
    {},
    {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "NOT_BOUND")},
    {("reset-history", "function:0000:02:00.0"): (Verdict.UNKNOWN, "HISTORY_UNKNOWN")},
    {("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF")},
    {("group-isolation", "group:1"): None},
    {("group-isolation", "group:1"): (Verdict.WARN, "ACS_OVERRIDE")},
)

names = st.sampled_from(NAMES)
vms = st.sampled_from(VMS)


class Chaos(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        limits = Limits(lost_after_s=10, reconnect_window_s=20, evidence_max_age_s=60)
        self.cluster = Cluster(limits=limits)
        self.agents: dict[str, Agent] = {}
        self.tickets: dict[int, str] = {}
        self.tokens: dict[tuple[str, str], int] = {}
        self.cordoned: set[str] = set()

    def ask(self, kind: str, make: Any) -> int:
        ticket = self.cluster.ask_later(make)
        self.tickets[ticket] = kind
        return ticket

    # --- agents ---

    @rule(
        name=names,
        hardware=st.sampled_from(sorted(HARDWARE)),
        boot=st.integers(0, 3),
        clean=st.booleans(),
        bios=st.sampled_from(("F10", "F10", "F11")),
    )
    def join(self, name: str, hardware: str, boot: int, clean: bool, bios: str) -> None:
        agent = self.agents.setdefault(name, Agent(name, snapshot(*cards(2))))
        if clean:
            self.cluster.close(agent)  # else an earlier boot is taken for a copy
        agent.snapshot = snapshot(*HARDWARE[hardware], boot=boot, bios=bios)
        self.cluster.hello(agent)
        self.cluster.inventory(agent)
        self.cluster.observe(agent)

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), hardware=st.sampled_from(sorted(HARDWARE)))
    def change(self, data: st.DataObject, hardware: str) -> None:
        agent = data.draw(st.sampled_from(sorted(self.agents)).map(self.agents.__getitem__))
        agent.snapshot = snapshot(*HARDWARE[hardware], boot=int(agent.boot_id[0]) - 1)
        if data.draw(st.booleans()):
            self.cluster.inventory(agent)
        self.cluster.observe(agent)

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), verdicts=st.sampled_from(VERDICTS), age=st.sampled_from((0, 5, 100)))
    def observe(self, data: st.DataObject, verdicts: Any, age: float) -> None:
        agent = data.draw(st.sampled_from(sorted(self.agents)).map(self.agents.__getitem__))
        agent.replaced = verdicts
        agent.checks = data.draw(st.sampled_from(("checks-1", "checks-1", "checks-2")))
        self.cluster.observe(agent, age_s=age)

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), close=st.booleans())
    def speak(self, data: st.DataObject, close: bool) -> None:
        agent = data.draw(st.sampled_from(sorted(self.agents)).map(self.agents.__getitem__))
        if close:
            self.cluster.close(agent)
        else:
            self.cluster.send(Heartbeat(agent.name, agent.session))

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), code=st.sampled_from(("HOSTD_AWAY", "HOSTD_AWAY", "JOURNAL_FAILED", "")))
    def say_journal(self, data: st.DataObject, code: str) -> None:
        agent = data.draw(st.sampled_from(sorted(self.agents)).map(self.agents.__getitem__))
        before = agent.session
        self.cluster.say_journal(agent, JournalStatus(code, "it says so"))
        node = self.cluster.state.nodes.get(agent.name)
        if code == "HOSTD_AWAY" and node is not None and node.session is not None:
            assert node.judgement is not None
            assert node.session.id != before or node.judgement.stage == "heard"

    @rule(seconds=st.sampled_from((1, 8, 15, 70)))
    def wait(self, seconds: float) -> None:
        self.cluster.wait(seconds)
        state, now = self.cluster.state, self.cluster.now
        for node in state.nodes.values():
            assert node.judgement is not None
            presence = presence_of(state, node, now)
            assert node.judgement.presence is presence
            heard = presence is Presence.HEARD
            assert node.judgement.fresh == (heard and is_fresh(state, node, now))

    # --- people ---

    @rule(
        vm=vms,
        count=st.integers(1, 2),
        pin=st.sampled_from(("", "", "pve01")),
        key=st.booleans(),
        allow=st.sampled_from(((), ("acs-override",))),
    )
    def place(self, vm: str, count: int, pin: str, key: bool, allow: tuple[str, ...]) -> None:
        request = ask_for(vm, f"nic={count}", node=pin, request_id="r" if key else "", allow=allow)
        self.ask("place", lambda t: PlaceRequested(ticket=t, request=request, actor="ann"))

    @rule(vm=vms)
    def release(self, vm: str) -> None:
        self.ask("release", lambda t: ReleaseRequested(ticket=t, vm=vm, actor="ann"))

    @rule(name=names)
    def cordon(self, name: str) -> None:
        ticket = self.ask(
            "cordon", lambda t: CordonRequested(ticket=t, node=name, actor="ann", reason="r")
        )
        if isinstance(self.cluster.replies.get(ticket), NodeView):
            self.cordoned.add(name)

    @rule(name=names)
    def uncordon(self, name: str) -> None:
        self.cordoned.discard(name)
        self.ask("uncordon", lambda t: UncordonRequested(ticket=t, node=name, actor="ann"))

    @rule(name=names, force=st.booleans())
    def accept(self, name: str, force: bool) -> None:
        event = BaselineAcceptRequested(
            ticket=0, node=name, actor="ann", force=force, reason="chaos" if force else ""
        )
        self.ask("accept", lambda t: replace(event, ticket=t))

    @rule(value=st.sampled_from(("auto", "person")))
    def set_policy(self, value: str) -> None:
        changes = (("baseline", value),)
        self.ask("policy", lambda t: PolicySetRequested(ticket=t, changes=changes, actor="root"))

    @rule(name=names, until=st.sampled_from(("1h", "2d")))
    def accept_risk(self, name: str, until: str) -> None:
        self.ask("risk", lambda t: risk_request(t, name, until=until))

    @rule(name=names)
    def revoke_risk(self, name: str) -> None:
        event = RiskRevokeRequested(ticket=0, node=name, code="ACS_OVERRIDE", id="", actor="bob")
        self.ask("risk", lambda t: replace(event, ticket=t))

    @rule(hours=st.sampled_from((0.5, 3, 30, -2)))
    def move_wall_clock(self, hours: float) -> None:
        self.cluster.ahead += timedelta(hours=hours)

    # --- the store ---

    @rule()
    def hold(self) -> None:
        self.cluster.held = True

    @precondition(lambda self: self.cluster.queue)
    @rule()
    def commit_one(self) -> None:
        self.cluster.commit_one()

    @precondition(lambda self: self.cluster.queue)
    @rule(landed=st.booleans())
    def lose_answer(self, landed: bool) -> None:
        self.cluster.lose_answer(landed=landed)

    @rule()
    def settle(self) -> None:
        self.cluster.held = False
        self.cluster.settle_store()

    @rule()
    def restart(self) -> None:
        self.cluster.restart()
        self.tickets.clear()
        if self.cluster.held:
            self.cordoned.clear()

    # --- what must hold ---

    @invariant()
    def the_store_has_no_double_booking(self) -> None:
        claims = {
            (claim.vm, claim.generation): claim
            for item in self.cluster.store.range(keys.CLAIMS)
            for claim in (decode(Claim, item.value),)
        }
        owners = {
            (unit.node, unit.identity): (unit.vm, unit.generation)
            for item in self.cluster.store.range(keys.UNITS)
            for unit in (decode(UnitRecord, item.value),)
        }
        expected = {(claim.node, key): name for name, claim in claims.items() for key in claim.keys}
        assert owners == expected
        assert sum(len(claim.keys) for claim in claims.values()) == len(owners)

    @invariant()
    def every_claim_on_a_risk_was_permitted_when_it_landed(self) -> None:
        # The log is written in the order of commits, in the same transactions.
        rows, _ = report.list_events(self.cluster.state)
        live: dict[str, bool] = {}
        for row in rows:
            if row.code in ("RISK_ACCEPTED", "RISK_EXPIRED", "RISK_REVOKED"):
                live[row.subject.removeprefix("node:")] = row.code == "RISK_ACCEPTED"
            elif row.code == "VM_PLACED":
                vm = row.subject.removeprefix("vm:")
                generation = int(row.text.partition("(generation ")[2].partition(",")[0])
                claim = self.cluster.state.claims.get((vm, generation))
                if claim is not None and claim.claim.risks:
                    assert live.get(claim.claim.node), row

    @invariant()
    def the_store_has_whole_histories(self) -> None:
        """At every commit, whatever waits: a process that starts now reads one history a node."""
        rows = [
            decode(BaselineRecord, item.value) for item in self.cluster.store.range(keys.BASELINES)
        ]
        wanted = {
            keys.chunk_key(row.node, row.digest, number)
            for row in rows
            for number in range(row.chunks)
        }
        assert wanted == {item.key for item in self.cluster.store.range(keys.CHUNKS)}
        for row in rows:
            if row.policy:
                assert (row.accepted_by, row.reason) == ("auto:POLICY", "")
        if not self.cluster.queue:
            shown = {name: node.baselines for name, node in self.cluster.state.nodes.items()}
            kept = {(name, b.record.number): b.record for name, bs in shown.items() for b in bs}
            assert kept == {(row.node, row.number): row for row in rows}

    @invariant()
    def nobody_elses_cordon_is_lifted(self) -> None:
        for name in self.cordoned:
            admin = self.cluster.state.nodes[name].admin
            if admin is not None and not self.cluster.held:
                assert any(c.owner == "user:ann" for c in admin.cordons)

    @invariant()
    def tokens_grow_and_replies_tell_the_truth(self) -> None:
        for ticket, kind in sorted(self.tickets.items()):
            answer = self.cluster.replies.get(ticket)
            if answer is None:
                assert self.cluster.state.pending or kind in ("cordon", "uncordon", "risk")
                continue
            del self.tickets[ticket]
            if isinstance(answer, Decision) and isinstance(answer.placement, Placement):
                # Answers may come in another order than decisions; on each unit fences grow.
                found = answer.placement
                for unit in found.units:
                    last = self.tokens.get((found.node, unit.unit), 0)
                    assert found.token >= last
                    self.tokens[(found.node, unit.unit)] = found.token
            elif isinstance(answer, Decision) and answer.refusal is not None:
                refusal = answer.refusal
                assert sum(s.nodes for s in refusal.stages) == refusal.nodes_total

    @invariant()
    def the_screen_adds_up(self) -> None:
        shown = report.status(self.cluster.state, self.cluster.now)
        for row in shown.units:
            parts = row.free + row.claimed + row.foreign + row.unfit + row.unknown
            assert parts == row.total
        for node in shown.nodes:
            if node.state in ("lost", "revalidating"):
                assert node.units_free == 0
            if node.state == "ready":
                assert node.verdict is not None
        assert sum(n.units_total for n in shown.nodes) == sum(r.total for r in shown.units)


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=120, stateful_step_count=40)
