"""Random hosts that could exist: a strategy of realistic machines, and of evidence to take away.

The facts of a host agree with each other, as a kernel keeps them: a function that claims FLR lists
it, an IOMMU that is off leaves no groups. Only then does "less evidence never looks better" hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tests.fakes.snapshots import (
    CMDLINE,
    MODULES,
    PCI_BRIDGE,
    audio,
    behind,
    boot_lines,
    bridge,
    config_space,
    function,
    gpu,
    make_log,
    make_snapshot,
    nic,
    nvme,
    reset_summary,
    virtual_function,
)
from tests.unit.checks.host_vms import draw_vms, find_mappings
from tests.unit.checks.trouble import draw_trouble
from vfio_contract.address import Address
from vfio_contract.intention import is_vfio_bound
from vfio_contract.ledger import ResetState
from vfio_contract.model import (
    NO_GROUP,
    Acs,
    AddressWidths,
    BlockDevice,
    ConfigSpace,
    Cpu,
    Intent,
    Kernel,
    KernelLog,
    Module,
    NetDevice,
    PciFunction,
    Snapshot,
    StorageUse,
)

Place = tuple[str, ...]
"""Where a field is: `("facts", "cmdline")`, `("function", "0000:01:00.0", "driver")`, ..."""


@dataclass(frozen=True)
class _Slot:
    """What may be plugged in below root port `number`."""

    make: Callable[[int, str], Sequence[PciFunction]]
    drivers: tuple[str, ...]


def _card(number: int, driver: str) -> Sequence[PciFunction]:
    return [nic(f"0000:{number:02x}:00.0", group=number, driver=driver, device=0x1600 + number)]


def _weak_card(number: int, driver: str) -> Sequence[PciFunction]:
    config = config_space()
    methods = ("pm", "bus") if number % 2 else ("pm",)
    return [replace(_card(number, driver)[0], reset_methods=methods, config=config)]


def _disabled_card(number: int, driver: str) -> Sequence[PciFunction]:
    return [replace(_card(number, driver)[0], reset_methods=(), config=config_space())]


def _graphics(number: int, driver: str) -> Sequence[PciFunction]:
    first = gpu(f"0000:{number:02x}:00.0", group=number, driver=driver, boot_vga=number == 1)
    return [first, audio(f"0000:{number:02x}:00.1", group=number, driver=driver)]


def _half_graphics(number: int, driver: str) -> Sequence[PciFunction]:
    first, second = _graphics(number, driver)
    return [first, replace(second, driver="snd_hda_intel", vfio_device=False)]


def _disk(number: int, driver: str) -> Sequence[PciFunction]:
    return [nvme(f"0000:{number:02x}:00.0", group=number, driver=driver)]


def _usb(number: int, driver: str) -> Sequence[PciFunction]:
    address = f"0000:{number:02x}:00.0"
    return [function(address, class_code=0x0C0330, group=number, driver=driver, device=0x1E31)]


def _two_in_one_group(number: int, driver: str) -> Sequence[PciFunction]:
    second = Address(f"0000:{number:02x}:01.0")
    return [*_card(number, driver), replace(_usb(number, "")[0], address=second)]


def _legacy(number: int, driver: str) -> Sequence[PciFunction]:
    """A PCIe-to-PCI bridge on shpchp or free, and one conventional card behind it."""
    above = bridge(
        f"0000:{number:02x}:00.0",
        group=number,
        driver="shpchp" if number % 2 else "",
        port_type=PCI_BRIDGE,
        acs=None,
    )
    config = config_space(port_type=None)
    address = f"0000:{number + 0x20:02x}:01.0"
    below = nic(address, group=number, driver=driver, reset_methods=("bus",), config=config)
    return behind(above, replace(below, device=0x100E))


def _sriov(number: int, driver: str) -> Sequence[PciFunction]:
    owner = nic(
        f"0000:{number:02x}:00.0",
        group=number,
        driver=driver,
        sriov_total_vfs=7,
        sriov_num_vfs=1,
        config=config_space(flr=True, total_vfs=7),
    )
    vf = virtual_function(owner, f"0000:{number:02x}:10.0", 0, group=number + 0x40)
    return [owner, vf]


_SLOTS = (
    _Slot(_card, ("vfio-pci", "igb", "")),
    _Slot(_weak_card, ("vfio-pci", "e1000e")),
    _Slot(_disabled_card, ("vfio-pci",)),
    _Slot(_graphics, ("vfio-pci", "nouveau")),
    _Slot(_half_graphics, ("vfio-pci",)),
    _Slot(_disk, ("vfio-pci", "nvme")),
    _Slot(_usb, ("vfio-pci", "xhci_hcd")),
    _Slot(_two_in_one_group, ("vfio-pci", "igb")),
    _Slot(_legacy, ("vfio-pci", "e1000")),
    _Slot(_sriov, ("vfio-pci", "igb")),
)

_CHIPSET = (
    function("0000:00:1f.0", class_code=0x060100, group=90, driver="", reset_methods=()),
    function("0000:00:1f.2", class_code=0x010601, group=90, driver="ahci", device=0x2922),
)


@st.composite
def hosts(draw: st.DrawFn) -> Snapshot:
    """A host with up to five slots in some state of configuration."""
    rows: list[PciFunction] = list(_CHIPSET) if draw(st.booleans()) else []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        slot = draw(st.sampled_from(_SLOTS))
        acs = draw(st.sampled_from(["on", "on", "none", "cleared"]))
        port = bridge(f"0000:00:{number:02x}.0", group=60 + number)
        if acs == "none" and port.config is not None:
            port = replace(port, config=replace(port.config, acs=None, extended=(0x01,)))
        if acs == "cleared" and port.config is not None:
            port = replace(port, config=replace(port.config, acs=Acs(0x1F, 0x01)))
        below = slot.make(number, draw(st.sampled_from(slot.drivers)))
        first = behind(port, *(f for f in below if not f.parent))
        rows += [*first, *(f for f in below if f.parent)]
    iommu = draw(st.sampled_from(["on", "on", "on", "off", "noir", "unsafe", "override"]))
    if iommu == "off":
        rows = [replace(f, group=NO_GROUP) for f in rows]
    state = _host_state(draw, rows, iommu)
    readings, regions = state.pop("readings_of_functions"), state.pop("regions", None)
    made = make_snapshot(*rows, **state)
    facts = made.facts
    if regions is not None:
        number, reserved = regions
        groups = (
            replace(g, reserved=reserved) if g.number == number else g for g in facts.groups or ()
        )
        facts = replace(facts, groups=tuple(groups))
    return Snapshot(facts, replace(made.readings, functions=readings))


def _host_state(draw: st.DrawFn, rows: list[PciFunction], iommu: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    cmdline, lines = CMDLINE, boot_lines(rows)
    if iommu == "off":
        cmdline, lines = "ro quiet", ["DMAR: Host address width 39"]
        changes |= {"iommu_units": (), "groups": (), "interrupt_chips": ("IO-APIC", "PCI-MSI")}
    if iommu in ("noir", "unsafe"):
        lines = [line for line in lines if "DMAR-IR" not in line]
        changes["interrupt_chips"] = ("IO-APIC", "DMAR-MSI")
    if iommu == "unsafe":
        changes["modules"] = tuple(
            Module(m.name, (("allow_unsafe_interrupts", "Y"),)) if "type1" in m.name else m
            for m in MODULES
        )
    if iommu == "override":
        cmdline += " pcie_acs_override=downstream"
        lines.append("Warning: PCIe ACS overrides enabled; This may allow peer-to-peer DMA")
    changes |= {"cmdline": cmdline, "kernel_log": make_log(*lines, cmdline=cmdline)}
    if draw(st.booleans()):
        changes["kernel"] = Kernel("5.15.0-25-generic", "#1", "x86_64")
    if draw(st.booleans()):
        changes["address_widths"] = AddressWidths(46, (("dmar0", 39),))
    if draw(st.booleans()):
        changes["cpu"] = Cpu("GenuineIntel", "Xeon", draw(st.sampled_from([(), ("vmx",)])))
    changes["intents"] = draw(st.sampled_from([(), _intents(rows)]))
    changes |= draw_trouble(draw, rows, changes["kernel_log"])
    changes |= {"vms": draw_vms(draw, rows), "mappings": find_mappings(rows)}
    return changes | _host_uses(draw, rows) | {"ledger": _ledger(draw, rows)}


def _intents(rows: list[PciFunction]) -> tuple[Intent, ...]:
    ids = sorted({f.ids for f in rows if is_vfio_bound(f)})
    return tuple(Intent("vfio-ids", i, "modprobe.d/vfio.conf:1") for i in ids)


def _host_uses(draw: st.DrawFn, rows: list[PciFunction]) -> dict[str, Any]:
    driven = [f for f in rows if f.driver and not is_vfio_bound(f) and f.is_bridge is False]
    disks = [f for f in driven if f.base_class == 0x01]
    cards = [f for f in driven if f.base_class == 0x02]
    keyboards = [f.address for f in driven if f.sub_class == 0x0C03]
    block = [BlockDevice("sda", "8:0", (), (), ""), BlockDevice("sda2", "8:2", (), ("sda",), "")]
    uses = [StorageUse("/ (ext4)", "storage", ("sda2",), (), "")]
    for index, disk in enumerate(disks):
        name = f"nvme{index}n1"
        block.append(BlockDevice(name, f"259:{index}", (disk.address,), (), ""))
        if draw(st.booleans()):
            uses.append(StorageUse(f"/data{index} (xfs)", "storage", (name,), (), ""))
    network = [NetDevice("vmbr0", Address(""), "", (), ("eth0",), ("10.0.0.5/24",), ("default",))]
    for index, card in enumerate(cards):
        uppers = ("vmbr0",) if draw(st.booleans()) else ()
        network.append(NetDevice(f"eth{index}", card.address, "", uppers, (), (), ()))
    return {
        "block": tuple(block),
        "storage_uses": tuple(uses),
        "network": tuple(network),
        "keyboards": tuple(keyboards) if draw(st.booleans()) else (),
    }


def _ledger(draw: st.DrawFn, rows: list[PciFunction]) -> tuple[Any, ...]:
    known = [f for f in rows if f.is_bridge is False]
    picked = draw(st.lists(st.sampled_from(known), max_size=2, unique_by=lambda f: f.address))
    return tuple(
        reset_summary(rows, f.address, draw(st.sampled_from(list(ResetState)))) for f in picked
    )


# --- taking evidence away ------------------------------------------------------------------------

_FACTS = (
    "cmdline",
    "kvm_device",
    "modules",
    "iommu_units",
    "groups",
    "functions",
    "intents",
    "block",
    "storage_uses",
    "network",
    "keyboards",
    "boot_options",
    "module_rules",
    "sriov_rules",
    "memory_total_bytes",
    "address_widths",
    "vms",
    "mappings",
)
_READINGS = (
    "kernel_log",
    "interrupt_chips",
    "ledger",
    "memory",
    "holders",
    "hugepages",
    "pressure",
    "interrupts",
    "framebuffers",
    "kvm",
    "initramfs",
    "cpu_time",
    "disks",
    "cpu_isolation",
)
_READING = ("power_state", "link_speed", "link_width", "vfio_nodes")
_FUNCTION = (
    "parent",
    "root_path",
    "vendor",
    "device",
    "class_code",
    "driver",
    "driver_override",
    "group",
    "vfio_device",
    "reset_method_file",
    "reset_methods",
    "reset_file",
    "boot_vga",
    "sriov_total_vfs",
    "sriov_num_vfs",
    "physfn",
    "bars",
    "max_link_speed",
    "max_link_width",
    "config",
)


def places(snapshot: Snapshot) -> list[Place]:
    """Every field of this snapshot that a collector may fail to read."""
    facts = snapshot.facts
    found: list[Place] = [("facts", name) for name in _FACTS]
    found += [("readings", name) for name in _READINGS]
    found += [("reading", r.address, n) for r in snapshot.readings.functions for n in _READING]
    found += [("log", "beginning"), ("kernel", "release"), ("kernel", "machine")]
    found += [("cpu", "flags"), ("cpu", "vendor")]
    for row in facts.functions or ():
        found += [("function", row.address, name) for name in _FUNCTION]
        found += [("short", row.address, length) for length in ("64", "256")]
    names = ("name", "type", "reserved")
    found += [("group", str(g.number), n) for g in facts.groups or () for n in names]
    found += [("block", b.name, "functions") for b in facts.block or ()]
    names = ("function", "addresses", "routes")
    found += [("network", d.name, n) for d in facts.network or () for n in names]
    return found


def take_away(snapshot: Snapshot, place: Place) -> Snapshot:
    """The same snapshot, had this one field not been readable."""
    facts, readings = snapshot.facts, snapshot.readings
    kind, name, field = (*place, "")[:3]
    if kind == "facts":
        facts = _forget(facts, name)
    elif kind == "readings":
        readings = _forget(readings, name)
    elif kind == "reading":
        readings = replace(readings, functions=_within(readings.functions, "address", name, field))
    elif kind == "log" and readings.kernel_log is not None:
        readings = replace(readings, kernel_log=_behead(readings.kernel_log))
    elif kind in ("kernel", "cpu"):
        facts = replace(facts, **{kind: _forget(getattr(facts, kind), name)})
    elif kind == "function" and facts.functions is not None:
        facts = replace(facts, functions=_within(facts.functions, "address", name, field))
    elif kind == "short" and facts.functions is not None:
        rows = (_shorten(f, int(field)) if f.address == name else f for f in facts.functions)
        facts = replace(facts, functions=tuple(rows))
    elif kind == "group" and facts.groups is not None:
        facts = replace(facts, groups=_within(facts.groups, "number", int(name), field))
    elif kind == "block" and facts.block is not None:
        facts = replace(facts, block=_within(facts.block, "name", name, field))
    elif kind == "network" and facts.network is not None:
        facts = replace(facts, network=_within(facts.network, "name", name, field))
    return Snapshot(facts, readings)


def _forget(value: Any, name: str) -> Any:
    return replace(value, **{name: None})


def _within(rows: tuple[Any, ...], key: str, wanted: object, field: str) -> tuple[Any, ...]:
    return tuple(_forget(r, field) if getattr(r, key) == wanted else r for r in rows)


def _behead(log: KernelLog) -> KernelLog:
    """A ring buffer that has rolled over: the second half, and no boot line."""
    rest = log.lines[len(log.lines) // 2 :]
    return replace(log, from_boot=False, total_lines=len(rest), lines=rest)


def _shorten(row: PciFunction, length: int) -> PciFunction:
    """Its config space as an ordinary user reads it (64 bytes), or as plain PCI shows it (256)."""
    config = row.config
    if config is None:
        return row
    gone: dict[str, Any] = dict.fromkeys(("extended", "acs", "sriov", "serial_number"))
    if length == 64:
        gone |= dict.fromkeys(("capabilities", "pcie", "af_flr", "pm_no_soft_reset", "msi"))
    short: ConfigSpace = replace(config, length=length, **gone)
    return replace(row, config=short)
