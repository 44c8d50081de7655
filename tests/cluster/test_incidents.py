"""Incidents over the wire: what the command line shows of one cause on two nodes, who may say that
they have seen it, and what is left after a SIGKILL."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc.aio
import pytest

from tests.cluster.agents import Agent, Cluster, secure_channel
from tests.cluster.processes import serving
from tests.cluster.test_cli_commands import Shell
from tests.cluster.test_drift_cordon import f10, f11, reboot
from tests.cluster.users import DEADLINE_S, OPTIONS, User, want
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import from_message
from vfio_contract.incident_views import IncidentView
from vfio_coordinator.peer import Role

NAMES = ("pve01", "pve02")


async def affected(user: User, nodes: int) -> IncidentView:
    """The incident of the wide groups once so many nodes are in it, asked for again and again."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            response = await user.call("ListIncidents")
            views = [from_message(IncidentView, message) for message in response.incidents]
            found = [view for view in views if view.code == "GROUP_WIDENED"]
            if found and found[0].nodes == nodes:
                (one,) = found
                return one


async def started(cluster: Cluster) -> tuple[User, dict[str, Agent]]:
    admin = await cluster.admin()
    names = (*NAMES, "pve03")
    agents = {name: await cluster.join(name, f10(), number=n) for n, name in enumerate(names, 1)}
    for name in agents:
        await admin.call("AcceptBaseline", node=name)
    return admin, agents


async def test_one_cause_on_two_nodes_as_the_cli_shows_it(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        at = Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")
        admin, agents = await started(cluster)
        nothing = await at.type("incident list")
        assert (nothing.code, nothing.out) == (
            0,
            "No incident is open. Closed ones: vfioctl incident list --all\n",
        )
        assert (await admin.place(want("train-9", node="pve01"))).placement is not None
        for name in NAMES:
            await reboot(agents[name], f11())
            await admin.until_state(name, "cordoned")
        one = await affected(admin, 2)
        assert one.id == "INC-1"

        listed = await at.type("incident list")
        assert listed.code == 2
        assert "INC-1" in listed.out
        assert "common: BIOS F10" in listed.out
        assert (await at.type("incident list -o name")).out == "INC-1\n"
        assert "VM_ADDRESS_STALE" in listed.out, "told with what it came with"
        shown = await at.type("incident show 1")
        words = " ".join(shown.out.split())
        assert shown.code == 2
        assert "GROUP_WIDENED on 2 nodes" in words
        assert "1 peer of the same board still to be updated: pve03" in words
        assert "1 VM: train-9" in words
        assert "vfioctl incident ack INC-1 --reason TEXT" in words
        document = json.loads((await at.type("incident show INC-1 -o json")).out)["incident"]
        assert [member["node"] for member in document["members"]] == list(NAMES)
        assert document["waiting"] == ["pve03"]
        assert (await at.type("incident show INC-9")).code == 64
        assert (await at.type("incident show nonsense")).code == 64

        viewer = await cluster.user(Role.VIEWER)
        assert (await viewer.refusal("AckIncident", id="INC-1")).code == "PERMISSION_DENIED"
        assert (await viewer.call("GetIncident", id="INC-1")).incident.nodes == 2
        node = User((await cluster.agent("pve09")).channel)
        assert (await node.refusal("ListIncidents")).code == "PERMISSION_DENIED"
        bad = await admin.refusal("AckIncident", id="INC-1", reason="a\nb")
        assert bad.code == "BAD_REQUEST"

        assert (await at.type("incident ack 1 --reason=")).code == 64
        acked = await at.type("incident ack 1 --reason rolling-back")
        assert (acked.code, acked.out.split()[0]) == (0, "ACKNOWLEDGED")
        assert "acked by" in (await at.type("incident list")).out
        for name in NAMES:
            await reboot(agents[name], f10(boot="boot-c"))
            await admin.until_state(name, "ready")
        await admin.until_event("INCIDENT_CLOSED")
        assert (await at.type("incident list")).code == 0
        after = await at.type("incident list --all")
        assert after.code == 0
        assert "closed" in after.out
        assert (await at.type("incident show 1")).code == 0
        refused = await at.type("incident ack 1")
        assert (refused.code, "is closed" in refused.err) == (64, True)


async def test_an_incident_that_was_told_survives_a_sigkill(state: Path) -> None:
    socket = f"unix:{state}/api.sock"
    async with serving(state, "--node", "pve01") as process:
        bundle = load_bundle(state / "nodes" / "pve01")
        async with (
            secure_channel(process.endpoint, bundle) as wire,
            grpc.aio.insecure_channel(socket, options=OPTIONS) as channel,
        ):
            agent, user = Agent("pve01", wire, f10()), User(channel)
            await agent.join()
            await user.until_state("pve01", "ready")
            await user.call("AcceptBaseline", node="pve01")
            await reboot(agent, f11())
            one = await affected(user, 1)
            await user.call("AckIncident", id=one.id, reason="mine")
            process.kill()
            assert (await process.ended()).status == -9
    async with (
        serving(state),
        grpc.aio.insecure_channel(socket, options=OPTIONS) as channel,
    ):
        user = User(channel)
        again = await affected(user, 1)
        assert (again.id, again.nodes, again.ack_reason) == (one.id, 1, "mine")
        response = await user.call("GetIncident", id=one.id)
        (member,) = response.incident.members
        assert (member.node, member.heard) == ("pve01", False)
