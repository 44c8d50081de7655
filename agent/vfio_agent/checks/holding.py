"""Which processes have a function open, and whether it is being taken from them.

The only proof is an open node of VFIO: of the function itself, or of its group. While the kernel
takes a function away (unbind, removed VFs, hot-unplug) and waits for its holder, the function has
no driver any more, and its group is held all the same. This module must never say "nobody" where it
is not known whose node a process has open.
"""

import re

from vfio_agent.checks.inventory import group_of
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, Holder, PciFunction

PROXMOX_SCOPE = re.compile(r"/qemu\.slice/(\d+)\.scope")
_LIBVIRT = re.compile(r"/machine-qemu\\x2d\d+\\x2d([^/]+)\.scope")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def find_holders(host: Host, function: PciFunction) -> list[Holder] | None:
    """Holders of this function's nodes; None when that is not known."""
    holders = host.readings.holders
    if holders is None:
        return None
    if not holders:
        return []
    group = group_of(host, function)
    reading = host.reading_of.get(function.address)
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


def find_unbound_holders(host: Host, function: PciFunction) -> list[Holder]:
    """Who holds this function although it has no driver: its removal waits for them, or did.

    [] where a process may hold the group for the sake of another member, on a vfio driver: a
    driver-less mate of that one is as it should be.
    """
    if function.driver != "":
        return []
    group = group_of(host, function)
    mates = host.members.get(group, ()) if group is not None else ()
    if any(is_vfio_bound(m) is not False for m in mates if m.address != function.address):
        return []
    return find_holders(host, function) or []


def describe_holder(host: Host, holder: Holder) -> str:
    """`qemu-system-x86 (pid 4711), VM 101, for 1h02m`."""
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
    match = PROXMOX_SCOPE.search(path)
    if match is not None:
        return match[1]
    match = _LIBVIRT.search(path)
    if match is None:
        return holder.vm or ""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), match[1])


def _duration(seconds: float) -> str:
    minutes = max(0, int(seconds)) // 60
    days, hours = minutes // 1440, minutes % 1440 // 60
    return f"{days}d{hours}h" if days else f"{hours}h{minutes % 60:02d}m"
