"""Who opens and closes /dev/vfio: no event of the kernel's says it, so two signs are put together.

inotify sees every open of a node in the host's own /dev. It does not see a VM that libvirt starts
in a mount namespace with nodes of its own there. What no namespace hides: VFIO enables a function
when its device is opened and disables it at the last close (vfio_pci_core_enable(), _disable()),
and sysfs `enable` is that counter. It is one atomic_read() without a lock (drivers/pci/pci-sysfs.c
enable_show()): it cannot block and wakes nothing, unlike nearly everything beside it. A held group
of which no device is open is left to inotify and the rescan. Both are hints: /proc/*/fd is read
only when one of them says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from math import inf

from vfio_agent.collect.holders import CDEVS, HELD_NODE, VFIO
from vfio_agent.watch.folders import CHANGES, OPENS, Folders, Opened, gap_of
from vfio_agent.watch.signals import Happening, Part, Sign, Signal, want
from vfio_contract.address import Address
from vfio_contract.model import Gap

NAME = "inotify:/dev/vfio"

DEVICES = "/sys/bus/pci/devices"

POLL_S = 0.5
PER_S = 128
"""Counters are compared this often, and at most so many in a second: 5 us each, 0.06% of a core."""

_GONE = frozenset({errno.ENOENT, errno.ENODEV})


class VfioNodes:
    """The source. `dev` and `devices` are the host's, but for tests."""

    def __init__(
        self,
        *,
        folders: Sequence[str] = (VFIO, CDEVS),
        devices: str = DEVICES,
    ) -> None:
        self._folders = Folders(folders, OPENS | CHANGES)
        self._devices = devices
        self._root = folders[0]
        self._counters: dict[Address, tuple[int, bytes]] = {}
        self._gaps: dict[Address, Gap] = {}
        self._due_s = inf

    def know(self, bound: Iterable[Address], now_s: float) -> None:
        """The functions that are on a VFIO driver now; their counters are compared from now on."""
        wanted = set(bound)
        self._gaps.clear()
        for address in self._counters.keys() - wanted:
            self._drop(address)
        for address in wanted - self._counters.keys():
            self._follow(address)
        self._due_s = now_s + self._period()

    def fileno(self) -> int:
        """See `Source`."""
        return self._folders.fileno()

    def due_at(self) -> float:
        """See `Source`."""
        return self._due_s

    def read(self) -> Sequence[Signal]:
        """See `Source`."""
        found: list[Signal] = []
        changes, opens = self._folders.read(), self._folders.take_opens()
        for change in changes:
            path = f"{change.folder}/{change.name}" if change.name else change.folder
            node = self._node(path)
            if change.name and not node:
                continue
            counts = {
                Happening(sign, node): opens[Opened(change.folder, change.name, opened)]
                for sign, opened in ((Sign.OPENED, True), (Sign.CLOSED, False))
            }
            happened = tuple((what, count) for what, count in counts.items() if count)
            why = f"{path} opened or closed"
            found.append(Signal(why, want(Part.HOLDERS), happened=happened))
        return found

    def _node(self, path: str) -> str:
        """The node's path on the host, "" for another file."""
        node = path.replace(self._root, VFIO, 1)
        return node if HELD_NODE.fullmatch(node) else ""

    def tick(self, now_s: float) -> Sequence[Signal]:
        """See `Source`."""
        found: list[Signal] = []
        for address, (descriptor, before) in list(self._counters.items()):
            try:
                now = os.pread(descriptor, 16, 0)
            except OSError as error:
                self._drop(address)
                self._fail(address, error)
                found.append(Signal(f"{address} is gone", want(functions=(address,))))
                continue
            if now != before:
                self._counters[address] = descriptor, now
                why = f"{address} was opened or closed"
                found.append(Signal(why, want(Part.HOLDERS, functions=(address,))))
        self._due_s = now_s + self._period()
        return found

    def gaps(self) -> Sequence[Gap]:
        """See `Source`."""
        return (*self._folders.gaps(), *self._gaps.values())

    def close(self) -> None:
        """See `Source`."""
        for address in list(self._counters):
            self._drop(address)
        self._folders.close()

    def _period(self) -> float:
        return max(POLL_S, len(self._counters) / PER_S) if self._counters else inf

    def _path(self, address: Address) -> str:
        return f"{self._devices}/{address}/enable"

    def _follow(self, address: Address) -> None:
        try:
            descriptor = os.open(self._path(address), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._fail(address, error)
            return
        try:
            self._counters[address] = descriptor, os.pread(descriptor, 16, 0)
        except OSError as error:
            os.close(descriptor)
            self._fail(address, error)

    def _drop(self, address: Address) -> None:
        descriptor, _ = self._counters.pop(address)
        os.close(descriptor)

    def _fail(self, address: Address, error: OSError) -> None:
        """A function that has gone is no gap: its uevent tells of it."""
        if error.errno not in _GONE:
            self._gaps[address] = gap_of(self._path(address), error, "cannot be followed")
