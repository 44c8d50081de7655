"""The agent's way to its coordinator: a mutual TLS channel for each session.

A new channel each time, with the bundle as it is on disk now, so that a renewed certificate serves
the next session and no hidden reconnect of gRPC stands beside our own back-off. It must never speak
without TLS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

from vfio_agent.session.conversation import Conversation, Fences, Speaker, Terms
from vfio_agent.session.delivery import Events
from vfio_agent.session.ending import Ended
from vfio_agent.session.orders import Taker
from vfio_agent.session.outbox import Outbox
from vfio_contract.bundle import Bundle, BundleError
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""One inventory of a 256-function host is about 30 KB compressed."""

CHANNEL_OPTIONS = (
    # keepalive_timeout_ms alone does not bound detection in grpcio 1.85 (measured 69 s); the
    # HTTP/2 ping timeout does. Together: a frozen coordinator is noticed within 10 s.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The back-off is ours; gRPC's would add up to 120 s, also across channels that share a pool.
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # A proxy meant for the web is not on the way to the coordinator.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


class Link:
    """Holds one session at a time with one coordinator."""

    def __init__(
        self,
        *,
        endpoint: str,
        bundle: Callable[[], Bundle],
        speaker: Speaker,
        outbox: Outbox,
        fences: Fences,
        on_terms: Callable[[Terms], None],
        events: Events | None = None,
        on_rescan: Callable[[str], None] = lambda reason: None,
        taker: Taker | None = None,
    ) -> None:
        """`bundle` loads what to speak TLS with, for each session anew; `endpoint` is host:port."""
        self._endpoint = endpoint
        self._bundle = bundle
        self._speaker = speaker
        self._outbox = outbox
        self._fences = fences
        self._on_terms = on_terms
        self._events = events
        self._on_rescan = on_rescan
        self._taker = taker
        self._lock = threading.Lock()
        self._conversation: Conversation | None = None
        self._closed = False

    def close(self) -> None:
        """End the running session and all later ones, from any thread."""
        with self._lock:
            self._closed = True
            conversation = self._conversation
        if conversation is not None:
            conversation.close()

    def run(self) -> Ended:
        """Connect, speak until the session ends, and say why it did."""
        conversation = Conversation(
            speaker=self._speaker,
            outbox=self._outbox,
            fences=self._fences,
            on_terms=self._on_terms,
            events=self._events,
            on_rescan=self._on_rescan,
            taker=self._taker,
        )
        with self._lock:
            if self._closed:
                return Ended("closed by the agent")
            self._conversation = conversation
        try:
            bundle = self._bundle()
        except BundleError as error:
            return Ended(str(error), slow=True)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=bundle.ca,
            private_key=bundle.key,
            certificate_chain=bundle.certificate,
        )
        with grpc.secure_channel(self._endpoint, credentials, options=CHANNEL_OPTIONS) as channel:
            return conversation.run(AgentSessionServiceStub(channel))
