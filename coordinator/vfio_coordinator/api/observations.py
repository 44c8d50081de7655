"""Observations, whole or in parts, as events: only what changed is unpacked, decoded and judged.

Two forms. Agents that know nothing of parts send readings and findings whole. All others send an
observation in parts (`vfio_contract.parts`): all of them at first, then those that changed since
the one that the state holds. What does not fit onto that one is asked for as a whole; nothing is
ever guessed. Where a part changed that decides about units, the whole is judged again; else the
units stand as they stood. Nothing here keeps anything; it may run on any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from sys import intern

from vfio_contract.artifact import ArtifactError
from vfio_contract.findings import Finding, Missing, Verdict, severity, worst
from vfio_contract.parts import (
    FINDINGS,
    READINGS,
    Lines,
    Parts,
    check_readings,
    keep,
    rank,
    read_findings,
    read_lines,
    read_readings,
)
from vfio_coordinator.scheduler.qualify import READ_CHECKS
from vfio_coordinator.state.effects import WantWhole
from vfio_coordinator.state.events import ObservationChanged, ObservationReceived
from vfio_coordinator.state.evidence import READ_READINGS
from vfio_coordinator.state.model import Observation
from vfioctl.v1 import session_pb2 as wire

DECISIVE = frozenset(
    {
        *(FINDINGS + check for check in READ_CHECKS),
        *(READINGS + field for field in READ_READINGS),
    }
)
"""Parts that how the units stand follows from."""

Heard = ObservationReceived | ObservationChanged | WantWhole

SHARED_LINES = 2_048
"""Lines that are read once for all hosts; a host has about 30, most of them as its cohort has."""

SHARED_BYTES = 16 * 1024
"""Of such a line: with what is made of them, all of them together are 150 MB at the very most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes when unpacked, and findings, of one observation."""

    unpacked_bytes: int
    findings: int


def read_parts(
    message: wire.Observation, node: str, session: int, held: Observation | None, limits: Limits
) -> Heard:
    """What an observation in parts says; `held` is the state's of this session, None for none.

    ArtifactError for parts that cannot be read, and for a whole that is not what its digest says.
    """
    lines = read_lines(message.parts_zlib, limit=limits.unpacked_bytes)
    if not message.base_digest:
        parts = keep(message.parts_zlib, lines)
        if parts.digest != message.digest:
            raise ArtifactError(f"digest {message.digest!r}, but its parts are {parts.digest}")
        return _whole(message, node, session, parts, lines, limits)
    if held is None or held.parts is None or held.parts.digest != message.base_digest:
        return WantWhole(node, session)
    parts = held.parts.change(lines) if _fit(held.parts, lines) else held.parts
    if parts.digest != message.digest:
        return WantWhole(node, session)
    changed = _judge_change(message, held, lines)
    if changed is None:
        return _whole(message, node, session, parts, parts.lines(), limits)
    verdict, findings = changed
    return ObservationChanged(
        node=node,
        session=session,
        sequence=message.sequence,
        base=held.sequence,
        parts=parts,
        verdict=verdict,
        findings=findings,
        age_s=message.age_ms / 1000,
        began_boottime_ms=message.began_boottime_ms,
    )


def share(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings; what hosts of one version say alike is one text for all of them."""
    return tuple(
        f
        if f.verdict is Verdict.PASS
        else replace(
            f,
            check=intern(f.check),
            subject=intern(f.subject),
            code=intern(f.code),
            meaning=intern(f.meaning),
            decision=intern(f.decision),
            missing=tuple(Missing(intern(m.evidence), intern(m.command)) for m in f.missing),
        )
        for f in findings
    )


def _read_findings(lines: Lines) -> tuple[Finding, ...]:
    """As `parts.read_findings`; hosts that say the same have the same values."""
    return tuple(
        finding
        for name, line in lines.items()
        if name.startswith(FINDINGS)
        for finding in (read_shared if len(line) <= SHARED_BYTES else _read_line)(name, line)
    )


def _read_line(name: str, line: bytes) -> tuple[Finding, ...]:
    return share(read_findings({name: line}))


read_shared = lru_cache(SHARED_LINES)(_read_line)
"""The findings of a line, made once for all hosts that say it."""


def _fit(parts: Parts, lines: Lines) -> bool:
    return set(lines) <= set(parts.names)


def _whole(
    message: wire.Observation,
    node: str,
    session: int,
    parts: Parts,
    lines: Lines,
    limits: Limits,
) -> ObservationReceived:
    findings = rank(_read_findings(lines))
    if len(findings) > limits.findings:
        raise ArtifactError(f"findings: {len(findings)} of them, at most {limits.findings}")
    return ObservationReceived(
        node=node,
        session=session,
        sequence=message.sequence,
        inventory_digest=message.inventory_digest,
        readings=read_readings(lines),
        findings=findings,
        age_s=message.age_ms / 1000,
        checks_version=message.checks_version,
        began_boottime_ms=message.began_boottime_ms,
        parts=parts,
    )


def _judge_change(
    message: wire.Observation, held: Observation, lines: Lines
) -> tuple[Verdict, tuple[Finding, ...]] | None:
    """The host's verdict and what is not PASS after this change; None where all must be judged."""
    same = (held.inventory_digest, held.checks_version)
    if (message.inventory_digest, message.checks_version) != same or DECISIVE & set(lines):
        return None
    check_readings(lines)  # nothing is kept that could not be read
    new = _read_findings(lines)
    touched = {name.removeprefix(FINDINGS) for name in lines if name.startswith(FINDINGS)}
    if not touched:
        return held.verdict, held.findings
    kept = [f for f in held.findings if f.check not in touched]
    kept += [f for f in new if f.verdict is not Verdict.PASS]
    verdict = _verdict_of(kept, new)
    if verdict is None or held.parts is None:
        return None
    order = {name: number for number, name in enumerate(held.parts.names)}
    return verdict, rank(sorted(kept, key=lambda f: order[FINDINGS + f.check]))


def _verdict_of(kept: Iterable[Finding], new: Iterable[Finding]) -> Verdict | None:
    """None where it hangs on findings that are PASS and not here."""
    counted = [f.verdict for f in kept if f.intended is not False]
    found = worst(counted)
    if counted and severity(found) > severity(Verdict.PASS):
        return found
    passed = any(f.verdict is Verdict.PASS and f.intended is not False for f in new)
    return Verdict.PASS if passed else None
