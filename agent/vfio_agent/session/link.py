"""One session with the coordinator, from Hello to its end.

The order of a session: Hello, Welcome, facts if the coordinator does not hold them, then the latest
observation, and a heartbeat whenever nothing else was said for an interval. The link must never
obey a coordinator that is older than one it has obeyed before: (cluster id, incarnation, epoch)
only grows, and the journal has it before the first word is said under it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import grpc

from vfio_agent.journal import Fence
from vfio_agent.session.outbox import Observed, Outbox
from vfio_contract.bundle import Bundle
from vfio_contract.codec import to_message
from vfio_contract.errors import ErrorCode
from vfio_contract.model import SCHEMA
from vfioctl.v1.session_pb2 import (
    Heartbeat,
    Hello,
    Inventory,
    InventoryWanted,
    Observation,
    SessionRequest,
    SessionResponse,
    Welcome,
)
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

WELCOME_TIMEOUT_S = 20.0
"""A coordinator that has not answered Hello by then is treated as gone."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024

CHANNEL_OPTIONS = (
    # keepalive_timeout_ms alone does not bound detection in grpcio 1.85 (measured 69 s); the
    # HTTP/2 ping timeout does. Together: a frozen coordinator is noticed within 10 s.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The link does its own back-off; gRPC's would add up to 120 s.
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)

_PERMANENT = frozenset(
    {
        ErrorCode.NODE_CLONED,
        ErrorCode.NODE_MISMATCH,
        ErrorCode.PROTOCOL_UNSUPPORTED,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.STORE_REWOUND,
    }
)
"""Refusals that only a person can lift."""


class Fences(Protocol):
    """Where the highest fence is kept: the journal."""

    def fence(self) -> Fence:
        """The highest fence obeyed."""

    def obey(self, fence: Fence) -> None:
        """Remember it durably."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a session ended. `welcomed` tells whether it had begun; `permanent` asks for a person."""

    reason: str
    welcomed: bool
    permanent: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What Welcome asks of the agent."""

    cluster_id: str
    epoch: int
    observation_interval_s: float


class _Closed:
    """Wakes the sender for the last time."""


_Wake = Welcome | InventoryWanted | Observed | _Closed | None


class Link:
    """Speaks one session at a time over a channel that it makes itself."""

    def __init__(
        self,
        *,
        node: str,
        endpoint: str,
        bundle: Bundle,
        version: str,
        state_id: str,
        outbox: Outbox,
        fences: Fences,
        on_terms: Callable[[Terms], None],
    ) -> None:
        self._node = node
        self._endpoint = endpoint
        self._bundle = bundle
        self._version = version
        self._state_id = state_id
        self._outbox = outbox
        self._fences = fences
        self._on_terms = on_terms
        self._channel: grpc.Channel | None = None

    def close(self) -> None:
        """End the running session from another thread."""
        channel = self._channel
        if channel is not None:
            channel.close()

    def run(self) -> Ended:
        """Connect, speak until the session ends, and say why it did."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._bundle.ca,
            private_key=self._bundle.key,
            certificate_chain=self._bundle.certificate,
        )
        with grpc.secure_channel(self._endpoint, credentials, options=CHANNEL_OPTIONS) as channel:
            self._channel = channel
            try:
                return self.speak(AgentSessionServiceStub(channel))
            except ValueError as error:
                # grpc raises it for a call on a channel that close() has just closed
                return Ended(f"closed: {error}", welcomed=False, permanent=False)
            finally:
                self._channel = None

    def speak(self, stub: AgentSessionServiceStub) -> Ended:
        """One session over `stub`."""
        inbox: queue.SimpleQueue[_Wake] = queue.SimpleQueue()
        welcomed = False
        self._outbox.attach(lambda: inbox.put(None))
        call = stub.Session(self._requests(inbox))
        try:
            for response in call:
                if response.HasField("welcome"):
                    refusal = self._obey(response.welcome)
                    if refusal is not None:
                        return refusal
                    welcomed = True
                self._take(response, inbox)
        except grpc.RpcError as error:
            return _ended(error, welcomed=welcomed)
        finally:
            self._outbox.attach(None)
            inbox.put(_Closed())
            call.cancel()
        return Ended("the coordinator ended the session", welcomed=welcomed, permanent=False)

    def _take(self, response: SessionResponse, inbox: queue.SimpleQueue[_Wake]) -> None:
        if response.HasField("welcome"):
            welcome = response.welcome
            self._on_terms(
                Terms(welcome.cluster_id, welcome.epoch, welcome.observation_interval_ms / 1000)
            )
            inbox.put(welcome)
        elif response.HasField("inventory_wanted"):
            inbox.put(response.inventory_wanted)

    def _obey(self, welcome: Welcome) -> Ended | None:
        known = self._fences.fence()
        offered = Fence(welcome.cluster_id, welcome.incarnation, welcome.epoch)
        if known.cluster_id and known.cluster_id != offered.cluster_id:
            return Ended(
                f"this agent belongs to cluster {known.cluster_id}, the coordinator speaks for "
                f"{offered.cluster_id}; to move the host, remove the agent's state directory",
                welcomed=False,
                permanent=True,
            )
        if (offered.incarnation, offered.epoch) < (known.incarnation, known.epoch):
            return Ended(
                f"STORE_REWOUND: the coordinator is at incarnation {offered.incarnation} epoch "
                f"{offered.epoch}, this agent has obeyed {known.incarnation} epoch {known.epoch}",
                welcomed=False,
                permanent=True,
            )
        if offered != known:
            self._fences.obey(offered)
        return None

    def _requests(self, inbox: queue.SimpleQueue[_Wake]) -> Iterator[SessionRequest]:
        first = self._outbox.latest()
        yield SessionRequest(hello=self._hello(first))
        try:
            welcome = _first_welcome(inbox)
        except queue.Empty:
            return
        if welcome is None:
            return
        interval_s = max(0.1, welcome.heartbeat_interval_ms / 1000)
        held = first.digest if first is not None and welcome.inventory_held else ""
        sequence = 0
        fresh = True
        while True:
            latest = self._outbox.latest()
            if fresh and latest is not None:
                if latest.digest != held:
                    yield SessionRequest(inventory=_inventory(latest))
                    held = latest.digest
                sequence += 1
                yield SessionRequest(observation=_observation(latest, sequence))
            try:
                item = inbox.get(timeout=interval_s)
            except queue.Empty:
                fresh = False
                yield SessionRequest(heartbeat=Heartbeat(sequence=sequence))
                continue
            if isinstance(item, _Closed):
                return
            if isinstance(item, InventoryWanted):
                held = ""
            fresh = True

    def _hello(self, latest: Observed | None) -> Hello:
        known = self._fences.fence()
        return Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            node=self._node,
            boot_id=latest.boot_id if latest is not None else "",
            product_uuid=latest.product_uuid if latest is not None else "",
            agent_state_id=self._state_id,
            inventory_digest=latest.digest if latest is not None else "",
            agent_version=self._version,
            highest_incarnation=known.incarnation,
            highest_epoch=known.epoch,
            cluster_id=known.cluster_id,
        )


def _first_welcome(inbox: queue.SimpleQueue[_Wake]) -> Welcome | None:
    deadline = time.monotonic() + WELCOME_TIMEOUT_S
    while True:
        item = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        if isinstance(item, Welcome):
            return item
        if isinstance(item, _Closed):
            return None


def _inventory(observed: Observed) -> Inventory:
    return Inventory(digest=observed.digest, facts_zlib=observed.facts_zlib, schema=SCHEMA)


def _observation(observed: Observed, sequence: int) -> Observation:
    return Observation(
        sequence=sequence,
        inventory_digest=observed.digest,
        readings_zlib=observed.readings_zlib,
        findings=[to_message(finding) for finding in observed.findings],
        age_ms=max(0, int((time.monotonic() - observed.at_s) * 1000)),
        checks_version=observed.checks_version,
    )


def _ended(error: grpc.RpcError, *, welcomed: bool) -> Ended:
    """grpc raises its own call objects; they answer code() and details()."""
    code = getattr(error, "code", lambda: None)()
    details = getattr(error, "details", lambda: "")() or ""
    status = "UNKNOWN" if code is None else code.name
    word = details.partition(":")[0]
    return Ended(
        f"{status}: {details}", welcomed=welcomed, permanent=word in {str(c) for c in _PERMANENT}
    )
