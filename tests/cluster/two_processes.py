"""hostd and the network process, each started by itself as a service manager does.

As root the network process is `nobody`, so what it needs is where that user can reach it. What a
process says is read as it comes; nothing here waits for time to pass.
"""

from __future__ import annotations

import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.recording_coordinator import DEADLINE_S

IS_ROOT = os.geteuid() == 0
ACCOUNT = "nobody" if IS_ROOT else ""


class Half:
    """One of the two processes."""

    def __init__(self, argv: Sequence[str], prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, words: str) -> str:
        """The next line with these words; AssertionError where it ends or says nothing."""
        while True:
            try:
                line = self._lines.get(timeout=DEADLINE_S)
            except queue.Empty:
                raise AssertionError(f"waited for {words!r}, said: {self.said}") from None
            assert line is not None, f"waited for {words!r}, it ended and said: {self.said}"
            if words in line:
                return line

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its status, and all it said."""
        self.send(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        status = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status, "".join(self.said)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.said.append(line)
                self._lines.put(line)
        self._lines.put(None)


@dataclass
class Halves:
    """How the two are started here, and those that were."""

    top: Path
    root: Path
    endpoint: str
    node: str = "pve07"
    started: list[Half] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.top / "run" / "hostd.sock"

    @property
    def state(self) -> Path:
        return self.top / "state"

    def hostd(
        self,
        *,
        program: Sequence[str] = (),
        prefix: Sequence[str] = (),
        state: Path | None = None,
    ) -> Half:
        return self.start(
            [
                *(program or ("-m", "vfio_agent.hostd")),
                *("--socket", str(self.socket), "--state", str(state or self.state)),
                *("--root", str(self.root), "--agent-user", ACCOUNT),
            ],
            prefix,
        )

    def network(self, *, program: Sequence[str] = (), prefix: Sequence[str] = ()) -> Half:
        return self.start(
            [
                *(program or ("-m", "vfio_agent.network")),
                *("--hostd", str(self.socket), "--tls", str(self.top / "tls")),
                *("--node", self.node, "--endpoint", self.endpoint, "--user", ACCOUNT),
            ],
            prefix,
        )

    def start(self, argv: Sequence[str], prefix: Sequence[str] = ()) -> Half:
        self.started.append(Half(argv, prefix))
        return self.started[-1]


@contextmanager
def halves(bundle: Path, root: Path, endpoint: str) -> Iterator[Halves]:
    """None of them is left at the end."""
    with tempfile.TemporaryDirectory(prefix="vfio-two-") as name:
        top = Path(name)
        top.chmod(0o755)
        shutil.copytree(bundle, top / "tls")
        if IS_ROOT:
            owner = pwd.getpwnam(ACCOUNT).pw_uid
            for path in (top / "tls", *(top / "tls").iterdir()):
                os.chown(path, owner, -1)
        made = Halves(top, root, endpoint)
        try:
            yield made
        finally:
            for half in made.started:
                if half.process.poll() is None:
                    half.process.kill()
                print(*half.ended())  # shown where a test failed
