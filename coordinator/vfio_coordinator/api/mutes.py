"""Who does not want to hear of which health code. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_contract.mute_views import MuteView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame
from vfio_coordinator.peer import Role
from vfio_coordinator.state.events import MuteRequested, UnmuteRequested
from vfio_coordinator.state.mutes import mute_views
from vfioctl.v1 import cluster_pb2 as wire


class Mutes(Frame):
    """See the module."""

    @answering
    async def AddMute(self, request: wire.AddMuteRequest, context: Context) -> wire.AddMuteResponse:
        """Keep a health code out of the roll-up for a while."""
        actor = self.require(context, Role.OPERATOR)
        view = await self.runtime.ask(
            MuteView,
            lambda ticket: MuteRequested(
                ticket=ticket,
                code=request.code,
                node=request.node,
                reason=request.reason,
                until=request.until,
                actor=actor,
            ),
        )
        return wire.AddMuteResponse(mute=to_message(view))

    @answering
    async def RemoveMute(
        self, request: wire.RemoveMuteRequest, context: Context
    ) -> wire.RemoveMuteResponse:
        """End a mute before its time."""
        actor = self.require(context, Role.OPERATOR)
        view = await self.runtime.ask(
            MuteView,
            lambda ticket: UnmuteRequested(
                ticket=ticket, code=request.code, node=request.node, actor=actor
            ),
        )
        return wire.RemoveMuteResponse(mute=to_message(view))

    @answering
    async def ListMutes(
        self, request: wire.ListMutesRequest, context: Context
    ) -> wire.ListMutesResponse:
        """The mutes in force."""
        self.require(context, Role.VIEWER)
        mutes = mute_views(self.runtime.state)
        return wire.ListMutesResponse(mutes=[to_message(mute) for mute in mutes])
