"""`python -m vfio_agent.network`: the half of the agent that talks to the coordinator.

It is never root and opens nothing of the host; what it tells is what hostd saw. hostd is reached at
a path (`--hostd`) or is the parent that started it (`--hostd-fd`), which then has its credentials
too. See `vfio_agent.process` for how it ends.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: what fails we say ourselves

from vfio_agent.daemon import Daemon, Settings
from vfio_agent.hostd.client import HostdEnded, HostdReplaced
from vfio_agent.process import (
    EXIT_FAILED,
    EXIT_USAGE,
    Parser,
    run_until_stopped,
    say,
    spare_memory,
    start_log,
)
from vfio_agent.unprivileged import AccountError, become, choose_account
from vfio_contract.address import check_name
from vfio_contract.bundle import Bundle, load_bundle, parse_endpoint

PROGRAM = "vfioctl agent run"

_LATE_MODULES = ("_strptime", "ssl", "grpc._channel", "grpc.experimental")
"""What is imported at first use, when an installation below /root is out of reach."""

WAIT_S = 5.0
"""Between two looks of a waiting thread of gRPC's at what it waits for; what comes wakes it."""


def main(arguments: list[str] | None = None) -> int:
    """Parse, give up root, run until SIGTERM or SIGINT; the exit status."""
    options = _parser().parse_args(arguments)
    start_log()
    spare_memory()
    try:
        for name in _LATE_MODULES:
            importlib.import_module(name)
        wait_quietly()
        become(choose_account(options.user))
        settings = _settings(options)
    except AccountError as error:
        return say(PROGRAM, error, EXIT_FAILED)
    except (ValueError, OSError) as error:
        return say(PROGRAM, error, EXIT_USAGE)
    daemon = Daemon(settings)
    try:
        return run_until_stopped(
            PROGRAM, daemon.run, stop=daemon.stop, expected=(HostdReplaced,), silent=(HostdEnded,)
        )
    finally:
        if isinstance(settings.hostd, socket.socket):
            settings.hostd.close()


def wait_quietly() -> None:
    """Let gRPC's threads sleep while nothing comes.

    It wakes each thread that waits for a message ten times a second, so that signal handlers run
    where that is the main thread (grpc issue 19464). Here it never is, and those wakes cost 0.1% of
    a core, half of the agent's budget. There is no public setting.
    """
    common: Any = importlib.import_module("grpc._common")
    common.MAXIMUM_WAIT_TIMEOUT = WAIT_S


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Tell the coordinator what hostd sees.")
    parser.add_argument("--node", required=True, help="this node's name, as in its certificate")
    parser.add_argument("--endpoint", default="", help="coordinator, host:port (else the bundle's)")
    parser.add_argument("--tls", type=Path, help="bundle: ca.pem cert.pem key.pem")
    parser.add_argument("--user", default="", help="as root: the account to become")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--hostd", type=Path, help="the socket on which hostd listens")
    where.add_argument("--hostd-fd", type=int, help="the connection that the parent made")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    node = check_name(options.node, field="--node")
    if options.hostd is not None and options.tls is None:
        raise ValueError("--tls is missing: only a parent gives its child the bundle")
    tls: Path | None = options.tls
    endpoint = options.endpoint

    def load() -> Bundle:
        if tls is None:
            raise AssertionError("a child asks its parent")
        return load_bundle(tls, now=datetime.now(UTC))

    if tls is not None:
        endpoint = endpoint or load().endpoint
    if not endpoint:
        raise ValueError(f"--endpoint is missing and {tls} names none: give host:port")
    hostd: Path | socket.socket = options.hostd
    if options.hostd is None:
        hostd = socket.socket(fileno=options.hostd_fd)
    return Settings(
        node=node,
        endpoint=parse_endpoint(endpoint),
        hostd=hostd,
        bundle=None if tls is None else load,
    )


if __name__ == "__main__":
    sys.exit(main())
