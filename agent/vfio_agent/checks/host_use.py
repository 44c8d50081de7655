"""What the host itself needs each PCI function for: disks, addresses, console, keyboard.

Direct uses come from what stands on a function; then they spread to whatever cannot be parted from
it: group mates, the functions that its reset takes along, a PF whose VF the host uses, and a
controller with a bus of its own (Intel VMD). Doubts (`host_doubt`) spread the same way. This module
must never call a function free without having asked both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from vfio_agent.checks.host_doubt import Doubt, Ties, Unresolved, find_doubts
from vfio_agent.checks.inventory import describe_driver, endpoints, group_of
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, BlockDevice, NetDevice, PciFunction
from vfio_contract.units import reset_domain

_DEFAULT_ROUTES = frozenset({"default", "0.0.0.0/0", "::/0"})
_ROUTES_SHOWN = 3


@dataclass(slots=True)
class Use:
    """Why the host needs a function (`needs`), and why that could not be excluded (`doubts`).

    Each need is a sentence part for people. A function with neither is not needed by the host.
    """

    needs: list[str] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)


def find_uses(host: Host) -> Mapping[Address, Use]:
    """The host's use of every endpoint, transitive; every endpoint has an entry."""
    functions = endpoints(host)
    direct = {f.address: Use() for f in functions}
    for address, reason in (
        *_storage_needs(host),
        *_network_needs(host),
        *_console_needs(functions),
    ):
        if address in direct and reason not in direct[address].needs:
            direct[address].needs.append(reason)
    for address in host.facts.keyboards or ():
        if address in direct:
            direct[address].needs.append("has the keyboard")
    unresolved = Unresolved(host)
    for function in functions:
        if not direct[function.address].needs:
            direct[function.address].doubts.extend(find_doubts(host, function, unresolved))
    return _spread(host, direct)


def _console_needs(functions: Collection[PciFunction]) -> Iterator[tuple[Address, str]]:
    """A boot VGA is the console unless a vfio driver has it already."""
    for function in functions:
        if function.boot_vga and is_vfio_bound(function) is False:
            driver = describe_driver(function)
            yield function.address, f"is the console's display (boot_vga, {driver})"


def _storage_needs(host: Host) -> Iterator[tuple[Address, str]]:
    blocks = {b.name: b for b in host.facts.block or ()}
    for use in host.facts.storage_uses or ():
        for function in use.functions:
            yield function, use.use
        for device in use.devices:
            for function, path in _walk_down(blocks, device):
                yield function, f"{use.use} on {path}"


def _walk_down(blocks: Mapping[str, BlockDevice], device: str) -> Iterator[tuple[Address, str]]:
    """(function, `dm-0 <- sda3 <- sda`) for every function that a block device stands on."""
    todo, seen = deque([(device, device)]), {device}
    while todo:
        name, path = todo.popleft()
        block = blocks.get(name)
        if block is None:
            continue
        label = f" ({block.label})" if block.label else ""
        for function in block.functions or ():
            yield function, f"{path}{label}"
        for parent in block.parents:
            if parent not in seen:
                seen.add(parent)
                todo.append((parent, f"{path}{label} <- {parent}"))


def _network_needs(host: Host) -> Iterator[tuple[Address, str]]:
    names = {d.name: d for d in host.facts.network or ()}
    for device in names.values():
        carried = _describe_traffic(device, names) if device.function else ""
        if device.function and carried:
            yield device.function, f"{device.name} {carried}"


def _describe_traffic(device: NetDevice, names: Mapping[str, NetDevice]) -> str:
    """`carries 10.0.2.15/24, default route, via vmbr0`; "" when it carries nothing."""
    todo, above = list(device.uppers), dict[str, None]()
    while todo:
        name = todo.pop(0)
        if name not in above:
            above[name] = None
            todo.extend(names[name].uppers if name in names else ())
    carriers = [device, *(names[n] for n in above if n in names)]
    addresses = [a for d in carriers for a in d.addresses or ()]
    routes = [r for d in carriers for r in d.routes or ()]
    named = ["default route" if r in _DEFAULT_ROUTES else f"route {r}" for r in routes]
    parts = [*dict.fromkeys(addresses), *list(dict.fromkeys(named))[:_ROUTES_SHOWN]]
    stacked = " ".join(above)
    if not parts:
        return f"belongs to {stacked}" if above else ""
    return f"carries {', '.join(parts)}{', via ' if above else ''}{stacked}"


# --- what cannot be parted -----------------------------------------------------------------------


def _spread(host: Host, direct: Mapping[Address, Use]) -> Mapping[Address, Use]:
    """Each function's own use and that of whatever goes wherever it goes."""
    links = {a: list(_linked(host, host.by_address[a])) for a in direct}
    used = [host.by_address[a] for a, use in direct.items() if use.needs or use.doubts]
    ties = Ties(host, used)
    found: dict[Address, Use] = {}
    for address in direct:
        use = Use(list(direct[address].needs), list(direct[address].doubts))
        seen, todo = {address}, deque([address])
        while todo:
            for other, how in links.get(todo.popleft(), ()):
                if other in seen or other not in direct:
                    continue
                seen.add(other)
                todo.append(other)
                use.needs.extend(f"{how} {other}: {why}" for why in direct[other].needs)
                use.doubts.extend(d.behind(f"{how} {other}") for d in direct[other].doubts)
        use.doubts.extend(ties.find_doubts(host.by_address[address]))
        found[address] = use
    return found


def _linked(host: Host, function: PciFunction) -> Iterator[tuple[Address, str]]:
    """Functions that are affected if this one goes to a VM, and how.

    An endpoint may have functions below it: Intel VMD makes a host bridge of its own.
    """
    group = group_of(host, function)
    if group is not None and group != NO_GROUP:
        for mate in host.members.get(group, ()):
            yield mate.address, f"shares group {group} with"
    for address in reset_domain(function, host.by_address):
        yield address, "its reset takes along"
    for virtual in host.by_address.virtual.get(function.address, ()):
        yield virtual.address, "has the VF"
    for address in host.by_address.below.get(function.address, ()):
        yield address, "drives the bus of"
