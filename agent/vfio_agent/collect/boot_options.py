"""What the boot loader's configuration will pass to the next kernel: GRUB, systemd-boot, entries.

The files that people edit, and beside them grub.cfg as it was generated: a setting that was written
and never installed (`update-grub` forgotten) is what a check wants to show. This module must never
run or expand more of a shell file than a variable's own earlier value.
"""

from __future__ import annotations

import fnmatch
import re
import shlex

from vfio_agent.collect.config_files import read_file, read_folders, read_lines
from vfio_agent.collect.reader import Reader
from vfio_contract.model import BootOptions, BootPath

GRUB = "/etc/default/grub"
GRUB_FOLDER = "/etc/default/grub.d"
KERNEL_CMDLINE = "/etc/kernel/cmdline"
GRUB_FILES = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
EFI = "/sys/firmware/efi"
LOADER_INFO = f"{EFI}/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""What the boot loader says of itself (systemd's Boot Loader Interface; GRUB since 2.12)."""

PROXMOX_UUIDS = "/etc/kernel/proxmox-boot-uuids"
LOADER_CONFIGS = ("/boot/loader/loader.conf", "/boot/efi/loader/loader.conf")
ENTRY_FOLDERS = ("/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries")

_ASSIGNMENT = re.compile(r"(?:export\s+)?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)(\+?=)(.*)")
_SELF = re.compile(r"\$\{?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)\}?")
_RESCUE = re.compile(r"rescue|memtest|recovery", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+|[^0-9]+")
_DEFAULT = re.compile(r"""^\s*set default=["']?([^"'\n]*)["']?\s*$""", re.MULTILINE)
_GRUB_LINE = re.compile(rb"\s*(?:linux(?:efi|16)?\s|set default=)")
_CHOSEN = re.compile(r"^default\s+(\S+)", re.MULTILINE)


def collect_boot_options(reader: Reader) -> tuple[BootOptions, ...] | None:
    """Every configured command line; None when no source could be read, or one that may hold it.

    GRUB gives a row for each variable (the kernel gets all of them); of several loader entries the
    newest by name counts, as systemd-boot takes it.
    """
    sources = (_from_grub(reader), _from_kernel_cmdline(reader), _from_entries(reader))
    found = [row for rows in sources for row in rows or ()]
    if not found and None in sources:
        return None
    if any(row.loader == "grub" for row in found):
        found += _from_grub_file(reader)
    return tuple(found)


def collect_boot_path(
    reader: Reader, options: tuple[BootOptions, ...] | None, cmdline: str | None
) -> BootPath | None:
    """Which loader starts this host; None where only one is configured, or the cmdline tells.

    Only then is the firmware asked: reading a variable calls into it.
    """
    kinds = {row.loader for row in options or ()}
    proxmox = _exists(reader, PROXMOX_UUIDS)
    asked = {"grub", "systemd-boot"} <= kinds
    if asked and cmdline is not None:
        asked = "BOOT_IMAGE=" not in cmdline and "initrd=\\" not in cmdline
    if not asked:
        return BootPath(efi=None, loader=None, proxmox_boot=proxmox) if proxmox else None
    efi = _exists(reader, EFI)
    return BootPath(
        efi=efi, loader="" if efi is False else _loader_info(reader), proxmox_boot=proxmox
    )


def _exists(reader: Reader, path: str) -> bool | None:
    try:
        reader.root.real(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return True


def _loader_info(reader: Reader) -> str | None:
    """The variable's text: four bytes of attributes, then UTF-16 (UEFI 8.2)."""
    try:
        data = reader.root.read(LOADER_INFO)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        reader.gap(LOADER_INFO, error)
        return None
    return data[4:].decode("utf-16-le", "replace").strip("\0 \n")[:80]


def _from_grub_file(reader: Reader) -> list[BootOptions]:
    """The default entry of the generated grub.cfg; [] where it is not the one that counts.

    Which entry a saved or named default means only GRUB can tell: then all must agree.
    """
    for path in GRUB_FILES:
        text = read_file(reader, path, quiet=True)
        if not text:
            continue
        lines = [line.split() for line in text.splitlines()]
        kernels = [
            (number, words[2:])
            for number, words in enumerate(lines, start=1)
            if len(words) > 1 and words[0] in ("linux", "linuxefi", "linux16")
        ]
        usable = [(n, w) for n, w in kernels if not {"single", "recovery"} & set(w)]
        if not usable:
            return []  # loader entries (blscfg), or no Linux at all
        if not _starts_first(text) and len({tuple(sorted(w)) for _, w in usable}) > 1:
            reader.gap(path, "which entry is the default is GRUB's own knowledge (saved or named)")
            return []
        number, words = usable[0]
        return [BootOptions("grub.cfg", f"{path}:{number}", " ".join(words))]
    return []


def strip_grub(data: bytes) -> bytes:
    """grub.cfg with nothing but the lines that are read here, each in its place.

    A menu may be locked with password hashes, which no capture may hold.
    """
    return b"\n".join(line if _GRUB_LINE.match(line) else b"" for line in data.split(b"\n"))


def _starts_first(text: str) -> bool:
    """True when every literal default is entry 0; `${next_entry}` is a one-time choice."""
    defaults = set(_DEFAULT.findall(text)) - {"${next_entry}"}
    return defaults == {"0"}


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
    chosen = [row for row in usable if _is_chosen(reader, row[0].rpartition("/")[2])]
    path, text = max(chosen or usable, key=lambda row: _natural(row[0].rpartition("/")[2]))
    rows = [(n, line.split(None, 1)) for n, line in read_lines(text)]
    options = [(n, words[1]) for n, words in rows if words[0] == "options" and len(words) == 2]
    if not options:
        return []
    joined = " ".join(text for _, text in options)
    if "$" in joined:
        reader.gap(path, f"options that only the boot loader can tell: {joined[:80]!r}")
        return None
    return [BootOptions("bls", f"{path}:{options[0][0]}", " ".join(joined.split()))]


def _is_chosen(reader: Reader, name: str) -> bool:
    """True when loader.conf names this entry by a literal name or pattern (loader.conf(5))."""
    for path in LOADER_CONFIGS:
        match = _CHOSEN.search(read_file(reader, path, quiet=True) or "")
        if match is not None and not match[1].startswith("@"):
            stem = name.removesuffix(".conf")
            return any(fnmatch.fnmatchcase(n, match[1]) for n in (name, stem))
    return False


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts 6.10 above 6.9."""
    parts = _DIGITS.findall(name)
    return tuple((int(p), "") if p.isdigit() and p.isascii() else (-1, p) for p in parts)
