"""Any order of events: no unit of a machine is ever held under two of its names.

Hypothesis drives the real reducer over a real store. There are two machines; a name belongs to one
of them for good, as a certificate and a UUID that is known make it, and two do to one of them. A
machine reboots with all the agents on it; agents come, fall silent and end on their own; commits
are held back, lost or interrupted by a restart. What is true is kept beside: which name is on which
machine.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fakes.snapshots import make_snapshot
from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import cards
from vfio_contract.artifact import decode
from vfio_coordinator.state import keys
from vfio_coordinator.state.events import Heartbeat, PlaceRequested, ReleaseRequested
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.records import UnitRecord

MACHINES = {"alpha": ("a1", "a2"), "beta": ("b1",)}
MACHINE_OF = {name: machine for machine, names in MACHINES.items() for name in names}

names = st.sampled_from(sorted(MACHINE_OF))
machines = st.sampled_from(sorted(MACHINES))
vms = st.sampled_from(("vm1", "vm2", "vm3"))


class Names(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        limits = Limits(lost_after_s=10, reconnect_window_s=20, evidence_max_age_s=60)
        self.cluster = Cluster(limits=limits)
        self.boots = dict.fromkeys(MACHINES, 0)
        self.agents: dict[str, Agent] = {}
        self.copies = False

    @initialize(copies=st.booleans())
    def begin(self, copies: bool) -> None:
        """Whether both machines have one UUID."""
        self.copies = copies

    @rule(
        name=names,
        vm=st.sampled_from(("", "vm1", "vm2", "vm3")),
        after=st.sampled_from(("nothing", "silence", "reboot")),
    )
    def come(self, name: str, vm: str, after: str) -> None:
        """A name comes, maybe after a long silence or its machine's reboot; it may be asked for."""
        if after == "silence":
            self.cluster.wait(70)
        elif after == "reboot":
            self.reboot(MACHINE_OF[name], told=False)
        self.join(name)
        if vm:
            self.place(vm, name)

    def join(self, name: str) -> None:
        machine = MACHINE_OF[name]
        seen = make_snapshot(*cards(2), boot_id=f"{machine}-{self.boots[machine]}")
        uuid = "copied" if self.copies else machine
        agent = self.agents.setdefault(name, Agent(name, seen, uuid=uuid))
        agent.snapshot = seen
        self.cluster.join(agent)

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), close=st.sampled_from((False, False, True)))
    def speak(self, data: st.DataObject, close: bool) -> None:
        agent = data.draw(st.sampled_from(sorted(self.agents)).map(self.agents.__getitem__))
        if close:
            self.cluster.close(agent)
        else:
            self.cluster.send(Heartbeat(agent.name, agent.session))
            self.cluster.observe(agent)

    @rule(machine=machines)
    def go_down(self, machine: str) -> None:
        self.reboot(machine, told=True)

    def reboot(self, machine: str, told: bool) -> None:
        """Nobody on it says another word. `told` is whether its streams are seen to end."""
        self.boots[machine] += 1
        for name in MACHINES[machine]:
            agent = self.agents.pop(name, None)
            if agent is not None and told:
                self.cluster.close(agent)

    @rule(seconds=st.sampled_from((1, 11, 70)))
    def wait(self, seconds: float) -> None:
        self.cluster.wait(seconds)

    @rule(vm=vms, name=names)
    def place(self, vm: str, name: str) -> None:
        """Once its agent has looked anew, if it lives; nobody says that it may."""
        if name in self.agents:
            self.cluster.send(Heartbeat(name, self.agents[name].session))
            self.cluster.observe(self.agents[name])
        request = ask_for(vm, "nic=2", node=name)
        self.cluster.ask_later(lambda t: PlaceRequested(ticket=t, request=request, actor="ann"))

    @rule(vm=vms)
    def release(self, vm: str) -> None:
        self.cluster.ask_later(lambda t: ReleaseRequested(ticket=t, vm=vm, actor="ann"))

    @rule(way=st.sampled_from(("hold", "one", "landed", "lost", "settle", "settle")))
    def write(self, way: str) -> None:
        """Commits are held back from now on, or what waits is written, or its answer is lost."""
        if way == "settle":
            self.cluster.held = False
            self.cluster.settle_store()
        elif way == "hold" or not self.cluster.queue:
            self.cluster.held = way == "hold"
        elif way == "one":
            self.cluster.commit_one()
        else:
            self.cluster.lose_answer(landed=way == "landed")

    @rule()
    def restart(self) -> None:
        self.cluster.restart()

    @invariant()
    def no_unit_is_held_twice(self) -> None:
        stored = [decode(UnitRecord, i.value) for i in self.cluster.store.range(keys.UNITS)]
        for rows in (
            [(u.node, u.identity) for u in stored],
            [(n.name, key) for n in self.cluster.state.nodes.values() for key in n.held],
        ):
            found: dict[tuple[str, str], str] = {}
            for name, key in rows:
                other = found.setdefault((MACHINE_OF[name], key), name)
                assert other == name, f"{key} is held under {other} and {name}"


TestNames = Names.TestCase
TestNames.settings = settings(max_examples=40, stateful_step_count=25)
