"""The whole street on real input, in two minutes: `make demo`.

A coordinator with its embedded store, this machine's own agent on its real /sys, and agents that
replay hosts captured from real kernels (tests/data/hosts). Nothing is faked and no gate is
softened: what a captured host cannot prove, it does not get. All processes and files are the
demo's own and are gone when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOSTS = ROOT / "tests" / "data" / "hosts"
BIN = Path(sys.executable).parent

REPLAYED = {
    "m3-intel": "m3-intel-6.1",
    "m3-backport": "m3-intel-6.12",
    "epyc": "amd-6.1",
    "gpubox": "gpubox-f10",
    "numa": "numa-2gpu",
    "no-iommu": "iommu-off",
    "no-intremap": "ir-off",
}
"""Node name -> captured host. `gpubox` gets a firmware update on the way."""

STEP_LIMIT_S = 60.0
"""The longest the demo waits for any one thing before it says what did not happen."""

EXIT_REFUSED = 2


class DemoFailed(Exception):
    """Something that must happen did not; the text says what."""


@dataclass
class Process:
    """One child and where its log is."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path


class Stage:
    """The demo's processes and its working folder; `close` ends all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "coordinator"
        self.processes: dict[str, Process] = {}

    def start(self, name: str, *arguments: str) -> Process:
        """Run a module of ours in the background, its output in a log."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self.processes[name] = Process(name, child, log)
        return self.processes[name]

    def start_agent(self, node: str, root: Path) -> None:
        """An agent for `node` that looks at `root`."""
        self.start(
            f"agent-{node}",
            "vfio_agent",
            *("--node", node),
            *("--tls", str(self.state / "nodes" / node)),
            *("--state", str(self.folder / "agents" / node)),
            *("--root", str(root)),
        )

    def stop(self, name: str) -> None:
        """End one child and wait for it."""
        process = self.processes.pop(name)
        process.child.send_signal(signal.SIGTERM)
        try:
            process.child.wait(15)
        except subprocess.TimeoutExpired:
            process.child.kill()
            process.child.wait()

    def close(self) -> None:
        """End everything, agents before the coordinator."""
        for name in list(reversed(self.processes)):
            self.stop(name)

    def wait_until(self, what: str, done: Callable[[], bool]) -> None:
        """Ask again and again until `done`; DemoFailed names what did not come, with the logs."""
        deadline = time.monotonic() + STEP_LIMIT_S
        while not done():
            for process in self.processes.values():
                if process.child.poll() is not None:
                    raise DemoFailed(f"{process.name} ended:\n{_tail(process.log)}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what} did not happen within {STEP_LIMIT_S:.0f} s")
            time.sleep(0.2)  # a person's pace between two questions, not a wait for an event

    def nodes(self) -> list[dict[str, Any]]:
        """What `node list` says; [] while the coordinator does not answer yet."""
        found = self._vfioctl("node", "list", "-o", "json")
        return list(json.loads(found.stdout)["nodes"]) if found.stdout else []

    def show(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> None:
        """Run a command as a person would and print what it prints."""
        print(f"\n$ vfioctl {' '.join(arguments)}", flush=True)
        found = self._vfioctl(*arguments)
        print(found.stdout.decode() + found.stderr.decode(), end="", flush=True)
        if found.returncode not in expect:
            raise DemoFailed(f"exit status {found.returncode}, expected one of {expect}")

    def _vfioctl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | {
            "VFIOCTL_ENDPOINT": f"unix:{self.state / 'api.sock'}",
            "NO_COLOR": "1",
        }
        return subprocess.run(
            [str(BIN / "vfioctl"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=STEP_LIMIT_S,
            check=False,
        )


def main() -> int:
    """Run the demo; the exit status says whether all of it happened."""
    missing = [name for name in REPLAYED.values() if not _capture(name).is_file()]
    if missing:
        print(f"demo: no captured hosts in {HOSTS}: {', '.join(missing)}", file=sys.stderr)
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vfioctl-demo-") as folder:
        stage = Stage(Path(folder))
        try:
            _play(stage)
        except (DemoFailed, subprocess.TimeoutExpired) as error:
            print(f"\ndemo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            stage.close()
    print(f"\nThat was all of it, in {time.monotonic() - began:.0f} s. Everything was stopped.")
    return 0


def _play(stage: Stage) -> None:
    _say("1. One host, no server: is this machine ready for passthrough, and why not?")
    stage.show("check", expect=(0, 1, 2, 3))

    _say("2. A coordinator, this machine's agent, and seven hosts captured from real kernels.")
    nodes = ["this-host", *REPLAYED]
    _start_fleet(stage, nodes)
    stage.show("status", "--cluster", expect=(0, 1, 2))

    _say("3. What is good now is accepted as the baseline.")
    for node in ("gpubox", "numa", "epyc"):
        stage.show("baseline", "accept", node)

    _say("4. A VM that needs a GPU goes only where every gate passes; the proof comes with it.")
    stage.show("vm", "place", "render-4", "--device", "gpu", "--node", "gpubox")
    stage.show("vm", "place", "train-9", "--device", "gpu=2", "--same-numa", expect=(EXIT_REFUSED,))
    stage.show("vm", "place", "train-9", "--device", "gpu=2")

    _say("5. gpubox reboots with firmware F11: buses move, and two groups merge.")
    stage.stop("agent-gpubox")
    stage.start_agent("gpubox", _capture("gpubox-f11"))
    stage.wait_until("the cordon of gpubox", lambda: _cordoned(stage, "gpubox"))
    stage.show("diff", str(_capture("gpubox-f10")), str(_capture("gpubox-f11")), expect=(0, 1, 2))
    stage.show("status", "--cluster", expect=(2,))
    stage.show("vm", "place", "render-5", "--device", "nic", "--node", "gpubox", expect=(2,))
    stage.show("events")

    _say("6. The cluster remembers what was good: one incident, its cause, and who comes next.")
    stage.show("diff", "--baseline", "--node", "gpubox", expect=(2,))
    stage.show("incident", "list", expect=(2,))
    stage.show("incident", "show", "INC-1", expect=(2,))
    stage.show("forecast", "--bios", "F11", expect=(0, 1, 2))


def _start_fleet(stage: Stage, nodes: list[str]) -> None:
    named = [word for node in nodes for word in ("--node", node)]
    stage.start(
        "coordinator",
        "vfio_coordinator",
        *("--state", str(stage.state)),
        *("--listen", "127.0.0.1:0"),
        *named,
    )
    stage.wait_until("the coordinator's start", (stage.state / "endpoint").is_file)
    stage.start_agent("this-host", Path("/"))
    for node, host in REPLAYED.items():
        stage.start_agent(node, _capture(host))
    stage.wait_until(
        "evidence from every node",
        lambda: sum(n["evidence_age_s"] >= 0 for n in stage.nodes()) == len(nodes),
    )


def _cordoned(stage: Stage, node: str) -> bool:
    return any(n["name"] == node and n["state"] == "cordoned" for n in stage.nodes())


def _capture(name: str) -> Path:
    return HOSTS / f"{name}.tar.gz"


def _say(text: str) -> None:
    print(f"\n\n=== {text}", flush=True)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


if __name__ == "__main__":
    if shutil.which("vfioctl", path=str(BIN)) is None:
        sys.exit("demo: vfioctl is not installed in this environment; run: make demo")
    sys.exit(main())
