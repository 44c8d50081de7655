"""What is durable of incidents: one record an incident, and a small one for each node in it.

The values of `state.records` for one subject, under the same rule: fields are only added, with a
default. Moments are the coordinator's own, ISO 8601 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suspect:
    """What changed on a node since its baseline: a part of the firmware tuple, `agent` or `checks`.

    In an incident `before` is "" where its nodes came from different values.
    """

    part: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Telling:
    """How bad an incident was when people were told of it, or acknowledged it.

    `number` counts the tellings that were delivered. `nodes` and `vms` are lowered to what was left
    of them where it grows again after a quiet time; no nodes were left of one that was closed.
    """

    number: int
    level: str
    nodes: int
    vms: int
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRecord:
    """`incidents/<number>`: one cause. It is closed once `closed_at` says when.

    `change` grows with each write, so that no two values are the same. `suspects` are what changed
    on every node that was ever in it. `nodes` and `vms` are those of now, `peak` the most at once.
    `former` are the last nodes that left, the newest last. `joined_at` is when the last one joined,
    "" where that was not kept yet. `told` is None before the first telling.
    """

    number: int
    code: str
    level: str
    text: str
    suspects: tuple[Suspect, ...]
    first_node: str
    opened_at: str
    change: int = 0
    nodes: int = 0
    vms: int = 0
    peak: int = 0
    closed_at: str = ""
    former: tuple[str, ...] = ()
    acked_by: str = ""
    acked_at: str = ""
    ack_reason: str = ""
    told: Telling | None = None
    joined_at: str = ""

    @property
    def id(self) -> str:
        """As people say it."""
        return f"INC-{self.number}"


@dataclass(frozen=True, slots=True)
class IncidentNodeRecord:
    """`incidents/<number>/<node>`: this node is in it since `at`, because of `text`.

    `suspects` are what had changed on it then, `vms` those that it concerned.
    """

    number: int
    node: str
    at: str
    level: str
    text: str
    suspects: tuple[Suspect, ...]
    vms: tuple[str, ...]
