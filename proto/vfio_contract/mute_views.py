"""What the coordinator tells people of mutes. A value, on the wire as the message of its name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MuteView:
    """A health code that somebody does not want to hear of for a while.

    `node` is "" for all nodes. `until` is its last second, UTC in ISO 8601. It covers what was
    there when it was made: the `level` (ERR, WARN, or "" where nothing showed the code), so many
    `nodes`, and `vms` at risk, of which at most 1,000 are named; any other node or VM breaks it.
    `hides` is how many nodes show the code under it now.
    """

    code: str
    node: str
    reason: str
    muted_by: str
    muted_at: str
    until: str
    level: str
    nodes: int
    vms: tuple[str, ...]
    hides: int
