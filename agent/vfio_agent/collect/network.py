"""Network interfaces, the PCI function under each, and what the host's own traffic needs of them.

Which interface holds an IPv4 address is not written in /proc: it follows from the connected routes
of /proc/net/route and the local addresses of /proc/net/fib_trie. Where it does not follow, the
addresses of the interfaces in question are None, never (). The tables of process 1 are read first,
so that the host's network namespace answers and not the reader's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from vfio_agent.collect.device_path import innermost_function
from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.route_tables import (
    Route,
    parse_fib_trie,
    parse_if_inet6,
    parse_ipv6_route,
    parse_route,
)
from vfio_contract.address import Address
from vfio_contract.model import NetDevice

_NET = "/sys/class/net"
_NOT_INTERFACES = frozenset({"bonding_masters"})
"""Files of /sys/class/net that are no interface (Documentation/networking/bonding.rst)."""

_IFF_UP = 0x1
"""include/uapi/linux/if.h; an interface that is down holds no address in the local table."""

MAX_DESTINATIONS = 32
"""Routes shown of one interface; that there are any is what matters."""

_LIMIT_BYTES = 32 << 20
"""A full IPv4 routing table has a million lines of 128 bytes; the head of it is enough."""


@dataclass(frozen=True, slots=True)
class _Interface:
    """What sysfs says of one interface; `function` is None when its place could not be read."""

    name: str
    function: Address | None
    mac: str
    uppers: tuple[str, ...]
    lowers: tuple[str, ...]
    up: bool | None


def collect_network(reader: Reader) -> tuple[NetDevice, ...] | None:
    """Interfaces by name: those with a PCI function, those above one, and those that hold
    addresses or routes. Others (taps of VMs, ends of container links, `lo`) are left out: the host
    loses nothing with them and they come and go with every guest.
    """
    names = reader.optional_names(_NET)
    if names is None:
        return None
    interfaces = _collect_interfaces(reader, [n for n in names if n not in _NOT_INTERFACES])
    routes = _collect_routes(reader)
    interfaces += _unlisted(reader, routes or (), {interface.name for interface in interfaces})
    addresses = _collect_addresses(reader, interfaces, routes)
    devices = [
        NetDevice(
            name=interface.name,
            function=interface.function,
            mac=interface.mac,
            uppers=interface.uppers,
            lowers=interface.lowers,
            addresses=None if addresses is None else addresses[interface.name],
            routes=None if routes is None else _destinations(routes, interface.name),
        )
        for interface in interfaces
    ]
    return _without_loose_ends(_doubt_stacks(reader, devices))


def _doubt_stacks(reader: Reader, devices: Sequence[NetDevice]) -> list[NetDevice]:
    """In a copy that kept no link between interfaces, what a virtual one stands on is not known.

    A bridge that carries the host's address would else seem to stand on nothing, and the card
    below it to be free.
    """
    stacked = any(device.uppers or device.lowers for device in devices)
    found: list[NetDevice] = []
    for device in devices:
        busy = device.name != "lo" and (device.addresses != () or device.routes != ())
        if busy and not stacked and device.function == "":
            folder = f"{_NET}/{device.name}"
            if not reader.root.authoritative(f"{folder}/lower_none"):
                path = f"{_NET}/*/lower_*"
                reader.gap(path, "not captured for any interface", "ls -d /sys/class/net/*/lower_*")
                device = replace(device, function=None)
        found.append(device)
    return found


def routes_known(network: Sequence[NetDevice] | None) -> bool:
    """True when it is known which interfaces the host's traffic leaves by."""
    return network is not None and all(device.routes is not None for device in network)


# --- sysfs ---------------------------------------------------------------------------------------


def _collect_interfaces(reader: Reader, names: Sequence[str]) -> list[_Interface]:
    folders = [f"{_NET}/{name}" for name in names]
    places = reader.reals(folders)
    macs = reader.optional_texts([f"{folder}/address" for folder in folders])
    flags = reader.optional_texts([f"{folder}/flags" for folder in folders])
    listings = reader.root.list_many(folders)
    found: list[_Interface] = []
    for index, name in enumerate(names):
        place, listing = places[index], listings[index]
        if place == "" or isinstance(listing, FileNotFoundError):
            continue  # gone since the listing
        function = None if place is None else _function_of(reader, folders[index], place)
        if isinstance(listing, OSError):
            reader.gap(folders[index], listing)
            function, listing = None, []  # what is stacked on it is not known
        found.append(
            _Interface(
                name=name,
                function=function,
                mac=macs[index] or "",
                uppers=_linked(listing, "upper_"),
                lowers=_linked(listing, "lower_"),
                up=_is_up(flags[index]),
            )
        )
    return found


def _unlisted(reader: Reader, routes: Iterable[Route], listed: Collection[str]) -> list[_Interface]:
    """Interfaces that a route leaves by and sysfs does not show: what is under them is unknown."""
    names = sorted({route.interface for route in routes} - {"lo", *listed})
    for name in names:
        reader.gap(f"{_NET}/{name}", "a route leaves by it, but it is not listed", "ip -br link")
    return [_Interface(name, None, "", (), (), up=None) for name in names]


def _function_of(reader: Reader, folder: str, place: str) -> Address | None:
    """`""` for an interface without a PCI function: virtual, or on another bus."""
    function = innermost_function(place)
    if function is None and not place.startswith("/sys/devices/"):
        # a copy that did not keep the link: only the link to the device is left
        device = reader.real(f"{folder}/device")
        return innermost_function(device) if device else None
    return function or Address("")


def _linked(entries: Iterable[str], prefix: str) -> tuple[str, ...]:
    return tuple(sorted(e.removeprefix(prefix) for e in entries if e.startswith(prefix)))


def _is_up(flags: str | None) -> bool | None:
    try:
        return bool(int(flags or "", 16) & _IFF_UP)
    except ValueError:
        return None


# --- /proc/net -----------------------------------------------------------------------------------


def _collect_routes(reader: Reader) -> list[Route] | None:
    four = _table(reader, "route")
    six = _table(reader, "ipv6_route", optional=True)
    if four is None or six is None:
        return None
    return [*parse_route(four), *parse_ipv6_route(six)]


def _table(reader: Reader, name: str, *, optional: bool = False) -> str | None:
    """A table of process 1's namespace, else of our own; an optional one may be absent (no IPv6).

    The first is missing behind hidepid and in captures that hold only the second, so only the
    second leaves a gap.
    """
    path = f"/proc/net/{name}"
    for place in (f"/proc/1/net/{name}", path):
        try:
            return decode(reader.root.read(place, limit=_LIMIT_BYTES))
        except OSError as error:
            last = error.with_traceback(None)  # which would keep this frame
    if optional and isinstance(last, FileNotFoundError):
        return ""
    reader.gap(path, last, f"cat {path}")
    return None


def _destinations(routes: Iterable[Route], interface: str) -> tuple[str, ...]:
    """The default route first; at most MAX_DESTINATIONS and how many more there are."""
    found = sorted({(r.length, r.destination) for r in routes if r.interface == interface})
    shown = [text for _, text in found[:MAX_DESTINATIONS]]
    if len(found) > MAX_DESTINATIONS:
        shown.append(f"and {len(found) - MAX_DESTINATIONS} more")
    return tuple(shown)


def _collect_addresses(
    reader: Reader, interfaces: Sequence[_Interface], routes: Sequence[Route] | None
) -> Mapping[str, tuple[str, ...] | None] | None:
    """Addresses by interface; a None value where one may be there that no route explains."""
    trie = _table(reader, "fib_trie")
    six = _table(reader, "if_inet6", optional=True)
    if trie is None or six is None or routes is None:
        return None
    found: dict[str, set[str]] = {interface.name: set() for interface in interfaces}
    unplaced: list[IPv4Address] = []
    for address in parse_fib_trie(trie):
        owners = _owners(address, routes)
        if not owners:
            unplaced.append(address)
        for owner in owners:
            found.setdefault(owner, set()).add(str(address))
    for name, text in parse_if_inet6(six):
        found.setdefault(name, set()).add(text)
    result: dict[str, tuple[str, ...] | None] = {n: tuple(sorted(a)) for n, a in found.items()}
    if unplaced:
        for interface in interfaces:
            if not found[interface.name] and interface.up is not False and interface.function != "":
                result[interface.name] = None
    return result


def _owners(address: IPv4Address, routes: Iterable[Route]) -> set[str]:
    """Interfaces with the longest connected route that contains the address."""
    best, owners = 0, set[str]()
    for route in routes:
        if route.gateway or route.length < max(best, 1) or not route.contains(address):
            continue
        if route.length > best:
            best, owners = route.length, set()
        owners.add(route.interface)
    return owners


# --- what is kept --------------------------------------------------------------------------------


def _without_loose_ends(devices: Sequence[NetDevice]) -> tuple[NetDevice, ...]:
    by_name = {device.name: device for device in devices}
    above: set[str] = set()
    todo = [device.name for device in devices if device.function != ""]
    while todo:
        name = todo.pop()
        if name in by_name and name not in above:
            above.add(name)
            todo.extend(by_name[name].uppers)
    kept = above | {d.name for d in devices if d.addresses != () or d.routes != ()}
    kept.discard("lo")
    return tuple(
        replace(
            device,
            # one that was not in the list (gone meanwhile, hidden) may be what carries addresses
            uppers=tuple(n for n in device.uppers if n in kept or n not in by_name),
            lowers=tuple(n for n in device.lowers if n in kept),
        )
        for device in sorted(devices, key=lambda d: d.name)
        if device.name in kept
    )
