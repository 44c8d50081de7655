"""The interrupt chips in /proc/interrupts: evidence for interrupt remapping that does not age out.

And the interrupts of passed-through devices: on which CPUs they arrived and where they may. On x86
a name that begins with `IR-` or `vIR-` is remapped; Arm shows its GIC and ITS. Counts and device
names are left out of the chips, so that the same host gives the same names.
"""

from __future__ import annotations

import re

from vfio_agent.collect.reader import Reader
from vfio_contract.model import CpuIsolation, DeviceInterrupt

_INTERRUPTS = "/proc/interrupts"
_LIMIT_BYTES = 16 << 20
"""One line a vector with one column a processor: 512 processors and 2,000 vectors need 11 MiB."""

_DEVICE = re.compile(r"-(?:[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|[0-9a-f]{8,}\.\S+)$")
"""What kernels since 6.2 append to the chip of a device's own MSI domain."""

_FLOW = re.compile(r"-(?:edge|level|fasteoi)$")
"""What kernels before 3.19 append."""


_ISOLATED = "/sys/devices/system/cpu/isolated"
_NOHZ_FULL = "/sys/devices/system/cpu/nohz_full"

_BALANCERS = (
    "/sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs",
    "/sys/fs/cgroup/systemd/system.slice/irqbalance.service/cgroup.procs",
    "/run/irqbalance.pid",
)
"""What a running irqbalance leaves: its control group (versions 2 and 1), or its pid."""

_SOCKETS = "/run/irqbalance"
"""Holds a socket while it runs (irqbalance since 1.4)."""


def collect_cpu_isolation(reader: Reader) -> CpuIsolation:
    """Which processors were set aside, and whether irqbalance runs."""
    isolated = reader.optional(_ISOLATED)
    nohz = reader.optional(_NOHZ_FULL)
    return CpuIsolation(
        isolated=_cpus(isolated), nohz_full=_cpus(nohz), irqbalance=_is_balanced(reader)
    )


def _cpus(text: str | None) -> str | None:
    return "" if text == "(null)" else text  # what kernels print for an empty mask


def _is_balanced(reader: Reader) -> bool | None:
    unread: OSError | None = None
    for path in _BALANCERS:
        try:
            if reader.root.read(path).strip():
                return True
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unread = unread or error.with_traceback(None)  # which would keep this frame
    try:
        if any(name.endswith(".sock") for name in reader.root.list(_SOCKETS)):
            return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread = unread or error.with_traceback(None)
    if unread is None:
        return False
    reader.gap(_SOCKETS, unread, "pgrep -a irqbalance")
    return None


def collect_interrupt_chips(reader: Reader) -> tuple[str, ...] | None:
    """Distinct chip names in order of the alphabet, per-device suffixes removed."""
    data = reader.data(_INTERRUPTS, limit=_LIMIT_BYTES)
    if data is None:
        return None
    return parse_chips(data.decode("utf-8", "backslashreplace"))


def parse_chips(text: str) -> tuple[str, ...]:
    """The chip column; its place follows from the number of processors in the first line."""
    lines = text.split("\n")
    processors = sum(1 for word in lines[0].split() if word.startswith("CPU"))
    found: set[str] = set()
    for line in lines[1:]:
        label, colon, rest = line.partition(":")
        if not colon or not label.strip().isdigit():
            continue
        words = rest.split(None, processors + 1)
        if len(words) > processors and words[processors] != "None":
            found.add(_FLOW.sub("", _DEVICE.sub("", words[processors])))
    return tuple(sorted(found))


def collect_device_interrupts(reader: Reader) -> tuple[DeviceInterrupt, ...] | None:
    """Interrupts of VFIO devices by number, with their affinity; None when not readable."""
    data = reader.data(_INTERRUPTS, limit=_LIMIT_BYTES)
    if data is None:
        return None
    rows = parse_device_interrupts(data.decode("utf-8", "backslashreplace"))
    files = [f"/proc/irq/{number}/smp_affinity_list" for number, _, _ in rows]
    return tuple(
        DeviceInterrupt(number, name, cpus, counts)
        for (number, name, counts), cpus in zip(rows, reader.texts(files), strict=True)
    )


def parse_device_interrupts(text: str) -> list[tuple[int, str, tuple[tuple[int, int], ...]]]:
    """(number, name, (CPU, count) where it arrived) of lines that VFIO registered."""
    lines = text.split("\n")
    cpus = [int(w[3:]) for w in lines[0].split() if w.startswith("CPU") and w[3:].isdecimal()]
    found = []
    for line in lines[1:]:
        label, _, rest = line.partition(":")
        place = rest.find("vfio-")
        if place < 0 or not label.strip().isdecimal():
            continue
        counts = rest.split()[: len(cpus)]
        if len(counts) == len(cpus) and all(c.isdecimal() for c in counts):
            arrived = tuple((cpu, int(n)) for cpu, n in zip(cpus, counts, strict=True) if int(n))
            found.append((int(label), rest[place:].strip(), arrived))
    return found
