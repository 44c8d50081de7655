"""A coordinator's end of the agents' stream that does only what a test tells it.

    with RecordingCoordinator(bundle) as coordinator:
        stream = coordinator.next_stream()
        stream.hear("hello")
        stream.welcome(epoch=3)

Real gRPC, real mutual TLS, port 0. Every wait has a deadline and fails with what was missing. It
must never answer, read ahead or end a stream by itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

from vfio_contract.bundle import Bundle
from vfio_contract.errors import ErrorCode
from vfio_coordinator.api.errors import message_of, status_of
from vfio_coordinator.peer import server_credentials
from vfioctl.v1.session_pb2 import (
    Acknowledged,
    InventoryWanted,
    SessionRequest,
    SessionResponse,
    Welcome,
)
from vfioctl.v1.session_pb2_grpc import (
    AgentSessionServiceServicer,
    add_AgentSessionServiceServicer_to_server,
)

DEADLINE_S = 30.0
"""Ends a hung test; none depends on how long anything takes."""

CLUSTER = "cluster-a"

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    # Agents ping every 5 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Stream:
    """One session as the coordinator sees it. `ended` is set once the call is over.

    That the agent has said its last word (`hear_the_end`) does not end it by itself.
    """

    def __init__(self, requests: Iterator[SessionRequest], context: Any) -> None:
        self.ended = threading.Event()
        self._requests = requests
        self._context = context
        self._heard: queue.SimpleQueue[SessionRequest | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[SessionResponse | None] = queue.SimpleQueue()
        self._refusal: tuple[grpc.StatusCode, str] | None = None
        self._may_read = threading.Event()
        self._may_read.set()
        if not context.add_callback(self._gone):
            self._gone()
        threading.Thread(target=self._read, daemon=True).start()

    # --- what a test does -----------------------------------------------------------------------

    def hear(self, *kinds: str, beats: bool = False) -> Any:
        """The body of the next message, which must be one of `kinds`.

        Heartbeats in between are left out unless `beats`.
        """
        while True:
            try:
                request = self._heard.get(timeout=DEADLINE_S)
            except queue.Empty:
                raise AssertionError(f"waited for {kinds}, and nothing came") from None
            assert request is not None, f"waited for {kinds}, and the agent ended the stream"
            kind = request.WhichOneof("body")
            if kind == "heartbeat" and not beats and kind not in kinds:
                continue
            assert kind in kinds, f"waited for {kinds}, heard {kind}"
            return getattr(request, str(kind))

    def hear_the_end(self) -> list[str]:
        """The kinds of the messages before the agent's end of the stream."""
        kinds = []
        while (request := self._heard.get(timeout=DEADLINE_S)) is not None:
            kinds.append(str(request.WhichOneof("body")))
        return kinds

    @property
    def silent(self) -> bool:
        """True when nothing is there that a test has not heard."""
        return self._heard.empty()

    def stop_reading(self) -> None:
        """From the next message on, leave what the agent says in its hands."""
        self._may_read.clear()

    def go_on_reading(self) -> None:
        """Undo `stop_reading`."""
        self._may_read.set()

    def welcome(self, *, held: bool = False, **changes: Any) -> None:
        """Accept the session; heartbeats and observations come rarely unless `changes` say more."""
        values: dict[str, Any] = {
            "protocol": 1,
            "cluster_id": CLUSTER,
            "incarnation": 1,
            "epoch": 1,
            "heartbeat_interval_ms": 60_000,
            "observation_interval_ms": 60_000,
            "inventory_held": held,
        }
        self.say(SessionResponse(welcome=Welcome(**values | changes)))

    def acknowledge(self, sequence: int) -> None:
        """Say that an observation is in the cluster state."""
        self.say(SessionResponse(acknowledged=Acknowledged(sequence=sequence)))

    def want_inventory(self, digest: str) -> None:
        """Ask for the facts."""
        self.say(SessionResponse(inventory_wanted=InventoryWanted(digest=digest)))

    def say(self, response: SessionResponse) -> None:
        """Send any message."""
        self._said.put(response)

    def end(self) -> None:
        """End the session in good order."""
        self._said.put(None)

    def refuse(self, code: ErrorCode, detail: str = "because of a test") -> None:
        """End the session as the coordinator's API does."""
        self.abort(status_of(code), message_of(code, detail))

    def abort(self, status: grpc.StatusCode, message: str) -> None:
        """End the session with any status."""
        self._refusal = (status, message)
        self._said.put(None)

    # --- the servicer's side --------------------------------------------------------------------

    def responses(self) -> Iterator[SessionResponse]:
        """What to send, until a test ends it or the agent goes."""
        while (response := self._said.get()) is not None:
            yield response
        if self._refusal is not None:
            self._context.abort(*self._refusal)

    def _read(self) -> None:
        try:
            for request in self._requests:
                self._heard.put(request)
                self._may_read.wait(DEADLINE_S)
        except grpc.RpcError:
            pass  # the agent cancelled; the context says so
        except Exception:
            # grpc's server raises a bare Exception out of a request iterator whose call is over
            if self._context.is_active():
                raise
        finally:
            self._heard.put(None)

    def _gone(self) -> None:
        self._said.put(None)
        self._may_read.set()
        self.ended.set()


class _Servicer(AgentSessionServiceServicer):
    def __init__(self) -> None:
        self.streams: queue.SimpleQueue[Stream] = queue.SimpleQueue()

    def Session(self, request_iterator: Any, context: Any) -> Iterator[SessionResponse]:
        stream = Stream(request_iterator, context)
        self.streams.put(stream)
        yield from stream.responses()


class RecordingCoordinator:
    """A server for agents; `endpoint` is where it listens."""

    def __init__(self, bundle: Bundle, *, port: int = 0) -> None:
        self._servicer = _Servicer()
        # a thread for each open session: as many as any test has
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, options=_OPTIONS)
        add_AgentSessionServiceServicer_to_server(self._servicer, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{port}", server_credentials(bundle))
        self.endpoint = f"127.0.0.1:{self.port}"
        self._server.start()

    def next_stream(self) -> Stream:
        """The next session that an agent opens."""
        try:
            return self._servicer.streams.get(timeout=DEADLINE_S)
        except queue.Empty:
            raise AssertionError("no agent opened a session") from None

    @property
    def idle(self) -> bool:
        """True when no session was opened that the test has not taken."""
        return self._servicer.streams.empty()

    def stop(self) -> None:
        """Go away at once, as a killed coordinator does."""
        self._server.stop(None).wait(DEADLINE_S)
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
