"""`python -m vfio_coordinator`: run the coordinator in the foreground.

It must never end with a traceback for what a person can get wrong: a bad argument, a damaged store
or a taken port is one line that names the fix. Status 0 after SIGTERM or SIGINT, 64 for a bad
argument, 2 when it could not start or had to end.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from vfio_coordinator.bootstrap import Settings, StartError, run

PROGRAM = "vfioctl coordinator run"

EXIT_USAGE = 64
EXIT_FAILED = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse's own status for a bad argument is 2, which says failure here."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Parse, serve until stopped, return the exit status."""
    parser = _Parser(prog=PROGRAM, description="Run the coordinator in the foreground.")
    parser.add_argument("--state", required=True, type=Path, help="state directory")
    parser.add_argument(
        "--listen", default="127.0.0.1:7443", help="host:port for agents and users (mutual TLS)"
    )
    parser.add_argument(
        "--name", action="append", default=[], help="another DNS name or address agents use"
    )
    parser.add_argument(
        "--node", action="append", default=[], help="make a certificate bundle for this node"
    )
    parser.add_argument("--notify", type=Path, help="whom to tell of incidents: a notify.toml")
    options = parser.parse_args(arguments)
    try:
        settings = Settings(
            options.state,
            options.listen,
            names=tuple(options.name),
            nodes=tuple(options.node),
            notify=options.notify,
        )
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        ended_well = asyncio.run(run(settings))
    except StartError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return EXIT_FAILED
    if not ended_well:
        # A thread may hang in a write that never ends; nothing may wait for it.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
