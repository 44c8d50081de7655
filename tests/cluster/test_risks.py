"""Risk decisions over the wire: refused, accepted, placed, ended; by whom, and after a SIGKILL.

The hosts have the ACS override on their command line and a root port without ACS; the findings are
those of the agent's own checks.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.cluster.agents import Agent, Cluster, host, secure_channel
from tests.cluster.processes import serving
from tests.cluster.test_cli_commands import Shell
from tests.cluster.users import OPTIONS, User, stage_of, want
from tests.fakes.snapshots import CMDLINE, behind, bridge, nic
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import from_message
from vfio_contract.model import Snapshot
from vfio_contract.views import RiskView
from vfio_coordinator.peer import Role

NODE = "pve03"
CODE = "ACS_OVERRIDE"
TERMS = {"node": NODE, "code": CODE, "reason": "one tenant", "until": "36h"}
COMMAND = f"vfioctl risk accept --node {NODE} --code {CODE} --reason TEXT --until DATE"


def overridden(number: int = 1, **changes: Any) -> Snapshot:
    """One card below a port whose isolation the kernel was told to believe in."""
    functions = behind(bridge("0000:00:01.0", acs=None), nic("0000:01:00.0", group=2))
    cmdline = f"{CMDLINE} pcie_acs_override=downstream"
    return host(*functions, n=number, cmdline=cmdline, **changes)


def at_socket(capsys: pytest.CaptureFixture[str], cluster: Cluster) -> Shell:
    return Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")


async def accept(user: User, **changes: str) -> RiskView:
    return from_message(RiskView, (await user.call("AcceptRisk", **(TERMS | changes))).risk)


async def risks(user: User, **fields: str) -> tuple[RiskView, ...]:
    response = await user.call("ListRisks", **fields)
    return tuple(from_message(RiskView, risk) for risk in response.risks)


async def test_refused_accepted_placed_and_ended_as_the_cli_shows_it(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        at = at_socket(capsys, cluster)
        await cluster.join(NODE, overridden())
        assert (await at.type("risk list")).out.startswith("No risk decision is recorded.")
        status = await at.type("status --cluster")
        assert (status.code, "no risk decision recorded" in " ".join(status.out.split())) == (
            1,
            True,
        )
        allowed = "vm place old-1 --device nic --allow acs-override"
        refused = await at.type(allowed)
        words = " ".join(refused.out.split())
        assert refused.code == 2
        assert "isolation 1 pve03" in words
        assert "no risk decision recorded" in words
        assert COMMAND in words

        said = await at.type("risk accept --node pve --code ACS_OVERRIDE --reason lab --until 36h")
        assert said.code == 0
        assert said.out.startswith("ACCEPTED  ACS_OVERRIDE on pve03  (risk-")
        status = await at.type("status --cluster")
        assert "pve03, risk accepted by local until" in " ".join(status.out.split())
        assert (await at.type("vm place old-1 --device nic")).code == 2
        placed = await at.type(allowed)
        assert placed.code == 0, placed.out
        assert "risk-decision" in placed.out
        assert "risk accepted by local until" in " ".join(placed.out.split())
        listed = await at.type("risk list --node pve03")
        assert "used by old-1" in listed.out
        assert "accepted by local until" in (await at.type("node show pve03")).out
        assert "Risk accepted by local until" in " ".join(
            (await at.type("check --node pve03")).out.split()
        )
        for form in ("wide", "json", "yaml"):
            assert (await at.type(f"risk list -o {form}")).code == 0
        (name,) = (await at.type("risk list -o name")).out.split()
        ended = await at.type(f"risk revoke {name[:9]}")
        assert ended.code == 0
        assert "1 VM still there and left alone: old-1" in ended.out
        assert (await at.type("vm list -o name")).out == "old-1\n"
        shown = " ".join((await at.type("status --cluster")).out.split())
        assert "RISK_REVOKED" in shown
        explained = " ".join((await at.type("vm explain old-1")).out.split())
        assert "was revoked by local" in explained
        events = (await at.type("events -o json")).document["events"]
        told = [(e["code"], e["actor"]) for e in events if e["code"].startswith("RISK_")]
        assert told == [("RISK_ACCEPTED", "user:local"), ("RISK_REVOKED", "user:local")]
        for command in (
            f"risk revoke {name}",
            "risk revoke --node pve03 --code ACS_OVERRIDE",
            "risk revoke risk-zz",
        ):
            again = await at.type(command)
            assert again.code != 0
            assert again.err.startswith("vfioctl: UNKNOWN_RISK")


async def test_mistakes_name_the_field_and_the_fix(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        at = at_socket(capsys, cluster)
        await cluster.join(NODE, overridden())
        good = "--node pve03 --code ACS_OVERRIDE --reason lab --until 90d"
        for line, words in (
            (good.replace("90d", "forever"), "end: 'forever' is no end"),
            (good.replace("90d", "2020-01-01"), "end: '2020-01-01' is not after now"),
            (good.replace("90d", "99999d"), "at most 731"),
            (good.replace("ACS_OVERRIDE", "GROUP_DIRTY"), "--code"),
            (good.replace("pve03", "nobody"), "UNKNOWN_NODE"),
            ("--node pve03 --code ACS_OVERRIDE --until 90d", "--reason"),
        ):
            said = await at.type(f"risk accept {line}")
            assert said.code != 0
            assert words in said.err, said.err
        for line in ("risk revoke", "risk revoke risk-1 --node pve03", "risk revoke --node pve03"):
            assert (await at.type(line)).code == 64
        admin = await cluster.admin()
        for changes, words in (
            ({"code": "ACS"}, "code: 'ACS' is no risk"),
            ({"reason": ""}, "reason: it is empty"),
            ({"reason": "a\x1b[31m"}, "reason: it holds control characters"),
            ({"reason": "x" * 501}, "reason: it has 501 characters"),
            ({"until": ""}, "end: '' is no end"),
        ):
            refused = await admin.refusal("AcceptRisk", **(TERMS | changes))
            assert (refused.code, words in refused.message) == ("BAD_REQUEST", True), refused
        assert await risks(admin) == ()


async def test_a_viewer_reads_decisions_and_makes_none(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE, overridden())
        operator = await cluster.user(Role.OPERATOR, "ops")
        made = await accept(operator)
        assert made.accepted_by == "ops"
        viewer = await cluster.user(Role.VIEWER, "eve")
        assert await risks(viewer, node=NODE) == (made,)
        for method, fields in (("AcceptRisk", TERMS), ("RevokeRisk", {"id": made.id})):
            assert (await viewer.refusal(method, **fields)).code == "PERMISSION_DENIED"
        bundle = cluster.directory / "users" / "eve"
        at = Shell(capsys, "--endpoint", cluster.serving.endpoint, "--tls", str(bundle))
        denied = await at.type(f"risk revoke {made.id}")
        assert (denied.code, denied.err.split()[1]) == (2, "PERMISSION_DENIED:")
        assert (await at.type("risk list -o name")).out == f"{made.id}\n"
        agent = await cluster.agent("pve09")
        node = User(agent.channel)
        assert (await node.refusal("ListRisks")).code == "PERMISSION_DENIED"


async def test_a_decision_ends_by_itself_also_while_nobody_runs(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join(NODE, overridden())
        admin = await cluster.admin()
        made = await accept(admin, until="1h")
        allowed = ("acs-override",)
        assert (await admin.place(want("vm1", allow=allowed))).placement is not None
        await agent.stream.call.done_writing()
        cluster.clock.go_on(timedelta(hours=2))
        await cluster.restart()
        admin = await cluster.admin()
        await cluster.join(NODE, overridden())
        (found,) = await risks(admin)
        assert (found.state, found.id, found.vms) == ("expired", made.id, ("vm1",))
        assert len(await admin.until_event("RISK_EXPIRED")) == 1
        assert {i.code for i in (await admin.status()).items} >= {"RISK_EXPIRED", CODE}
        assert [vm.name for vm in (await admin.status()).vms] == ["vm1"]
        await admin.call("ReleaseVm", vm="vm1")
        decision = await admin.place(want("vm2", allow=allowed))
        assert stage_of(decision.refusal) == "isolation"
        assert decision.refusal is not None
        assert "expired" in decision.refusal.nodes[0].reason
        await cluster.restart()
        assert len(await (await cluster.admin()).until_event("RISK_EXPIRED")) == 1


async def test_a_decision_that_was_answered_survives_a_sigkill(state: Path) -> None:
    socket = f"unix:{state}/api.sock"
    async with serving(state, "--node", NODE) as process:
        bundle = load_bundle(state / "nodes" / NODE)
        async with (
            secure_channel(process.endpoint, bundle) as wire,
            grpc.aio.insecure_channel(socket, options=OPTIONS) as channel,
        ):
            await Agent(NODE, wire, overridden()).join()
            user = User(channel)
            made = await accept(user, until="90d")
            process.kill()
            assert (await process.ended()).status == -9
    async with (
        serving(state) as process,
        grpc.aio.insecure_channel(socket, options=OPTIONS) as channel,
        secure_channel(process.endpoint, bundle) as wire,
    ):
        user = User(channel)
        (found,) = await risks(user)
        assert (found.id, found.state, found.until) == (made.id, "accepted", made.until)
        assert found.seen == "unknown"
        await Agent(NODE, wire, overridden()).join()
        await user.until_state(NODE, "ready")
        decision = await user.place(want("vm1", allow=("acs-override",)))
        assert decision.placement is not None
        (proof,) = [p for p in decision.placement.units[0].proof if p.gate == "risk-decision"]
        assert made.id in proof.evidence[0]
        codes = [event.code for event in await user.events()]
        assert codes.count("RISK_ACCEPTED") == 1
