"""The coordinator's client: the only module of the command line that knows gRPC and the wire.

Values in, values out. Every failure becomes one line that says what to do, and an exit code: the
coordinator cannot be reached 3, it refused 2, it did not understand or knows no such name 64.
"""

from __future__ import annotations

import os
import queue
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: it logs connection failures

import grpc

from vfio_cli.endpoint import Endpoint, resolve
from vfio_cli.exits import FAILURE, UNKNOWN, USAGE, Stop
from vfio_cli.screens.layout import clean
from vfio_cli.terminal import progress
from vfio_contract.bundle import BundleError, load_bundle
from vfio_contract.codec import from_message, to_message
from vfio_contract.errors import ErrorCode
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

DEADLINE_S = 10.0
"""For one call; a placement that waits for its commit is well within it."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""10,000 nodes in one status are about 5 MB."""

OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),
)

_EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: USAGE,
    grpc.StatusCode.UNAVAILABLE: UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNKNOWN,
    grpc.StatusCode.UNKNOWN: UNKNOWN,
    grpc.StatusCode.INTERNAL: UNKNOWN,
    grpc.StatusCode.CANCELLED: UNKNOWN,
}

CURSOR_METADATA = "vfioctl-cursor"

_WAITING = 4
"""Changes of a stream that wait for whoever reads it, of up to 1,000 rows each."""

_LOOK_S = 0.2
"""How soon a reader that waits for room sees that its stream was closed."""

_NO_SUCH_NAME = "UNKNOWN_"
"""How the codes of refused names begin; other things that are not found exist but for a part."""


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

    def accept_baseline(self, node: str) -> BaselineView:
        """Accept a node's present facts as known-good."""
        request = wire.AcceptBaselineRequest(node=node)
        return from_message(BaselineView, self._call(self._stub.AcceptBaseline, request).baseline)

    def show_baseline(self, node: str) -> BaselineView:
        """The baseline and what differs from it."""
        request = wire.GetBaselineRequest(node=node)
        return from_message(BaselineView, self._call(self._stub.GetBaseline, request).baseline)

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

    def artifact(self, id: str) -> tuple[str, bytes, bytes]:
        """Digest of the facts, facts and readings (zlib) that the look of this command saw."""
        answer = self._call(self._stub.GetArtifact, wire.GetArtifactRequest(id=id))
        return answer.digest, answer.facts_zlib, answer.readings_zlib

    def _call(self, method: Callable[..., Any], request: Any, *, doing: str = "") -> Any:
        try:
            with progress(doing or f"asking the coordinator at {self._where}"):
                return method(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            raise _stop(error, self._where) from None


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
    with _channel(where) as channel:
        yield Coordinator(channel, str(where))


def _channel(where: Endpoint) -> grpc.Channel:
    if where.socket is not None:
        _require_socket(where)
        return grpc.insecure_channel(f"unix:{where.socket}", options=OPTIONS)
    if where.bundle is None:
        raise AssertionError("an address always comes with a bundle")
    try:
        bundle = load_bundle(where.bundle, now=datetime.now(UTC))
    except BundleError as error:
        raise Stop(f"credentials in {where.bundle}: {error}", status=USAGE) from None
    credentials = grpc.ssl_channel_credentials(
        root_certificates=bundle.ca, private_key=bundle.key, certificate_chain=bundle.certificate
    )
    return grpc.secure_channel(where.address, credentials, options=OPTIONS)


def _require_socket(where: Endpoint) -> None:
    """Say at once what is wrong with the socket; gRPC would only say that it failed to connect."""
    path = typing.cast(Any, where.socket)
    try:
        os.stat(path)
    except FileNotFoundError:
        raise Stop(
            f"no coordinator here: {path} does not exist. Start one: vfioctl up; or name one: "
            "--endpoint unix:/path/api.sock or HOST:PORT, or VFIOCTL_STATE=DIR for one that was "
            "started with --state DIR",
            status=UNKNOWN,
        ) from None
    except OSError as error:
        raise Stop(
            f"{path}: {error.strerror}. Ask as the coordinator's owner (sudo), or over TLS: "
            "--endpoint HOST:PORT --tls DIR",
            status=UNKNOWN,
        ) from None
    if not os.access(path, os.R_OK | os.W_OK):
        raise Stop(
            f"{path}: Permission denied. Ask as the coordinator's owner (sudo), or over TLS: "
            "--endpoint HOST:PORT --tls DIR",
            status=UNKNOWN,
        )


def _stop(error: Any, where: str) -> Stop:
    code, details = error.code(), clean(str(error.details() or ""))
    status = _EXIT_CODES.get(code, FAILURE)
    if _has_code(details):
        word = details.partition(":")[0]
        if code is grpc.StatusCode.NOT_FOUND and word.startswith(_NO_SUCH_NAME):
            status = USAGE
        return Stop(details, status=status, code=word)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        details = "it does not know this request: upgrade the coordinator to this version"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = (
            f"no answer within {DEADLINE_S:.0f}s: it is overloaded or frozen; a change may still "
            "have been made, look before you try again"
        )
    elif code is grpc.StatusCode.UNAVAILABLE:
        details = f"cannot be reached ({_last_words(details)}): is it running? vfioctl up"
    return Stop(f"coordinator {where}: {details or code.name}", status=status)


def _stop_of_stream(error: Any, where: str) -> Stop:
    stop = _stop(error, where)
    if stop.code != ErrorCode.COMPACTED:
        return stop
    metadata = dict(error.trailing_metadata() or ())
    try:
        return Behind(stop, WatchCursor(*map(int, str(metadata[CURSOR_METADATA]).split("."))))
    except (KeyError, TypeError, ValueError):
        return stop


def _has_code(details: str) -> bool:
    """True for our own refusals, `CODE: detail. public text`."""
    head, mark, _ = details.partition(": ")
    return bool(mark) and head.replace("_", "").isalpha() and head.isupper()


def _last_words(details: str) -> str:
    """gRPC nests its causes; the last one is what people can act on."""
    text = details.rsplit("; last error: ", 1)[-1].rsplit("connections to all backends failing", 1)
    return text[-1].strip(" ;")[:160] or "no connection"


def _decision(message: Any) -> Decision:
    return from_message(Decision, message)
