"""What the small commands say about a host: lsmod, lscpu, cmdline, uname, lsof, pveperf and others.

Each is turned into the file of /proc that it repeats, so that the collectors read it as on a host,
or into a value where there is no such file. A list that may have been filtered (`lsmod | grep kvm`)
or cut proves nothing by what it lacks, and is left out with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vfio_agent.pasted.prompt import PROMPT, command_of, find_host
from vfio_agent.pasted.recognise import Kind, Text
from vfio_contract.model import Holder

_CMDLINE = re.compile(r"(?:BOOT_IMAGE=|initrd=\\|root=\S+ )")
_PARAMETERS = re.compile(r'(?:[A-Za-z0-9_.,:/-]+(?:=(?:"[^"]*"|\S*))?\s*)+$')
_MODULE = re.compile(r"[\w-]{1,64}\s+\d+\s+-?\d+(?:\s+\S+)?$")
_UNAME = re.compile(r"Linux (\S+) (\d+\.\d+\S*) (#\d.{0,120}?)((?: [a-z]\w{3,11})+)? GNU/Linux$")
_UNAME_CHARS = 400
_HOLDER = re.compile(r"(\S+)\s+(\d{1,10})\s.{0,200}?\s(/dev/vfio/\S{1,80})$")
_USER = re.compile(r"(/dev/vfio/[^\s:]{1,80}):\s+\S{1,32}\s+(\d{1,10})\s+\S{1,8}\s+(\S{1,64})$")
"""A line of `fuser -v`."""

_FSYNCS = re.compile(r"FSYNCS/SECOND:\s+(\d{1,9}(?:\.\d{1,9})?)$")
_UNIT = re.compile(r"(?:dmar|ivhd)\d+|(?:arm-)?smmu[\w.:-]*")
_INTERRUPT = re.compile(r"\s*[\w-]{1,12}:\s")
MACHINES = frozenset(
    {"x86_64", "i686", "i586", "aarch64", "armv7l", "ppc64le", "ppc64", "riscv64", "s390x"}
)


@dataclass(slots=True)
class HostText:
    """What was found: `files` by path as on the host, values without a file, and `left_out`.

    `left_out` are (kind, reason) of texts that were recognised and could not be used.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    units: tuple[str, ...] | None = None
    kvm: bool | None = None
    holders: tuple[Holder, ...] | None = None
    fsyncs: float | None = None
    left_out: list[tuple[Kind, str]] = field(default_factory=list)

    def put(self, path: str, *lines: str) -> None:
        """The first text about a file counts within one paste."""
        self.files.setdefault(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def parse_host_text(text: Text, kinds: Sequence[Kind]) -> HostText:
    """All small commands in one text; linear in it."""
    found = HostText()
    readers = {
        Kind.CMDLINE: _read_cmdline,
        Kind.LSMOD: _read_modules,
        Kind.LSCPU: _read_lscpu,
        Kind.CPUINFO: _read_cpuinfo,
        Kind.INTERRUPTS: _read_interrupts,
        Kind.IOMMU_UNITS: _read_units,
        Kind.KVM_NODE: _read_kvm,
        Kind.UNAME: _read_uname,
        Kind.LSOF: _read_holders,
        Kind.PVEPERF: _read_pveperf,
        Kind.LSHW: _read_lshw,
    }
    for kind in kinds:
        if kind in readers:
            readers[kind](text, found)
    host = find_host(text.lines)
    if host:
        found.put("/proc/sys/kernel/hostname", host)  # uname's, if it is there, came first
    if Kind.TREE in kinds:
        found.left_out.append((Kind.TREE, "it names no ids, classes or drivers: lspci -nnk"))
    return found


def _section(text: Text, start: int) -> Iterator[tuple[str, bool]]:
    """Lines from `start` to the next empty line or command; True where the text ends there."""
    for number in range(start, len(text.lines)):
        line = text.lines[number]
        if not line.strip() or (number > start and PROMPT.match(line)):
            return
        yield line, number == len(text.lines) - 1


def _is_cut(text: Text, *, last: bool) -> bool:
    return last and text.open_end


def _read_cmdline(text: Text, found: HostText) -> None:
    """A mail wraps a long line: what follows is joined while it looks like parameters."""
    start = next((n for n, line in enumerate(text.lines) if _CMDLINE.match(line)), -1)
    if start < 0:
        return
    if start and "/etc/kernel/cmdline" in command_of(text.lines[start - 1]):
        found.left_out.append((Kind.CMDLINE, "it is what the next boot will use: /proc/cmdline"))
        return
    words: list[str] = []
    for line, last in _section(text, start):
        if words and _PARAMETERS.match(line) is None:
            break
        words.append(line.strip())
        if _is_cut(text, last=last):
            found.left_out.append((Kind.CMDLINE, "it has no end of line: it may be cut"))
            return
    found.put("/proc/cmdline", " ".join(words))


def _read_modules(text: Text, found: HostText) -> None:
    start = next((n for n, line in enumerate(text.lines) if line.startswith("Module ")), -1)
    if start < 0:
        return
    if start and "|" in command_of(text.lines[start - 1]):
        found.left_out.append((Kind.LSMOD, "it was filtered: what it lacks may be loaded"))
        return
    rows: list[str] = []
    for line, last in _section(text, start + 1):
        if _MODULE.match(line) is None:
            break
        if _is_cut(text, last=last):
            found.left_out.append((Kind.LSMOD, "its last line has no end: it may be cut"))
            return
        rows.append(line)
    if rows:
        found.put("/proc/modules", *rows)
    else:
        found.left_out.append((Kind.LSMOD, "it lists no module"))


def _read_lscpu(text: Text, found: HostText) -> None:
    heads = ("Architecture:", "CPU op-")
    start = next((n for n, line in enumerate(text.lines) if line.startswith(heads)), -1)
    fields: dict[str, str] = {}
    key, wrapped = "", list[str]()
    for line, last in _section(text, max(start, 0)):
        name, colon, value = line.partition(":")
        if colon and len(line) - len(line.lstrip()) < 8:
            key = name.strip()
            fields.setdefault(key, value.strip())
            if key == "Flags":
                wrapped.append(line)
        elif key == "Flags":
            wrapped.append(line)
        if _is_cut(text, last=last) and key == "Flags":
            found.left_out.append((Kind.LSCPU, "its flags have no end: they may be cut"))
            return
    machine = fields.get("Architecture", "").strip()
    if machine in MACHINES:
        found.put("/proc/sys/kernel/arch", machine)
    if machine not in ("x86_64", "i686"):
        return
    rows = ["processor\t: 0", f"cpu family\t: {fields.get('CPU family', '?')}"]
    rows.append(f"vendor_id\t: {fields.get('Vendor ID', '').strip()}")
    rows.append(f"model name\t: {fields.get('Model name', '').strip()}")
    if wrapped:
        rows.append(f"flags\t\t: {_unwrap(wrapped)}")
    found.put("/proc/cpuinfo", *rows)


def _unwrap(lines: Sequence[str]) -> str:
    """Flags that lscpu wrapped at the terminal's width, in the middle of words.

    A line that is one short of the width ended in a space, which mailers take away.
    """
    width = max(len(line) for line in lines)
    whole = [line.ljust(width) for line in lines[:-1]] + [lines[-1]]
    text = whole[0].partition(":")[2] + "".join(line.lstrip() for line in whole[1:])
    return text.strip()


def _read_cpuinfo(text: Text, found: HostText) -> None:
    start = next(
        (
            n
            for n, line in enumerate(text.lines)
            if line.startswith(("processor\t", "processor ", "vendor_id", "flags", "CPU impl"))
        ),
        -1,
    )
    if start < 0 or "Architecture:" in "\n".join(text.lines[max(0, start - 40) : start]):
        return
    rows: list[str] = []
    for line, last in _section(text, start):
        if _is_cut(text, last=last) and line.startswith("flags"):
            found.left_out.append((Kind.CPUINFO, "its flags have no end: they may be cut"))
            return
        rows.append(line)
    found.put("/proc/cpuinfo", *rows)


def _read_interrupts(text: Text, found: HostText) -> None:
    start = next(
        (n for n, line in enumerate(text.lines) if re.match(r"\s+CPU0(?:\s+CPU\d+)*\s*$", line)), -1
    )
    rows = [text.lines[start]]
    for line, last in _section(text, start + 1):
        if _INTERRUPT.match(line) is None or _is_cut(text, last=last):
            break
        rows.append(line)
    if len(rows) > 1:
        found.put("/proc/interrupts", *rows)


def _read_units(text: Text, found: HostText) -> None:
    for line in text.lines:
        words = line.split()
        if words and all(_UNIT.fullmatch(word) for word in words):
            found.units = tuple(sorted({*(found.units or ()), *words}))


def _read_kvm(text: Text, found: HostText) -> None:
    for line in text.lines:
        if "/dev/kvm" not in line:
            continue
        if line.startswith("c") or line.startswith("INFO: /dev/kvm exists"):
            found.kvm = True
        elif line.startswith(("ls: ", "INFO: /dev/kvm does not")) and found.kvm is None:
            found.kvm = False


def _read_uname(text: Text, found: HostText) -> None:
    for line in text.lines:
        match = _UNAME.match(line) if len(line) < _UNAME_CHARS else None
        if match is not None:
            found.put("/proc/sys/kernel/hostname", match[1])
            found.put("/proc/sys/kernel/osrelease", match[2])
            found.put("/proc/sys/kernel/version", match[3])
            machine = (match[4] or "").split()
            if machine and machine[0] in MACHINES:
                found.put("/proc/sys/kernel/arch", machine[0])
            return


def _read_holders(text: Text, found: HostText) -> None:
    """Only who holds: lsof shows an ordinary user nothing of others, so no line proves nothing."""
    rows: dict[Holder, None] = {}
    for line in text.lines:
        match = _HOLDER.match(line)
        if match is not None and match[3] != "/dev/vfio/vfio":
            rows[Holder(path=match[3], pid=int(match[2]), command=match[1])] = None
        match = _USER.match(line)
        if match is not None and match[1] != "/dev/vfio/vfio":
            rows[Holder(path=match[1], pid=int(match[2]), command=match[3])] = None
    if rows:
        found.holders = tuple(sorted(rows, key=lambda r: (r.path, r.pid)))
    else:
        found.left_out.append((Kind.LSOF, "it shows no holder, which proves nothing without root"))


def _read_pveperf(text: Text, found: HostText) -> None:
    for line in text.lines:
        match = _FSYNCS.match(line.strip())
        if match is not None:
            found.fsyncs = float(match[1])


_FIRMWARE = {
    "vendor": "bios_vendor",
    "version": "bios_version",
    "date": "bios_date",
}


def _read_lshw(text: Text, found: HostText) -> None:
    """The machine's maker and product, and the firmware: the part that says which firmware ran."""
    part = "system"
    for line in text.lines[:400]:
        stripped = line.strip()
        if stripped.startswith("*-"):
            part = stripped[2:].split(":")[0]
            continue
        name, colon, value = stripped.partition(": ")
        if not colon or len(value) > 200:
            continue
        if part == "firmware" and name in _FIRMWARE:
            found.put(f"/sys/class/dmi/id/{_FIRMWARE[name]}", value)
        elif part == "system" and name in ("vendor", "product"):
            file = "sys_vendor" if name == "vendor" else "product_name"
            found.put(f"/sys/class/dmi/id/{file}", value)
