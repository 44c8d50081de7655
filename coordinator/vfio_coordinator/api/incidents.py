"""Incidents: one cause seen on several nodes, listed, shown and acknowledged. Part of
`ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_contract.incident_views import IncidentView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import MAX_REASON, Frame, printable
from vfio_coordinator.peer import Role
from vfio_coordinator.state.events import IncidentAckRequested
from vfio_coordinator.state.incident_report import list_incidents, show_incident
from vfioctl.v1 import cluster_pb2 as wire


class Incidents(Frame):
    """See the module."""

    @answering
    async def ListIncidents(
        self, request: wire.ListIncidentsRequest, context: Context
    ) -> wire.ListIncidentsResponse:
        """Open incidents, worst first, or all, newest first."""
        self.require(context, Role.VIEWER)
        found, total = list_incidents(self.runtime.state, closed=request.all, limit=request.limit)
        return wire.ListIncidentsResponse(
            incidents=[to_message(view) for view in found], total=total, at=self.clock.now().utc
        )

    @answering
    async def GetIncident(
        self, request: wire.GetIncidentRequest, context: Context
    ) -> wire.GetIncidentResponse:
        """One incident with its nodes."""
        self.require(context, Role.VIEWER)
        view = show_incident(self.runtime.state, request.id)
        return wire.GetIncidentResponse(incident=to_message(view), at=self.clock.now().utc)

    @answering
    async def AckIncident(
        self, request: wire.AckIncidentRequest, context: Context
    ) -> wire.AckIncidentResponse:
        """Record that somebody has seen an incident."""
        actor = self.require(context, Role.OPERATOR)
        reason = printable(request.reason, "reason", MAX_REASON)
        view = await self.runtime.ask(
            IncidentView,
            lambda ticket: IncidentAckRequested(
                ticket=ticket, id=request.id, actor=actor, reason=reason
            ),
        )
        return wire.AckIncidentResponse(incident=to_message(view))
