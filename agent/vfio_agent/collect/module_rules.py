"""Which modules are loaded at boot, before which others, and which may not be.

modprobe.d, /etc/modules, modules-load.d and what the initramfs generators are told. What an image
really holds is not looked at: it is tens of megabytes of compressed cpio. Only lines that name a
module which matters for passthrough, or keep a host driver out, are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vfio_agent.collect.config_files import read_file, read_folders, read_lines
from vfio_agent.collect.intents import MODPROBE_FOLDERS
from vfio_agent.collect.reader import Reader
from vfio_contract.model import ModuleRule

LOAD_FOLDERS = ("/etc/modules-load.d", "/run/modules-load.d", "/usr/lib/modules-load.d")
LOAD_FILE = "/etc/modules"
INITRAMFS_TOOLS = "/etc/initramfs-tools/modules"
DRACUT_FOLDERS = ("/etc/dracut.conf.d", "/usr/lib/dracut/dracut.conf.d")
DRACUT_FILE = "/etc/dracut.conf"
MKINITCPIO = "/etc/mkinitcpio.conf"

OPTIONS = frozenset({"allow_unsafe_interrupts", "dma_entry_limit", "enable_unsafe_noiommu_mode"})
"""Parameters that weaken or limit VFIO when modprobe.d sets them; ids are intentions."""

_DRACUT = re.compile(r"""(?:add_drivers|force_drivers)\+?=\s*["']?([^"'#]*)""")
_MKINITCPIO = re.compile(r"MODULES\+?=\(?([^)#]*)\)?")


def collect_module_rules(reader: Reader) -> tuple[ModuleRule, ...] | None:
    """All rules, sorted; None when modprobe.d could not be read."""
    modprobe = read_folders(reader, MODPROBE_FOLDERS, ".conf")
    if modprobe is None:
        return None
    found = [rule for path, text in modprobe for rule in _from_modprobe(path, text)]
    loads = [(LOAD_FILE, read_file(reader, LOAD_FILE, quiet=True) or "")]
    loads += read_folders(reader, LOAD_FOLDERS, ".conf", quiet=True) or []
    for path, text in loads:
        found += [ModuleRule("load", name, "", source) for name, source in _first(path, text)]
    found += [ModuleRule("initramfs", *row) for row in _initramfs(reader)]
    kept = (rule for rule in found if _matters(rule))
    return tuple(sorted(set(kept), key=lambda r: (r.kind, r.module, r.source)))


def _matters(rule: ModuleRule) -> bool:
    return names_vfio(rule) or _keeps_a_driver_out(rule)


def _keeps_a_driver_out(rule: ModuleRule) -> bool:
    """True for the administrator's own lines; distributions ship hundreds for fb and watchdogs."""
    if rule.kind not in ("blacklist", "install") or rule.module.endswith(("fb", "_wdt")):
        return False
    return rule.source.startswith("/etc/") and "modprobe" not in rule.value


def names_vfio(rule: ModuleRule) -> bool:
    """True when the line is about a part of VFIO, or loads one before another module."""
    named = (rule.module, *rule.value.split())
    return any(n.startswith(("vfio", "iommufd")) or n.endswith("vfio_pci") for n in named)


def _from_modprobe(path: str, text: str) -> Iterator[ModuleRule]:
    for number, line in read_lines(text):
        words = line.split()
        source = f"{path}:{number}"
        if len(words) < 2:
            continue
        kind, module = words[0], _name(words[1])
        if kind == "softdep":
            before: list[str] = []
            side = ""
            for word in words[2:]:
                if word in ("pre:", "post:"):
                    side = word
                elif side == "pre:":
                    before.append(_name(word))
            yield ModuleRule(kind, module, " ".join(before), source)
        elif kind == "blacklist":
            yield ModuleRule(kind, module, "", source)
        elif kind == "install":
            yield ModuleRule(kind, module, " ".join(words[2:]), source)
        elif kind == "options":
            kept = [w for w in words[2:] if w.partition("=")[0].replace("-", "_") in OPTIONS]
            if kept:
                yield ModuleRule(kind, module, " ".join(kept), source)


def _first(path: str, text: str) -> Iterator[tuple[str, str]]:
    """(module, source): the first word of each line, as modules-load reads it."""
    for number, line in read_lines(text):
        yield _name(line.split()[0]), f"{path}:{number}"


def _initramfs(reader: Reader) -> Iterator[tuple[str, str, str]]:
    for module, source in _first(
        INITRAMFS_TOOLS, read_file(reader, INITRAMFS_TOOLS, quiet=True) or ""
    ):
        yield module, "", source
    dracut = [(DRACUT_FILE, read_file(reader, DRACUT_FILE, quiet=True) or "")]
    dracut += read_folders(reader, DRACUT_FOLDERS, ".conf", quiet=True) or []
    texts = [(path, text, _DRACUT) for path, text in dracut]
    texts.append((MKINITCPIO, read_file(reader, MKINITCPIO, quiet=True) or "", _MKINITCPIO))
    for path, text, pattern in texts:
        for number, line in read_lines(text):
            match = pattern.match(line)
            for word in match[1].split() if match is not None else ():
                yield _name(word), "", f"{path}:{number}"


def _name(word: str) -> str:
    return word.strip("\"'").replace("-", "_")
