"""What is told of a function's resets, by its host or by the coordinator, as plain values.

The values of `vfio_contract.views` for one subject: names and fields are those of the messages in
`vfioctl.v1`. Nothing is worked out here; `reset_report` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistoryAttempt:
    """One reset, as `ledger.ResetAttempt`. `outcome` is a word of `ledger.Outcome`.

    `told_at_ms` and `duration_ms` are None where nobody wrote them down. `this_boot` is None where
    it is not known of which boot the attempt is, or which one this is.
    """

    told_at_ms: int | None
    boot_id: str
    this_boot: bool | None
    method: str
    outcome: str
    evidence: str
    address: str
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class HistoryDuration:
    """How long the resets of one method took, of the kept ones that were measured."""

    method: str
    count: int
    min_ms: int
    median_ms: int
    max_ms: int


@dataclass(frozen=True, slots=True)
class HistoryTuple:
    """The resets on one firmware tuple, `firmware` its digest and `text` its name for people.

    `state` is a word of `ledger.ResetState`: what it amounts to while this tuple runs. `attempts`,
    `failures` and `unobserved` count all that ever were; `newest` are those that are kept, in the
    order they happened.
    """

    firmware: str
    text: str
    present: bool
    state: str
    attempts: int
    failures: int
    unobserved: int
    durations: tuple[HistoryDuration, ...] = ()
    newest: tuple[HistoryAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceHistory:
    """All that is known of one function's resets.

    `state` is what it amounts to on the tuple that runs, and `evidence` the line that it rests on.
    `address` is where the function is, or was when it was last told of; `gone` says the latter.
    `tuples` are the one that runs, then the others, the newest first.
    """

    node: str
    identity: str
    address: str
    gone: bool
    state: str
    evidence: str
    used: bool
    tuples: tuple[HistoryTuple, ...] = ()
