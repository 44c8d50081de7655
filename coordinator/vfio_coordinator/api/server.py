"""The two servers of a coordinator: mutual TLS for the fleet, a Unix socket for its own host.

They are two because the TLS 1.3 rule fits every port of its server. The Unix socket lies in a
directory that only the coordinator's owner can enter; reaching it is being admin.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import grpc.aio

from vfio_coordinator.api.cluster import ClusterServicer
from vfio_coordinator.api.frame import (
    identify_local_admin,
    identify_tls_user,
)
from vfio_coordinator.api.session import SessionServicer
from vfio_coordinator.certificates import Certificates
from vfio_coordinator.clock import Clock
from vfio_coordinator.peer import RequireTls13, server_credentials
from vfio_coordinator.runtime import Runtime
from vfioctl.v1.cluster_pb2_grpc import add_ClusterServiceServicer_to_server
from vfioctl.v1.session_pb2_grpc import add_AgentSessionServiceServicer_to_server

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""One inventory of a 256-function host is about 30 KB compressed."""

OPTIONS = (
    # A frozen agent is noticed by its missing heartbeats; pings free the connection behind it.
    # keepalive_timeout_ms alone does not bound that in grpcio 1.85 (measured 69 s).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Agents ping every 5 s; without this the server answers with GOAWAY too_many_pings.
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # From the connection to its first HTTP/2 frame. Less would cut off agents in the queue of a
    # storm: 10,000 handshakes are 23 s of processor time.
    ("grpc.server_handshake_timeout_ms", 30_000),
    # A connection without a call. Agents have theirs open at once.
    ("grpc.max_connection_idle_ms", 60_000),
    # Of one connection. A user may have as many watchers on it as they may have at all, and ask.
    ("grpc.max_concurrent_streams", 1_024),
)

SOCKET_FILE = "api.sock"

MAX_SOCKET_PATH_BYTES = 107
"""Linux sun_path is 108 bytes with its closing zero (unix(7))."""


def make_tls_server(
    runtime: Runtime, clock: Clock, certificates: Certificates, address: str
) -> tuple[grpc.aio.Server, int]:
    """A server for agents and users on `address` (port 0 picks one), not started; its port.

    OSError where the address cannot be bound.
    """
    server = grpc.aio.server(interceptors=[RequireTls13()], options=OPTIONS)
    add_AgentSessionServiceServicer_to_server(SessionServicer(runtime, clock), server)
    add_ClusterServiceServicer_to_server(ClusterServicer(runtime, clock, identify_tls_user), server)
    credentials = server_credentials(certificates.bundle, certificates.news)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    return server, port


def require_private(directory: Path, *, uid: int) -> None:
    """PermissionError unless `uid` owns the directory and nobody else can enter it."""
    status = directory.stat()
    if status.st_mode & 0o077:
        raise PermissionError(
            f"{directory} is open to others (mode {stat.S_IMODE(status.st_mode):04o}), and who "
            f"reaches its {SOCKET_FILE} is admin: chmod 700 {directory}"
        )
    if status.st_uid != uid:
        raise PermissionError(
            f"{directory} belongs to uid {status.st_uid}, this process runs as {uid}: "
            "run as its owner, or choose another --state"
        )


def make_local_server(runtime: Runtime, clock: Clock, directory: Path) -> grpc.aio.Server:
    """A server on `directory`/api.sock, not started. `directory` is open to its owner only.

    OSError where the socket cannot be made.
    """
    require_private(directory, uid=os.geteuid())
    path = directory.absolute() / SOCKET_FILE
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise OSError(
            f"{path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path: "
            "choose a shorter --state"
        )
    path.unlink(missing_ok=True)
    server = grpc.aio.server(options=OPTIONS)
    add_ClusterServiceServicer_to_server(
        ClusterServicer(runtime, clock, identify_local_admin), server
    )
    before = os.umask(0o077)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(before)
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} is open to others in spite of the umask")
    return server
