"""What became of an action on a host: the report that its asker reads and the cluster keeps.

    {"schema": "vfioctl.action/v1", "id": ..., "verb": "bind", "outcome": "done", ...}

One value for all who look at it: screens, documents, the agent's journal and the durable event that
tells its end. A report says what was seen and done and decides nothing. This module must never let
a long report keep an action from being told: what is too long is shortened, with a note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from vfio_contract.address import Address, Identity
from vfio_contract.artifact import (
    ArtifactError,
    compress,
    decode,
    decompress,
    encode,
    from_plain,
    to_plain,
)
from vfio_contract.durable import ActionEnded, DurableEvent, Stamp
from vfio_contract.findings import Evidence, Finding

SCHEMA = "vfioctl.action/v1"

MAX_PACKED_BYTES = 48 * 1024
"""Of a packed report: with its event it fits the room that the spool reserves for an action."""

MAX_REPORT_BYTES = 16 * 1024 * 1024
"""To which a packed one may unfold at whoever reads it."""

SHORTENED = "this report was shortened"

NOT_PERMITTED = "not permitted yet"
"""How the note begins that a plan would be refused: the host's owner has not permitted it."""


class Outcome(StrEnum):
    """How an action ended.

    PLANNED: nothing was to be done, and it could be. REFUSED: not done, for reasons that are facts.
    UNKNOWN: not done, because evidence is missing. FAILED: done in part, or a reset that did not
    work. UNDONE: failed, and everything was taken back. WAITING: the kernel has not answered yet.
    """

    DONE = "done"
    PLANNED = "planned"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    FAILED = "failed"
    UNDONE = "undone"
    WAITING = "waiting"


EXIT_CODES = {
    Outcome.DONE: 0,
    Outcome.PLANNED: 0,
    Outcome.REFUSED: 2,
    Outcome.FAILED: 2,
    Outcome.UNDONE: 2,
    Outcome.UNKNOWN: 3,
    Outcome.WAITING: 3,
}
"""Of a command that asks for an action, as for a check: 2 is a fact, 3 that it is not known."""


@dataclass(frozen=True, slots=True)
class AskedUnit:
    """A unit as it was when somebody decided: `UNIT_CHANGED` refuses if it is another one now."""

    id: str
    keys: tuple[Identity, ...]
    assign: tuple[Address, ...]
    hold: tuple[Address, ...]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All functions of the unit, assigned first."""
        return (*self.assign, *self.hold)


@dataclass(frozen=True, slots=True)
class ActionStep:
    """One step: what is written where (`change` as lines for people), and what came of it.

    `state` is planned, done, already, failed, waiting, changed or intended (its end is not known).
    """

    kind: str
    subject: str
    path: str
    change: tuple[str, ...]
    state: str
    detail: str = ""
    seconds: float = 0.0
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class FunctionChanges:
    """What a reset changed in one function's config space, a line for each byte."""

    function: Address
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResetProof:
    """What a reset test saw.

    `method` is a `reset_method` name, "" where the kernel does not tell. `ending` is reset, refused
    or waiting; `outcome` a `ledger.Outcome`, "" where no reset ended. `lines` are the kernel's own
    meanwhile, None where it could not be heard. `seconds` are of the reset alone.
    """

    method: str
    ending: str
    outcome: str
    why: str
    seconds: float
    changes: tuple[FunctionChanges, ...]
    lines: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ActionReport:
    """One action. `id` is its command's, random for one that was asked for on the host itself.

    `unit`, `assign` and `hold` are those that it was about, empty where there is none. `method` is
    how a binding outlives a reboot, with `because`; `notes` what is left for a person to do or to
    know; `detail` in a sentence why it ended like this, "" for a plain success. `looked_at_ms` is
    CLOCK_BOOTTIME when the look began on which it stands.
    """

    id: str
    verb: str
    address: Address
    outcome: Outcome
    unit: str = ""
    assign: tuple[Address, ...] = ()
    hold: tuple[Address, ...] = ()
    detail: str = ""
    reasons: tuple[Finding, ...] = ()
    steps: tuple[ActionStep, ...] = ()
    method: str = ""
    because: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reset: ResetProof | None = None
    looked_at_ms: int | None = None


def report_document(report: ActionReport) -> dict[str, Any]:
    """The report as JSON values, with its schema."""
    return {"schema": SCHEMA, **to_plain(report)}


def encode_report(report: ActionReport) -> bytes:
    """Canonical bytes."""
    return encode(report_document(report))


def decode_report(data: bytes) -> ActionReport:
    """The report of `encode_report`; ArtifactError names what is wrong with it."""
    plain = decode(dict, data)
    if plain.get("schema") != SCHEMA:
        raise ArtifactError(f"schema is {plain.get('schema')!r}, this version reads {SCHEMA!r}")
    return from_plain(ActionReport, plain, "report")


def pack_report(report: ActionReport) -> bytes:
    """Compressed, at most MAX_PACKED_BYTES: what people need last is left out first."""
    for shorten in _SHORTER:
        packed = compress(encode_report(report))
        if len(packed) <= MAX_PACKED_BYTES:
            return packed
        report = shorten(report)
        if SHORTENED not in report.notes:
            report = replace(report, notes=(*report.notes, SHORTENED))
    return compress(encode_report(report))


def unpack_report(data: bytes) -> ActionReport:
    """The report of `pack_report`; ArtifactError names what is wrong with it."""
    if len(data) > MAX_PACKED_BYTES:
        raise ArtifactError(f"report: larger than {MAX_PACKED_BYTES} bytes")
    return decode_report(decompress(data, limit=MAX_REPORT_BYTES))


def ended_event(report: ActionReport, *, identity: str, at: Stamp) -> DurableEvent:
    """The durable event that tells the cluster. `identity` is the function's, "" if not known."""
    payload = ActionEnded(
        id=report.id,
        verb=report.verb,
        outcome=report.outcome.value,
        detail=report.detail or ", ".join(dict.fromkeys(f.code for f in report.reasons)),
        report=pack_report(report),
    )
    return DurableEvent(at=at, identity=identity, address=report.address, payload=payload)


# --- shortening ----------------------------------------------------------------------------------

_FEW, _SOME = 5, 40
_CUT, _CUT_MORE = 400, 120


def _cut(text: str, limit: int = _CUT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _shorten_proof(report: ActionReport, keep: int) -> ActionReport:
    proof = report.reset
    if proof is None:
        return report
    lines = None if proof.lines is None else tuple(_cut(line) for line in proof.lines[-keep:])
    rows = tuple(replace(row, changes=row.changes[:keep]) for row in proof.changes[:keep])
    return replace(report, reset=replace(proof, why=_cut(proof.why), lines=lines, changes=rows))


def _fewer_lines(report: ActionReport) -> ActionReport:
    return _shorten_proof(report, _SOME)


def _without_changes(report: ActionReport) -> ActionReport:
    steps = tuple(replace(s, change=(), detail=_cut(s.detail)) for s in report.steps)
    return replace(_shorten_proof(report, _FEW), steps=steps)


def _less_evidence(report: ActionReport) -> ActionReport:
    def cut(finding: Finding) -> Finding:
        rows = (Evidence(_cut(e.source), _cut(e.text)) for e in finding.evidence[:_FEW])
        return replace(finding, evidence=tuple(rows), decision=_cut(finding.decision))

    return replace(
        report,
        reasons=tuple(cut(finding) for finding in report.reasons[:_SOME]),
        steps=report.steps[:_SOME],
        notes=tuple(_cut(note) for note in report.notes[:_FEW]),
        because=tuple(_cut(why) for why in report.because[:_FEW]),
        assign=report.assign[:_SOME],
        hold=report.hold[:_SOME],
    )


def _bare(report: ActionReport) -> ActionReport:
    codes = ", ".join(dict.fromkeys(_cut(f.code, _CUT_MORE) for f in report.reasons[:_FEW]))
    return ActionReport(
        id=_cut(report.id),
        verb=_cut(report.verb),
        address=report.address,
        outcome=report.outcome,
        unit=_cut(report.unit),
        detail=_cut(report.detail or codes),
        looked_at_ms=report.looked_at_ms,
    )


_SHORTER: tuple[Callable[[ActionReport], ActionReport], ...] = (
    _fewer_lines,
    _without_changes,
    _less_evidence,
    _bare,
)
