"""Check `device-holders`: which process has a device open, and whether it should still.

Judged per function that a vfio driver has. The only proof is an open file, and other users' files
are for root alone: it must never say "nobody" when there was a process that nobody could look into.
"""

from vfio_agent.checks.holding import (
    PROXMOX_SCOPE,
    describe_holder,
    find_holders,
    find_unbound_holders,
)
from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    describe,
    find_remedy,
    is_intended,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import Holder, PciFunction
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
    "The holder cannot be stopped now (state D), has ended (Z), holds a node that was removed or a "
    "function that has no driver any more, belongs to a Proxmox VM without a configuration, or "
    "several processes hold the same node.",
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

_CONFIGURATIONS = "/etc/pve/qemu-server"
_ENDED = frozenset({"Z", "X"})


_LEAVING = (
    "The kernel is taking the function away and waits for its holder: no VM can have it meanwhile, "
    "and whatever reads it may block."
)


def judge(host: Host) -> list[Finding]:
    """Who has the device open?

    Evidence: open /dev/vfio nodes in /proc/*/fd, the holder's state, start time and cgroup.
    Meaning:  A process that still holds the group makes the next start fail.
    Source:   Linux Documentation/driver-api/vfio.rst; field guide step 16.
    """
    functions = [
        f
        for f in assignable(host)
        # a function that is being removed has lost its driver while somebody still holds it
        if is_vfio_bound(f) is not False or find_holders(host, f)
    ]
    if not functions:
        return report_nothing(ID, host, where="on a vfio driver")
    return [_judge_function(host, f) for f in functions]


def _judge_function(host: Host, function: PciFunction) -> Finding:
    found = find_holders(host, function)
    evidence = [Evidence(f"{DEVICES}/{function.address}", describe(function, host))]
    missing: tuple[Missing, ...] = ()
    stale = [why for h in found or () for why in _why_stale(host, h, found or [])]
    leaving = [h for h in find_unbound_holders(host, function) if not h.stale_node]
    meaning = "" if stale or not leaving else _LEAVING
    stale += [
        f"the function has no driver any more: its removal waits for pid {h.pid}" for h in leaving
    ]
    if found is None:
        code = HOLDERS_UNKNOWN
        missing = (_missing(host),)
    elif stale:
        code = HOLDER_STALE
    else:
        code = DEVICE_HELD if found else DEVICE_FREE
    evidence += [Evidence(h.path, describe_holder(host, h)) for h in found or ()]
    evidence += [Evidence("stale", why) for why in dict.fromkeys(stale)]
    pids = " ".join(sorted({str(h.pid) for h in found or ()}))
    return make_finding(
        ID,
        subject_of(function),
        code,
        *evidence,
        intended=is_intended(host, [function.address]),
        meaning=meaning,
        decision=code.decision.replace("PID", pids) if pids else "",
        missing=missing,
    )


def _why_stale(host: Host, holder: Holder, mates: list[Holder]) -> list[str]:
    found = []
    if holder.state == "D":
        found.append(f"pid {holder.pid} is in uninterruptible sleep (state D)")
    if holder.state in _ENDED:
        found.append(f"pid {holder.pid} has ended (state {holder.state}) and was not cleaned up")
    number = PROXMOX_SCOPE.search(holder.control_group or "")
    if number is not None and _has_no_configuration(host, number[1]):
        found.append(f"VM {number[1]} has no configuration in {_CONFIGURATIONS}")
    if holder.stale_node:
        found.append(f"pid {holder.pid} holds {holder.path}, which was removed")
    pids = sorted({h.pid for h in mates if h.path == holder.path})
    if len(pids) > 1:
        found.append(f"{holder.path} is open in {len(pids)} processes: {pids}")
    return found


def _has_no_configuration(host: Host, number: str) -> bool:
    """True when Proxmox's folder was read whole and does not hold this VM."""
    if host.facts.vms is None or any(
        g.path.startswith(_CONFIGURATIONS) for g in host.readings.gaps
    ):
        return False
    return not any(vm.kind == PROXMOX and vm.name == number for vm in host.facts.vms)


def _missing(host: Host) -> Missing:
    remedy = find_remedy(host, OPEN_FILES)
    return Missing(OPEN_FILES, remedy or "sudo sh -c 'ls -l /proc/*/fd' | grep /dev/vfio")
