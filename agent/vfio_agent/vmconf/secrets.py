"""What of a VM's configuration may leave the host, and what stands in for the rest.

Redaction works on lines and arguments and keeps their number, so that a finding's line is right in
the original too. It must never keep a value whose name looks like a secret, and of free text
(notes, unknown arguments) it keeps nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REDACTED = "(redacted)"

_SECRET_NAME = re.compile(r"(?i)pass|secret|token|credential|priv|sshkey|cikey|chap|(?:^|-)key$")
_WORD = re.compile(r"(?<![\w-])([\w-]++)=(\"[^\"]*\"|'[^']*'|[^,\s]+)")
_CONF_LINE = re.compile(r"([a-z][a-z_\-]*[0-9]*):\s*(.*)", re.IGNORECASE)

_XML_ATTRIBUTE = re.compile(rb"(?<![\w:.-])([\w:.-]++)(\s*+=\s*+)(\"[^\"]*\"|'[^']*')")
_XML_SYSTEM = re.compile(rb"<(?:[\w-]+:)?os\s+id=(\"[\w:/.+-]*\"|'[\w:/.+-]*')")
"""The guest's system in libosinfo's metadata: the one thing there that a check wants."""

_XML_ELEMENTS = (b"description", b"metadata", b"launchSecurity", b"passwd", b"password")

_DEVICE_FILE = re.compile(r"/dev/[\w/.:+@-]+")

_PLAIN_OPTIONS = frozenset(
    {"-name", "-id", "-machine", "-M", "-cpu", "-m", "-accel", "-device", "-bios", "-mem-path"}
)
"""QEMU options whose values are shown, after words that look secret are taken out."""


def is_secret(name: str) -> bool:
    """True for a setting whose value must never be shown."""
    return _SECRET_NAME.search(name) is not None


def redact_value(name: str, value: str) -> str:
    """The value of a setting without its secret parts."""
    if is_secret(name):
        return REDACTED
    if name == "args":
        return " ".join(redact_arguments(value.split()))
    return redact_words(value)


def redact_words(text: str) -> str:
    """Free text in which `password=...` and its like are taken out."""
    return _WORD.sub(lambda m: f"{m[1]}={REDACTED}" if is_secret(m[1]) else m[0], text)


def redact_conf(data: bytes) -> bytes:
    """A Proxmox configuration without notes and secrets, line by line."""
    return b"\n".join(_redact_line(line) for line in data.split(b"\n"))


def _redact_line(line: bytes) -> bytes:
    text = line.decode("utf-8", "surrogateescape")
    if text.lstrip().startswith("#"):
        return b"#"
    match = _CONF_LINE.match(text.strip())
    if match is None:
        return line if text.strip().startswith("[") or not text.strip() else REDACTED.encode()
    name, value = match.groups()
    shown = REDACTED if name.lower() == "description" else redact_value(name, value)
    return f"{name}: {shown}".encode("utf-8", "surrogateescape")


def redact_xml(data: bytes) -> bytes:
    """A domain's XML without passwords, notes and metadata; the number of lines is kept."""
    shown = _XML_ATTRIBUTE.sub(_redact_attribute, data)
    for name in _XML_ELEMENTS:
        shown = _empty_elements(shown, name)
    return shown


def _redact_attribute(match: re.Match[bytes]) -> bytes:
    """Of `value` (an argument for QEMU) the secret words, of a secret attribute everything."""
    name = match[1].decode("utf-8", "surrogateescape")
    quote, value = match[3][:1], match[3][1:-1]
    if is_secret(name) or (name == "value" and value.startswith(b"secret")):
        shown = REDACTED.encode() + b"\n" * value.count(b"\n")
    elif name == "value":
        text = redact_words(value.decode("utf-8", "surrogateescape"))
        shown = text.encode("utf-8", "surrogateescape")
    else:
        return match[0]
    return match[1] + match[2] + quote + shown + quote


def _empty_elements(data: bytes, name: bytes) -> bytes:
    """Each element of this name without its content; an unclosed one loses the rest."""
    start = re.compile(rb"<" + name + rb"(?=[\s>])")
    parts: list[bytes] = []
    place = 0
    while match := start.search(data, place):
        opened = data.find(b">", match.end()) + 1
        if not opened:
            break
        parts.append(data[place:opened])
        place = opened
        if data[opened - 2 : opened] != b"/>":
            stop = data.find(b"</" + name + b">", opened)
            place = len(data) if stop < 0 else stop
            parts.append(b"\n" * data.count(b"\n", opened, place))
            if name == b"metadata" and stop >= 0:
                system = _XML_SYSTEM.search(data, opened, place)
                parts.append(b"<os id=%s/>" % system[1] if system is not None else b"")
    return b"".join((*parts, data[place:]))


def redact_cmdline(data: bytes) -> bytes:
    """A QEMU process's arguments, their number kept."""
    program, *words = data.decode("utf-8", "surrogateescape").split("\0")
    ended = words[-1:] == [""]
    shown = [program, *redact_arguments(words[:-1] if ended else words), *([""] if ended else [])]
    return "\0".join(shown).encode("utf-8", "surrogateescape")


def redact_arguments(words: Sequence[str]) -> list[str]:
    """QEMU options; of those that are not known to be harmless the values are taken out."""
    shown: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = "-" + word.lstrip("-")
            shown.append(redact_words(word))
        else:
            shown.append(_redact_argument(option, word))
    return shown


def _redact_argument(option: str, text: str) -> str:
    if option in _PLAIN_OPTIONS or (option == "-object" and text.startswith("memory-backend-")):
        return redact_words(text)
    if option in ("-drive", "-blockdev", "-hda", "-hdb", "-hdc", "-hdd", "-cdrom"):
        return _redact_drive(text)
    return REDACTED


def _redact_drive(text: str) -> str:
    """Of a drive only what says that it is firmware, or a block device of the host."""
    if "if=pflash" in text:
        return "if=pflash"
    match = _DEVICE_FILE.search(text)
    return f"file={match[0]}" if match is not None else "file="


_NETWORK_FOLDERS = (
    "/etc/network/",
    "/etc/netplan/",
    "/etc/NetworkManager/",
    "/etc/systemd/network/",
    "/etc/systemd/system/",
)
_NETWORK_LINE = re.compile(
    rb"\s*(?:\[[\w-]+\]|[\w.@-]+:|(?:iface|auto|allow-hotplug)\s+\S+"
    rb"|(?:interface-name|Path|OriginalName|(?:Permanent)?MACAddress)\s*=.*"
    rb"|.*(?:sriov_numvfs|SR-IOVVirtualFunctions|virtual-function-count|total-vfs).*)"
)
"""Network configurations and units: lines about VFs, and what says which interface they are of."""

_STORAGE_LINE = re.compile(rb"\w+:\s*\S+|\s+(?:vgname|thinpool|nodes|disable|content)\b.*")
_PV_LINE = re.compile(rb"\s*device = \"/dev/[^\"]*\".*")


def _keep_lines(data: bytes, wanted: re.Pattern[bytes]) -> bytes:
    """Lines of this shape; the others empty, so that lines are counted as before."""
    lines = data.split(b"\n")
    return b"\n".join(line if wanted.fullmatch(line.rstrip()) else b"" for line in lines)


def redact_file(path: str, data: bytes) -> bytes:
    """The redacted content of a file that the VM collector reads; any other as it is."""
    if path.startswith("/etc/pve/") and path.endswith(".conf"):
        return redact_conf(data)
    if path.startswith(_NETWORK_FOLDERS):
        return _keep_lines(data, _NETWORK_LINE)
    if path == "/etc/pve/storage.cfg":
        return _keep_lines(data, _STORAGE_LINE)
    if path.startswith("/etc/lvm/backup/"):
        return _keep_lines(data, _PV_LINE)
    if path.startswith("/etc/libvirt/") and path.endswith(".xml"):
        return redact_xml(data)
    if path.startswith("/proc/") and path.endswith("/cmdline") and path != "/proc/cmdline":
        return redact_cmdline(data)
    return data
