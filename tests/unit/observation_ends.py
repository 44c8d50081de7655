"""Both ends of one node's observations without a network, and what is on its way between them.

The agent's own words go through the coordinator's own reading into the reducer. A new session drops
what is on its way. Nothing here may decide what either end does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from hypothesis import strategies as st

from tests.fakes.snapshots import behind, bridge, gpu, make_snapshot, nic
from tests.unit.scheduler.findings import Replaced, make, passing
from tests.unit.state.cluster import Agent, Cluster
from vfio_agent.session.outbox import Observed, Packer, seconds_up
from vfio_agent.session.telling import Telling
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Finding, Verdict, summarise
from vfio_contract.host import Host
from vfio_contract.model import Holder, Snapshot
from vfio_contract.parts import (
    digest_each,
    digest_whole,
    pack_lines,
    rank,
    read_findings,
    read_lines,
    read_readings,
)
from vfio_coordinator.api.messages import read_message
from vfio_coordinator.scheduler.qualify import qualify
from vfio_coordinator.state.effects import Acknowledge, Effect, WantInventory, WantWhole
from vfio_coordinator.state.events import ObservationChanged, ObservationReceived
from vfioctl.v1.session_pb2 import Observation, SessionRequest

NODE = "pve01"
HOST = make_snapshot(
    *behind(bridge("0000:00:01.0"), nic("0000:01:00.0", group=2)),
    *behind(bridge("0000:00:03.0", group=5), gpu("0000:03:00.0", group=6)),
    boot_id="boot-1",
)
HOLDER = Holder("/dev/vfio/2", 4711, "qemu", vm="100")
VERDICTS = (Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN, Verdict.NOT_APPLICABLE)
KEYS = (
    ("iommu-active", "node"),
    ("reset-capability", "function:0000:01:00.0"),
    ("memory-headroom", "node"),
    ("host-contention", "node"),
    ("vm-cpu", "vm:100"),
)


def look(
    *, uptime: float = 1.0, held: bool = False, replaced: Replaced | None = None
) -> tuple[Snapshot, tuple[Finding, ...]]:
    readings = replace(
        HOST.readings, uptime_seconds=uptime, holders=(HOLDER,) if held else HOST.readings.holders
    )
    snapshot = replace(HOST, readings=readings)
    findings = passing(Host(snapshot), replaced or {})
    return snapshot, (*findings, make("pressure-of-more", "node", Verdict.PASS, "OK"))


def pack_look(snapshot: Snapshot, findings: tuple[Finding, ...], checks: str = "c1") -> Observed:
    return Packer().pack(snapshot, findings, checks_version=checks, at_s=seconds_up())


@st.composite
def looks(draw: st.DrawFn) -> tuple[Snapshot, tuple[Finding, ...]]:
    replaced = {
        key: draw(st.sampled_from([None, *((v, f"{v}_CODE") for v in VERDICTS)]))
        for key in draw(st.sets(st.sampled_from(KEYS)))
    }
    uptime = draw(st.sampled_from([1.0, 2.0, 3.0]))
    return look(uptime=uptime, held=draw(st.booleans()), replaced=replaced)


class Ends:
    """An agent's session and the coordinator's, and what is on its way between them."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.agent = Agent(NODE, HOST)
        self.said: dict[int, Observed] = {}
        self.findings: dict[str, tuple[Finding, ...]] = {}
        self.to_cluster: deque[Observation] = deque()
        self.to_agent: deque[Effect] = deque()
        self.latest: Observed | None = None
        self.asked = 0
        self.begin()

    def begin(self) -> None:
        self.cluster.hello(self.agent)
        self.cluster.inventory(self.agent)
        self.telling = Telling(in_parts=True)
        self.to_cluster.clear()
        self.to_agent.clear()
        self.said.clear()
        if self.latest is not None:
            self.say(self.latest)

    def say(self, observed: Observed) -> None:
        self.latest = observed
        message = self.telling.say(observed)
        self.said[message.sequence] = observed
        self.to_cluster.append(message)

    def deliver(self, message: Observation) -> str:
        """How it was taken: whole, changed, wanted, or the refusal, which ends the session."""
        node = self.cluster.state.nodes[NODE]
        held = node.observation
        if held is not None and held.session != self.agent.session:
            held = None
        request = SessionRequest(observation=message)
        try:
            heard = read_message(request, NODE, self.agent.session, held)
        except ClusterError as error:
            if error.code is not ErrorCode.BAD_SNAPSHOT:
                raise
            self.begin()
            return "refused"
        if isinstance(heard, WantWhole):
            effects: list[Effect] = [heard]
        else:
            assert isinstance(heard, ObservationReceived | ObservationChanged)
            effects = self.cluster.send(heard)
        assert not any(isinstance(e, WantInventory) for e in effects)
        self.to_agent += [e for e in effects if isinstance(e, Acknowledge | WantWhole)]
        if any(isinstance(e, WantWhole) for e in effects):
            self.asked += 1
            return "wanted"
        return "whole" if isinstance(heard, ObservationReceived) else "changed"

    def hear(self) -> None:
        word = self.to_agent.popleft()
        if isinstance(word, Acknowledge):
            self.telling.hold(word.sequence)
        else:
            self.telling.forget()
            assert self.latest is not None
            self.say(self.latest)

    def check(self) -> None:
        """What the state holds is what the agent saw, whatever way it came."""
        node = self.cluster.state.nodes[NODE]
        held = node.observation
        if held is None or held.session != self.agent.session:
            return
        observed = self.said[held.sequence]
        assert held.parts is not None
        lines = observed.lines()
        assert held.parts.lines() == lines
        assert held.parts.digest == digest_whole(digest_each(lines))
        findings = rank(read_findings(lines))
        assert held.findings == tuple(f for f in findings if f.verdict is not Verdict.PASS)
        assert held.verdict == summarise(NODE, findings).verdict
        assert held.checks_version == observed.checks_version
        readings = read_readings(lines)
        assert node.inventory is not None
        assert node.standings == qualify(
            node.inventory.units, findings, holders=readings.holders, names=dict(readings.names)
        )


def tampered(message: Observation, how: str) -> Observation:
    """The message as it was not said."""
    other = Observation()
    other.CopyFrom(message)
    match how:
        case "base":
            other.base_digest = "sha256:" + "0" * 64
        case "digest":
            other.digest = "sha256:" + "1" * 64
        case "line":
            lines = read_lines(message.parts_zlib) | {
                "readings/memory": b'readings/memory {"available_bytes":1}\n'
            }
            other.parts_zlib = pack_lines(lines.values())
        case "foreign":
            lines = read_lines(message.parts_zlib) | {"findings/new": b"findings/new []\n"}
            other.parts_zlib = pack_lines(lines.values())
    return other
