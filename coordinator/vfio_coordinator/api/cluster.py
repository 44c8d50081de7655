"""What people and scripts ask: one thin method a request, checked for role and for sane texts.

Reads are pure functions of the present state; changes are events whose answer comes after their
commit. No method here decides. What concerns one subject is in that subject's module; here they are
put together, with what concerns the cluster as a whole.
"""

from __future__ import annotations

import logging

from vfio_contract.codec import to_message
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.api.baselines import Baselines
from vfio_coordinator.api.commands import Commands
from vfio_coordinator.api.devices import Devices
from vfio_coordinator.api.errors import Context, answering, refuse
from vfio_coordinator.api.forecast import Forecasts
from vfio_coordinator.api.frame import Identify
from vfio_coordinator.api.incidents import Incidents
from vfio_coordinator.api.mutes import Mutes
from vfio_coordinator.api.nodes import Nodes
from vfio_coordinator.api.policy import Policies
from vfio_coordinator.api.risks import Risks
from vfio_coordinator.api.vms import Vms
from vfio_coordinator.api.watch import Watching, tell_resume
from vfio_coordinator.clock import Clock
from vfio_coordinator.peer import Role
from vfio_coordinator.runtime import Runtime
from vfio_coordinator.state import report
from vfioctl.v1 import cluster_pb2 as wire

log = logging.getLogger("vfio-coordinator")


class ClusterServicer(
    Nodes, Vms, Baselines, Policies, Risks, Mutes, Incidents, Forecasts, Devices, Commands
):
    """See the module."""

    def __init__(self, runtime: Runtime, clock: Clock, who: Identify) -> None:
        super().__init__(runtime, clock, who)
        self._watching = Watching(runtime.publisher, clock)

    @answering
    async def GetStatus(
        self, request: wire.GetStatusRequest, context: Context
    ) -> wire.GetStatusResponse:
        """Health, nodes, counts, VMs and recent events."""
        self.require(context, Role.VIEWER)
        status = report.status(
            self.runtime.state, self.clock.now(), coordinator=self.runtime.coordinator
        )
        return wire.GetStatusResponse(status=to_message(status))

    @answering
    async def ListEvents(
        self, request: wire.ListEventsRequest, context: Context
    ) -> wire.ListEventsResponse:
        """Events after a number, oldest first."""
        self.require(context, Role.VIEWER)
        node = report.find_node(self.runtime.state, request.node) if request.node else ""
        events, last = report.list_events(
            self.runtime.state, after_seq=request.after_seq, limit=request.limit, node=node
        )
        return wire.ListEventsResponse(events=[to_message(e) for e in events], last_seq=last)

    # grpc takes a coroutine that writes as well; only that one can stop waiting for its reader.
    async def Watch(  # type: ignore[override]
        self, request: wire.WatchRequest, context: Context
    ) -> None:
        """What changes, as it changes."""
        try:
            self.require(context, Role.VIEWER)
            node = report.find_node(self.runtime.state, request.node) if request.node else ""
            await self._watching.stream(
                request, context, node=node, require=lambda: self.require(context, Role.VIEWER)
            )
        except ClusterError as error:
            refusal = error
        except Exception:
            log.exception("Watch failed")
            refusal = ClusterError(ErrorCode.INTERNAL, "Watch")
        tell_resume(context, refusal)
        await refuse(context, refusal)
