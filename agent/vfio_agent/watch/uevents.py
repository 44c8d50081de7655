"""The kernel's uevents: a device came, went, got or lost its driver.

A NETLINK_KOBJECT_UEVENT socket; any user may listen. What has no uevent, and who else notices it:

- a write to `driver_override`, `reset_method`, `d3cold_allowed`, the type of a group: rescan
- a change of the power state: rescan
- a new `sriov_numvfs`: the VFs' own `add` and `remove`, and `change` of the PF when they are made
- an open file below /dev/vfio: `vfio_nodes`
- addresses, routes, bridge members: rescan
- AER recovery gives `change` with ERROR_EVENT (pci_uevent_ers()), all else that AER says: `kmsg`

(Linux 6.1 to 6.12, drivers/pci/{pci-sysfs,iov,pci-driver}.c, drivers/base/{core,dd}.c.) The kernel
drops uevents when nobody reads them in time and says so: then anything may have changed. This
module must never believe a uevent that a process sent, nor one about what it has not looked at.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from vfio_agent.collect.device_path import innermost_function
from vfio_agent.watch.signals import NOTHING, Happening, Part, Sign, Signal, Wanted, want
from vfio_contract.address import Address
from vfio_contract.model import Gap

NAME = "netlink:uevent"

MAX_UEVENTS = 500
"""Read at a time; the rest is read in the next turn."""

BUFFER_BYTES = 1 << 20
"""Holds some 600 uevents, each charged with the memory that it occupies (2 KiB)."""

_UEVENT_PROTOCOL = 15
"""NETLINK_KOBJECT_UEVENT (include/uapi/linux/netlink.h), which `socket` does not name."""

_KERNEL_GROUP = 1
"""Group 2 is udev's own, in another format."""

_MAX_BYTES = 1 << 16
"""A uevent has at most 2 KiB + its path (UEVENT_BUFFER_SIZE, include/linux/kobject.h)."""

_MAX_PATH = 4096
_ACTIONS = frozenset({"add", "remove", "change", "move", "online", "offline", "bind", "unbind"})
_SIGNS = {
    "add": Sign.ADDED,
    "remove": Sign.REMOVED,
    "bind": Sign.BOUND,
    "unbind": Sign.UNBOUND,
}
_MODULES = ("vfio", "kvm", "iommufd", "mdev", "pci_stub")
_NET_TYPES = frozenset({"bridge", "bond", "vlan", "team"})
_UID_MAP = "/proc/self/uid_map"


@dataclass(frozen=True, slots=True)
class Uevent:
    """`devpath` begins with a slash and lacks /sys; what it does not tell is "".

    `devtype` is what a subsystem calls its sorts: `bridge`, `vlan`, `disk`; `driver` who has it,
    which an `unbind` does not tell any more. `synthetic`: somebody asked for it by writing to the
    device's `uevent`, as `udevadm trigger` does for all of them; nothing has happened.
    """

    action: str
    devpath: str
    subsystem: str
    devtype: str
    driver: str = ""
    synthetic: bool = False

    @property
    def function(self) -> Address | None:
        """The PCI function that the device is or sits on."""
        return innermost_function(self.devpath)


def parse_uevent(data: bytes) -> Uevent | None:
    r"""A kernel's datagram, `add@/devices/...\0KEY=value\0...`; None for anything else."""
    head, _, rest = data.partition(b"\0")
    action, at, devpath = head.decode("utf-8", "backslashreplace").partition("@")
    if not at or action not in _ACTIONS or not devpath.startswith("/") or len(devpath) > _MAX_PATH:
        return None
    values = {key: value for key, _, value in (row.partition(b"=") for row in rest.split(b"\0"))}
    subsystem, devtype, driver = (
        values.get(key, b"")[:_MAX_PATH].decode("utf-8", "backslashreplace")
        for key in (b"SUBSYSTEM", b"DEVTYPE", b"DRIVER")
    )
    return Uevent(action, devpath, subsystem, devtype, driver, b"SYNTH_UUID" in values)


def signal_of(uevent: Uevent) -> Signal | None:
    """What to read again; None for what no part of the evidence depends on."""
    wanted = _wanted(uevent)
    if not wanted:
        return None
    name = uevent.devpath.rpartition("/")[2]
    why = f"{uevent.subsystem} {uevent.action} {name}"
    settling = uevent.subsystem == "pci" and uevent.action in ("remove", "change", "unbind")
    return Signal(why=why, wanted=wanted, confirm=settling, happened=_happened(uevent))


def _happened(uevent: Uevent) -> tuple[tuple[Happening, int], ...]:
    """What it says of a function itself, not of what sits on it."""
    sign, function = _SIGNS.get(uevent.action), uevent.function
    if uevent.synthetic or uevent.subsystem != "pci" or sign is None or function is None:
        return ()
    driver = uevent.driver if sign is Sign.BOUND else ""
    return ((Happening(sign, function, driver), 1),)


def _wanted(uevent: Uevent) -> Wanted:
    functions = (uevent.function,) if uevent.function is not None else ()
    match uevent.subsystem:
        case "pci":
            # who comes or goes changes the inventory and the groups, so not one function alone
            if uevent.action in ("bind", "unbind", "change"):
                return want(functions=functions)
            return want(Part.WHOLE)
        case "vfio" | "vfio-dev" | "mdev":
            return want(Part.HOLDERS, functions=functions)
        case "net" if not functions and uevent.devtype not in _NET_TYPES:
            return NOTHING  # a container's or a VM's end of a cable
        case "net" | "block" | "input":
            return want(Part.HOST_USE, functions=functions)
        case "iommu":
            return want(Part.WHOLE)
        case "module":
            name = uevent.devpath.rpartition("/")[2]
            return want(Part.WHOLE) if name.startswith(_MODULES) else NOTHING
        case _:
            return NOTHING


class Uevents:
    """The source; OSError when there is no such socket (a sandbox without netlink)."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _UEVENT_PROTOCOL)
        try:
            _enlarge(self._socket)
            self._socket.bind((0, _KERNEL_GROUP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """See `Source`."""
        return self._socket.fileno()

    def due_at(self) -> float:
        """See `Source`."""
        return inf

    def tick(self, now_s: float) -> Sequence[Signal]:
        """See `Source`."""
        return ()

    def read(self) -> Sequence[Signal]:
        """See `Source`. Uevents that were dropped make everything worth reading."""
        found: list[Signal] = []
        for _ in range(MAX_UEVENTS):
            try:
                data, sender = self._socket.recvfrom(_MAX_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                dropped = ((Happening(Sign.DROPPED), 1),)
                why = "uevents were dropped"
                found.append(Signal(why, want(Part.WHOLE), confirm=True, happened=dropped))
                continue
            uevent = parse_uevent(data) if _is_kernel(sender) else None
            signal = signal_of(uevent) if uevent is not None else None
            if signal is not None:
                found.append(signal)
        return found

    def gaps(self) -> Sequence[Gap]:
        """See `Source`. A container's user namespace is sent none, and no error says so."""
        if _is_first_user_namespace():
            return ()
        reason = "a user namespace of its own is not sent the host's uevents"
        return (Gap(NAME, 0, reason, "run the agent outside the container"),)

    def close(self) -> None:
        """See `Source`."""
        self._socket.close()


def _is_kernel(sender: object) -> bool:
    """Port id 0 is the kernel; a process can send to the group with CAP_NET_ADMIN."""
    return isinstance(sender, tuple) and sender[:1] == (0,)


def _enlarge(kernel: socket.socket) -> None:
    try:
        # SO_RCVBUFFORCE, which `socket` does not name (include/uapi/asm-generic/socket.h)
        kernel.setsockopt(socket.SOL_SOCKET, 33, BUFFER_BYTES)
    except PermissionError:
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def _is_first_user_namespace() -> bool:
    try:
        descriptor = os.open(_UID_MAP, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # a kernel without user namespaces
    try:
        return os.read(descriptor, 4096).split() == [b"0", b"0", b"4294967295"]
    finally:
        os.close(descriptor)
