"""What came and went between two looks: the kernel's own signs, where the looks show nothing.

Signs and looks are balanced against each other: what a look tells of was announced by a sign, or
its sign is still to come. What is left over happened unseen and is told by itself, with a count:
removed and back, another driver for a moment, a process that opened a node and closed it again. A
storm of one kind about one function is a few events that say how often; nothing is told twice and
no count is lost. Pure. It must never tell of what a look may still show: `remove` and `unbind` come
before the kernel has done it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from vfio_agent.hostd.news import names_of
from vfio_agent.watch.bucket import Bucket
from vfio_agent.watch.schedule import CONFIRM_S
from vfio_agent.watch.signals import Happening, Sign
from vfio_contract.address import Address
from vfio_contract.durable import (
    UEVENTS_LOST,
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
from vfio_contract.model import NO_GROUP

BURST = 3
PER_S = 0.1
TOTAL_BURST = 100
TOTAL_PER_S = 10.0
"""As for kernel lines (`watch.flood`): of one kind about one function, and of all together."""

KEYS = 4_096
"""Balances kept at most; what is more is counted without its subject."""

_EARLY = frozenset({Sign.REMOVED, Sign.UNBOUND})

Drivers = Mapping[Address, str]


@dataclass(slots=True)
class _Balance:
    """Signs less what looks told of; `last_s` is when either was noted last."""

    count: int = 0
    last_s: float = -inf
    bucket: Bucket = field(default_factory=lambda: Bucket(burst=BURST, per_s=PER_S))


class Passing:
    """Of one boot. Times are seconds on one clock that does not go back."""

    def __init__(self) -> None:
        self._balances: dict[Happening, _Balance] = {}
        self._total = Bucket(burst=TOTAL_BURST, per_s=TOTAL_PER_S)

    def note(self, happened: Iterable[tuple[Happening, int]], now_s: float) -> None:
        """Signs that came."""
        for what, count in happened:
            self._add(what, count, now_s)

    def explain(self, told: Iterable[DurableEvent], old: Host, new: Host, now_s: float) -> None:
        """What the look that is `new` told of: each was announced, or will be."""
        for event in told:
            for what in _signs_of(event, old, new):
                self._add(what, -1, now_s)

    def settle(self, new: Host, *, began_s: float, at: Stamp) -> list[DurableEvent]:
        """What happened that no look shows; `new` is the look that began at `began_s`."""
        found: list[DurableEvent] = []
        names = names_of(new)
        for what, balance in list(self._balances.items()):
            early = what.sign in _EARLY or balance.count < 0
            if balance.last_s + (CONFIRM_S if early else 0.0) > began_s:
                continue
            if balance.count > 0:
                ready = max(balance.bucket.ready_at(), self._total.ready_at())
                if began_s < ready or not balance.bucket.take(began_s):
                    continue  # it waits, and is told with those that follow
                self._total.take(began_s)
                address, payload = _payload_of(what, balance.count, new)
                found.append(DurableEvent(at, names.get(Address(address), ""), address, payload))
            balance.count = 0
            if balance.bucket.is_full(began_s):
                del self._balances[what]
        return found

    def _add(self, what: Happening, count: int, now_s: float) -> None:
        if what not in self._balances and len(self._balances) >= KEYS:
            what = Happening(what.sign)
        balance = self._balances.setdefault(what, _Balance())
        balance.count += count
        balance.last_s = now_s


def attribute(happened: Iterable[tuple[Happening, int]], host: Host) -> list[tuple[Happening, int]]:
    """Signs about nodes as signs about the functions that one gets with the node."""
    found: list[tuple[Happening, int]] = []
    for what, count in happened:
        if what.sign in (Sign.OPENED, Sign.CLOSED) and what.subject:
            found += [(Happening(what.sign, a), count) for a in _functions_of(what.subject, host)]
        else:
            found.append((what, count))
    return found


def _functions_of(node: str, host: Host) -> list[Address]:
    name = node.rpartition("/")[2]
    number = name.removeprefix("noiommu-")
    if "/devices/" in node:
        rows = host.readings.functions
        return [row.address for row in rows if name in (row.vfio_nodes or ())]
    group = int(number) if number.isdecimal() else NO_GROUP
    return [f.address for f in host.functions if f.group == group != NO_GROUP]


def _signs_of(event: DurableEvent, old: Host, new: Host) -> list[Happening]:
    address = Address(event.address)
    match event.payload:
        case DeviceRemoved():
            had = [Happening(Sign.UNBOUND, address)] if _driver(old, address) else []
            return [Happening(Sign.REMOVED, address), *had]
        case DeviceAppeared():
            driver = _driver(new, address)
            has = [Happening(Sign.BOUND, address, driver)] if driver else []
            return [Happening(Sign.ADDED, address), *has]
        case BindingChanged(before=before, after=after):
            had = [Happening(Sign.UNBOUND, address)] if before else []
            return had + ([Happening(Sign.BOUND, address, after)] if after else [])
        case HolderChanged(held=held):
            return [Happening(Sign.OPENED if held else Sign.CLOSED, address)]
    return []


def _driver(host: Host, address: Address) -> str:
    function = host.by_address.get(address)
    return "" if function is None else function.driver or ""


def _payload_of(what: Happening, count: int, host: Host) -> tuple[str, Payload]:
    function = host.by_address.get(Address(what.subject))
    ids = "" if function is None else function.ids
    driver = _driver(host, Address(what.subject))
    lost = f"the kernel dropped uevents {count} times: what they said is told by looks alone"
    make: Mapping[Sign, Callable[[], Payload]] = {
        Sign.ADDED: lambda: DeviceAppeared(ids, count),
        Sign.REMOVED: lambda: DeviceRemoved(ids, count),
        Sign.BOUND: lambda: BindingChanged("", what.driver, count),
        Sign.UNBOUND: lambda: BindingChanged(driver, "", count),
        Sign.OPENED: lambda: HolderChanged("", True, count),
        Sign.CLOSED: lambda: HolderChanged("", False, count),
        Sign.DROPPED: lambda: KernelLine(UEVENTS_LOST, lost, count - 1),
    }
    return what.subject, make[what.sign]()
