"""One collection of PCI functions, easy to ask in a test: by address, with the gaps by path."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.pci import Collected, collect_functions
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, Root
from vfio_contract.address import Address
from vfio_contract.model import (
    FunctionReading,
    Gap,
    Holder,
    Kernel,
    PciFunction,
    Snapshot,
)

NIC = "0000:01:00.0"
KERNEL = Kernel(release="6.1.0-56-amd64", build=None, machine=None)
DEVICES = "/sys/bus/pci/devices"


class Seen:
    """One collection: functions and readings by address, gaps by path."""

    def __init__(self, collected: Collected, gaps: tuple[Gap, ...]) -> None:
        self.functions = {f.address: f for f in collected.functions or ()}
        self.readings = {r.address: r for r in collected.readings}
        self.gaps = {gap.path: gap for gap in gaps}

    def __getitem__(self, address: str) -> PciFunction:
        return self.functions[Address(address)]

    def reading(self, address: str) -> FunctionReading:
        return self.readings[Address(address)]

    def reason(self, path: str) -> str:
        return self.gaps[path].reason


def look(
    root: Root,
    *,
    kernel: Kernel = KERNEL,
    holders: tuple[Holder, ...] | None = (),
    previous: Snapshot | None = None,
) -> Seen:
    reader = Reader(root)
    collected = collect_functions(reader, kernel=kernel, holders=holders, previous=previous)
    return Seen(collected, reader.gaps)


def look_live(tree: SysfsTree, **options: object) -> Seen:
    return look(LiveRoot(str(tree.top)), **options)  # type: ignore[arg-type]


def make_nic_host(top: Path) -> SysfsTree:
    """A root port and the NIC below it."""
    tree = SysfsTree(top)
    tree.bridge("0000:00:02.0", group=0, buses=(1, 1))
    tree.function(NIC, parent="0000:00:02.0", driver="e1000e", group=14)
    return tree


def attribute(tree: SysfsTree, name: str, content: str | bytes, address: str = NIC) -> None:
    tree.write(f"{tree.place(address)}/{name}", content)
