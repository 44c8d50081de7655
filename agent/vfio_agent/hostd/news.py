"""What is told as durable events: what the kernel said, and what two looks show has happened.

Pure. A look shows only what is: what came and went between two of them is `passing`'s to tell; of
what is not known in one of them nothing is told at all. Resets are told by the reset history
(`reset_history`), VMs by `vm_news`. It must never make an event of a difference between two boots:
addresses mean something else then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vfio_agent.checks.holding import find_holders
from vfio_agent.watch.device_events import DeviceEvent
from vfio_agent.watch.signals import LinesLost
from vfio_contract.address import Address
from vfio_contract.durable import (
    LINES_LOST,
    BindingChanged,
    DeviceAppeared,
    DeviceRemoved,
    DurableEvent,
    HolderChanged,
    KernelLine,
    Payload,
    Stamp,
)
from vfio_contract.host import Host
from vfio_contract.model import Holder, PciFunction

Names = Mapping[Address, str]
"""Identity by address, as of the last look."""


def tell_lines(
    events: Iterable[DeviceEvent], lost: Iterable[LinesLost], *, names: Names, at: Stamp
) -> list[DurableEvent]:
    """What the kernel said, and what it said unheard."""
    return [*(_lost(row, at) for row in lost), *(_line(event, names, at) for event in events)]


def names_of(host: Host) -> dict[Address, str]:
    """The identity of each function."""
    return {address: found.identity for address, found in host.identities.items()}


def tell_changes(before: Host, after: Host, *, at: Stamp) -> list[DurableEvent]:
    """What happened to functions between two looks, by address; [] for looks of two boots."""
    if not after.readings.boot_id or before.readings.boot_id != after.readings.boot_id:
        return []
    found = [*_functions(before, after), *_holders(before, after)]
    if not found:
        return []
    old, new = names_of(before), names_of(after)
    return [
        DurableEvent(at, new.get(address) or old.get(address) or "", address, payload)
        for address, payload in found
    ]


def _lost(lost: LinesLost, at: Stamp) -> DurableEvent:
    text = f"{lost.count} kernel lines were overwritten before they could be read"
    return DurableEvent(at, "", "", KernelLine(LINES_LOST, text, 0))


def _line(event: DeviceEvent, names: Names, at: Stamp) -> DurableEvent:
    line = KernelLine(event.message, event.text, event.count - 1, event.foreign)
    address = event.function or ""
    return DurableEvent(at, names.get(Address(address), ""), address, line)


def _functions(before: Host, after: Host) -> Iterator[tuple[Address, Payload]]:
    if before.facts.functions is None or after.facts.functions is None:
        return
    if before.facts.functions == after.facts.functions:
        return  # as almost always
    old: Mapping[Address, PciFunction] = {f.address: f for f in before.functions}
    new: Mapping[Address, PciFunction] = {f.address: f for f in after.functions}
    for function in before.functions:
        if function.address not in new:
            yield function.address, DeviceRemoved(function.ids)
    for function in after.functions:
        known = old.get(function.address)
        if known is None:
            yield function.address, DeviceAppeared(function.ids)
        elif None not in (known.driver, function.driver) and known.driver != function.driver:
            yield function.address, BindingChanged(known.driver or "", function.driver or "")


def _holders(before: Host, after: Host) -> Iterator[tuple[Address, Payload]]:
    if _open_nodes(before) == _open_nodes(after):
        return
    for function in after.functions:
        known = before.by_address.get(function.address)
        old = None if known is None else find_holders(before, known)
        new = find_holders(after, function)
        if old is None or new is None:
            continue
        for held, rows, others in ((False, old, new), (True, new, old)):
            gone = {_key(h) for h in rows} - {_key(h) for h in others}
            for command, pid, _ in sorted(gone, key=str):
                yield function.address, HolderChanged(f"{command} ({pid})", held)


def _open_nodes(host: Host) -> set[tuple[str, tuple[str, int, float | None]]] | None:
    holders = host.readings.holders
    return None if holders is None else {(h.path, _key(h)) for h in holders}


def _key(holder: Holder) -> tuple[str, int, float | None]:
    """A process: its number alone may be given again."""
    return holder.command, holder.pid, holder.started_seconds
