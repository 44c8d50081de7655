"""VMs in a pasted text: `qm config`, a QEMU command line, a libvirt domain, Proxmox mappings.

Each block is found by what its lines are, given to the parser of its kind with its place in the
text, so that a finding names the paste's own line, and left out with a reason where it may be cut.
A VM whose id nobody gave is named by its title, else by a digest of its text: the same paste always
gives the same subject. This module must never take a part of a configuration for all of it.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from vfio_agent.pasted.prompt import PROMPT
from vfio_agent.pasted.recognise import LINE_CHARS, Kind, Text
from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_agent.vmconf.qemu_cmdline import is_qemu, parse_qemu
from vfio_contract.vm import PciMapping, VmConfig

MAX_VMS = 256
_NEAR = 3
"""How many lines above a block may name it."""

_SETTING = re.compile(r"[a-z][a-z_]{1,20}[0-9]{0,3}:(?:\s|$)")
_OTHER = re.compile(r"#|\[[\w:. -]{1,60}\]\s*$|\s*$")
_KNOWN = re.compile(
    r"(?:acpi|affinity|agent|arch|args|audio|balloon|bios|boot|bootdisk|bootorder"
    r"|cicustom|ciuser|cores|cpu|cpulimit|cpuunits|description|digest|efidisk|freeze"
    r"|hostpci|hotplug|hugepages|ide|ipconfig|keephugepages|keyboard|kvm|lock|machine"
    r"|memory|meta|migrate_downtime|name|nameserver|net|numa|onboot|ostype|parallel"
    r"|parent|protection|reboot|rng|runningcpu|runningmachine|sata|scsi|scsihw"
    r"|searchdomain|serial|shares|smbios|snapstate|snaptime|sockets|spice_enhancements"
    r"|sshkeys|startdate|startup|tablet|tags|tdf|template|tpmstate|unused|usb|vcpus"
    r"|vga|virtio|virtiofs|vmgenid|vmstate|vmstatestorage|watchdog)"
)
"""Keys of qm.conf(5) without their numbers."""

_STRONG = re.compile(
    r"(?:boot|bootdisk|efidisk|hostpci|ide|meta|net|ostype|sata|scsi|scsihw|smbios|virtio"
    r"|vmgenid)"
)
"""Of these, what nothing else has."""

_VMID = re.compile(r"qm\s+(?:config|showcmd)\s+(\d{1,9})\b|qemu-server/(\d{1,9})\.conf")
_DOMAIN = re.compile(r"\s*<domain[\s>]")
_PROGRAM = re.compile(r"(?:\S*/)?(?:qemu-system-\w{1,20}|qemu-kvm|kvm|qemu)$")
_MAP = re.compile(r"\s+map\s+(?=.*\bpath=)(?=.*\bid=)")
_MAP_LINE = re.compile(r"(?:pci:\s*)?[A-Za-z][\w-]{0,127}\s*$|\s+\S|#|\s*$")


@dataclass(frozen=True, slots=True)
class VmText:
    """What was found; `left_out` are (kind, reason) of what was recognised and not used."""

    vms: tuple[VmConfig, ...] = ()
    mappings: tuple[PciMapping, ...] = ()
    left_out: tuple[tuple[Kind, str], ...] = ()


def parse_vm_text(text: Text, kinds: tuple[Kind, ...], *, source: str) -> VmText:
    """All VMs and mappings of one text; linear in it."""
    left_out: list[tuple[Kind, str]] = []
    vms: list[VmConfig] = []
    if Kind.QM_CONFIG in kinds:
        vms += islice(_read_proxmox(text, source, left_out), MAX_VMS)
    if Kind.QEMU in kinds:
        vms += islice(_read_qemu(text, source, left_out), MAX_VMS)
    if Kind.DOMAIN in kinds:
        vms += islice(_read_libvirt(text, source, left_out), MAX_VMS)
    mappings = _read_mappings(text, source, left_out) if Kind.MAPPING in kinds else ()
    if len(vms) >= MAX_VMS:
        left_out.append((Kind.QM_CONFIG, f"more than {MAX_VMS} VMs: the rest"))
    return VmText(tuple(vms), mappings, tuple(dict.fromkeys(left_out)))


# --- Proxmox -------------------------------------------------------------------------------------


def _key_of(line: str) -> str:
    return line.partition(":")[0].rstrip("0123456789")


def _read_proxmox(text: Text, source: str, left_out: list[tuple[Kind, str]]) -> Iterator[VmConfig]:
    for start, end in _find_blocks(text):
        lines = text.lines[start:end]
        name = _find_id(text, start)
        if end == len(text.lines) and text.open_end:
            left_out.append((Kind.QM_CONFIG, "its last line has no end: it may be cut"))
            continue
        # empty lines before it, so that a finding names the line of the paste
        body = "\n" * start + "\n".join(lines) + "\n"
        vm = parse_proxmox(body, name=name, source=source)
        if not name:
            vm = parse_proxmox(body, name=vm.title or _digest(lines), source=source)
        yield vm


def _find_blocks(text: Text) -> Iterator[tuple[int, int]]:
    """[start, end) of runs of settings that are a VM's and nothing else's."""
    start, strong, known = -1, 0, 0
    for number, line in enumerate((*text.lines, "\0")):
        setting = _SETTING.match(line) is not None
        if setting and (_KNOWN.fullmatch(_key_of(line)) or start >= 0):
            start = number if start < 0 else start
            known += 1
            strong += _STRONG.fullmatch(_key_of(line)) is not None
            continue
        if start >= 0 and _OTHER.match(line) and line.strip():
            continue
        if start >= 0 and not line.strip() and _goes_on(text, number):
            continue  # the line before a section
        if start >= 0 and strong and known >= 2:
            yield start, number
        start, strong, known = -1, 0, 0


def _goes_on(text: Text, number: int) -> bool:
    following = text.lines[number + 1] if number + 1 < len(text.lines) else ""
    return following.startswith("[") and _OTHER.match(following) is not None


def _find_id(text: Text, start: int) -> str:
    for number in range(start - 1, max(-1, start - 1 - _NEAR), -1):
        match = _VMID.search(text.lines[number])
        if match is not None:
            return match[1] or match[2]
    return ""


def _digest(lines: tuple[str, ...]) -> str:
    return "pasted-" + hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()[:8]


# --- QEMU ----------------------------------------------------------------------------------------


def _find_program(line: str) -> int | None:
    """Where in the line a QEMU's arguments begin with its program; behind ps's columns too."""
    if "qemu" not in line and "kvm" not in line:
        return None
    place = 0
    for number, word in enumerate(line.split(" ", 40)):
        if word and _PROGRAM.match(word):
            behind = line[place + len(word) :].lstrip()
            by_path = word.startswith("/") or number == 0
            if by_path and (behind.startswith("-") or behind == "\\"):
                return place
        place += len(word) + 1
    return None


def _read_qemu(text: Text, source: str, left_out: list[tuple[Kind, str]]) -> Iterator[VmConfig]:
    number = 0
    while number < len(text.lines):
        place = _find_program(text.lines[number])
        if place is None:
            number += 1
            continue
        start = number
        parts = [text.lines[number][place:]]
        while parts[-1].endswith("\\") and number + 1 < len(text.lines):
            number += 1
            parts[-1] = parts[-1][:-1]
            parts.append(text.lines[number].strip())
        number += 1
        if any(len(part) >= LINE_CHARS - 1 for part in parts) or (
            number == len(text.lines) and text.open_end
        ):
            left_out.append((Kind.QEMU, "it has no end of line: it may be cut"))
            continue
        vm = _make_qemu(" ".join(parts), f"{source}:{start + 1} argument")
        if vm is None:
            left_out.append((Kind.QEMU, "its quotes do not match"))
        else:
            yield vm


def _make_qemu(command: str, source: str) -> VmConfig | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or not is_qemu(words[0]):
        return None
    return parse_qemu(words, source=source, fallback_name=_digest((command,)))


# --- libvirt -------------------------------------------------------------------------------------


def _read_libvirt(text: Text, source: str, left_out: list[tuple[Kind, str]]) -> Iterator[VmConfig]:
    start = -1
    for number, line in enumerate(text.lines):
        if start < 0 and _DOMAIN.match(line):
            start = number
        if start < 0 or "</domain>" not in line:
            continue
        lines = text.lines[start : number + 1]
        body = "\n" * start + "\n".join(lines).partition("</domain>")[0] + "</domain>"
        vm = parse_libvirt(body.encode("utf-8", "replace"), source=source, autostart=None)
        if isinstance(vm, str):
            left_out.append((Kind.DOMAIN, vm))
        else:
            yield vm
        start = -1
    if start >= 0:
        left_out.append((Kind.DOMAIN, "it has no </domain>: it is cut"))


# --- mappings ------------------------------------------------------------------------------------


def _read_mappings(
    text: Text, source: str, left_out: list[tuple[Kind, str]]
) -> tuple[PciMapping, ...]:
    first = next((n for n, line in enumerate(text.lines) if _MAP.match(line)), -1)
    if first < 0:
        return ()
    start = first
    while start > 0 and text.lines[start - 1].strip() and _is_of_map(text.lines[start - 1]):
        start -= 1
    end = first
    while end < len(text.lines) and _is_of_map(text.lines[end]):
        end += 1
    if end == len(text.lines) and text.open_end:
        left_out.append((Kind.MAPPING, "its last line has no end: it may be cut"))
        return ()
    body = "\n" * start + "\n".join(text.lines[start:end])
    return parse_mappings(body, source=source)


def _is_of_map(line: str) -> bool:
    return _MAP_LINE.match(line) is not None and PROMPT.match(line) is None
