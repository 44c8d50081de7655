"""Agents' sessions over real gRPC and TLS: who is let in, what is believed, what silence means."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.agents import Agent, Cluster, Refused, nic_host, want
from tests.fakes.snapshots import nic
from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.findings import Verdict
from vfio_contract.views import NodeView, Refusal
from vfio_coordinator.api.messages import MAX_FINDINGS, MAX_UNPACKED_BYTES
from vfio_coordinator.api.server import MAX_MESSAGE_BYTES
from vfio_coordinator.bootstrap import LIMITS
from vfio_coordinator.peer import Role
from vfio_coordinator.state.events import Heartbeat
from vfioctl.v1 import session_pb2

NODE = "pve01"


async def refused_hello(agent: Agent, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await agent.greet(**changes)
    return caught.value


def is_unheard(view: NodeView) -> bool:
    return view.state == "revalidating" and view.reasons[0].code == "NODE_UNHEARD"


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


async def test_a_body_of_a_newer_version_is_passed_over(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        newer = session_pb2.SessionRequest.FromString(b"\xfa\x01\x03new")  # field 31
        assert newer.WhichOneof("body") is None
        await agent.stream.call.write(newer)
        await agent.observe()


# --- who is let in -------------------------------------------------------------------------------


@pytest.mark.parametrize(("lowest", "highest"), [(2, 3), (0, 0)])
async def test_an_agent_without_a_common_protocol_reads_both_ranges(
    state: Path, lowest: int, highest: int
) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.agent(NODE)
        refused = await refused_hello(agent, protocol_min=lowest, protocol_max=highest)
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
        refused = await refused_hello(agent, node=NODE)
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
        refused = await refused_hello(Agent(NODE, channel, nic_host()))
        assert refused.code == "PERMISSION_DENIED"
        assert "user:pve01 is no node" in refused.message


async def test_an_expired_certificate_ends_a_stream_that_it_opened(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE)
        cluster.clock.wall += timedelta(days=91)
        await agent.stream.say(observation=agent.observation())
        refused = await agent.stream.end()
        assert refused.code == "UNAUTHENTICATED"
        assert "expired" in refused.message
        assert is_unheard(await (await cluster.admin()).until(NODE, is_unheard))


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
            refused = await refused_hello(second)
            assert (refused.code, refused.status) == (
                "NODE_CLONED",
                grpc.StatusCode.ALREADY_EXISTS,
            )
        await first.observe()
        assert (await admin.node(NODE)).state == "ready"
        assert "NODE_CLONED" in {item.code for item in (await admin.status()).items}
        told = [event for event in await admin.events() if event.code == "NODE_CLONED"]
        assert len(told) == 1, "once per machine, however often it tries"


async def test_an_agent_that_obeyed_a_newer_coordinator_stops_placements(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        refused = await refused_hello(agent, highest_epoch=9)
        assert refused.code == "STORE_REWOUND"
        with pytest.raises(Refused) as caught:
            await admin.place(want("vm1"))
        assert caught.value.code == "STORE_REWOUND"
        assert "epoch 9" in caught.value.message


# --- what is said --------------------------------------------------------------------------------

LONG = "x" * 129


@pytest.mark.parametrize(
    "field",
    ["boot_id", "product_uuid", "agent_state_id", "inventory_digest", "agent_version"],
)
@pytest.mark.parametrize("text", [LONG, "a\x1b[2Jb", "caf\u00e9"])
async def test_a_hello_with_a_wild_text_is_refused_by_its_field(
    state: Path, field: str, text: str
) -> None:
    async with Cluster(state) as cluster:
        refused = await refused_hello(await cluster.agent(NODE), **{field: text})
        assert refused.code == "BAD_REQUEST"
        assert refused.message.startswith(f"BAD_REQUEST: {field} ")
        assert refused.message.isprintable()


async def test_a_huge_hello_is_refused_with_a_short_message(state: Path) -> None:
    async with Cluster(state) as cluster:
        refused = await refused_hello(await cluster.agent(NODE), node="n" * 1_000_000)
        assert refused.code == "NODE_MISMATCH"
        assert len(refused.message) < 1_000


async def test_a_stream_must_begin_with_hello_and_say_it_once(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.agent(NODE)
        stream = agent.open()
        await agent.beat()
        assert "first message must be Hello" in (await stream.end()).message
        await agent.greet()
        await agent.stream.say(hello=agent.hello())
        assert "second Hello" in (await agent.stream.end()).message
        stream = agent.open()
        await stream.call.done_writing()
        assert "ended before Hello" in (await stream.end()).message


def _altered(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """An inventory whose facts were changed as JSON, with the digest that fits."""
    facts = json.loads(encode(nic_host().facts))
    change(facts)
    data = json.dumps(facts).encode()
    return {"facts_zlib": compress(data), "digest": digest_bytes(data)}


def _plain(data: bytes) -> dict[str, Any]:
    return {"facts_zlib": compress(data), "digest": digest_bytes(data)}


PACKED = compress(encode(nic_host().facts))

DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "not zlib": ({"facts_zlib": b"no zlib"}, "damaged"),
    "cut short": ({"facts_zlib": PACKED[:-7]}, "cut short"),
    "empty": ({"facts_zlib": b""}, "cut short"),
    "with more behind it": ({"facts_zlib": PACKED + b"more"}, "followed by 4"),
    "a bomb": ({"facts_zlib": zlib.compress(bytes(MAX_UNPACKED_BYTES + 1))}, "larger than"),
    "of other bytes": ({"digest": "sha256:" + "0" * 64}, "its facts are sha256:"),
    "without digest": ({"digest": ""}, "its facts are sha256:"),
    "of another schema": ({"schema": "vfioctl.artifact/v9"}, "vfioctl.artifact/v9"),
    "not JSON": (_plain(b"{"), "not JSON"),
    "too deep": (_plain(b"[" * 200_000), "not JSON"),
    "no object": (_plain(b"[]"), "Facts: expected an object"),
    "with a wrong type": (
        _altered(lambda facts: facts["functions"][1].update(vendor="8086")),
        "functions[1].vendor",
    ),
    "with a field missing": (_altered(lambda facts: facts.pop("host")), "Facts.host: missing"),
    "with a wild address": (
        _altered(lambda facts: facts["functions"][1].update(address="../../etc")),
        "'../../etc'",
    ),
    "with a function twice": (
        _altered(lambda facts: facts["functions"].append(facts["functions"][1])),
        "0000:01:00.0 is there twice",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_an_inventory_that_cannot_be_believed_costs_the_session_and_nothing_else(
    state: Path, name: str
) -> None:
    changes, why = DAMAGED[name]
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        claimed = (await admin.place(want("vm1"))).placement
        assert claimed is not None
        await agent.stream.say(inventory=agent.inventory(**changes))
        refused = await agent.stream.end()
        assert (refused.code, refused.status) == (
            "BAD_SNAPSHOT",
            grpc.StatusCode.INVALID_ARGUMENT,
        )
        assert why in refused.message
        assert (await agent.greet()).inventory_held
        await agent.observe()
        view = await admin.until_state(NODE, "ready")
        assert view.vms == ("vm1",)
        assert (await admin.status()).vms[0].token == claimed.token


async def test_a_message_over_the_wire_s_limit_costs_the_session_and_nothing_else(
    state: Path,
) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        await agent.stream.say(inventory=agent.inventory(facts_zlib=bytes(MAX_MESSAGE_BYTES)))
        refused = await agent.stream.end()
        assert refused.status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MAX_MESSAGE_BYTES) in refused.message
        await admin.until(NODE, is_unheard)
        assert (await agent.greet()).inventory_held


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"readings_zlib": b"no zlib"}, "readings_zlib: compressed data is damaged"),
        ({"readings_zlib": compress(b"{}")}, "Readings.live: missing"),
        (
            {"findings": [session_pb2.Observation().findings.add()] * (MAX_FINDINGS + 1)},
            f"{MAX_FINDINGS + 1} of them",
        ),
    ],
)
async def test_an_observation_that_cannot_be_believed_ends_the_session(
    state: Path, changes: dict[str, Any], why: str
) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        await agent.stream.say(observation=agent.observation(**changes))
        refused = await agent.stream.end()
        assert refused.code == "BAD_SNAPSHOT"
        assert why in refused.message
        await admin.until(NODE, is_unheard)


@pytest.mark.parametrize("number", [0, 7, 99])
async def test_a_verdict_of_a_newer_agent_is_unknown_and_takes_no_vm(
    state: Path, number: int
) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        told = agent.observation()
        for finding in told.findings:
            if finding.check == "iommu-active":
                finding.verdict = number  # type: ignore[assignment]
        await agent.stream.say(observation=told)
        await agent.stream.hear_one("acknowledged")
        view = await admin.node(NODE)
        assert view.verdict is Verdict.UNKNOWN
        assert view.units_free == 0
        decision = await admin.place(want("vm1"))
        assert stage_of(decision.refusal) == "platform"


async def test_a_finding_that_is_missing_is_no_good_finding(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        await agent.observe(findings=[])
        view = await admin.node(NODE)
        assert view.verdict is Verdict.UNKNOWN
        assert view.units_free == 0
        assert (await admin.place(want("vm1"))).placement is None


# --- silence -------------------------------------------------------------------------------------


def stage_of(refusal: Refusal | None) -> str:
    """The one stage at which the one node was refused."""
    assert refusal is not None
    assert refusal.nodes_total == 1
    (stage,) = (count.stage for count in refusal.stages if count.nodes)
    return stage


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
        assert "NODE_LOST" in {event.code for event in await admin.events()}
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
