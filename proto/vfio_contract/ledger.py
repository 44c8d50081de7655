"""The reset ledger's values: what was tried on a function, how it ended, and what that amounts to.

Keyed by identity, firmware tuple and boot, never by address. No error line is not success: an
attempt nobody watched is `unobserved`. This module is pure; the agent's journal keeps the rows.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Protocol, TypeVar

from vfio_contract.firmware import firmware_tuple
from vfio_contract.model import Facts, ResetEvent, ResetSummary

RECENT = 8
"""Attempts that a summary tells one by one."""

KEPT_ATTEMPTS = 32
"""Kept per identity and firmware tuple, on the host and in the cluster; see `choose_kept`."""

VM_START = "vm-start"
"""Method of a VM that was the first to have the function in its boot, as far as anybody saw: the
device works with it. That says nothing about a reset."""

VM_CYCLE = "vm-cycle"
"""Method of a VM that has a function which a VM before it let go of in the same boot: VFIO reset it
in between, and it works again."""

ONE_SHOT_BOOTS = 2
"""Boots in which a device must have worked once and no more before that is called its way."""

_STAMP = re.compile(r"\[ *(\d+\.\d+)\] ")
_WAITED = re.compile(r"not ready (\d{1,9})ms after|not set in (\d{1,9}) msec")
"""How long the kernel waited (drivers/pci/pci.c: pci_dev_wait(), pcie_wait_for_link_delay())."""


class Outcome(StrEnum):
    """How one reset ended."""

    SUCCESS = "success"
    FAILED = "failed"
    WEDGED = "wedged"
    UNOBSERVED = "unobserved"


FAILURES = frozenset({Outcome.FAILED, Outcome.WEDGED})


class ResetState(StrEnum):
    """What the history amounts to on one firmware tuple. FAILING and WEDGED refuse placement.

    PROVEN: a VM stopped and another start worked, and nothing failed since. CAPABLE: nothing
    failed, nothing is proven. PROBATION: it failed, and has not yet been reset and used since.
    ONE_SHOT: works once after each boot of the host.
    """

    CAPABLE = "capable"
    PROVEN = "proven"
    ONE_SHOT = "one-shot"
    PROBATION = "probation"
    FAILING = "failing"
    WEDGED = "wedged"


def read_state(text: str) -> ResetState | None:
    """The state of a word as any version wrote it; None for one that this version does not know."""
    if text == _BEFORE:
        return ResetState.CAPABLE
    return ResetState(text) if text in tuple(ResetState) else None


WORST_FIRST = (
    ResetState.WEDGED,
    ResetState.FAILING,
    ResetState.ONE_SHOT,
    ResetState.PROBATION,
    ResetState.CAPABLE,
    ResetState.PROVEN,
)

_BEFORE = "clean"
"""What earlier versions called CAPABLE."""

BAD = frozenset({ResetState.FAILING, ResetState.WEDGED})
"""Where it stands so in this boot; in the next it is PROBATION."""


@dataclass(frozen=True, slots=True)
class ResetAttempt:
    """One reset. `firmware` is the tuple's digest; `key` makes the same kernel line the same row.

    `method` is a `reset_method` name, VM_START, VM_CYCLE, or "" when the evidence does not tell.
    `boot_id` is "" where it is not known. `place` is what `identity` is without a serial number (""
    where not known): a device that died has none left to read. `address` is where it was then.
    `duration_ms` is None where nobody measured it, `told_at_ms` when it was recorded, in wall time
    since 1970. `firmware_text` is the tuple for people.
    """

    key: str
    identity: str
    firmware: str
    boot_id: str
    method: str
    outcome: Outcome
    evidence: str
    place: str = ""
    address: str = ""
    duration_ms: int | None = None
    told_at_ms: int | None = None
    firmware_text: str = ""


@dataclass(frozen=True, slots=True)
class Total:
    """What was ever recorded of one identity on one firmware tuple, rows that went included."""

    attempts: int
    failures: int
    unobserved: int

    @property
    def successes(self) -> int:
        """The rest."""
        return self.attempts - self.failures - self.unobserved

    def __add__(self, other: "Total") -> "Total":
        """Of both together."""
        return Total(
            self.attempts + other.attempts,
            self.failures + other.failures,
            self.unobserved + other.unobserved,
        )


class Tried(Protocol):
    """What `choose_kept` looks at, of an attempt as a host or the cluster keeps it."""

    @property
    def boot_id(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def outcome(self) -> str: ...


Row = TypeVar("Row", bound=Tried)


@dataclass(slots=True)
class _Standing:
    """A failure, and what succeeded since."""

    row: ResetAttempt
    was_reset: bool = False
    was_used: bool = False


def firmware_digest(facts: Facts) -> str:
    """A short name of the firmware tuple; that a part is not known is part of it."""
    parts = "\n".join(f"{name}={value!r}" for name, value in firmware_tuple(facts))
    return sha256(parts.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def firmware_words(facts: Facts) -> str:
    """The parts of the tuple by which people know it: `BIOS F10 11/06/2019, kernel 6.1.0`."""
    shown = ("BIOS", "kernel")
    parts = (
        f"{name} {value or 'not known'}" for name, value in firmware_tuple(facts) if name in shown
    )
    return ", ".join(parts)


def summarise_attempts(
    identity: str,
    attempts: Iterable[ResetAttempt],
    *,
    boot_id: str | None,
    firmware: str,
    resettable: bool | None = None,
) -> ResetSummary:
    """The state of one identity. `attempts` are in the order they happened, all firmware tuples;
    `resettable` False says that the kernel knows no reset of the function.

    A failure stands until a reset and a VM's start have succeeded after it, on its own firmware
    tuple or on this one; a VM_CYCLE is both. One with neither of them yet makes it wedged or
    failing in its own boot; any other is probation, because a reboot may have cured it and may
    not. Where `boot_id` is None, or a failure's own is not known, no reboot lies between them for
    sure and it counts as of this boot. What succeeded on another tuple proves nothing about this
    one. A later failure, on whatever tuple, ends what was proven.
    """
    rows = [a for a in attempts if a.identity == identity]
    standing = _find_standing(rows, firmware)
    state = _classify(rows, standing, boot_id, firmware, resettable)
    last = rows[-1] if rows else None
    shown = standing[-1].row if standing else last
    return ResetSummary(
        identity=identity,
        state=str(state),
        attempts=len(rows),
        failures=sum(row.outcome in FAILURES for row in rows),
        last_outcome=str(last.outcome) if last else "",
        last_evidence=shown.evidence if shown else "",
        recent=tuple(_make_event(row, boot_id) for row in rows[-RECENT:]),
        used=any(is_use(row) and _is_now(row, boot_id) for row in rows),
    )


def is_use(row: Tried) -> bool:
    """Whether a VM had the function."""
    return row.method in (VM_START, VM_CYCLE)


def choose_kept(rows: Sequence[Row], most: int = KEPT_ATTEMPTS) -> list[Row]:
    """Which rows of one identity and firmware tuple stay: the newest, and what the state rests on.

    That is the newest of each outcome of a reset, a start and a cycle, and of the last boots in
    which the device worked once and then failed, the start and the failure. So the state does not
    change by trimming, whatever comes later.
    """
    if len(rows) <= most:
        return list(rows)
    kept = {(row.outcome, _kind(row)): number for number, row in enumerate(rows)}
    chosen = set(kept.values())
    for pair in _spent(rows)[-ONE_SHOT_BOOTS:]:
        chosen.update(pair)
    for number in range(len(rows) - 1, -1, -1):
        if len(chosen) >= most:
            break
        chosen.add(number)
    return [rows[number] for number in sorted(chosen)]


def without_echoes(
    rows: Iterable[ResetAttempt], before: Iterable[ResetAttempt]
) -> Iterator[ResetAttempt]:
    """The rows but for those that only say again what is known; both in the order they happened.

    A device that died says so with every access, thousands of times, and nobody reset it again. So
    a line that names no method is a row of its own only where it is worse than the row before it:
    the failure that stands in the same boot is the one that it speaks of.
    """
    last = {row.identity: row for row in before}
    for row in rows:
        if not _is_echo(row, last.get(row.identity)):
            last[row.identity] = row
            yield row


def kernel_seconds(evidence: str) -> float | None:
    """When the kernel wrote the line that an attempt quotes; None where it quotes none."""
    stamp = _STAMP.match(evidence)
    return None if stamp is None else float(stamp[1])


def _find_standing(rows: Sequence[ResetAttempt], firmware: str) -> list[_Standing]:
    standing: list[_Standing] = []
    for row in rows:
        if row.outcome in FAILURES:
            standing.append(_Standing(row))
        elif row.outcome is Outcome.SUCCESS:
            for failure in standing:
                if row.firmware in (firmware, failure.row.firmware):
                    failure.was_reset |= row.method != VM_START
                    failure.was_used |= is_use(row)
            standing = [s for s in standing if not (s.was_reset and s.was_used)]
    return standing


def _classify(
    rows: Sequence[ResetAttempt],
    standing: Sequence[_Standing],
    boot_id: str | None,
    firmware: str,
    resettable: bool | None,
) -> ResetState:
    acute = {
        s.row.outcome
        for s in standing
        if not (s.was_reset or s.was_used) and _is_now(s.row, boot_id, unknown=True)
    }
    if Outcome.WEDGED in acute:
        return ResetState.WEDGED
    if acute:
        return ResetState.FAILING
    here = [row for row in rows if row.firmware == firmware]
    worked = {row.method for row in here if row.outcome is Outcome.SUCCESS}
    once = resettable is False and VM_START in worked and VM_CYCLE not in worked
    if once or len(_spent(here)) >= ONE_SHOT_BOOTS:
        return ResetState.ONE_SHOT
    if standing:
        return ResetState.PROBATION
    return ResetState.PROVEN if _is_proven(rows, firmware) else ResetState.CAPABLE


def _is_proven(rows: Sequence[ResetAttempt], firmware: str) -> bool:
    for row in reversed(rows):
        if row.outcome in FAILURES:
            return False
        if (row.outcome, row.method, row.firmware) == (Outcome.SUCCESS, VM_CYCLE, firmware):
            return True
    return False


def _spent(rows: Sequence[Tried]) -> list[tuple[int, int]]:
    """Since the last cycle that worked, the boots in which the first VM's start worked and then
    something failed: the places of the two rows of each. `rows` are of one firmware tuple."""
    found: list[tuple[int, int]] = []
    started: int | None = None
    for number, row in enumerate(rows):
        if row.outcome == Outcome.SUCCESS and row.method == VM_CYCLE:
            found, started = [], None
        elif row.outcome == Outcome.SUCCESS and row.method == VM_START:
            started = number if row.boot_id else None
        elif row.outcome in FAILURES and started is not None:
            boot_id = rows[started].boot_id
            if boot_id == row.boot_id and all(rows[s].boot_id != boot_id for s, _ in found):
                found.append((started, number))
            started = None
    return found


def _is_echo(row: ResetAttempt, last: ResetAttempt | None) -> bool:
    if row.method or row.outcome not in FAILURES or last is None:
        return False
    same = (last.boot_id, last.firmware) == (row.boot_id, row.firmware)
    return same and last.outcome in (Outcome.WEDGED, row.outcome)


def _kind(row: Tried) -> str:
    return row.method if is_use(row) else ""


def _is_now(row: ResetAttempt, boot_id: str | None, *, unknown: bool = False) -> bool:
    """Whether it is of this boot; `unknown` where one of the two is not known."""
    if not row.boot_id or boot_id is None:
        return unknown
    return row.boot_id == boot_id


def _make_event(row: ResetAttempt, boot_id: str | None) -> ResetEvent:
    waited = _WAITED.search(row.evidence)
    return ResetEvent(
        method=row.method,
        outcome=str(row.outcome),
        waited_ms=None if waited is None else int(waited[1] or waited[2]),
        seconds=kernel_seconds(row.evidence),
        this_boot=row.boot_id == boot_id if row.boot_id and boot_id else None,
    )
