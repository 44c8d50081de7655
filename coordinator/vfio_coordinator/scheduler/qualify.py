"""Which gates each unit of a node passes, from its layout and the agent's findings.

Findings are matched by subject: the unit's groups and its functions, or `node` for what concerns
the platform; each of these must be there, and one that is missing refuses exactly like UNKNOWN:
absence of evidence is evidence of nothing. A finding of a gate about the whole node or about the
unit by id refuses too, if there is one and it does not pass. Who holds a unit is looked
at here as far as the node's evidence goes; the cluster's own claims are added by `offer`. This
module must never pass a unit because something about it could not be read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence

from vfio_contract.findings import NODE, Finding, Verdict, severity
from vfio_contract.host import Host
from vfio_contract.model import Holder
from vfio_contract.views import GateProof
from vfio_coordinator.scheduler.gates import (
    ALLOWS,
    GATES,
    PASSING,
    PF_HAS_VFS,
    WEDGED,
    Gate,
    Scope,
)
from vfio_coordinator.scheduler.layout import UnitLayout, survey
from vfio_coordinator.scheduler.standing import Need, Refusing, Standing

MISSING = "EVIDENCE_MISSING"
"""Code of a gate whose finding is not there."""

NO_GROUP = "NO_GROUP"
UNIT_HELD = "UNIT_HELD"
UNIT_BUSY = "UNIT_BUSY"

_FUNCTIONS = "device-functions"

READ_CHECKS = frozenset({gate.check for gate in GATES} | {_FUNCTIONS})
"""Checks whose findings are read here; all others may change without a unit standing otherwise."""

_MAX_LINES = 8
_MAX_LINE = 300
"""Evidence kept of one gate: enough to prove it, bounded against a log that floods."""

_Findings = Mapping[tuple[str, str], Finding]


def qualify_host(host: Host, findings: Iterable[Finding]) -> tuple[Standing, ...]:
    """`qualify` straight from a snapshot, for tools and tests."""
    names = dict(host.readings.names)
    return qualify(survey(host), findings, holders=host.readings.holders, names=names)


def qualify(
    units: Sequence[UnitLayout],
    findings: Iterable[Finding],
    *,
    holders: Sequence[Holder] | None,
    names: Mapping[str, str],
    condemned: Mapping[str, tuple[str, str]] | None = None,
) -> tuple[Standing, ...]:
    """How each unit stands, in the order given.

    `holders` None means that nobody could look: then no unit is known to be free. `condemned` maps
    identities whose reset history the coordinator knows to be bad to its code and evidence.
    """
    index: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.check, finding.subject)
        known = index.get(key)
        if known is None or severity(known.verdict) < severity(finding.verdict):
            index[key] = finding
    node_level = {
        gate.check: _collect(gate, (NODE,), index) for gate in GATES if gate.scope is Scope.NODE
    }
    return tuple(_stand(unit, index, node_level, holders, names, condemned or {}) for unit in units)


_Judged = tuple[list[Refusing], list[Need], GateProof]


def _stand(
    unit: UnitLayout,
    findings: _Findings,
    node_level: Mapping[str, _Judged],
    holders: Sequence[Holder] | None,
    names: Mapping[str, str],
    condemned: Mapping[str, tuple[str, str]],
) -> Standing:
    refusing: list[Refusing] = []
    needs: list[Need] = []
    proofs: list[GateProof] = []
    for gate in GATES:
        judged = node_level.get(gate.check)
        if judged is None:
            also = (NODE, f"unit:{unit.id}")
            judged = _collect(gate, _subjects(gate, unit), findings, also=also)
        refusing += judged[0]
        needs += judged[1]
        proofs.append(judged[2])
        if gate.scope is Scope.GROUPS and unit.ungrouped:
            refusing.append(_ungrouped(gate, unit))
    refusing += [_condemn(unit, key, *condemned[key]) for key in unit.keys if key in condemned]
    refusing.sort(key=lambda row: (row.stage != "platform", row.code != WEDGED))
    busy, foreign = _busy(unit, findings, holders)
    return Standing(
        layout=unit,
        model=names.get(unit.ids) or unit.ids,
        refusing=tuple(refusing),
        needs=tuple(needs),
        busy=busy,
        foreign=foreign,
        proof=b"" if refusing else _pack(proofs),
    )


def _subjects(gate: Gate, unit: UnitLayout) -> tuple[str, ...]:
    match gate.scope:
        case Scope.NODE:
            return (NODE,)
        case Scope.GROUPS:
            return tuple(f"group:{number}" for number in unit.groups)
        case Scope.ALL:
            return tuple(f"function:{address}" for address in unit.endpoints)
        case Scope.ASSIGNED:
            return tuple(f"function:{address}" for address in unit.assign)


def _collect(
    gate: Gate, subjects: Iterable[str], findings: _Findings, *, also: Iterable[str] = ()
) -> _Judged:
    """One gate over its subjects and, where there is a finding, those of `also`.

    What refuses, what must be allowed, and the proof.
    """
    refusing: list[Refusing] = []
    needs: list[Need] = []
    worst, code = Verdict.NOT_APPLICABLE, ""
    lines: list[str] = []
    extra = [subject for subject in also if (gate.check, subject) in findings]
    for subject in (*extra, *subjects):
        finding = findings.get((gate.check, subject))
        where = _where(subject)
        if finding is None:
            reason = _words(where or "node", f"no {gate.check} finding")
            refusing.append(Refusing(gate.check, gate.stage, Verdict.UNKNOWN, MISSING, reason, ()))
            continue
        evidence = _lines(finding)
        reason = _words(where, _summary(finding))
        if finding.verdict not in PASSING:
            refusing.append(
                Refusing(gate.check, gate.stage, finding.verdict, finding.code, reason, evidence)
            )
        elif finding.verdict is Verdict.WARN and finding.code in ALLOWS:
            word = ALLOWS[finding.code]
            needs.append(Need(word, gate.stage, finding.code, reason, evidence))
        if not code or severity(finding.verdict) > severity(worst):
            worst, code = finding.verdict, finding.code
        lines += [_words(where, line) for line in evidence]
    return refusing, needs, GateProof(gate.check, worst, code, tuple(lines[:_MAX_LINES]), 0.0)


def _condemn(unit: UnitLayout, key: str, code: str, line: str) -> Refusing:
    """What the coordinator knows of a function by this identity or place."""
    where = next((address for *names, address in unit.places if key in names), unit.primary)
    reason = _words(where, _say(code, line))
    return Refusing("reset-history", "reset", Verdict.FAIL, code, reason, (line,))


def _ungrouped(gate: Gate, unit: UnitLayout) -> Refusing:
    reason = f"{unit.ungrouped[0]} has no IOMMU group"
    return Refusing(gate.check, gate.stage, Verdict.UNKNOWN, NO_GROUP, reason, ())


def _busy(
    unit: UnitLayout, findings: _Findings, holders: Sequence[Holder] | None
) -> tuple[Refusing | None, bool]:
    """What outside our claims has the unit, and whether that is a process."""
    if holders is not None:
        held = [h for h in holders if h.path in {f"/dev/vfio/{n}" for n in unit.groups}]
        if held:
            return _busy_by(held[0], f"{unit.primary} is held"), True
    found = findings.get((_FUNCTIONS, f"unit:{unit.id}"))
    if found is not None and found.code == PF_HAS_VFS:
        return Refusing(
            _FUNCTIONS, "free", Verdict.FAIL, PF_HAS_VFS, _summary(found), _lines(found)
        ), False
    if unit.blocked:
        verdict = Verdict.UNKNOWN if unit.blocked_unknown else Verdict.FAIL
        code = UNIT_BUSY if unit.blocked_unknown else PF_HAS_VFS
        return Refusing(_FUNCTIONS, "free", verdict, code, unit.blocked, ()), False
    if holders is None:
        reason = f"who holds {unit.primary} is not known"
        return Refusing("device-holders", "free", Verdict.UNKNOWN, MISSING, reason, ()), False
    if unit.cdev:
        for holder in holders:
            # A device node does not tell which function it is: any of this host's may be it.
            if holder.path.startswith("/dev/vfio/devices/"):
                refusal = _busy_by(holder, f"{unit.primary} may be held")
                return Refusing(
                    refusal.gate,
                    refusal.stage,
                    Verdict.UNKNOWN,
                    UNIT_BUSY,
                    refusal.reason,
                    refusal.evidence,
                ), False
    return None, False


def _busy_by(holder: Holder, what: str) -> Refusing:
    reason = f"{what}: {holder.path} is open in pid {holder.pid} ({holder.command})"
    line = f"{holder.path}: pid {holder.pid} {holder.command}"
    return Refusing("device-holders", "free", Verdict.FAIL, UNIT_HELD, reason, (line,))


def _where(subject: str) -> str:
    """What a finding is about in a few words; "" for the node."""
    kind, _, name = subject.partition(":")
    return f"group {name}" if kind == "group" else name


def _summary(finding: Finding) -> str:
    """The code and what was seen first; what concerns the node does not say where by itself."""
    rows = _lines(finding) if finding.subject == NODE else [e.text for e in finding.evidence]
    first = rows[0] if rows else ""
    if finding.code == WEDGED and finding.evidence:
        first = finding.evidence[-1].text  # the kernel's own line
    if finding.verdict is Verdict.BLOCKED and finding.blocked_by:
        first = f"blocked by {finding.blocked_by}"
    return _say(finding.code or str(finding.verdict), first) if first else finding.code


def _say(code: str, evidence: str) -> str:
    first = "power the host off and on; " if code == WEDGED else ""
    return f"{code}: {first}{evidence}"[:_MAX_LINE]


def _lines(finding: Finding) -> tuple[str, ...]:
    rows = (f"{e.source}: {e.text}" if e.source else e.text for e in finding.evidence)
    return tuple(row[:_MAX_LINE] for row in rows)[:_MAX_LINES]


def _words(where: str, text: str) -> str:
    return f"{where} {text}" if where else text


def _pack(proofs: Sequence[GateProof]) -> bytes:
    rows = [[p.gate, str(p.verdict), p.code, p.evidence] for p in proofs]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)


def read_proof(packed: bytes, *, age_s: float) -> tuple[GateProof, ...]:
    """The proof of a unit that passed every gate, with the age of its evidence; () for b""."""
    if not packed:
        return ()
    return tuple(
        GateProof(gate, Verdict(verdict), code, tuple(evidence), age_s)
        for gate, verdict, code, evidence in json.loads(zlib.decompress(packed))
    )
