"""Boots one machine of the lab under plain emulation and waits for it to power itself off.

Every boot has a wall-clock limit and leaves no process behind. It never uses the network or KVM:
the same table gives the same hardware on every host.
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
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.lab.prepare import QEMU, Kernel, LabError, locked, work_folder
from tools.lab.topology import Machine

CHECKOUT = Path(__file__).resolve().parents[2]
DISK_BYTES = 64 << 20
MEMORY_MIB = 1024
# A quiet boot takes 20-40 s on two cores; three times that on busy ones.
LIMIT_S = 240
# Emulation speed only; none of these changes what PCI, IOMMU or DMI look like.
FAST_BOOT = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off init_on_alloc=0 no_timer_check "
    "audit=0 apparmor=0 cryptomgr.notests edd=off"
)
# Kernel modules and results travel over this read-write share.
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
    machines = work_folder() / "machines"
    machines.mkdir(exist_ok=True)
    with locked(machines / f"{machine.name}.lock"):
        return _boot(machine, kernel, machines / machine.name, capture=capture, limit_s=limit_s)


def _boot(machine: Machine, kernel: Kernel, folder: Path, *, capture: bool, limit_s: int) -> Boot:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    _write_plan(machine, kernel, folder, capture=capture)
    argv = arguments(machine, kernel, folder)
    (folder / "qemu.txt").write_text(" \\\n  ".join(shlex.quote(part) for part in argv) + "\n")
    started = time.monotonic()
    with (folder / "qemu.stderr").open("wb") as errors:
        # timeout(1) holds the limit even if this process is killed.
        process = subprocess.Popen(
            ["timeout", "--kill-after=5", str(limit_s), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    seconds = time.monotonic() - started
    result = Boot(seconds, folder / "out", folder / "console.log")
    status = result.out / "status"
    if code != 0 or not status.exists() or status.read_text().strip() != "0":
        raise LabError(f"{machine.name}: {_why(code, folder, limit_s=limit_s)}")
    return result


def _why(code: int, folder: Path, *, limit_s: int) -> str:
    what = f"not done after {limit_s} s" if code in (124, 137) else f"QEMU exit {code}"
    parts = [what]
    for name in ("qemu.stderr", "out/guest.log", "console.log"):
        path = folder / name
        if path.exists() and (tail := path.read_text(errors="replace").strip()[-1500:]):
            parts.append(f"--- {path}\n{tail}")
    return "\n".join(parts)


def arguments(machine: Machine, kernel: Kernel, folder: Path) -> list[str]:
    """The QEMU command line; blank disks are made in `folder`."""
    cpu = "max" if machine.hypervisor_flag else "max,-hypervisor"
    argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-machine", "q35,kernel-irqchip=split", "-accel", "tcg", "-cpu", cpu]
    argv += ["-m", str(MEMORY_MIB), *machine.options]
    # Native PCIe hot-plug: without it every bus reset below a root port fails.
    argv += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    argv += ["-serial", f"file:{folder / 'console.log'}"]
    argv += ["-kernel", str(kernel.image), "-initrd", str(kernel.initrd)]
    argv += ["-append", f"{machine.cmdline} hostname={machine.name} {FAST_BOOT}"]
    for value in machine.firmware.arguments():
        argv += ["-smbios", value]
    argv += ["-device", machine.iommu]
    for device in machine.devices:
        argv += [*_backends(machine, device, folder), "-device", device]
    shared = "local,security_model=none"
    argv += ["-fsdev", f"{shared},id=root,path=/,readonly=on,multidevs=remap"]
    argv += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=root,bus=pcie.0,addr=1e.0"]
    argv += ["-fsdev", f"{shared},id=lab,path={work_folder()}"]
    argv += ["-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab,bus=pcie.0,addr=1d.0"]
    return argv


def _backends(machine: Machine, device: str, folder: Path) -> Iterator[str]:
    for kind, name in re.findall(r"\b(netdev|drive)=(\w+)", device):
        if kind == "netdev":
            yield from ("-netdev", f"user,id={name},restrict=on,ipv6=off")
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


def _write_plan(machine: Machine, kernel: Kernel, folder: Path, *, capture: bool) -> None:
    here = f"{SHARE}/machines/{machine.name}"
    modules = kernel.image.parent.relative_to(work_folder())
    plan = asdict(machine) | {
        "release": kernel.release,
        "modules": f"{SHARE}/{modules}/lib/modules/{kernel.release}",
        "out": f"{here}/out",
        "capture": capture,
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))
    (folder / "start.sh").write_text(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "export HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1\n"
        f"cd {shlex.quote(str(CHECKOUT))}\n"
        f"{shlex.quote(sys.executable)} -m tools.lab.guest {here}/plan.json"
        f" >{here}/out/guest.log 2>&1\n"
        f"echo $? >{here}/out/status\n"
        "sync\n"
        "busybox poweroff -f\n"
    )
