"""What the coordinator tells of incidents: one cause seen on several nodes, as plain values.

The values of `vfio_contract.views` for one subject: names and fields are those of the messages in
`vfioctl.v1`. Nothing is worked out here.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_contract.views import Event


@dataclass(frozen=True, slots=True)
class IncidentFactor:
    """Something that the affected nodes have in common, and how far others have it too.

    `part` is of the firmware tuple, `agent` or `checks`. `before` is "" where the nodes came from
    different values or where `changed` is False: then it did not change since their baselines and
    is only what they share. `unaffected` nodes have it and are fine: they speak against it. Of
    the peers, nodes of the same boards as the affected ones, `waiting` do not have it yet, as last
    heard; of `unknown` nodes, which may be peers, nobody knows. All three are None in lists.
    """

    part: str
    before: str
    after: str
    changed: bool
    unaffected: int | None = None
    waiting: int | None = None
    unknown: int | None = None


@dataclass(frozen=True, slots=True)
class IncidentMember:
    """An affected node. `since` is when it was first seen so, ISO 8601 UTC; `text` what was seen.

    `heard` is False while nobody knows whether it still is so. `vms` are those that it concerns.
    """

    node: str
    since: str
    heard: bool
    text: str
    vms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IncidentView:
    """One incident. `id` is `INC-<number>`; numbers only grow. `state` is `open` or `closed`.

    `level` is `ERR` or `WARN`, `text` what the first node showed. `nodes` are affected now, `peak`
    were at most, `vms` are concerned now. `acked_by` is "" until somebody acknowledged it, and
    again once it got worse than it was then. `factors` are what the nodes have in common, the most
    telling first; with one node nothing is common and they are what changed on it. `next` is what
    to do. The rest is filled where one incident is asked for: `members` by node, `former` the last
    nodes that left it, nodes that have the first factor and are fine, those that wait for it, those
    of which it is not known, and the rows of the event log, oldest first.
    """

    id: str
    code: str
    level: str
    state: str
    text: str
    opened_at: str
    closed_at: str
    first_node: str
    nodes: int
    peak: int
    vms: int
    acked_by: str
    acked_at: str
    ack_reason: str
    factors: tuple[IncidentFactor, ...]
    next: str
    members: tuple[IncidentMember, ...] = ()
    former: tuple[str, ...] = ()
    unaffected: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
