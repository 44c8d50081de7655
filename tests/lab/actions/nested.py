"""A hypervisor inside the guest: QEMU that realises devices, resets them once and stays paused.

It goes through everything that stands between a device and a VM, without a VM's operating system.
Each one has a name, so that a scenario can hold a device with one and try another beside it.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.harness.channel import ChannelClosed, ChannelTimeout, Lines

QEMU = "qemu-system-x86_64"
# Realising a device in an emulated emulator: mostly 1-5 s, up to 20 s on a busy host.
START_LIMIT_S = 90
STOP_LIMIT_S = 60

_CAP_IPC_LOCK = 14

# What QEMU puts before a message: its own name, and the option that it speaks of.
_PREFIX = re.compile(r"^\S*qemu-system-x86_64: (-device \S+: )?", re.MULTILINE)


@dataclass(slots=True)
class _Nested:
    process: subprocess.Popen[bytes]
    monitor: Lines
    log: Path

    def text(self) -> str:
        return _read(self.log)


_running: dict[str, _Nested] = {}


def start(*, name: str, addresses: list[str], slot: bool = False) -> dict[str, Any]:
    """Start one with these functions: {"started": bool, "text": what it wrote, "seconds"}.

    `slot` puts them as functions of one device below a root port, as a graphics card is passed.
    One that started stays until `stop`.
    """
    if name in _running:
        raise RuntimeError(f"{name} is running")
    line, log = Path(f"/tmp/nested-{name}.sock"), Path(f"/tmp/nested-{name}.log")
    line.unlink(missing_ok=True)
    argv = [QEMU, "-accel", "tcg", "-machine", "q35", "-m", "64", "-S", "-nodefaults"]
    argv += ["-display", "none", "-qmp", f"unix:{line},server=on,wait=off"]
    argv += _devices(addresses, slot=slot)
    started = time.monotonic()
    with log.open("wb") as written:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=written, stderr=written)
    try:
        monitor = _await_monitor(process, line)
    except BaseException:
        process.kill()
        raise
    if monitor is not None:
        _running[name] = _Nested(process, monitor, log)
    return {
        "started": monitor is not None,
        "text": _read(log),
        "seconds": round(time.monotonic() - started, 1),
    }


def pid(*, name: str) -> int:
    """The process that holds the devices."""
    return _running[name].process.pid


def locks_freely(*, name: str) -> bool:
    """Whether it may lock memory beyond its limit (CAP_IPC_LOCK), and has."""
    number = pid(name=name)
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines()
    )
    limits = Path(f"/proc/{number}/limits").read_text()
    limit = re.search(r"^Max locked memory +(\d+)", limits, re.MULTILINE)
    capable = bool(int(fields["CapEff"], 16) >> _CAP_IPC_LOCK & 1)
    locked = int(fields["VmLck"].split()[0]) << 10
    return capable and limit is not None and locked > int(limit[1])


def status(*, name: str) -> str:
    """`prelaunch` for one that is as it was started; "" for one that has ended."""
    nested = _running[name]
    try:
        return str(_ask(nested.monitor, "query-status")["status"])
    except (ChannelClosed, OSError):
        return ""


def stop(*, name: str) -> str:
    """End it through its monitor; everything it wrote. Raises when it does not end."""
    nested = _running.pop(name)
    try:
        if nested.process.poll() is None:
            nested.monitor.send({"execute": "quit"})
        nested.process.wait(STOP_LIMIT_S)
    finally:
        nested.monitor.close()
        if nested.process.poll() is None:
            nested.process.kill()
    return nested.text()


def _devices(addresses: list[str], *, slot: bool) -> list[str]:
    if not slot:
        return [part for a in addresses for part in ("-device", f"vfio-pci,host={a}")]
    argv = ["-device", "pcie-root-port,id=below"]
    for address in addresses:
        function = address[-1]
        first = ",multifunction=on" if function == "0" else ""
        argv += ["-device", f"vfio-pci,host={address},bus=below,addr=0.{function}{first}"]
    return argv


def _await_monitor(process: subprocess.Popen[bytes], path: Path) -> Lines | None:
    """QEMU's monitor once all devices are there; None when QEMU ended instead.

    It listens and greets before it makes the devices, and obeys afterwards.
    """
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            monitor = Lines(path, limit_s=0)
            break
        except ChannelTimeout:
            if process.poll() is not None:
                return None
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    try:
        monitor.receive(START_LIMIT_S)
        _ask(monitor, "qmp_capabilities")
        _ask(monitor, "query-status")
    except (ChannelClosed, ConnectionError):
        monitor.close()
        process.wait(STOP_LIMIT_S)
        return None
    return monitor


def _ask(monitor: Lines, command: str) -> dict[str, Any]:
    monitor.send({"execute": command})
    while "event" in (answer := monitor.receive(START_LIMIT_S)):
        pass
    if "error" in answer:
        raise RuntimeError(f"{command}: {answer['error']['desc']}")
    return dict(answer["return"])


def _read(log: Path) -> str:
    return _PREFIX.sub("", log.read_text(errors="replace")).strip()
