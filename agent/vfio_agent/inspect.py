"""Look at one host and judge it: the local entry point, no server needed.

`vfioctl check` and the daemon walk the same street: collect, history, checks. It must never write
to the host, and as an ordinary user never say more than it could read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vfio_agent.checks import judge
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import Root, open_root
from vfio_agent.journal import Journal, JournalError
from vfio_agent.reset_history import with_history, with_known_history
from vfio_contract.findings import Report
from vfio_contract.host import Host
from vfio_contract.model import Gap, Snapshot

JOURNAL = Path("/var/lib/vfioctl/agent/journal.db")
"""Where this host's agent keeps its reset history."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen, what follows from it, and the verdict."""

    snapshot: Snapshot
    host: Host
    report: Report


def inspect_host(root_path: str = "/") -> Inspection:
    """Collect and judge `/`, a captured directory, or a captured tar; OSError if it is none."""
    return inspect_root(open_root(root_path))


def inspect_root(root: Root) -> Inspection:
    """Collect and judge one root; this host's own journal is read where it may be."""
    snapshot = collect_host(root)
    if not root.live:
        return judge_snapshot(with_known_history(snapshot, None))
    try:
        journal = Journal.open_readonly(JOURNAL)
    except (JournalError, OSError) as error:
        gap = Gap(path=str(JOURNAL), errno=0, reason=str(error), remedy="sudo vfioctl check")
        return judge_snapshot(_with_gap(with_known_history(snapshot, None), gap))
    try:
        return judge_snapshot(with_known_history(snapshot, journal))
    finally:
        if journal is not None:
            journal.close()


def observe(root: Root, journal: Journal, previous: Snapshot | None) -> Inspection:
    """What the daemon does each round; new resets are in the journal before they are reported."""
    return judge_snapshot(with_history(collect_host(root, previous=previous), journal))


def judge_snapshot(snapshot: Snapshot) -> Inspection:
    """Run the checks on a snapshot that was collected earlier."""
    host = Host(snapshot)
    return Inspection(snapshot=snapshot, host=host, report=judge(host))


def _with_gap(snapshot: Snapshot, gap: Gap) -> Snapshot:
    readings = replace(snapshot.readings, gaps=(*snapshot.readings.gaps, gap))
    return replace(snapshot, readings=readings)
