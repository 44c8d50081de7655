"""A person's way into a lab machine: its serial line on this terminal, with `vfioctl` on PATH.

`make lab-shell TOPOLOGY=NAME`. The machine is booted as for a scenario and thrown away when the
shell ends; of this host it can write its own folder alone. It must never leave the terminal raw.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.harness.ground import LabError
from tests.lab.harness.machine import run
from tests.lab.harness.prepare import prepare
from tests.lab.harness.scenarios import SCENARIOS
from tests.lab.harness.topology import MACHINES

# A shell that somebody forgot ends by itself.
LIMIT_S = 4 * 3600
CONNECT_LIMIT_S = 10.0


def main(argv: list[str]) -> int:
    """Boot the named machine and join its shell; the shell's own exit ends the machine."""
    machines = (*MACHINES, *SCENARIOS)
    # AMD's emulated IOMMU loses the serial line's interrupts: nothing typed would ever arrive.
    known = {m.name: m for m in machines if not m.iommu.startswith("amd-iommu")}
    parser = argparse.ArgumentParser(description="A shell in a lab machine.")
    parser.add_argument("name", metavar="TOPOLOGY", nargs="?", help="none: list their names")
    name = parser.parse_args(argv).name
    if name is None:
        print("\n".join(known))
        return 0
    if name not in known:
        why = (
            "AMD machines have no shell"
            if name in {m.name for m in machines}
            else "no such machine"
        )
        parser.error(f"{name}: {why}; there are: {', '.join(known)}")
    machine = known[name]
    print(f"{name}: booting, 20 to 60 s", flush=True)
    kernel = prepare([machine.kernel])[machine.kernel]
    with tempfile.TemporaryDirectory(prefix="vfioctl-lab-") as folder:
        line = Path(folder) / "serial.sock"
        serial = f"socket,path={line},server=on,wait=off"
        with run(machine, kernel, limit_s=LIMIT_S, serial=serial) as guest, _connected(line) as end:
            size = os.get_terminal_size() if sys.stdout.isatty() else os.terminal_size((80, 24))
            guest.call("shell.open_on_console", rows=size.lines, columns=size.columns)
            print("Ctrl-D or exit ends the machine, and what you wrote goes with it.")
            _relay(end, is_over=lambda: not guest.call("shell.is_open"))
    return 0


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    end = time.monotonic() + CONNECT_LIMIT_S
    with socket.socket(socket.AF_UNIX) as line:
        while True:
            try:
                line.connect(str(path))
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise LabError(f"{path}: {error.strerror}") from error
                time.sleep(0.1)
        yield line


def _relay(line: socket.socket, *, is_over: Callable[[], bool]) -> None:
    """Carry bytes both ways until the shell has ended."""
    with _raw(sys.stdin.fileno()):
        sources = [line, sys.stdin.fileno()]
        while True:
            ready = select.select(sources, [], [], 1.0)[0]
            if not ready and is_over():
                return
            if line in ready:
                data = line.recv(65536)
                if not data:
                    return
                os.write(sys.stdout.fileno(), data)
            if sys.stdin.fileno() in ready:
                typed = os.read(sys.stdin.fileno(), 65536)
                if typed:
                    line.sendall(typed)
                else:
                    # Input that came from a file is at its end: so is the shell, when it is done.
                    sources.remove(sys.stdin.fileno())
                    line.sendall(b"\x04")


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


if __name__ == "__main__":
    # A termination unwinds like Ctrl-C, so that the running emulator is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
