"""What the cluster may do by itself, shown and set. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import to_message
from vfio_contract.policy import PolicyView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame
from vfio_coordinator.peer import Role
from vfio_coordinator.state.events import PolicySetRequested
from vfio_coordinator.state.policy import policy_view
from vfioctl.v1 import cluster_pb2 as wire


class Policies(Frame):
    """See the module."""

    @answering
    async def GetPolicy(
        self, request: wire.GetPolicyRequest, context: Context
    ) -> wire.GetPolicyResponse:
        """Every setting."""
        self.require(context, Role.VIEWER)
        view = policy_view(self.runtime.state)
        return wire.GetPolicyResponse(settings=[to_message(s) for s in view.settings])

    @answering
    async def SetPolicy(
        self, request: wire.SetPolicyRequest, context: Context
    ) -> wire.SetPolicyResponse:
        """Change settings, all of them or none."""
        actor = self.require(context, Role.ADMIN)
        changes = tuple((change.name, change.value) for change in request.changes)
        view = await self.runtime.ask(
            PolicyView,
            lambda ticket: PolicySetRequested(ticket=ticket, changes=changes, actor=actor),
        )
        return wire.SetPolicyResponse(settings=[to_message(s) for s in view.settings])
