"""What people and scripts ask: one thin method a request, checked for role and for sane texts.

Reads are pure functions of the present state; changes are events whose answer comes after their
commit. The caller's role is looked at before anything else, and no method here decides.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from vfio_contract.address import check_name
from vfio_contract.artifact import compress, encode
from vfio_contract.codec import from_message, to_message
from vfio_contract.command import LOOKS
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.parts import Parts, read_readings
from vfio_contract.views import (
    BaselineView,
    CommandView,
    Decision,
    NodeView,
    PlaceRequest,
    RiskView,
    VmView,
)
from vfio_coordinator.api.errors import Context, answering, refuse
from vfio_coordinator.api.watch import Watching, tell_resume
from vfio_coordinator.clock import Clock, wall_time
from vfio_coordinator.peer import Role, Unidentified, UserIdentity, identify, may
from vfio_coordinator.runtime import Runtime
from vfio_coordinator.state import report
from vfio_coordinator.state.command_waits import (
    artifact_of,
    command_views,
    report_of,
)
from vfio_coordinator.state.events import (
    BaselineAcceptRequested,
    CommandAwaited,
    CommandRequested,
    CordonRequested,
    PlaceRequested,
    ReleaseRequested,
    RiskAcceptRequested,
    RiskRevokeRequested,
    UncordonRequested,
)
from vfio_coordinator.state.explain import explain, placed_as
from vfioctl.v1 import cluster_pb2 as wire
from vfioctl.v1.cluster_pb2_grpc import ClusterServiceServicer

log = logging.getLogger("vfio-coordinator")

MAX_TEXT = 128
"""Characters of a model or an id in a request."""

MAX_WAIT_S = 15.0
"""For a command's end in one call; less than a call may take (`runtime.CALL_TIMEOUT_S`)."""

_ID_BYTES = 6

MAX_REASON = 500
MAX_EVENTS = 1_000

Identify = Callable[[Context, Clock], UserIdentity]


def identify_tls_user(context: Context, clock: Clock) -> UserIdentity:
    """The user in the client certificate; nodes may not ask."""
    try:
        identity = identify(context, now=wall_time(clock))
    except Unidentified as error:
        raise ClusterError(ErrorCode.UNAUTHENTICATED, str(error)) from error
    if not isinstance(identity, UserIdentity):
        raise ClusterError(ErrorCode.PERMISSION_DENIED, f"{identity} is a node, not a user")
    return identity


def identify_local_admin(_context: Context, _clock: Clock) -> UserIdentity:
    """Whoever reaches the Unix socket: its directory is open to the coordinator's owner only."""
    return UserIdentity("local", Role.ADMIN)


class ClusterServicer(ClusterServiceServicer):
    """`who` tells the caller from the connection; it differs between TLS and the Unix socket."""

    def __init__(self, runtime: Runtime, clock: Clock, who: Identify) -> None:
        self._runtime = runtime
        self._clock = clock
        self._who = who
        self._watching = Watching(runtime.publisher, clock)

    def _require(self, context: Context, role: Role) -> str:
        user = self._who(context, self._clock)
        if not may(user.role, role):
            raise ClusterError(
                ErrorCode.PERMISSION_DENIED,
                f"{user} is {user.role.value}, this needs {role.value}",
            )
        return user.name

    @answering
    async def GetStatus(
        self, request: wire.GetStatusRequest, context: Context
    ) -> wire.GetStatusResponse:
        """Health, nodes, counts, VMs and recent events."""
        self._require(context, Role.VIEWER)
        status = report.status(
            self._runtime.state, self._clock.now(), coordinator=self._runtime.coordinator
        )
        return wire.GetStatusResponse(status=to_message(status))

    @answering
    async def ListNodes(
        self, request: wire.ListNodesRequest, context: Context
    ) -> wire.ListNodesResponse:
        """All nodes, worst first."""
        self._require(context, Role.VIEWER)
        nodes = report.node_views(self._runtime.state, self._clock.now())
        return wire.ListNodesResponse(nodes=[to_message(node) for node in nodes])

    @answering
    async def GetNode(self, request: wire.GetNodeRequest, context: Context) -> wire.GetNodeResponse:
        """One node with detail."""
        self._require(context, Role.VIEWER)
        view = report.node_view(self._runtime.state, request.node, self._clock.now())
        return wire.GetNodeResponse(node=to_message(view))

    @answering
    async def CordonNode(
        self, request: wire.CordonNodeRequest, context: Context
    ) -> wire.CordonNodeResponse:
        """Keep new VMs off a node."""
        actor = self._require(context, Role.OPERATOR)
        reason = _printable(request.reason, "reason", MAX_REASON)
        view = await self._runtime.ask(
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
        actor = self._require(context, Role.OPERATOR)
        view = await self._runtime.ask(
            NodeView,
            lambda ticket: UncordonRequested(ticket=ticket, node=request.node, actor=actor),
        )
        return wire.UncordonNodeResponse(node=to_message(view))

    @answering
    async def PlaceVm(self, request: wire.PlaceVmRequest, context: Context) -> wire.PlaceVmResponse:
        """Decide, and reserve unless it is a dry run."""
        dry_run = request.request.dry_run
        actor = self._require(context, Role.VIEWER if dry_run else Role.OPERATOR)
        wanted = _place_request(from_message(PlaceRequest, request.request))
        decision = await self._runtime.ask(
            Decision, lambda ticket: PlaceRequested(ticket=ticket, request=wanted, actor=actor)
        )
        return wire.PlaceVmResponse(decision=to_message(decision))

    @answering
    async def ReleaseVm(
        self, request: wire.ReleaseVmRequest, context: Context
    ) -> wire.ReleaseVmResponse:
        """Free a VM's claim."""
        actor = self._require(context, Role.OPERATOR)
        vm = _name(request.vm, "vm")
        view = await self._runtime.ask(
            VmView, lambda ticket: ReleaseRequested(ticket=ticket, vm=vm, actor=actor)
        )
        return wire.ReleaseVmResponse(vm=to_message(view))

    @answering
    async def ListVms(self, request: wire.ListVmsRequest, context: Context) -> wire.ListVmsResponse:
        """All VMs with a claim."""
        self._require(context, Role.VIEWER)
        vms = report.vm_views(self._runtime.state, self._clock.now())
        return wire.ListVmsResponse(vms=[to_message(vm) for vm in vms])

    @answering
    async def ExplainVm(
        self, request: wire.ExplainVmRequest, context: Context
    ) -> wire.ExplainVmResponse:
        """Why a VM is where it is, or why nothing fits."""
        self._require(context, Role.VIEWER)
        vm = _name(request.vm, "vm")
        state = self._runtime.state
        decision, view = explain(state, vm, self._clock.now())
        placed = placed_as(state, vm)
        return wire.ExplainVmResponse(
            decision=to_message(decision),
            vm=None if view is None else to_message(view),
            placed=None if placed is None else to_message(placed),
        )

    @answering
    async def AcceptBaseline(
        self, request: wire.AcceptBaselineRequest, context: Context
    ) -> wire.AcceptBaselineResponse:
        """Accept a node's present facts as known-good."""
        actor = self._require(context, Role.OPERATOR)
        view = await self._runtime.ask(
            BaselineView,
            lambda ticket: BaselineAcceptRequested(ticket=ticket, node=request.node, actor=actor),
        )
        return wire.AcceptBaselineResponse(baseline=to_message(view))

    @answering
    async def GetBaseline(
        self, request: wire.GetBaselineRequest, context: Context
    ) -> wire.GetBaselineResponse:
        """The baseline and what differs from it now."""
        self._require(context, Role.VIEWER)
        view = report.baseline_view(self._runtime.state, request.node)
        return wire.GetBaselineResponse(baseline=to_message(view))

    @answering
    async def AcceptRisk(
        self, request: wire.AcceptRiskRequest, context: Context
    ) -> wire.AcceptRiskResponse:
        """Record who carries a risk of a node, why and until when."""
        actor = self._require(context, Role.OPERATOR)
        view = await self._runtime.ask(
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
        actor = self._require(context, Role.OPERATOR)
        view = await self._runtime.ask(
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
        self._require(context, Role.VIEWER)
        state = self._runtime.state
        node = report.find_node(state, request.node) if request.node else ""
        risks = report.risk_views(state, node)
        return wire.ListRisksResponse(risks=[to_message(risk) for risk in risks])

    @answering
    async def ListEvents(
        self, request: wire.ListEventsRequest, context: Context
    ) -> wire.ListEventsResponse:
        """Events after a number, oldest first."""
        self._require(context, Role.VIEWER)
        limit = request.limit if 0 < request.limit <= MAX_EVENTS else MAX_EVENTS
        node = report.find_node(self._runtime.state, request.node) if request.node else ""
        events, last = report.list_events(
            self._runtime.state, after_seq=request.after_seq, limit=limit, node=node
        )
        return wire.ListEventsResponse(events=[to_message(e) for e in events], last_seq=last)

    @answering
    async def RunCommand(
        self, request: wire.RunCommandRequest, context: Context
    ) -> wire.RunCommandResponse:
        """Have a node's agent do something; answers once that is durable."""
        actor = self._require(context, Role.OPERATOR if request.verb in LOOKS else Role.ADMIN)
        view = await self._runtime.ask(
            CommandView,
            lambda ticket: CommandRequested(
                ticket=ticket,
                id=secrets.token_hex(_ID_BYTES),
                node=request.node,
                verb=request.verb,
                address=request.address,
                actor=actor,
                unit=request.unit,
            ),
        )
        return wire.RunCommandResponse(command=to_message(view))

    @answering
    async def GetCommand(
        self, request: wire.GetCommandRequest, context: Context
    ) -> wire.GetCommandResponse:
        """One command, and how it ended."""
        self._require(context, Role.VIEWER)
        wait_s = min(request.wait_ms / 1_000, MAX_WAIT_S)
        view = await self._runtime.ask(
            CommandView,
            lambda ticket: CommandAwaited(ticket=ticket, id=request.id, wait_s=wait_s),
        )
        report = report_of(self._runtime.state, view.id)
        return wire.GetCommandResponse(command=to_message(view), report=report)

    @answering
    async def ListCommands(
        self, request: wire.ListCommandsRequest, context: Context
    ) -> wire.ListCommandsResponse:
        """The newest commands."""
        self._require(context, Role.VIEWER)
        views = command_views(self._runtime.state, request.node)
        return wire.ListCommandsResponse(commands=[to_message(view) for view in views])

    @answering
    async def GetArtifact(
        self, request: wire.GetArtifactRequest, context: Context
    ) -> wire.GetArtifactResponse:
        """What a look saw."""
        self._require(context, Role.OPERATOR)
        held = artifact_of(self._runtime.state, request.id)
        readings = await asyncio.to_thread(_readings_of, held.parts)
        return wire.GetArtifactResponse(
            node=held.node,
            digest=held.digest,
            facts_zlib=held.facts_zlib,
            readings_zlib=readings,
        )

    # grpc takes a coroutine that writes as well; only that one can stop waiting for its reader.
    async def Watch(  # type: ignore[override]
        self, request: wire.WatchRequest, context: Context
    ) -> None:
        """What changes, as it changes."""
        try:
            self._require(context, Role.VIEWER)
            node = report.find_node(self._runtime.state, request.node) if request.node else ""
            await self._watching.stream(
                request, context, node=node, require=lambda: self._require(context, Role.VIEWER)
            )
        except ClusterError as error:
            refusal = error
        except Exception:
            log.exception("Watch failed")
            refusal = ClusterError(ErrorCode.INTERNAL, "Watch")
        tell_resume(context, refusal)
        await refuse(context, refusal)


def _readings_of(parts: Parts) -> bytes:
    return compress(encode(read_readings(parts.lines())))


def _name(text: str, field: str) -> str:
    try:
        return check_name(text, field=field)
    except ValueError as error:
        raise ClusterError(ErrorCode.BAD_REQUEST, str(error)) from error


def _printable(text: str, field: str, limit: int) -> str:
    if len(text) > limit or not text.isprintable():
        raise ClusterError(
            ErrorCode.BAD_REQUEST, f"{field} is not one printable line of at most {limit}"
        )
    return text


def _place_request(request: PlaceRequest) -> PlaceRequest:
    """Its texts are sane; whether it makes sense is for the state to say."""
    _name(request.vm, "vm")
    for number, device in enumerate(request.devices):
        _printable(device.model, f"devices[{number}].model", MAX_TEXT)
    _printable(request.request_id, "request_id", MAX_TEXT)
    if not request.request_id and not request.dry_run:
        raise ClusterError(ErrorCode.BAD_REQUEST, "request_id is empty: a retry could not be told")
    return request
