"""From the kernel log to the reset history that the snapshot carries.

Attempts are keyed by identity, firmware tuple and boot, so that a device that moves keeps its past
and one that was replaced does not inherit it. The history is known only if this boot's kernel log
has been read, now or earlier in the boot by the owner of the journal; else it is not known, which
is never the same as clean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from vfio_agent.journal import Journal
from vfio_agent.reset_lines import find_traces
from vfio_contract.address import Address, Identity
from vfio_contract.durable import Stamp
from vfio_contract.fingerprint import reset_class
from vfio_contract.host import Host
from vfio_contract.ledger import (
    FAILURES,
    ResetAttempt,
    firmware_digest,
    firmware_words,
    summarise_attempts,
    without_echoes,
)
from vfio_contract.model import KernelLog, LogLine, PciFunction, ResetSummary, Snapshot

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


def find_attempts(host: Host) -> list[ResetAttempt]:
    """What the kernel log of this snapshot says, in its order, about functions that are there."""
    log = host.readings.kernel_log
    return [] if log is None else list(_attempts(host, log))


def _attempts(host: Host, log: KernelLog) -> Iterator[ResetAttempt]:
    firmware, words = firmware_digest(host.facts), firmware_words(host.facts)
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
                address=function.address,
                firmware_text=words,
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
    fresh = tuple(without_echoes(fresh, old))
    names = Names(host, (*old, *fresh))
    history: dict[str, list[ResetAttempt]] = {}
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for row in names.carry((*old, *fresh)):
        history.setdefault(row.identity, []).append(row)
    for name, (attempts, failures) in totals.items():
        now = names.now(name)
        tried[now] += failures if names.is_doubtful(name) else attempts
        failed[now] += failures
    for row in names.carry(fresh):
        tried[row.identity] += 1
        failed[row.identity] += row.outcome in FAILURES
    resettable = _find_resettable(host, history)
    summaries = (
        summarise_attempts(
            name,
            rows,
            boot_id=host.readings.boot_id,
            firmware=firmware,
            resettable=resettable.get(name),
        )
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


def _find_resettable(host: Host, names: Collection[str]) -> dict[str, bool]:
    """Of these identities, whether the kernel knows a way to reset the function, where it tells."""
    found: dict[str, bool] = {}
    for function in host.functions if names else ():
        name = host.identities[function.address].identity
        how = reset_class(function, host.by_address) if name in names else None
        if how is not None:
            found[name] = how != "none"
    return found


def _with_ledger(
    snapshot: Snapshot, ledger: tuple[ResetSummary, ...] | None, *, kept: bool
) -> Snapshot:
    readings = replace(snapshot.readings, ledger=ledger, ledger_kept=kept)
    return replace(snapshot, readings=readings)


class Names:
    """What the devices of these attempts are called now, and what goes with the name.

    A device that died or sleeps answers no serial number, so an attempt may have been recorded
    under the place-based identity and the device be known by its serial now, or the other way
    round. Two different serial numbers are two devices, wherever they sit. Where the one that is
    there now did answer, and only one of the two has a serial number, they may be two devices as
    well: failures go with the name, because nobody knows, and what went well does not.
    """

    def __init__(self, host: Host, rows: Iterable[ResetAttempt]) -> None:
        present = {i.place: (i.identity, address) for address, i in host.identities.items()}
        identities = frozenset(identity for identity, _ in present.values())
        self._now: dict[str, str] = {}
        self._doubtful: set[str] = set()
        for row in rows:
            now, address = present.get(Identity(row.place), ("", None))
            if address is None or row.identity in identities:
                continue
            if row.place in (row.identity, now):
                self._now[row.identity] = now
                if now != row.place or _answers(host, host.by_address[address]):
                    self._doubtful.add(row.identity)

    def now(self, identity: str) -> str:
        """What the device that had this identity is called now."""
        return self._now.get(identity, identity)

    def is_doubtful(self, identity: str) -> bool:
        """Whether the one of that name now may be another device."""
        return identity in self._doubtful

    def carry(self, rows: Iterable[ResetAttempt]) -> Iterator[ResetAttempt]:
        """The attempts under these names, without what cannot be told of the one there now."""
        for row in rows:
            if row.outcome in FAILURES or not self.is_doubtful(row.identity):
                yield replace(row, identity=self.now(row.identity))


def _answers(host: Host, function: PciFunction) -> bool:
    """Whether its serial number, of a VF its owner's, was looked for: it was awake and alive, and
    all of its config space was read."""
    config = host.by_address.get(function.physfn or function.address, function).config
    return config is not None and not config.dead and config.extended is not None
