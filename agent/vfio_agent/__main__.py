"""`python -m vfio_agent`: run the node agent in the foreground.

A wrong argument, bundle, root or journal ends it with one line that names the fix, status 64 or 2.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from vfio_agent.collect.root import open_root
from vfio_agent.daemon import Daemon, Settings
from vfio_agent.journal import JournalError
from vfio_contract.address import check_name
from vfio_contract.bundle import BundleError, load_bundle, parse_endpoint

EXIT_USAGE = 64
EXIT_FAILED = 2


def main(arguments: list[str] | None = None) -> int:
    """Parse, run until SIGTERM or SIGINT, return the exit status."""
    parser = argparse.ArgumentParser(prog="vfioctl agent run", description=__doc__)
    parser.add_argument("--node", required=True, help="this node's name, as in its certificate")
    parser.add_argument("--endpoint", default="", help="coordinator, host:port (else the bundle's)")
    parser.add_argument("--tls", required=True, type=Path, help="bundle: ca.pem cert.pem key.pem")
    parser.add_argument("--state", required=True, type=Path, help="where the journal is kept")
    parser.add_argument("--root", default="/", help="/ or a captured host to replay")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _settings(options)
    except (BundleError, ValueError, OSError) as error:
        print(f"vfioctl agent run: {error}", file=sys.stderr)
        return EXIT_USAGE
    daemon = Daemon(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    try:
        daemon.run()
    except (JournalError, OSError) as error:
        print(f"vfioctl agent run: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    bundle = load_bundle(options.tls, now=datetime.now(UTC))
    endpoint = options.endpoint or bundle.endpoint
    if not endpoint:
        raise ValueError(f"--endpoint is missing and {options.tls} names none: give host:port")
    open_root(options.root)
    return Settings(
        node=check_name(options.node, field="--node"),
        endpoint=parse_endpoint(endpoint),
        bundle=bundle,
        state=options.state,
        root=options.root,
    )


if __name__ == "__main__":
    sys.exit(main())
