"""The hosts of the cluster: shown, cordoned and let in again. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_contract.views import NodeView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import MAX_REASON, Frame, printable
from vfio_coordinator.peer import Role
from vfio_coordinator.state import report
from vfio_coordinator.state.events import CordonRequested, UncordonRequested
from vfioctl.v1 import cluster_pb2 as wire


class Nodes(Frame):
    """See the module."""

    @answering
    async def ListNodes(
        self, request: wire.ListNodesRequest, context: Context
    ) -> wire.ListNodesResponse:
        """All nodes, worst first."""
        self.require(context, Role.VIEWER)
        nodes = report.node_views(self.runtime.state, self.clock.now())
        return wire.ListNodesResponse(nodes=[to_message(node) for node in nodes])

    @answering
    async def GetNode(self, request: wire.GetNodeRequest, context: Context) -> wire.GetNodeResponse:
        """One node with detail."""
        self.require(context, Role.VIEWER)
        view = report.node_view(self.runtime.state, request.node, self.clock.now())
        return wire.GetNodeResponse(node=to_message(view))

    @answering
    async def CordonNode(
        self, request: wire.CordonNodeRequest, context: Context
    ) -> wire.CordonNodeResponse:
        """Keep new VMs off a node."""
        actor = self.require(context, Role.OPERATOR)
        reason = printable(request.reason, "reason", MAX_REASON)
        view = await self.runtime.ask(
            NodeView,
            lambda ticket: CordonRequested(
                ticket=ticket, node=request.node, actor=actor, reason=reason
            ),
        )
        return wire.CordonNodeResponse(node=to_message(view))

    @answering
    async def UncordonNode(
        self, request: wire.UncordonNodeRequest, context: Context
    ) -> wire.UncordonNodeResponse:
        """Lift a node's cordons."""
        actor = self.require(context, Role.OPERATOR)
        view = await self.runtime.ask(
            NodeView,
            lambda ticket: UncordonRequested(ticket=ticket, node=request.node, actor=actor),
        )
        return wire.UncordonNodeResponse(node=to_message(view))
