"""The node agent of the guest: the project's own daemon on the guest's real /sys, over real TLS.

Its journal lives where a host keeps it and is carried from boot to boot, as a host's disk would.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

STATE = Path("/var/lib/vfioctl/agent")
# A clean end waits for a look at the host that is under way.
STOP_LIMIT_S = 90

_agents: list[subprocess.Popen[bytes]] = []


def start(*, node: str, endpoint: str, bundle: str, journal: str, log: str) -> int:
    """Start it; its pid. `journal` is the folder of an earlier boot's, "" for a host's first."""
    if is_running():
        raise RuntimeError("an agent is running")
    if journal:
        shutil.copytree(journal, STATE)
    arguments = ["--node", node, "--endpoint", endpoint, "--tls", bundle, "--state", str(STATE)]
    with Path(log).open("ab") as output:
        _agents.append(
            subprocess.Popen(
                [sys.executable, "-m", "vfio_agent", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        )
    return _agents[-1].pid


def is_running() -> bool:
    """Whether the agent that was started last has not ended."""
    return bool(_agents) and _agents[-1].poll() is None


def stop(*, journal: str) -> int:
    """End it as a shutdown does; its exit status. Its journal is copied to this folder."""
    agent = _agents.pop()
    agent.terminate()
    try:
        status = agent.wait(STOP_LIMIT_S)
    finally:
        agent.kill()
    shutil.copytree(STATE, journal)
    return status
