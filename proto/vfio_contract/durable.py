"""Durable events: what happened on a host and must reach the cluster once, however often sent.

An agent spools them on its disk, numbers them by (spool id, seq) and keeps them until the
coordinator has committed their effect. An event says what happened and decides nothing. Free text
comes from kernel logs and strangers: a payload cuts and cleans it when it is made, so that no host
can make an event that is refused for its size.

Of what comes, goes or changes hands `between` is 0 where two looks at the host show it. Else only
the kernel said so, that many times, between two looks that show no difference.

CRITICAL events are never dropped once they are spooled; of the others the oldest give way when the
spool is full, and an `EventsLost` stands in their place: a number is either an event or within
exactly one gap.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

from vfio_contract.artifact import ArtifactError, decode, encode, from_plain

MAX_TEXT = 1024
"""Characters of one field of text; a kernel log record holds at most 1,024 bytes (printk.c)."""

MAX_SEQ = (1 << 62) - 1
"""Highest number of an event: fits SQLite's and protobuf's signed 64 bits."""


LINES_LOST = "lines-lost"
"""Category of kernel lines that were overwritten before anybody read them."""


UEVENTS_LOST = "uevents-lost"
"""Category of uevents that the kernel dropped before anybody read them."""


def clean_text(text: str) -> str:
    """At most MAX_TEXT characters of valid Unicode."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


class _Clean:
    """Cuts and cleans every field of text."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # each subclass is one
            value = getattr(self, field.name)
            if isinstance(value, str):
                object.__setattr__(self, field.name, clean_text(value))


@dataclass(frozen=True, slots=True)
class ResetAttempted(_Clean):
    """One reset of the subject; fields as in `ledger.ResetAttempt`.

    `duration_ms` is None where nobody measured it. `boot_id` is the attempt's own, which may be an
    earlier one than that in which it is told; "" from an agent that did not say.
    """

    key: str
    firmware: str
    method: str
    outcome: str
    evidence: str
    place: str
    duration_ms: int | None = None
    boot_id: str = ""
    firmware_text: str = ""


@dataclass(frozen=True, slots=True)
class KernelLine(_Clean):
    """A classified kernel line about the subject; `suppressed` alike ones were not told apart.

    `category` is an id of the diagnosis catalogue, or LINES_LOST where nobody read what was said.
    `foreign`: a process wrote it into the kernel's log, so it is no evidence about the kernel.
    """

    category: str
    line: str
    suppressed: int
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class BindingChanged(_Clean):
    """The subject's driver; "" for none."""

    before: str
    after: str
    between: int = 0


@dataclass(frozen=True, slots=True)
class DeviceAppeared(_Clean):
    """The subject is on the bus now. `ids` is vendor:device, "" where not known."""

    ids: str
    between: int = 0


@dataclass(frozen=True, slots=True)
class DeviceRemoved(_Clean):
    """The subject left the bus."""

    ids: str
    between: int = 0


@dataclass(frozen=True, slots=True)
class VmStarted(_Clean):
    """A VM began to run. `hypervisor` is libvirt, proxmox, exec or qemu."""

    vm: str
    hypervisor: str


@dataclass(frozen=True, slots=True)
class VmStopped(_Clean):
    """A VM ended."""

    vm: str
    hypervisor: str


@dataclass(frozen=True, slots=True)
class HolderChanged(_Clean):
    """A process opened (`held`) or let go of the subject's VFIO node; `process` "" if not known."""

    process: str
    held: bool
    between: int = 0


@dataclass(frozen=True, slots=True)
class ActionEnded(_Clean):
    """An action has ended. `id` is its command's, random for one that was asked for on the host.

    `report` is `action.pack_report`'s, b"" from an agent that made none.
    """

    id: str
    verb: str
    outcome: str
    detail: str
    report: bytes = b""


@dataclass(frozen=True, slots=True)
class KindCount(_Clean):
    """How many events of a kind (`kind_of`)."""

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class EventsLost:
    """The events from `first` to this one's own number were lost. `kinds` is sorted by name."""

    first: int
    kinds: tuple[KindCount, ...]


Payload = (
    ResetAttempted
    | KernelLine
    | BindingChanged
    | DeviceAppeared
    | DeviceRemoved
    | VmStarted
    | VmStopped
    | HolderChanged
    | ActionEnded
    | EventsLost
)

CRITICAL: tuple[type, ...] = (ResetAttempted, VmStarted, VmStopped, ActionEnded, EventsLost)
"""Never dropped once they are spooled."""


def kind_of(payload: Payload) -> str:
    """`reset_attempted` for ResetAttempted: the name on the wire and in the spool."""
    return _snake(type(payload))


def _snake(kind: type) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).removeprefix("_")


_KINDS: dict[str, type[Any]] = {_snake(kind): kind for kind in get_args(Payload)}


@dataclass(frozen=True, slots=True)
class Stamp(_Clean):
    """A moment on a host: milliseconds of CLOCK_BOOTTIME in a boot, and of wall time since 1970.

    Only the former orders events; the latter is for people and may jump.
    """

    boot_id: str
    boottime_ms: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class DurableEvent(_Clean):
    """What happened, when, to which function; identity and address are "" for the node itself.

    `payload` is None for one of a newer version, which is counted and not understood.
    """

    at: Stamp
    identity: str
    address: str
    payload: Payload | None


@dataclass(frozen=True, slots=True)
class Spooled:
    """An event with its number."""

    seq: int
    event: DurableEvent

    @property
    def first(self) -> int:
        """The lowest number that it stands for: a gap stands for many."""
        payload = self.event.payload
        return payload.first if isinstance(payload, EventsLost) else self.seq


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the cluster holds a spool: everything up to `seq`, of which `at` is the moment.

    Two events of one number and different moments were not written by the same spool: one of them
    was restored from a copy. `at` is NO_MOMENT where `seq` is 0.
    """

    spool_id: str
    seq: int
    at: Stamp


NO_MOMENT = Stamp("", 0, 0)


@dataclass(frozen=True, slots=True)
class JournalStatus(_Clean):
    """How an agent's journal is: `code` is "" for good, else JOURNAL_FAILED, HOSTD_AWAY or
    SPOOL_FULL."""

    code: str = ""
    text: str = ""


class SpoolUnavailable(Exception):
    """The spool cannot be read or written now; the text says why."""


def encode_event(event: DurableEvent) -> bytes:
    """Canonical bytes for the spool; ValueError for one that this version does not know itself."""
    if event.payload is None:
        raise ValueError("an event without a payload cannot be spooled")
    return encode(
        {
            "kind": kind_of(event.payload),
            "at": event.at,
            "identity": event.identity,
            "address": event.address,
            "payload": event.payload,
        }
    )


def decode_event(data: bytes) -> DurableEvent:
    """The event of `encode_event`; ArtifactError names what is wrong with it."""
    plain = decode(dict, data)
    payload = _KINDS.get(str(plain.get("kind")))
    if payload is None:
        raise ArtifactError(f"kind: {plain.get('kind')!r} is not known")
    return DurableEvent(
        at=from_plain(Stamp, plain.get("at"), "at"),
        identity=from_plain(str, plain.get("identity"), "identity"),
        address=from_plain(str, plain.get("address"), "address"),
        payload=from_plain(payload, plain.get("payload"), "payload"),
    )
