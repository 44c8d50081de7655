"""The screen of `vfioctl device history`: what the resets of a function amount to, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clean,
    cut,
    table,
    title,
    wrap,
)
from vfio_contract.ledger import VM_CYCLE, VM_START, Outcome, ResetState, read_state
from vfio_contract.ledger_views import (
    DeviceHistory,
    HistoryAttempt,
    HistoryDuration,
    HistoryTuple,
)

SHOWN, SHOWN_BEFORE = 8, 3
"""Attempts on the firmware tuple that runs and on another, on a screen of 80 columns; the wide one
has all that are kept, and what was seen of those that went well."""

_CHART = 28
"""Columns of the chart."""

_TONES = {
    ResetState.WEDGED: "bad",
    ResetState.FAILING: "bad",
    ResetState.ONE_SHOT: "warn",
    ResetState.PROBATION: "warn",
    ResetState.CAPABLE: "good",
    ResetState.PROVEN: "good",
}

_WHY = {
    ResetState.WEDGED: "it did not come back after a reset in this boot",
    ResetState.FAILING: "a reset failed in this boot, and nothing succeeded since",
    ResetState.ONE_SHOT: "it works for one VM in each boot of the host",
    ResetState.PROBATION: "it failed before, and has not been reset and then used by a VM since",
    ResetState.CAPABLE: "nothing failed; no VM was seen to follow another on this firmware",
    ResetState.PROVEN: "a VM stopped and the next one started well on this firmware",
}

_NEXT = {
    ResetState.WEDGED: "move its VM away, power the host off and on; no VM is placed on it",
    ResetState.FAILING: "power the host off and on, then start, stop and start a VM",
    ResetState.ONE_SHOT: "reboot the host between two VMs: vfioctl explain RESET_ONE_SHOT",
    ResetState.PROBATION: "start, stop and start a VM once, before you rely on it",
    ResetState.CAPABLE: "start, stop and start a VM once to prove it",
}

_UNKNOWN_STATE = "this version does not know the word: upgrade vfioctl"

_METHODS = {VM_START: "VM start", VM_CYCLE: "VM cycle"}


def history_screen(history: DeviceHistory, *, wide: bool = False) -> Lines:
    """The class and why, then the resets by firmware tuple."""
    width = UNLIMITED if wide else WIDTH
    state = read_state(history.state)
    word = history.state.upper() if state is None else state.upper()
    front = f"{clean(history.node)}  {clean(history.address) or 'address not known'}  "
    tone = "unsure" if state is None else _TONES[state]
    lines: Lines = [Line(front + clean(word), tone, len(front), len(front) + len(word))]
    for label, text in _head(history, state):
        lines += wrap(f"  {label:<10}", text, width=width)
    if not history.tuples:
        lines += [Line(""), *wrap("", "No reset of it is recorded.", width=width)]
    for one in history.tuples:
        lines += _tuple(one, wide=wide)
    return lines


def _head(history: DeviceHistory, state: ResetState | None) -> list[tuple[str, str]]:
    rows = [("identity", history.identity)]
    if history.gone:
        rows.append(("gone", "it is not in the host's inventory; this is where it was last"))
    rows.append(("why", _UNKNOWN_STATE if state is None else _WHY[state]))
    if history.evidence and state is not ResetState.PROVEN:
        rows.append(("evidence", history.evidence))
    if state is not None and state in _NEXT:
        rows.append(("next", _NEXT[state]))
    return rows


def _tuple(one: HistoryTuple, *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    head = "NOW" if one.present else "BEFORE"
    name = one.text or f"firmware {one.firmware}"
    lines: Lines = [Line(""), title(f"{head}  {cut(name, width - 8)}")]
    if not one.present:
        lines += wrap("  class     ", f"{one.state}, while that runs", width=width)
    lines += wrap("  resets    ", _counts(one), width=width)
    if one.durations:
        lines += [Line(""), *_chart(one.durations)]
    newest = one.newest if wide else one.newest[-(SHOWN if one.present else SHOWN_BEFORE) :]
    if newest:
        lines += [Line(""), *_attempts(newest, wide=wide)]
    left_out = one.attempts - len(newest)
    if left_out:
        lines += wrap("  ", f"and {left_out} before (-o json has all that are kept)", width=width)
    return lines


def _counts(one: HistoryTuple) -> str:
    """`12 of 13 went well (92%); of 3 more nobody saw how they went`."""
    seen = one.attempts - one.unobserved
    well = seen - one.failures
    if not one.attempts:
        return "none"
    told = f"{well} of {seen} went well ({100 * well // seen}%)" if seen else "none was observed"
    if one.unobserved:
        return f"{told}; of {one.unobserved} {'more ' if seen else ''}nobody saw how they went"
    return told


def _chart(rows: Sequence[HistoryDuration]) -> Lines:
    """From the shortest to the longest, with the middle one, all to the same scale."""
    most = max(row.max_ms for row in rows) or 1
    cells = [
        [
            method_words(row.method),
            str(row.count),
            took(row.min_ms),
            took(row.median_ms),
            took(row.max_ms),
            _bar(row, most),
        ]
        for row in rows
    ]
    scale = f"0 .. {took(most)}"
    return table(["TOOK", "TIMES", "MIN", "MEDIAN", "MAX", scale], cells, indent=2)


def _bar(row: HistoryDuration, most: int) -> str:
    first, middle, last = (
        round(value / most * (_CHART - 1)) for value in (row.min_ms, row.median_ms, row.max_ms)
    )
    cells = ["."] * _CHART
    cells[first : last + 1] = "-" * (last + 1 - first)
    cells[middle] = "#"
    return f"[{''.join(cells)}]"


def _attempts(rows: Sequence[HistoryAttempt], *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    lines: Lines = [Line("  WHEN (host's clock)  HOW        RESULT      TOOK")]
    for row in reversed(rows):
        tone = {Outcome.SUCCESS: "good", Outcome.UNOBSERVED: "unsure"}.get(
            _outcome(row.outcome), "bad"
        )
        front = f"  {_when(row):<19}  {method_words(row.method):<9}  "
        took_words = "-" if row.duration_ms is None else took(row.duration_ms)
        word = clean(row.outcome)
        text = f"{front}{word:<10}  {took_words}"
        lines.append(Line(text, tone, len(front), len(front) + len(word)))
        if wide or row.outcome != Outcome.SUCCESS:
            lines += wrap("      ", row.evidence, width=width)
    return lines


def _outcome(word: str) -> Outcome:
    return Outcome(word) if word in tuple(Outcome) else Outcome.UNOBSERVED


def _when(row: HistoryAttempt) -> str:
    if row.told_at_ms is not None:
        moment = datetime.fromtimestamp(row.told_at_ms / 1000, tz=UTC)
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    if row.this_boot is None:
        return "not known"
    return "this boot" if row.this_boot else "an earlier boot"


def method_words(method: str) -> str:
    """`VM cycle` for vm-cycle, else the kernel's name of the method."""
    return _METHODS.get(method, clean(method) or "not told")


def took(milliseconds: int) -> str:
    """`16ms`, `1.3s`, `65s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
