"""Hosts as values: complete, healthy snapshots to bend in one place and judge.

    host = make_host(nic("0000:01:00.0", driver="igb"), cmdline="ro quiet intel_iommu=off")

Every field has a known, sensible value: an Intel server on Linux 6.12 with IOMMU and interrupt
remapping on, `/` on a disk that is no PCI function, the management address on an interface that is
none either. Groups, the names of devices and the kernel log's group lines follow from the functions
given, unless they are given too. `unread(value, "field")` replaces fields by None, "not known".
Nothing here may ever default to None: a test that wants a gap says so.

Length: one vocabulary of fake hosts; in two files every test would import from both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from vfio_contract.address import Address, parse_address
from vfio_contract.host import Host
from vfio_contract.identity import identify
from vfio_contract.ledger import ResetState
from vfio_contract.model import (
    NO_GROUP,
    Acs,
    AddressWidths,
    BlockDevice,
    BootOptions,
    ConfigSpace,
    Cpu,
    CpuIsolation,
    CpuTime,
    DiskTime,
    Facts,
    Firmware,
    FunctionReading,
    HugePages,
    Initramfs,
    Intent,
    IommuGroup,
    Kernel,
    KernelLog,
    LogLine,
    Memory,
    Module,
    ModuleRule,
    NetDevice,
    PcieCapability,
    PciFunction,
    Pressure,
    Readings,
    ResetSummary,
    Snapshot,
    SriovCapability,
    StorageUse,
)

Value = TypeVar("Value")

ENDPOINT, ROOT_PORT, UPSTREAM, DOWNSTREAM, PCI_BRIDGE = 0, 4, 5, 6, 7
"""Raw PCIe port types."""

FULL_ACS = Acs(capability=0x1F, control=0x1D)
"""SV RR CR UF enabled, as the kernel sets them on a hop that it relies on."""

BOOT = "11111111-2222-4333-8444-555555555555"
CMDLINE = "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet intel_iommu=on iommu=pt"
CHIPS = ("IR-IO-APIC", "DMAR-MSI", "IR-PCI-MSI")
MODULES = (
    Module("kvm", ()),
    Module("kvm_intel", (("nested", "N"),)),
    Module("vfio", (("enable_unsafe_noiommu_mode", "N"),)),
    Module("vfio_iommu_type1", (("allow_unsafe_interrupts", "N"),)),
    Module("vfio_pci", (("ids", ""),)),
)

# --- functions -----------------------------------------------------------------------------------


def config_space(
    *,
    header_type: int = 0,
    multifunction: bool = False,
    port_type: int | None = ENDPOINT,
    flr: bool = False,
    af_flr: bool | None = None,
    acs: Acs | None = None,
    serial_number: str | None = None,
    total_vfs: int = 0,
    length: int = 4096,
    **changes: Any,
) -> ConfigSpace:
    """A readable config space; `port_type` None is a conventional PCI function without PCIe."""
    extended = [0x01]
    extended += [0x0D] if acs else []
    extended += [0x03] if serial_number else []
    extended += [0x10] if total_vfs else []
    config = ConfigSpace(
        length=length,
        dead=False,
        header_type=header_type,
        multifunction=multifunction,
        secondary_bus=None,
        subordinate_bus=None,
        capabilities=(0x01, 0x05) + ((0x10,) if port_type is not None else ()),
        extended=tuple(sorted(extended)) if port_type is not None else (),
        pcie=None
        if port_type is None
        else PcieCapability(
            port_type=port_type, flr=flr, slot_implemented=False, max_link_speed=3, max_link_width=8
        ),
        af_flr=af_flr,
        pm_no_soft_reset=True,
        msi=True,
        msix_vectors=None,
        acs=acs,
        sriov=SriovCapability(total_vfs, total_vfs, 0, 0x10CA) if total_vfs else None,
        serial_number=serial_number,
    )
    return replace(config, **changes)


def function(address: str, **changes: Any) -> PciFunction:
    """A single-function PCIe network card below no bridge, alone in group 1, on vfio-pci with FLR.

    `changes` replace fields of `PciFunction`.
    """
    values: dict[str, Any] = {
        "address": parse_address(address),
        "parent": Address(""),
        "root": "pci" + address.rpartition(":")[0].rpartition(":")[0] + ":00",
        "root_path": "\\_SB_.PCI0",
        "vendor": 0x8086,
        "device": 0x10C9,
        "subsystem_vendor": 0x8086,
        "subsystem_device": 0xA03C,
        "class_code": 0x020000,
        "revision": 1,
        "driver": "vfio-pci",
        "driver_override": "",
        "group": 1,
        "vfio_device": None,
        "reset_method_file": True,
        "reset_methods": ("flr", "bus"),
        "reset_file": True,
        "numa_node": -1,
        "boot_vga": False,
        "sriov_total_vfs": 0,
        "sriov_num_vfs": 0,
        "physfn": Address(""),
        "vf_index": -1,
        "bars": (),
        "max_link_speed": "8.0 GT/s PCIe",
        "max_link_width": 8,
        "config": config_space(flr=True),
    }
    values |= changes
    if values["vfio_device"] is None and "vfio_device" not in changes:
        values["vfio_device"] = values["driver"] == "vfio-pci"
    return PciFunction(**values)


def nic(address: str, *, group: int = 1, driver: str = "vfio-pci", **changes: Any) -> PciFunction:
    """An Intel network card with FLR."""
    return function(address, **{"group": group, "driver": driver} | changes)


def nvme(address: str, *, group: int = 1, driver: str = "vfio-pci", **changes: Any) -> PciFunction:
    """An NVMe disk with FLR."""
    defaults = {"class_code": 0x010802, "vendor": 0x144D, "device": 0xA80A}
    return function(address, **defaults | {"group": group, "driver": driver} | changes)


def gpu(address: str, *, group: int = 1, driver: str = "vfio-pci", **changes: Any) -> PciFunction:
    """A graphics card's first function: no FLR, resettable over its bus, multi-function slot."""
    defaults = {
        "class_code": 0x030000,
        "vendor": 0x10DE,
        "device": 0x2231,
        "reset_methods": ("bus",),
        "config": config_space(multifunction=True),
    }
    return function(address, **defaults | {"group": group, "driver": driver} | changes)


def audio(address: str, *, group: int = 1, driver: str = "vfio-pci", **changes: Any) -> PciFunction:
    """A graphics card's audio function, which has no reset method of its own."""
    defaults = {
        "class_code": 0x040300,
        "vendor": 0x10DE,
        "device": 0x1AEF,
        "reset_method_file": False,
        "reset_methods": (),
        "reset_file": False,
        "config": config_space(multifunction=True),
    }
    return function(address, **defaults | {"group": group, "driver": driver} | changes)


def bridge(
    address: str,
    *,
    group: int = 1,
    driver: str = "pcieport",
    port_type: int = ROOT_PORT,
    acs: Acs | None = FULL_ACS,
    **changes: Any,
) -> PciFunction:
    """A bridge; by default a root port with ACS on pcieport."""
    defaults = {
        "class_code": 0x060400,
        "vendor": 0x8086,
        "device": 0x1901,
        "reset_method_file": False,
        "reset_methods": (),
        "reset_file": False,
        "config": config_space(
            header_type=1, port_type=port_type, acs=acs, secondary_bus=1, subordinate_bus=1
        ),
    }
    return function(address, **defaults | {"group": group, "driver": driver} | changes)


def behind(port: PciFunction, *below: PciFunction) -> tuple[PciFunction, ...]:
    """The port, and the functions with it as their parent."""
    return (port, *(replace(f, parent=port.address, root=port.root) for f in below))


def virtual_function(
    owner: PciFunction, address: str, index: int, *, group: int, **changes: Any
) -> PciFunction:
    """A VF of `owner`, whose own row must say `sriov_num_vfs`."""
    values: dict[str, Any] = {
        "class_code": owner.class_code,
        "vendor": owner.vendor,
        "device": 0x10CA,
        "parent": owner.parent,
        "root": owner.root,
        "group": group,
        "physfn": owner.address,
        "vf_index": index,
    }
    return function(address, **values | changes)


def unread(value: Value, *names: str) -> Value:
    """The same dataclass value with these fields not known."""
    changed: Any = value
    return cast(Value, replace(changed, **dict.fromkeys(names)))


# --- host ----------------------------------------------------------------------------------------


def make_groups(functions: Iterable[PciFunction], **changes: Any) -> tuple[IommuGroup, ...]:
    """The group directories that these functions' `group` fields imply; `changes` go to each."""
    members: dict[int, list[str]] = {}
    for row in functions:
        if row.group is not None and row.group != NO_GROUP:
            members.setdefault(row.group, []).append(row.address)
    return tuple(
        replace(
            IommuGroup(number=n, name="", type="DMA", members=tuple(sorted(rows)), reserved=()),
            **changes,
        )
        for n, rows in sorted(members.items())
    )


def make_log(
    *lines: str, complete: bool = True, cmdline: str = CMDLINE, source: str = "/dev/kmsg"
) -> KernelLog:
    """A kernel log of these lines; complete ones open with what every boot prints."""
    opening = ["Linux version 6.12.0 (x86_64-linux-gnu-gcc)", f"Kernel command line: {cmdline}"]
    texts = [*opening, *lines, "Run /init as init process"] if complete else list(lines)
    rows = tuple(LogLine(n, float(n), text) for n, text in enumerate(texts, 1))
    return KernelLog(source, complete, complete, len(rows), rows)


def boot_lines(functions: Iterable[PciFunction]) -> list[str]:
    """What an Intel kernel says of a working IOMMU and its groups."""
    return [
        "DMAR: IOMMU enabled",
        "DMAR-IR: Enabled IRQ remapping in x2apic mode",
        *(
            f"pci {f.address}: Adding to iommu group {f.group}"
            for f in functions
            if f.group is not None and f.group != NO_GROUP
        ),
        "DMAR: Intel(R) Virtualization Technology for Directed I/O",
    ]


def make_facts(functions: Sequence[PciFunction] = (), **changes: Any) -> Facts:
    """Facts of a healthy host with these functions; `changes` replace fields of `Facts`."""
    facts = Facts(
        host="pve01",
        kernel=Kernel(release="6.12.0-1-amd64", build="#1 SMP", machine="x86_64"),
        firmware=Firmware(
            bios_vendor="AMI",
            bios_version="F10",
            bios_date="01/01/2025",
            system_vendor="Supermicro",
            product_name="X12",
            product_uuid="00000000-0000-4000-8000-000000000001",
            board_name="X12DPi",
            bmc_revision="1.20",
            microcode="0xd0003a5",
            dmar_sha256="d" * 64,
            ivrs_sha256="",
            attributes=(),
        ),
        cpu=Cpu(vendor="GenuineIntel", model="Xeon Gold 6338", flags=("vmx",)),
        cmdline=CMDLINE,
        kvm_device=True,
        modules=MODULES,
        iommu_units=("dmar0",),
        groups=make_groups(functions),
        functions=tuple(functions),
        intents=tuple(
            Intent("vfio-ids", f.ids, "/etc/modprobe.d/vfio.conf:1")
            for f in functions
            if f.driver == "vfio-pci"
        ),
        block=(
            BlockDevice("sda", "8:0", (), (), ""),
            BlockDevice("sda2", "8:2", (), ("sda",), ""),
        ),
        storage_uses=(StorageUse("/ (ext4)", "mount", ("sda2",), (), ""),),
        network=(
            NetDevice(
                name="eth0",
                function=Address(""),
                mac="52:54:00:00:00:01",
                uppers=(),
                lowers=(),
                addresses=("10.0.0.5/24",),
                routes=("default",),
            ),
        ),
        keyboards=(),
        memory_total_bytes=64 << 30,
        boot_options=(
            BootOptions("grub", "/etc/default/grub:6", "ro quiet intel_iommu=on iommu=pt"),
        ),
        module_rules=(ModuleRule("initramfs", "vfio_pci", "", "/etc/initramfs-tools/modules:1"),),
        sriov_rules=(),
        vms=(),
        mappings=(),
        address_widths=AddressWidths(cpu_bits=46, iommu=(("dmar0", 57),)),
    )
    return replace(facts, **changes)


def make_readings(functions: Sequence[PciFunction] = (), **changes: Any) -> Readings:
    """Readings of a healthy live host; `changes` replace fields of `Readings`."""
    readings = Readings(
        boot_id=BOOT,
        live=True,
        privileged=True,
        collector="test",
        uptime_seconds=3600.0,
        kernel_log=make_log(*boot_lines(functions)),
        interrupt_chips=CHIPS,
        memory=Memory(
            available_bytes=32 << 30,
            hugepages_total=0,
            hugepages_free=0,
            hugepage_size_bytes=2 << 20,
        ),
        holders=(),
        functions=tuple(function_reading(f) for f in functions),
        names=tuple(sorted({(f.ids, f"Device {f.ids}") for f in functions})),
        ledger=(),
        ledger_kept=True,
        gaps=(),
        hugepages=(HugePages(size_bytes=2 << 20, node=-1, total=0, free=0, reserved=0),),
        pressure=tuple(
            Pressure(name, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)) for name in ("cpu", "io", "memory")
        ),
        interrupts=(),
        framebuffers=(),
        kvm="",
        initramfs=Initramfs("/boot/initrd.img-6.12.0-1-amd64", ()),
        cpu_time=CpuTime(total=1_000_000, steal=0),
        disks=(DiskTime("sda", 100_000, 50_000, 100_000, 90_000, 10_000, 9_000),),
        cpu_isolation=CpuIsolation(isolated="", nohz_full="", irqbalance=True),
    )
    return replace(readings, **changes)


def function_reading(row: PciFunction, **changes: Any) -> FunctionReading:
    """A function that is awake, with its whole link and without errors."""
    reading = FunctionReading(
        address=row.address,
        power_state="D0",
        runtime_status=None,
        link_speed=row.max_link_speed,
        link_width=row.max_link_width,
        aer_fatal=0,
        aer_nonfatal=0,
        aer_correctable=0,
        vfio_nodes=(),
    )
    return replace(reading, **changes)


_FACTS = frozenset(f.name for f in fields(Facts))
_READINGS = frozenset(f.name for f in fields(Readings))


def make_snapshot(*functions: PciFunction, **changes: Any) -> Snapshot:
    """A snapshot of a healthy host with these functions.

    `changes` replace fields of `Facts` or `Readings` by name. Of the one name that both have,
    `functions=None` means that the inventory could not be read. TypeError names an unknown field.
    """
    unknown = set(changes) - (_FACTS | _READINGS)
    if unknown:
        raise TypeError(f"neither Facts nor Readings has: {', '.join(sorted(unknown))}")
    facts = make_facts(functions)
    readings = make_readings(functions)
    return Snapshot(
        facts=replace(facts, **{k: v for k, v in changes.items() if k in _FACTS}),
        readings=replace(readings, **{k: v for k, v in changes.items() if k not in _FACTS}),
    )


def make_host(*functions: PciFunction, claimed: Iterable[str] = (), **changes: Any) -> Host:
    """As `make_snapshot`, as the `Host` that checks look at."""
    return Host(make_snapshot(*functions, **changes), claimed=[parse_address(a) for a in claimed])


def silent_host() -> Host:
    """A host of which nothing at all could be read."""
    facts = make_facts()
    nothing: dict[str, Any] = {
        "kernel": Kernel(None, None, None),
        "firmware": Firmware(*[None] * len(fields(Firmware))),
        "cpu": Cpu(None, None, None),
    }
    nothing |= dict.fromkeys(_FACTS - set(nothing) - {"host"})
    readings = make_readings(
        boot_id=None,
        live=False,
        privileged=False,
        uptime_seconds=None,
        kernel_log=None,
        interrupt_chips=None,
        memory=None,
        holders=None,
        ledger=None,
        names=(),
        hugepages=None,
        pressure=None,
        interrupts=None,
        framebuffers=None,
        kvm=None,
        initramfs=None,
        cpu_time=None,
        disks=None,
        cpu_isolation=None,
    )
    return Host(Snapshot(replace(facts, **nothing), readings))


def reset_summary(
    functions: Sequence[PciFunction],
    address: str,
    state: ResetState,
    *,
    attempts: int = 1,
    failures: int = 0,
    evidence: str = "",
) -> ResetSummary:
    """A ledger row for the function at `address`, by the identity it has among `functions`."""
    identity = identify(functions)[parse_address(address)].identity
    outcome = "failed" if failures else ("success" if attempts else "")
    return ResetSummary(identity, str(state), attempts, failures, outcome, evidence)
