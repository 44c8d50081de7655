"""The node agent of the guest: the project's own two processes on the guest's real /sys.

They are started as a host's two services are (docs/adr/012): hostd as root, the network process as
an account of its own, which speaks TLS with the coordinator. Each can be killed and started again
by itself. The journal lives where a host keeps it and is carried from boot to boot, as a host's
disk would.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from vfio_agent.hostd.line import Line
from vfio_agent.hostd.messages import PROTOCOL, Done, Greet, Greeting, SetPace

STATE = Path("/var/lib/vfioctl/agent")
SOCKET = Path("/run/vfioctl/hostd.sock")
TLS = Path("/etc/vfioctl/tls")
ACCOUNT = "nobody"
HOSTD, NETWORK = "hostd", "network"
# A clean end waits for a look at the host that is under way.
STOP_LIMIT_S = 90

_commands: dict[str, list[str]] = {}
_processes: dict[str, subprocess.Popen[bytes]] = {}
_log = Path()


def start(*, node: str, endpoint: str, bundle: str, journal: str, log: str) -> dict[str, int]:
    """Start both; the pid of each. `journal` is the folder of an earlier boot's, "" for a host's
    first. `log` gets the words of both."""
    global _log
    if _processes:
        raise RuntimeError(f"an agent is running: {_processes}")
    if journal:
        shutil.copytree(journal, STATE)
    _install(Path(bundle))
    _log = Path(log)
    _commands[HOSTD] = [
        *("vfio_agent.hostd", f"--socket={SOCKET}", f"--agent-user={ACCOUNT}", f"--state={STATE}"),
    ]
    _commands[NETWORK] = [
        *("vfio_agent.network", f"--node={node}", f"--endpoint={endpoint}", f"--tls={TLS}"),
        *(f"--hostd={SOCKET}", f"--user={ACCOUNT}"),
    ]
    return {which: start_again(which=which) for which in (HOSTD, NETWORK)}


def start_again(*, which: str) -> int:
    """Start `hostd` or `network` as it was started before; its pid."""
    if which in _processes:
        raise RuntimeError(f"{which} is running")
    with _log.open("ab") as output:
        _processes[which] = subprocess.Popen(
            [sys.executable, "-m", *_commands[which]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return _processes[which].pid


def kill(*, which: str) -> int:
    """Kill `hostd` or `network`; its exit status once it is gone."""
    process = _processes.pop(which)
    process.kill()
    return process.wait(STOP_LIMIT_S)


def pids() -> dict[str, int]:
    """The pid of each that was started and not killed."""
    return {which: process.pid for which, process in _processes.items()}


def is_running() -> bool:
    """Whether both were started and neither has ended."""
    ended = [process.poll() for process in _processes.values()]
    return ended == [None, None]


def look_seldom(*, interval_s: float) -> None:
    """Have hostd look by itself so seldom, until it or a session begins anew: what is told before
    was noticed. Asked as root can."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(SOCKET))
        line = Line(connection, theirs, lambda _: None)
        line.ask_here(Greet(PROTOCOL), Greeting)
        line.ask_here(SetPace(interval_s), Done)


def stop(*, journal: str) -> dict[str, int]:
    """End both as a shutdown does, the one that asks first; their exit statuses. The journal is
    copied to this folder."""
    statuses = {}
    for which in (NETWORK, HOSTD):
        process = _processes.pop(which)
        process.send_signal(signal.SIGTERM)
        try:
            statuses[which] = process.wait(STOP_LIMIT_S)
        finally:
            process.kill()
    shutil.copytree(STATE, journal)
    return statuses


def _install(bundle: Path) -> None:
    """The node's credentials where a host has them, readable by the account alone."""
    shutil.rmtree(TLS, ignore_errors=True)
    shutil.copytree(bundle, TLS)
    entry = pwd.getpwnam(ACCOUNT)
    for path in (TLS, *TLS.iterdir()):
        os.chown(path, entry.pw_uid, entry.pw_gid)
