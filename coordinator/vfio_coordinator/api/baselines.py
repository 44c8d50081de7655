"""What each node was accepted as, its history, and facts to compare. Part of `ClusterServicer`."""

from __future__ import annotations

from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.codec import to_message
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.views import BaselineView
from vfio_coordinator.api.errors import Context, answering
from vfio_coordinator.api.frame import MAX_REASON, Frame, printable
from vfio_coordinator.peer import Role
from vfio_coordinator.state.baseline_report import (
    baseline_rows,
    baseline_view,
    find_baseline,
    present_facts,
)
from vfio_coordinator.state.events import BaselineAcceptRequested
from vfioctl.v1 import cluster_pb2 as wire


class Baselines(Frame):
    """See the module."""

    @answering
    async def AcceptBaseline(
        self, request: wire.AcceptBaselineRequest, context: Context
    ) -> wire.AcceptBaselineResponse:
        """Accept a node's present facts as known-good, or say what is broken."""
        actor = self.require(context, Role.OPERATOR)
        reason = printable(request.reason, "reason", MAX_REASON)
        answer = await self.runtime.ask(
            object,
            lambda ticket: BaselineAcceptRequested(
                ticket=ticket,
                node=request.node,
                actor=actor,
                force=request.force,
                reason=reason,
                digest=request.digest,
            ),
        )
        match answer:
            case BaselineView(node=node):
                return wire.AcceptBaselineResponse(node=node, baseline=to_message(answer))
            case BaselineRefusal(node=node, problems=problems):
                rows = [to_message(problem) for problem in problems]
                return wire.AcceptBaselineResponse(node=node, problems=rows)
        raise TypeError(f"the state answered {answer!r}")

    @answering
    async def GetBaseline(
        self, request: wire.GetBaselineRequest, context: Context
    ) -> wire.GetBaselineResponse:
        """The baseline in force and what differs from it now."""
        self.require(context, Role.VIEWER)
        view = baseline_view(self.runtime.state, request.node)
        return wire.GetBaselineResponse(baseline=to_message(view))

    @answering
    async def ListBaselines(
        self, request: wire.ListBaselinesRequest, context: Context
    ) -> wire.ListBaselinesResponse:
        """Every acceptance that is kept."""
        self.require(context, Role.VIEWER)
        node, rows = baseline_rows(self.runtime.state, request.node)
        return wire.ListBaselinesResponse(node=node, rows=[to_message(row) for row in rows])

    @answering
    async def GetBaselineFacts(
        self, request: wire.GetBaselineFactsRequest, context: Context
    ) -> wire.GetBaselineFactsResponse:
        """The facts of the baseline in force."""
        self.require(context, Role.OPERATOR)
        node, baseline = find_baseline(self.runtime.state, request.node)
        if baseline.facts_zlib is None:
            raise ClusterError(ErrorCode.NO_ARTIFACT, f"baseline of {node.name}")
        return wire.GetBaselineFactsResponse(
            node=node.name, digest=baseline.record.digest, facts_zlib=baseline.facts_zlib
        )

    @answering
    async def GetNodeFacts(
        self, request: wire.GetNodeFactsRequest, context: Context
    ) -> wire.GetNodeFactsResponse:
        """A node's facts as last received."""
        self.require(context, Role.OPERATOR)
        node, inventory, why = present_facts(self.runtime.state, request.node)
        return wire.GetNodeFactsResponse(
            node=node.name, digest=inventory.digest, facts_zlib=inventory.facts_zlib, why=why
        )
