"""The kernel log as evidence: an extract of the lines that a check or the reset ledger can use.

Logs come from the ring buffer, from captured files in every format that `dmesg`, `journalctl` and
syslog write, and from mails that quote them; some are 50 MB of one repeated error. The extract is
made in one pass and keeps, for each kind of line, the first and the last ones, so that a flood of
one kind never hides another: a kind that is not in the extract was not in the log. This module must
never judge what a line means, and never call a log complete that may have lost its beginning.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from vfio_agent.collect.log_line import LINE_BYTES, ParsedLine, parse_line, render_kmsg
from vfio_agent.collect.reader import Reader
from vfio_contract.model import KernelLog, LogLine

CAPTURED_LOG = "/dmesg"
"""A captured root's kernel log is its top-level file `dmesg` (DESIGN, Agent)."""

LIVE_LOG = "/dev/kmsg"

LIMIT_BYTES = 64 << 20
"""How much of a log is read; the largest ring buffer that Linux allows is 32 MiB (log_buf_len)."""

KEEP_FIRST = 300
KEEP_LAST = 300
"""Lines kept of one kind; the largest captured boot puts 281 functions into groups."""

_BLOCK_BYTES = 1 << 20
"""How much is searched at a time, so that only one small copy of the log is made."""

_STYLE_LINES = 2000
"""Lines at the head in which a prefix is looked for."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Lines of one sort: any of `marks` (lower case) is in the line; `why` says who needs them."""

    name: str
    marks: tuple[str, ...]
    why: str


KINDS: tuple[Kind, ...] = (
    Kind(
        "boot",
        ("linux version ", "command line:", "printk messages dropped"),
        "where a boot begins and whether it is whole; release and command line without /proc",
    ),
    Kind(
        "group",
        ("to iommu group", "from iommu group", "iommu: adding device"),
        "proof of a live IOMMU driver (5.4+, and the wording of 4.x)",
    ),
    Kind(
        "banner",
        (
            "virtualization technology for directed i/o",
            "dmar: iommu enabled",
            "dmar: iommu disabled",
            "platform opt in",
            "no dmar devices found",
            "parse dmar table failure",
            "performance counters supported",
            "perf counter",
            "found iommu",
            "amd iommu disabled",
            "probing hardware configuration",
            "default domain type",
        ),
        "DMA remapping on or off: the VT-d banner, AMD-Vi, SMMU, and what is no proof of either",
    ),
    Kind(
        "reset",
        (
            "ms after ",
            "reset recovery",
            "restoring bars",
            "vfio_bar_restore",
            "giving up",
            "change power state",
            "device inaccessible",
            "link active not set",
            "pending transaction",
            "resetting",
            "reset done",
            "reset method",
            "reset failed",
            "failed to reset",
            "cannot reset device",
            "doing bus reset",
            "flr",
        ),
        "how a reset ended: the ledger",
    ),
    Kind(
        "vfio",
        ("vfio", "rlimit_memlock", "device request channel", "request to user", "vf token"),
        "what VFIO refused, and drivers that it could not bind",
    ),
    Kind(
        "remapping",
        (
            "irq remapping",
            "interrupt remapping",
            "intr-remapping",
            "irq-injection",
            "dmar-ir:",
            "x2apic",
            "isolated msi",
            "isolated_msi",
            "gicv2m",
            "gic v2m",
            "its@",
            "its [mem ",
            "its: using",
            "its: allocator",
            "its: no its",
            "domain created",
        ),
        "interrupt remapping on x86, MSI isolation on Arm (ITS or GICv2m)",
    ),
    Kind(
        "iommu-fault",
        (
            "io_page_fault",
            "event logged [",
            "handling fault",
            "dmar: [",
            "dmar_fault",
            "completion-wait loop timed out",
            "context fault",
            "global fault",
            "f_translation",
            "invalid device request",
        ),
        "DMA and interrupt faults, per device",
    ),
    Kind(
        "error",
        ("aer:", "pcie bus error", "hardware error", "dpc:"),
        "PCIe errors that the hardware reported",
    ),
    Kind(
        "acs",
        ("acs override", "acs workaround", "acs_redir", "config_acs", "acs quirk"),
        "isolation that is artificial",
    ),
    Kind(
        "guest",
        (
            "hypervisor",
            "paravirtualized kernel",
            "xen",
            "hyper-v",
            "kvm-clock",
            "secure virtualization",
            "sev-",
            "sev:",
            "sev ",
            "snp",
            "tdx",
        ),
        "a guest, a Xen dom0, a confidential host or guest",
    ),
    Kind(
        "virtualization",
        ("kvm: ", "kvm [", "kvm_amd", "kvm_intel", "disabled by bios", "vmx ", "svm "),
        "whether KVM could use the processor",
    ),
    Kind(
        "iommu",
        ("iommu", "dmar", "amd-vi", "smmu", "ivrs", "calgary", "gart", "pci-dma:", "rmrr"),
        "everything else an IOMMU driver says, and the remapping tables' own lines",
    ),
    Kind(
        "platform",
        (
            "x86/fpu",
            "x86/cpu",
            "smpboot: cpu0",
            "bios-e820: [mem 0x0000000000000000",
            "booting linux on physical cpu",
            "machine model:",
            "psci:",
            "gicv3:",
            "riscv",
            "opal",
            "pseries",
            "dmi: ",
            "detected architecture",
        ),
        "the processor family, so that no x86 line is missed on another, and the machine's name",
    ),
)
"""Specific kinds first: a line counts as the first that it fits."""

_USERSPACE_MARKS = ("as init process", "systemd", "udevd", "init: ", "urandom read", "k swap on")

_STEMS = ("iommu", "dmar", "amd-vi", "smmu", "remap", "reset", "vfio", "acs", "sev", "init", "kvm")
"""Parts that many marks share: a whole block is searched once for each, and not line by line."""


def _index_marks() -> dict[bytes, list[tuple[int, str]]]:
    """For each stem the (kind, mark) pairs that contain it; a mark without one is its own stem."""
    found: dict[bytes, list[tuple[int, str]]] = {}
    for rank, kind in enumerate(KINDS):
        for mark in kind.marks:
            stem = next((s for s in _STEMS if s in mark), mark)
            found.setdefault(stem.encode(), []).append((rank, mark))
    for mark in _USERSPACE_MARKS:
        found.setdefault(next((s for s in _STEMS if s in mark), mark).encode(), [])
    return found


_MARKS_BY_STEM = _index_marks()

_DROPPED = re.compile(r"\*\* \d+ printk messages dropped")
"""Written by a console that could not keep up, without any prefix."""

_BOOT = re.compile(r"Linux version \S+ \(")
"""`Linux version 6.1.0 (builder@host) (gcc ...`: the banner, not a sentence about a version."""


def collect_kernel_log(reader: Reader) -> KernelLog | None:
    """The extract of this host's log; None and a gap when it cannot be read.

    The remedy names `sudo dmesg`: the ring buffer is for root where kernel.dmesg_restrict is set.
    """
    path = LIVE_LOG if reader.root.live else CAPTURED_LOG
    data = reader.data(path, limit=LIMIT_BYTES, remedy="sudo dmesg")
    if data is None:
        return None
    if reader.root.live:
        return extract_log(render_kmsg(data), "dmesg")
    return extract_log(data, "dmesg")


def extract_log(data: bytes, source: str) -> KernelLog:
    """The extract of a log in any format; linear in its size, bounded in what it keeps.

    Of several boots in one file the last counts. Line numbers are those of the file, from 1.
    `from_boot` is False also where the console says that messages of the boot were dropped.
    Lines that lack the prefix which the others carry are not the kernel's and are left out.
    """
    extract = _Extract(stamped=_is_stamped(data))
    number, start = 0, 0
    while start < len(data):
        end = data.find(b"\n", start + _BLOCK_BYTES) + 1 or len(data)
        block = data[start:end]
        extract.take(number, block)
        number += block.count(b"\n")
        start = end
    return KernelLog(
        source=source,
        from_boot=extract.from_boot,
        reached_userspace=extract.reached_userspace,
        total_lines=number + (1 if data and not data.endswith(b"\n") else 0),
        lines=tuple(extract.lines()),
        omitted_lines=extract.omitted_lines,
    )


def _is_stamped(data: bytes) -> bool:
    """True when an early line has a prefix; without one, lines cannot be told from prose."""
    return any(parse_line(row).stamped for row in islice(io.BytesIO(data), _STYLE_LINES))


def _find_marked(block: bytes) -> dict[int, list[bytes]]:
    """Where the lines begin that hold a stem, and which stems."""
    lowered = block.lower()
    found: dict[int, list[bytes]] = {}
    for stem in _MARKS_BY_STEM:
        place = lowered.find(stem)
        while place >= 0:
            found.setdefault(lowered.rfind(b"\n", 0, place) + 1, []).append(stem)
            end = lowered.find(b"\n", place)
            place = -1 if end < 0 else lowered.find(stem, end)
    return found


class _Window:
    """The first and the last lines of one kind."""

    __slots__ = ("first", "last", "seen")

    def __init__(self) -> None:
        self.first: list[LogLine] = []
        self.last: deque[LogLine] = deque(maxlen=KEEP_LAST)
        self.seen = 0

    def add(self, line: LogLine) -> None:
        self.seen += 1
        if len(self.first) < KEEP_FIRST:
            self.first.append(line)
        else:
            self.last.append(line)

    def __iter__(self) -> Iterator[LogLine]:
        yield from self.first
        yield from self.last


class _Extract:
    """What has been kept so far of the boot that is being read.

    `stamped` says whether lines without a prefix are left out; the boot's banner decides it anew.
    """

    def __init__(self, *, stamped: bool) -> None:
        self.from_boot = False
        self.reached_userspace = False
        self._stamped = stamped
        self._windows = [_Window() for _ in KINDS]

    @property
    def omitted_lines(self) -> int:
        return sum(w.seen - len(w.first) - len(w.last) for w in self._windows)

    def lines(self) -> list[LogLine]:
        kept = [line for window in self._windows for line in window]
        return sorted(kept, key=lambda line: line.number)

    def take(self, before: int, block: bytes) -> None:
        """A block of whole lines, of which `before` lines came before."""
        number, counted = before + 1, 0
        for start, stems in sorted(_find_marked(block).items()):
            number += block.count(b"\n", counted, start)
            counted = start
            end = block.find(b"\n", start, start + LINE_BYTES)
            line = parse_line(block[start : end if end >= 0 else start + LINE_BYTES])
            self._take_line(number, line, stems)

    def _take_line(self, number: int, line: ParsedLine, stems: list[bytes]) -> None:
        if _DROPPED.match(line.text):
            self.from_boot = self.from_boot and self.reached_userspace
        elif _BOOT.match(line.text) and not line.foreign:
            self._begin(line)
        elif self._stamped and not line.stamped:
            return
        self.reached_userspace = self.reached_userspace or line.init_ran
        if line.foreign:
            return
        lowered = line.text.lower()
        ranks = [r for s in stems for r, mark in _MARKS_BY_STEM[s] if mark in lowered]
        if ranks:
            self._windows[min(ranks)].add(LogLine(number, line.seconds, line.text))

    def _begin(self, line: ParsedLine) -> None:
        self.from_boot = True
        self.reached_userspace = False
        self._stamped = line.stamped
        self._windows = [_Window() for _ in KINDS]
