"""Health: what is wrong in the cluster, worst first, each line with what to do next.

Lines are grouped by code over nodes, and what is merely not known is one line for all codes, so
that it never pushes out what is known to be wrong. A code that is an incident is told with
that. What somebody muted comes last, in lines of its
own that say so: they count neither in the roll-up word nor as what to do next, and never vanish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from vfio_contract.views import HealthItem
from vfio_coordinator.state.conditions import (
    CLUSTER,
    ERR,
    NOT_KNOWN,
    WARN,
    Condition,
    cluster_conditions,
    conditions_of,
    peer_conditions,
)
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.incident_report import incident_lines
from vfio_coordinator.state.model import MuteHeld, State
from vfio_coordinator.state.mutes import describe_mute, hides

_NAMED = 3

_Ranked = tuple[int, HealthItem]


def find_health(state: State, now: Now) -> tuple[HealthItem, ...]:
    """All lines, ERR before WARN, then by what they are, then by how many nodes they concern;
    muted ones after all others."""
    items = [_of_cluster(state, scope, row) for scope, row in cluster_conditions(state, now)]
    rows: dict[tuple[str, bool, bool], dict[str, Condition]] = {}
    for name, row in _node_rows(state):
        muted = bool(state.mutes) and hides(state, row.code, name) is not None
        per_node = rows.setdefault((row.code, bool(row.until), muted), {})
        known = per_node.get(name)
        if known is None or _weight(row) < _weight(known):
            per_node[name] = row
    unknown: dict[str, dict[str, Condition]] = {}
    for (code, _, muted), per_node in rows.items():
        found = {name: row for name, row in per_node.items() if row.rank == NOT_KNOWN}
        if found and not muted:
            unknown[code] = found
            per_node = {name: row for name, row in per_node.items() if name not in found}
        items += _of_code(state, now, code, per_node, muted=muted)
    if unknown:
        items.append((NOT_KNOWN, _group_unknown(state, unknown)))
    items.sort(key=_place)
    return tuple(item for _, item in items)


def _node_rows(state: State) -> Iterator[tuple[str, Condition]]:
    for node in state.nodes.values():
        for row in conditions_of(node):
            yield node.name, row
    yield from peer_conditions(state)


def _place(ranked: _Ranked) -> tuple[bool, bool, int, int, str, str]:
    rank, item = ranked
    # a line that names its one node in its scope counts as one
    return bool(item.muted), item.level != ERR, rank, -max(1, item.count), item.code, item.text


def _weight(row: Condition) -> tuple[bool, int]:
    """The least is what a node shows under a code that it has several times."""
    return row.level != ERR, row.rank


def level_of(items: Iterable[HealthItem]) -> str:
    """HEALTH_OK, HEALTH_WARN or HEALTH_ERR; what is muted does not count."""
    levels = {item.level for item in items if not item.muted}
    if ERR in levels:
        return "HEALTH_ERR"
    return "HEALTH_WARN" if levels else "HEALTH_OK"


def next_of(items: Sequence[HealthItem]) -> str:
    """What to do first, "" for nothing."""
    return items[0].next if items and not items[0].muted else ""


def _of_cluster(state: State, scope: str, row: Condition) -> _Ranked:
    one = scope != CLUSTER
    item = HealthItem(
        row.level,
        row.code,
        scope,
        row.text,
        row.run or f"vfioctl node show {scope}",
        count=1 if one else 0,
        since=_since(state, row.code),
        muted=_mute_words(state, row.code, [scope if one else ""]),
    )
    return row.rank, item


def _of_code(
    state: State, now: Now, code: str, per_node: Mapping[str, Condition], *, muted: bool
) -> list[_Ranked]:
    """The lines of one code, a line a level."""
    items = []
    for level in (ERR, WARN):
        chosen = {name: row for name, row in per_node.items() if row.level == level}
        # of accepted risks the decision that ends first is named
        names = sorted(chosen, key=lambda name: (chosen[name].until, name))
        if names:
            rank = min(row.rank for row in chosen.values())
            item = _group(state, code, names, [chosen[name] for name in names])
            if muted:
                item = replace(item, muted=_mute_words(state, code, names))
            else:
                item = _with_incident(state, item, now)
            items.append((rank, item))
    return items


def _with_incident(state: State, item: HealthItem, now: Now) -> HealthItem:
    """The line with its incident before it; one of a single node says no more than the node."""
    found = [i for i in incident_lines(state, item.code, most=_NAMED) if i.level == item.level]
    if not found:
        return item
    first = found[0]
    if first.nodes < 2:
        return replace(item, incident=first.id)
    named = ", ".join(line.id for line in found)
    acked = f" (acknowledged by {first.acked_by})" if first.acked_by else ""
    text = f"{named}, {_moment(first.opened_at, now)}: {item.text}{acked}"
    return replace(item, text=text, next=first.run, incident=first.id, common=first.common)


def _moment(utc: str, now: Now) -> str:
    """`14:19` of the present day, else `11-22 14:19`."""
    day, _, time = utc.partition("T")
    return time[:5] if day == now.utc.partition("T")[0] else f"{day[5:]} {time[:5]}"


def _mute_words(state: State, code: str, names: Iterable[str]) -> str:
    """Of the mutes that hide a line the one that ends first."""
    found: list[MuteHeld] = [m for name in names if (m := hides(state, code, name)) is not None]
    if not found:
        return ""
    return describe_mute(min(found, key=lambda held: (held.record.until, held.record.node)).record)


def _since(state: State, *codes: str) -> str:
    seen = state.census.seen
    return min((seen[code].since for code in codes if code in seen), default="")


def _group(state: State, code: str, names: Sequence[str], rows: Sequence[Condition]) -> HealthItem:
    """One code over its nodes; what one of them shows stands beside its name alone."""
    first = rows[0]
    listed = _list(names)
    text = f"{listed}{', ' if first.until else ': '}{first.text}"
    if first.until and len(names) > 1:
        text = f"{listed}, risks accepted; first to end: {names[0]}, {first.text}"
    elif any(row.text != first.text for row in rows):
        text = f"{listed}; {names[0]}: {first.text}"
    run = first.run or f"vfioctl node show {names[0]}"
    count, since = len(names), _since(state, code)
    return HealthItem(first.level, code, _scope(count), text, run, count=count, since=since)


def _group_unknown(state: State, found: Mapping[str, Mapping[str, Condition]]) -> HealthItem:
    """All codes that say that something is not known, those of most nodes first.

    The one code of a single kind keeps its own line, with its evidence.
    """
    if len(found) == 1:
        ((code, per_node),) = found.items()
        names = sorted(per_node)
        item = _group(state, code, names, [per_node[name] for name in names])
        return replace(item, next=f"vfioctl check --node {names[0]}")
    nodes = Counter(name for per_node in found.values() for name in per_node)
    most = min(nodes, key=lambda name: (-nodes[name], name))
    listed = ", ".join(sorted(found, key=lambda code: (-len(found[code]), code)))
    text = f"{len(found)} codes: {listed}"
    run, count = f"vfioctl check --node {most}", len(nodes)
    return HealthItem(
        WARN, "UNKNOWN", _scope(count), text, run, count=count, since=_since(state, *found)
    )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " ".join(names[:_NAMED]) + more


def _scope(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"
