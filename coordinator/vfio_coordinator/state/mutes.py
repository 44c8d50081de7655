"""Mutes: who does not want to hear of a health code for a while, and what ends that.

A mute changes one thing: what it covers counts neither in the roll-up word nor for notification. It
is durable, has an end, and covers what was there when it was made. It breaks when that gets worse:
the level rises, another node shows the code, or another VM is at risk under it. One that expired or
broke hides nothing from that moment; it is deleted in the transaction that says so in the event
log. Wall clock, as for risk decisions: an end waits while the clock is not believed. Nothing here
touches placement, cordons or verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256

from vfio_contract.artifact import encode
from vfio_contract.codes import CLUSTER_CODES
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.mute_views import MuteView
from vfio_coordinator.scheduler.risk import describe_end
from vfio_coordinator.state import keys
from vfio_coordinator.state.conditions import ERR, WARN
from vfio_coordinator.state.events import CommitOutcome, MuteRequested, Outcome, UnmuteRequested
from vfio_coordinator.state.judge import claims_on
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import MuteHeld, MuteWrite, Node, State
from vfio_coordinator.state.records import MuteRecord
from vfio_coordinator.state.risk_terms import check_reason, read_end
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Delete, ModRevisionIs, Put

DEFAULT_FOR = "4h"
"""Long enough for a repair, shorter than a shift: nobody inherits a mute that nobody meant."""

MAX_DAYS = 90
"""A quarter; whoever still does not want to hear of it then says so again."""

NEVER_MUTED = frozenset({"STORE_REWOUND", "NODE_CLONED", "CLOCK_JUMP"})
"""Two put in doubt who owns a VM, so an OK beside them would be a lie that scripts act on; under
the third a mute's own end does not come."""

_AUTO = "auto:MUTE"
_EXPIRED = "expired"
_SHOWN = 40
_NAMED = 3

_LISTED = 1_000
"""VMs named in a record."""

_MOST = 30_000
"""Nodes and further VMs that one mute covers: with 13 bytes each the record stays below the store's
512 KiB."""

_DIGITS = 12
_CODE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)


def request_mute(turn: Turn, event: MuteRequested | UnmuteRequested) -> None:
    """Mute or end a mute for a person. Raises ClusterError."""
    node = find_node(turn.state, event.node) if event.node else ""
    held = turn.state.mutes.get((event.code, node))
    if _is_written(turn.state, event.code, node):
        detail = f"{_name(event.code, node)} is being written this moment"
        raise ClusterError(ErrorCode.CONFLICT, detail)
    if isinstance(event, MuteRequested):
        _mute(turn, replace(event, node=node), held)
        return
    if held is None or held.over:
        raise ClusterError(
            ErrorCode.UNKNOWN_MUTE, _name(event.code, node) + _others(turn.state, event)
        )
    text = f"{_name(event.code, node)} {_until(held.record)} was ended"
    actor = f"user:{event.actor}"
    _end(turn, held, Note(_subject(node), "MUTE_REMOVED", text, actor), event.ticket)


def _mute(turn: Turn, event: MuteRequested, held: MuteHeld | None) -> None:
    state, code, name = turn.state, event.code, event.node
    _check(state, code, name)
    reason, now = check_reason(event.reason), turn.now.utc
    until = read_end(event.until or DEFAULT_FOR, now_utc=now, most_days=MAX_DAYS)
    level = state.census.level(code, name)
    nodes = 1 if name and level else 0 if name else state.census.count(code).nodes
    scope = [state.nodes[name]] if name else state.nodes.values()
    vms = {vm for node in scope for vm in _at_risk(state, node, code)}
    if name and not level:
        # Before planned work: what is there now is what is meant to be down.
        vms = {claim.vm for claim in claims_on(state, name)}
    listed, rest = sorted(vms)[:_LISTED], sorted(vms)[_LISTED:]
    shown_by = [] if name else [one for one in state.census.shown if _shows(state, one, code)]
    if len(shown_by) + len(rest) > _MOST:
        detail = f"{len(shown_by)} nodes and {len(vms)} VMs are too many for one; mute it by node"
        raise _bad("code", detail)
    covered = cover(nodes=shown_by, vms=rest)
    record = MuteRecord(
        code, name, reason, event.actor, now, until, level, nodes, tuple(listed), covered
    )
    text = f"{_name(code, name)} {_until(record)}: {reason}"
    if held is not None and not held.over:
        text += f"; instead of that {describe_mute(held.record)}"
    note = Note(_subject(name), "MUTE_ADDED", text, f"user:{event.actor}")
    txn_id = turn.next_txn()
    write = MuteWrite(
        txn_id=txn_id,
        rows=turn.number_rows([note]),
        tickets=(event.ticket,),
        record=record,
        ended=False,
    )
    key, revision = keys.mute_key(code, name), held.revision if held is not None else 0
    turn.commit(write, compares=(ModRevisionIs(key, revision),), ops=(Put(key, encode(record)),))


def _check(state: State, code: str, node: str) -> None:
    """Raises ClusterError for what cannot be muted."""
    census = state.census
    if code in NEVER_MUTED:
        raise _bad("code", f"{code} is never muted: while it stands, nothing else here is certain")
    known = code in census.counts or any(code == c.name for c in CLUSTER_CODES)
    if not _CODE.fullmatch(code) or not known:
        shown = ", ".join(sorted(census.counts)[:20]) or "nothing"
        raise _bad("code", f"{code[:_SHOWN]!a} is no code that is shown; shown are: {shown}")
    if not node and not census.count(code).nodes:
        detail = f"nothing shows {code} now; before planned work mute it on its node: --node NODE"
        raise _bad("code", detail)
    held = (code, node) in state.mutes
    if not held and len(state.mutes) >= state.limits.mutes_kept:
        raise _bad("code", f"{len(state.mutes)} mutes are in force; remove one first")


def cover(*, nodes: Iterable[str], vms: Iterable[str]) -> str:
    """Who is covered, as digests of 12 hexadecimal digits with a space between."""
    digests = [_digest("node", name) for name in nodes] + [_digest("vm", name) for name in vms]
    return " ".join(sorted(digests))


def _digest(kind: str, name: str) -> str:
    return sha256(f"{kind}:{name}".encode()).hexdigest()[:_DIGITS]


def _shows(state: State, name: str, code: str) -> bool:
    """Whether that node (or mark of the census) shows the code now."""
    return any(shown == code for shown, _ in state.census.shown.get(name, ()))


# --- what ends one -------------------------------------------------------------------------------


def end_mutes(turn: Turn, *, all_marks: bool) -> None:
    """Mutes break where this turn made it worse; those whose last second is over end.

    `all_marks` where the census counted what is no node's own evidence.
    """
    names = turn.touched | turn.state.census.marks if all_marks else turn.touched
    for held in list(turn.state.mutes.values()):
        record = held.record
        if not held.over:
            expired = turn.now.utc > record.until
            why = _EXPIRED if expired else _worse(turn.state, record, names)
            if not why:
                continue
            held = replace(held, over=why)
            _put(turn, held)
        if not _is_written(turn.state, record.code, record.node):
            _write_end(turn, held)


def _is_written(state: State, code: str, node: str) -> bool:
    writes = (w for w in state.pending.values() if isinstance(w, MuteWrite))
    return any((w.record.code, w.record.node) == (code, node) for w in writes)


def _write_end(turn: Turn, held: MuteHeld) -> None:
    record = held.record
    broke = held.over != _EXPIRED
    how = f"broke: {held.over}" if broke else f"expired, {_until(record)}"
    text = f"{_name(record.code, record.node)} of {record.by} {how}"
    row = "MUTE_BROKEN" if broke else "MUTE_EXPIRED"
    _end(turn, held, Note(_subject(record.node), row, text, _AUTO))


def _worse(state: State, record: MuteRecord, names: Iterable[str]) -> str:
    """Why there is more than the mute covers, in words, "" for nothing.

    Nodes and VMs are looked for under these names of the census alone.
    """
    code, census = record.code, state.census
    if record.level == WARN and census.level(code, record.node) == ERR:
        return "it was WARN and is ERR now"
    nodes = census.count(code).nodes
    if not record.node and nodes > record.nodes:
        return f"{nodes} nodes show it, {record.nodes} did"
    scope = [one for one in names if record.node in ("", one) and _shows(state, one, code)]
    if not scope:
        return ""
    if record.covered:
        others = [one for one in scope if _digest("node", one) not in record.covered]
        if others:
            return f"{min(others).removeprefix('+')} shows it and did not"
    at_risk = [state.nodes[one] for one in scope if one in state.nodes]
    found = {vm for node in at_risk for vm in _at_risk(state, node, code)}
    found -= set(record.vms)
    found = {vm for vm in found if _digest("vm", vm) not in record.covered}
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"{' '.join(sorted(found)[:_NAMED])}{more} came to be at risk"
    return ""


def _at_risk(state: State, node: Node, code: str) -> Iterator[str]:
    """VMs that are at risk because of this code, or of something that names no code."""
    if node.judgement is None or not _shows(state, node.name, code):
        return
    for vm, text in node.judgement.at_risk:
        head, mark, _ = text.partition(": ")
        if head == code or not mark or not _CODE.fullmatch(head):
            yield vm


def hides(state: State, code: str, node: str) -> MuteHeld | None:
    """The mute in force that covers a code on a node (or the cluster's own), None for none."""
    for key in ((code, node), (code, "")):
        held = state.mutes.get(key)
        if held is not None and not held.over:
            return held
    return None


def is_silenced(state: State, code: str, nodes: Iterable[str]) -> bool:
    """Whether nobody is to be told of this code: it is muted on every one of these nodes."""
    return bool(state.mutes) and all(hides(state, code, node) is not None for node in nodes)


# --- the store -----------------------------------------------------------------------------------


def _end(turn: Turn, held: MuteHeld, note: Note, *tickets: int) -> None:
    record, txn_id = held.record, turn.next_txn()
    write = MuteWrite(
        txn_id=txn_id, rows=turn.number_rows([note]), tickets=tickets, record=record, ended=True
    )
    key = keys.mute_key(record.code, record.node)
    turn.commit(write, compares=(ModRevisionIs(key, held.revision),), ops=(Delete(key),))


def finish_mute(turn: Turn, write: MuteWrite, event: CommitOutcome) -> None:
    """Believe the outcome; an end that did not land is tried again with the next tick."""
    record = write.record
    if event.outcome is not Outcome.OK:
        detail = f"{_name(record.code, record.node)} changed underneath"
        turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
        return
    if write.ended:
        forget_mute(turn, record.code, record.node)
    else:
        over = _worse(turn.state, record, turn.state.census.shown)  # while it was being written
        _put(turn, MuteHeld(record, event.revision, over))
    turn.reply(write.tickets, mute_view(turn.state, record))


def keep_mute(turn: Turn, record: MuteRecord, revision: int) -> None:
    """The store holds this mute."""
    known = turn.state.mutes.get((record.code, record.node))
    if known is not None and known.record == record:
        _put(turn, replace(known, revision=revision))
    else:
        _put(turn, MuteHeld(record, revision))


def forget_mute(turn: Turn, code: str, node: str) -> None:
    """The store holds no such mute."""
    if (code, node) in turn.state.mutes:
        turn.state = replace(turn.state, mutes=turn.state.mutes.delete((code, node)))


def _put(turn: Turn, held: MuteHeld) -> None:
    key = (held.record.code, held.record.node)
    turn.state = replace(turn.state, mutes=turn.state.mutes.set(key, held))


# --- for people ----------------------------------------------------------------------------------


def mute_views(state: State) -> tuple[MuteView, ...]:
    """The mutes in force, by code and node."""
    held = sorted(state.mutes.items())
    return tuple(mute_view(state, one.record) for _, one in held if not one.over)


def mute_view(state: State, record: MuteRecord) -> MuteView:
    """One mute, and how many nodes it hides now."""
    code, name = record.code, record.node
    shown = state.census.level(code, name)
    return MuteView(
        code=code,
        node=name,
        reason=record.reason,
        muted_by=record.by,
        muted_at=record.at,
        until=record.until,
        level=record.level,
        nodes=record.nodes,
        vms=record.vms,
        hides=(1 if shown else 0) if name else state.census.count(code).nodes,
    )


def describe_mute(record: MuteRecord) -> str:
    """Who, until when and why, in one line."""
    return f"by {record.by} {_until(record)}: {record.reason}"


def _name(code: str, node: str) -> str:
    return f"mute of {code[:_SHOWN]}{f' on {node}' if node else ''}"


def _others(state: State, event: UnmuteRequested) -> str:
    """Where the same code is muted instead, for whoever asked for the wrong one."""
    nodes = [node for code, node in sorted(state.mutes) if code == event.code]
    if not nodes:
        return ""
    if not nodes[0]:
        return "; it is muted on all nodes: leave out --node"
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return f"; it is muted with --node {', '.join(nodes[:_NAMED])}{more}"


def _subject(node: str) -> str:
    return f"node:{node}" if node else "cluster"


def _until(record: MuteRecord) -> str:
    return f"until {describe_end(record.until)}"


def _bad(field: str, problem: str) -> ClusterError:
    return ClusterError(ErrorCode.BAD_REQUEST, f"{field}: {problem}")
