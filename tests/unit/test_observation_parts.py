"""Observations in parts: both ends are equal after any sequence, nothing is ever half believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.observation_ends import (
    KEYS,
    NODE,
    VERDICTS,
    Ends,
    look,
    looks,
    pack_look,
    tampered,
)
from tests.unit.scheduler.findings import Replaced, make
from vfio_agent.session.outbox import Observed
from vfio_agent.session.telling import Telling
from vfio_contract.artifact import ArtifactError, compress, encode
from vfio_contract.findings import Evidence, Finding, Verdict
from vfio_contract.model import Snapshot
from vfio_contract.parts import (
    digest_each,
    digest_whole,
    keep,
    lines_of,
    pack_lines,
    read_findings,
    read_lines,
)
from vfio_coordinator.api.observations import DECISIVE, SHARED_BYTES, read_shared
from vfio_coordinator.state.effects import Acknowledge
from vfioctl.v1.session_pb2 import Observation


class Conversations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ends = Ends()

    @rule(seen=looks(), checks=st.sampled_from(["c1", "c1", "c1", "c2"]))
    def looks(self, seen: tuple[Snapshot, tuple[Finding, ...]], checks: str) -> None:
        self.ends.say(pack_look(*seen, checks=checks))

    @precondition(lambda self: self.ends.to_cluster)
    @rule()
    def delivers(self) -> None:
        message = self.ends.to_cluster.popleft()
        assert self.ends.deliver(message) != "refused"

    @precondition(lambda self: self.ends.to_cluster)
    @rule(how=st.sampled_from(["base", "digest", "line", "foreign"]))
    def is_tampered_with(self, how: str) -> None:
        message = self.ends.to_cluster.popleft()
        assert self.ends.deliver(tampered(message, how)) in ("wanted", "refused")

    @precondition(lambda self: self.ends.to_cluster)
    @rule()
    def arrives_twice(self) -> None:
        message = self.ends.to_cluster.popleft()
        self.ends.deliver(message)
        before = self.ends.cluster.state.nodes[NODE].observation
        self.ends.deliver(message)
        assert self.ends.cluster.state.nodes[NODE].observation == before

    @precondition(lambda self: len(self.ends.to_cluster) > 1)
    @rule()
    def skips_one_nobody_read(self) -> None:
        """A newer observation takes the place of one that waits to be read."""
        self.ends.to_cluster.popleft()

    @precondition(lambda self: self.ends.to_agent)
    @rule()
    def hears(self) -> None:
        self.ends.hear()

    @precondition(lambda self: self.ends.to_agent)
    @rule()
    def loses_an_acknowledgement(self) -> None:
        if isinstance(self.ends.to_agent[0], Acknowledge):
            self.ends.to_agent.popleft()

    @rule()
    def reconnects(self) -> None:
        self.ends.begin()

    @rule()
    def comes_to_rest(self) -> None:
        """What the agent saw last is what the cluster holds, as soon as all has arrived."""
        ends = self.ends
        while ends.to_cluster or ends.to_agent:
            if ends.to_cluster:
                assert ends.deliver(ends.to_cluster.popleft()) != "refused"
            if ends.to_agent:
                ends.hear()
            ends.check()
        held = ends.cluster.state.nodes[NODE].observation
        if ends.latest is not None:
            assert held is not None
            assert ends.said[held.sequence] is ends.latest

    @invariant()
    def both_ends_are_equal(self) -> None:
        self.ends.check()


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


# --- one by one ----------------------------------------------------------------------------------


def joined() -> Ends:
    ends = Ends()
    ends.say(pack_look(*look()))
    assert ends.deliver(ends.to_cluster.popleft()) == "whole"
    ends.hear()
    return ends


def then(ends: Ends, observed: Observed) -> tuple[Observation, str]:
    ends.say(observed)
    message = ends.to_cluster.popleft()
    taken = ends.deliver(message)
    ends.check()
    ends.hear()
    return message, taken


def test_only_what_changed_is_said() -> None:
    ends = joined()
    message, taken = then(ends, pack_look(*look(uptime=2.0)))
    assert taken == "changed"
    assert message.base_digest
    assert list(read_lines(message.parts_zlib)) == ["readings/uptime_seconds"]
    message, taken = then(ends, pack_look(*look(uptime=2.0)))
    assert (taken, read_lines(message.parts_zlib)) == ("changed", {})


@pytest.mark.parametrize(
    "seen",
    [
        look(held=True),
        look(replaced={("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, "RESET_FAILED")}),
    ],
)
def test_what_decides_about_a_unit_is_judged_at_once(
    seen: tuple[Snapshot, tuple[Finding, ...]],
) -> None:
    ends = joined()
    node = ends.cluster.state.nodes[NODE]
    before = {s.layout.primary for s in node.standings if not s.refusing and s.busy is None}
    message, taken = then(ends, pack_look(*seen))
    assert (taken, len(read_lines(message.parts_zlib))) == ("whole", 1)
    node = ends.cluster.state.nodes[NODE]
    after = {s.layout.primary for s in node.standings if not s.refusing and s.busy is None}
    assert before - after == {"0000:01:00.0"}


def test_what_qualify_reads_is_decisive() -> None:
    """Every check, and every field of the readings, that changes how a unit stands."""
    _, findings = look()
    parts = {f"findings/{f.check}" for f in findings}
    assert parts - DECISIVE == {"findings/pressure-of-more"}
    assert {"readings/holders", "readings/names", "readings/ledger"} < DECISIVE


def test_a_history_that_is_not_stored_yet_is_told_again() -> None:
    """The store refused it or had no room in one transaction: a change says nothing of it."""
    ends = joined()
    held = ends.cluster.state.nodes[NODE].observation
    assert held is not None
    nodes = ends.cluster.state.nodes
    node = replace(nodes[NODE], observation=replace(held, merged=False))
    ends.cluster.state = replace(ends.cluster.state, nodes=nodes.set(NODE, node))
    ends.say(pack_look(*look(uptime=2.0)))
    assert ends.deliver(ends.to_cluster.popleft()) == "wanted"
    ends.hear()
    assert ends.deliver(ends.to_cluster.popleft()) == "whole"
    ends.check()


def test_hosts_that_say_the_same_share_it() -> None:
    """Their findings are made once, and what is kept to compare with is what came."""
    held = []
    for uptime in (1.0, 2.0):
        replaced: Replaced = {
            ("iommu-active", "node"): (Verdict.FAIL, "OFF"),
            ("vm-cpu", "vm:100"): (Verdict.WARN, "LINE" + "x" * int(uptime)),
        }
        ends = Ends()
        ends.say(pack_look(*look(uptime=uptime, replaced=replaced)))
        message = ends.to_cluster.popleft()
        assert ends.deliver(message) == "whole"
        ends.check()
        observation = ends.cluster.state.nodes[NODE].observation
        assert observation is not None
        assert observation.parts is not None
        assert observation.parts.first == message.parts_zlib
        held.append({f.check: f for f in observation.findings})
    one, other = held
    assert one["iommu-active"] is other["iommu-active"]
    assert one["vm-cpu"].code != other["vm-cpu"].code


def test_a_long_line_is_read_like_any_other() -> None:
    """It is not kept for other hosts: thousands of its length would be too much."""
    ends = Ends()
    snapshot, findings = look(replaced={("iommu-active", "node"): (Verdict.FAIL, "OFF")})
    long = replace(findings[0], evidence=(Evidence("dmesg", "x" * SHARED_BYTES),))
    before = read_shared.cache_info().currsize
    ends.say(pack_look(snapshot, (long,)))
    assert ends.deliver(ends.to_cluster.popleft()) == "whole"
    ends.check()
    assert read_shared.cache_info().currsize == before


def test_a_coordinator_that_knows_no_parts_gets_all() -> None:
    snapshot, findings = look()
    ends = Ends()
    ends.telling = Telling(in_parts=False)
    for _ in range(2):
        ends.say(pack_look(snapshot, findings))
        message = ends.to_cluster.popleft()
        assert (message.digest, message.base_digest, message.parts_zlib) == ("", "", b"")
        assert message.readings_zlib == compress(encode(snapshot.readings))
        assert ends.deliver(message) == "whole"
        ends.hear()
    held = ends.cluster.state.nodes[NODE].observation
    assert held is not None
    assert held.parts is None
    ends.telling = Telling(in_parts=True)


def test_a_whole_must_be_what_its_digest_says() -> None:
    ends = Ends()
    ends.say(pack_look(*look()))
    assert ends.deliver(tampered(ends.to_cluster.popleft(), "line")) == "refused"
    assert ends.cluster.state.nodes[NODE].observation is None


@pytest.mark.parametrize(
    "line",
    [
        b"readings/uptime_seconds \n",
        b'readings/uptime_seconds "soon"\n',
        b'findings/memory-headroom {"check":"memory-headroom"}\n',
        b"readings/uptime_seconds 3",
        b"nonsense 3\n",
        b"readings/uptime_seconds 3\nreadings/uptime_seconds 4\n",
    ],
)
def test_a_line_that_cannot_be_read_is_refused(line: bytes) -> None:
    """Even if it is what its digest says."""
    ends = joined()
    name = line.partition(b" ")[0].decode()
    lines = {**ends.said[1].lines(), name: line}
    message = Observation(
        sequence=2,
        inventory_digest=ends.said[1].digest,
        checks_version="c1",
        base_digest=digest_whole(digest_each(ends.said[1].lines())),
        digest=digest_whole(digest_each(lines)),
        parts_zlib=pack_lines([line]),
    )
    before = ends.cluster.state.nodes[NODE].observation
    assert ends.deliver(message) in ("refused", "wanted")
    assert ends.cluster.state.nodes[NODE].observation in (before, None)


def test_a_finding_under_another_checks_name_is_refused() -> None:
    (line,) = read_lines(
        pack_lines(
            [b"findings/other " + encode([make("memory-headroom", "node", Verdict.PASS, "OK")])]
        )
    ).items()
    with pytest.raises(ArtifactError, match="holds a finding of"):
        read_findings(dict([line]))


def test_changes_do_not_pile_up() -> None:
    """However often and much it changes, what is kept is not more than twice the whole."""
    snapshot, findings = look()
    lines = lines_of(snapshot.readings, findings)
    parts = keep(pack_lines(lines.values()), lines)
    whole = len(parts.first)
    for number in range(50):
        seen, rows = look(
            uptime=float(number),
            replaced={key: (VERDICTS[number % 5], f"CODE_{number}") for key in KEYS[:4]},
        )
        lines = lines_of(seen.readings, rows)
        if tuple(lines) != parts.names:
            parts = keep(pack_lines(lines.values()), lines)
            continue
        before = digest_each(parts.lines())
        after = digest_each(lines)
        parts = parts.change({n: lines[n] for n in lines if before[n] != after[n]})
        assert parts.lines() == lines
        assert len(parts.first) + len(parts.later) < 2 * whole
