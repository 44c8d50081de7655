"""Where a host's configuration makes virtual functions at boot.

Only lines that speak of a VF count are kept, and only folders that everybody may read are looked
into: network configurations are left alone, because they also hold keys.
"""

from __future__ import annotations

import re

from vfio_agent.collect.config_files import read_file, read_folders, read_lines
from vfio_agent.collect.intents import MODPROBE_FOLDERS
from vfio_agent.collect.reader import Reader
from vfio_contract.model import ConfigLine

UDEV_FOLDER = "/etc/udev/rules.d"
_FOLDERS = (
    ("/etc/sysfs.d", ".conf"),
    ("/etc/tmpfiles.d", ".conf"),
    ("/etc/systemd/network", ".link"),
    (MODPROBE_FOLDERS[0], ".conf"),
)
_FILES = ("/etc/sysfs.conf", "/etc/rc.local")
_UNITS = "/etc/systemd/system"
_UNIT = re.compile(r"sr-?iov|(^|[-_@])vfs?([-_@.]|$)", re.IGNORECASE)
_LINE = re.compile(r"sriov_numvfs|max_vfs|num_vfs|SR-IOVVirtualFunctions")


def collect_sriov_rules(reader: Reader) -> tuple[ConfigLine, ...] | None:
    """The lines, in the order of the files; None when udev's folder could not be read."""
    udev = read_folders(reader, (UDEV_FOLDER,), ".rules")
    if udev is None:
        return None
    files = list(udev)
    for folder, suffix in _FOLDERS:
        files += read_folders(reader, (folder,), suffix, quiet=True) or []
    files += [(path, read_file(reader, path, quiet=True) or "") for path in _FILES]
    units = read_folders(reader, (_UNITS,), ".service", quiet=True, wanted=_UNIT) or []
    files += units
    return tuple(
        ConfigLine(f"{path}:{number}", line)
        for path, text in files
        for number, line in read_lines(text)
        if _LINE.search(line)
    )
