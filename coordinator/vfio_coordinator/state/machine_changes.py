"""What follows when the names of one machine change: the others are judged anew, and the log says
so. Without it a name could stay placeable after another one took units of the same machine: nothing
may end a turn between the two.
"""

from __future__ import annotations

from collections import deque

from vfio_contract import codes
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.machines import marks_of, names_alike
from vfio_coordinator.state.model import Node, Presence, State
from vfio_coordinator.state.turn import Turn

_CODE = codes.MACHINE_TWICE.name


def follow_machines(turn: Turn, before: State) -> None:
    """At the end of a turn: whoever shares a machine with a node that changed is judged anew."""
    seen: dict[str, tuple[object, ...]] = {}
    waiting = deque(sorted(turn.touched))
    while waiting:
        name = waiting.popleft()
        old, node = before.nodes.get(name), turn.state.nodes[name]
        now = _bearing(node)
        if now == (seen[name] if name in seen else _bearing(old)):
            continue
        seen[name] = now
        others = set(names_alike(turn.state.machines, node))
        if old is not None:
            others.update(names_alike(before.machines, old))
        for other in sorted(others):
            settle(turn, other)
            waiting.append(other)
    for name in sorted(turn.touched):
        _tell(turn, before.nodes.get(name), turn.state.nodes[name])


def _bearing(node: Node | None) -> tuple[object, ...]:
    """What of a node `names_before` looks at, for itself and for others."""
    if node is None:
        return ()
    judgement, admin = node.judgement, node.admin
    presence = judgement.presence if judgement is not None else None
    record = (admin.joined_at, admin.boot_id) if admin is not None else None
    return (marks_of(node), node.boot_id, node.boot_since_s, record, bool(node.held), presence)


def _tell(turn: Turn, before: Node | None, node: Node) -> None:
    was, text, judgement = _said(before), _said(node), node.judgement
    subject, actor = f"node:{node.name}", f"auto:{_CODE}"
    if text and not was:
        turn.note(subject, _CODE, text, actor)
    elif was and not text and judgement is not None and judgement.presence is Presence.HEARD:
        turn.note(subject, "MACHINE_ALONE", "no other name stands before this one", actor)


def _said(node: Node | None) -> str:
    holds = node.judgement.holds if node is not None and node.judgement is not None else ()
    return next((hold.text for hold in holds if hold.code == _CODE), "")
