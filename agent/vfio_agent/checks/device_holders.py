"""Check `device-holders`: which process has a device open, and whether it should still.

Judged per function that a vfio driver has. The only proof is an open file, and other users' files
are for root alone: it must never say "nobody" when there was a process that nobody could look into.
"""

import re

from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    describe,
    find_remedy,
    group_of,
    is_intended,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, FunctionReading, Holder, PciFunction
from vfio_contract.vm import PROXMOX

ID = "device-holders"
OPEN_FILES = "/proc/*/fd"

DEVICE_FREE = Code(
    "DEVICE_FREE",
    Verdict.PASS,
    "No process has the function's VFIO group or device node open.",
    "A VM can have it now.",
    "No action.",
)
DEVICE_HELD = Code(
    "DEVICE_HELD",
    Verdict.PASS,
    "One running process has the function's VFIO group or device node open.",
    "The device is in use, as a running VM should have it.",
    "No action. Another start fails with 'Device or resource busy' while it runs.",
)
HOLDER_STALE = Code(
    "HOLDER_STALE",
    Verdict.WARN,
    "The holder cannot be stopped now (state D), has ended (Z), holds a node that was removed, "
    "belongs to a Proxmox VM without a configuration, or several processes hold the same node.",
    "The next VM start fails with 'Device or resource busy' although the VM seems to be gone.",
    "Stop its VM the ordinary way first; collect logs (sudo dmesg, sudo cat /proc/PID/stack) "
    "before you terminate it. In state D only a reboot helps.",
)
HOLDERS_UNKNOWN = Code(
    "HOLDERS_UNKNOWN",
    Verdict.UNKNOWN,
    "Open files of all processes, or the function's group and device nodes, could not be read.",
    "Who has the device is not known. Unknown is not free.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (DEVICE_FREE, DEVICE_HELD, HOLDER_STALE, HOLDERS_UNKNOWN)

_PROXMOX = re.compile(r"/qemu\.slice/(\d+)\.scope")
_LIBVIRT = re.compile(r"/machine-qemu\\x2d\d+\\x2d([^/]+)\.scope")
_CONFIGURATIONS = "/etc/pve/qemu-server"
_ENDED = frozenset({"Z", "X"})
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def judge(host: Host) -> list[Finding]:
    """Who has the device open?

    Evidence: open /dev/vfio nodes in /proc/*/fd, the holder's state, start time and cgroup.
    Meaning:  A process that still holds the group makes the next start fail.
    Source:   Linux Documentation/driver-api/vfio.rst; field guide step 16.
    """
    readings = {r.address: r for r in host.readings.functions}
    functions = [
        f
        for f in assignable(host)
        # a function that is being removed has lost its driver while somebody still holds it
        if is_vfio_bound(f) is not False or _find_holders(host, f, readings.get(f.address))
    ]
    if not functions:
        return report_nothing(ID, host, where="on a vfio driver")
    return [_judge_function(host, f, readings.get(f.address)) for f in functions]


def _judge_function(host: Host, function: PciFunction, reading: FunctionReading | None) -> Finding:
    found = _find_holders(host, function, reading)
    evidence = [Evidence(f"{DEVICES}/{function.address}", describe(function, host))]
    missing: tuple[Missing, ...] = ()
    stale = [why for h in found or () for why in _why_stale(host, h, found or [])]
    if found is None:
        code = HOLDERS_UNKNOWN
        missing = (_missing(host),)
    elif stale:
        code = HOLDER_STALE
    else:
        code = DEVICE_HELD if found else DEVICE_FREE
    evidence += [Evidence(h.path, _describe(host, h)) for h in found or ()]
    evidence += [Evidence("stale", why) for why in dict.fromkeys(stale)]
    pids = " ".join(sorted({str(h.pid) for h in found or ()}))
    return make_finding(
        ID,
        subject_of(function),
        code,
        *evidence,
        intended=is_intended(host, [function.address]),
        decision=code.decision.replace("PID", pids) if pids else "",
        missing=missing,
    )


def _find_holders(
    host: Host, function: PciFunction, reading: FunctionReading | None
) -> list[Holder] | None:
    """Holders of this function's nodes; None when that is not known."""
    holders = host.readings.holders
    if holders is None:
        return None
    if not holders:
        return []
    group = group_of(host, function)
    nodes = None if reading is None else reading.vfio_nodes
    paths = {f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}"} if group != NO_GROUP else set()
    paths |= {f"/dev/vfio/devices/{name}" for name in nodes or ()}
    found = [h for h in holders if h.path in paths]
    if found:
        return found
    by_group = any("/devices/" not in h.path for h in holders)
    by_node = any("/devices/" in h.path for h in holders)
    if (group is None and by_group) or (nodes is None and by_node):
        return None
    return []


def _why_stale(host: Host, holder: Holder, mates: list[Holder]) -> list[str]:
    found = []
    if holder.state == "D":
        found.append(f"pid {holder.pid} is in uninterruptible sleep (state D)")
    if holder.state in _ENDED:
        found.append(f"pid {holder.pid} has ended (state {holder.state}) and was not cleaned up")
    number = _PROXMOX.search(holder.control_group or "")
    if number is not None and _has_no_configuration(host, number[1]):
        found.append(f"VM {number[1]} has no configuration in {_CONFIGURATIONS}")
    if holder.stale_node:
        found.append(f"pid {holder.pid} holds {holder.path}, which was removed")
    pids = sorted({h.pid for h in mates if h.path == holder.path})
    if len(pids) > 1:
        found.append(f"{holder.path} is open in {len(pids)} processes: {pids}")
    return found


def _describe(host: Host, holder: Holder) -> str:
    text = f"{holder.command} (pid {holder.pid})"
    name = find_vm(holder)
    if name:
        text += f", VM {name}"
    uptime = host.readings.uptime_seconds
    if uptime is not None and holder.started_seconds is not None:
        text += f", for {_duration(uptime - holder.started_seconds)}"
    return text


def find_vm(holder: Holder) -> str:
    """The VM's number (Proxmox) or name (libvirt) as its cgroup tells it, else what QEMU was told.

    "" when neither says it.
    """
    path = holder.control_group or ""
    match = _PROXMOX.search(path)
    if match is not None:
        return match[1]
    match = _LIBVIRT.search(path)
    if match is None:
        return holder.vm or ""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), match[1])


def _has_no_configuration(host: Host, number: str) -> bool:
    """True when Proxmox's folder was read whole and does not hold this VM."""
    if host.facts.vms is None or any(
        g.path.startswith(_CONFIGURATIONS) for g in host.readings.gaps
    ):
        return False
    return not any(vm.kind == PROXMOX and vm.name == number for vm in host.facts.vms)


def _duration(seconds: float) -> str:
    minutes = max(0, int(seconds)) // 60
    days, hours = minutes // 1440, minutes % 1440 // 60
    return f"{days}d{hours}h" if days else f"{hours}h{minutes % 60:02d}m"


def _missing(host: Host) -> Missing:
    remedy = find_remedy(host, OPEN_FILES)
    return Missing(OPEN_FILES, remedy or "sudo sh -c 'ls -l /proc/*/fd' | grep /dev/vfio")
