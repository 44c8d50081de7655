"""The mirror: what a watcher put together from changes is what a fresh look at the state shows.

Hypothesis drives the real reducer through everything that can happen (`state.test_chaos`); after
each step a watcher that reads at once, one that reads now and then, and one over the wire's own
bytes hold the same rows as the reports, and the events of the log, each once.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis.stateful import invariant, rule

from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.test_chaos import Chaos
from vfio_cli.live import Live
from vfio_contract.codec import from_message, to_message
from vfio_contract.findings import Verdict
from vfio_contract.views import ClusterChange, ClusterStatus, NodeView, WatchCursor
from vfio_coordinator.mirror import Mirror, events_after
from vfio_coordinator.state import report
from vfio_coordinator.state.events import CordonRequested, Heartbeat, PlaceRequested

COORDINATOR = "co1"


class Reader:
    """A command that watches."""

    def __init__(self) -> None:
        self.live = Live()
        self.cursor: WatchCursor | None = None
        self.events: list[int] = []

    def read(self, mirror: Mirror, *, limit: int = 500) -> None:
        while True:
            change = mirror.feed.since(self.cursor, limit=limit)
            received = type(to_message(change)).FromString(to_message(change).SerializeToString())
            change = from_message(ClusterChange, received)
            self.cursor = change.cursor
            self.live.take(change, now_s=0.0)
            self.events += [event.seq for event in change.events]
            if change.current:
                return

    def status(self) -> ClusterStatus:
        status = self.live.status(now_s=0.0)
        assert status is not None
        return ageless(status)


def ageless(status: ClusterStatus) -> ClusterStatus:
    """Ages go on by themselves, and so does the clock."""
    nodes = tuple(replace(n, heard_age_s=0.0, evidence_age_s=0.0) for n in status.nodes)
    return replace(status, at="", nodes=nodes)


class Watched(Chaos):
    """Chaos with watchers, over restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.quick, self.lazy = Reader(), Reader()
        self.mirror = Mirror(self.cluster.state)
        self.look()
        self.quick.read(self.mirror)
        self.before = self.cluster.state.next_seq - 1

    def look(self) -> None:
        state, now = self.cluster.state, self.cluster.now
        if self.mirror.feed.newest.epoch != state.epoch:
            self.mirror = Mirror(state)
        self.mirror.update(state, now)
        if self.mirror.summary_is_old(state):
            self.mirror.update_summary(state, now, coordinator=COORDINATOR)

    @rule()
    def read_now_and_then(self) -> None:
        self.look()
        self.lazy.read(self.mirror, limit=2)
        assert self.lazy.status() == self.quick.status()

    @invariant()
    def a_watcher_sees_what_is_there(self) -> None:
        self.look()
        self.quick.read(self.mirror)
        state, now = self.cluster.state, self.cluster.now
        assert self.quick.status() == ageless(report.status(state, now, coordinator=COORDINATOR))
        assert self.quick.live.vms() == report.vm_views(state, now)
        assert self.quick.events == sorted(set(self.quick.events))
        told = set(self.quick.events)
        landed = {event.seq for event in events_after(state, self.before)}
        assert landed <= told, "an event was passed over"


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=60, stateful_step_count=30)


def two_nodes() -> tuple[Cluster, Agent, Mirror]:
    """Two nodes, of which the first is also given."""
    cluster = Cluster()
    agents = [Agent(name, snapshot(*cards(2)), uuid=name) for name in ("pve01", "pve02")]
    for agent in agents:
        cluster.hello(agent)
        cluster.inventory(agent)
        cluster.observe(agent)
    agent = agents[0]
    mirror = Mirror(cluster.state)
    mirror.update(cluster.state, cluster.now)
    return cluster, agent, mirror


def test_a_heartbeat_changes_nothing() -> None:
    cluster, agent, mirror = two_nodes()
    before = mirror.feed.newest
    cluster.wait(3)
    cluster.send(Heartbeat(agent.name, agent.session))
    mirror.update(cluster.state, cluster.now)
    assert mirror.feed.newest == before


def test_evidence_that_says_the_same_again_is_no_row() -> None:
    cluster, agent, mirror = two_nodes()
    before = mirror.feed.newest.seq
    cluster.wait(3)
    cluster.observe(agent)
    mirror.update(cluster.state, cluster.now)
    assert mirror.feed.newest.seq == before


def test_a_claim_changes_its_node_and_itself() -> None:
    cluster, _, mirror = two_nodes()
    before = mirror.feed.newest
    request = ask_for("vm1", "nic=1")
    cluster.ask_later(lambda t: PlaceRequested(ticket=t, request=request, actor="ann"))
    mirror.update(cluster.state, cluster.now)
    change = mirror.feed.since(before)
    assert [(n.name, n.vms, n.units_free) for n in change.nodes] == [("pve01", ("vm1",), 1)]
    assert [vm.name for vm in change.vms] == ["vm1"]
    assert "VM_PLACED" in {event.code for event in change.events}


def test_an_event_waits_for_the_one_before_it() -> None:
    """Whoever has read the later number would never ask for the earlier one again."""
    cluster, _, mirror = two_nodes()
    told = mirror.feed.newest.event_seq
    cluster.held = True
    cluster.ask_later(
        lambda t: CordonRequested(ticket=t, node="pve01", actor="ann", reason="new cooler")
    )
    cluster.ask_later(
        lambda t: CordonRequested(ticket=t, node="pve02", actor="ann", reason="new cooler")
    )
    assert len(cluster.queue) == 2
    cluster.queue.reverse()
    cluster.commit_one()
    assert len(cluster.state.log) > told, "the later one landed"
    mirror.update(cluster.state, cluster.now)
    assert mirror.feed.newest.event_seq == told
    cluster.commit_one()
    mirror.update(cluster.state, cluster.now)
    change = mirror.feed.since(WatchCursor(0, 0, 0, told))
    assert [event.subject for event in change.events] == ["node:pve01", "node:pve02"]


def test_a_node_that_fell_silent_gets_older_on_the_screen() -> None:
    cluster, agent, _ = two_nodes()
    cluster.close(agent)
    cluster.wait(300)
    mirror = Mirror(cluster.state)
    mirror.update(cluster.state, cluster.now)
    live = Live()
    live.take(mirror.feed.since(None), now_s=100.0)
    first, later = live.nodes(now_s=100.0)[0], live.nodes(now_s=107.0)[0]
    assert isinstance(first, NodeView)
    assert (first.state, later.heard_age_s - first.heard_age_s) == ("lost", 7.0)


def test_nodes_come_in_the_order_of_the_list_whoever_reads_it() -> None:
    cluster, _, _ = two_nodes()
    worse = Agent("pve09", snapshot(*cards(2)), uuid="pve09")
    worse.replaced = {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "NOT_BOUND")}
    cluster.join(worse)
    mirror = Mirror(cluster.state)
    mirror.update(cluster.state, cluster.now)
    live = Live()
    live.take(mirror.feed.since(None), now_s=0.0)
    names = [node.name for node in live.nodes(now_s=0.0)]
    assert names == [node.name for node in report.node_views(cluster.state, cluster.now)]
    assert names == ["pve09", "pve01", "pve02"]
