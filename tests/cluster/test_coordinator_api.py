"""What people ask over the wire: answers, refusals by field, and who may ask what."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.cluster.agents import Cluster, full_host, nic_host
from tests.cluster.users import User, want
from vfio_contract.codec import from_message
from vfio_contract.findings import Verdict
from vfio_contract.views import BaselineView, Decision, PlaceRequest, VmView

NODE = "pve01"


async def explain(user: User, vm: str) -> tuple[Decision, VmView | None]:
    response = await user.call("ExplainVm", vm=vm)
    view = from_message(VmView, response.vm) if response.HasField("vm") else None
    return from_message(Decision, response.decision), view


# --- placing -------------------------------------------------------------------------------------


async def test_a_placement_carries_its_proof_and_its_fence(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE, full_host())
        decision = await admin.place(want("vm1", ("gpu", "", 1), ("nvme", "", 1)))
        assert decision.refusal is None
        placement = decision.placement
        assert placement is not None
        assert (placement.vm, placement.node, placement.generation) == ("vm1", NODE, 1)
        assert placement.token > 0
        assert {unit.kind: unit.assign for unit in placement.units} == {
            "gpu": ("0000:03:00.0",),
            "nvme": ("0000:02:00.0",),
        }
        for unit in placement.units:
            gates = {proof.gate: proof for proof in unit.proof}
            assert {"iommu-active", "group-isolation", "reset-history"} <= set(gates)
            assert {proof.verdict for proof in unit.proof} <= {Verdict.PASS, Verdict.WARN}
            assert gates["iommu-active"].evidence
        node = await admin.node(NODE)
        assert (node.vms, node.units_free) == (("vm1",), 1)
        assert {unit.kind: unit.vm for unit in node.units if unit.vm} == {
            "gpu": "vm1",
            "nvme": "vm1",
        }


async def test_a_retry_of_a_request_gets_the_same_claim(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE, full_host())
        first = await admin.place(want("vm1"))
        assert (await admin.place(want("vm1"))).placement == first.placement
        other = await admin.place_refusal(want("vm1", request_id="another"))
        assert (other.code, other.status) == ("VM_EXISTS", grpc.StatusCode.ALREADY_EXISTS)
        assert [event.code for event in await admin.events()].count("VM_PLACED") == 1


async def test_a_dry_run_reserves_nothing(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE)
        tried = await admin.place(want("vm1", dry_run=True))
        assert tried.placement is not None
        assert (tried.placement.node, tried.placement.token) == (NODE, 0)
        assert (await admin.status()).vms == ()
        assert (await admin.refusal("ReleaseVm", vm="vm1")).code == "UNKNOWN_VM"
        assert (await admin.node(NODE)).units_free == 1


async def test_nothing_fits_is_an_answer_that_counts_every_node(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join("pve01")
        await cluster.join("pve02", nic_host(2), number=2)
        await cluster.join("pve03", nic_host(3, iommu_units=(), groups=()), number=3)
        assert (await admin.place(want("vm1"))).placement is not None
        refused = (await admin.place(want("vm2", ("nic", "", 2)))).refusal
        assert refused is not None
        assert refused.nodes_total == sum(stage.nodes for stage in refused.stages) == 3
        assert {row.node for row in refused.nodes} == {"pve01", "pve02", "pve03"}


async def test_a_claim_for_another_orchestrator_is_released_and_free_again(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE)
        claimed = (await admin.place(want("vm1", external=True))).placement
        assert claimed is not None
        (vm,) = (await admin.status()).vms
        assert (vm.kind, vm.state, vm.owner) == ("external", "reserved", "user:local")
        assert (await admin.place(want("vm2"))).placement is None
        released = from_message(VmView, (await admin.call("ReleaseVm", vm="vm1")).vm)
        assert (released.name, released.generation) == ("vm1", 1)
        assert (await admin.refusal("ReleaseVm", vm="vm1")).code == "UNKNOWN_VM"
        again = (await admin.place(want("vm1", request_id="second"))).placement
        assert again is not None
        assert again.generation == 2
        assert again.token > claimed.token


async def test_explain_tells_why_it_is_there_or_why_nothing_fits(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE)
        placed = (await admin.place(want("vm1"))).placement
        assert (await admin.place(want("vm2", ("gpu", "", 1)))).refusal is not None
        decision, vm = await explain(admin, "vm1")
        assert decision.placement is not None
        assert placed is not None
        assert (decision.placement.node, decision.placement.token) == (NODE, placed.token)
        assert vm is not None
        assert vm.name == "vm1"
        decision, vm = await explain(admin, "vm2")
        assert vm is None
        assert decision.refusal is not None
        assert [row.node for row in decision.refusal.nodes] == [NODE]
        assert (await admin.refusal("ExplainVm", vm="vm3")).code == "UNKNOWN_VM"


# --- nodes, baselines, events --------------------------------------------------------------------


async def test_a_cordon_keeps_vms_off_until_it_is_lifted(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE)
        await admin.call("CordonNode", node=NODE, reason="new cooler")
        view = await admin.node(NODE)
        assert view.state == "cordoned"
        assert [(r.owner, r.text) for r in view.reasons] == [("user:local", "new cooler")]
        assert (await admin.place(want("vm1"))).placement is None
        await admin.call("UncordonNode", node=NODE)
        assert (await admin.node(NODE)).state == "ready"
        assert (await admin.place(want("vm1"))).placement is not None
        told = [e for e in await admin.events(node=NODE) if e.actor == "user:local"]
        assert [e.text for e in told if "cooler" in e.text]
        assert len(told) == 2


async def test_a_baseline_is_accepted_shown_and_named_in_the_log(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.join(NODE)
        assert (await admin.refusal("GetBaseline", node=NODE)).code == "NO_BASELINE"
        response = await admin.call("AcceptBaseline", node=NODE)
        accepted = from_message(BaselineView, response.baseline)
        assert (accepted.digest, accepted.accepted_by) == (agent.digest, "local")
        assert len(accepted.intended_units) == 1
        assert any("F10" in part for part in accepted.firmware)
        shown = from_message(BaselineView, (await admin.call("GetBaseline", node=NODE)).baseline)
        assert shown == accepted
        assert (await admin.node(NODE)).baseline == agent.digest
        assert "BASELINE_ACCEPTED" in [event.code for event in await admin.events()]


async def test_a_node_without_evidence_has_nothing_to_accept(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await cluster.admin(), await cluster.agent(NODE)
        await agent.greet()
        refused = await admin.refusal("AcceptBaseline", node=NODE)
        assert (refused.code, refused.status) == (
            "NO_INVENTORY",
            grpc.StatusCode.FAILED_PRECONDITION,
        )


async def test_events_are_read_on_from_a_number(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join("pve01")
        await cluster.join("pve02", number=2)
        everything = await admin.events()
        assert [event.seq for event in everything] == sorted(event.seq for event in everything)
        first = await admin.call("ListEvents", limit=2)
        assert first.last_seq == everything[-1].seq
        rest = await admin.events(after_seq=first.events[-1].seq)
        assert len(first.events) + len(rest) == len(everything)
        assert await admin.events(after_seq=everything[-1].seq) == ()
        of_one = await admin.events(node="pve02")
        assert {event.subject for event in of_one} == {"node:pve02"}


async def test_a_node_is_named_by_a_prefix_that_fits_it_alone(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join("host-a1")
        await cluster.join("host-b1", number=2)
        assert (await admin.node("host-b")).name == "host-b1"
        several = await admin.refusal("GetNode", node="host-")
        assert several.code == "BAD_REQUEST"
        assert "host-a1 host-b1" in several.message
        for nobody in ("host-c", ""):
            nothing = await admin.refusal("GetNode", node=nobody)
            assert (nothing.code, nothing.status) == ("UNKNOWN_NODE", grpc.StatusCode.NOT_FOUND)
        pinned = await admin.place(want("vm1", node="host-b"))
        assert pinned.placement is not None
        assert pinned.placement.node == "host-b1"
        assert (await admin.place_refusal(want("vm2", node="nope"))).code == "UNKNOWN_NODE"


async def test_a_pinned_request_counts_its_node_alone(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join("pve01")
        await cluster.join("pve02", number=2)
        refused = (await admin.place(want("vm1", ("gpu", "", 1), node="pve02"))).refusal
        assert refused is not None
        assert (refused.nodes_total, [row.node for row in refused.nodes]) == (1, ["pve02"])


# --- bad requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (want("VM 1"), "vm 'VM 1'"),
        (want(""), "vm ''"),
        (want("vm1", ("gpux", "", 1)), "'gpux'"),
        (want("vm1", ("gpu", "", 0)), "count 0"),
        (want("vm1", ("gpu", "", -1)), "count -1"),
        (want("vm1", ("gpu", "", 65)), "65"),
        (want("vm1", ("gpu", "", 2**63 - 1), ("gpu", "", 2**63 - 1)), "devices"),
        (want("vm1", ("gpu", "x" * 129, 1)), "devices[0].model"),
        (want("vm1", ("nic", "", 1), ("gpu", "a\x1b[2J", 1)), "devices[1].model"),
        (want("vm1", allow=("everything",)), "'everything'"),
        (want("vm1", request_id="\n"), "request_id"),
        (PlaceRequest("vm1", (), False, (), "", False, False, "r"), "devices"),
    ],
)
async def test_a_bad_request_is_refused_by_its_field(
    state: Path, request_: PlaceRequest, field: str
) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        refused = await admin.place_refusal(request_)
        assert (refused.code, refused.status) == (
            "BAD_REQUEST",
            grpc.StatusCode.INVALID_ARGUMENT,
        )
        assert field in refused.message
        assert (await admin.status()).vms == ()


async def test_an_empty_message_is_a_bad_request_too(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        for method in ("PlaceVm", "ReleaseVm", "ExplainVm"):
            refused = await admin.refusal(method)
            assert refused.code == "BAD_REQUEST"
            assert "vm ''" in refused.message


@pytest.mark.parametrize("reason", ["x" * 501, "two\nlines", "\x1b[31m"])
async def test_a_wild_reason_is_refused(state: Path, reason: str) -> None:
    async with Cluster(state) as cluster:
        admin = await cluster.admin()
        await cluster.join(NODE)
        refused = await admin.refusal("CordonNode", node=NODE, reason=reason)
        assert refused.code == "BAD_REQUEST"
        assert "reason" in refused.message
