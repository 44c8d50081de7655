"""What a host is, as evidence: the values that collection yields and everything else reads.

Two halves. `Facts` is what should still be true in an hour and is content-addressed: the same host
twice gives the same digest. `Readings` is what moves by itself (kernel log, memory, power states,
who holds a group) and never enters the digest. Together they are a `Snapshot`.

Invariant of this module: **`None` always means "not known"**. A known absence is an explicit value:
`""` for no driver, `()` for an empty list, `NO_GROUP` for no group, `False`. No default may turn
"not read" into "fine", so fields that a collector might fail to read default to None and each
failed read leaves a `Gap`. Nothing here reads a file, a clock or an environment.

Length: this is the vocabulary of one host, values without logic, and is read as one page.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vfio_contract.address import Address
from vfio_contract.vm import PciMapping, VmConfig

SCHEMA = "vfioctl.artifact/v1"

NO_GROUP = -1
"""Value of `PciFunction.group` when the kernel gave the function no IOMMU group."""

NOIOMMU_NAME = "vfio-noiommu"
"""Name of a group that vfio's no-IOMMU mode made for a device that is behind no IOMMU."""

# --- PCI -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acs:
    """Access Control Services of one function, raw bits (PCIe 6.12.1; pci_regs.h).

    SV 0x01  TB 0x02  RR 0x04  CR 0x08  UF 0x10  EC 0x20  DT 0x40.
    `wide` is True when both registers are dwords, as Intel's 100 and 200 series root ports have
    them, and `control` was read from where they keep it.
    """

    capability: int
    control: int
    wide: bool = False


@dataclass(frozen=True, slots=True)
class PcieCapability:
    """The PCI Express capability: port type and what DevCap and LnkCap say.

    `port_type` is the raw 4-bit value (0 endpoint, 1 legacy endpoint, 4 root port, 5 upstream,
    6 downstream, 7 PCIe-to-PCI bridge, 8 PCI-to-PCIe, 9 RC integrated endpoint, 10 RC event
    collector).
    `flr` is DevCap bit 28, never DevCtl bit 15. Speeds in units of 2.5 GT/s steps as in LnkCap.
    """

    port_type: int
    flr: bool
    slot_implemented: bool
    max_link_speed: int
    max_link_width: int


@dataclass(frozen=True, slots=True)
class SriovCapability:
    """SR-IOV extended capability: totals as the device offers them."""

    total_vfs: int
    initial_vfs: int
    num_vfs: int
    vf_device: int


@dataclass(frozen=True, slots=True)
class ResizableBar:
    """One BAR of the Resizable BAR capability: bit n of `sizes` means that 2**n MiB is possible."""

    index: int
    size_bytes: int
    sizes: int


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """What the configuration space proved, parsed by us.

    `length` is how many bytes could be read: 64 without privilege, 256, or 4096. `capabilities`
    and `extended` hold the ids found, or None where `length` ends before they could be found.
    `dead` is True when every byte read was 0xff (not a VF: a VF's ids alone read as ffff).
    A field of a capability that is absent is None *and* its id is missing from the list.
    `faults` says in words what was broken (a looping list, a pointer out of range). `resizable` is
    () for a function that is known to have no resizable BAR.
    """

    length: int
    dead: bool
    header_type: int | None
    multifunction: bool | None
    secondary_bus: int | None
    subordinate_bus: int | None
    capabilities: tuple[int, ...] | None
    extended: tuple[int, ...] | None
    pcie: PcieCapability | None
    af_flr: bool | None
    pm_no_soft_reset: bool | None
    msi: bool | None
    msix_vectors: int | None
    acs: Acs | None
    sriov: SriovCapability | None
    serial_number: str | None
    faults: tuple[str, ...] = ()
    resizable: tuple[ResizableBar, ...] | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of sysfs `resource`: index 0-5 BARs, 6 ROM, 7+ SR-IOV or bridge windows."""

    index: int
    start: int
    size_bytes: int
    flags: int


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One PCI function as sysfs shows it (Documentation/ABI/testing/sysfs-bus-pci).

    `parent` is the upstream bridge's address, "" directly below a host bridge. `root` is the host
    bridge's device name (`pci0000:00`) and `root_path` its ACPI path ("" when it has none).
    `driver` is "" when none is bound. `vfio_device` is True when `<device>/vfio-dev/` has an entry.
    `reset_methods` is None when the file could not be read *or* does not exist because the kernel
    is older than 5.15 (see `reset_method_file`); () when known to be empty.
    `physfn` is the PF's address for a VF, "" otherwise; `vf_index` its number, -1 otherwise.
    `numa_node` is -1 when the kernel knows none.
    """

    address: Address
    parent: Address | None
    root: str
    root_path: str | None
    vendor: int | None
    device: int | None
    subsystem_vendor: int | None
    subsystem_device: int | None
    class_code: int | None
    revision: int | None
    driver: str | None
    driver_override: str | None
    group: int | None
    vfio_device: bool | None
    reset_method_file: bool | None
    reset_methods: tuple[str, ...] | None
    reset_file: bool | None
    numa_node: int | None
    boot_vga: bool | None
    sriov_total_vfs: int | None
    sriov_num_vfs: int | None
    physfn: Address | None
    vf_index: int | None
    bars: tuple[Bar, ...] | None
    max_link_speed: str | None
    max_link_width: int | None
    config: ConfigSpace | None

    @property
    def is_bridge(self) -> bool | None:
        """Header type other than 0; never judged by class 0604 (facts: Groups and viability)."""
        if self.config is None or self.config.header_type is None:
            return None
        return self.config.header_type != 0

    @property
    def base_class(self) -> int | None:
        """The class code's top byte, e.g. 0x03 for display."""
        return None if self.class_code is None else self.class_code >> 16

    @property
    def sub_class(self) -> int | None:
        """The class code without its programming interface, e.g. 0x0300."""
        return None if self.class_code is None else self.class_code >> 8

    @property
    def ids(self) -> str:
        """`vvvv:dddd` in hex, `????` for a half that could not be read."""
        return f"{_hex4(self.vendor)}:{_hex4(self.device)}"


def _hex4(value: int | None) -> str:
    return "????" if value is None else f"{value:04x}"


@dataclass(frozen=True, slots=True)
class ReservedRegion:
    """A line of `reserved_regions`; kind is direct, direct-relaxable, reserved or msi."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class IommuGroup:
    """One directory of /sys/kernel/iommu_groups. The number is an attribute, never a key.

    `name` is "" when the group has none (NOIOMMU_NAME is the one that matters).
    `members` are device names; PCI addresses, or platform device names on Arm.
    """

    number: int
    name: str | None
    type: str | None
    members: tuple[str, ...]
    reserved: tuple[ReservedRegion, ...] | None


# --- host ----------------------------------------------------------------------------------------


def _is_number(text: str) -> bool:
    # str.isdigit() also takes digits that int() does not, and numbers of any length
    return text.isascii() and text.isdigit() and len(text) <= 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """`release` as `uname -r`, `build` as `uname -v`, `machine` as `uname -m`."""

    release: str | None
    build: str | None
    machine: str | None

    @property
    def version(self) -> tuple[int, int] | None:
        """(major, minor) of the release, None when it cannot be told."""
        if self.release is None:
            return None
        parts = self.release.split("-", 1)[0].split(".")
        if len(parts) < 2 or not _is_number(parts[0]) or not _is_number(parts[1]):
            return None
        return int(parts[0]), int(parts[1])


@dataclass(frozen=True, slots=True)
class Firmware:
    """Firmware identity. "" where the platform has no such thing, None where it was not readable.

    Hashes are sha256 hex of the ACPI tables (root only); `attributes` are (name, value) pairs of
    /sys/class/firmware-attributes, sorted.
    """

    bios_vendor: str | None
    bios_version: str | None
    bios_date: str | None
    system_vendor: str | None
    product_name: str | None
    product_uuid: str | None
    board_name: str | None
    bmc_revision: str | None
    microcode: str | None
    dmar_sha256: str | None
    ivrs_sha256: str | None
    attributes: tuple[tuple[str, str], ...] | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """The first processor of /proc/cpuinfo; `flags` holds only vmx, svm, hypervisor, sev_snp."""

    vendor: str | None
    model: str | None
    flags: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module that matters here, with the parameters sysfs shows, sorted.

    `builtin` is True when the kernel's image holds it: modprobe.d does not reach it then.
    """

    name: str
    parameters: tuple[tuple[str, str], ...]
    builtin: bool | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """Someone's stated wish that a device go to a VM, and where it is written.

    `kind` is `vfio-ids` (value `vvvv:dddd[:svvv:sddd]`), `driver-override` (value an address) or
    `driverctl` (value an address). `source` is `path:line` or the kernel command line.
    """

    kind: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A block device or partition. `functions` are the PCI functions under it; () for none.

    `parents` are the block devices directly below it (a partition's disk, dm and md slaves, the
    disk that holds a loop device's file); `label` is what sysfs says of it (dm name, md level).
    `functions` is None when the way down could not be followed.
    """

    name: str
    number: str
    functions: tuple[Address, ...] | None
    parents: tuple[str, ...]
    label: str


@dataclass(frozen=True, slots=True)
class StorageUse:
    """One thing that needs storage: a mount, a swap area.

    `use` names it for people (`/ (ext4)`, `swap`). `devices` are BlockDevice names it stands on;
    `functions` are PCI functions it stands on without a block device (9p, virtiofs).
    `unresolved` is "" when the whole way down is known, else why it is not; an unresolved storage
    use makes every storage function critical, an unresolved `network` one every NIC.
    """

    use: str
    kind: str
    devices: tuple[str, ...]
    functions: tuple[Address, ...]
    unresolved: str


@dataclass(frozen=True, slots=True)
class NetDevice:
    """A network interface. `function` is the PCI function under it, "" for a virtual one.

    `uppers` are the interfaces stacked on it (bridge, bond, VLAN, macvlan), `lowers` those below.
    `addresses` are those a person or DHCP gave (kernel-made link-local ones are left out),
    `routes` the destinations that leave by it. None where /proc/net could not be read.
    """

    name: str
    function: Address | None
    mac: str
    uppers: tuple[str, ...]
    lowers: tuple[str, ...]
    addresses: tuple[str, ...] | None
    routes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class BootOptions:
    """Kernel parameters that a boot loader's configuration names for the next boot.

    `loader` is `grub`, `grub.cfg` (what update-grub made of it), `systemd-boot` (Proxmox and
    kernel-install too) or `bls` (loader entries).
    `source` is `path:line`; `options` the parameters as text, quotes of the file removed.
    """

    loader: str
    source: str
    options: str


@dataclass(frozen=True, slots=True)
class BootPath:
    """What tells which of several configured boot loaders starts this host.

    `efi` is False after a BIOS boot; `loader` what the loader says of itself (`systemd-boot 252`,
    `GRUB 2.12`), "" when it says nothing; `proxmox_boot` True where proxmox-boot-tool fills the
    boot partitions, so that /boot itself is not what is read.
    """

    efi: bool | None
    loader: str | None
    proxmox_boot: bool | None


@dataclass(frozen=True, slots=True)
class ModuleRule:
    """A line of configuration about a kernel module, names with underscores.

    `kind` is `load` (at boot), `initramfs` (put in and loaded early), `softdep` (`value` lists what
    is loaded before), `blacklist`, `install` (`value` is the command) or `options` (`value` are
    parameters that weaken or limit VFIO). `source` is `path:line`.
    """

    kind: str
    module: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class ConfigLine:
    """A line of a host's configuration that bears on a check, as it stands at `path:line`."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class AddressWidths:
    """Address bits of the processor, and of each IOMMU unit that tells its own: (name, bits)."""

    cpu_bits: int | None
    iommu: tuple[tuple[str, int], ...] | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What should still hold in an hour; the artifact's digest covers exactly this."""

    host: str
    kernel: Kernel
    firmware: Firmware
    cpu: Cpu
    cmdline: str | None
    kvm_device: bool | None
    modules: tuple[Module, ...] | None
    iommu_units: tuple[str, ...] | None
    groups: tuple[IommuGroup, ...] | None
    functions: tuple[PciFunction, ...] | None
    intents: tuple[Intent, ...] | None
    block: tuple[BlockDevice, ...] | None
    storage_uses: tuple[StorageUse, ...] | None
    network: tuple[NetDevice, ...] | None
    keyboards: tuple[Address, ...] | None
    memory_total_bytes: int | None
    boot_options: tuple[BootOptions, ...] | None = None
    module_rules: tuple[ModuleRule, ...] | None = None
    sriov_rules: tuple[ConfigLine, ...] | None = None
    vms: tuple[VmConfig, ...] | None = None
    mappings: tuple[PciMapping, ...] | None = None
    boot_path: BootPath | None = None
    address_widths: AddressWidths | None = None


# --- readings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that could not be read; `errno` is 0 for a reason of our own (not captured).

    `remedy` is the exact command that would close the gap, "" when there is none.
    """

    path: str
    errno: int
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One kernel log line without its prefix. `seconds` since boot, None when the format has none.

    `number` is its place in the log (1 is the first line that was there).
    """

    number: int
    seconds: float | None
    text: str


@dataclass(frozen=True, slots=True)
class KernelLog:
    """An extract of the kernel log: only lines that some check or the ledger can use.

    `from_boot` True when the boot's first line (`Linux version`) is there; `reached_userspace` True
    when the log goes on past the start of init. Both together make it complete: only then does the
    absence of a line prove anything. `total_lines` counts what was read. Of a kind of line that
    repeats too often only the first and last are here; `omitted_lines` counts those left out. A
    kind without any line here had none in the log. `first_seconds` and `last_seconds` are when the
    oldest and the newest line of a running host's buffer were written, of whatever kind, else None.
    """

    source: str
    from_boot: bool
    reached_userspace: bool
    total_lines: int
    lines: tuple[LogLine, ...]
    omitted_lines: int = 0
    first_seconds: float | None = None
    last_seconds: float | None = None

    @property
    def complete(self) -> bool:
        """True when a missing line is evidence that the kernel never printed it in this boot."""
        return self.from_boot and self.reached_userspace


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a VFIO group or device node open.

    `control_group` is its cgroup path, which names the VM (`/qemu.slice/101.scope`);
    `started_seconds` counts from boot; `state` is the letter of /proc/PID/stat (D: it cannot be
    stopped now); `locked_bytes` what it keeps in memory (VmLck and VmPin) and `memlock_bytes` the
    limit on that, -1 for none. `stale_node` is True when the node was removed while it was open.
    `vm` is what a QEMU's arguments call its VM, "" for any other process.
    """

    path: str
    pid: int
    command: str
    control_group: str | None = None
    started_seconds: float | None = None
    state: str | None = None
    locked_bytes: int | None = None
    memlock_bytes: int | None = None
    stale_node: bool | None = None
    vm: str | None = None


@dataclass(frozen=True, slots=True)
class VmProcess:
    """A QEMU that runs a VM, whether it has a device or not.

    `vm` is the name as in `VmConfig`; `kind` is that of the configuration of this name, `qemu`
    where there is none. `started_seconds` counts from boot.
    """

    pid: int
    vm: str
    kind: str
    started_seconds: float


@dataclass(frozen=True, slots=True)
class FunctionReading:
    """What changes about one function without anyone changing the host.

    `vfio_nodes` are the names of its nodes in /dev/vfio/devices (`vfio0`).
    """

    address: Address
    power_state: str | None
    runtime_status: str | None
    link_speed: str | None
    link_width: int | None
    aer_fatal: int | None
    aer_nonfatal: int | None
    aer_correctable: int | None
    vfio_nodes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """/proc/meminfo, in bytes and pages."""

    available_bytes: int | None
    hugepages_total: int | None
    hugepages_free: int | None
    hugepage_size_bytes: int | None


@dataclass(frozen=True, slots=True)
class ResetEvent:
    """One recorded reset, as far as its kernel line proves it.

    `method` is "" where the line does not tell. `waited_ms` is how long the kernel says that it
    waited in vain, `seconds` when it said so, counted from boot; None where it says nothing.
    `this_boot` is None where it is not known of which boot the attempt is.
    """

    method: str
    outcome: str
    waited_ms: int | None
    seconds: float | None
    this_boot: bool | None


@dataclass(frozen=True, slots=True)
class ResetSummary:
    """The ledger's summary for one function on this firmware tuple; see `vfio_contract.ledger`.

    `recent` are the newest of its attempts, in the order they happened. `used` says that a VM has
    had it in this boot.
    """

    identity: str
    state: str
    attempts: int
    failures: int
    last_outcome: str
    last_evidence: str
    recent: tuple[ResetEvent, ...] = ()
    used: bool = False


@dataclass(frozen=True, slots=True)
class HugePages:
    """Huge pages of one size on one NUMA node; `node` is -1 for the whole host."""

    size_bytes: int
    node: int
    total: int
    free: int
    reserved: int | None


@dataclass(frozen=True, slots=True)
class Pressure:
    """One file of /proc/pressure: percent of time in which tasks waited for `resource`.

    `some` and `full` are the averages over 10, 60 and 300 seconds; `full` is None for cpu on
    kernels that do not count it.
    """

    resource: str
    some: tuple[float, float, float]
    full: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class DeviceInterrupt:
    """One interrupt of a passed-through device: its number, name, where it may and did arrive.

    `cpus` is the affinity as the kernel writes it (`0-3,8`), `counts` pairs of CPU and number for
    CPUs on which it arrived at all.
    """

    number: int
    name: str
    cpus: str | None
    counts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Initramfs:
    """The running kernel's initial ramdisk, "" when it has none.

    `newer` are configuration files that bear on VFIO and were changed after it was made.
    """

    path: str
    newer: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Clock ticks of all processors since boot, and how many the hypervisor took (`steal`)."""

    total: int
    steal: int


@dataclass(frozen=True, slots=True)
class DiskTime:
    """One disk's finished requests since boot and the milliseconds they took together.

    `flushes` and `flush_ms` are None on kernels that do not count them (before 5.5).
    """

    name: str
    reads: int
    read_ms: int
    writes: int
    write_ms: int
    flushes: int | None
    flush_ms: int | None


@dataclass(frozen=True, slots=True)
class SyncTimes:
    """An fsync measurement that somebody asked for: how many, in milliseconds each.

    `error` is "" or why there are no numbers; then the counts are 0.
    """

    directory: str
    count: int
    median_ms: float
    worst_ms: float
    error: str


@dataclass(frozen=True, slots=True)
class CpuIsolation:
    """Processors that were set aside, as the kernel writes lists (`2-7`), "" for none.

    `irqbalance` is True while that daemon runs.
    """

    isolated: str | None
    nohz_full: str | None
    irqbalance: bool | None


@dataclass(frozen=True, slots=True)
class Readings:
    """What moves by itself; never part of a digest. `names` maps `vvvv:dddd` to a device name.

    `ledger_kept` is True when an agent of this host keeps the ledger; else all that `ledger` tells
    comes from the kernel log of one boot.
    `kvm` is "" when KVM made a VM, else why it did not. `fsync` is None unless it was asked for.
    `redacted` is None for evidence as it was read, else the fingerprint of the key that turned
    names and serial numbers into pseudonyms: equal fingerprints speak the same pseudonyms.
    """

    boot_id: str | None
    live: bool
    privileged: bool
    collector: str
    uptime_seconds: float | None
    kernel_log: KernelLog | None
    interrupt_chips: tuple[str, ...] | None
    memory: Memory | None
    holders: tuple[Holder, ...] | None
    functions: tuple[FunctionReading, ...]
    names: tuple[tuple[str, str], ...]
    ledger: tuple[ResetSummary, ...] | None
    gaps: tuple[Gap, ...] = field(default=())
    hugepages: tuple[HugePages, ...] | None = None
    pressure: tuple[Pressure, ...] | None = None
    interrupts: tuple[DeviceInterrupt, ...] | None = None
    framebuffers: tuple[ConfigLine, ...] | None = None
    kvm: str | None = None
    initramfs: Initramfs | None = None
    cpu_time: CpuTime | None = None
    disks: tuple[DiskTime, ...] | None = None
    fsync: SyncTimes | None = None
    cpu_isolation: CpuIsolation | None = None
    redacted: str | None = None
    ledger_kept: bool = False
    vm_processes: tuple[VmProcess, ...] | None = None


NOTHING_READ = Readings(
    boot_id=None,
    live=False,
    privileged=False,
    collector="",
    uptime_seconds=None,
    kernel_log=None,
    interrupt_chips=None,
    memory=None,
    holders=None,
    functions=(),
    names=(),
    ledger=None,
)
"""For facts that come without any."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One host at one moment."""

    facts: Facts
    readings: Readings
