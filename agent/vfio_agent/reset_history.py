"""From the kernel log to the reset history that the snapshot carries.

Attempts are keyed by identity, firmware tuple and boot, so that a device that moves keeps its past
and one that was replaced does not inherit it. The history is known only if this boot's kernel log
has been read, now or earlier in the boot by the owner of the journal; else it is not known, which
is never the same as clean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from vfio_agent.journal import Journal
from vfio_agent.reset_lines import find_traces
from vfio_contract.address import Address, Identity
from vfio_contract.drift import firmware_tuple
from vfio_contract.durable import Stamp
from vfio_contract.host import Host
from vfio_contract.identity import Identified
from vfio_contract.ledger import FAILURES, ResetAttempt, summarise_attempts
from vfio_contract.model import Facts, KernelLog, LogLine, PciFunction, ResetSummary, Snapshot

Totals = Mapping[str, tuple[int, int]]
"""Identity -> (attempts, failures), those no longer kept as rows included."""


def with_history(snapshot: Snapshot, journal: Journal, *, at: Stamp | None = None) -> Snapshot:
    """The snapshot with `readings.ledger` filled in: one summary per identity with any attempt.

    New attempts are durable in the journal, which is ours, before they are reported; with `at`, the
    moment of this look, as durable events too. A snapshot without a boot id is only looked at: its
    attempts could not be told from those of other boots.
    """
    boot_id = snapshot.readings.boot_id
    if boot_id and snapshot.readings.kernel_log is not None:
        journal.record(find_attempts(Host(snapshot)), boot_id=boot_id, at=at)
    return with_known_history(snapshot, journal)


def with_known_history(snapshot: Snapshot, journal: Journal | None) -> Snapshot:
    """Like `with_history`, for a journal that belongs to another process or for none at all."""
    host = Host(snapshot)
    boot_id = snapshot.readings.boot_id
    fresh = find_attempts(host)
    read_before = journal is not None and boot_id and journal.fed_boot() == boot_id
    if snapshot.readings.kernel_log is None and not read_before:
        return _with_ledger(snapshot, None, kept=journal is not None)
    if journal is None:
        return _summarised(host, (), {}, fresh, kept=False)
    seen = journal.seen(boot_id or "")
    fresh = [row for row in fresh if row.key not in seen]
    return _summarised(host, journal.attempts(), journal.totals(), fresh, kept=True)


def firmware_digest(facts: Facts) -> str:
    """A short name of the firmware tuple; that a part is not known is part of it."""
    parts = "\n".join(f"{name}={value!r}" for name, value in firmware_tuple(facts))
    return _digest(parts, 16)


def find_attempts(host: Host) -> list[ResetAttempt]:
    """What the kernel log of this snapshot says, in its order, about functions that are there."""
    log = host.readings.kernel_log
    return [] if log is None else list(_attempts(host, log))


def _attempts(host: Host, log: KernelLog) -> Iterator[ResetAttempt]:
    firmware = firmware_digest(host.facts)
    times: Counter[str] = Counter()
    subjects = _Subjects(host)
    for trace in find_traces(log.lines):
        text = _show(trace.line)
        count = times[text]
        times[text] += 1
        if count and trace.line.seconds is not None:
            continue  # one event that two parts of a log tell; without a time stamp it is another
        for function in subjects.find(trace.address, below=trace.below):
            identified = host.identities[function.address]
            yield ResetAttempt(
                key=_digest(f"{text}|{count}", 24),
                identity=identified.identity,
                place=identified.place,
                firmware=firmware,
                boot_id=host.readings.boot_id or "",
                method=trace.method,
                outcome=trace.outcome,
                evidence=text,
            )


def _digest(text: str, digits: int) -> str:
    return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:digits]


def _show(line: LogLine) -> str:
    return line.text if line.seconds is None else f"[{line.seconds:12.6f}] {line.text}"


class _Subjects:
    """The endpoints that a line about an address speaks of; floods ask the same again."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._found: dict[tuple[Address, bool], list[PciFunction]] = {}

    def find(self, address: Address, *, below: bool) -> list[PciFunction]:
        """The function with its virtual ones, or for `below` all endpoints behind the bridge."""
        key = (address, below)
        if key not in self._found:
            self._found[key] = self._look(*key)
        return self._found[key]

    def _look(self, address: Address, below: bool) -> list[PciFunction]:
        function = self._host.by_address.get(address)
        if function is None:
            return []
        behind = [f for f in self._host.functions if self._is_behind(f, address)]
        if behind and below:
            return [f for f in behind if not f.is_bridge]
        if behind or function.is_bridge:
            return []
        return [f for f in self._host.functions if address in (f.address, f.physfn)]

    def _is_behind(self, function: PciFunction, port: Address) -> bool:
        above = self._host.ancestors(function)
        return function.parent == port or any(bridge.address == port for bridge in above)


def _summarised(
    host: Host,
    old: Sequence[ResetAttempt],
    totals: Totals,
    fresh: Sequence[ResetAttempt],
    *,
    kept: bool,
) -> Snapshot:
    firmware = firmware_digest(host.facts)
    names = _rename((*old, *fresh), host.identities.values())
    history: dict[str, list[ResetAttempt]] = {}
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for row in (*old, *fresh):
        now = names[row.identity]
        history.setdefault(now, []).append(replace(row, identity=now))
    for name, (attempts, failures) in totals.items():
        tried[names.get(name, name)] += attempts
        failed[names.get(name, name)] += failures
    for row in fresh:
        tried[names[row.identity]] += 1
        failed[names[row.identity]] += row.outcome in FAILURES
    summaries = (
        summarise_attempts(name, rows, boot_id=host.readings.boot_id, firmware=firmware)
        for name, rows in sorted(history.items())
    )
    return _with_ledger(
        host.snapshot,
        tuple(
            replace(summary, attempts=tried[summary.identity], failures=failed[summary.identity])
            for summary in summaries
        ),
        kept=kept,
    )


def _with_ledger(
    snapshot: Snapshot, ledger: tuple[ResetSummary, ...] | None, *, kept: bool
) -> Snapshot:
    readings = replace(snapshot.readings, ledger=ledger, ledger_kept=kept)
    return replace(snapshot, readings=readings)


def _rename(rows: Iterable[ResetAttempt], present: Iterable[Identified]) -> dict[str, str]:
    """What the devices of these attempts are called now.

    A device that died answers no serial number, so an attempt may have been recorded under the
    place-based identity and the device be known by its serial now, or the other way round. Two
    different serial numbers are two devices, wherever they sit.
    """
    by_place = {row.place: row.identity for row in present}
    identities = frozenset(by_place.values())
    names: dict[str, str] = {}
    for row in rows:
        names.setdefault(row.identity, row.identity)
        now = by_place.get(Identity(row.place))
        lacks_serial = row.place in (row.identity, now)
        if row.identity not in identities and now is not None and lacks_serial:
            names[row.identity] = now
    return names
