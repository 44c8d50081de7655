"""`python -m vfio_agent.hostd`: the half of the agent that looks at the host, by itself.

It listens on a local socket for the network process of the one user that may ask, and has no
network. See `vfio_agent.process` for how it ends.
"""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import sys
from pathlib import Path

from vfio_agent.collect.root import open_root
from vfio_agent.hostd.listening import SocketError, listen
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

PROGRAM = "vfioctl agent hostd"

log = logging.getLogger("vfio-hostd")


def main(arguments: list[str] | None = None) -> int:
    """Parse, run until SIGTERM or SIGINT; the exit status."""
    options = _parser().parse_args(arguments)
    start_log()
    spare_memory()
    try:
        owner = _uid(options.agent_user)
        require_root(options.root)
    except ValueError as error:
        return say(PROGRAM, error, EXIT_USAGE)
    settings = Settings(state=options.state, root=options.root)
    say_limits(options.root)
    try:
        with open_journal(settings) as journal, listen(options.socket, owner=owner) as listener:
            allowed = (0, os.geteuid(), owner)
            hostd = Hostd(settings, journal, listener=listener, allowed=allowed)
            return run_until_stopped(
                PROGRAM, hostd.run, stop=hostd.stop, expected=(JournalError, RootError)
            )
    except (JournalError, SocketError) as error:
        return say(PROGRAM, error, EXIT_FAILED)


def require_root(root: str) -> None:
    """ValueError that names the fix, if that root cannot be opened."""
    try:
        open_root(root)
    except OSError as error:
        raise ValueError(
            f"--root {root} cannot be opened ({error.strerror or error}): "
            "name / or a captured host, a directory or a tar"
        ) from error


def say_limits(root: str) -> None:
    """Once, that much of a running host is not seen by an ordinary user."""
    if os.geteuid() != 0 and not os.path.abspath(root).strip("/"):
        log.warning(
            "uid %d, not root: kernel log, config space and holders of devices may be out of "
            "sight; the findings say which, and are UNKNOWN for it",
            os.geteuid(),
        )


def _uid(user: str) -> int:
    if not user:
        return os.geteuid()
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"--agent-user {user}: there is no such user") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Look at the host for the network process.")
    parser.add_argument("--socket", required=True, type=Path, help="where to listen")
    parser.add_argument("--agent-user", default="", help="whose network process may ask")
    parser.add_argument("--state", required=True, type=Path, help="where the journal is kept")
    parser.add_argument("--root", default="/", help="/ or a captured host to replay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
