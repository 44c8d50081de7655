"""The tables of /proc/net as values: routes, and the addresses that the host answers to.

Formats: net/ipv4/fib_trie.c (route, fib_trie), net/ipv6/addrconf.c (if_inet6), net/ipv6/route.c
(ipv6_route). Lines that do not fit the format are left out; nothing here reads a file. Addresses of
the loopback network and those that the kernel makes by itself are never returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

_RTF_UP = 0x1
_RTF_GATEWAY = 0x2
_RTF_REJECT = 0x200
_RTF_ANYCAST = 0x0010_0000
_RTF_CACHE = 0x0100_0000
_RTF_LOCAL = 0x8000_0000
"""include/uapi/linux/route.h, ipv6_route.h"""

_IFA_F_TEMPORARY = 0x01
"""include/uapi/linux/if_addr.h: a privacy address, replaced every day"""

_SCOPE_HOST = 0x10
_SCOPE_LINK = 0x20
"""include/net/ipv6.h"""


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `network` and `length` in bits are its destination; `version` is 4 or 6."""

    interface: str
    version: int
    network: int
    length: int
    gateway: bool

    @property
    def destination(self) -> str:
        """`default`, or network and prefix length as `ip route` writes them (`::/0` for IPv6)."""
        if self.version == 6:
            return f"{IPv6Address(self.network)}/{self.length}"
        return f"{IPv4Address(self.network)}/{self.length}" if self.length else "default"

    def contains(self, address: IPv4Address) -> bool:
        """True when an IPv4 address is in the destination."""
        return self.version == 4 and (int(address) ^ self.network) >> (32 - self.length) == 0


def parse_route(text: str) -> Iterator[Route]:
    """IPv4 routes of the main table (/proc/net/route), numbers in the host's byte order.

    Little-endian hosts only: elsewhere destinations read reversed, interfaces are still right.
    """
    for line in text.split("\n"):
        words = line.split()
        try:
            interface, flags = words[0], int(words[3], 16)
            network, mask = _swap(words[1]), _swap(words[7])
        except (IndexError, ValueError):
            continue
        if flags & _RTF_UP and not flags & _RTF_REJECT:
            yield Route(interface, 4, network, mask.bit_count(), bool(flags & _RTF_GATEWAY))


def _swap(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits)[::-1].rjust(4, b"\0")[-4:], "big")


def parse_ipv6_route(text: str) -> Iterator[Route]:
    """IPv6 routes that somebody configured or a router announced (/proc/net/ipv6_route)."""
    skipped = _RTF_REJECT | _RTF_ANYCAST | _RTF_CACHE | _RTF_LOCAL
    for line in text.split("\n"):
        words = line.split()
        try:
            network, length = int(words[0], 16), int(words[1], 16)
            flags, interface = int(words[8], 16), words[9]
        except (IndexError, ValueError):
            continue
        made_by_kernel = network >> 118 == 0xFE80 >> 6 or network >> 120 == 0xFF
        if not flags & _RTF_UP or flags & skipped or made_by_kernel or interface == "lo":
            continue
        if 0 <= network < 1 << 128 and 0 <= length <= 128:
            yield Route(interface, 6, network, length, bool(flags & _RTF_GATEWAY))


def parse_fib_trie(text: str) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that the host answers to, in order, without 127.0.0.0/8."""
    found: set[IPv4Address] = set()
    leaf: IPv4Address | None = None
    for line in text.split("\n"):
        words = line.split()
        if words[:1] == ["|--"]:
            try:
                leaf = IPv4Address(words[1])
            except (IndexError, ValueError):
                leaf = None
        elif words == ["/32", "host", "LOCAL"] and leaf is not None and not leaf.is_loopback:
            found.add(leaf)
    return tuple(sorted(found))


def parse_if_inet6(text: str) -> Iterator[tuple[str, str]]:
    """(interface, address) of IPv6 addresses that a person, DHCP or a router gave."""
    for line in text.split("\n"):
        words = line.split()
        try:
            address = IPv6Address(int(words[0], 16))
            scope, flags = int(words[3], 16), int(words[4], 16)
            interface = words[5]
        except (IndexError, ValueError):
            continue
        if scope not in (_SCOPE_HOST, _SCOPE_LINK) and not flags & _IFA_F_TEMPORARY:
            yield interface, str(address)
