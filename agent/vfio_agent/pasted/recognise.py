"""What a file is, by its content: an archive, an artifact, or text of one or several kinds.

A mail may hold a group listing, a part of `dmesg` and a quoted `lspci`, so text is recognised line
by line and one text may be of many kinds. Names of files are never looked at. Every pass is linear
and bounded: of a long text only the first part is searched for anything but kernel log lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vfio_agent.collect.log_line import parse_line

SCAN_BYTES = 8 << 20
"""Holds `lspci -nnvvxxxx` of 500 functions (13 KiB each)."""

SCAN_LINES = 400_000
LINE_CHARS = 16_384
"""Holds QEMU's command line for a VM of two dozen devices."""


class Kind(StrEnum):
    """The kinds of evidence; the value is what a report calls them."""

    ARTIFACT = "artifact"
    CAPTURE = "captured root"
    KERNEL_LOG = "kernel log"
    LSPCI = "lspci"
    GROUPS = "IOMMU group listing"
    CMDLINE = "/proc/cmdline"
    LSMOD = "lsmod"
    LSCPU = "lscpu"
    CPUINFO = "/proc/cpuinfo"
    INTERRUPTS = "/proc/interrupts"
    IOMMU_UNITS = "ls /sys/class/iommu"
    KVM_NODE = "/dev/kvm"
    UNAME = "uname -a"
    LSOF = "lsof /dev/vfio"
    LSHW = "lshw"
    PVEPERF = "pveperf"
    QM_CONFIG = "qm config"
    QEMU = "QEMU command line"
    DOMAIN = "libvirt domain"
    MAPPING = "pci.cfg"
    MODPROBE = "modprobe.d"
    GRUB = "/etc/default/grub"
    DRIVERCTL = "driverctl"
    MEMINFO = "/proc/meminfo"
    FREE = "free"
    TREE = "lspci -t"


@dataclass(frozen=True, slots=True)
class Text:
    """The searched part of a text as clean lines.

    `cut` is True when there was more than is here; `open_end` when the last line has no newline,
    so that it may be half a line.
    """

    lines: tuple[str, ...]
    cut: bool
    open_end: bool


_QUOTE = re.compile(r"\s{0,8}(?:>\s?)+")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def clean(data: bytes, *, more: bool = False) -> Text:
    """Lines without quote marks, colours, NULs and carriage returns; their indentation is kept.

    Linear in the searched part. Bytes that are not UTF-8 become `\\xNN`. `more`: the data is only
    the beginning of the text.
    """
    head = data[:SCAN_BYTES]
    cut = more or len(data) > len(head)
    rows = head.replace(b"\0", b"").split(b"\n", SCAN_LINES)
    if len(rows) > SCAN_LINES:
        cut = True
        rows = rows[:SCAN_LINES]
    open_end = bool(rows[-1].strip()) or cut
    if not rows[-1].strip():
        rows.pop()  # what follows the last newline is no line
    return Text(tuple(_clean_line(row) for row in rows), cut=cut, open_end=open_end)


def _clean_line(row: bytes) -> str:
    text = row[:LINE_CHARS].decode("utf-8", "backslashreplace")
    if "\x1b" in text:
        text = _COLOUR.sub("", text).replace("\x1b", "")
    if ">" in text[:16] and (quote := _QUOTE.match(text)) is not None:
        text = text[quote.end() :]
    # lspci's own text never has it, but forums and mailers put it in place of spaces
    text = text.replace("\xa0", " ")
    # a row of which only the indentation is left is no empty line
    return text.rstrip() or text.strip(" \r")


def is_archive(data: bytes) -> bool:
    """True for a tar, or for xz, in which only tars travel; others were unpacked before."""
    return data.startswith(b"\xfd7zXZ\x00") or data[257:262] == b"ustar"


def is_artifact(data: bytes) -> bool:
    """True for JSON whose schema says that it is one of ours; the rest is the decoder's matter."""
    head = data[:64].lstrip()
    return head.startswith(b"{") and b'"vfioctl.artifact/' in data


# --- text ----------------------------------------------------------------------------------------

ADDRESS = r"(?:(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7])"

_RULES = ("options", "softdep", "blacklist")
MODPROBE_LINE = re.compile(
    r"\s*(?:options\s+vfio[-_]\w+\s+\S|softdep\s+\S+\s+(?:pre|post):"
    r"|blacklist\s+(?:nouveau|nvidia\w*|radeon|amdgpu|i915|xe|ast|snd_hda_intel|xhci\w*)\s*$)"
)
"""A line of /etc/modprobe.d that bears on passthrough."""

_IN_FILE = r"(?:/\S{1,200}\.conf:(?:\d+:)?)?"
"""What `grep -r` writes before a line."""

_SIGNS: tuple[tuple[Kind, str, re.Pattern[str]], ...] = (
    (
        Kind.LSPCI,
        ": ",
        re.compile(
            rf"\s{{0,16}}{ADDRESS}(?:/{ADDRESS}){{0,16}}\s+"
            r"(?:[A-Z0-9][\w()/ .,-]{1,62}(?: \[[0-9a-f]{4}\])?: |(?:Class )?[0-9a-f]{4}: )"
        ),
    ),
    (
        Kind.GROUPS,
        "roup",
        re.compile(
            r".{0,200}/iommu_groups/\d+/devices/\S|\s*\S{0,80}/iommu_groups/\d+/devices/?:\s*$"
            rf"|\s*\S{{0,60}}?\b{ADDRESS}:?(?: ->)?\s+(?:\.\./|/)\S{{0,80}}/iommu_groups/\d+\s*$"
            r"|.{0,200}/iommu_group -> \S*/iommu_groups/\d"
            r"|(?!\s+IOMMU group: \d+\s*$)\W{0,16}(?:IOMMU )?Group:?\s{0,8}\d{1,6}\b(?!\s*with\b)"
            r"|group\tbdf\tids\tclass",
            re.IGNORECASE,
        ),
    ),
    (Kind.GROUPS, "iommugroup", re.compile(r"\s*[│|].{0,400}\biommugroup\b.{0,400}[│|]\s*$")),
    (Kind.CMDLINE, "=", re.compile(r"(?:BOOT_IMAGE=|initrd=\\|root=\S+ )\S*")),
    (Kind.LSMOD, "Module", re.compile(r"Module\s+Size\s+Used by")),
    (Kind.LSCPU, ":", re.compile(r"(?:Architecture|CPU op-mode\(s\)):\s")),
    (Kind.CPUINFO, ": ", re.compile(r"(?:vendor_id|flags|CPU implementer)\s*: ")),
    (Kind.INTERRUPTS, "CPU0", re.compile(r"\s+CPU0(?:\s+CPU\d+)*\s*$")),
    (Kind.IOMMU_UNITS, "", re.compile(r"(?:(?:dmar|ivhd)\d+|(?:arm-)?smmu\S*)(?:\s|$)")),
    (
        Kind.KVM_NODE,
        "/dev/kvm",
        re.compile(
            r"c[rwx-]{9}\S*\s.{1,80}\s/dev/kvm$|INFO: /dev/kvm (?:exists|does not exist)"
            r"|ls: .{0,40}/dev/kvm.{0,4}: No such file"
        ),
    ),
    (Kind.UNAME, "Linux ", re.compile(r"Linux \S+ \d+\.\d+\S* #\d")),
    (
        Kind.LSOF,
        "/dev/vfio/",
        re.compile(r"\S+\s+\d+\s.{0,200}\s/dev/vfio/\S|/dev/vfio/\S+:\s+\S+\s+\d+\s"),
    ),
    (Kind.LSHW, "*-", re.compile(r"\s+\*-(?:core|firmware)\s*$")),
    (Kind.PVEPERF, "/SECOND:", re.compile(r"(?:FSYNCS|REGEX)/SECOND:\s")),
    (
        Kind.QM_CONFIG,
        ": ",
        re.compile(
            r"hostpci\d{1,2}: \S|scsihw: \S+$|vmgenid: \S+$|smbios1: \S|bootdisk: \S+$"
            r"|ostype: (?:l2[46]|w\w+|other|solaris)$|boot: (?:order=\S*|[acdn]{1,4})$"
            r"|meta: creation-qemu=|net\d{1,2}: (?:virtio|e1000|vmxnet3|rtl8139)\S*=\S"
        ),
    ),
    (
        Kind.QEMU,
        "kvm",
        re.compile(r"(?:.{0,300}\s/\S{0,80}/|/\S{0,80}/)?(?:qemu-)?kvm\s+(?:-\w|\\$)"),
    ),
    (
        Kind.QEMU,
        "qemu-system-",
        re.compile(r"(?:.{0,300}\s/\S{0,80}/|/\S{0,80}/)?qemu-system-\w{1,20}\s+(?:-\w|\\$)"),
    ),
    (Kind.DOMAIN, "<domain", re.compile(r"\s*<domain[\s>]")),
    (Kind.MAPPING, "map ", re.compile(r"\s+map\s+(?:\S*,)?id=[0-9a-fA-F]{4}:")),
    *((Kind.MODPROBE, word, re.compile(_IN_FILE + MODPROBE_LINE.pattern)) for word in _RULES),
    (
        Kind.GRUB,
        "GRUB_CMDLINE_LINUX",
        re.compile(r"\s*(?:export )?GRUB_CMDLINE_LINUX(?:_\w+)?\+?="),
    ),
    (
        Kind.DRIVERCTL,
        "vfio",
        re.compile(
            r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:\w\w\.[0-7] [\w-]*vfio[\w-]*(?:\s*$| \[\*\]| \()"
        ),
    ),
    (Kind.MEMINFO, "MemTotal:", re.compile(r"MemTotal:\s+\d+ kB$")),
    (Kind.FREE, "used", re.compile(r"\s+total\s+used\s+free\b")),
    (Kind.TREE, "-[", re.compile(r"\s*[-+\\]-?\[[0-9a-f]{4}(?::[0-9a-f]{2})?\]-")),
)
"""Kind, a part that every such line has (a quick look before the pattern), and its sign."""

_BOOT = re.compile(r"Linux version \S+ \(")


_STAMP = re.compile(r"(?:<\d+>)?\[\s*\d+\.\d{6}\]")
_STAMPS = ("[", "<", "kern")


def recognise_text(text: Text) -> tuple[Kind, ...]:
    """The kinds that a text holds, in the order of `Kind`; () for none."""
    left = list(_SIGNS)
    found: set[Kind] = set()
    for line in text.lines:
        if not line or line.isspace():
            continue
        if Kind.KERNEL_LOG in found and _STAMP.match(line):
            continue  # of a long log each line is looked at once
        for row in left:
            if row[1] in line and row[2].match(line):
                found.add(row[0])
                left = [other for other in left if other[0] not in found]
        if Kind.KERNEL_LOG not in found and _is_kernel_line(line):
            found.add(Kind.KERNEL_LOG)
        if not left and Kind.KERNEL_LOG in found:
            break
    return tuple(kind for kind in Kind if kind in found)


def _is_kernel_line(line: str) -> bool:
    """A line with the kernel's stamp, a log daemon's of the kernel, or the banner (`dmesg -t`)."""
    likely = (
        line.lstrip().startswith(_STAMPS)
        or " kernel:" in line
        or line.startswith("Linux version ")
        or line[4:5] == line[7:8] == "-"
    )
    if not likely:
        return False
    parsed = parse_line(line.encode("utf-8", "replace"))
    return bool(parsed.text) and (
        (parsed.stamped and not parsed.foreign) or _BOOT.match(parsed.text) is not None
    )
