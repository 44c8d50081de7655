"""Look at one host and judge it: the local entry point, no server needed.

`vfioctl check` and the daemon walk the same street: collect, history, checks. It must never write
to the host, and as an ordinary user never say more than it could read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vfio_agent.checks import judge
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import Root as Root
from vfio_agent.collect.root import open_root
from vfio_agent.journal import Journal, JournalError, JournalFull
from vfio_agent.reset_history import with_history, with_known_history
from vfio_contract.durable import Stamp
from vfio_contract.findings import Report
from vfio_contract.host import Host
from vfio_contract.model import Gap, Snapshot

if TYPE_CHECKING:
    from vfio_agent.pasted import Given

JOURNAL = Path("/var/lib/vfioctl/agent/journal.db")
"""Where this host's agent keeps its reset history unless it was told otherwise."""


SYNC_DIRECTORY = "/var/tmp"
"""Where fsync is measured unless somebody says otherwise: on a disk everywhere, unlike /tmp."""

HOST_FILES = ("/sys", "/proc", "/etc", "/dmesg")
"""One of these is in whatever was captured of a host."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen, what follows from it, and the verdict.

    `given` is the account of pasted or recorded evidence; () for a host that was read itself.
    """

    snapshot: Snapshot
    host: Host
    report: Report
    given: tuple[Given, ...] = ()


def inspect_host(root_path: str = "/", *, journal: Path = JOURNAL) -> Inspection:
    """Collect and judge `/`, a captured directory, or a captured tar; OSError if it is none."""
    return inspect_root(open_root(root_path), journal=journal)


def open_host(root_path: str) -> Root:
    """The root at a path, `/` for the running host; OSError if it is none."""
    return open_root(root_path)


def holds_host(root: Root) -> bool:
    """False for a directory or tar that is no host's at all: not even a gap could be told of it."""
    if root.live:
        return True
    found = root.real_many(HOST_FILES)
    # a gap has no errno: a file that is there but cannot be read has one
    return any(not isinstance(f, OSError) or f.errno for f in found)


def inspect_root(
    root: Root, *, journal: Path = JOURNAL, sync_directory: str | None = None
) -> Inspection:
    """Collect and judge one root. `journal` is this host's, and only read for the running host.

    With `sync_directory` the running host's fsync is measured there, the only thing that writes.
    """
    snapshot = collect_host(root)
    if not root.live:
        return judge_snapshot(with_known_history(snapshot, None))
    if sync_directory is not None:
        from vfio_agent.fsync_probe import measure_fsync

        measured = replace(snapshot.readings, fsync=measure_fsync(sync_directory))
        snapshot = replace(snapshot, readings=measured)
    try:
        opened = Journal.open_readonly(journal)
        try:
            return judge_snapshot(with_known_history(snapshot, opened))
        finally:
            if opened is not None:
                opened.close()
    except JournalError as error:
        # What is not recorded in there is not known either, so the ledger stays None.
        return judge_snapshot(_with_gap(snapshot, journal, error))


def inspect_evidence(paths: Sequence[str], *, stdin: BinaryIO | None = None) -> Inspection:
    """Judge the one host that these PATHs tell of: artifact, captured root, pasted text; `-` stdin.

    OSError and `pasted.EvidenceError` (a ValueError) for a PATH that cannot be used.
    """
    # a host that is looked at itself need not load what reads pasted text
    from vfio_agent.pasted import gather, reword_report

    snapshot, given = gather(paths, stdin=stdin)
    if snapshot.readings.ledger is None:
        snapshot = with_known_history(snapshot, None)
    seen = judge_snapshot(snapshot)
    # of what a recorder wrote the checks' own words are right
    report = seen.report if all(row.recorded for row in given) else reword_report(seen.report)
    return replace(seen, report=report, given=given)


def observe(
    root: Root, journal: Journal, previous: Snapshot | None, *, gaps: Iterable[Gap] = ()
) -> Inspection:
    """What hostd does each round; new resets are in the journal before they are reported.

    `gaps` are what else could not be seen. With a full disk the reset history is not known.
    """
    snapshot = collect_host(root, previous=previous)
    known = {gap.path for gap in snapshot.readings.gaps}
    more = (*snapshot.readings.gaps, *(gap for gap in gaps if gap.path not in known))
    snapshot = replace(snapshot, readings=replace(snapshot.readings, gaps=more))
    try:
        snapshot = with_history(snapshot, journal, at=now(snapshot.readings.boot_id))
    except JournalFull as error:
        snapshot = _with_gap(snapshot, journal.path, error)
    return judge_snapshot(snapshot)


def judge_snapshot(snapshot: Snapshot) -> Inspection:
    """Run the checks on a snapshot that was collected earlier."""
    host = Host(snapshot)
    return Inspection(snapshot=snapshot, host=host, report=judge(host))


def now(boot_id: str | None) -> Stamp:
    """This moment of a boot."""
    boottime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return Stamp(boot_id or "", boottime_ms, time.time_ns() // 1_000_000)


def _with_gap(snapshot: Snapshot, journal: Path, error: JournalError) -> Snapshot:
    cause = error.__cause__
    number = cause.errno or 0 if isinstance(cause, OSError) else 0
    remedy = "sudo vfioctl check" if isinstance(cause, PermissionError) else ""
    gap = Gap(path=str(journal), errno=number, reason=str(error), remedy=remedy)
    readings = replace(snapshot.readings, gaps=(*snapshot.readings.gaps, gap), ledger=None)
    return replace(snapshot, readings=readings)
