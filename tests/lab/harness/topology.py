"""The lab's machines as data tables: devices, firmware, kernel and what their owner set up.

A table names QEMU devices in QEMU's own words; `machine.py` turns it into a command line and
`guest.py` carries out the guest's part. Nothing here runs anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

INTEL = "intel-iommu,intremap=on,caching-mode=on"
INTEL_NO_IR = "intel-iommu,intremap=off,caching-mode=on"
AMD = "amd-iommu,intremap=on"


@dataclass(frozen=True, slots=True)
class Firmware:
    """What DMI says: BIOS (type 0), system (type 1), board (type 2), chassis (type 3)."""

    vendor: str
    version: str
    date: str
    manufacturer: str
    product: str
    uuid: str
    serial: str
    board: str

    def arguments(self) -> tuple[str, ...]:
        """The `-smbios` values."""
        return (
            f"type=0,vendor={self.vendor},version={self.version},date={self.date}",
            f"type=1,manufacturer={self.manufacturer},product={self.product},"
            f"version=1,uuid={self.uuid},serial={self.serial}",
            f"type=2,manufacturer={self.manufacturer},product={self.board},"
            f"version=1.02,serial=B{self.serial}",
            f"type=3,manufacturer={self.manufacturer},serial=C{self.serial}",
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the lab.

    devices  -- values of `-device`, in order; a `netdev=ID` or `drive=ID` in them gets its backend
    options  -- further whole QEMU arguments
    cmdline  -- what the owner wrote on the kernel command line (also written to the GRUB default)
    vfio_ids -- `options vfio-pci ids=` in modprobe.d, loaded before the host's drivers
    driverctl -- addresses with a persistent override in driverctl's own files
    overrides -- addresses with a bare driver_override, which a reboot forgets
    vfs      -- (address of a physical function, count): SR-IOV functions, given to vfio-pci too
    partitioned -- drives that get one Linux partition; all drives are 64 MiB and blank
    await_nodes -- device nodes whose drivers scan in the background; the guest waits for them
    setup    -- shell lines after the drivers are loaded: storage, network
    bound    -- exactly the functions that must be on vfio-pci in the end
    bus_reset_broken -- every bus reset below a root port fails after 2.9 s, as on broken slots
    reaches_host -- its management network leads to the lab host's loopback (10.0.2.2)
    """

    name: str
    kernel: str
    iommu: str
    cmdline: str
    firmware: Firmware
    devices: tuple[str, ...]
    options: tuple[str, ...] = ()
    # Off: the emulated machine passes for bare metal. On: its kernel knows that it is a guest.
    hypervisor_flag: bool = False
    vfio_ids: tuple[str, ...] = ()
    driverctl: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    vfs: tuple[tuple[str, int], ...] = ()
    partitioned: tuple[str, ...] = ("disk0",)
    await_nodes: tuple[str, ...] = ("/dev/sda1",)
    setup: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    bus_reset_broken: bool = False
    reaches_host: bool = False


def _firmware(number: int, version: str, date: str, product: str, board: str) -> Firmware:
    return Firmware(
        vendor="ACME",
        version=version,
        date=date,
        manufacturer="Acme",
        product=product,
        uuid=f"6c616221-{number:04d}-4000-8000-{number:012d}",
        serial=f"ACME{number:04d}",
        board=board,
    )


def _mac(number: int, nic: int) -> str:
    return f"52:54:00:{number:02x}:00:{nic:02x}"


def _port(slot: int, address: str, extra: str = "", bus: str = "pcie.0") -> str:
    tail = f",{extra}" if extra else ""
    return f"pcie-root-port,id=rp{slot},chassis={slot},slot={slot},bus={bus},addr={address}{tail}"


def _gpu(bus: str, number: int = 0) -> tuple[str, str]:
    """A display function with its audio function in one slot, as graphics cards have."""
    return (
        f"bochs-display,id=gpu{number},bus={bus},addr=0.0,multifunction=on",
        f"ich9-intel-hda,id=audio{number},bus={bus},addr=0.1",
    )


def _host_devices(number: int) -> tuple[str, ...]:
    """What the host itself lives on: a management NIC and a SATA disk."""
    return (
        f"virtio-net-pci,bus=pcie.0,addr=1c.0,netdev=mgmt,mac={_mac(number, 0)}",
        f"ide-hd,bus=ide.0,drive=disk0,serial=SATA{number:02d}A",
    )


def _thirty_one(number: int) -> tuple[str, ...]:
    """The wide topology: clean ports, SR-IOV, a switch, a PCI bridge, a port without ACS."""
    return (
        _port(1, "2.0", "multifunction=on"),
        f"e1000e,bus=rp1,mac={_mac(number, 1)}",
        _port(2, "2.1"),
        "nvme-subsys,id=ss0",
        f"nvme,id=nv0,serial=NVME{number:02d}A,subsys=ss0,bus=rp2,sriov_max_vfs=2,"
        "sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=4",
        "nvme-ns,drive=nvme0,bus=nv0",
        _port(3, "3.0"),
        f"igb,bus=rp3,netdev=igb0,mac={_mac(number, 3)}",
        _port(4, "4.0"),
        "x3130-upstream,id=up1,bus=rp4",
        "xio3130-downstream,id=dn1,bus=up1,chassis=41,slot=41",
        f"e1000e,bus=dn1,netdev=switch0,mac={_mac(number, 4)}",
        "xio3130-downstream,id=dn2,bus=up1,chassis=42,slot=42",
        f"nvme,serial=NVME{number:02d}B,bus=dn2,drive=nvme1",
        _port(5, "5.0"),
        "pcie-pci-bridge,id=ppb,bus=rp5",
        f"e1000,bus=ppb,addr=1,mac={_mac(number, 5)}",
        "edu,bus=ppb,addr=2",
        _port(6, "6.0", "disable-acs=on"),
        f"e1000e,bus=rp6,netdev=noacs0,mac={_mac(number, 6)}",
        _port(7, "7.0"),
        *_gpu("rp7"),
        "edu,bus=pcie.0,addr=8.0",
        _port(9, "9.0"),
        "virtio-net-pci,bus=rp9,iommu_platform=on,disable-legacy=on,netdev=virtio0,"
        f"mac={_mac(number, 9)}",
        _port(10, "a.0"),  # an empty hot-plug slot
        *_host_devices(number),
        f"ide-hd,bus=ide.1,drive=disk1,serial=SATA{number:02d}B",
    )


def _small(number: int) -> tuple[str, ...]:
    """A NIC, an NVMe drive and a graphics card, each alone below its root port."""
    return (
        _port(1, "2.0", "multifunction=on"),
        f"e1000e,bus=rp1,mac={_mac(number, 1)}",
        _port(2, "2.1"),
        f"nvme,serial=NVME{number:02d}A,bus=rp2,drive=nvme0",
        _port(7, "7.0"),
        *_gpu("rp7"),
        *_host_devices(number),
    )


def gpubox(number: int, *, acs: bool, switch: bool) -> tuple[str, ...]:
    """One machine under two firmwares: F11 enumerates a switch first and drops the slots' ACS."""
    no_acs = "" if acs else "disable-acs=on"
    ahead = (
        _port(20, "1.0"),
        "x3130-upstream,id=up1,bus=rp20",
        "xio3130-downstream,id=dn1,bus=up1,chassis=41,slot=41",
    )
    return (
        *(ahead if switch else ()),
        _port(1, "2.0", ",".join(filter(None, ("multifunction=on", no_acs)))),
        f"e1000e,bus=rp1,mac={_mac(number, 1)}",
        _port(2, "2.1", no_acs),
        f"nvme,serial=NVME{number:02d}A,bus=rp2,drive=nvme0",
        _port(7, "7.0"),
        *_gpu("rp7"),
        # The host's own console and keyboard.
        "cirrus-vga,bus=pcie.0,addr=10.0",
        "qemu-xhci,id=usb,bus=pcie.0,addr=14.0",
        "usb-kbd,bus=usb.0",
        *_host_devices(number),
    )


def _two_nodes(number: int) -> tuple[str, ...]:
    """Two NUMA nodes, each with a graphics card and a NIC on ports of its own host bridge."""
    parts: list[str] = []
    for node in (0, 1):
        slot = 10 * (node + 1)
        bus, first = f"node{node}", 32 * (node + 1)
        parts += (
            f"pxb-pcie,id={bus},bus_nr={first},numa_node={node},bus=pcie.0,addr={node + 4}",
            _port(slot, "0", bus=bus),
            *_gpu(f"rp{slot}", node),
            _port(slot + 1, "1", bus=bus),
            f"e1000e,bus=rp{slot + 1},mac={_mac(number, slot)}",
            _port(slot + 2, "2", bus=bus),
            f"nvme,serial=NVME{number:02d}{'AB'[node]},bus=rp{slot + 2},drive=nvme{node}",
        )
    return (*parts, "cirrus-vga,bus=pcie.0,addr=10.0", *_host_devices(number))


# PCI ids of QEMU's devices.
E1000E, NVME, IGB = "8086:10d3", "1b36:0010", "8086:10c9"
DISPLAY, AUDIO = "1234:1111", "8086:293e"
# The small topology's functions below their ports, and the same behind F11's switch.
SMALL_BOUND = ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:03:00.1")
F11_BOUND = ("0000:04:00.0", "0000:05:00.0", "0000:06:00.0", "0000:06:00.1")

MANAGEMENT = (
    "ip link set enp0s28 up",
    "ip address add 10.0.2.15/24 dev enp0s28",
    "ip route add default via 10.0.2.2",
)
# As Proxmox VE sets it up: the address is on a bridge, the NIC below it.
MANAGEMENT_BRIDGE = (
    "ip link add vmbr0 type bridge forward_delay 0",
    "ip link set enp0s28 master vmbr0 up",
    "ip link set vmbr0 up",
    "ip address add 10.0.2.15/24 dev vmbr0",
    "ip route add default via 10.0.2.2",
)
PLAIN_DISK = (
    "mke2fs -q -t ext4 -L vz /dev/sda1",
    "mkdir -p /var/lib/vz",
    "mount /dev/sda1 /var/lib/vz",
)
# RAID 1 over both SATA disks, LVM on the NVMe drive behind the switch.
MIRROR_AND_LVM = (
    "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean "
    "--homehost=any /dev/sda1 /dev/sdb1",
    "mke2fs -q -t ext4 -L vz /dev/md0",
    "mkdir -p /var/lib/vz /var/lib/images",
    "mount /dev/md0 /var/lib/vz",
    "pvcreate -y /dev/nvme0n1",
    "vgcreate images /dev/nvme0n1",
    "lvcreate -y --noudevsync -n guests -l 80%FREE images",
    "mke2fs -q -t ext4 -L images /dev/images/guests",
    # A link to /dev/dm-0, as udev leaves it, in place of the node that LVM makes without udev.
    "ln -sf ../dm-0 /dev/mapper/images-guests",
    "mount /dev/images/guests /var/lib/images",
)
# A bridge on the switch's NIC, a bond of the NIC without ACS and the virtio one.
BRIDGE_AND_BOND = (
    "ip link add vmbr0 type bridge forward_delay 0",
    "ip link set enp6s0 master vmbr0 up",
    "ip link set vmbr0 up",
    "ip address add 10.20.0.1/24 dev vmbr0",
    "ip link add bond0 type bond mode active-backup",
    "ip link set enp10s0 master bond0",
    "ip link set enp12s0 master bond0",
    "ip link set bond0 up",
    "ip address add 10.30.0.1/24 dev bond0",
)

_M3 = Machine(
    name="m3-intel-6.1",
    kernel="6.1",
    iommu=INTEL,
    cmdline="intel_iommu=on iommu=pt",
    firmware=_firmware(1, "F4", "03/04/2024", "WideBox", "X12-WIDE"),
    devices=_thirty_one(1),
    # Three functions share the NIC's id and two the NVMe's: those are bound by address.
    vfio_ids=(DISPLAY, AUDIO, IGB),
    driverctl=("0000:01:00.0", "0000:02:00.0"),
    # Both endpoints behind the PCI bridge; the bridge keeps its driver and spoils the group.
    overrides=("0000:09:01.0", "0000:09:02.0"),
    partitioned=("disk0", "disk1"),
    await_nodes=("/dev/sda1", "/dev/sdb1", "/dev/nvme0n1"),
    setup=(*MIRROR_AND_LVM, *MANAGEMENT, *BRIDGE_AND_BOND),
    bound=(
        "0000:01:00.0",
        "0000:02:00.0",
        "0000:03:00.0",
        "0000:09:01.0",
        "0000:09:02.0",
        "0000:0b:00.0",
        "0000:0b:00.1",
    ),
)

_GPUBOX = Machine(
    name="gpubox-f10",
    kernel="6.1",
    iommu=INTEL,
    cmdline="intel_iommu=on iommu=pt",
    firmware=_firmware(6, "F10", "01/02/2025", "GPUBox", "X13-GPU"),
    devices=gpubox(6, acs=True, switch=False),
    vfio_ids=(E1000E, NVME, DISPLAY, AUDIO),
    setup=(*PLAIN_DISK, *MANAGEMENT_BRIDGE),
    bound=SMALL_BOUND,
)

MACHINES: tuple[Machine, ...] = (
    _M3,
    Machine(
        name="amd-6.1",
        kernel="6.1",
        iommu=AMD,
        cmdline="iommu=pt",
        firmware=_firmware(2, "1.7", "11/12/2023", "EpycBox", "H12-SMALL"),
        devices=_small(2),
        vfio_ids=(E1000E, NVME, DISPLAY, AUDIO),
        setup=(*PLAIN_DISK, *MANAGEMENT),
        bound=SMALL_BOUND,
    ),
    replace(
        _M3,
        name="m3-intel-6.12",
        kernel="6.12",
        firmware=_firmware(3, "F5", "08/09/2025", "WideBox", "X12-WIDE"),
        devices=_thirty_one(3),
        hypervisor_flag=True,
        # The igb stays with the host and lends two virtual functions; one endpoint behind the PCI
        # bridge is bound and its neighbour is not.
        vfio_ids=(DISPLAY, AUDIO),
        driverctl=("0000:01:00.0", "0000:02:00.0"),
        overrides=("0000:09:02.0",),
        vfs=(("0000:03:00.0", 2),),
        bound=(
            "0000:01:00.0",
            "0000:02:00.0",
            "0000:03:10.0",
            "0000:03:10.2",
            "0000:09:02.0",
            "0000:0b:00.0",
            "0000:0b:00.1",
        ),
    ),
    Machine(
        name="iommu-off",
        kernel="6.1",
        iommu=INTEL,
        cmdline="intel_iommu=off",
        firmware=_firmware(4, "F2", "05/06/2022", "SmallBox", "X11-SMALL"),
        devices=_small(4),
        # Intended all the same; without an IOMMU vfio-pci refuses them.
        vfio_ids=(E1000E, NVME, DISPLAY, AUDIO),
        setup=(*PLAIN_DISK, *MANAGEMENT),
    ),
    Machine(
        name="ir-off",
        kernel="6.1",
        iommu=INTEL_NO_IR,
        cmdline="intel_iommu=on iommu=pt",
        firmware=_firmware(5, "F3", "07/08/2021", "SmallBox", "X11-SMALL"),
        devices=_small(5),
        vfio_ids=(E1000E, NVME, DISPLAY, AUDIO),
        setup=(*PLAIN_DISK, *MANAGEMENT),
        bound=SMALL_BOUND,
    ),
    _GPUBOX,
    replace(
        _GPUBOX,
        name="gpubox-f11",
        firmware=_firmware(6, "F11", "06/07/2025", "GPUBox", "X13-GPU"),
        devices=gpubox(6, acs=False, switch=True),
        bound=F11_BOUND,
    ),
    Machine(
        name="numa-2gpu",
        kernel="6.1",
        iommu=INTEL,
        cmdline="intel_iommu=on iommu=pt",
        firmware=_firmware(7, "F10", "01/02/2025", "TwinBox", "X13-TWIN"),
        devices=_two_nodes(7),
        options=(
            *("-smp", "2,sockets=2"),
            *("-object", "memory-backend-ram,id=ram0,size=512M"),
            *("-object", "memory-backend-ram,id=ram1,size=512M"),
            *("-numa", "node,nodeid=0,cpus=0,memdev=ram0"),
            *("-numa", "node,nodeid=1,cpus=1,memdev=ram1"),
        ),
        vfio_ids=(E1000E, NVME, DISPLAY, AUDIO),
        setup=(*PLAIN_DISK, *MANAGEMENT_BRIDGE),
        bound=tuple(
            f"0000:{bus:02x}:00.{function}"
            for base in (0x21, 0x41)
            for bus, functions in ((base, "01"), (base + 1, "0"), (base + 2, "0"))
            for function in functions
        ),
    ),
)
