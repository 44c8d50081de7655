"""From the attempts that are kept of a function to what is told of them.

Pure, and the same on the host and in the cluster, so that both tell the same of the same attempts.
It must never count what nobody saw as a success.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median_low

from vfio_contract.ledger import (
    FAILURES,
    Outcome,
    ResetAttempt,
    ResetState,
    Total,
    summarise_attempts,
)
from vfio_contract.ledger_views import (
    DeviceHistory,
    HistoryAttempt,
    HistoryDuration,
    HistoryTuple,
)


def report_resets(
    rows: Sequence[ResetAttempt],
    totals: Mapping[str, Total],
    *,
    node: str,
    identity: str,
    address: str,
    gone: bool,
    boot_id: str | None,
    firmware: str,
    state: ResetState | None = None,
) -> DeviceHistory:
    """`rows` are all kept attempts of this one function in the order they happened, `totals` by
    firmware tuple. `firmware` is the one that runs, "" where that is not known: then the last one
    stands for it. `state` is what gates placement, where whoever asks keeps that apart."""
    own = [replace(row, identity=identity) for row in rows]
    runs = firmware or (own[-1].firmware if own else "")
    summary = summarise_attempts(identity, own, boot_id=boot_id, firmware=runs)
    others = dict.fromkeys(row.firmware for row in reversed(own) if row.firmware != runs)
    tuples = [t for t in (runs, *others) if t in totals or any(r.firmware == t for r in own)]
    return DeviceHistory(
        node=node,
        identity=identity,
        address=address or next((row.address for row in reversed(own) if row.address), ""),
        gone=gone,
        state=str(state or summary.state),
        evidence=summary.last_evidence,
        used=summary.used,
        tuples=tuple(
            _report_tuple(t, own, totals.get(t), identity, boot_id, present=t == firmware)
            for t in tuples
        ),
    )


def _report_tuple(
    firmware: str,
    rows: Sequence[ResetAttempt],
    total: Total | None,
    identity: str,
    boot_id: str | None,
    *,
    present: bool,
) -> HistoryTuple:
    own = [row for row in rows if row.firmware == firmware]
    failed = sum(row.outcome in FAILURES for row in own)
    unseen = sum(row.outcome is Outcome.UNOBSERVED for row in own)
    total = total or Total(len(own), failed, unseen)
    summary = summarise_attempts(identity, rows, boot_id=boot_id, firmware=firmware)
    return HistoryTuple(
        firmware=firmware,
        text=next((row.firmware_text for row in reversed(own) if row.firmware_text), ""),
        present=present,
        state=summary.state,
        attempts=total.attempts,
        failures=total.failures,
        unobserved=total.unobserved,
        durations=tuple(_durations(own)),
        newest=tuple(_report_attempt(row, boot_id) for row in own),
    )


def _durations(rows: Sequence[ResetAttempt]) -> Iterator[HistoryDuration]:
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.duration_ms is not None:
            found.setdefault(row.method, []).append(row.duration_ms)
    for method, took in sorted(found.items()):
        middle = median_low(took)
        yield HistoryDuration(method, len(took), min(took), middle, max(took))


def _report_attempt(row: ResetAttempt, boot_id: str | None) -> HistoryAttempt:
    return HistoryAttempt(
        told_at_ms=row.told_at_ms,
        boot_id=row.boot_id,
        this_boot=row.boot_id == boot_id if row.boot_id and boot_id else None,
        method=row.method,
        outcome=str(row.outcome),
        evidence=row.evidence,
        address=row.address,
        duration_ms=row.duration_ms,
    )
