"""What agents must not say: each is refused by its field, and nothing that was known is lost."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.agents import Cluster, nic_host
from tests.cluster.users import is_unheard, stage_of, want
from vfio_contract.artifact import compress, digest_bytes, encode
from vfio_contract.findings import Verdict
from vfio_coordinator.api.messages import MAX_FINDINGS, MAX_UNPACKED_BYTES
from vfio_coordinator.api.server import MAX_MESSAGE_BYTES
from vfioctl.v1 import session_pb2

NODE = "pve01"


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
        refused = await (await cluster.agent(NODE)).refusal(**{field: text})
        assert refused.code == "BAD_REQUEST"
        assert refused.message.startswith(f"BAD_REQUEST: {field} ")
        assert refused.message.isprintable()


async def test_a_huge_hello_is_refused_with_a_short_message(state: Path) -> None:
    async with Cluster(state) as cluster:
        refused = await (await cluster.agent(NODE)).refusal(node="n" * 1_000_000)
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
    "with a wild NUMA node": (
        _altered(lambda facts: facts["functions"][1].update(numa_node=1 << 63)),
        "no such NUMA node: 9223372036854775808",
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
