"""A coordinator on the lab's host, and the nodes of its cluster: agents in guests, over real TLS.

The coordinator is the process that an operator starts, on a port of its own choice on loopback;
guests reach it through their management network. People's questions go through `vfioctl`; what is
only waited for is asked through its client, which costs less than a process each time. Nothing of
it outlives the `with`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.harness.ground import LabError
from tests.lab.harness.machine import WARDEN, Guest
from vfio_cli.client import Coordinator, connect
from vfio_cli.exits import Stop
from vfio_contract.bundle import ENDPOINT_FILE
from vfio_contract.errors import ErrorCode
from vfio_contract.views import Decision, DeviceRequest, Event, NodeView, PlaceRequest

# QEMU's user network: the guest's way to its host's loopback.
HOST_INSIDE = "10.0.2.2"
START_LIMIT_S = 60
# A command that has a node do something waits for that.
COMMAND_LIMIT_S = 300
# It outlives the machines of a whole file, one after the other.
COORDINATOR_LIMIT_S = 3600
# From a change in a guest, or an agent's start, to its node's state: noticed at once, then a look
# at the host or two. One takes 1-5 s in an emulated guest, 40 s and more on a busy host.
NODE_LIMIT_S = 180
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, on stdout and in all, and its exit status."""

    status: int
    text: str
    out: str


class Cluster:
    """A running coordinator with its state in `folder`."""

    def __init__(self, folder: Path, server: _Server) -> None:
        self._folder = folder
        self._server = server
        self._logs: dict[str, list[Path]] = {}

    def join(self, guest: Guest, node: str) -> None:
        """Let the guest's agent speak for `node`, with the journal of that node's last boot."""
        shutil.copytree(self._folder / "nodes" / node, guest.out / "bundle")
        self._logs.setdefault(node, []).append(guest.out / "agent.log")
        journal = self._journal(node)
        if journal.is_dir():
            shutil.copytree(journal, guest.out / "journal-before")
        guest.call(
            "agent.start",
            node=node,
            endpoint=f"{HOST_INSIDE}:{self._server.port}",
            bundle=f"{guest.out_inside}/bundle",
            journal=f"{guest.out_inside}/journal-before" if journal.is_dir() else "",
            log=f"{guest.out_inside}/agent.log",
        )

    def leave(self, guest: Guest, node: str) -> None:
        """End the guest's agent as a shutdown does, and keep its journal for the next boot."""
        statuses = guest.call("agent.stop", journal=f"{guest.out_inside}/journal-after")
        assert set(statuses.values()) == {0}, (guest.out / "agent.log").read_text()
        shutil.rmtree(self._journal(node), ignore_errors=True)
        shutil.copytree(guest.out / "journal-after", self._journal(node))

    def vfioctl(self, *arguments: str) -> Answer:
        """Run a command on the host as a person would."""
        done = subprocess.run(
            [sys.executable, "-m", "vfio_cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment() | {"COLUMNS": "200"},
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        return Answer(done.returncode, done.stdout + done.stderr, done.stdout)

    def environment(self) -> dict[str, str]:
        """For commands that are to ask this coordinator, without colours."""
        return os.environ | {
            "VFIOCTL_ENDPOINT": f"unix:{self._folder / 'api.sock'}",
            "NO_COLOR": "1",
        }

    def ask(self) -> Coordinator:
        """The command line's own client."""
        return self._server.client

    def kill_and_start_again(self) -> None:
        """Kill the coordinator as no shutdown does; the next one has its state and its port."""
        self._server.kill()
        self._server.start()

    def place(self, vm: str, kind: str, *, node: str = "", dry_run: bool = False) -> Decision:
        """Ask for one device of a kind, anywhere or on this node."""
        return self.ask().place(
            PlaceRequest(
                vm=vm,
                devices=(DeviceRequest(kind, "", 1),),
                same_numa=False,
                allow=(),
                node=node,
                external=False,
                dry_run=dry_run,
                request_id=f"{vm}-{time.monotonic_ns()}",
            )
        )

    def events(self) -> tuple[Event, ...]:
        """The whole event log, oldest first."""
        events, last = self.ask().list_events(after_seq=0, limit=500, node="")
        assert len(events) == last, f"{len(events)} of {last} events"
        return events

    def until(self, node: str, is_so: Callable[[NodeView], bool], *, what: str) -> NodeView:
        """The node as soon as that is so; AssertionError with how it is instead."""
        end = time.monotonic() + NODE_LIMIT_S
        while (view := self._show(node)) is None or not is_so(view):
            if time.monotonic() > end:
                said = "\n".join(log.read_text() for log in self._logs.get(node, ()))
                text = f"{node} is not {what} after {NODE_LIMIT_S} s: {view}\n--- agent\n{said}"
                raise AssertionError(text)
            time.sleep(POLL_S)
        return view

    def until_state(self, node: str, state: str) -> NodeView:
        """The node as soon as it is in this state and no write about it is under way."""

        def is_settled(view: NodeView) -> bool:
            pending = any("admin record is being" in reason.text for reason in view.reasons)
            return view.state == state and not pending

        return self.until(node, is_settled, what=state)

    def _show(self, node: str) -> NodeView | None:
        try:
            return self.ask().show_node(node)
        except Stop as stop:
            if stop.code != ErrorCode.UNKNOWN_NODE:
                raise
            return None  # it has not joined yet

    def _journal(self, node: str) -> Path:
        return self._folder.with_name(f"{self._folder.name}-journals") / node


class _Server:
    """The coordinator's process, started as often as a test asks."""

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.port = 0
        self._folder = folder
        self._log = folder.with_name(f"{folder.name}.log")
        self._argv = [sys.executable, "-m", "vfio_coordinator", "--state", str(folder)]
        self._argv += ["--name", HOST_INSIDE]
        self._argv += [word for node in nodes for word in ("--node", node)]
        self._started: ExitStack | None = None

    @property
    def client(self) -> Coordinator:
        return self._client

    def start(self) -> None:
        """LabError with its log if it does not serve. Its end is the warden's affair, as a
        machine's is."""
        argv = [*self._argv, "--listen", f"127.0.0.1:{self.port}"]
        with ExitStack() as stack:
            output = stack.enter_context(self._log.open("wb"))
            self._warden = subprocess.Popen(
                [sys.executable, "-I", "-S", str(WARDEN), str(COORDINATOR_LIMIT_S), *argv],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            stack.callback(self._end)
            self.port = _await_port(self._folder / ENDPOINT_FILE, self._warden, self._log)
            socket = f"unix:{self._folder / 'api.sock'}"
            self._client = stack.enter_context(connect(socket, None))
            self._started = stack.pop_all()

    def kill(self) -> None:
        """SIGKILL; what it had not made durable is lost."""
        warden = self._warden.pid
        for pid in Path(f"/proc/{warden}/task/{warden}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        self._warden.wait(START_LIMIT_S)
        self.close()

    def close(self) -> None:
        if self._started is not None:
            self._started.close()

    def _end(self) -> None:
        with self._warden as warden:  # closes its standard input, and waits
            warden.terminate()


@contextmanager
def serving(folder: Path, *nodes: str) -> Iterator[Cluster]:
    """A coordinator with certificates for these nodes; LabError with its log if it does not start.

    `folder` must have a short path: a Unix socket is made there.
    """
    server = _Server(folder, nodes)
    server.start()
    try:
        yield Cluster(folder, server)
    finally:
        server.close()


def _await_port(told: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    # The file is written before the servers start, the last line of the log after that.
    end = time.monotonic() + START_LIMIT_S
    while "\nlistening " not in f"\n{log.read_text()}":
        if process.poll() is not None or time.monotonic() > end:
            raise LabError(f"the coordinator does not serve\n--- {log}\n{log.read_text()}")
        time.sleep(POLL_S)
    return int(told.read_text().strip().rpartition(":")[2])
