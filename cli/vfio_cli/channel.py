"""The way to the coordinator: its channel, and what to say when a call on it fails.

Every failure becomes one line that says what to do, and an exit code: the coordinator cannot be
reached 3, it refused 2, it did not understand or knows no such name 64. The wire is `client`'s.
"""

from __future__ import annotations

import os
import typing
from datetime import UTC, datetime
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: it logs connection failures

import grpc

from vfio_cli.endpoint import Endpoint
from vfio_cli.exits import FAILURE, UNKNOWN, USAGE, Stop
from vfio_cli.screens.layout import clean
from vfio_contract.bundle import BundleError, load_bundle

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

_NO_SUCH_NAME = "UNKNOWN_"
"""How the codes of refused names begin; other things that are not found exist but for a part."""


def open_channel(where: Endpoint) -> grpc.Channel:
    """To a socket, or over TLS; Stop says why there is none."""
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


def stop_of(error: Any, where: str) -> Stop:
    """What a failed call amounts to."""
    code, details = error.code(), clean(str(error.details() or ""))
    status = _EXIT_CODES.get(code, FAILURE)
    if _has_code(details):
        word = details.partition(":")[0]
        if code is grpc.StatusCode.NOT_FOUND and word.startswith(_NO_SUCH_NAME):
            status = USAGE
        return Stop(details, status=status, code=word)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        said = "it does not know this request: upgrade the coordinator to this version"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        said = (
            f"no answer within {DEADLINE_S:.0f}s: it is overloaded or frozen; a change may still "
            "have been made, look before you try again"
        )
    elif code is grpc.StatusCode.UNAVAILABLE:
        said = f"cannot be reached: is it running? vfioctl up ({_last_words(details)})"
    else:
        said = (
            "the call broke off; a change may still have been made, look before you try again "
            f"({_last_words(details) or code.name})"
        )
    return Stop(f"coordinator {where}: {said}", status=status)


def _has_code(details: str) -> bool:
    """True for our own refusals, `CODE: detail. public text`."""
    head, mark, _ = details.partition(": ")
    return bool(mark) and head.replace("_", "").isalpha() and head.isupper()


def _last_words(details: str) -> str:
    """gRPC nests its causes; the last one is what people can act on."""
    text = details.rsplit("; last error: ", 1)[-1].rsplit("connections to all backends failing", 1)
    return text[-1].strip(" ;")[:160]
