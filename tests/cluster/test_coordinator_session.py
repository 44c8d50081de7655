"""Agents' sessions over real gRPC and TLS: who is let in, what is believed, what silence means."""

from __future__ import annotations

import gc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.cluster.agents import Agent, Cluster, nic_host
from tests.cluster.users import Refused, is_unheard, stage_of, want
from tests.fakes.snapshots import nic
from vfio_agent.checks import checks_version, judge
from vfio_agent.session.outbox import Packer, seconds_up
from vfio_agent.session.telling import Telling
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_coordinator.api import session
from vfio_coordinator.bootstrap import LIMITS
from vfio_coordinator.peer import Role
from vfio_coordinator.state.events import Heartbeat, InventoryReceived, ObservationReceived
from vfioctl.v1 import session_pb2

NODE = "pve01"


# --- the good way --------------------------------------------------------------------------------


async def test_a_node_is_ready_once_it_was_seen_and_judged(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.agent(NODE)
        welcome = await agent.greet()
        assert not welcome.inventory_held
        assert (welcome.protocol, welcome.incarnation, welcome.epoch) == (1, 1, 1)
        assert welcome.heartbeat_interval_ms * 3 < LIMITS.lost_after_s * 1000
        assert welcome.observation_interval_ms * 3 < LIMITS.evidence_max_age_s * 1000
        assert welcome.cluster_id == (await admin.status()).cluster
        before = await admin.node(NODE)
        assert (before.state, before.verdict) == ("revalidating", Verdict.UNKNOWN)
        await agent.tell()
        ready = await admin.until_state(NODE, "ready")
        assert ready.verdict is Verdict.PASS
        assert (ready.units_free, ready.units_total) == (1, 1)
        assert (ready.agent, ready.boot_id) == ("0.1.0", nic_host().readings.boot_id)


async def test_facts_that_are_held_are_not_sent_again(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        agent.stream.cancel()
        await admin.until(NODE, is_unheard)
        assert (await agent.greet()).inventory_held
        assert (await admin.node(NODE)).state == "revalidating"
        await agent.observe()
        assert (await admin.until_state(NODE, "ready")).verdict is Verdict.PASS


async def test_facts_that_are_not_held_are_asked_for(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        agent.snapshot = nic_host(memory_total_bytes=1 << 30)
        await agent.stream.say(observation=agent.observation())
        wanted = await agent.stream.hear_one("inventory_wanted")
        assert wanted.digest == agent.digest
        await agent.stream.say(inventory=agent.inventory())
        assert (await agent.stream.hear_one("acknowledged")).sequence == agent.sequence
        await (await cluster.admin()).until_state(NODE, "ready")


async def test_what_was_read_is_let_go_of(state: Path) -> None:
    """A stream that waits for its agent's next word holds nothing of the last one."""
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE)
        await admin.until_state(NODE, "ready")
        gc.collect()
        read = (InventoryReceived, ObservationReceived)
        assert not [held for held in gc.get_objects() if isinstance(held, read)]


async def test_a_body_of_a_newer_version_is_passed_over(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        newer = session_pb2.SessionRequest.FromString(b"\xfa\x01\x03new")  # field 31
        assert newer.WhichOneof("body") is None
        await agent.stream.call.write(newer)
        await agent.observe()


async def test_an_observation_in_parts_and_what_does_not_fit_onto_it(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.agent(NODE)
        welcome = await agent.greet()
        assert welcome.takes_parts
        await agent.stream.say(inventory=agent.inventory())
        telling = Telling(in_parts=True)
        digests = []
        for uptime in (1.0, 2.0):
            readings = replace(agent.snapshot.readings, uptime_seconds=uptime)
            snapshot = replace(agent.snapshot, readings=readings)
            findings = judge(Host(snapshot)).findings
            observed = Packer().pack(
                snapshot, findings, checks_version=checks_version(), at_s=seconds_up()
            )
            message = telling.say(observed)
            digests.append(message.base_digest)
            await agent.stream.say(observation=message)
            telling.hold((await agent.stream.hear_one("acknowledged")).sequence)
        assert [bool(digest) for digest in digests] == [False, True]
        await (await cluster.admin()).until_state(NODE, "ready")
        held = cluster.serving.runtime.state.nodes[NODE].observation
        assert held is not None
        assert held.parts is not None
        assert held.parts.lines() == observed.lines()
        stale = telling.say(observed)
        stale.base_digest = digests[1].replace("sha256:", "sha256:0")[:71]
        await agent.stream.say(observation=stale)
        await agent.stream.hear_one("whole_wanted")
        assert cluster.serving.runtime.state.nodes[NODE].observation is held
        telling.forget()
        await agent.stream.say(observation=telling.say(observed))
        assert (await agent.stream.hear_one("acknowledged")).sequence == 4


# --- who is let in -------------------------------------------------------------------------------


@pytest.mark.parametrize(("lowest", "highest"), [(2, 3), (0, 0)])
async def test_an_agent_without_a_common_protocol_reads_both_ranges(
    state: Path, lowest: int, highest: int
) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.agent(NODE)
        refused = await agent.refusal(protocol_min=lowest, protocol_max=highest)
        assert refused.code == "PROTOCOL_UNSUPPORTED"
        assert refused.status is grpc.StatusCode.FAILED_PRECONDITION
        assert f"protocol {lowest} to {highest}, this coordinator 1 to 1" in refused.message
        assert (await (await cluster.admin()).status()).nodes == ()


async def test_an_agent_that_also_speaks_newer_protocols_is_answered_in_ours(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.agent(NODE)
        assert (await agent.greet(protocol_min=1, protocol_max=7)).protocol == 1


async def test_a_node_cannot_speak_for_another(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.agent("pve02")
        refused = await agent.refusal(node=NODE)
        assert (refused.code, refused.status) == (
            "NODE_MISMATCH",
            grpc.StatusCode.PERMISSION_DENIED,
        )
        assert "'pve01'" in refused.message
        assert "'pve02'" in refused.message
        assert (await (await cluster.admin()).status()).nodes == ()


async def test_a_user_is_no_node_whatever_the_role(state: Path) -> None:
    async with Cluster(state) as cluster:
        channel = await cluster.channel(cluster.user_bundle(NODE, Role.ADMIN))
        refused = await Agent(NODE, channel, nic_host()).refusal()
        assert refused.code == "PERMISSION_DENIED"
        assert "user:pve01 is no node" in refused.message


async def test_an_expired_certificate_ends_a_stream_that_it_opened(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        cluster.clock.go_on(timedelta(days=91))
        await agent.stream.say(observation=agent.observation())
        refused = await agent.stream.end()
        assert refused.code == "UNAUTHENTICATED"
        assert "expired" in refused.message
        await (await cluster.admin()).until_state(NODE, "lost")


async def test_a_newer_session_of_the_same_machine_takes_over(state: Path) -> None:
    async with Cluster(state) as cluster:
        old, new = await cluster.join(NODE), await cluster.agent(NODE)
        await new.greet()
        refused = await old.stream.end()
        assert (refused.code, refused.status) == ("SESSION_REPLACED", grpc.StatusCode.ABORTED)
        await new.observe()
        await (await cluster.admin()).until_state(NODE, "ready")


async def test_a_second_machine_under_one_name_is_refused_and_told_of(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, first = await cluster.admin(), await cluster.join(NODE)
        second = await cluster.agent(NODE, number=2)
        for _ in range(2):
            refused = await second.refusal()
            assert (refused.code, refused.status) == (
                "NODE_CLONED",
                grpc.StatusCode.ALREADY_EXISTS,
            )
        await first.observe()
        assert (await admin.node(NODE)).state == "ready"
        assert "NODE_CLONED" in {item.code for item in (await admin.status()).items}
        told = await admin.until_event("NODE_CLONED")
        assert len(told) == 1, "once per machine, however often it tries"


async def test_an_agent_that_obeyed_a_newer_coordinator_stops_placements(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        refused = await agent.refusal(highest_epoch=9)
        assert refused.code == "STORE_REWOUND"
        with pytest.raises(Refused) as caught:
            await admin.place(want("vm1"))
        assert caught.value.code == "STORE_REWOUND"
        assert "epoch 9" in caught.value.message


# --- silence -------------------------------------------------------------------------------------


async def test_silence_is_unknown_then_lost_and_never_healthy(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        assert (await admin.place(want("vm1"))).placement is not None
        cluster.advance(LIMITS.lost_after_s + 1)
        silent = await admin.node(NODE)
        assert is_unheard(silent)
        assert silent.verdict is Verdict.UNKNOWN
        cluster.advance(LIMITS.reconnect_window_s)
        lost = await admin.node(NODE)
        assert (lost.state, lost.verdict) == ("lost", Verdict.UNKNOWN)
        assert lost.heard_age_s == LIMITS.lost_after_s + 1 + LIMITS.reconnect_window_s
        status = await admin.status()
        assert status.health == "HEALTH_ERR"
        assert (status.vms[0].state, status.vms[0].at_risk != "") == ("unknown", True)
        assert stage_of((await admin.place(want("vm2"))).refusal) == "heard"
        assert (await admin.until_event("NODE_LOST"))[0].subject == f"node:{NODE}"
        await agent.beat()
        assert (await admin.until_state(NODE, "ready")).verdict is Verdict.PASS


async def test_old_evidence_vouches_for_nothing_though_the_agent_lives(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        cluster.clock.at_s += LIMITS.evidence_max_age_s + 1
        await agent.beat()
        stale = await admin.until_state(NODE, "revalidating")
        assert stale.verdict is Verdict.UNKNOWN
        assert (await admin.place(want("vm1"))).placement is None
        await agent.observe()
        await admin.until_state(NODE, "ready")


@pytest.mark.parametrize("how", ["cancel", "half-close", "channel"])
async def test_however_a_stream_ends_the_node_is_not_heard_any_more(state: Path, how: str) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        if how == "cancel":
            agent.stream.cancel()
        elif how == "half-close":
            await agent.stream.call.done_writing()
            with pytest.raises(EOFError):
                await agent.stream.hear()
        else:
            await agent.channel.close()
        view = await admin.until(NODE, is_unheard)
        assert view.verdict is Verdict.UNKNOWN
        assert stage_of((await admin.place(want("vm1"))).refusal) == "heard"


async def test_a_late_message_of_an_old_session_changes_nothing(state: Path) -> None:
    async with Cluster(state) as cluster:
        old, new = await cluster.join(NODE), await cluster.agent(NODE)
        runtime = cluster.serving.runtime
        session = runtime.state.nodes[NODE].session
        assert session is not None
        await new.greet()
        await old.stream.end()
        await new.observe()
        cluster.clock.at_s += 1
        before = runtime.state
        runtime.receive(Heartbeat(NODE, session.id))
        assert runtime.state is before


async def test_a_changed_host_counts_from_its_own_facts_on(state: Path) -> None:
    """Findings about other facts than those held are not mixed with them."""
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        first = agent.snapshot
        functions = first.facts.functions or ()
        more = replace(
            first.facts, functions=(*functions, nic("0000:02:00.0", group=3, driver="igb"))
        )
        agent.snapshot = replace(first, facts=more)
        await agent.stream.say(observation=agent.observation())
        await agent.stream.hear_one("inventory_wanted")
        assert (await admin.place(want("vm1"))).placement is None


async def test_a_stream_that_says_nothing_is_ended(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HELLO_TIMEOUT_S", 0.05)
    async with Cluster(state) as cluster:
        agent = await cluster.agent(NODE)
        refused = await agent.open().end()
        assert refused.code == "BAD_REQUEST"
        assert "no Hello within" in refused.message
        assert (await (await cluster.admin()).status()).nodes == ()
        monkeypatch.undo()
        await agent.greet()


async def test_copies_of_one_machine_do_not_swap_the_session_for_ever(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, first = await cluster.admin(), await cluster.join(NODE)
        # the same disk and board once more: only the boot differs
        second = await cluster.agent(NODE, nic_host(boot_id="boot-of-the-copy"))
        await second.join()
        assert (await first.stream.end()).code == "SESSION_REPLACED"
        for _ in range(2):
            assert (await first.refusal()).code == "NODE_CLONED"
        await second.observe()
        assert len(await admin.until_event("NODE_CLONED")) == 1
        assert "NODE_CLONED" in {item.code for item in (await admin.status()).items}
        second.stream.cancel()
        await admin.until(NODE, is_unheard)
        await first.greet()
