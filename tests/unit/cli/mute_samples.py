"""Mutes for the screens: of all nodes, of one, and one made before planned work."""

from __future__ import annotations

from typing import Any

from tests.unit.cli import samples
from vfio_contract.mute_views import MuteView


def mute(**changes: Any) -> MuteView:
    """`ops` does not want to hear of the ACS override on two nodes until 2027-02-01."""
    values: dict[str, Any] = {
        "code": "ACS_OVERRIDE",
        "node": "",
        "reason": "one tenant; the boards are replaced in February, see TICKET-12",
        "muted_by": "ops",
        "muted_at": samples.AT,
        "until": "2027-02-01T23:59:59Z",
        "level": "WARN",
        "nodes": 2,
        "vms": (),
        "hides": 2,
    }
    return MuteView(**(values | changes))


def one_node() -> MuteView:
    """A node that is known to be lost."""
    return mute(
        code="NODE_LOST",
        node="pve12",
        reason="power supply",
        until="2026-11-22T18:32:07Z",
        level="ERR",
        nodes=1,
        vms=("a", "b"),
        hides=1,
    )


def planned() -> MuteView:
    """Before a node is switched off."""
    return mute(
        code="NODE_LOST", node="pve02", reason="new board", level="", nodes=0, vms=("c",), hides=0
    )


def mutes() -> tuple[MuteView, ...]:
    """One of each."""
    return (mute(), planned(), one_node())
