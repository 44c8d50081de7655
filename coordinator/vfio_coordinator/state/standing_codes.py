"""Which health codes stand in the cluster and since when: counted with each turn, and remembered.

The counts follow the nodes that a turn touched. Since when a code is there is durable: it is
written down once the code has stood for a while, and forgotten once no node that is heard has shown
it for longer than that, so a code that comes and goes keeps its first moment and costs two writes.
After a start nothing is forgotten before agents had their time to come back. A moment is never
made earlier than what was seen.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_coordinator.state import keys
from vfio_coordinator.state.census import Census, Seen, count_shown, mark_of, worst_of
from vfio_coordinator.state.conditions import cluster_conditions, conditions_of, peer_conditions
from vfio_coordinator.state.events import CommitOutcome, Outcome
from vfio_coordinator.state.model import HealthWrite, Node, State
from vfio_coordinator.state.presence import reconnect_until
from vfio_coordinator.state.records import CodeRecord
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Delete, Op, Put

_OWN = re.compile(r"[A-Z][A-Z0-9_]{1,62}", re.ASCII)
"""A host can send any text as a code: what is not one of this form is shown and never written."""

_TOGETHER = 20
"""Codes in one transaction: each is a key and up to two of the log, of 100 at most."""


def count_touched(turn: Turn, before: State) -> set[str]:
    """Count what the nodes that this turn touched show now; the codes that changed for one."""
    changed: set[str] = set()
    for name in turn.touched:
        was, now = before.nodes.get(name), turn.state.nodes[name]
        if was is None or not _shows_the_same(was, now):
            shown = worst_of((c.code, c.level) for c in conditions_of(now))
            changed |= _count(turn, name, shown)
    return changed


def _shows_the_same(was: Node, now: Node) -> bool:
    return (
        was.judgement is now.judgement
        and was.observation is now.observation
        and was.risks is now.risks
        and was.admin is now.admin
    )


def count_others(turn: Turn) -> set[str]:
    """Count what is no node's own evidence; the codes that changed."""
    rows: dict[str, list[tuple[str, str]]] = {}
    others = (*cluster_conditions(turn.state, turn.now), *peer_conditions(turn.state))
    for scope, condition in others:
        rows.setdefault(mark_of(scope), []).append((condition.code, condition.level))
    changed: set[str] = set()
    for mark in turn.state.census.marks | rows.keys():
        changed |= _count(turn, mark, worst_of(rows.get(mark, ())))
    turn.state = replace(turn.state, census=replace(turn.state.census, marks=frozenset(rows)))
    return changed


def _count(turn: Turn, name: str, shown: tuple[tuple[str, str], ...]) -> set[str]:
    census, changed = count_shown(turn.state.census, name, shown)
    for code in changed:
        census = _follow(turn, census, code)
    if changed:
        turn.state = replace(turn.state, census=census)
    return set(changed)


def _follow(turn: Turn, census: Census, code: str) -> Census:
    """Since when the code is there, now that its count is another."""
    now, known = turn.now, census.seen.get(code)
    if census.count(code).nodes:
        if known is None:
            found = Seen(now.utc, now.monotonic_s)
        elif known.gone_s == math.inf:
            return census
        else:
            found = replace(known, gone_s=math.inf)
        return replace(census, seen=census.seen.set(code, found))
    if known is None:
        return census
    if not known.durable and not known.txn:
        return replace(census, seen=census.seen.delete(code))
    gone = replace(known, gone_s=now.monotonic_s)
    return replace(census, seen=census.seen.set(code, gone))


# --- the store -----------------------------------------------------------------------------------


def write_seen(turn: Turn) -> None:
    """Write down what has stood long enough, and forget what is gone for good."""
    state, now_s = turn.state, turn.now.monotonic_s
    census, limits = state.census, state.limits
    kept, gone = [], []
    room = limits.codes_kept - sum(seen.durable or seen.txn > 0 for seen in census.seen.values())
    for code, seen in sorted(census.seen.items()):
        if seen.txn:
            continue
        if seen.durable:
            if (
                now_s - seen.gone_s >= limits.code_gone_s  # a negative infinity while it is shown
                and now_s > reconnect_until(state)
            ):
                gone.append(code)
        elif now_s - seen.began_s >= limits.code_settles_s and _OWN.fullmatch(code) and room > 0:
            kept.append(code)
            room -= 1
    kept, gone = kept[:_TOGETHER], gone[: max(0, _TOGETHER - len(kept))]
    if kept or gone:
        _write(turn, tuple(kept), tuple(gone))


def _write(turn: Turn, kept: tuple[str, ...], gone: tuple[str, ...]) -> None:
    census, txn_id = turn.state.census, turn.next_txn()
    ops: list[Op] = []
    notes: list[Note] = []
    for code in kept:
        since, level = census.seen[code].since, census.level(code)
        ops.append(Put(keys.health_key(code), encode(CodeRecord(code, since))))
        text = f"{level} {code} since {since}"
        notes.append(Note("cluster", "HEALTH_BEGAN", text, f"auto:{code}"))
    for code in gone:
        ops.append(Delete(keys.health_key(code)))
        text = f"{code} is gone; it was there since {census.seen[code].since}"
        notes.append(Note("cluster", "HEALTH_ENDED", text, f"auto:{code}"))
    # No compare but the fence: only who leads writes these keys, one write a code at a time.
    turn.commit(
        HealthWrite(txn_id=txn_id, rows=turn.number_rows(notes), kept=kept, gone=gone), ops=ops
    )
    for code in (*kept, *gone):
        census = replace(census, seen=census.seen.set(code, replace(census.seen[code], txn=txn_id)))
    turn.state = replace(turn.state, census=census)


def finish_health(turn: Turn, write: HealthWrite, event: CommitOutcome) -> None:
    """Believe the outcome; what was not written is looked at again with the next tick."""
    landed, seen = event.outcome is Outcome.OK, turn.state.census.seen
    for code in (*write.kept, *write.gone):
        durable = (code in write.kept) if landed else (code in write.gone)
        found = replace(seen[code], txn=0, durable=durable)
        if durable or found.gone_s == math.inf:
            if not durable and landed:
                # It came back while its end was being written: this is a new beginning.
                found = Seen(turn.now.utc, turn.now.monotonic_s)
            seen = seen.set(code, found)
        else:
            seen = seen.delete(code)
    turn.state = replace(turn.state, census=replace(turn.state.census, seen=seen))


def keep_code(turn: Turn, record: CodeRecord) -> None:
    """The store knows since when this code is there; nobody has shown it to this process yet."""
    now_s, census = turn.now.monotonic_s, turn.state.census
    known = census.seen.get(record.code)
    if known is None:
        found = Seen(record.since, now_s, gone_s=now_s, durable=True)
    else:
        found = replace(known, since=record.since, durable=True)
    turn.state = replace(
        turn.state, census=replace(census, seen=census.seen.set(record.code, found))
    )
