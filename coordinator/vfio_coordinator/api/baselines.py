"""What a node was accepted as. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_contract.views import BaselineView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame
from vfio_coordinator.peer import Role
from vfio_coordinator.state import report
from vfio_coordinator.state.events import BaselineAcceptRequested
from vfioctl.v1 import cluster_pb2 as wire


class Baselines(Frame):
    """See the module."""

    @answering
    async def AcceptBaseline(
        self, request: wire.AcceptBaselineRequest, context: Context
    ) -> wire.AcceptBaselineResponse:
        """Accept a node's present facts as known-good."""
        actor = self.require(context, Role.OPERATOR)
        view = await self.runtime.ask(
            BaselineView,
            lambda ticket: BaselineAcceptRequested(ticket=ticket, node=request.node, actor=actor),
        )
        return wire.AcceptBaselineResponse(baseline=to_message(view))

    @answering
    async def GetBaseline(
        self, request: wire.GetBaselineRequest, context: Context
    ) -> wire.GetBaselineResponse:
        """The baseline and what differs from it now."""
        self.require(context, Role.VIEWER)
        view = report.baseline_view(self.runtime.state, request.node)
        return wire.GetBaselineResponse(baseline=to_message(view))
