"""`python -m vfio_agent`: run the node agent in the foreground.

A wrong argument, bundle or root ends it with one line that names the fix and status 64, a journal
that cannot be used with one line and status 2. A fault of our own ends it with its traceback and
status 70, so that whoever supervises it starts it again.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: what fails we say ourselves

from vfio_agent.collect.root import open_root
from vfio_agent.daemon import Daemon, RootError, Settings
from vfio_agent.journal import JournalError
from vfio_contract.address import check_name
from vfio_contract.bundle import BundleError, load_bundle, parse_endpoint

EXIT_FAILED = 2
EXIT_USAGE = 64
EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h, beside EX_USAGE."""

PROGRAM = "vfioctl agent run"

log = logging.getLogger("vfio-agent")


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line and status 64, as everywhere in `vfioctl`."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{PROGRAM}: {message}; see: {PROGRAM} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Parse, run until SIGTERM or SIGINT, return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _settings(options)
    except (BundleError, ValueError, OSError) as error:
        return _say(error, EXIT_USAGE)
    daemon = Daemon(settings)
    _stop_on_signals(daemon)
    try:
        daemon.run()
    except (JournalError, RootError) as error:
        return _say(error, EXIT_FAILED)
    except Exception:
        log.critical("ending on a fault of the agent itself", exc_info=True)
        return EXIT_FAULT
    # Python gives its handlers back while it ends: one more SIGTERM would then kill a clean end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return 0


def _stop_on_signals(daemon: Daemon) -> None:
    """SIGTERM and SIGINT ask for a clean end, whichever thread the kernel hands them to.

    Python runs a handler only on the main thread, and nothing wakes that one where another thread
    took the signal: it would wait for the next look at the host. The file descriptor is written by
    the C handler itself.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def watch() -> None:
        os.read(reading, 1)
        daemon.stop()

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _say(error: Exception, status: int) -> int:
    print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Collect, judge, and tell the coordinator.")
    parser.add_argument("--node", required=True, help="this node's name, as in its certificate")
    parser.add_argument("--endpoint", default="", help="coordinator, host:port (else the bundle's)")
    parser.add_argument("--tls", required=True, type=Path, help="bundle: ca.pem cert.pem key.pem")
    parser.add_argument("--state", required=True, type=Path, help="where the journal is kept")
    parser.add_argument("--root", default="/", help="/ or a captured host to replay")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    node = check_name(options.node, field="--node")
    bundle = load_bundle(options.tls, now=datetime.now(UTC))
    endpoint = options.endpoint or bundle.endpoint
    if not endpoint:
        raise ValueError(f"--endpoint is missing and {options.tls} names none: give host:port")
    try:
        open_root(options.root)
    except OSError as error:
        raise ValueError(
            f"--root {options.root} cannot be opened ({error.strerror or error}): "
            "name / or a captured host, a directory or a tar"
        ) from error
    return Settings(
        node=node,
        endpoint=parse_endpoint(endpoint),
        bundle=options.tls,
        state=options.state,
        root=options.root,
    )


if __name__ == "__main__":
    sys.exit(main())
