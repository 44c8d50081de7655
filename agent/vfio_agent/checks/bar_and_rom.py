"""Check `bar-and-rom`: whether the device's memory is assigned, and not kept by the boot screen.

Judged per assignable function. It must never blame an I/O BAR or a ROM without an address, which
no VM needs, nor say that no framebuffer is in the way when address ranges were hidden from it.
"""

import re

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    attribute,
    describe,
    is_intended,
    missing_attribute,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import Bar, ConfigLine, PciFunction

ID = "bar-and-rom"
IOMEM = "/proc/iomem"
UNITS = "/sys/class/iommu"

BARS_READY = Code(
    "BARS_READY",
    Verdict.PASS,
    "Every memory BAR has an address, and no framebuffer holds one.",
    "A VM can map the device's memory.",
    "No action.",
)
BAR_UNASSIGNED = Code(
    "BAR_UNASSIGNED",
    Verdict.FAIL,
    "A memory BAR in the function's resource file has a size and no address.",
    "There was no room for it below its bridge: the device does not work, on the host or in a VM.",
    "Enable Above 4G Decoding (and Resizable BAR support) in the firmware setup, or boot once with "
    "pci=realloc; then: vfioctl check",
)
FRAMEBUFFER_HOLDS_BAR = Code(
    "FRAMEBUFFER_HOLDS_BAR",
    Verdict.FAIL,
    "A boot framebuffer's range in /proc/iomem lies in a BAR of a function on a vfio driver.",
    'The VM start fails or stays black: "BAR 1: can\'t reserve [mem ...]".',
    "Keep the boot screen off this card (firmware setup: primary display), or add "
    "initcall_blacklist=sysfb_init (older kernels: video=efifb:off) to the kernel command line; "
    "reboot; vfioctl check",
)
BAR_TAKEN = Code(
    "BAR_TAKEN",
    Verdict.WARN,
    "The kernel log of this boot says that a BAR of this function could not be reserved.",
    "Something else held the device's memory when a driver wanted it, mostly the boot screen's "
    "framebuffer (BOOTFB, efifb, simplefb): a VM then starts black or not at all.",
    "See who holds the range now: sudo cat /proc/iomem; for a framebuffer add "
    "initcall_blacklist=sysfb_init (older kernels: video=efifb:off) to the kernel command line; "
    "reboot; vfioctl check",
)
BOOT_DISPLAY = Code(
    "BOOT_DISPLAY",
    Verdict.WARN,
    "boot_vga is 1: firmware used this display controller for the boot screen.",
    "Its ROM is a shadow copy that firmware has run already; the guest's screen may stay black.",
    "Let the firmware use another display first; else dump a clean ROM and give it to the VM "
    "(romfile).",
)
IOMMU_NARROW = Code(
    "IOMMU_NARROW",
    Verdict.WARN,
    "The IOMMU's address width (intel-iommu/cap, MGAW) is below the processor's, and the function "
    "has a 64-bit BAR.",
    "A guest whose firmware goes by the processor's width puts this BAR where the IOMMU cannot map "
    'it: "VFIO_MAP_DMA failed: Invalid argument", no peer-to-peer, or no start.',
    "Limit the guest's width to BITS bits: QEMU -cpu host,host-phys-bits-limit=BITS; libvirt "
    "<maxphysaddr mode='passthrough' limit='BITS'/>; Proxmox qm set VMID --cpu host,phys-bits=BITS",
)
BARS_UNKNOWN = Code(
    "BARS_UNKNOWN",
    Verdict.UNKNOWN,
    "The function's resource file, boot_vga, the ranges of /proc/iomem, or the address widths of "
    "processor and IOMMU could not be read.",
    "Whether a VM could map the device's memory is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    BARS_READY,
    BAR_UNASSIGNED,
    FRAMEBUFFER_HOLDS_BAR,
    BAR_TAKEN,
    BOOT_DISPLAY,
    IOMMU_NARROW,
    BARS_UNKNOWN,
)

_MEMORY = 0x200
_WIDE = 0x100000
_UNSET = 0x20000000
"""IORESOURCE_MEM, IORESOURCE_MEM_64 and IORESOURCE_UNSET (include/linux/ioport.h)."""

_LAST_BAR = 5
_DISPLAY = 0x03
_FOUR_GIB = 1 << 32


def judge(host: Host) -> list[Finding]:
    """Is the device's memory assigned, and free of the boot screen?

    Evidence: the resource file, resizable BARs, boot_vga, framebuffer ranges in /proc/iomem,
              address widths of processor and IOMMU.
    Meaning:  A BAR without an address cannot be mapped; a boot display needs a ROM of its own;
              above the IOMMU's width nothing can be mapped at all.
    Source:   Linux drivers/pci/setup-bus.c, ABI sysfs-bus-pci, VT-d (MGAW); field guide step 14.
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    return [_judge_function(host, f) for f in functions]


def _judge_function(host: Host, function: PciFunction) -> Finding:
    lost = [b for b in function.bars or () if _is_unassigned(b)]
    holders = _find_holders(host, function)
    missing = _list_missing(host, function)
    taken = _find_taken(host, function)
    if lost:
        code = BAR_UNASSIGNED
    elif holders:
        code = FRAMEBUFFER_HOLDS_BAR
    elif missing:
        code = BARS_UNKNOWN
    elif taken:
        code = BAR_TAKEN
    elif _is_boot_display(function):
        code = BOOT_DISPLAY
    else:
        code = IOMMU_NARROW if _is_narrow(host, function) else BARS_READY
    rows = lost or [b for b in function.bars or () if _is_memory(b)]
    return make_finding(
        ID,
        subject_of(function),
        code,
        Evidence(f"{DEVICES}/{function.address}", describe(function, host)),
        *(attribute(function, "resource", _describe(b)) for b in rows),
        *(attribute(function, "config", text) for text in _describe_resizable(function)),
        *(Evidence(IOMEM, f"{row.source} {row.text}") for row in holders),
        *taken,
        *_describe_widths(host, function),
        meaning=f"{BAR_TAKEN.meaning} {code.meaning}" if taken and code is BARS_UNKNOWN else "",
        intended=is_intended(host, [function.address]),
        decision=code.decision.replace("BITS", str(_iommu_bits(host) or "")),
        missing=missing if code is BARS_UNKNOWN else (),
    )


def _is_memory(bar: Bar) -> bool:
    return bar.index <= _LAST_BAR and bool(bar.flags & _MEMORY)


def _is_unassigned(bar: Bar) -> bool:
    return _is_memory(bar) and (bool(bar.flags & _UNSET) or bar.start == 0)


def _is_boot_display(function: PciFunction) -> bool:
    return function.boot_vga is True


def _find_holders(host: Host, function: PciFunction) -> list[ConfigLine]:
    """Framebuffer ranges within this function's BARs, where a driver of VFIO wants them."""
    found = []
    for row in host.readings.framebuffers or ():
        start, _, end = row.source.partition("-")
        first, last = int(start, 16), int(end, 16)
        for bar in function.bars or ():
            if _is_memory(bar) and bar.start <= first and last < bar.start + bar.size_bytes:
                found.append(row)
                break
    return found if function.driver == "" or is_vfio_bound(function) else []


def _find_taken(host: Host, function: PciFunction) -> tuple[Evidence, ...]:
    """The last refusal of each BAR in the log."""
    pattern = re.compile(rf"\b{function.address}: BAR (\d)\b.{{0,120}}can't reserve")
    found = {m[1]: m.string for m in log.find_lines(host, pattern)}
    return tuple(Evidence(log.SOURCE, found[bar]) for bar in sorted(found))


def _is_wide(function: PciFunction) -> bool:
    return any(_is_memory(bar) and bar.flags & _WIDE for bar in function.bars or ())


def _iommu_bits(host: Host) -> int | None:
    """The narrowest unit's width; None where no unit tells one."""
    widths = host.facts.address_widths
    return min((bits for _, bits in (widths.iommu or ())), default=None) if widths else None


def _is_narrow(host: Host, function: PciFunction) -> bool:
    widths, bits = host.facts.address_widths, _iommu_bits(host)
    if widths is None or widths.cpu_bits is None or bits is None:
        return False
    return bits < widths.cpu_bits and _is_wide(function)


def _describe_widths(host: Host, function: PciFunction) -> list[Evidence]:
    widths = host.facts.address_widths
    if widths is None or not _is_narrow(host, function):
        return []
    found = [Evidence(f"{UNITS}/{n}/intel-iommu/cap", f"{b} bits") for n, b in widths.iommu or ()]
    return [*found, Evidence("/proc/cpuinfo", f"address sizes: {widths.cpu_bits} bits physical")]


def _missing_widths(host: Host, function: PciFunction) -> list[Missing]:
    """Intel's units tell their width; what others can do is enough for any guest."""
    widths = host.facts.address_widths
    units = host.facts.iommu_units
    if not _is_wide(function) or (units is not None and not any(map(_is_intel, units))):
        return []
    found = []
    if widths is None or widths.cpu_bits is None:
        found.append(
            Missing("address sizes in /proc/cpuinfo", "grep -m1 'address sizes' /proc/cpuinfo")
        )
    if widths is None or widths.iommu is None:
        found.append(Missing(f"{UNITS}/*/intel-iommu/cap", f"cat {UNITS}/*/intel-iommu/cap"))
    return found


def _list_missing(host: Host, function: PciFunction) -> tuple[Missing, ...]:
    found = []
    if function.bars is None:
        found.append(missing_attribute(host, function, "resource"))
    found += _missing_widths(host, function)
    if function.base_class not in (_DISPLAY, None):
        return tuple(found)
    if function.class_code is None:
        found.append(missing_attribute(host, function, "class"))
    if function.boot_vga is None:
        found.append(missing_attribute(host, function, "boot_vga"))
    if function.driver is None:
        found.append(missing_attribute(host, function, "driver"))
    if host.readings.framebuffers is None:
        found.append(Missing(IOMEM, "sudo grep -i -e fb -e framebuffer /proc/iomem"))
    return tuple(found)


def _is_intel(unit: str) -> bool:
    return unit.startswith("dmar")


def _describe_resizable(function: PciFunction) -> list[str]:
    """`BAR 1 is resizable: 256 MiB of 256 MiB to 16 GiB`."""
    resizable = () if function.config is None else function.config.resizable or ()
    found = []
    for row in resizable:
        lowest = (row.sizes & -row.sizes).bit_length() - 1
        limits = [_size(1 << 20 + n) for n in (lowest, row.sizes.bit_length() - 1) if n >= 0]
        text = " to ".join(limits) or "unknown sizes"
        found.append(f"BAR {row.index} is resizable: {_size(row.size_bytes)} of {text}")
    return found


def _size(size: int) -> str:
    return next((f"{size >> s} {u}" for s, u in _UNITS if size >> s), f"{size} B")


def _describe(bar: Bar) -> str:
    unit = _size(bar.size_bytes)
    if _is_unassigned(bar):
        return f"BAR {bar.index}: {unit}, no address"
    where = "above 4G" if bar.start >= _FOUR_GIB else "below 4G"
    return f"BAR {bar.index}: {unit} at 0x{bar.start:x} ({where})"


_UNITS = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))
