"""Whether a node is heard and whether its evidence still vouches for it.

Silence is never taken for health: a node that is not heard is UNHEARD at once and LOST after the
deadline; after the coordinator's own start nothing is lost before a full reconnect window passed.
An agent that is heard and says HOSTD_AWAY is as blind as a silent one: nobody looks at its host.
"""

from __future__ import annotations

import math

from vfio_contract.codes import HOSTD_AWAY
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.model import Node, Presence, State


def is_current(state: State, name: str, session: int) -> bool:
    """True for the node's one open session; all others' messages are dropped."""
    node = state.nodes.get(name)
    return node is not None and node.session is not None and node.session.id == session


def presence_of(state: State, node: Node, now: Now) -> Presence:
    """Heard means an open session that said something within the deadline."""
    heard = state.heard.get(node.name)
    limit = state.limits.lost_after_s
    if node.session is not None and heard is not None and now.monotonic_s - heard <= limit:
        return Presence.HEARD
    deadline = reconnect_until(state)
    if heard is not None:
        deadline = max(deadline, heard + limit)
    return Presence.UNHEARD if now.monotonic_s <= deadline else Presence.LOST


def reconnect_until(state: State) -> float:
    """Until then a node that is not heard may still be on its way back: a full window after the
    start, or after the last moment at which agents had to wait to be let in."""
    limits = state.limits
    begun = max(state.started_s, state.crowded_s)
    most = max(limits.reconnect_window_s, limits.reconnect_at_most_s)
    return min(begun + limits.reconnect_window_s, state.started_s + most)


def heard_age(state: State, node: Node, now: Now) -> float:
    """Seconds since the agent said anything, -1 for never since the coordinator's start."""
    heard = state.heard.get(node.name)
    return -1.0 if heard is None else max(0.0, now.monotonic_s - heard)


def evidence_age(node: Node, now: Now) -> float:
    """Seconds since the newest evaluated evidence was collected, -1 for none."""
    if node.observation is None:
        return -1.0
    return max(0.0, now.monotonic_s - node.observation.collected_s)


AFTER_LOSS = "events were lost; waiting for a look at the host after that"


def missing_evidence(node: Node) -> str:
    """What is still to come from this session of this boot, in words; "" when all is there."""
    if node.session is None:
        return "no session is open"
    if not node.boot_id:
        return "its boot id is not known"
    inventory, observation = node.inventory, node.observation
    if inventory is None or inventory.digest != node.digest:
        return "waiting for its inventory"
    if observation is None or observation.session != node.session.id:
        return "waiting for its findings"
    if observation.inventory_digest != inventory.digest:
        return "waiting for findings about its present inventory"
    if observation.boot_id != node.boot_id:
        return "its findings are not of this boot"
    if observation.collected_s <= node.lost_events_s:
        return AFTER_LOSS
    return ""


AWAY = "hostd is away: nobody looks at the host"
AFTER_AWAY = "hostd was away; waiting for a look at the host after that"


def blindness_of(state: State, node: Node) -> str:
    """Why what was seen of the host vouches for nothing, as its agent says; "" for no such reason.

    AWAY while the agent does not reach hostd, then AFTER_AWAY until a look that is newer has come,
    in whichever session.
    """
    intake = state.intakes.get(node.name)
    if intake is None:
        return ""
    if intake.status.code == HOSTD_AWAY.name:
        return AWAY
    seen_s = node.observation.collected_s if node.observation is not None else -math.inf
    return AFTER_AWAY if seen_s <= intake.away_s and intake.away_s > -math.inf else ""


def is_stale(state: State, node: Node, now: Now) -> bool:
    """True for evidence that is too old to vouch for anything."""
    return evidence_age(node, now) > state.limits.evidence_max_age_s


def is_fresh(state: State, node: Node, now: Now) -> bool:
    """True for complete evidence of this session, boot and inventory that is young enough, from an
    agent that looks."""
    blind = missing_evidence(node) or blindness_of(state, node)
    return not blind and not is_stale(state, node, now)


def deadline_of(state: State, node: Node, now: Now) -> float:
    """The moment until which time alone changes nothing about this node; infinity for never."""
    presence = presence_of(state, node, now)
    heard = state.heard.get(node.name)
    limits = state.limits
    if presence is Presence.LOST:
        return math.inf
    if presence is Presence.UNHEARD:
        window = reconnect_until(state)
        return window if heard is None else max(window, heard + limits.lost_after_s)
    found = math.inf if heard is None else heard + limits.lost_after_s
    if node.observation is not None and not is_stale(state, node, now):
        found = min(found, node.observation.collected_s + limits.evidence_max_age_s)
    return found


def span(seconds: float) -> str:
    """`42s`, `6m04s`, `3h12m`, as the screens write it."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
