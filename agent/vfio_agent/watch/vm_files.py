"""VM definitions: Proxmox's and libvirt's files, and the marks of VMs that run.

inotify where the kernel sees the change. /etc/pve is a file system of a process (pmxcfs): what
another node of the cluster writes appears in it without any notice, so names, sizes and times are
compared from time to time as well. This module must never open a VM's file: reading is for the
collectors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from posixpath import dirname

from vfio_agent.collect.deadline import Deadline
from vfio_agent.collect.vms import (
    LIBVIRT_AUTOSTART,
    LIBVIRT_FOLDER,
    PROXMOX_FOLDER,
    PROXMOX_MAPPINGS,
)
from vfio_agent.watch.folders import CHANGES, Folders, gap_of
from vfio_agent.watch.signals import Part, Signal, want
from vfio_contract.model import Gap

NAME = "inotify:vm-definitions"

DEFINITIONS = (PROXMOX_FOLDER, dirname(PROXMOX_MAPPINGS), LIBVIRT_FOLDER, LIBVIRT_AUTOSTART)

RUNNING = ("/run/qemu-server", "/run/libvirt/qemu")
"""Their pid and state files come and go with the VMs."""

POLL_S = 30.0
"""300 files on pmxcfs cost some 10 ms each time."""

MAX_FILES = 4096
"""Compared in one folder; more than the collectors read."""

_Signature = frozenset[tuple[str, int, int, int]]


class VmFiles:
    """The source. OSError when this user has too many inotify instances."""

    def __init__(
        self,
        *,
        definitions: Sequence[str] = DEFINITIONS,
        running: Sequence[str] = RUNNING,
        now_s: float,
    ) -> None:
        self._definitions = tuple(definitions)
        self._running = frozenset(running)
        self._folders = Folders((*definitions, *running), CHANGES)
        self._deadline = Deadline(scope=f"vm-files:{self._folders.fileno()}")
        self._signatures: dict[str, _Signature | None] = {}
        self._gaps: dict[str, Gap] = {}
        self._due_s = now_s + POLL_S
        self._compare()

    def fileno(self) -> int:
        """See `Source`."""
        return self._folders.fileno()

    def due_at(self) -> float:
        """See `Source`."""
        return self._due_s

    def read(self) -> Sequence[Signal]:
        """See `Source`."""
        return [self._signal(change.folder, change.name) for change in self._folders.read()]

    def tick(self, now_s: float) -> Sequence[Signal]:
        """See `Source`."""
        self._due_s = now_s + POLL_S
        found = [change.folder for change in self._folders.arm()]
        found += self._compare()
        return [self._signal(folder, "") for folder in dict.fromkeys(found)]

    def gaps(self) -> Sequence[Gap]:
        """See `Source`."""
        by_path = {gap.path: gap for gap in (*self._gaps.values(), *self._folders.gaps())}
        return tuple(by_path.values())

    def close(self) -> None:
        """See `Source`."""
        self._deadline.close()
        self._folders.close()

    def _signal(self, folder: str, name: str) -> Signal:
        parts = (Part.VMS, Part.HOLDERS) if folder in self._running else (Part.VMS,)
        return Signal(f"{folder}/{name}", want(*parts))

    def _compare(self) -> list[str]:
        """Folders that look different from the last time."""
        changed: list[str] = []
        signatures = self._deadline.run(_sign, self._definitions)
        for folder, found in zip(self._definitions, signatures, strict=True):
            if isinstance(found, OSError):
                self._gaps[folder] = gap_of(folder, found, "cannot be compared")
                continue
            self._gaps.pop(folder, None)
            if folder in self._signatures and self._signatures[folder] != found:
                changed.append(folder)
            self._signatures[folder] = found
        return changed


def _sign(folder: str) -> _Signature | None:
    """(name, inode, size, time of change in ns) of its files; None when there is no folder."""
    found: set[tuple[str, int, int, int]] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found) >= MAX_FILES:
                    break
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.add((entry.name, status.st_ino, status.st_size, status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return frozenset(found)
