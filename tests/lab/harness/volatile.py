"""What differs between two captures of one unchanged machine, as data; and a comparison without it.

Each row names the files, what in them is left out of a comparison, and why. What stands in no row
is evidence: a difference there is a change of the machine, of its kernel or of the collector. It
must never be widened to make a change disappear.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LOG = "dmesg"


@dataclass(frozen=True, slots=True)
class Volatile:
    """In files whose whole name is like `files`, `pattern` is replaced; not `in_order`: sorted."""

    files: str
    pattern: str
    replacement: str
    reason: str
    in_order: bool = True


VOLATILE = (
    Volatile(r"proc/sys/kernel/random/boot_id", r"\S+", "ID", "drawn at each boot"),
    Volatile(r"manifest\.json", r'("boot_id": )"[^"]*"', r"\1ID", "drawn at each boot"),
    Volatile(r"proc/uptime", r"[\d.]+", "N", "the moment of the capture"),
    Volatile(r"proc/stat", r"\d+", "N", "counts and times since boot"),
    Volatile(r"proc/pressure/\w+", r"[\d.]+", "N", "how busy the lab's own host was"),
    Volatile(
        r"proc/meminfo",
        r"^(?!MemTotal|SwapTotal|HugePages_|Hugepagesize|Hugetlb|VmallocTotal)(\w\S*:) *\d+",
        r"\1 N",
        "use of memory at that moment",
    ),
    Volatile(r"proc/diskstats", r"(?<=\w )[\d ]+$", "N", "counts and times of requests", False),
    Volatile(r"proc/interrupts", r"^( *\w+:)(?: +\d+)+", r"\1", "counts since boot"),
    Volatile(
        r"proc/cpuinfo", r"^(cpu MHz|bogomips)(\s*: )[\d.]+", r"\1\2N", "measured at each boot"
    ),
    Volatile(r"proc/modules", r"0x[0-9a-f]+", "ADDRESS", "the kernel's addresses are randomised"),
    Volatile(r"proc/1/net/if_inet6", r"$", "", "order of a hash seeded at boot", False),
    Volatile(
        r"proc/1/net/ipv6_route",
        r"(?: [0-9a-f]{8}){2}(?= [0-9a-f]{8} +\S+$)",
        " N",
        "reference and use counts, order of a hash seeded at boot",
        False,
    ),
    Volatile(
        r"proc/bus/input/devices",
        r"\b(event|input|mouse|js)\d+",
        r"\1N",
        "keyboard and mouse are looked for side by side",
        False,
    ),
    # The kernel log: who was first, when, and what this boot's clock was measured to be.
    Volatile(LOG, r"^(<\d+>)\[ *\d+\.\d+\]", r"\1", "moment and order of each line", False),
    Volatile(
        LOG,
        r"^<\d+> *(tsc|clocksource|sched_clock|hpet\d?|Calibrating delay loop|"
        r"calibrate_delay_direct|APIC calibration not consistent|(APIC|TSC) delta adjusted|"
        r"Probably due to long platform|rtc_cmos .* setting system clock|"
        r"smpboot: Total of|node \d+ deferred pages|random: crng init done|perf: "
        r"interrupt took too long|hrtimer: interrupt took|workqueue: .* hogged CPU)\b.*\n",
        "",
        "how fast the emulated processor ran",
    ),
    Volatile(
        LOG,
        r"(RAMDISK: |RAMDISK from |initrd memory: ).*",
        r"\1N",
        "the size of the initrd: the lab's own recipe, not the machine",
    ),
    Volatile(LOG, r"(?<= took )\d+(?= usecs)", "N", "how fast the emulated processor ran"),
    Volatile(LOG, r"(?<=/input/input)\d+", "N", "keyboard and mouse are looked for side by side"),
    Volatile(
        LOG,
        r"(?<=mounted filesystem )[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "ID",
        "drawn by mke2fs; nothing but the log shows it",
    ),
)
# The lab's own folder of kernel modules carries a hash of how it was made.
_RECIPE = re.compile(r"(kernel-[0-9.]+)-[0-9a-f]{8}\b")


def compare(old: Path, new: Path) -> list[str]:
    """What differs between two captures beside the above, a line each; in order of the names.

    OSError or tarfile.TarError when one cannot be read.
    """
    before, after = _members(old), _members(new)
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found.append(f"{name}: gone")
        elif name not in before:
            found.append(f"{name}: new")
        elif before[name] != after[name]:
            found.append(f"{name}: {_first_difference(before[name], after[name])}")
    return found


def _members(path: Path) -> dict[str, str]:
    """Each member's kind and contents as text, without what is volatile."""
    members = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            # surrogateescape keeps bytes apart that are no text.
            text = file.read().decode(errors="surrogateescape") if file else ""
            name = _RECIPE.sub(r"\1", member.name)
            link = _RECIPE.sub(r"\1", member.linkname)
            kind = f"{member.type.decode()} {member.mode:o} {link}\n"
            members[name] = kind + settle(name, text)
    return members


def settle(name: str, text: str) -> str:
    """The contents of this file with all that is volatile made the same."""
    in_order = True
    for row in VOLATILE:
        if re.fullmatch(row.files, name):
            text = re.sub(row.pattern, row.replacement, text, flags=re.MULTILINE)
            in_order = in_order and row.in_order
    if name == "manifest.json":
        text = _RECIPE.sub(r"\1", text)
    return text if in_order else "\n".join(sorted(text.splitlines()))


def _first_difference(before: str, after: str) -> str:
    one, two = before.splitlines(), after.splitlines()
    gone, come = list(Counter(one) - Counter(two)), list(Counter(two) - Counter(one))
    if not gone and not come:
        return "other order"
    pair = [_short(lines[0]) if lines else "nothing" for lines in (gone, come)]
    return f"{pair[0]} -> {pair[1]}"


def _short(line: str) -> str:
    shown = line.strip().encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
