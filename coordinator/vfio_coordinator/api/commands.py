"""What nodes are told to do, and what came of it. Part of `ClusterServicer`."""

from __future__ import annotations

import asyncio
import secrets

from vfio_contract.artifact import compress, encode
from vfio_contract.codec import to_message
from vfio_contract.command import LOOKS
from vfio_contract.parts import Parts, read_readings
from vfio_contract.views import CommandView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame
from vfio_coordinator.peer import Role
from vfio_coordinator.state.command_waits import artifact_of, command_views, report_of
from vfio_coordinator.state.events import CommandAwaited, CommandRequested
from vfioctl.v1 import cluster_pb2 as wire

MAX_WAIT_S = 15.0
"""For a command's end in one call; less than a call may take (`runtime.CALL_TIMEOUT_S`)."""

_ID_BYTES = 6


class Commands(Frame):
    """See the module."""

    @answering
    async def RunCommand(
        self, request: wire.RunCommandRequest, context: Context
    ) -> wire.RunCommandResponse:
        """Have a node's agent do something; answers once that is durable."""
        actor = self.require(context, Role.OPERATOR if request.verb in LOOKS else Role.ADMIN)
        view = await self.runtime.ask(
            CommandView,
            lambda ticket: CommandRequested(
                ticket=ticket,
                id=secrets.token_hex(_ID_BYTES),
                node=request.node,
                verb=request.verb,
                address=request.address,
                actor=actor,
                unit=request.unit,
            ),
        )
        return wire.RunCommandResponse(command=to_message(view))

    @answering
    async def GetCommand(
        self, request: wire.GetCommandRequest, context: Context
    ) -> wire.GetCommandResponse:
        """One command, and how it ended."""
        self.require(context, Role.VIEWER)
        wait_s = min(request.wait_ms / 1_000, MAX_WAIT_S)
        view = await self.runtime.ask(
            CommandView,
            lambda ticket: CommandAwaited(ticket=ticket, id=request.id, wait_s=wait_s),
        )
        report = report_of(self.runtime.state, view.id)
        return wire.GetCommandResponse(command=to_message(view), report=report)

    @answering
    async def ListCommands(
        self, request: wire.ListCommandsRequest, context: Context
    ) -> wire.ListCommandsResponse:
        """The newest commands."""
        self.require(context, Role.VIEWER)
        views = command_views(self.runtime.state, request.node)
        return wire.ListCommandsResponse(commands=[to_message(view) for view in views])

    @answering
    async def GetArtifact(
        self, request: wire.GetArtifactRequest, context: Context
    ) -> wire.GetArtifactResponse:
        """What a look saw."""
        self.require(context, Role.OPERATOR)
        held = artifact_of(self.runtime.state, request.id)
        readings = await asyncio.to_thread(_readings_of, held.parts)
        return wire.GetArtifactResponse(
            node=held.node,
            digest=held.digest,
            facts_zlib=held.facts_zlib,
            readings_zlib=readings,
        )


def _readings_of(parts: Parts) -> bytes:
    return compress(encode(read_readings(parts.lines())))
