"""Which processes have a VFIO group or device node open.

The only proof that a VM has a device is its open file; /proc/PID/fd of other users needs root. Of a
process's arguments only the name that a QEMU gives its VM is taken, because they hold secrets. This
module must never report "nobody" when there was a process it could not look into, nor where some
are hidden from it (hidepid, a container's own process table).
"""

from __future__ import annotations

import errno
import re

from vfio_agent.collect.mounts import collect_mounts
from vfio_agent.collect.reader import REMEDY_ROOT, Reader, decode
from vfio_agent.collect.vms import is_qemu_command
from vfio_agent.vmconf.qemu_cmdline import parse_qemu, split_cmdline
from vfio_contract.model import Holder

VFIO = "/dev/vfio"
CDEVS = "/dev/vfio/devices"
PROC = "/proc"
DELETED = " (deleted)"

ENDED = (errno.ENOENT, errno.ESRCH)
"""The process, or its file, is gone since it was listed: it holds nothing."""

_TICKS_PER_SECOND = 100
"""USER_HZ: the unit of /proc/PID/stat on every Linux architecture that runs VFIO."""

_HIDING = frozenset({"2", "4", "invisible", "ptraceable"})
"""Values of hidepid that leave other users' processes out (Documentation/filesystems/proc.rst)."""

_PID_NAMESPACE = f"{PROC}/1/ns/pid"
_FIRST_NAMESPACE = "pid:[4026531836]"
"""The host's own (include/linux/proc_ns.h, PROC_PID_INIT_INO); a container's has another number."""

_STATUS = re.compile(r"^(?:VmLck|VmPin):\s+([0-9]{1,16}) kB$", re.MULTILINE)
_MEMLOCK = re.compile(r"^Max locked memory\s+(unlimited|[0-9]{1,20})\s", re.MULTILINE)

_GROUP_NODE = re.compile(r"(?:noiommu-)?[0-9]+")
HELD_NODE = re.compile(r"/dev/vfio/(?:(?:noiommu-)?([0-9]+)|devices/(\S+))")
"""A group node (1: its number) or a device node (2: its name); not the container /dev/vfio/vfio."""


def collect_holders(reader: Reader) -> tuple[Holder, ...] | None:
    """Holders by node and pid; () when there is no node to hold; None + one gap when not known."""
    names = reader.optional_names(VFIO)
    if names is None:
        return None
    cdevs: tuple[str, ...] = ()
    if "devices" in names:
        found = reader.optional_names(CDEVS)
        if found is None:
            return None
        cdevs = found
    if not cdevs and not any(_GROUP_NODE.fullmatch(name) for name in names):
        return ()
    return _scan(reader)


def _scan(reader: Reader) -> tuple[Holder, ...] | None:
    listed = reader.names(PROC)
    if listed is None:
        return None
    hidden = why_hidden(reader)
    if hidden:
        reader.gap(f"{PROC}/*/fd", hidden, REMEDY_ROOT)
        return None
    pids = [name for name in listed if name.isascii() and name.isdecimal()]
    paths: list[str] = []
    refused: OSError | None = None
    for pid, names in zip(
        pids, reader.root.list_many([f"{PROC}/{pid}/fd" for pid in pids]), strict=True
    ):
        if isinstance(names, list):
            paths += [f"{PROC}/{pid}/fd/{name}" for name in names]
        elif not _ended(names):
            refused = refused or names
    open_nodes: list[tuple[str, str, bool]] = []
    for path, target in zip(paths, reader.root.link_many(paths), strict=True):
        if isinstance(target, str):
            node = target.removesuffix(DELETED)
            if HELD_NODE.fullmatch(node):
                open_nodes.append((node, path.split("/")[2], node != target))
        elif not _ended(target):
            refused = refused or target
    if refused is not None:
        remedy = REMEDY_ROOT if reader.root.live else f"ls -l {PROC}/*/fd"
        reader.gap(f"{PROC}/*/fd", refused, remedy)
        return None
    rows = sorted(set(open_nodes), key=lambda row: (row[0], int(row[1])))
    return tuple(_holder(reader, *row) for row in rows)


def why_hidden(reader: Reader) -> str:
    """Why there may be processes that /proc does not list, "" when it lists them all."""
    try:
        space = reader.root.link(_PID_NAMESPACE)
    except OSError:
        space = ""  # for root alone; whoever else looks is refused at the open files already
    if space and space != _FIRST_NAMESPACE:
        return "a container's process table: the host's processes are not in it"
    if reader.root.privileged:
        return ""
    table = collect_mounts(reader)
    for mount in table.mounts if table is not None else ():
        if mount.point == PROC and mount.fstype == "proc" and mount.option("hidepid") in _HIDING:
            return f"{PROC} is mounted with hidepid={mount.option('hidepid')}"
    return ""


def _holder(reader: Reader, node: str, pid: str, stale: bool) -> Holder:
    command = _command(reader, pid)
    state, started = parse_stat(_quiet(reader, f"{PROC}/{pid}/stat"))
    status = _STATUS.findall(_quiet(reader, f"{PROC}/{pid}/status"))
    limit = _MEMLOCK.search(_quiet(reader, f"{PROC}/{pid}/limits"))
    groups = [line.split(":", 2) for line in _quiet(reader, f"{PROC}/{pid}/cgroup").splitlines()]
    # of several hierarchies systemd's own names the unit; version 2 has but one
    paths = [g[2] for g in groups if len(g) == 3 and g[1] in ("", "name=systemd")]
    return Holder(
        path=node,
        pid=int(pid),
        command=command,
        control_group=max(paths, key=len, default=None),
        started_seconds=started,
        state=state,
        locked_bytes=sum(int(n) << 10 for n in status) if status else None,
        memlock_bytes=None if limit is None else (-1 if limit[1] == "unlimited" else int(limit[1])),
        stale_node=stale,
        vm=_name_vm(reader, pid) if is_qemu_command(command) else "",
    )


def _name_vm(reader: Reader, pid: str) -> str | None:
    try:
        data = reader.root.read(f"{PROC}/{pid}/cmdline")
    except OSError:
        return None
    vm = parse_qemu(split_cmdline(data), source="", fallback_name="")
    return "" if vm is None else vm.name


def parse_stat(text: str) -> tuple[str | None, float | None]:
    """(state, start in seconds since boot) of /proc/PID/stat, whose second field may hold spaces.

    Fields 3 and 22 (proc(5)).
    """
    words = text.rpartition(")")[2].split()
    if len(words) < 20 or not words[19].isdecimal():
        return None, None
    return words[0], int(words[19]) / _TICKS_PER_SECOND


def _quiet(reader: Reader, path: str) -> str:
    """ "" for what cannot be read: it only adds to a holder that is proved already."""
    try:
        return decode(reader.root.read(path))
    except OSError:
        return ""


def _ended(error: OSError) -> bool:
    return error.errno in ENDED


def _command(reader: Reader, pid: str) -> str:
    return reader.text(f"{PROC}/{pid}/comm") or "?"
