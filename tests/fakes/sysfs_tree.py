"""A host's /sys, /proc, /dev and /etc as files, as far as a test needs them.

The shape is the kernel's (links from /sys/bus/pci/devices into /sys/devices, groups that link
back), so that the product and `lspci -A linux-sysfs -O sysfs.path=ROOT/sys/bus/pci` read the same
tree. It must never be cleverer than a kernel: every file can be overwritten or removed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fakes import config_bytes

_NO_RESOURCE = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"


class SysfsTree:
    """A tree below `top`; every method takes host paths (`/sys/...`)."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._places: dict[str, str] = {}
        top.mkdir(parents=True, exist_ok=True)

    # --- plain files ------------------------------------------------------------------------

    def at(self, path: str) -> Path:
        """Where a host path lies in this tree."""
        return self.top / path.lstrip("/")

    def write(self, path: str, content: str | bytes) -> None:
        """A file, its directories made; a str is written as UTF-8."""
        target = self.at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def mkdir(self, path: str) -> None:
        """A directory, empty if new."""
        self.at(path).mkdir(parents=True, exist_ok=True)

    def link(self, path: str, target: str) -> None:
        """A link to a host path, relative as sysfs makes them; replaces what was there."""
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(target, os.path.dirname(path)))

    def remove(self, path: str) -> None:
        """Delete a file or link."""
        self.at(path).unlink()

    # --- PCI --------------------------------------------------------------------------------

    def place(self, address: str) -> str:
        """The canonical directory of a function: `/sys/devices/pci0000:00/0000:00:01.0`."""
        return self._places[address]

    def function(
        self,
        address: str,
        *,
        parent: str = "",
        root: str = "",
        ids: str = "8086:10d3",
        subsystem: str = "8086:a01f",
        class_code: int = 0x020000,
        revision: int = 0,
        driver: str = "",
        group: int | None = None,
        config: bytes | None = None,
        reset_methods: str | None = "flr bus\n",
        power_state: str = "D0",
        bars: Sequence[tuple[int, int, int]] = ((0xFE600000, 0xFE603FFF, 0x00140204),),
        files: Mapping[str, str | bytes] | None = None,
    ) -> str:
        """One function below a bridge (`parent`) or a host bridge (`root`); its canonical path.

        `reset_methods` None leaves the file out; `files` adds or replaces attributes.
        """
        above = self._places[parent] if parent else f"/sys/devices/{root or _root_of(address)}"
        place = f"{above}/{address}"
        self._places[address] = place
        vendor, device = ids.split(":")
        subvendor, subdevice = subsystem.split(":")
        if config is None:
            config = config_bytes.make_config(
                vendor=int(vendor, 16),
                device=int(device, 16),
                plain=(config_bytes.pm(), config_bytes.pcie(flr=True), config_bytes.msix(8)),
                extended=(config_bytes.acs(),),
            )
        lines = [f"0x{start:016x} 0x{end:016x} 0x{flags:016x}\n" for start, end, flags in bars]
        attributes: dict[str, str | bytes] = {
            "vendor": f"0x{vendor}\n",
            "device": f"0x{device}\n",
            "subsystem_vendor": f"0x{subvendor}\n",
            "subsystem_device": f"0x{subdevice}\n",
            "class": f"0x{class_code:06x}\n",
            "revision": f"0x{revision:02x}\n",
            "irq": "16\n",
            "resource": "".join(lines) + _NO_RESOURCE * (13 - len(lines)),
            "config": config,
            "driver_override": "(null)\n",
            "numa_node": "-1\n",
            "power_state": power_state + "\n",
            "power/runtime_status": "active\n" if power_state == "D0" else "suspended\n",
            "max_link_speed": "8.0 GT/s PCIe\n",
            "max_link_width": "8\n",
            "current_link_speed": "8.0 GT/s PCIe\n",
            "current_link_width": "8\n",
        }
        if reset_methods is not None:
            attributes |= {"reset_method": reset_methods, "reset": ""}
        for name, content in (attributes | dict(files or {})).items():
            self.write(f"{place}/{name}", content)
        self.link(f"/sys/bus/pci/devices/{address}", place)
        self.link(f"{place}/subsystem", "/sys/bus/pci")
        if driver:
            self.bind(address, driver)
        if group is not None:
            self.join_group(address, group)
        return place

    def bridge(
        self,
        address: str,
        *,
        parent: str = "",
        root: str = "",
        buses: tuple[int, int] = (1, 1),
        port_type: int = 4,
        group: int | None = None,
        driver: str = "pcieport",
        acs_control: int = 0x1D,
    ) -> str:
        """A root port (4), upstream (5) or downstream (6) port."""
        return self.function(
            address,
            parent=parent,
            root=root,
            ids="1b36:000c",
            subsystem="1b36:0000",
            class_code=0x060400,
            driver=driver,
            group=group,
            reset_methods=None,
            bars=(),
            files={
                "secondary_bus_number": f"{buses[0]}\n",
                "subordinate_bus_number": f"{buses[1]}\n",
            },
            config=config_bytes.make_config(
                vendor=0x1B36,
                device=0x000C,
                header_type=1,
                buses=buses,
                plain=(config_bytes.pcie(port_type=port_type, slot=True), config_bytes.msix(1)),
                extended=(config_bytes.acs(control=acs_control),),
            ),
        )

    def virtual_function(
        self, address: str, *, physfn: str, index: int, group: int | None = None
    ) -> str:
        """A VF beside its PF; its config starts with ffffffff, as on real ones."""
        parent = os.path.basename(os.path.dirname(self._places[physfn]))
        place = self.function(
            address,
            parent=parent if parent in self._places else "",
            root="" if parent in self._places else parent,
            ids="8086:10ca",
            group=group,
            config=b"\xff\xff\xff\xff" + config_bytes.make_config(plain=(config_bytes.pcie(),))[4:],
        )
        self.link(f"{place}/physfn", self._places[physfn])
        self.link(f"{self._places[physfn]}/virtfn{index}", place)
        return place

    def bind(self, address: str, driver: str) -> None:
        """The function's driver link."""
        self.mkdir(f"/sys/bus/pci/drivers/{driver}")
        self.link(f"{self._places[address]}/driver", f"/sys/bus/pci/drivers/{driver}")

    def join_group(self, address: str, number: int) -> None:
        """Put the function into an IOMMU group, made if new."""
        group = f"/sys/kernel/iommu_groups/{number}"
        self.group(number)
        self.link(f"{group}/devices/{address}", self._places[address])
        self.link(f"{self._places[address]}/iommu_group", group)

    def group(
        self, number: int, *, kind: str = "DMA-FQ", name: str = "", reserved: str = ""
    ) -> None:
        """An IOMMU group with its attributes; keeps what it had if it exists."""
        group = f"/sys/kernel/iommu_groups/{number}"
        self.mkdir(f"{group}/devices")
        if not self.at(f"{group}/type").exists() or name or reserved:
            self.write(f"{group}/type", kind + "\n")
            self.write(f"{group}/reserved_regions", reserved)
        if name:
            self.write(f"{group}/name", name + "\n")

    def iommu(self, name: str = "dmar0") -> None:
        """An IOMMU unit in /sys/class/iommu."""
        self.mkdir(f"/sys/devices/virtual/iommu/{name}")
        self.link(f"/sys/class/iommu/{name}", f"/sys/devices/virtual/iommu/{name}")
        if name.startswith("dmar"):
            place = f"/sys/devices/virtual/iommu/{name}/intel-iommu"
            self.write(f"{place}/cap", "19ed008c40780c66\n")

    def hold(self, pid: int, command: str, *nodes: str) -> None:
        """A process with these device nodes open."""
        self.write(f"/proc/{pid}/comm", command + "\n")
        for number, node in enumerate(nodes, start=10):
            place = self.at(f"/proc/{pid}/fd/{number}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(node)

    # --- a whole host -----------------------------------------------------------------------

    def host(self, *, release: str = "6.1.0-56-amd64", boot_id: str = "") -> None:
        """What every host has besides PCI: kernel identity, command line, a short boot log."""
        self.write("/proc/sys/kernel/osrelease", release + "\n")
        self.write("/proc/sys/kernel/version", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2\n")
        self.write("/proc/version", f"Linux version {release} (gcc) #1 SMP PREEMPT_DYNAMIC\n")
        self.write("/proc/sys/kernel/random/boot_id", (boot_id or "0" * 8 + "-boot") + "\n")
        self.write("/proc/sys/kernel/hostname", "alpha\n")
        self.write("/proc/cmdline", "root=/dev/vda1 intel_iommu=on\n")
        self.write("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: vmx\n")
        self.write("/proc/uptime", "100.00 200.00\n")
        self.write("/dmesg", f"[    0.000000] Linux version {release}\n")


def _root_of(address: str) -> str:
    return "pci" + address.rpartition(":")[0]


def make_big_host(tree: SysfsTree, *, functions: int = 256) -> None:
    """A host of so many functions: root ports with a GPU-like pair or a NIC below each."""
    tree.host()
    tree.iommu()
    made, port, group, bus = 0, 0, 0, 1
    while made < functions:
        root_bus = port // 32
        address = f"{root_bus:04x}:00:{port % 32:02x}.0"
        tree.bridge(address, buses=(bus, bus), group=group)
        group += 1
        made += 1
        for number in range(min(3, functions - made)):
            tree.function(
                f"{root_bus:04x}:{bus:02x}:00.{number}",
                parent=address,
                ids=("10de:2204", "10de:1aef", "10de:1ad8")[number],
                class_code=(0x030000, 0x040300, 0x0C0330)[number],
                driver="vfio-pci",
                group=group,
                reset_methods="bus\n" if number == 0 else None,
                files={
                    f"aer_dev_{kind}": "RxErr 0\n" * 15 + f"TOTAL_ERR_{total} 0\n"
                    for kind, total in (
                        ("fatal", "FATAL"),
                        ("nonfatal", "NONFATAL"),
                        ("correctable", "COR"),
                    )
                },
            )
            made += 1
        group += 1
        port += 1
        bus += 1
