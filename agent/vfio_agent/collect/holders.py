"""Which processes have a VFIO group or device node open.

The only proof that a VM has a device is its open file; /proc/PID/fd of other users needs root. This
module must never read a process's arguments or environment (they hold secrets), and never report
"nobody" when there was a process it could not look into.
"""

from __future__ import annotations

import errno
import re

from vfio_agent.collect.reader import REMEDY_ROOT, Reader
from vfio_contract.model import Holder

VFIO = "/dev/vfio"
CDEVS = "/dev/vfio/devices"
PROC = "/proc"
DELETED = " (deleted)"

ENDED = (errno.ENOENT, errno.ESRCH)
"""The process, or its file, is gone since it was listed: it holds nothing."""

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
    open_nodes: list[tuple[str, str]] = []
    for path, target in zip(paths, reader.root.link_many(paths), strict=True):
        if isinstance(target, str):
            node = target.removesuffix(DELETED)
            if HELD_NODE.fullmatch(node):
                open_nodes.append((node, path.split("/")[2]))
        elif not _ended(target):
            refused = refused or target
    if refused is not None:
        remedy = REMEDY_ROOT if reader.root.live else f"ls -l {PROC}/*/fd"
        reader.gap(f"{PROC}/*/fd", refused, remedy)
        return None
    return tuple(
        Holder(path=node, pid=int(pid), command=_command(reader, pid))
        for node, pid in sorted(set(open_nodes), key=lambda row: (row[0], int(row[1])))
    )


def _ended(error: OSError) -> bool:
    return error.errno in ENDED


def _command(reader: Reader, pid: str) -> str:
    return reader.text(f"{PROC}/{pid}/comm") or "?"
