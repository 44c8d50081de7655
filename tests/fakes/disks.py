"""A host's disks, mounts and swap areas as files, for tests of what stands on what.

The shapes are the kernel's. Nothing of the product's resolution is used to build them.
"""

from __future__ import annotations

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.block import collect_block
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot
from vfio_agent.collect.storage import collect_storage_uses
from vfio_contract.model import BlockDevice, NetDevice, StorageUse

AHCI = "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block"
NVME = "/sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0"
NVME1 = "/sys/devices/pci0000:00/0000:00:1d.4/0000:03:00.0/nvme/nvme1"
VIRTUAL = "/sys/devices/virtual/block"
SUBSYSTEM = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
ROUTED = (NetDevice("eth0", None, "", (), (), ("10.0.2.15",), ("default",)),)
UNROUTED = (NetDevice("eth0", None, "", (), (), None, None),)


class Disks:
    """A host with a SATA and an NVMe disk, its mounts and swap areas; more can be added."""

    def __init__(self, tree: SysfsTree) -> None:
        self.tree = tree
        self.rows = ["21 27 0:21 / /proc rw - proc proc rw"]
        self.swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        tree.mkdir("/sys/class/block")
        self.disk("sda", "8:0", AHCI)
        self.disk("sda1", "8:1", f"{AHCI}/sda")
        self.disk("sda2", "8:2", f"{AHCI}/sda")
        self.disk("nvme0n1", "259:0", NVME)
        self.disk("nvme0n1p1", "259:1", f"{NVME}/nvme0n1")

    def disk(self, name: str, number: str, place: str) -> None:
        self.tree.write(f"{place}/{name}/dev", number + "\n")
        self.tree.link(f"/sys/class/block/{name}", f"{place}/{name}")

    def stacked(self, name: str, number: str, *slaves: str, label: str = "") -> None:
        self.disk(name, number, VIRTUAL)
        self.tree.mkdir(f"{VIRTUAL}/{name}/slaves")
        for slave in slaves:
            self.tree.link(f"{VIRTUAL}/{name}/slaves/{slave}", f"/sys/class/block/{slave}")
        self.tree.write(f"{VIRTUAL}/{name}/dm/name", label + "\n")

    def loop(self, name: str, number: str, file: str) -> None:
        self.disk(name, number, VIRTUAL)
        self.tree.mkdir(f"{VIRTUAL}/{name}/slaves")
        if file:
            self.tree.write(f"{VIRTUAL}/{name}/loop/backing_file", file + "\n")

    def mount(
        self, point: str, fstype: str, source: str, number: str = "0:99", options: str = "rw"
    ) -> None:
        name = len(self.rows) + 27
        parent = 1 if point == "/" else 28
        if point == "/":
            name = 28
        self.rows.append(f"{name} {parent} {number} / {point} rw - {fstype} {source} {options}")

    def reader(self) -> Reader:
        self.tree.write("/proc/1/mountinfo", "\n".join(self.rows) + "\n")
        self.tree.write("/proc/swaps", self.swaps)
        return Reader(LiveRoot(str(self.tree.top)))

    def block(self) -> dict[str, BlockDevice]:
        return {device.name: device for device in collect_block(self.reader()) or ()}

    def uses(self, network: tuple[NetDevice, ...] = ROUTED) -> list[StorageUse]:
        reader = self.reader()
        found = collect_storage_uses(reader, collect_block(reader), network)
        assert found is not None
        return list(found)

    def only_use(self) -> StorageUse:
        (use,) = self.uses()
        return use
