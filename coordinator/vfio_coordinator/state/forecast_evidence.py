"""What is known of a BIOS or kernel, board by board: who passed with it, and who fails with it.

Evidence for are nodes whose intended units all pass now, or passed when their facts were accepted
unforced. Evidence against are nodes that fail now and that were accepted good with something else,
and members of open incidents that suspect it; a node that was accepted good with the very same
versions and fails now speaks against something else, and for nothing. Firmware says something only
of its own board; of the same kernel on other boards it is told in words, and decides nothing. What
was never seen is unknown, whatever the version is called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vfio_contract import codes
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.forecast_views import BAD, GOOD, MIXED, UNKNOWN
from vfio_coordinator.state.cohorts import BIOS, KERNEL
from vfio_coordinator.state.incident_records import Suspect
from vfio_coordinator.state.model import Node, State
from vfio_coordinator.state.records import BaselineRecord

_NAMED = 5

_PASSING = frozenset(
    code.name
    for code in (
        codes.REVALIDATING,
        codes.EVENTS_LOST,
        codes.VM_ADDRESS_STALE,
        codes.MAPPING_STALE,
    )
)
"""Holds that only wait for evidence, or for a line of a file that names where a device was: they
speak for nothing and against nothing."""

Versions = tuple[str, str]
"""(BIOS, kernel); "" for one that is not known, or not asked for."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An acceptance of a node: on which board, the versions, and who said so when."""

    board: str
    versions: Versions
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Track:
    """What one node has run: `board` "" for not known, `now`, and what was accepted unforced with
    passing units, oldest first. `good` are the versions of its baseline in force; where that was
    forced, which says nothing of them, those of the newest that was not."""

    name: str
    board: str
    now: Versions
    accepted: tuple[Accepted, ...]
    good: Versions


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one target: nodes by name, and what the failed ones show."""

    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    incidents: tuple[int, ...] = ()

    @property
    def outcome(self) -> str:
        """good, bad, mixed, or unknown."""
        if self.passed:
            return MIXED if self.failed else GOOD
        return BAD if self.failed else UNKNOWN


@dataclass(frozen=True, slots=True)
class Past:
    """Every node's track, and by board the names of those that are or were on it."""

    tracks: Mapping[str, Track]
    by_board: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class _Failing:
    codes: set[str] = field(default_factory=set)
    incidents: set[int] = field(default_factory=set)


def read_past(state: State) -> Past:
    """What all nodes have run, as far as is known."""
    tracks = {name: _track(state, node) for name, node in state.nodes.items()}
    by_board: dict[str, list[str]] = {}
    for name, track in sorted(tracks.items()):
        for board in {track.board, *(row.board for row in track.accepted)}:
            by_board.setdefault(board, []).append(name)
    return Past(tracks, by_board)


def _track(state: State, node: Node) -> Track:
    traits = state.cohorts.traits_of(node.name)
    board = state.cohorts.board_of(node.name)
    now = (traits.value(BIOS) or "", traits.value(KERNEL) or "") if traits is not None else ("", "")
    rows = [row.record for row in node.baselines if _says_good(row.record)]
    in_force = node.baseline.record if node.baseline is not None else None
    if in_force is not None and in_force.reason:
        in_force = next((row for row in reversed(rows) if not row.reason), None)
    return Track(
        name=node.name,
        board=board,
        now=now,
        accepted=tuple(
            Accepted(
                row.board or board,
                _versions(row),
                row.accepted_by,
                row.accepted_at,
            )
            for row in rows
            if not row.reason
        ),
        good=_versions(in_force) if in_force is not None and _says_good(in_force) else ("", ""),
    )


def _says_good(record: BaselineRecord) -> bool:
    return bool(record.passed) and not record.passed_elsewhere


def _versions(record: BaselineRecord) -> Versions:
    bios = kernel = ""
    for part, value in record.firmware:
        if part == BIOS:
            bios = value or ""
        elif part == KERNEL:
            kernel = value or ""
    return bios, kernel


def matches(target: Versions, versions: Versions) -> bool:
    """Whether all that the target asks for is there."""
    return target[0] in ("", versions[0]) and target[1] in ("", versions[1])


# --- from what a person types to a version -------------------------------------------------------


def known_versions(past: Past, board: str) -> tuple[set[str], set[str]]:
    """Every BIOS and every kernel that nodes of this board run or were accepted with."""
    tracks = [past.tracks[name] for name in past.by_board.get(board, ())] if board else []
    rows = {track.now for track in tracks if track.board == board}
    rows |= {row.versions for track in tracks for row in track.accepted if row.board == board}
    return {bios for bios, _ in rows if bios}, {kernel for _, kernel in rows if kernel}


def resolve(text: str, known: Collection[str], *, what: str) -> str:
    """The version that is meant, or the text itself where nothing known begins so.

    Its beginning up to the end of a word is enough. Raises ClusterError BAD_REQUEST for one that
    fits several.
    """
    wanted = text.lower()
    for fits in (_equals, _is_version, _begins):
        found = sorted(version for version in known if fits(version.lower(), wanted))
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(found[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            detail = f"{what} {text!r} fits several: {listed}{more}; write more of it"
            raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    return text


def _equals(version: str, wanted: str) -> bool:
    return version == wanted


def _is_version(version: str, wanted: str) -> bool:
    """The version without its date."""
    return version.startswith(f"{wanted} ")


def _begins(version: str, wanted: str) -> bool:
    return version.startswith(wanted) and not version[len(wanted) :][:1].isalnum()


# --- for and against -----------------------------------------------------------------------------


def weigh(state: State, past: Past, board: str, target: Versions) -> Evidence:
    """What is known of the target on this board; nothing of a board that is not known."""
    if not board:
        return Evidence()
    suspected = _suspected(state, target)
    passed, failed, unjudged = [], [], []
    shown = _Failing()
    for name in past.by_board.get(board, ()):
        track, node = past.tracks[name], state.nodes[name]
        here = track.board == board
        runs = here and matches(target, track.now)
        against = suspected.get(name, _Failing()) if here else _Failing()
        found = shown_codes(node) if runs else set()
        if found and not matches(target, track.good):
            against.codes |= found
        if against.codes:
            failed.append(name)
            shown.codes |= against.codes
            shown.incidents |= against.incidents
        elif not found and (_was_accepted(track, board, target) or (runs and is_sound(node))):
            passed.append(name)
        elif runs:
            unjudged.append(name)
    return Evidence(
        passed=tuple(passed),
        failed=tuple(failed),
        unjudged=tuple(unjudged),
        codes=tuple(sorted(shown.codes)),
        incidents=tuple(sorted(shown.incidents)),
    )


def _was_accepted(track: Track, board: str, target: Versions) -> bool:
    return any(row.board == board and matches(target, row.versions) for row in track.accepted)


def _suspected(state: State, target: Versions) -> dict[str, _Failing]:
    """Members of open incidents that suspect a part of the target."""
    parts = zip((BIOS, KERNEL), target, strict=True)
    asked = [Suspect(part, "", value) for part, value in parts if value]
    found: dict[str, _Failing] = {}
    for code in state.incidents.open:
        if code in _PASSING:
            continue
        for incident in state.incidents.suspected_of(code, asked):
            for name in incident.wanted if incident.is_open else ():
                row = found.setdefault(name, _Failing())
                row.codes.add(code)
                row.incidents.add(incident.draft.number)
    return found


def shown_codes(node: Node) -> set[str]:
    """What is wrong with a node's devices by evidence of now, or where nothing vouches for it now,
    by what it was cordoned for when it was last heard.

    The gates that fail count where no cause or hold says it better.
    """
    judgement = node.judgement
    if judgement is None or not judgement.fresh:
        cordons = node.admin.cordons if node.admin is not None else ()
        return {cordon.code for cordon in cordons if cordon.causes}
    found = {cause.code for cause in judgement.causes}
    found |= {hold.code for hold in judgement.holds if hold.code not in _PASSING}
    return found or {
        refusing.code
        for standing in node.standings
        if standing.layout.intended
        for refusing in standing.refusing
        if refusing.verdict is Verdict.FAIL
    }


def is_sound(node: Node) -> bool:
    """Evidence of now, nothing against it, and every intended unit passes every gate."""
    judgement = node.judgement
    if judgement is None or not judgement.fresh or judgement.causes or judgement.holds:
        return False
    rows = [standing.verdict for standing in node.standings if standing.layout.intended]
    return bool(rows) and all(verdict in (Verdict.PASS, Verdict.WARN) for verdict in rows)


def weaker_lines(
    state: State, past: Past, board: str, target: Versions, elsewhere: Mapping[str, Evidence]
) -> Iterator[str]:
    """What is known of a part of the target here, and of the kernel on other boards, in words."""
    bios, kernel = target
    if bios and kernel:
        whole = weigh(state, past, board, target)
        for what, part in ((f"BIOS {bios}", (bios, "")), (f"kernel {kernel}", ("", kernel))):
            found = weigh(state, past, board, part)
            yield from _told(f"{what} alone on this board", [found], but=whole)
    if kernel:
        others = [evidence for other, evidence in elsewhere.items() if other != board]
        yield from _told(f"kernel {kernel} on other boards", others)


def _told(what: str, rows: Sequence[Evidence], *, but: Evidence | None = None) -> Iterator[str]:
    passed = {name for row in rows for name in row.passed}
    failed = {name for row in rows for name in row.failed}
    if but is not None:
        passed -= set(but.passed)
        failed -= set(but.failed)
    if not passed and not failed:
        return
    shown = ", ".join(sorted({code for row in rows if row.failed for code in row.codes}))
    against = f"failed on {len(failed)}: {shown}" if failed else "failed on none"
    yield f"{what}: passed on {len(passed)}, {against}"
