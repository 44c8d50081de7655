"""`python -m vfio_agent`: the whole agent in the foreground, as a person starts it.

This process is hostd; the network process is its child, never root, with a connection that nobody
else can have. As root it also listens for root on this host, who may ask for actions. If one of the
two ends so does the other: restarting is the work of a service manager, which starts them by
themselves (docs/adr/012). See `vfio_agent.process` for how it ends.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vfio_agent.hostd.__main__ import require_root, say_limits
from vfio_agent.hostd.listening import SOCKET, SocketError, listen
from vfio_agent.hostd.looking import RootError
from vfio_agent.hostd.service import Hostd, Settings, open_journal
from vfio_agent.journal import JournalError
from vfio_agent.process import (
    EXIT_FAILED,
    EXIT_USAGE,
    Parser,
    run_until_stopped,
    say,
    spare_memory,
    start_log,
)
from vfio_agent.unprivileged import AccountError, choose_account
from vfio_contract.address import check_name
from vfio_contract.bundle import Bundle, load_bundle, parse_endpoint

PROGRAM = "vfioctl agent run"

log = logging.getLogger("vfio-hostd")

GRACE_S = 8.0
"""For the child to end by itself; its session's thread has 5 s."""


class ChildEnded(Exception):
    """The network process ended by itself; `status` is negative for a signal."""

    def __init__(self, status: int) -> None:
        how = f"ended with status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        super().__init__(f"the network process {how}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, found good. `account` is "" to stay who we are."""

    hostd: Settings
    node: str
    endpoint: str
    tls: Path
    account: str

    def bundle(self) -> Bundle:
        """The node's credentials as they are on disk now."""
        return load_bundle(self.tls, now=datetime.now(UTC))


def main(arguments: list[str] | None = None) -> int:
    """Parse, run both until SIGTERM or SIGINT; the exit status."""
    words = _parser().parse_args(arguments)
    start_log()
    spare_memory()
    try:
        options = _options(words)
    except (AccountError, ValueError, OSError) as error:
        return say(PROGRAM, error, EXIT_USAGE)
    say_limits(options.hostd.root)
    try:
        with open_journal(options.hostd) as journal, _listen(options.hostd) as listener:
            hostd = Hostd(
                options.hostd, journal, listener=listener, allowed=(0,), bundle=options.bundle
            )
            return run_until_stopped(
                PROGRAM,
                lambda: _run(hostd, options),
                stop=hostd.stop,
                expected=(JournalError, RootError),
            )
    except JournalError as error:
        return say(PROGRAM, error, EXIT_FAILED)


@contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket | None]:
    """Where root on this host asks for actions; None for who could not act, or on a capture.

    Not being heard there must not keep a host from being seen.
    """
    if os.geteuid() != 0 or os.path.abspath(settings.root).strip("/"):
        yield None
        return
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(listen(SOCKET, owner=0))
        except SocketError as error:
            log.warning("commands on this host do not reach this agent: %s", error)
            listener = None
        yield listener


def _run(hostd: Hostd, options: Options) -> int:
    ours, theirs = socket.socketpair()
    with ours, _child(options, theirs) as child:
        theirs.close()

        def wait() -> None:
            hostd.fail(ChildEnded(child.wait()))

        threading.Thread(target=wait, name="child", daemon=True).start()
        try:
            hostd.run(ours)
        except ChildEnded as error:
            if error.status < 0:  # it had no time to say why
                return say(PROGRAM, error, EXIT_FAILED)
            return error.status or EXIT_FAILED
        return 0


@contextmanager
def _child(options: Options, connection: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """The network process; it is gone at the end."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "vfio_agent.network"),
            *(f"--node={options.node}", f"--endpoint={options.endpoint}"),
            *(f"--user={options.account}", f"--hostd-fd={connection.fileno()}"),
        ],
        stdin=subprocess.DEVNULL,
        pass_fds=(connection.fileno(),),
        process_group=0,  # so that Ctrl-C reaches hostd alone, which keeps the order
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Collect, judge, and tell the coordinator.")
    parser.add_argument("--node", required=True, help="this node's name, as in its certificate")
    parser.add_argument("--endpoint", default="", help="coordinator, host:port (else the bundle's)")
    parser.add_argument("--tls", required=True, type=Path, help="bundle: ca.pem cert.pem key.pem")
    parser.add_argument("--state", required=True, type=Path, help="where the journal is kept")
    parser.add_argument("--root", default="/", help="/ or a captured host to replay")
    parser.add_argument("--user", default="", help="the network process's account, as root")
    return parser


def _options(words: argparse.Namespace) -> Options:
    node = check_name(words.node, field="--node")
    bundle = load_bundle(words.tls, now=datetime.now(UTC))
    endpoint = words.endpoint or bundle.endpoint
    if not endpoint:
        raise ValueError(f"--endpoint is missing and {words.tls} names none: give host:port")
    require_root(words.root)
    return Options(
        hostd=Settings(state=words.state, root=words.root),
        node=node,
        endpoint=parse_endpoint(endpoint),
        tls=words.tls,
        account=choose_account(words.user),
    )


if __name__ == "__main__":
    sys.exit(main())
