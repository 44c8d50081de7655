"""Refusals as gRPC statuses: the only place where an `ErrorCode` becomes a status.

A refusal's message is `CODE: detail. public text` (BAD_REQUEST: its detail alone), one line of
bounded length, because a detail may quote what a stranger sent and a status travels in a header.
Anything that is not a `ClusterError` is our own fault: it is logged with its traceback and shown as
INTERNAL, without detail.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from vfio_contract.address import check_name
from vfio_contract.errors import CATALOGUE, ClusterError, ErrorCode

log = logging.getLogger("vfio-coordinator")

MAX_DETAIL = 500
"""Characters of a detail; gRPC refuses headers over 8 KB and the caller would see only that."""

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Servicer, Request, Context], Awaitable[Response]]


def message_of(code: ErrorCode, detail: str, *, node: str = "") -> str:
    """What the caller reads; begins with the stable code.

    The public text is left out where it says less than any detail does. Commands in it are about
    `node`, where that is what the request named.
    """
    said = _one_line(detail).rstrip(".")
    if code is ErrorCode.BAD_REQUEST and said.strip():
        return f"{code}: {said}"
    text = CATALOGUE[code].text
    return f"{code}: {said}. {text.replace('NODE', node or 'NODE')}"


def status_of(code: ErrorCode) -> grpc.StatusCode:
    """The status that the catalogue gives the code."""
    return grpc.StatusCode[CATALOGUE[code].status]


async def refuse(context: Context, error: ClusterError, *, node: str = "") -> NoReturn:
    """End the call with this refusal; `node` is the one that was asked about."""
    await context.abort(status_of(error.code), message_of(error.code, error.detail, node=node))
    raise AssertionError("abort returned")


def answering(method: Method[Servicer, Request, Response]) -> Method[Servicer, Request, Response]:
    """A unary method whose ClusterErrors become statuses."""

    @functools.wraps(method)
    async def call(servicer: Servicer, request: Request, context: Context) -> Response:
        try:
            return await method(servicer, request, context)
        except ClusterError as error:
            refusal = error
        except Exception:
            log.exception("%s failed", method.__name__)
            refusal = ClusterError(ErrorCode.INTERNAL, method.__name__)
        await refuse(context, refusal, node=_node_of(request))

    return call


def _node_of(request: object) -> str:
    """The node that a request is about, "" for none and for what is no name."""
    try:
        return check_name(getattr(request, "node", ""), field="node")
    except ValueError:
        return ""


def _one_line(text: str) -> str:
    """Printable, without lone surrogates, and not too long for a header."""
    if len(text) > MAX_DETAIL:
        text = f"{text[:MAX_DETAIL]}... ({len(text)} characters)"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
