"""Who may ask a coordinator what: roles, nodes, expired certificates, and the Unix socket."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.agents import Cluster
from tests.cluster.users import Refused, User, want
from vfio_contract.codec import to_message
from vfio_coordinator.api.server import require_private
from vfio_coordinator.bootstrap import StartError, serve
from vfio_coordinator.peer import Role
from vfioctl.v1 import cluster_pb2

NODE = "pve01"


READS: dict[str, dict[str, Any]] = {
    "GetStatus": {},
    "ListNodes": {},
    "GetNode": {"node": NODE},
    "ListVms": {},
    "ExplainVm": {"vm": "vm1"},
    "GetBaseline": {"node": NODE},
    "ListBaselines": {"node": NODE},
    "GetPolicy": {},
    "ListEvents": {},
    "GetDeviceHistory": {"node": NODE, "device": "none"},
    "ListRisks": {},
    "ListIncidents": {},
    "GetIncident": {"id": "INC-1"},
    "ListMutes": {},
    "GetForecast": {"bios": "F11"},
    "GetCommand": {"id": "none"},
    "ListCommands": {},
    "Watch": {},
}
CHANGES: dict[str, dict[str, Any]] = {
    "CordonNode": {"node": NODE},
    "UncordonNode": {"node": NODE},
    "PlaceVm": {"request": to_message(want("vm1"))},
    "ReleaseVm": {"vm": "vm1"},
    "AcceptBaseline": {"node": NODE},
    "GetBaselineFacts": {"node": NODE},
    "GetNodeFacts": {"node": NODE},
    "AcceptRisk": {"node": NODE, "code": "ACS_OVERRIDE", "reason": "lab", "until": "90d"},
    "RevokeRisk": {"node": NODE, "code": "ACS_OVERRIDE"},
    "AckIncident": {"id": "INC-1"},
    "AddMute": {"code": "NODE_LOST", "node": NODE, "reason": "moved", "until": "4h"},
    "RemoveMute": {"code": "NODE_LOST", "node": NODE},
    "RunCommand": {"node": NODE, "verb": "check"},
    "GetArtifact": {"id": "none"},
}
ADMINS: dict[str, dict[str, Any]] = {
    "SetPolicy": {"changes": [cluster_pb2.PolicyChange(name="baseline", value="person")]},
}


async def answer_of(user: User, method: str, fields: dict[str, Any]) -> str:
    """ "" where it was answered, else the code."""
    try:
        if method == "Watch":
            stream = user.watch()
            await stream.hear()
            stream.call.cancel()
        else:
            await user.call(method, **fields)
    except Refused as refused:
        return refused.code
    return ""


@pytest.mark.parametrize("role", Role)
async def test_a_role_reads_and_only_operators_change(state: Path, role: Role) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        user = await cluster.user(role)
        may_change = role is not Role.VIEWER
        for method, fields in CHANGES.items():
            refused = await answer_of(user, method, fields) == "PERMISSION_DENIED"
            assert refused is not may_change, method
        for method, fields in READS.items():
            assert await answer_of(user, method, fields) != "PERMISSION_DENIED", method
        admin = await cluster.admin()
        assert (await admin.status()).vms == (), "an operator's claim was released again"
        actors = {event.actor for event in await admin.events()}
        assert (f"user:{role.value}" in actors) is may_change


@pytest.mark.parametrize("verb", ["bind", "unbind", "reset-test", "what comes after this version"])
async def test_what_acts_on_a_host_needs_an_admin(state: Path, verb: str) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        asked = {"node": NODE, "verb": verb, "address": "0000:01:00.0"}
        for role in (Role.VIEWER, Role.OPERATOR):
            refused = await (await cluster.user(role)).refusal("RunCommand", **asked)
            assert refused.code == "PERMISSION_DENIED"
            assert "this needs" in refused.message
        refused = await (await cluster.user(Role.ADMIN)).refusal("RunCommand", **asked)
        assert refused.code != "PERMISSION_DENIED"


@pytest.mark.parametrize("role", Role)
async def test_what_the_cluster_does_by_itself_is_for_admins(state: Path, role: Role) -> None:
    async with Cluster(state) as cluster:
        user = await cluster.user(role)
        for method, fields in ADMINS.items():
            refused = await answer_of(user, method, fields) == "PERMISSION_DENIED"
            assert refused is (role is not Role.ADMIN), method


async def test_every_method_is_asked_for_its_role() -> None:
    service = cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"]
    assert {method.name for method in service.methods} == {*READS, *CHANGES, *ADMINS}


async def test_a_viewer_may_try_but_not_reserve(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        viewer = await cluster.user(Role.VIEWER)
        assert (await viewer.place(want("vm1", dry_run=True))).placement is not None
        refused = await viewer.place_refusal(want("vm1"))
        assert (refused.code, refused.status) == (
            "PERMISSION_DENIED",
            grpc.StatusCode.PERMISSION_DENIED,
        )
        assert "user:viewer is viewer, this needs operator" in refused.message
        # the role is looked at first: a stranger does not learn what a valid request is
        assert (await viewer.place_refusal(want("VM 1"))).code == "PERMISSION_DENIED"


async def test_a_node_may_ask_nothing(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        node = User(await cluster.channel(cluster.node_bundle(NODE)))
        for method, fields in (READS | CHANGES).items():
            assert await answer_of(node, method, fields) == "PERMISSION_DENIED", method


async def test_an_expired_user_is_nobody_though_the_connection_lives(state: Path) -> None:
    async with Cluster(state) as cluster:
        user = await cluster.user(Role.ADMIN)
        await user.status()
        cluster.clock.go_on(timedelta(days=91))
        refused = await user.refusal("GetStatus")
        assert (refused.code, refused.status) == (
            "UNAUTHENTICATED",
            grpc.StatusCode.UNAUTHENTICATED,
        )


# --- the Unix socket -----------------------------------------------------------------------------


async def test_the_socket_is_its_owner_s_alone(state: Path) -> None:
    async with Cluster(state) as cluster:
        socket = state / "api.sock"
        assert stat.S_ISSOCK(socket.stat().st_mode)
        assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert (await (await cluster.admin()).status()).health
    assert not (state / "endpoint").exists()


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o755, 0o777])
async def test_a_directory_that_others_can_enter_is_refused_before_it_is_used(
    state: Path, mode: int
) -> None:
    state.mkdir(mode=0o700)
    state.chmod(mode)
    cluster = Cluster(state)
    with pytest.raises(StartError, match=f"mode {mode:04o}.*chmod 700"):
        await serve(cluster.settings, cluster.clock)
    assert [path.name for path in state.iterdir()] == ["lock"]


def test_a_directory_of_somebody_else_is_refused(state: Path) -> None:
    state.mkdir(mode=0o700)
    require_private(state, uid=os.geteuid())
    with pytest.raises(PermissionError, match=f"belongs to uid {os.geteuid()}"):
        require_private(state, uid=os.geteuid() + 1)


async def test_a_path_too_long_for_a_socket_is_told_as_one(state: Path) -> None:
    cluster = Cluster(state / ("x" * 120))
    with pytest.raises(StartError, match=r"longer than the 107 bytes.*shorter --state"):
        await serve(cluster.settings, cluster.clock)
