"""What a source of change tells: which parts of the host are worth reading again, and why.

A signal is a hint, never evidence: it says where to look, and only a reading says what is there.
The one exception are kernel lines, which are evidence themselves and travel as device events. Pure
values; this module must never read anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vfio_agent.watch.device_events import DeviceEvent
from vfio_contract.address import Address
from vfio_contract.model import Gap


class Part(StrEnum):
    """A part of the host that can be read by itself. WHOLE is all of them, the inventory too."""

    WHOLE = "whole"
    FUNCTIONS = "functions"
    HOLDERS = "holders"
    VMS = "vms"
    KERNEL_LOG = "kernel-log"
    HOST_USE = "host-use"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read again; `functions` are the addresses for FUNCTIONS and empty without it.

    HOST_USE is what the host itself uses: disks, mounts, network.
    """

    parts: frozenset[Part] = frozenset()
    functions: frozenset[Address] = frozenset()

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(self.parts | other.parts, self.functions | other.functions)

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def whole(self) -> bool:
        """True when everything is to be read, whatever else is named."""
        return Part.WHOLE in self.parts


NOTHING = Wanted()


def want(*parts: Part, functions: Iterable[Address] = ()) -> Wanted:
    """FUNCTIONS is added by itself when there are addresses."""
    addresses = frozenset(functions)
    return Wanted(frozenset((*parts, Part.FUNCTIONS) if addresses else parts), addresses)


@dataclass(frozen=True, slots=True)
class LinesLost:
    """Kernel lines from `first` to `last` (sequence numbers of /dev/kmsg) that nobody has read.

    They were overwritten before they could be read; what they said is not known.
    """

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many there were."""
        return self.last - self.first + 1


class Sign(StrEnum):
    """What the kernel says has happened, and what a look may not show any more."""

    ADDED = "added"
    REMOVED = "removed"
    BOUND = "bound"
    UNBOUND = "unbound"
    OPENED = "opened"
    CLOSED = "closed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Happening:
    """One sign: of a function by its address, of a VFIO node by its path.

    DROPPED (uevents that nobody read) has no subject. `driver` is who was bound.
    """

    sign: Sign
    subject: str = ""
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """One hint. `why` is short and for people. An `event` says itself what it wants, when it has
    passed the flood gate.

    `confirm`: the kernel may tell before it has done, so the same is worth a second reading.
    `happened` says what did, and how often: evidence too, if no two readings show it.
    """

    why: str
    wanted: Wanted = NOTHING
    confirm: bool = False
    event: DeviceEvent | None = None
    lost: LinesLost | None = None
    happened: tuple[tuple[Happening, int], ...] = ()


class Source(Protocol):
    """One way to notice change. No method may block, and none raises for what a host can do."""

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something, -1 for none."""

    def due_at(self) -> float:
        """When `tick` should be called, on the clock that `tick` is given; inf for never."""

    def read(self) -> Sequence[Signal]:
        """What there is now; only so much at once, so that no source starves another.

        OSError when this source has ended.
        """

    def tick(self, now_s: float) -> Sequence[Signal]:
        """What can only be noticed by looking from time to time."""

    def gaps(self) -> Sequence[Gap]:
        """What this source cannot see."""

    def close(self) -> None:
        """Give its descriptors back."""
