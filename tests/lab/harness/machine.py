"""Boots one machine of the lab under plain emulation: to its own end, or to be talked to.

Every boot and every request has a wall-clock limit, and nothing is left running: a warden ends the
machine with this process, however that ends. Every failure names the logs. Of this host it can
write one folder, its own. It never uses KVM, and no network but loopback: the same table gives the
same hardware on every host.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.lab.harness.channel import ChannelError, Lines, put, take
from tests.lab.harness.ground import LabError, explain_space, locked, work_folder
from tests.lab.harness.prepare import QEMU, Kernel
from tests.lab.harness.topology import Machine
from tests.lab.harness.warden import LIMIT_PASSED

WARDEN = Path(__file__).with_name("warden.py")
CHECKOUT = Path(__file__).resolve().parents[3]
DISK_BYTES = 64 << 20
MEMORY_MIB = 1024
# A quiet boot takes 20-40 s on two cores; several times that on busy or slow ones.
LIMIT_S = 360
# A scenario with several minutes of work; `shared` cores make it slower, never endless.
SCENARIO_LIMIT_S = 900
ANSWER_LIMIT_S = 120
POWER_OFF_LIMIT_S = 30
# Emulation speed only; none of these changes what PCI, IOMMU or DMI look like.
FAST_BOOT = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off init_on_alloc=0 no_timer_check "
    "audit=0 apparmor=0 cryptomgr.notests edd=off"
)
# Where the guest has its own folder, the one thing outside that it can write.
SHARE = "/run/lab"


@dataclass(frozen=True, slots=True)
class Boot:
    """A finished boot: `out` holds what the guest wrote, `console` its serial line."""

    seconds: float
    out: Path
    console: Path


def boot(machine: Machine, kernel: Kernel, *, capture: bool = True, limit_s: int = LIMIT_S) -> Boot:
    """Run the machine until its guest has carried out its plan; `capture` ends it with a capture.

    Raises LabError with the end of the guest's log if the plan failed or the limit passed.
    """
    with _folder(machine) as folder:
        started = time.monotonic()
        end = "capture" if capture else ""
        with _started(machine, kernel, folder, end=end, limit_s=limit_s) as process:
            code = process.wait()
        _require_done(machine, folder, code)
        return Boot(time.monotonic() - started, folder / "out", folder / "console.log")


class Guest:
    """A machine that has carried out its plan and waits for requests.

    `machine` is its table, `out` the folder that it and the guest share (`out_inside` in there),
    `log_folder` where everything is that it and QEMU said.
    """

    def __init__(self, machine: Machine, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.machine = machine
        self.out = folder / "out"
        self.out_inside = f"{SHARE}/out"
        self.log_folder = folder
        self._process = process
        self._monitor: Monitor | None = None
        self._count = 0

    def call(self, action: str, /, *, limit_s: float = ANSWER_LIMIT_S, **arguments: Any) -> Any:
        """Carry out `tests.lab.actions.<action>` in the guest and give what it returned.

        LabError with the guest's traceback, or with the end of its log when no answer came.
        """
        self._count += 1
        request = {"action": action, "arguments": arguments}
        try:
            put(self.out, f"request-{self._count}", request)
        except OSError as error:
            raise self._failed(action, f"request not written: {error}") from error
        answer = self._take(f"answer-{self._count}", action, limit_s)
        if "error" in answer:
            raise LabError(f"{self.machine.name}: {action}: {answer['error']}\n{answer['trace']}")
        return answer["result"]

    @property
    def monitor(self) -> Monitor:
        """QEMU's own monitor: plugging and unplugging."""
        if self._monitor is None:
            self._monitor = Monitor(self.log_folder / "qmp.sock")
        return self._monitor

    def await_ready(self, limit_s: float) -> None:
        """Return when the guest has carried out its plan; LabError when it has not in time."""
        self._take("answer-0", "boot", limit_s)

    def close(self) -> None:
        """Ask the guest to power off, and wait for that; LabError when it does not."""
        try:
            put(self.out, f"request-{self._count + 1}", {"end": True})
            self._process.wait(POWER_OFF_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise self._failed("power off", f"not off after {POWER_OFF_LIMIT_S} s") from error
        except OSError as error:
            raise self._failed("power off", f"request not written: {error}") from error

    def hang_up(self) -> None:
        """Leave QEMU's monitor."""
        if self._monitor is not None:
            self._monitor.close()

    def _take(self, name: str, what: str, limit_s: float) -> dict[str, Any]:
        def is_alive() -> bool:
            return self._process.poll() is None

        try:
            return take(self.out, name, limit_s=limit_s, is_alive=is_alive)
        except ChannelError as error:
            raise self._failed(what, str(error)) from error

    def _failed(self, what: str, why: str) -> LabError:
        code = self._process.poll()
        end = "" if code is None else f" ({_name_end(code)})"
        return LabError(f"{self.machine.name}: {what}: {_explain(why + end, self.log_folder)}")


class Monitor:
    """QMP: one command, one answer; events are kept in `events`.

    Source: QEMU docs/interop/qmp-spec.
    """

    def __init__(self, path: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._folder = path.parent
        try:
            self._lines = Lines(path, limit_s=10)
            self._lines.receive(10)
        except ChannelError as error:
            raise LabError(_explain(f"QEMU's monitor: {error}", self._folder)) from error
        self.execute("qmp_capabilities")

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """The `return` of a command; LabError for its `error`."""
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            self._lines.send({"execute": command, "arguments": names})
            while "event" in (answer := self._lines.receive(30)):
                self.events.append(answer)
        except ChannelError as error:
            raise LabError(_explain(f"QEMU's monitor: {command}: {error}", self._folder)) from error
        if "error" in answer:
            raise LabError(f"{command} {names}: {answer['error']['desc']}")
        return answer["return"]

    def close(self) -> None:
        """Hang up; the machine goes on."""
        self._lines.close()


@contextmanager
def run(
    machine: Machine,
    kernel: Kernel,
    *,
    limit_s: float = SCENARIO_LIMIT_S,
    boot_limit_s: float = LIMIT_S,
    serial: str = "",
) -> Iterator[Guest]:
    """A booted machine for the time of a `with`: then powered off, or ended if that failed.

    `serial` is where QEMU puts the serial line beside its log, as a character device in QEMU's own
    words.
    LabError when it does not come up within `boot_limit_s`, or lived longer than `limit_s` seconds.
    """
    with (
        _folder(machine) as folder,
        _started(machine, kernel, folder, end="serve", limit_s=limit_s, serial=serial) as process,
    ):
        guest = Guest(machine, folder, process)
        try:
            guest.await_ready(boot_limit_s)
            yield guest
            guest.close()
        finally:
            guest.hang_up()


@contextmanager
def _folder(machine: Machine) -> Iterator[Path]:
    machines = work_folder() / "machines"
    _make_folder(machine, machines)
    with locked(machines / f"{machine.name}.lock"):
        folder = machines / machine.name
        shutil.rmtree(folder, ignore_errors=True)
        _make_folder(machine, folder / "out")
        try:
            yield folder
        finally:
            _forget_bulk(folder)


def _make_folder(machine: Machine, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{machine.name}: {_explain(str(error), work_folder())}") from error


def _forget_bulk(folder: Path) -> None:
    """Remove what nobody reads afterwards: 40 machines' modules and disks are a gigabyte."""
    for path in folder.glob("*.img"):
        path.unlink()
    for path in folder.glob("kernel-*"):
        shutil.rmtree(path)


@contextmanager
def _started(
    machine: Machine, kernel: Kernel, folder: Path, *, end: str, limit_s: float, serial: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        _write_plan(machine, kernel, folder, end=end)
        argv = arguments(machine, kernel, folder, serial=serial)
        (folder / "qemu.txt").write_text(" \\\n  ".join(shlex.quote(p) for p in argv) + "\n")
    except OSError as error:
        raise LabError(f"{machine.name}: {_explain(str(error), folder)}") from error
    with (folder / "qemu.stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WARDEN), str(limit_s), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # A terminal's Ctrl-C is for this process, which ends the machine on its way out.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        # The warden takes it for the end of this run, and QEMU along within its grace.
        process.stdin.close()
    process.wait()


def _name_end(code: int) -> str:
    """How the emulator ended, from its warden's exit code."""
    if code == LIMIT_PASSED:
        return "its limit passed"
    return f"QEMU exit {code}" if code < 128 else f"QEMU ended by signal {code - 128}"


def _require_done(machine: Machine, folder: Path, code: int) -> None:
    status = folder / "out" / "status"
    if code != 0 or not status.exists() or status.read_text().strip() != "0":
        raise LabError(f"{machine.name}: not done: {_explain(_name_end(code), folder)}")


def _explain(what: str, folder: Path) -> str:
    """What happened, where everything is that was said, and the end of each of it."""
    parts = [what, f"logs: {folder}", explain_space(folder)]
    for name in ("qemu.stderr", "out/guest.log", "console.log"):
        path = folder / name
        if path.exists() and (tail := path.read_text(errors="replace").strip()[-1500:]):
            parts.append(f"--- {path}\n{tail}")
    return "\n".join(filter(None, parts))


def arguments(machine: Machine, kernel: Kernel, folder: Path, *, serial: str = "") -> list[str]:
    """The QEMU command line; blank disks are made in `folder`."""
    cpu = "max" if machine.hypervisor_flag else "max,-hypervisor"
    argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-machine", "q35,kernel-irqchip=split", "-accel", "tcg", "-cpu", cpu]
    argv += ["-m", str(MEMORY_MIB), *machine.options]
    if not machine.bus_reset_broken:
        # Native PCIe hot-plug: without it every bus reset below a root port fails.
        argv += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    line = f"{serial or 'null'},id=console,logfile={folder / 'console.log'}"
    argv += ["-chardev", line, "-serial", "chardev:console"]
    argv += ["-pidfile", str(folder / "qemu.pid")]
    argv += ["-qmp", f"unix:{folder / 'qmp.sock'},server=on,wait=off"]
    argv += ["-kernel", str(kernel.image), "-initrd", str(kernel.initrd)]
    argv += ["-append", f"{machine.cmdline} hostname={machine.name} {FAST_BOOT}"]
    for value in machine.firmware.arguments():
        argv += ["-smbios", value]
    if machine.iommu:
        argv += ["-device", machine.iommu]
    for device in machine.devices:
        argv += [*_backends(machine, device, folder), "-device", device]
    shared = "local,security_model=none"
    argv += ["-fsdev", f"{shared},id=root,path=/,readonly=on,multidevs=remap"]
    argv += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=root,bus=pcie.0,addr=1e.0"]
    argv += ["-fsdev", f"{shared},id=lab,path={folder}"]
    argv += ["-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab,bus=pcie.0,addr=1d.0"]
    return argv


def _backends(machine: Machine, device: str, folder: Path) -> Iterator[str]:
    for kind, name in re.findall(r"\b(netdev|drive)=(\w+)", device):
        if kind == "netdev":
            # Only the management network reaches the lab's host, and only its loopback.
            restrict = "off" if name == "mgmt" and machine.reaches_host else "on"
            yield from ("-netdev", f"user,id={name},restrict={restrict},ipv6=off")
        else:
            disk = folder / f"{name}.img"
            _make_disk(disk, partitioned=name in machine.partitioned)
            yield from ("-drive", f"if=none,id={name},format=raw,file={disk}")


def _make_disk(path: Path, *, partitioned: bool) -> None:
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        if partitioned:
            # A classic MBR: one Linux partition (type 0x83) from 1 MiB to the end; no CHS values.
            first, count = 2048, DISK_BYTES // 512 - 2048
            file.seek(446)
            file.write(struct.pack("<B3sB3sII", 0, b"\0" * 3, 0x83, b"\0" * 3, first, count))
            file.seek(510)
            file.write(b"\x55\xaa")


def _write_plan(machine: Machine, kernel: Kernel, folder: Path, *, end: str) -> None:
    modules = f"{kernel.image.parent.name}/lib/modules/{kernel.release}"
    plan = asdict(machine) | {
        "release": kernel.release,
        "modules": f"{SHARE}/{modules}",
        "out": f"{SHARE}/out",
        "end": end,
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))
    (folder / "start.sh").write_text(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "export HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1\n"
        f"cd {shlex.quote(str(CHECKOUT))}\n"
        f"{shlex.quote(sys.executable)} -m tests.lab.harness.guest {SHARE}/plan.json"
        f" >{SHARE}/out/guest.log 2>&1\n"
        f"echo $? >{SHARE}/out/status\n"
        "sync\n"
        "busybox poweroff -f\n"
    )
    _copy_files(kernel.image.parent / "lib/modules" / kernel.release, folder / modules)


def _copy_files(source: Path, target: Path) -> None:
    # A copy of its own: the guest may write there, and captures name no path of the lab's host.
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
