"""VMs that need devices: placed, released, listed and explained. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.codec import from_message, to_message
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.views import Decision, PlaceRequest, VmView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import Frame, named, printable
from vfio_coordinator.peer import Role
from vfio_coordinator.state import report
from vfio_coordinator.state.events import PlaceRequested, ReleaseRequested
from vfio_coordinator.state.explain import explain, placed_as
from vfioctl.v1 import cluster_pb2 as wire

MAX_TEXT = 128
"""Characters of a model or an id in a request."""


class Vms(Frame):
    """See the module."""

    @answering
    async def PlaceVm(self, request: wire.PlaceVmRequest, context: Context) -> wire.PlaceVmResponse:
        """Decide, and reserve unless it is a dry run."""
        dry_run = request.request.dry_run
        actor = self.require(context, Role.VIEWER if dry_run else Role.OPERATOR)
        wanted = _place_request(from_message(PlaceRequest, request.request))
        decision = await self.runtime.ask(
            Decision, lambda ticket: PlaceRequested(ticket=ticket, request=wanted, actor=actor)
        )
        return wire.PlaceVmResponse(decision=to_message(decision))

    @answering
    async def ReleaseVm(
        self, request: wire.ReleaseVmRequest, context: Context
    ) -> wire.ReleaseVmResponse:
        """Free a VM's claim."""
        actor = self.require(context, Role.OPERATOR)
        vm = named(request.vm, "vm")
        view = await self.runtime.ask(
            VmView, lambda ticket: ReleaseRequested(ticket=ticket, vm=vm, actor=actor)
        )
        return wire.ReleaseVmResponse(vm=to_message(view))

    @answering
    async def ListVms(self, request: wire.ListVmsRequest, context: Context) -> wire.ListVmsResponse:
        """All VMs with a claim."""
        self.require(context, Role.VIEWER)
        vms = report.vm_views(self.runtime.state, self.clock.now())
        return wire.ListVmsResponse(vms=[to_message(vm) for vm in vms])

    @answering
    async def ExplainVm(
        self, request: wire.ExplainVmRequest, context: Context
    ) -> wire.ExplainVmResponse:
        """Why a VM is where it is, or why nothing fits."""
        self.require(context, Role.VIEWER)
        vm = named(request.vm, "vm")
        state = self.runtime.state
        decision, view = explain(state, vm, self.clock.now())
        placed = placed_as(state, vm)
        return wire.ExplainVmResponse(
            decision=to_message(decision),
            vm=None if view is None else to_message(view),
            placed=None if placed is None else to_message(placed),
        )


def _place_request(request: PlaceRequest) -> PlaceRequest:
    """Its texts are sane; whether it makes sense is for the state to say."""
    named(request.vm, "vm")
    for number, device in enumerate(request.devices):
        printable(device.model, f"devices[{number}].model", MAX_TEXT)
    printable(request.request_id, "request_id", MAX_TEXT)
    if not request.request_id and not request.dry_run:
        raise ClusterError(ErrorCode.BAD_REQUEST, "request_id is empty: a retry could not be told")
    return request
