"""Check `bar-and-rom`: whether the device's memory is assigned, and not kept by the boot screen.

Judged per assignable function. It must never blame an I/O BAR or a ROM without an address, which
no VM needs, nor say that no framebuffer is in the way when address ranges were hidden from it.
"""

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
from vfio_contract.model import Bar, ConfigLine, PciFunction

ID = "bar-and-rom"
IOMEM = "/proc/iomem"

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
BOOT_DISPLAY = Code(
    "BOOT_DISPLAY",
    Verdict.WARN,
    "boot_vga is 1: firmware used this display controller for the boot screen.",
    "Its ROM is a shadow copy that firmware has run already; the guest's screen may stay black.",
    "Let the firmware use another display first; else dump a clean ROM and give it to the VM "
    "(romfile).",
)
BARS_UNKNOWN = Code(
    "BARS_UNKNOWN",
    Verdict.UNKNOWN,
    "The function's resource file, boot_vga, or the ranges of /proc/iomem could not be read.",
    "Whether a VM could map the device's memory is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (BARS_READY, BAR_UNASSIGNED, FRAMEBUFFER_HOLDS_BAR, BOOT_DISPLAY, BARS_UNKNOWN)

_MEMORY = 0x200
_UNSET = 0x20000000
"""IORESOURCE_MEM and IORESOURCE_UNSET (include/linux/ioport.h)."""

_LAST_BAR = 5
_DISPLAY = 0x03
_FOUR_GIB = 1 << 32


def judge(host: Host) -> list[Finding]:
    """Is the device's memory assigned, and free of the boot screen?

    Evidence: the resource file, boot_vga, framebuffer ranges in /proc/iomem.
    Meaning:  A BAR without an address cannot be mapped; a boot display needs a ROM of its own.
    Source:   Linux drivers/pci/setup-bus.c, ABI sysfs-bus-pci; field guide step 14.
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    return [_judge_function(host, f) for f in functions]


def _judge_function(host: Host, function: PciFunction) -> Finding:
    lost = [b for b in function.bars or () if _is_unassigned(b)]
    holders = _find_holders(host, function)
    missing = _list_missing(host, function)
    if lost:
        code = BAR_UNASSIGNED
    elif holders:
        code = FRAMEBUFFER_HOLDS_BAR
    elif missing:
        code = BARS_UNKNOWN
    else:
        code = BOOT_DISPLAY if _is_boot_display(function) else BARS_READY
    rows = lost or [b for b in function.bars or () if _is_memory(b)]
    return make_finding(
        ID,
        subject_of(function),
        code,
        Evidence(f"{DEVICES}/{function.address}", describe(function, host)),
        *(attribute(function, "resource", _describe(b)) for b in rows),
        *(Evidence(IOMEM, f"{row.source} {row.text}") for row in holders),
        intended=is_intended(host, [function.address]),
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
    return found if function.driver in ("", "vfio-pci") else []


def _list_missing(host: Host, function: PciFunction) -> tuple[Missing, ...]:
    found = []
    if function.bars is None:
        found.append(missing_attribute(host, function, "resource"))
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


def _describe(bar: Bar) -> str:
    size = bar.size_bytes
    unit = next((f"{size >> s} {u}" for s, u in _UNITS if size >> s), f"{size} B")
    if _is_unassigned(bar):
        return f"BAR {bar.index}: {unit}, no address"
    where = "above 4G" if bar.start >= _FOUR_GIB else "below 4G"
    return f"BAR {bar.index}: {unit} at 0x{bar.start:x} ({where})"


_UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"))
