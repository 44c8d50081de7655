"""Runs inside a lab guest: makes the machine what its plan says, then captures or serves it.

It is the owner of an emulated host for one boot: writes /etc, loads drivers, binds devices, makes
storage and network, and checks that the result is what the plan promised. Then it calls the
collector, or serves the scenario's requests until it is told to end. It refuses to run anywhere but
on the lab's own overlay root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICES = Path("/sys/bus/pci/devices")
# How long background work (SATA links, bridge ports) may take in a busy emulation, seconds.
PROBE_LIMIT_S = 60


def main(plan_path: str) -> None:
    """Carry out the plan in this file. Raises on the first thing that does not come true."""
    plan: dict[str, Any] = json.loads(Path(plan_path).read_text())
    _require_lab_root()
    _say("configure")
    _configure(plan)
    _mount_pseudo()
    _say("vfio")
    _load_vfio(plan)
    _say("drivers")
    _load_drivers()
    _make_virtual_functions(plan)
    for node in plan["await_nodes"]:
        _await(node, Path(node).exists)
    _name_interfaces()
    _say("setup")
    # Without udev, device-mapper and LVM must make their own device nodes.
    os.environ["DM_DISABLE_UDEV"] = "1"
    for line in plan["setup"]:
        _shell(line)
    _await("a link with an IPv4 address", _links_are_up)
    out = Path(plan["out"])
    (out / "listing.txt").write_text(_listing())
    bound = {path.name for path in DEVICES.iterdir() if _link(path / "driver") == "vfio-pci"}
    if bound != set(plan["bound"]):
        raise SystemExit(f"on vfio-pci: {sorted(bound)}, promised: {sorted(plan['bound'])}")
    if plan["end"] == "capture":
        _say("capture")
        _capture(str(out / f"{plan['name']}.tar.gz"))
    elif plan["end"] == "serve":
        _say("serve")
        _serve(out)
    _say("done")


def _capture(path: str) -> None:
    # Imported late: a plan that fails should not wait for the import over 9p.
    from vfio_agent.collect.capture import capture_host

    capture_host(path)


def _serve(out: Path) -> None:
    from tests.lab.harness.servant import serve

    serve(out)


def _say(what: str) -> None:
    print(f"{time.clock_gettime(time.CLOCK_BOOTTIME):7.2f} {what}", flush=True)


def _require_lab_root() -> None:
    root = next(m for m in Path("/proc/mounts").read_text().splitlines() if m.split()[1] == "/")
    if not root.startswith("root / overlay ") or "upperdir=/run/root/rw/upper" not in root:
        raise SystemExit(f"not in the lab, / is: {root}")


def _configure(plan: dict[str, Any]) -> None:
    # The lower layer is whatever machine runs the lab: its /etc must not pass for the guest's.
    for name in ("modprobe.d", "modules-load.d", "driverctl.d", "kernel", "pve", "libvirt"):
        shutil.rmtree(f"/etc/{name}", ignore_errors=True)
    # Nor its journal for this one's, or its persistent names and VFs.
    for where in ("/var/lib/vfioctl", "/etc/udev/rules.d"):
        shutil.rmtree(where, ignore_errors=True)
    Path("/etc/udev/rules.d").mkdir(parents=True)
    release, ids = plan["release"], ",".join(plan["vfio_ids"])
    grub = f'GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT="quiet {plan["cmdline"]}"\n'
    files = {
        "hostname": f"{plan['name']}\n",
        "machine-id": plan["firmware"]["uuid"].replace("-", "") + "\n",
        "fstab": "",
        "default/grub": grub,
        "modules-load.d/vfio.conf": "vfio-pci\n",
        # As Debian's ifenslave has it: loading the driver must not make bond0 by itself.
        "modprobe.d/bonding.conf": "options bonding max_bonds=0\n",
    }
    if ids:
        drivers = ("e1000e", "nvme", "igb", "bochs", "bochs_drm", "snd_hda_intel")
        softdeps = "".join(f"softdep {driver} pre: vfio-pci\n" for driver in drivers)
        files["modprobe.d/vfio.conf"] = f"options vfio-pci ids={ids}\n{softdeps}"
    for address in plan["driverctl"]:
        files[f"driverctl.d/{address}"] = "vfio-pci\n"
    for name, text in files.items():
        path = Path("/etc") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    modules = Path("/lib/modules") / release
    modules.parent.mkdir(parents=True, exist_ok=True)
    modules.symlink_to(plan["modules"])


def _mount_pseudo() -> None:
    for kind, where in (("devpts", "/dev/pts"), ("tmpfs", "/dev/shm")):
        Path(where).mkdir(exist_ok=True)
        _shell(f"mount -t {kind} {kind} {where}")
    Path("/run/lock").mkdir(exist_ok=True)


def _load_vfio(plan: dict[str, Any]) -> None:
    # Before the host's drivers, as a host that means it does.
    for address in (*plan["driverctl"], *plan["overrides"]):
        (DEVICES / address / "driver_override").write_text("vfio-pci")
    _shell("modprobe -a vfio-pci vfio_iommu_type1 kvm_amd")


def _load_drivers() -> None:
    # New devices bring new modalias files: repeat until there are none.
    seen: set[str] = set()
    while True:
        found = set()
        for path in Path("/sys/bus").glob("*/devices/*/modalias"):
            found.add(path.read_text().strip())
        fresh = sorted(found - seen - {""})
        if not fresh:
            return
        seen |= found
        # modprobe -a tries every alias and exits with 1 if any has no module, which most have not.
        subprocess.run(["modprobe", "-q", "-b", "-a", *fresh], check=False)


def _make_virtual_functions(plan: dict[str, Any]) -> None:
    for address, count in plan["vfs"]:
        physical = DEVICES / address
        (physical / "sriov_drivers_autoprobe").write_text("0")
        (physical / "sriov_numvfs").write_text(str(count))
        for link in sorted(physical.glob("virtfn*")):
            virtual = link.resolve()
            (virtual / "driver_override").write_text("vfio-pci")
            Path("/sys/bus/pci/drivers_probe").write_text(virtual.name)


def _await(what: str, is_there: Callable[[], bool]) -> None:
    end = time.monotonic() + PROBE_LIMIT_S
    while not is_there():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not there after {PROBE_LIMIT_S} s")
        time.sleep(0.1)


def _links_are_up() -> bool:
    # Bridges and bonds take a moment after their ports; a capture in between would be a coin toss.
    rows = [line.split() for line in _shell("ip -4 -brief address").splitlines()]
    return bool(rows) and all(row[1] == "UP" for row in rows if row[0] != "lo")


def _name_interfaces() -> None:
    # The names that systemd would give: enp<bus>s<slot>; bus and slot in decimal.
    for path in sorted(Path("/sys/class/net").iterdir()):
        where = re.findall(r"/[0-9a-f]{4}:([0-9a-f]{2}):([0-9a-f]{2})\.\d", str(path.resolve()))
        if where:
            bus, slot = (int(part, 16) for part in where[-1])
            _shell(f"ip link set {path.name} name enp{bus}s{slot}")
    _shell("ip link set lo up")


def _shell(line: str) -> str:
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _link(path: Path) -> str:
    return os.path.basename(os.readlink(path)) if path.is_symlink() else "-"


def _listing() -> str:
    """What a person would look at to see that the machine is as promised."""
    lines = []
    for path in sorted(DEVICES.iterdir()):
        vendor, device, kind = (
            (path / name).read_text().strip()[2:] for name in ("vendor", "device", "class")
        )
        methods = path / "reset_method"
        lines.append(
            f"{path.name} group {_link(path / 'iommu_group'):>2} {vendor}:{device} {kind} "
            f"numa {(path / 'numa_node').read_text().strip():>2} "
            f"driver {_link(path / 'driver'):<14} "
            f"reset {methods.read_text().strip() if methods.exists() else '-'}"
        )
    commands = (
        "cat /proc/cmdline",
        "cat /proc/self/mounts",
        "ip -brief link",
        "ip -brief address",
        "ip route",
        "ls -l /dev/vfio /dev/vfio/devices /dev/kvm 2>&1 || true",
        "ls -l /sys/class/block /sys/class/iommu",
        "cat /proc/mdstat 2>/dev/null || true",
        "cat /proc/interrupts",
        "cat /proc/modules",
        "cat /sys/class/dmi/id/modalias",
        "grep -r . /etc/modprobe.d /etc/driverctl.d 2>/dev/null || true",
        "dmesg",
    )
    for command in commands:
        lines += [f"\n$ {command}", _shell(command)]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1])
