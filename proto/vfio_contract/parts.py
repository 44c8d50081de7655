"""An observation in parts, so that only what changed since the last one has to be told.

A part is one line, `NAME JSON`: one field of the readings (`readings/memory`) or all findings of
one check (`findings/iommu-active`), in canonical JSON, which has no line breaks of its own. An
observation is its lines in their order, and its digest is over the digests of its lines: whoever
has those can tell what another one would be without having all of it. Pure. This module must never
make an observation of lines that do not fit together: their digest is what says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, get_type_hints

from vfio_contract.artifact import (
    ArtifactError,
    compress,
    decode,
    decompress,
    digest_bytes,
    encode,
    from_plain,
)
from vfio_contract.findings import Finding, severity
from vfio_contract.model import Readings

READINGS, FINDINGS = "readings/", "findings/"

MAX_PARTS = 1_024
"""Of one observation; this version has about 90."""

MAX_NAME = 128

_DIGEST_BYTES = 16
"""Of a line's sha256: a node that finds two lines for one of them deceives itself alone."""

Lines = Mapping[str, bytes]
"""Lines by name, in their order; each ends with a line break."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One observation, packed: two compressed texts and a digest for each line.

    `first` are all lines as they once were, `later` those that changed since, both zlib. `digest`
    is the whole's.
    """

    names: tuple[str, ...]
    digests: bytes
    digest: str
    first: bytes
    later: bytes

    def lines(self) -> dict[str, bytes]:
        """All lines as they are now."""
        return read_lines(self.first) | read_lines(self.later)

    def change(self, changed: Lines) -> Parts:
        """The observation in which these lines took the place of those of their names.

        ArtifactError for a name that it does not have.
        """
        rows = [
            self.digests[i : i + _DIGEST_BYTES] for i in range(0, len(self.digests), _DIGEST_BYTES)
        ]
        numbers = {name: number for number, name in enumerate(self.names)}
        for name, line in changed.items():
            if name not in numbers:
                raise ArtifactError(f"parts: {name[:MAX_NAME]!r} is not in what it changes")
            rows[numbers[name]] = _digest(line)
        digests = b"".join(rows)
        later = pack_lines((read_lines(self.later) | dict(changed)).values())
        if len(later) * 2 > len(self.first):
            lines = self.lines() | dict(changed)
            first, later = pack_lines(lines.values()), _NONE
        else:
            first = self.first
        return replace(
            self,
            digests=digests,
            digest=_digest_of(self.names, digests),
            first=first,
            later=later,
        )


def keep(packed: bytes, lines: Lines) -> Parts:
    """What was packed as an observation; `lines` are what `read_lines` finds in it."""
    names, digests = _share(tuple(lines)), b"".join(_digest(line) for line in lines.values())
    return Parts(names, digests, _digest_of(names, digests), packed, _NONE)


def digest_each(lines: Lines) -> dict[str, bytes]:
    """The digest of each line."""
    return {name: _digest(line) for name, line in lines.items()}


def digest_whole(digests: Mapping[str, bytes]) -> str:
    """The digest of the observation whose lines have these."""
    return _digest_of(digests, b"".join(digests.values()))


def lines_of(readings: Readings, findings: Iterable[Finding]) -> dict[str, bytes]:
    """The lines of one collection; checks in the order in which their first finding is given."""
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    named = [(READINGS + f.name, getattr(readings, f.name)) for f in fields(readings)]
    named += [(FINDINGS + check, rows) for check, rows in by_check.items()]
    return {name: name.encode() + b" " + encode(value) for name, value in named}


def pack_lines(lines: Iterable[bytes]) -> bytes:
    """Lines, compressed."""
    return compress(b"".join(lines))


def read_lines(data: bytes, *, limit: int | None = None) -> dict[str, bytes]:
    """The lines of `pack_lines`, at most `limit` bytes; ArtifactError names what does not fit."""
    text = decompress(data) if limit is None else decompress(data, limit=limit)
    found: dict[str, bytes] = {}
    for line in text.splitlines(keepends=True):
        name = line.partition(b" ")[0][:MAX_NAME].decode("latin-1")
        if not name.startswith((READINGS, FINDINGS)) or name in found or line[-1:] != b"\n":
            raise ArtifactError(f"parts: {name!r} is no part, there twice or cut short")
        found[name] = line
        if len(found) > MAX_PARTS:
            raise ArtifactError(f"parts: more than {MAX_PARTS}")
    return found


def read_readings(lines: Lines) -> Readings:
    """The readings that these lines are; a field that has no line is not known."""
    return from_plain(Readings, _fields(lines), "readings")


def check_readings(lines: Lines) -> None:
    """ArtifactError for a field of readings among these lines that cannot be read."""
    plain = _fields(lines)
    for name, kind in _hints().items():
        if name in plain:
            from_plain(kind, plain[name], f"readings.{name}")


def read_findings(lines: Lines) -> tuple[Finding, ...]:
    """The findings among these lines, in their order."""
    return tuple(
        finding
        for name, line in lines.items()
        if name.startswith(FINDINGS)
        for finding in _findings_of(name, line)
    )


def rank(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first, else as they are given: as a report has them."""
    return tuple(sorted(findings, key=lambda finding: -severity(finding.verdict)))


def _findings_of(name: str, line: bytes) -> Sequence[Finding]:
    rows = _value_of(line)
    if not isinstance(rows, list):
        raise ArtifactError(f"{name}: expected a list, got {type(rows).__name__}")
    found = [from_plain(Finding, row, f"{name}[{i}]") for i, row in enumerate(rows)]
    for finding in found:
        if FINDINGS + finding.check != name:
            raise ArtifactError(f"{name}: holds a finding of {finding.check[:MAX_NAME]!r}")
    return found


def _fields(lines: Lines) -> dict[str, Any]:
    names = (name for name in lines if name.startswith(READINGS))
    return {name.removeprefix(READINGS): _value_of(lines[name]) for name in names}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Readings)


def _value_of(line: bytes) -> Any:
    return decode(object, line.partition(b" ")[2])


def _digest(line: bytes) -> bytes:
    return sha256(line).digest()[:_DIGEST_BYTES]


def _digest_of(names: Iterable[str], digests: bytes) -> str:
    return digest_bytes(" ".join(names).encode("latin-1") + b"\n" + digests)


@lru_cache(64)
def _share(names: tuple[str, ...]) -> tuple[str, ...]:
    """One tuple for all hosts of one version: 10,000 of them would be 80 MB."""
    return names


_NONE = compress(b"")
