"""`vfioctl forecast`: what would happen to nodes with a BIOS or kernel, by what is known.

Pure over the state; it answers from what the coordinator holds and asks no agent. A version that
was never seen on a board is unknown there, never good; so is a node that was not heard since the
coordinator's start. Placing is dry: nothing is reserved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.forecast_views import (
    BAD,
    FAILS,
    GOOD,
    MIXED,
    OUTCOMES,
    THERE,
    UNKNOWN,
    ForecastBoard,
    ForecastNode,
    ForecastView,
)
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.forecast_evidence import (
    Evidence,
    Past,
    Track,
    Versions,
    is_sound,
    known_versions,
    matches,
    read_past,
    resolve,
    shown_codes,
    weaker_lines,
    weigh,
)
from vfio_coordinator.state.forecast_moves import find_moves
from vfio_coordinator.state.judge import claims_on
from vfio_coordinator.state.model import Node, State

_NAMED = 5

STATES = ("ready", "cordoned", "draining", "drained", "revalidating", "lost")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: versions, "" for none (one is needed), and selectors of nodes."""

    bios: str
    kernel: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """Of one board: the versions in full, what is known of them, and in words what is weaker."""

    target: Versions
    evidence: Evidence
    weaker: tuple[str, ...]
    known: tuple[str, ...]


def forecast(state: State, question: Question, now: Now) -> ForecastView:
    """The answer. Raises ClusterError BAD_REQUEST and UNKNOWN_NODE."""
    if not question.bios and not question.kernel:
        raise ClusterError(ErrorCode.BAD_REQUEST, "a BIOS, a kernel, or both must be named")
    if not state.nodes:
        raise ClusterError(ErrorCode.UNKNOWN_NODE, "no node has joined yet")
    past = read_past(state)
    names = select_nodes(state, past, question.nodes)
    boards = sorted({past.tracks[name].board for name in names})
    answers = _answers(state, past, question, boards)
    nodes = [_node(state, past.tracks[name], answers) for name in names]
    nodes.sort(key=lambda row: (OUTCOMES.index(row.outcome), row.node))
    leaving = [row for row in nodes if row.outcome in (BAD, MIXED, UNKNOWN)]
    moves, untried = find_moves(state, leaving, now)
    counts = Counter(past.tracks[name].board for name in names)
    rows = [_board(board, answers[board], counts[board]) for board in boards]
    rows.sort(key=lambda row: (OUTCOMES.index(row.outcome), row.board))
    return ForecastView(
        at=now.utc,
        revision=state.revision,
        bios=question.bios,
        kernel=question.kernel,
        boards=tuple(rows),
        nodes=tuple(nodes),
        moves=moves,
        heard=sum(name in state.heard for name in names),
        untried=untried,
        next=_next(state, rows, nodes),
    )


# --- which nodes ---------------------------------------------------------------------------------


def select_nodes(state: State, past: Past, texts: Iterable[str]) -> list[str]:
    """The nodes meant, by name: names and beginnings of names add up, `board=` and `state=` narrow.

    Raises ClusterError: UNKNOWN_NODE for a name that fits nothing, BAD_REQUEST for any other text
    that fits nothing.
    """
    given = list(texts)
    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    if given and not words:
        detail = "nodes: no name in it; leave it out to ask about all nodes"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    names = [word for word in words if "=" not in word]
    chosen = {name for word in names for name in _named(past, word)} if names else set(past.tracks)
    for word in words:
        if "=" in word:
            chosen = _narrowed(state, past, chosen, word)
    return sorted(chosen)


def _named(past: Past, word: str) -> list[str]:
    if word in past.tracks:
        return [word]
    found = [name for name in past.tracks if name.startswith(word)]
    if not found:
        raise ClusterError(ErrorCode.UNKNOWN_NODE, f"no node's name begins with {word!r}")
    return found


def _narrowed(state: State, past: Past, chosen: Iterable[str], word: str) -> set[str]:
    what, _, value = word.partition("=")
    if what == "board":
        wanted = set(value.lower().split())
        found = {n for n in chosen if wanted <= set(past.tracks[n].board.lower().split())}
        there = sorted(board for board in past.by_board if board)
    elif what == "state":
        found = {name for name in chosen if _state_of(state, name) == value}
        there = list(STATES)
    else:
        detail = f"nodes: {word!r} is neither a name nor board= nor state="
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    if not found:
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED + 1 else ""
        listed = ", ".join(there if not more else there[:_NAMED])
        detail = f"nodes: none of those asked about is {word!r}; there are: {listed}{more}"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    return found


def _state_of(state: State, name: str) -> str:
    judgement = state.nodes[name].judgement
    return judgement.state if judgement is not None else ""


# --- what is known -------------------------------------------------------------------------------


def _answers(
    state: State, past: Past, question: Question, boards: Sequence[str]
) -> Mapping[str, _Answer]:
    kernels = {k for board in past.by_board for k in known_versions(past, board)[1]}
    kernel = resolve(question.kernel, kernels, what="kernel") if question.kernel else ""
    elsewhere = (
        {board: weigh(state, past, board, ("", kernel)) for board in past.by_board if board}
        if kernel
        else {}
    )
    answers = {}
    for board in boards:
        known, own_kernels = known_versions(past, board)
        what = f"BIOS of {board}:"
        bios = resolve(question.bios, known, what=what) if question.bios else ""
        target = (bios, kernel)
        strange = known if bios and bios not in known else own_kernels
        seen = bios in known | {""} and kernel in own_kernels | {""}
        answers[board] = _Answer(
            target=target,
            evidence=weigh(state, past, board, target),
            weaker=tuple(weaker_lines(state, past, board, target, elsewhere)),
            known=() if seen else tuple(sorted(strange)),
        )
    return answers


def _board(board: str, answer: _Answer, nodes: int) -> ForecastBoard:
    evidence = answer.evidence
    return ForecastBoard(
        board=board,
        bios=answer.target[0],
        kernel=answer.target[1],
        outcome=evidence.outcome,
        passed=evidence.passed,
        failed=evidence.failed,
        unjudged=evidence.unjudged,
        codes=evidence.codes,
        incidents=tuple(f"INC-{number}" for number in evidence.incidents),
        weaker=answer.weaker,
        known=answer.known,
        nodes=nodes,
    )


def _node(state: State, track: Track, answers: Mapping[str, _Answer]) -> ForecastNode:
    answer = answers[track.board]
    outcome, why = _expect(state, track, answer)
    bios, kernel = track.now
    return ForecastNode(
        node=track.name,
        board=track.board,
        bios=bios,
        kernel=kernel,
        outcome=outcome,
        why=why,
        vms=tuple(dict.fromkeys(claim.vm for claim in claims_on(state, track.name))),
    )


def _expect(state: State, track: Track, answer: _Answer) -> tuple[str, str]:
    """What would happen to one node, and what that rests on."""
    target, evidence = answer.target, answer.evidence
    if not track.board:
        heard = state.cohorts.traits_of(track.name) is not None
        return UNKNOWN, "its board is not known" if heard else "not heard since the start"
    if matches(target, track.now):
        return _expect_of_now(state.nodes[track.name], failed=track.name in evidence.failed)
    then = (target[0] or track.now[0], target[1] or track.now[1])
    rows = [row for row in track.accepted if (row.board, row.versions) == (track.board, then)]
    own = rows[-1] if rows else None
    if own is not None and track.name not in evidence.failed:
        return GOOD, f"accepted here by {own.by}, {own.at[:10]}"
    outcome = evidence.outcome
    if outcome == UNKNOWN:
        here = len(evidence.unjudged)
        return UNKNOWN, f"runs on {here}, not judged" if here else "never seen on its board"
    shown = ", ".join(evidence.codes)
    passed = f"passed on {len(evidence.passed)}"
    return outcome, {
        GOOD: passed,
        BAD: f"{shown} on {len(evidence.failed)}",
        MIXED: f"{shown} on {len(evidence.failed)}, {passed}",
    }[outcome]


def _expect_of_now(node: Node, *, failed: bool) -> tuple[str, str]:
    """Of a node that runs what is asked about. That it was accepted once does not make it pass."""
    fresh = node.judgement is not None and node.judgement.fresh
    if failed or shown_codes(node):
        return FAILS, "runs it and fails" if fresh else "failed on it when last heard"
    if not fresh:
        return UNKNOWN, "ran it when last heard, nothing vouches for it now"
    return THERE, "runs it and passes" if is_sound(node) else "runs it"


def _next(state: State, boards: Sequence[ForecastBoard], nodes: Sequence[ForecastNode]) -> str:
    """What to look at, or which node to try first."""
    if not any(row.node in state.heard for row in nodes):
        return "vfioctl node list"
    for board in boards:
        if board.failed and any(row.board == board.board and _leaves(row) for row in nodes):
            if board.incidents:
                return f"vfioctl incident show {board.incidents[0]}"
            return f"vfioctl node show {board.failed[0]}"
    failing = [row.node for row in nodes if row.outcome == FAILS]
    if failing:
        return f"vfioctl node show {failing[0]}"
    untried = [row for row in nodes if row.outcome == UNKNOWN and row.node in state.heard]
    if not untried:
        return ""
    first = min(
        untried, key=lambda row: (_state_of(state, row.node) != "ready", len(row.vms), row.node)
    )
    has = f"{len(first.vms)} VMs" if len(first.vms) != 1 else "1 VM"
    return f"try it on one node first: {first.node} has {has if first.vms else 'no VM'}"


def _leaves(row: ForecastNode) -> bool:
    return row.outcome in (BAD, FAILS, MIXED)
