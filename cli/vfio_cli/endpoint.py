"""Where the coordinator is: a Unix socket on this host, or host:port with a credential bundle.

From `--endpoint`, `VFIOCTL_ENDPOINT`, the bundle's own endpoint, or the state directory of this
host's coordinator, in this order. Nothing here connects to anything. The bundle's
module is imported where it is needed: it brings OpenSSL along, and a local check has its options
from here too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from vfio_cli.exits import Mistake
from vfio_cli.tree import is_one_file

SOCKET_FILE = "api.sock"
MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path, without the closing zero (unix(7))."""

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`socket` for this host's coordinator, else `address` (host:port) with `bundle`."""

    socket: Path | None
    address: str
    bundle: Path | None

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else self.address


def state_root(environ: Mapping[str, str], *, uid: int) -> Path:
    """/var/lib/vfioctl for root, else below the user's own state directory."""
    if uid == 0:
        return Path("/var/lib/vfioctl")
    home = environ.get("XDG_STATE_HOME") or os.path.join(
        environ.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return Path(home) / "vfioctl"


def coordinator_state(environ: Mapping[str, str], *, uid: int) -> Path:
    """The coordinator's state directory on this host."""
    named = environ.get("VFIOCTL_STATE")
    return Path(named) if named else state_root(environ, uid=uid) / "coordinator"


def resolve(
    endpoint: str | None, tls: str | None, *, environ: Mapping[str, str], uid: int
) -> Endpoint:
    """The endpoint to use; Mistake names the option and the fix."""
    text = endpoint or environ.get("VFIOCTL_ENDPOINT") or ""
    directory = tls or environ.get("VFIOCTL_TLS") or ""
    if text.startswith("unix:"):
        return _socket(Path(text.removeprefix("unix:")))
    if not text and directory:
        text = _bundle_endpoint(Path(directory))
    if not text:
        return _socket(coordinator_state(environ, uid=uid) / SOCKET_FILE)
    from vfio_contract.bundle import BundleError, parse_endpoint

    try:
        address = parse_endpoint(text)
    except BundleError:
        raise Mistake(f"--endpoint {text!r} is neither host:port nor unix:/path/api.sock") from None
    if not directory:
        raise Mistake(
            f"--endpoint {address} needs a credential bundle: add --tls DIR (ca.pem cert.pem "
            "key.pem), or set VFIOCTL_TLS"
        )
    return Endpoint(socket=None, address=address, bundle=Path(directory))


def _socket(path: Path) -> Endpoint:
    path = path.absolute()
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise Mistake(
            f"--endpoint unix:{path} is longer than {MAX_SOCKET_PATH} bytes: choose a shorter "
            "state directory (--state, VFIOCTL_STATE)"
        )
    return Endpoint(socket=path, address="", bundle=None)


def _bundle_endpoint(directory: Path) -> str:
    from vfio_contract.bundle import ENDPOINT_FILE, BundleError, parse_endpoint, read_file

    try:
        data, _ = read_file(directory / ENDPOINT_FILE)
        return parse_endpoint(data.decode("utf-8", errors="replace"))
    except FileNotFoundError:
        raise Mistake(
            f"--tls {directory} names no coordinator (no file {ENDPOINT_FILE}): add "
            "--endpoint HOST:PORT"
        ) from None
    except BundleError as error:
        raise Mistake(f"--tls {directory}: {error}") from None


def coordinator_options(command: Command) -> Command:
    """`--endpoint` and `--tls` for every command that asks the coordinator."""
    command = click.option(
        "--tls",
        metavar="DIR",
        hidden=is_one_file(),
        help="Credential bundle: ca.pem cert.pem key.pem [env: VFIOCTL_TLS].",
    )(command)
    return click.option(
        "--endpoint",
        metavar="WHERE",
        hidden=is_one_file(),
        help="Coordinator, unix:/path/api.sock or host:port [env: VFIOCTL_ENDPOINT; else this "
        "host's].",
    )(command)
