"""Where a host's configuration makes virtual functions at boot.

udev, sysfs.conf, tmpfiles.d, modprobe.d, systemd's units and links, rc.local, and the network
configurations of Debian, netplan and NetworkManager. Only lines that speak of a VF count are kept,
with the interface that they are about where the file says that elsewhere: network configurations
hold keys too, and nothing else of them may leave the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    ("/etc/network/interfaces.d", ""),
    ("/etc/netplan", ".yaml"),
    ("/etc/NetworkManager/system-connections", ".nmconnection"),
    ("/etc/systemd/system", ".service"),
)
_FILES = ("/etc/sysfs.conf", "/etc/rc.local", "/etc/network/interfaces")
_LINE = re.compile(
    r"sriov_numvfs|max_vfs|num_vfs|SR-IOVVirtualFunctions|virtual-function-count|total-vfs"
)

_MATCH = re.compile(r"(?:Path|OriginalName|(?:Permanent)?MACAddress)\s*=\s*(.+)")
_CONNECTION = re.compile(r"interface-name\s*=\s*(\S+)")
_IFACE = re.compile(r"(?:iface|auto|allow-hotplug)\s+(\S+)")
_YAML_KEY = re.compile(r"( *)([\w.@-]+):\s*(?:#.*)?")


def collect_sriov_rules(reader: Reader) -> tuple[ConfigLine, ...] | None:
    """The lines, in the order of the files; None when udev's folder could not be read.

    A text like `eno1: total-vfs=4` begins with what the rest of its file says it is about.
    """
    udev = read_folders(reader, (UDEV_FOLDER,), ".rules")
    if udev is None:
        return None
    files = list(udev)
    for folder, suffix in _FOLDERS:
        files += read_folders(reader, (folder,), suffix, quiet=True) or []
    files += [(path, read_file(reader, path, quiet=True) or "") for path in _FILES]
    return tuple(
        ConfigLine(f"{path}:{number}", line)
        for path, text in files
        if _LINE.search(text)
        for number, line in _find_lines(path, text)
    )


def _find_lines(path: str, text: str) -> Iterator[tuple[int, str]]:
    if path.endswith(".yaml"):
        return _in_netplan(text)
    if path.endswith(".nmconnection"):
        return _in_whole_file(text, _CONNECTION)
    if path.endswith(".link"):
        return _in_whole_file(text, _MATCH)
    if path.startswith("/etc/network/"):
        return _in_stanzas(text)
    return ((number, line) for number, line in read_lines(text) if _LINE.search(line))


def _in_whole_file(text: str, subject: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Files about one interface, which they name anywhere."""
    rows = list(read_lines(text))
    named = [m[1].strip() for m in (subject.fullmatch(line) for _, line in rows) if m]
    about = f"{' '.join(named)}: " if named else ""
    return ((number, about + line) for number, line in rows if _LINE.search(line))


def _in_stanzas(text: str) -> Iterator[tuple[int, str]]:
    """interfaces(5): a command belongs to the interface above it."""
    about = ""
    for number, line in read_lines(text):
        match = _IFACE.match(line)
        about = f"{match[1]}: " if match is not None else about
        if _LINE.search(line):
            yield number, about + line


def _in_netplan(text: str) -> Iterator[tuple[int, str]]:
    """A count belongs to the nearest key above it that is less indented."""
    above: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        key = _YAML_KEY.fullmatch(line.rstrip())
        depth = len(line) - len(line.lstrip(" "))
        if line.strip() and not line.lstrip().startswith("#"):
            above = [row for row in above if row[0] < depth]
        if key is not None:
            above.append((depth, key[2]))
        elif _LINE.search(line) and not line.lstrip().startswith("#"):
            about = f"{above[-1][1]}: " if above else ""
            yield number, about + line.strip()
