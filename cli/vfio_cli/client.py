"""The coordinator's client: the only module of the command line that knows the wire.

Values in, values out; how a call ends that fails is `channel`'s.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: it logs connection failures

import grpc

from vfio_cli.channel import DEADLINE_S, open_channel, stop_of
from vfio_cli.endpoint import resolve
from vfio_cli.exits import UNKNOWN, Stop
from vfio_cli.terminal import progress
from vfio_contract.baseline_views import BaselineProblem, BaselineRefusal, BaselineRow
from vfio_contract.codec import from_message, to_message
from vfio_contract.errors import CURSOR_METADATA, ErrorCode
from vfio_contract.forecast_views import ForecastView
from vfio_contract.incident_views import IncidentView
from vfio_contract.ledger_views import DeviceHistory
from vfio_contract.mute_views import MuteView
from vfio_contract.policy import PolicySetting
from vfio_contract.views import (
    BaselineView,
    ClusterChange,
    ClusterStatus,
    CommandView,
    Decision,
    Event,
    NodeView,
    Placement,
    PlaceRequest,
    RiskView,
    VmView,
    WatchCursor,
    WatchKind,
)
from vfioctl.v1 import cluster_pb2 as wire
from vfioctl.v1.cluster_pb2_grpc import ClusterServiceStub

_WAITING = 4
"""Changes of a stream that wait for whoever reads it, of up to 1,000 rows each."""

_LOOK_S = 0.2
"""How soon a reader that waits for room sees that its stream was closed."""


class Coordinator:
    """One open connection; every method is one call."""

    def __init__(self, channel: grpc.Channel, where: str) -> None:
        self._stub = ClusterServiceStub(channel)
        self._where = where

    def status(self) -> ClusterStatus:
        """The whole cluster."""
        answer = self._call(self._stub.GetStatus, wire.GetStatusRequest())
        return from_message(ClusterStatus, answer.status)

    def list_nodes(self) -> tuple[NodeView, ...]:
        """All nodes, worst first."""
        answer = self._call(self._stub.ListNodes, wire.ListNodesRequest())
        return tuple(from_message(NodeView, node) for node in answer.nodes)

    def show_node(self, node: str) -> NodeView:
        """One node with detail; a unique prefix will do."""
        answer = self._call(self._stub.GetNode, wire.GetNodeRequest(node=node))
        return from_message(NodeView, answer.node)

    def cordon(self, node: str, *, reason: str) -> NodeView:
        """Keep new VMs off a node."""
        request = wire.CordonNodeRequest(node=node, reason=reason)
        return from_message(NodeView, self._call(self._stub.CordonNode, request).node)

    def uncordon(self, node: str) -> NodeView:
        """Lift a node's cordons."""
        request = wire.UncordonNodeRequest(node=node)
        return from_message(NodeView, self._call(self._stub.UncordonNode, request).node)

    def place(self, request: PlaceRequest) -> Decision:
        """Decide and, unless it is a dry run, reserve."""
        message = wire.PlaceVmRequest(request=to_message(request))
        return _decision(self._call(self._stub.PlaceVm, message).decision)

    def release(self, vm: str) -> VmView:
        """Free a VM's claim."""
        answer = self._call(self._stub.ReleaseVm, wire.ReleaseVmRequest(vm=vm))
        return from_message(VmView, answer.vm)

    def list_vms(self) -> tuple[VmView, ...]:
        """All VMs with a claim."""
        answer = self._call(self._stub.ListVms, wire.ListVmsRequest())
        return tuple(from_message(VmView, vm) for vm in answer.vms)

    def explain(self, vm: str) -> tuple[Decision, VmView | None, Placement | None]:
        """Why a VM is where it is, or why nothing fits; and what was proved when it was placed."""
        answer = self._call(self._stub.ExplainVm, wire.ExplainVmRequest(vm=vm))
        view = from_message(VmView, answer.vm) if answer.HasField("vm") else None
        placed = from_message(Placement, answer.placed) if answer.HasField("placed") else None
        return _decision(answer.decision), view, placed

    def accept_baseline(
        self, node: str, *, force: bool = False, reason: str = "", digest: str = ""
    ) -> BaselineView | BaselineRefusal:
        """Accept a node's present facts as known-good; a broken host only by force."""
        request = wire.AcceptBaselineRequest(node=node, force=force, reason=reason, digest=digest)
        answer = self._call(self._stub.AcceptBaseline, request)
        if answer.HasField("baseline"):
            return from_message(BaselineView, answer.baseline)
        problems = tuple(from_message(BaselineProblem, p) for p in answer.problems)
        return BaselineRefusal(answer.node, problems)

    def list_baselines(self, node: str) -> tuple[str, tuple[BaselineRow, ...]]:
        """The node's full name and every acceptance that is kept, newest first."""
        answer = self._call(self._stub.ListBaselines, wire.ListBaselinesRequest(node=node))
        return answer.node, tuple(from_message(BaselineRow, row) for row in answer.rows)

    def baseline_facts(self, node: str) -> tuple[str, str, bytes]:
        """The node's full name, and digest and facts (zlib) of its baseline in force."""
        request = wire.GetBaselineFactsRequest(node=node)
        answer = self._call(self._stub.GetBaselineFacts, request)
        return answer.node, answer.digest, answer.facts_zlib

    def node_facts(self, node: str) -> tuple[str, str, bytes, str]:
        """The same of its facts as last received, and why they vouch for nothing ("": they do)."""
        answer = self._call(self._stub.GetNodeFacts, wire.GetNodeFactsRequest(node=node))
        return answer.node, answer.digest, answer.facts_zlib, answer.why

    def show_policy(self) -> tuple[PolicySetting, ...]:
        """Every setting."""
        answer = self._call(self._stub.GetPolicy, wire.GetPolicyRequest())
        return tuple(from_message(PolicySetting, s) for s in answer.settings)

    def set_policy(self, changes: Sequence[tuple[str, str]]) -> tuple[PolicySetting, ...]:
        """Change settings, all of them or none; every setting as it is then."""
        rows = [wire.PolicyChange(name=name, value=value) for name, value in changes]
        answer = self._call(self._stub.SetPolicy, wire.SetPolicyRequest(changes=rows))
        return tuple(from_message(PolicySetting, s) for s in answer.settings)

    def show_baseline(self, node: str) -> BaselineView:
        """The baseline and what differs from it."""
        request = wire.GetBaselineRequest(node=node)
        return from_message(BaselineView, self._call(self._stub.GetBaseline, request).baseline)

    def list_incidents(
        self, *, closed: bool, limit: int
    ) -> tuple[tuple[IncidentView, ...], int, str]:
        """Open ones worst first, or all newest first; how many there are; the present time."""
        request = wire.ListIncidentsRequest(all=closed, limit=limit)
        answer = self._call(self._stub.ListIncidents, request)
        rows = tuple(from_message(IncidentView, row) for row in answer.incidents)
        return rows, answer.total, answer.at

    def show_incident(self, id: str) -> tuple[IncidentView, str]:
        """One incident with its nodes, and the present time."""
        answer = self._call(self._stub.GetIncident, wire.GetIncidentRequest(id=id))
        return from_message(IncidentView, answer.incident), answer.at

    def ack_incident(self, id: str, *, reason: str) -> IncidentView:
        """Say that somebody has seen it."""
        request = wire.AckIncidentRequest(id=id, reason=reason)
        return from_message(IncidentView, self._call(self._stub.AckIncident, request).incident)

    def accept_risk(self, node: str, *, code: str, reason: str, until: str) -> RiskView:
        """Record who carries a risk of a node; `until` is a day or a duration, as typed."""
        request = wire.AcceptRiskRequest(node=node, code=code, reason=reason, until=until)
        return from_message(RiskView, self._call(self._stub.AcceptRisk, request).risk)

    def revoke_risk(self, *, node: str, code: str, risk_id: str) -> RiskView:
        """End a decision: by node and code, or by its id; what is not used is ""."""
        request = wire.RevokeRiskRequest(node=node, code=code, id=risk_id)
        return from_message(RiskView, self._call(self._stub.RevokeRisk, request).risk)

    def list_risks(self, node: str) -> tuple[RiskView, ...]:
        """The last decision about each risk, of one node or with "" of all."""
        answer = self._call(self._stub.ListRisks, wire.ListRisksRequest(node=node))
        return tuple(from_message(RiskView, risk) for risk in answer.risks)

    def add_mute(self, code: str, *, node: str, reason: str, until: str) -> MuteView:
        """Keep a health code out of the roll-up; node "" for all, until "" for the usual time."""
        request = wire.AddMuteRequest(code=code, node=node, reason=reason, until=until)
        return from_message(MuteView, self._call(self._stub.AddMute, request).mute)

    def remove_mute(self, code: str, *, node: str) -> MuteView:
        """End a mute; the one of all nodes with node ""."""
        request = wire.RemoveMuteRequest(code=code, node=node)
        return from_message(MuteView, self._call(self._stub.RemoveMute, request).mute)

    def list_mutes(self) -> tuple[MuteView, ...]:
        """The mutes in force, by code and node."""
        answer = self._call(self._stub.ListMutes, wire.ListMutesRequest())
        return tuple(from_message(MuteView, mute) for mute in answer.mutes)

    def forecast(self, *, bios: str, kernel: str, nodes: Sequence[str]) -> ForecastView:
        """What would happen to nodes (all without any named) with these versions."""
        request = wire.GetForecastRequest(bios=bios, kernel=kernel, nodes=nodes)
        return from_message(ForecastView, self._call(self._stub.GetForecast, request).forecast)

    def list_events(
        self, *, after_seq: int, limit: int, node: str
    ) -> tuple[tuple[Event, ...], int]:
        """Events after a number, oldest first, and the highest number of the log."""
        request = wire.ListEventsRequest(after_seq=after_seq, limit=limit, node=node)
        answer = self._call(self._stub.ListEvents, request)
        return tuple(from_message(Event, e) for e in answer.events), int(answer.last_seq)

    def watch(
        self, *, kinds: Sequence[WatchKind], cursor: WatchCursor | None = None, node: str = ""
    ) -> Changes:
        """A stream of what changes after a cursor; the caller closes it."""
        request = wire.WatchRequest(
            kinds=[wire.WatchKind.Value(f"WATCH_KIND_{kind.name}") for kind in kinds],
            cursor=None if cursor is None else to_message(cursor),
            node=node,
        )
        return Changes(self._stub.Watch(request), self._where)

    def run_command(
        self, node: str, *, verb: str, address: str = "", unit: str = ""
    ) -> CommandView:
        """Have a node do something; answered once that is durable, before it is done. `unit` is the
        id of the function's unit as it was shown, "" for whichever it is."""
        request = wire.RunCommandRequest(node=node, verb=verb, address=address, unit=unit)
        return from_message(CommandView, self._call(self._stub.RunCommand, request).command)

    def get_command(self, id: str, *, wait_s: float, doing: str) -> tuple[CommandView, bytes]:
        """A command and its report, after its end or that long; `doing` is shown meanwhile."""
        request = wire.GetCommandRequest(id=id, wait_ms=round(wait_s * 1000))
        answer = self._call(self._stub.GetCommand, request, doing=doing)
        return from_message(CommandView, answer.command), answer.report

    def device_history(self, node: str, device: str) -> DeviceHistory:
        """The resets of one function, by its address or identity."""
        request = wire.GetDeviceHistoryRequest(node=node, device=device)
        answer = self._call(self._stub.GetDeviceHistory, request)
        return from_message(DeviceHistory, answer.history)

    def artifact(self, id: str) -> tuple[str, bytes, bytes]:
        """Digest of the facts, facts and readings (zlib) that the look of this command saw."""
        answer = self._call(self._stub.GetArtifact, wire.GetArtifactRequest(id=id))
        return answer.digest, answer.facts_zlib, answer.readings_zlib

    def _call(self, method: Callable[..., Any], request: Any, *, doing: str = "") -> Any:
        try:
            with progress(doing or f"asking the coordinator at {self._where}"):
                return method(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            raise stop_of(error, self._where) from None


class Behind(Stop):
    """What followed the cursor is no longer kept; `resume` is the oldest place that still is."""

    def __init__(self, stop: Stop, resume: WatchCursor) -> None:
        super().__init__(stop.message, status=stop.status, code=stop.code)
        self.resume = resume


class Changes:
    """An open stream. What was received waits here; when that is much, no more is received."""

    def __init__(self, call: Any, where: str) -> None:
        self._call = call
        self._where = where
        self._queue: queue.Queue[ClusterChange | Stop] = queue.Queue(_WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> ClusterChange | None:
        """The next change, None for none within the timeout. Its end raises Stop, or Behind."""
        try:
            word = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(word, Stop):
            raise word
        return word

    def close(self) -> None:
        """Go away, whatever is still said."""
        self._closed.set()
        self._call.cancel()
        self._thread.join(DEADLINE_S)

    def _read(self) -> None:
        try:
            for message in self._call:
                self._hand_on(from_message(ClusterChange, message.change))
            self._hand_on(Stop(f"coordinator {self._where} ended the stream", status=UNKNOWN))
        except grpc.RpcError as error:
            self._hand_on(_stop_of_stream(error, self._where))

    def _hand_on(self, word: ClusterChange | Stop) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                return self._queue.put(word, timeout=_LOOK_S)


@contextmanager
def connect(endpoint: str | None, tls: str | None) -> Iterator[Coordinator]:
    """A connection to the coordinator; Mistake or Stop say why there is none."""
    where = resolve(endpoint, tls, environ=os.environ, uid=os.getuid())
    with open_channel(where) as channel:
        yield Coordinator(channel, str(where))


def _stop_of_stream(error: Any, where: str) -> Stop:
    stop = stop_of(error, where)
    if stop.code != ErrorCode.COMPACTED:
        return stop
    metadata = dict(error.trailing_metadata() or ())
    try:
        return Behind(stop, WatchCursor(*map(int, str(metadata[CURSOR_METADATA]).split("."))))
    except (KeyError, TypeError, ValueError):
        return stop


def _decision(message: Any) -> Decision:
    return from_message(Decision, message)
