"""Pseudonyms, and what in a free text gets one.

A pseudonym is a word for the kind and eight hex digits (`host-1f3c09ab`); serial numbers of devices
keep their form, because identities are made of them. Texts are searched for what can be known by
its shape (MAC and IP addresses, UUIDs, names of volumes, home directories, mail-like names, serial
numbers) and for names that the snapshot told. PCI addresses, ids and numbers stay. This module must
never keep a table that leads back.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_HEX2 = "[0-9A-Fa-f]{2}"

_DSN = re.compile(
    rf"(?<![0-9A-Za-z-])(?:{_HEX2}-){{7}}{_HEX2}(?![0-9A-Za-z-])|"
    rf"(?<=dsn-)(?:{_HEX2}-){{7}}{_HEX2}"
)
_MAC = re.compile(
    rf"(?<![0-9A-Fa-f:.-])(?:(?:{_HEX2}:){{5}}{_HEX2}(?![0-9A-Fa-f:])"
    rf"|(?:01-)?(?:{_HEX2}-){{5}}{_HEX2}(?![0-9A-Fa-f-]))"
    r"|(?<=\b[ew][nl]x)[0-9a-f]{12}\b"
)
_NO_MAC = frozenset({"0" * 12, "f" * 12})
_UUID = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
    r"|(?<![0-9A-Za-z])[0-9A-Za-z]{6}(?:-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}(?![0-9A-Za-z])"
)
_WELL_KNOWN = frozenset(
    {"4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", "8be4df61-93ca-11d2-aa0d-00e098032b8c"}
)
"""Vendor GUIDs in names of EFI variables: systemd's loader interface, UEFI's own."""

_IPV4 = re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*(?![0-9A-Za-z:.])")
_NO_ADDRESS = frozenset({"::", "::1", "0.0.0.0", "127.0.0.1"})

_URL = re.compile(r"(?<=://)[^/\s,;:\"'<>]+")
_IQN = re.compile(r"\b(?:iqn\.\d{4}-\d\d|eui|naa|nqn\.\d{4}-\d\d)\.[^\s,;\"']+")
_WWN = re.compile(r"\b(?:wwn-|wwn=|eui\.|nvme-eui\.|naa\.)(?:0x)?[0-9A-Fa-f]{8,32}\b")
_PERSON = re.compile(
    r"(?<![\w.+-])([A-Za-z_][\w.+-]*)@((?!0x|[0-9a-f]+(?![\w.-]))[A-Za-z][\w.-]*[A-Za-z0-9])"
)
_HOME = re.compile(r"(?<=/home/)[^/\s,:;()\"']+")
_PLACE = re.compile(r"(?<=/mnt/|/srv/)[^\s,:;()\"']+")
_MEDIA = re.compile(r"(?<=/media/)[^\s,:;()\"']+")
_BY_NAME = re.compile(r"(?<=/dev/mapper/)(?!control\b)[^\s,:;()\"']+")
_BY_LINK = re.compile(r"(/dev/disk/by-[a-z]+/)([^\s,:;()\"']+)")
_USER = re.compile(r"(?i)(?<![\w-])((?:user|username|login|uid)=)([^,\s;\"']+)")
_SERIAL = re.compile(
    r"(?i)(?<![\w-])((?:serial|serialno|asset|asset_?tag|sn)=|serial ?(?:number|no\.?) ?[:=] ?)"
    r"([^\s,;\"']+)"
)
_DOMAIN = re.compile(
    r"(?<![\w.@-])(?:[a-z0-9-]+\.)+(?:com|net|org|local|lan|internal|intern|home|corp|io|cloud)"
    r"(?![\w-]|\.[a-z])"
)
_VOLUME = re.compile(
    r"(?<![^\s\"'])((?:root|resume|rd\.lvm\.\w+|rd\.luks\.\w+|rd\.md\.\w+|rd\.iscsi\.\w+|crypt\w+"
    r"|nfsroot|netroot|zfs|swap|home|fsck\.\w+|mount\.usr|luks|ds|hostname|systemd\.hostname|ip"
    r"|ifname|nameserver)=)(?:(UUID|PARTUUID|LABEL|PARTLABEL|ZFS)=)?(\S+)"
)
_PLAIN_DISK = re.compile(
    r"/dev/(?:[shv]d[a-z]{1,2}\d*|xvd[a-z]\d*|nvme\d+n\d+(?:p\d+)?|md\d+|nfs|dm-\d+"
    r"|ram\d*|mmcblk\d+(?:p\d+)?)"
)
_PLAIN_VALUES = frozenset({"dhcp", "on", "off", "any", "auto", "none", "1", "0", "nocloud"})

TOKEN = re.compile(r"\b(?:host|vm|user|mac|ip|uuid|volume|serial|name|place|text)-[0-9a-f]{8}\b")
"""A pseudonym."""

_GENERAL_WORDS = """
    acpi admin alpha amd api arm audio auto bare beta boot bridge bus cluster compute container cpu
    data debian default desktop dev device disk dmar driver eth fedora firmware fleet gpu group
    guest home host hostname hypervisor image intel iommu kernel kvm lab lan libvirt linux local
    localhost log lxc main master memory mgmt module net network nic node none nvidia nvme off on
    pci pcie pool prod proxmox pve qemu root rpool server services staging storage system test
    ubuntu unknown usb vfio virtio virtual vm vms windows worker
"""
GENERAL_WORDS = frozenset(_GENERAL_WORDS.split())
"""Names that say nothing and are also words of evidence: replaced where they are names, not in
texts, where they would spoil paths and parameters (a host called `pve`)."""


class Masks:
    """Pseudonyms under one key (`key`, secret bytes), and texts with them."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._names: dict[str, str] = {}
        self._named: re.Pattern[str] | None = None

    @property
    def fingerprint(self) -> str:
        """Tells two keys apart and says nothing about either."""
        return self._digest("fingerprint", "")[:8]

    def learn(self, names: Mapping[str, str]) -> None:
        """Names (value: kind) to replace in texts too; general words and numbers are not."""
        for name, kind in names.items():
            if len(name) > 2 and not name.isdecimal() and name.lower() not in GENERAL_WORDS:
                self._names[name] = self.token(kind, name)
        if self._names:
            longest = sorted(self._names, key=lambda n: (-len(n), n))
            words = "|".join(re.escape(name) for name in longest)
            self._named = re.compile(rf"(?<![A-Za-z0-9_])(?:{words})(?![A-Za-z0-9_])")

    def token(self, kind: str, value: str) -> str:
        """The pseudonym of a value, "" for ""."""
        if not value or TOKEN.fullmatch(value):
            return value
        return f"{kind}-{self._digest(kind, value)[:8]}"

    def host(self, name: str) -> str:
        """A host's name; its domain is a pseudonym of its own, so that short forms still fit."""
        short, dot, domain = name.partition(".")
        return self.token("host", short) + (f".{self.token('host', domain)}" if dot else "")

    def serial(self, text: str) -> str:
        """A PCIe serial number in the same form; all zeros and all ones say nothing and stay."""
        if set(text.lower().replace("-", "")) in ({"0"}, {"f"}):
            return text
        digits = self._digest("dsn", text.lower())[:16]
        return "-".join(digits[i : i + 2] for i in range(0, 16, 2))

    def mac(self, text: str) -> str:
        """A MAC address in any form; one that names nobody stays."""
        digits = re.sub("[:-]", "", text.lower())[-12:]
        return text if digits in _NO_MAC else self.token("mac", digits)

    def text(self, text: str) -> str:
        """Free text with pseudonyms for all that could be recognised."""
        if not text:
            return text
        if self._named is not None:
            text = self._named.sub(lambda m: self._names[m[0]], text)
        for pattern, replace in self._passes():
            text = pattern.sub(replace, text)
        return text

    def _passes(self) -> tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]:
        token = self.token
        return (
            (_VOLUME, self._volume),
            (_DSN, lambda m: self.serial(m[0])),
            (_MAC, lambda m: self.mac(m[0])),
            (_BY_LINK, lambda m: m[1] + token("volume", m[2])),
            (_UUID, lambda m: m[0] if m[0] in _WELL_KNOWN else token("uuid", m[0].lower())),
            (_URL, lambda m: token("host", m[0])),
            (_IQN, lambda m: token("volume", m[0])),
            (_WWN, lambda m: token("volume", m[0])),
            (_PERSON, lambda m: f"{token('user', m[1])}@{token('host', m[2])}"),
            (_HOME, lambda m: token("user", m[0])),
            (_PLACE, lambda m: token("place", m[0])),
            (_MEDIA, lambda m: token("place", m[0])),
            (_BY_NAME, lambda m: token("volume", m[0])),
            (_USER, lambda m: m[1] + token("user", m[2])),
            (_SERIAL, lambda m: m[1] + token("serial", m[2])),
            (_IPV4, self._address),
            (_IPV6, self._address),
            (_DOMAIN, lambda m: token("host", m[0])),
        )

    def _volume(self, match: re.Match[str]) -> str:
        """What the kernel is told to mount or to call itself; plain device names stay."""
        head, prefix, value = match[1], f"{match[2]}=" if match[2] else "", match[3]
        quote = '"' if value.endswith('"') else ""
        value = value.removesuffix('"')
        if value in _PLAIN_VALUES or _PLAIN_DISK.fullmatch(value):
            return match[0]
        return f"{head}{prefix}{self.token('volume', value)}{quote}"

    def _address(self, match: re.Match[str]) -> str:
        text = match[0]
        try:
            found = IPv6Address(text) if ":" in text else IPv4Address(text)
        except AddressValueError:
            return text
        return text if str(found) in _NO_ADDRESS else self.token("ip", str(found))

    def _digest(self, kind: str, value: str) -> str:
        data = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, data, sha256).hexdigest()
