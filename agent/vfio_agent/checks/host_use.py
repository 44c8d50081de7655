"""What the host itself needs each PCI function for: disks, addresses, console, keyboard.

Direct uses come from what stands on a function; then they spread to whatever cannot be parted from
it: group mates, the functions that its reset takes along, and a PF whose VF the host uses. What
could not be resolved counts as used, by kind: an unresolved disk source touches what may hold a
disk, an unresolved network use what may hold an interface. This module must never turn an unread
list into "unused".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from vfio_agent.checks.inventory import describe_driver, endpoints, group_of
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, NetDevice, PciFunction, StorageUse
from vfio_contract.units import reset_domain, resets_alone

_STORAGE, _NETWORK, _DISPLAY, _INPUT = 0x01, 0x02, 0x03, 0x09
"""Base classes (PCI Code and ID Assignment)."""

_FIREWIRE, _USB, _FIBRE_CHANNEL, _INFINIBAND, _FABRIC = 0x0C00, 0x0C03, 0x0C04, 0x0C06, 0x0C08
_SD_HOST = 0x0805
_VIRTIO_VENDOR = 0x1AF4

_MAY_HOLD_DISK = frozenset({_FIREWIRE, _USB, _FIBRE_CHANNEL, _SD_HOST})
_NETWORK_CARDS = frozenset({_INFINIBAND, _FABRIC})


@dataclass(slots=True)
class Use:
    """Why the host needs a function (`needs`), and why that could not be excluded (`doubts`).

    Each entry is a sentence part for people. A function with neither is not needed by the host.
    """

    needs: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def find_uses(host: Host) -> Mapping[Address, Use]:
    """The host's use of every endpoint, transitive; every endpoint has an entry."""
    direct = {f.address: _direct_use(f) for f in endpoints(host)}
    for address, reason in (
        *_storage_needs(host),
        *_network_needs(host),
        *_keyboard_needs(host),
    ):
        if address in direct and reason not in direct[address].needs:
            direct[address].needs.append(reason)
    for function in endpoints(host):
        use = direct[function.address]
        if not use.needs:
            use.doubts.extend(_find_doubts(host, function))
    return _spread(host, direct)


def _direct_use(function: PciFunction) -> Use:
    """The console: a boot VGA is needed unless a vfio driver has it already."""
    use = Use()
    if function.boot_vga and is_vfio_bound(function) is False:
        use.needs.append(f"is the console's display (boot_vga, {describe_driver(function)})")
    return use


# --- storage -------------------------------------------------------------------------------------


def _storage_needs(host: Host) -> Iterator[tuple[Address, str]]:
    for use in host.facts.storage_uses or ():
        for function in use.functions:
            yield function, use.use
        for device in use.devices:
            for function, path in _walk_down(host, device):
                yield function, f"{use.use} on {path}"


def _walk_down(host: Host, device: str) -> Iterator[tuple[Address, str]]:
    """(function, `dm-0 <- sda3 <- sda`) for every function that a block device stands on."""
    blocks = {b.name: b for b in host.facts.block or ()}
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


def _unresolved_storage(host: Host) -> Iterator[tuple[str, bool]]:
    """(why, True when it concerns the network) for each storage use whose end is not known."""
    if host.facts.storage_uses is None:
        yield "what is mounted could not be read", False
    for use in host.facts.storage_uses or ():
        if use.unresolved:
            yield f"{use.use}: {use.unresolved}", use.kind == "network"
        elif not _is_resolved(host, use):
            yield f"{use.use}: the way down from {' '.join(use.devices)} is not known", False


def _is_resolved(host: Host, use: StorageUse) -> bool:
    blocks = {b.name: b for b in host.facts.block or ()}
    todo, seen = list(use.devices), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        block = blocks.get(name)
        if block is None or block.functions is None:
            return False
        todo.extend(block.parents)
    return True


# --- network -------------------------------------------------------------------------------------


def _network_needs(host: Host) -> Iterator[tuple[Address, str]]:
    for device in host.facts.network or ():
        if device.function:
            carried = _describe_traffic(host, device)
            if carried:
                yield device.function, f"{device.name} {carried}"


def _describe_traffic(host: Host, device: NetDevice) -> str:
    """`carries 10.0.2.15/24, default route, via vmbr0`; "" when it carries nothing."""
    names = {d.name: d for d in host.facts.network or ()}
    todo, above = list(device.uppers), dict[str, None]()
    while todo:
        name = todo.pop(0)
        if name not in above:
            above[name] = None
            todo.extend(names[name].uppers if name in names else ())
    carriers = [device, *(names[n] for n in above if n in names)]
    carried = [a for d in carriers for a in d.addresses or ()]
    routes = [r for d in carriers for r in d.routes or ()]
    named = ["default route" if r in _DEFAULT else f"route {r}" for r in routes]
    parts = [*dict.fromkeys(carried), *list(dict.fromkeys(named))[:_ROUTES_SHOWN]]
    if above:
        parts.append(f"{'via' if parts else 'belongs to'} {' '.join(above)}")
    return f"carries {', '.join(parts)}" if carried or routes else ", ".join(parts)


_DEFAULT = frozenset({"default", "0.0.0.0/0", "::/0"})
_ROUTES_SHOWN = 3


def _unresolved_network(host: Host) -> Iterator[str]:
    if host.facts.network is None:
        yield "the network interfaces could not be read"
    for device in host.facts.network or ():
        busy = bool(device.uppers or device.addresses or device.routes)
        if device.function is None and (busy or None in (device.addresses, device.routes)):
            yield f"the device under {device.name} could not be read"
    for why, network in _unresolved_storage(host):
        if network:
            yield why


# --- keyboard ------------------------------------------------------------------------------------


def _keyboard_needs(host: Host) -> Iterator[tuple[Address, str]]:
    for address in host.facts.keyboards or ():
        yield address, "has the keyboard"


# --- doubts --------------------------------------------------------------------------------------


def _find_doubts(host: Host, function: PciFunction) -> Iterator[str]:
    """Why the host may need this function, although nothing is known to."""
    if is_vfio_bound(function):
        return  # a vfio driver gives the host neither disk nor interface nor screen
    if function.class_code is None:
        yield "its class could not be read, so nothing rules out a disk or a network card"
        return
    if function.base_class == _DISPLAY and function.boot_vga is None:
        yield "whether it is the console's display could not be read"
    if function.boot_vga and function.driver is None:
        yield "it is the console's display unless vfio has it, and its driver could not be read"
    if function.driver == "":
        return
    if _may_hold_disk(function):
        yield from (why for why, network in _unresolved_storage(host) if not network)
    may_type = function.sub_class == _USB or function.base_class == _INPUT
    if may_type and host.facts.keyboards is None:
        yield "whether it has the host's keyboard could not be read"
    if _is_network_card(function):
        yield from _doubt_interfaces(host, function)
    if _is_network_card(function) or function.sub_class == _USB:
        yield from _unresolved_network(host)


def _may_hold_disk(function: PciFunction) -> bool:
    """Disk controllers, buses that disks hang on, and virtio, which carries 9p and virtiofs too."""
    virtio = function.vendor in (None, _VIRTIO_VENDOR) and not _is_network_card(function)
    return virtio or function.base_class == _STORAGE or function.sub_class in _MAY_HOLD_DISK


def _is_network_card(function: PciFunction) -> bool:
    return function.base_class == _NETWORK or function.sub_class in _NETWORK_CARDS


def _doubt_interfaces(host: Host, function: PciFunction) -> Iterator[str]:
    if host.facts.network is None:
        return
    own = [d for d in host.facts.network if d.function == function.address]
    if not own:
        yield f"no interface of it is to be seen ({describe_driver(function)})"
    names = {d.name: d for d in host.facts.network}
    for device in own:
        for carrier in (device, *(names[n] for n in device.uppers if n in names)):
            if carrier.addresses is None or carrier.routes is None:
                yield f"the addresses of {carrier.name} could not be read"


# --- what cannot be parted -----------------------------------------------------------------------


def _spread(host: Host, direct: Mapping[Address, Use]) -> Mapping[Address, Use]:
    """Each function's own use and that of whatever goes wherever it goes."""
    parents = {f.parent for f in host.functions if f.parent}
    links = {a: list(_linked(host, host.by_address[a], parents)) for a in direct}
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
                use.doubts.extend(f"{how} {other}: {why}" for why in direct[other].doubts)
        use.doubts.extend(_doubt_links(host, host.by_address[address], direct))
        found[address] = use
    return found


def _linked(
    host: Host, function: PciFunction, parents: Collection[Address]
) -> Iterator[tuple[Address, str]]:
    """Functions that are affected if this one goes to a VM, and how.

    An endpoint may have functions below it: Intel VMD makes a host bridge of its own.
    """
    group = group_of(host, function)
    if group is not None and group != NO_GROUP:
        for mate in host.members.get(group, ()):
            yield mate.address, f"shares group {group} with"
    for address in reset_domain(function, host.by_address):
        yield address, "its reset takes along"
    for other in host.by_address.values():
        if other.physfn == function.address:
            yield other.address, "has the VF"
        elif function.address in parents and function in host.ancestors(other):
            yield other.address, "drives the bus of"


def _doubt_links(host: Host, function: PciFunction, direct: Mapping[Address, Use]) -> Iterator[str]:
    """Why something that the host needs may be tied to this function without our knowing."""
    used = [a for a, use in direct.items() if (use.needs or use.doubts) and a != function.address]
    if not used:
        return
    others = [host.by_address[a] for a in used]
    if host.facts.groups is None:
        if function.group is None:
            yield "its group could not be read, and so who shares it"
        elif function.group != NO_GROUP and any(o.group is None for o in others):
            yield "the group of a function that the host needs could not be read"
    if function.parent is None and not resets_alone(function):
        yield "its place below the bridges could not be read, and so what its reset takes along"
    elif function.parent and not resets_alone(function) and any(o.parent is None for o in others):
        yield "the place of a function that the host needs could not be read"
    if function.sriov_num_vfs != 0 and any(o.physfn is None for o in others):
        yield "whether a function that the host needs is one of its VFs could not be read"
