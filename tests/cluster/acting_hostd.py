"""A real hostd whose hands reach a host of files: `acting_hostd.py TOP SOCKET STATE USER`.

All of it is the product but the kernel behind the files (`tests.fakes.acting_host`).
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from tests.fakes.acting_host import ActingHost
from vfio_agent.hostd.listening import listen
from vfio_agent.hostd.service import Hostd, Settings, open_journal
from vfio_agent.process import run_until_stopped, start_log


def main(top: str, path: str, state: str, user: str) -> int:
    """Serve until SIGTERM."""
    start_log()
    settings = Settings(Path(state), top)
    owner = pwd.getpwnam(user).pw_uid
    with open_journal(settings) as journal, listen(Path(path), owner=owner) as listener:
        hostd = Hostd(
            settings,
            journal,
            listener=listener,
            allowed=(0, os.geteuid(), owner),
            reach=ActingHost(Path(top)).reach(journal),
        )
        print("listens", file=sys.stderr, flush=True)
        return run_until_stopped("acting hostd", hostd.run, stop=hostd.stop, expected=())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
