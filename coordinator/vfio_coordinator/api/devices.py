"""The functions of the cluster's hosts, one by one. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame
from vfio_coordinator.peer import Role
from vfio_coordinator.state.reset_history import report_history
from vfioctl.v1 import cluster_pb2 as wire


class Devices(Frame):
    """See the module."""

    @answering
    async def GetDeviceHistory(
        self, request: wire.GetDeviceHistoryRequest, context: Context
    ) -> wire.GetDeviceHistoryResponse:
        """How the resets of a function went."""
        self.require(context, Role.VIEWER)
        history = report_history(self.runtime.state, request.node, request.device)
        return wire.GetDeviceHistoryResponse(history=to_message(history))
