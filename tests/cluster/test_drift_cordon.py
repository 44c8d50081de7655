"""A firmware update, told over the wire: what is flagged, what cordons, who is named, what heals.

The host is the one of the story: with F11 its buses are renumbered (01 -> 04, 02 -> 05, 03 -> 06)
and its root ports no longer isolate, so that network card and disk share a group. Identities do not
hang on bus numbers, so the same devices are followed through it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.cluster.agents import Agent, Cluster, host
from tests.cluster.users import User, want
from tests.fakes.snapshots import audio, behind, bridge, gpu, make_facts, nic, nvme
from vfio_contract.codec import from_message
from vfio_contract.findings import Verdict
from vfio_contract.model import Firmware, Snapshot
from vfio_contract.views import BaselineView, NodeView
from vfioctl.v1 import findings_pb2

NODE = "pve01"


def firmware(version: str) -> Firmware:
    return replace(make_facts().firmware, bios_version=version)


def machine(version: str, boot: str, buses: tuple[int, int, int], groups: Any) -> Snapshot:
    """The host with its NIC, NVMe and GPU on these buses and in these groups."""
    at = [f"0000:{bus:02x}:00" for bus in buses]
    return host(
        *behind(bridge("0000:00:01.0", group=1), nic(f"{at[0]}.0", group=groups[0])),
        *behind(bridge("0000:00:02.0", group=2), nvme(f"{at[1]}.0", group=groups[1])),
        *behind(
            bridge("0000:00:03.0", group=3),
            gpu(f"{at[2]}.0", group=groups[2]),
            audio(f"{at[2]}.1", group=groups[2]),
        ),
        boot_id=boot,
        firmware=firmware(version),
    )


def f10(boot: str = "boot-a") -> Snapshot:
    return machine("F10", boot, (1, 2, 3), (10, 11, 12))


def f11(boot: str = "boot-b") -> Snapshot:
    """Moved, and network card and disk merged into one group."""
    return machine("F11", boot, (4, 5, 6), (10, 10, 12))


def renumbered(boot: str = "boot-b") -> Snapshot:
    return machine("F10", boot, (1, 2, 3), (20, 21, 22))


def moved(boot: str = "boot-b") -> Snapshot:
    return machine("F11", boot, (4, 5, 6), (10, 11, 12))


async def reboot(agent: Agent, snapshot: Snapshot) -> None:
    """The stream breaks, and the agent of the next boot says everything again."""
    agent.stream.cancel()
    agent.snapshot = snapshot
    await agent.join()


async def settled(admin: User) -> NodeView:
    """The node once no write about it is under way."""
    return await admin.until(
        NODE,
        lambda view: not any("admin record is being" in reason.text for reason in view.reasons),
        what="settled",
    )


def owners(view: NodeView) -> set[str]:
    return {reason.owner for reason in view.reasons}


async def accepted(cluster: Cluster, *, vm: str = "") -> tuple[User, Agent]:
    """The machine with F10, its baseline accepted, and the NIC claimed by `vm`."""
    admin, agent = await cluster.admin(), await cluster.join(NODE, f10())
    await admin.call("AcceptBaseline", node=NODE)
    if vm:
        assert (await admin.place(want(vm))).placement is not None
    return admin, agent


async def test_f11_cordons_the_node_and_names_the_vm_and_f10_lifts_it(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster, vm="train-9")

        await reboot(agent, f11())
        view = await admin.until_state(NODE, "cordoned")
        (cordon,) = [r for r in view.reasons if r.owner == "auto:GROUP_WIDENED"]
        assert "train-9" in cordon.text
        assert "merged" in cordon.text
        codes = {change.code for change in view.drift}
        assert {"FIRMWARE_CHANGED", "DEVICE_MOVED", "GROUP_WIDENED"} <= codes
        widened = [c for c in view.drift if c.code == "GROUP_WIDENED"]
        assert {c.address_after for c in widened} == {"0000:04:00.0", "0000:05:00.0"}
        assert all(c.harms and c.detail == "merged" for c in widened)
        assert {
            (c.address_before, c.address_after) for c in view.drift if c.code == "DEVICE_MOVED"
        } == {
            ("0000:01:00.0", "0000:04:00.0"),
            ("0000:02:00.0", "0000:05:00.0"),
            ("0000:03:00.0", "0000:06:00.0"),
            ("0000:03:00.1", "0000:06:00.1"),
        }
        status = await admin.status()
        assert status.health == "HEALTH_ERR"
        assert ("ERR", "GROUP_WIDENED") in {(item.level, item.code) for item in status.items}
        (vm,) = status.vms
        assert vm.at_risk.startswith("GROUP_WIDENED")
        explained = await admin.call("ExplainVm", vm="train-9")
        proof = [p for unit in explained.decision.placement.units for p in unit.proof]
        assert not all(p.verdict == findings_pb2.VERDICT_PASS for p in proof)
        assert "no cordon" not in " ".join(line for p in proof for line in p.evidence)
        told = [e for e in await admin.events(node=NODE) if e.code == "GROUP_WIDENED"]
        assert any("cordoned" in e.text and "train-9" in e.text for e in told)
        refused = (await admin.place(want("other", ("gpu", "", 1)))).refusal
        assert refused is not None
        assert [stage.stage for stage in refused.stages] == ["admitted"]
        assert "GROUP_WIDENED" in refused.nodes[0].reason

        await reboot(agent, f10("boot-c"))
        back = await admin.until_state(NODE, "ready")
        assert back.drift == ()
        assert back.vms == ("train-9",)
        assert (await admin.status()).vms[0].at_risk == ""
        lifted = [e for e in await admin.events(node=NODE) if e.code == "NODE_UNCORDONED"]
        assert [e.actor for e in lifted] == ["auto:GROUP_WIDENED"]
        assert (await admin.place(want("other", ("gpu", "", 1)))).placement is not None


async def test_accepting_f11_makes_it_the_known_good(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        await reboot(agent, f11())
        await admin.until_state(NODE, "cordoned")
        refused = await admin.call("AcceptBaseline", node=NODE)
        assert not refused.HasField("baseline")
        assert "GROUP_WIDENED" in {problem.code for problem in refused.problems}
        response = await admin.call("AcceptBaseline", node=NODE, force=True, reason="as wired")
        baseline = from_message(BaselineView, response.baseline)
        assert baseline.digest == agent.digest
        assert baseline.drift == ()
        await admin.until_state(NODE, "ready")


async def test_a_widened_group_cordons_without_a_vm_too(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        await reboot(agent, f11())
        view = await admin.until_state(NODE, "cordoned")
        assert "auto:GROUP_WIDENED" in owners(view)


async def test_other_group_numbers_alone_change_nothing(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster, vm="train-9")
        await reboot(agent, renumbered())
        view = await admin.until_state(NODE, "ready")
        assert {change.code for change in view.drift} == {"GROUP_RENUMBERED"}
        assert view.verdict is Verdict.PASS
        assert (await admin.status()).vms[0].at_risk == ""
        assert (await admin.place(want("other", ("gpu", "", 1)))).placement is not None


async def test_moved_devices_are_flagged_and_the_node_returns(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        await reboot(agent, moved())
        view = await admin.until_state(NODE, "ready")
        assert {"DEVICE_MOVED", "FIRMWARE_CHANGED"} <= {reason.code for reason in view.reasons}
        assert not any(change.harms for change in view.drift)
        placed = (await admin.place(want("vm1"))).placement
        assert placed is not None
        assert placed.units[0].assign == ("0000:04:00.0",)


async def test_a_claim_on_an_old_address_holds_its_node_until_it_is_released(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster, vm="train-9")
        await reboot(agent, moved())
        view = await settled(admin)
        assert view.state == "revalidating"
        (stale,) = [r for r in view.reasons if r.code == "VM_ADDRESS_STALE"]
        assert "train-9" in stale.text
        assert "0000:01:00.0" in stale.text
        assert "0000:04:00.0" in stale.text
        status = await admin.status()
        assert status.vms[0].at_risk.startswith("VM_ADDRESS_STALE")
        assert (await admin.place(want("other", ("gpu", "", 1)))).placement is None
        await admin.call("ReleaseVm", vm="train-9")
        await admin.until_state(NODE, "ready")


async def test_a_new_boot_is_revalidated_by_evidence_of_that_boot_only(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        old = agent.snapshot.readings
        agent.stream.cancel()
        agent.snapshot = f10("boot-b")
        assert (await agent.greet()).inventory_held
        view = await admin.node(NODE)
        assert (view.state, view.verdict) == ("revalidating", Verdict.UNKNOWN)
        assert (await admin.place(want("vm1"))).placement is None

        agent.snapshot = replace(agent.snapshot, readings=old)
        await agent.observe()
        view = await settled(admin)
        assert (view.state, view.boot_id) == ("revalidating", "boot-b")
        assert any("not of this boot" in reason.text for reason in view.reasons)

        agent.snapshot = f10("boot-b")
        await agent.observe()
        await admin.until_state(NODE, "ready")
        codes = [event.code for event in await admin.events(node=NODE)]
        assert codes.count("NODE_VALIDATED") == 2


async def test_a_reboot_behind_the_coordinator_s_back_is_noticed(state: Path) -> None:
    """The host rebooted while the coordinator was down; its facts are the same."""
    async with Cluster(state) as cluster:
        await accepted(cluster)
        await cluster.restart()
        admin = await cluster.admin()
        agent = await cluster.agent(NODE, f10("boot-b"))
        await agent.greet()
        assert (await admin.node(NODE)).state == "revalidating"
        await agent.tell()
        await admin.until_state(NODE, "ready")
        assert [e.code for e in await admin.events(node=NODE)].count("NODE_VALIDATED") == 2


async def test_automation_lifts_only_its_own_cordon(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        await admin.call("CordonNode", node=NODE, reason="new cooler")
        await reboot(agent, f11())
        view = await admin.until(NODE, lambda v: "auto:GROUP_WIDENED" in owners(v))
        assert "user:local" in owners(view)
        await reboot(agent, f10("boot-c"))
        view = await admin.until(NODE, lambda v: "auto:GROUP_WIDENED" not in owners(v))
        assert view.state == "cordoned"
        assert "user:local" in owners(view)
        await admin.call("UncordonNode", node=NODE)
        await admin.until_state(NODE, "ready")


async def test_what_a_person_lifted_in_spite_of_its_cause_stays_lifted(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        await reboot(agent, f11())
        await admin.until_state(NODE, "cordoned")
        await admin.call("UncordonNode", node=NODE)
        await agent.observe()
        view = await settled(admin)
        assert "auto:GROUP_WIDENED" not in owners(view)
        status = await admin.status()
        assert "GROUP_WIDENED" in {item.code for item in status.items}, "the harm is still there"


async def test_evidence_that_is_gone_lifts_nothing(state: Path) -> None:
    """A group that cannot be read any more is not a group that is whole again."""
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster)
        await reboot(agent, f11())
        await admin.until_state(NODE, "cordoned")
        blind = f11()
        functions = tuple(replace(f, group=None) for f in blind.facts.functions or ())
        facts = replace(blind.facts, groups=None, functions=functions)
        await agent.tell(replace(blind, facts=facts))
        view = await settled(admin)
        assert view.state == "cordoned"
        assert "auto:GROUP_WIDENED" in owners(view)
        assert view.verdict is not Verdict.PASS


async def test_a_cordon_outlives_the_coordinator(state: Path) -> None:
    async with Cluster(state) as cluster:
        admin, agent = await accepted(cluster, vm="train-9")
        await reboot(agent, f11())
        await admin.until_state(NODE, "cordoned")
        await cluster.restart()
        admin = await cluster.admin()
        view = await admin.node(NODE)
        assert "auto:GROUP_WIDENED" in owners(view)
        agent = await cluster.agent(NODE, f11())
        await agent.join()
        view = await settled(admin)
        assert view.state == "cordoned"
        assert (await admin.place(want("other", ("gpu", "", 1)))).placement is None
