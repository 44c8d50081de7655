"""Which kernel runs, with which command line, since when: /proc only.

`uname` is never called: a captured host must answer as a live one. Nothing here may put the
collecting machine's own kernel in place of the host's.
"""

from __future__ import annotations

import re

from vfio_agent.collect.cpu import machine_of, read_cpuinfo
from vfio_agent.collect.reader import Reader, decode
from vfio_contract.model import Kernel

_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]+)?(?= |$)")
_VERSION = re.compile(r"Linux version (\S+)(?: .*? (#\d+(?: .*)?))?")


def collect_kernel(reader: Reader) -> Kernel:
    """`uname -r`, `-v` and `-m`; a part is None when neither its file nor /proc/version has it.

    /proc/sys/kernel/arch exists since Linux 6.1; before it /proc/cpuinfo shows the machine.
    """
    release = _quiet(reader, "/proc/sys/kernel/osrelease")
    build = _quiet(reader, "/proc/sys/kernel/version")
    if release is None or build is None:
        said = parse_version_line(reader.text("/proc/version") or "")
        release, build = release or said.release, build or said.build
    machine = _quiet(reader, "/proc/sys/kernel/arch")
    if machine is None:
        machine = machine_of(read_cpuinfo(reader) or "")
    return Kernel(release=release, build=build, machine=machine)


def parse_version_line(text: str) -> Kernel:
    """/proc/version, or the kernel log's first line; what the text does not say is None."""
    match = _VERSION.match(text.strip())
    if match is None:
        return Kernel(release=None, build=None, machine=None)
    return Kernel(release=match[1], build=match[2], machine=None)


def collect_cmdline(reader: Reader) -> str | None:
    """The running kernel's command line, `""` for an empty one."""
    return reader.text("/proc/cmdline")


def collect_boot_id(reader: Reader) -> str | None:
    """The random id of this boot (UUID text)."""
    return reader.text("/proc/sys/kernel/random/boot_id") or None


def collect_uptime(reader: Reader) -> float | None:
    """Seconds since boot, suspended time included."""
    text = reader.text("/proc/uptime")
    if text is None:
        return None
    match = _SECONDS.match(text)
    if match is None:
        reader.gap("/proc/uptime", f"not a number of seconds: {text[:40]!r}")
        return None
    return float(match[0])


def _quiet(reader: Reader, path: str) -> str | None:
    """The text, or None without a gap: another file answers the same question."""
    try:
        return decode(reader.root.read(path)) or None
    except OSError:
        return None
