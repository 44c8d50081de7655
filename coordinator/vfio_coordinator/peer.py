"""Who is calling: from a TLS connection to a node or a user, or a typed refusal.

A certificate names its owner in exactly one URI SAN, `vfioctl://node/<name>` or
`vfioctl://user/<name>?role=<role>`. One URI, not a second one for the role: then a certificate
cannot hold two roles, and a text is either the whole identity or none. The role in a certificate is
the most its user can ever do; a store may lower it per call, never raise it.

What `auth_context()` really holds, measured on grpcio 1.85.1, grpc.aio and grpc alike, server with
`require_client_auth=True`; every value is a list of bytes:

    transport_security_type          b"ssl"
    ssl_tls_version                  b"TLSv1.3" (a Python ssl peer held to 1.2 gives b"TLSv1.2")
    peer_uri                         every URI SAN, in the certificate's order
    x509_subject_alternative_name    every SAN of any kind as text: a DNS name that looks like a URI
                                     stands here too, so identity is never read from it
    x509_common_name, x509_subject, x509_pem_cert, x509_pem_cert_chain
    security_level                   b"TSI_PRIVACY_AND_INTEGRITY"
    ssl_session_reused               b"true" on a resumed session: all of the above is there as
                                     well, but gRPC does not look at the certificate's dates again

grpcio cannot set a minimum TLS version and accepts 1.2, so `identify` and `RequireTls13` both
refuse what is not 1.3. A resumed session and a long stream outlive a certificate: pass `now`.

This module must never guess: an absent property is a refusal.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from vfio_contract.address import NodeName, check_name
from vfio_contract.bundle import Bundle, BundleError, validity

TLS_VERSION = "TLSv1.3"
"""The only version spoken, as BoringSSL writes it (RFC 8446)."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_IDENTITY = re.compile(r"vfioctl://(?:node/([^/?#]+)|user/([^/?#]+)\?role=([a-z]+))")


class Role(Enum):
    """What a user may do. It has no order of its own on purpose (as texts, admin < viewer)."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


def may(role: Role, needed: Role) -> bool:
    """True where `role` includes `needed`: viewer < operator < admin."""
    return _RANK[role] >= _RANK[needed]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """An agent that may speak for this node and no other. ValueError for a bad name."""

    name: NodeName

    def __post_init__(self) -> None:
        check_name(self.name, field="node name")

    @property
    def uri(self) -> str:
        return f"vfioctl://node/{self.name}"

    def __str__(self) -> str:
        """As the event log names it."""
        return f"node:{self.name}"


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """A person or a program of theirs. ValueError for a bad name."""

    name: str
    role: Role

    def __post_init__(self) -> None:
        check_name(self.name, field="user name")

    @property
    def uri(self) -> str:
        return f"vfioctl://user/{self.name}?role={self.role.value}"

    def __str__(self) -> str:
        """As the event log names it."""
        return f"user:{self.name}"


Identity = NodeIdentity | UserIdentity


class Doubt(Enum):
    """Why a peer has no identity."""

    OLD_TLS = "the connection is not TLSv1.3"
    NO_CERTIFICATE = "the peer showed no certificate that was verified"
    NO_IDENTITY = "the certificate names no identity (URI SAN)"
    SEVERAL_IDENTITIES = "the certificate names more than one identity"
    BAD_IDENTITY = "the certificate's identity is not one of ours"
    NOT_VALID_NOW = "the certificate has expired or is not valid yet"


class Unidentified(Exception):
    """The peer is nobody we know: `reason` for code, `detail` for people."""

    def __init__(self, reason: Doubt, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class PeerContext(Protocol):
    """The part of a `grpc` or `grpc.aio` ServicerContext that says who is calling."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def identify(context: PeerContext, *, now: datetime | None = None) -> Identity:
    """Who is calling, or Unidentified with the reason.

    gRPC has verified chain, purpose and dates at the handshake. With `now` (aware) the dates are
    judged again, which a resumed session or a stream of many days needs.
    """
    properties = context.auth_context()
    version = tls_version(properties)
    if version != TLS_VERSION:
        raise Unidentified(Doubt.OLD_TLS, version or "no TLS")
    certificate = b"".join(properties.get("x509_pem_cert", ()))
    if not certificate:
        raise Unidentified(Doubt.NO_CERTIFICATE)
    if now is not None:
        _require_valid(certificate, now)
    uris = tuple(properties.get("peer_uri", ()))
    if not uris:
        raise Unidentified(Doubt.NO_IDENTITY)
    if len(uris) > 1:
        raise Unidentified(Doubt.SEVERAL_IDENTITIES, f"{len(uris)} URIs")
    return parse_identity(uris[0].decode("ascii", errors="backslashreplace"))


def parse_identity(uri: str) -> Identity:
    """The identity that a URI SAN names; Unidentified(BAD_IDENTITY) for anything else."""
    match = _IDENTITY.fullmatch(uri)
    if match is None:
        raise Unidentified(Doubt.BAD_IDENTITY, ascii(uri[:120]))
    node, user, role = match.groups()
    try:
        if node is not None:
            return NodeIdentity(NodeName(node))
        return UserIdentity(user, Role(role))
    except ValueError as error:
        raise Unidentified(Doubt.BAD_IDENTITY, str(error)) from None


def tls_version(properties: Mapping[str, Iterable[bytes]]) -> str:
    """`TLSv1.3` and the like from an auth context; "" where the connection is not TLS."""
    values = tuple(properties.get("ssl_tls_version", ()))
    return values[0].decode("ascii", errors="replace") if len(values) == 1 else ""


def server_credentials(
    bundle: Bundle, news: Callable[[], Bundle | None] = lambda: None
) -> grpc.ServerCredentials:
    """Credentials of a port that only peers with a certificate of the bundle's CA can use.

    `news` is asked before each handshake, on a thread of gRPC's: a bundle takes the place of the
    one before it, None keeps that. Connections that are open stay as they are.

    In one place because the flag decides it all: with `require_client_authentication=False` gRPC
    asks for no certificate and everybody gets in.
    """

    def fetch() -> Any:  # the stubs do not know that None keeps what there is
        renewed = news()
        return None if renewed is None else _configuration(renewed)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(bundle), fetch, require_client_authentication=True
    )


def _configuration(bundle: Bundle) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(bundle.key, bundle.certificate)], root_certificates=bundle.ca
    )


class RequireTls13(grpc.aio.ServerInterceptor):
    """Refuses every call whose connection is not TLS 1.3, with UNAUTHENTICATED, before its handler.

    It judges every port of its server, so a plain or Unix-socket port needs a server of its own.
    Handlers must be `async def`, with or without `yield`; another kind is a TypeError, because
    grpc.aio would run it on a thread, where this cannot look first.
    """

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None],
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # an unknown method, which gRPC answers by itself
            return None
        asks = "stream" if handler.request_streaming else "unary"
        answers = "stream" if handler.response_streaming else "unary"
        kind = f"{asks}_{answers}"
        guarded: grpc.RpcMethodHandler[_Request, _Response] = getattr(
            grpc, f"{kind}_rpc_method_handler"
        )(
            _guard(getattr(handler, kind)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return guarded


def _guard(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with the look at the connection before it, of the same kind as it was."""
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await _refuse_old_tls(context)
            # Closed here and not by the collector, so that the handler's `finally` runs in time.
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        return stream
    if inspect.iscoroutinefunction(behaviour):

        async def call(request: Any, context: Any) -> Any:
            await _refuse_old_tls(context)
            return await behaviour(request, context)

        return call
    raise TypeError(f"{behaviour!r} is not async: RequireTls13 cannot look before it runs")


async def _refuse_old_tls(context: Any) -> None:
    version = tls_version(context.auth_context())
    if version != TLS_VERSION:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            f"{TLS_VERSION} is required; this connection uses {version or 'no TLS'}",
        )


def _require_valid(certificate: bytes, now: datetime) -> None:
    try:
        span = validity(certificate)
    except BundleError as error:
        raise Unidentified(Doubt.NO_CERTIFICATE, str(error)) from None
    if not span.not_before <= now <= span.not_after:
        raise Unidentified(
            Doubt.NOT_VALID_NOW,
            f"valid {span.not_before:%Y-%m-%dT%H:%M:%SZ} to {span.not_after:%Y-%m-%dT%H:%M:%SZ}",
        )
