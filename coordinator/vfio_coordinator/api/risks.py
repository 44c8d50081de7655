"""Who carries which risk of a node, why and until when. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_contract.views import RiskView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame
from vfio_coordinator.peer import Role
from vfio_coordinator.state import report
from vfio_coordinator.state.events import RiskAcceptRequested, RiskRevokeRequested
from vfioctl.v1 import cluster_pb2 as wire


class Risks(Frame):
    """See the module."""

    @answering
    async def AcceptRisk(
        self, request: wire.AcceptRiskRequest, context: Context
    ) -> wire.AcceptRiskResponse:
        """Record who carries a risk of a node, why and until when."""
        actor = self.require(context, Role.OPERATOR)
        view = await self.runtime.ask(
            RiskView,
            lambda ticket: RiskAcceptRequested(
                ticket=ticket,
                node=request.node,
                code=request.code,
                reason=request.reason,
                until=request.until,
                actor=actor,
            ),
        )
        return wire.AcceptRiskResponse(risk=to_message(view))

    @answering
    async def RevokeRisk(
        self, request: wire.RevokeRiskRequest, context: Context
    ) -> wire.RevokeRiskResponse:
        """End a risk decision before its day."""
        actor = self.require(context, Role.OPERATOR)
        view = await self.runtime.ask(
            RiskView,
            lambda ticket: RiskRevokeRequested(
                ticket=ticket, node=request.node, code=request.code, id=request.id, actor=actor
            ),
        )
        return wire.RevokeRiskResponse(risk=to_message(view))

    @answering
    async def ListRisks(
        self, request: wire.ListRisksRequest, context: Context
    ) -> wire.ListRisksResponse:
        """The last decision about each risk."""
        self.require(context, Role.VIEWER)
        state = self.runtime.state
        node = report.find_node(state, request.node) if request.node else ""
        risks = report.risk_views(state, node)
        return wire.ListRisksResponse(risks=[to_message(risk) for risk in risks])
