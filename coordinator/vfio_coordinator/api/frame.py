"""What every part of `ClusterServicer` stands on: who asks, whether they may, and sane texts.

The caller's role is looked at before anything else.
"""

from __future__ import annotations

from collections.abc import Callable

from vfio_contract.address import check_name
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.api.errors import Context
from vfio_coordinator.clock import Clock, wall_time
from vfio_coordinator.peer import Role, Unidentified, UserIdentity, identify, may
from vfio_coordinator.runtime import Runtime
from vfioctl.v1.cluster_pb2_grpc import ClusterServiceServicer

MAX_REASON = 500
"""Characters of a reason that a person gives."""

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


class Frame(ClusterServiceServicer):
    """`who` tells the caller from the connection; it differs between TLS and the Unix socket."""

    def __init__(self, runtime: Runtime, clock: Clock, who: Identify) -> None:
        self.runtime = runtime
        self.clock = clock
        self._who = who

    def require(self, context: Context, role: Role) -> str:
        """The caller's name. Raises ClusterError PERMISSION_DENIED for a lesser role."""
        user = self._who(context, self.clock)
        if not may(user.role, role):
            raise ClusterError(
                ErrorCode.PERMISSION_DENIED,
                f"{user} is {user.role.value}, this needs {role.value}",
            )
        return user.name


def named(text: str, field: str) -> str:
    """A name as the whole cluster takes it, else BAD_REQUEST."""
    try:
        return check_name(text, field=field)
    except ValueError as error:
        raise ClusterError(ErrorCode.BAD_REQUEST, str(error)) from error


def printable(text: str, field: str, limit: int) -> str:
    """One printable line, else BAD_REQUEST."""
    if len(text) > limit or not text.isprintable():
        raise ClusterError(
            ErrorCode.BAD_REQUEST, f"{field} is not one printable line of at most {limit}"
        )
    return text
