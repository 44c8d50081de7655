"""Whether the running kernel's initial ramdisk is older than the configuration it should hold.

What decides at boot who gets a device is the copy of modprobe.d and the module list inside that
image, not the files in /etc. The image itself is not unpacked: it is tens of megabytes, most of
them compressed in ways that Python 3.11 cannot undo. This module must never call an image fresh of
which the age, or that of a file which bears on VFIO, could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vfio_agent.collect.module_rules import (
    DRACUT_FILE,
    INITRAMFS_TOOLS,
    MKINITCPIO,
    names_vfio,
)
from vfio_agent.collect.reader import Reader
from vfio_contract.model import Initramfs, Intent, ModuleRule

BOOT = "/boot"
IMAGE = "/boot/initrd.img"
"""Where a gap says that an age could not be read, whatever the image is called."""

_REMEDY = "ls -l /boot/initrd.img-$(uname -r) /etc/modprobe.d /etc/initramfs-tools/modules"

_IN_IMAGE = ("/etc/modprobe.d/", "/etc/dracut.conf.d/", "/etc/initramfs-tools/")
_FILES = frozenset({INITRAMFS_TOOLS, DRACUT_FILE, MKINITCPIO})


def collect_initramfs(
    reader: Reader,
    *,
    release: str | None,
    rules: Sequence[ModuleRule] | None,
    intents: Sequence[Intent] | None,
) -> Initramfs | None:
    """The image of kernel `release` and the files newer than it; None when that is not known."""
    if not release or "/" in release or rules is None or intents is None:
        return None
    image, made = "", 0
    for name in _names(release):
        found = _time(reader, f"{BOOT}/{name}")
        if found is None:
            return None
        if found:
            image, made = f"{BOOT}/{name}", found
            break
    if not image:
        return Initramfs("", ())
    newer = []
    for path in _sources(rules, intents):
        changed = _time(reader, path)
        if changed is None:
            return None
        if changed > made:
            newer.append(path)
    return Initramfs(image, tuple(newer))


def _names(release: str) -> tuple[str, ...]:
    """What Debian, dracut, SUSE and Arch call it."""
    flavour = release.rpartition("-")[2]
    return (
        f"initrd.img-{release}",
        f"initramfs-{release}.img",
        f"initrd-{release}",
        f"initramfs-{release}",
        f"initramfs-linux-{flavour}.img",
        "initramfs-linux.img",
    )


def _sources(rules: Iterable[ModuleRule], intents: Iterable[Intent]) -> list[str]:
    """Files with lines that an image copies, by name."""
    found = {rule.source.rpartition(":")[0] for rule in rules if names_vfio(rule)}
    for intent in intents:
        path = intent.source.rpartition(":")[0]
        found.add(path if path.startswith("/") else f"/etc/{path}")
    return sorted(p for p in found if p in _FILES or p.startswith(_IN_IMAGE))


def _time(reader: Reader, path: str) -> int | None:
    """Seconds since 1970; 0 when there is no such file, None + gap when that is not known."""
    try:
        return reader.root.modified(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        reader.gap(IMAGE, error, _REMEDY)
        return None
