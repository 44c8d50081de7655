"""VMs that began to run and VMs that ended, told once, also over a hostd that was away.

What ran at the last look is one row of the journal, changed in the transaction that makes the news
durable: so a VM that ended while nobody looked is told of at the next look, and a crash at any
point tells nothing twice. Of VMs that ran before this host was first looked at nothing is told.
Where it is not known what runs, the row stays as it was. It must never take a process for the same
one by its number alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from vfio_agent.journal import Journal, JournalFull, SpoolFull
from vfio_contract.artifact import ArtifactError, decode, encode
from vfio_contract.durable import DurableEvent, Stamp, VmStarted, VmStopped
from vfio_contract.host import Host
from vfio_contract.model import VmProcess

log = logging.getLogger("vfio-hostd")


@dataclass(frozen=True, slots=True)
class Running:
    """The VMs that ran at one look, in one boot."""

    boot_id: str
    processes: tuple[VmProcess, ...]


def find_running(host: Host) -> Running | None:
    """What runs now, None where that is not known."""
    boot_id, processes = host.readings.boot_id, host.readings.vm_processes
    return None if not boot_id or processes is None else Running(boot_id, processes)


def tell_vms(before: Running, after: Running, *, at: Stamp) -> list[DurableEvent]:
    """What ended and what began between two looks, in this order; a boot ends all before it."""
    gone = before.processes if before.boot_id != after.boot_id else _beyond(before, after)
    come = after.processes if before.boot_id != after.boot_id else _beyond(after, before)
    payloads = [VmStopped(p.vm, p.kind) for p in gone] + [VmStarted(p.vm, p.kind) for p in come]
    return [DurableEvent(at, "", "", payload) for payload in payloads]


def _beyond(one: Running, other: Running) -> Iterator[VmProcess]:
    known = {(p.pid, p.started_seconds) for p in other.processes}
    return (p for p in one.processes if (p.pid, p.started_seconds) not in known)


class VmNews:
    """The journal's row of what runs. Used by one thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known = self._read()

    def tell(self, host: Host, *, at: Stamp) -> None:
        """Make durable what has changed since the last look. Without room for it, which the
        spool's status says, it is told with the next look."""
        now = find_running(host)
        if now is None or now == self._known:
            return
        events = [] if self._known is None else tell_vms(self._known, now, at=at)
        try:
            self._journal.tell_running(events, running=encode(now).decode("ascii"))
        except (JournalFull, SpoolFull) as error:
            log.error("%d starts and ends of VMs wait: %s", len(events), error)
            return
        self._known = now

    def _read(self) -> Running | None:
        text = self._journal.running()
        try:
            return decode(Running, text.encode()) if text else None
        except ArtifactError as error:
            log.warning("which VMs ran at the last look is not known: %s", error)
            return None
