"""What the boot loader's configuration will pass to the next kernel: GRUB, systemd-boot, entries.

The files that people edit, not what was generated from them: a setting that was written and never
installed (`update-grub` forgotten) is what a check wants to show. This module must never run or
expand more of a shell file than a variable's own earlier value.
"""

from __future__ import annotations

import re
import shlex

from vfio_agent.collect.config_files import read_file, read_folders, read_lines
from vfio_agent.collect.reader import Reader
from vfio_contract.model import BootOptions

GRUB = "/etc/default/grub"
GRUB_FOLDER = "/etc/default/grub.d"
KERNEL_CMDLINE = "/etc/kernel/cmdline"
ENTRY_FOLDERS = ("/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries")

_ASSIGNMENT = re.compile(r"(?:export\s+)?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)(\+?=)(.*)")
_SELF = re.compile(r"\$\{?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)\}?")
_RESCUE = re.compile(r"rescue|memtest|recovery", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+|[^0-9]+")


def collect_boot_options(reader: Reader) -> tuple[BootOptions, ...] | None:
    """Every configured command line; None when no source could be read, or one that may hold it.

    GRUB gives a row for each variable (the kernel gets all of them); of several loader entries the
    newest by name counts, as systemd-boot takes it.
    """
    sources = (_from_grub(reader), _from_kernel_cmdline(reader), _from_entries(reader))
    found = [row for rows in sources for row in rows or ()]
    if not found and None in sources:
        return None
    return tuple(found)


def _from_grub(reader: Reader) -> list[BootOptions] | None:
    text = read_file(reader, GRUB)
    if text is None:
        return None
    files = [(GRUB, text), *(read_folders(reader, (GRUB_FOLDER,), ".cfg", quiet=True) or ())]
    if not text:
        return []
    values: dict[str, BootOptions] = {}
    for path, content in files:
        for number, line in read_lines(content):
            match = _ASSIGNMENT.match(line)
            if match is not None:
                _assign(reader, values, match, f"{path}:{number}")
    return [values[name] for name in sorted(values)]


def _assign(
    reader: Reader, values: dict[str, BootOptions], match: re.Match[str], source: str
) -> None:
    name, operator, text = match.groups()
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        reader.gap(source, f"not a shell assignment ({error})")
        return
    value = words[0] if words else ""
    value = _SELF.sub(lambda m: values[m[1]].options if m[1] in values else "", value)
    if operator == "+=" and name in values:
        value = f"{values[name].options} {value}"
    if "$" in value or "`" in value:
        reader.gap(source, f"a value that only a shell can tell: {value[:80]!r}")
        return
    values[name] = BootOptions("grub", source, " ".join(value.split()))


def _from_kernel_cmdline(reader: Reader) -> list[BootOptions] | None:
    text = read_file(reader, KERNEL_CMDLINE)
    if not text:
        return None if text is None else []
    lines = [(number, line) for number, line in read_lines(text) if line]
    if not lines:
        return []
    # one line is what both proxmox-boot-tool and kernel-install read
    number = lines[0][0]
    joined = " ".join(line for _, line in lines)
    return [BootOptions("systemd-boot", f"{KERNEL_CMDLINE}:{number}", " ".join(joined.split()))]


def _from_entries(reader: Reader) -> list[BootOptions] | None:
    files = read_folders(reader, ENTRY_FOLDERS, ".conf")
    if files is None:
        return None
    usable = [row for row in files if not _RESCUE.search(row[0])]
    if not usable:
        return []
    path, text = max(usable, key=lambda row: _natural(row[0].rpartition("/")[2]))
    rows = [(n, line.split(None, 1)) for n, line in read_lines(text)]
    options = [(n, words[1]) for n, words in rows if words[0] == "options" and len(words) == 2]
    if not options:
        return []
    joined = " ".join(text for _, text in options)
    if "$" in joined:
        reader.gap(path, f"options that only the boot loader can tell: {joined[:80]!r}")
        return None
    return [BootOptions("bls", f"{path}:{options[0][0]}", " ".join(joined.split()))]


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts 6.10 above 6.9."""
    parts = _DIGITS.findall(name)
    return tuple((int(p), "") if p.isdigit() and p.isascii() else (-1, p) for p in parts)
