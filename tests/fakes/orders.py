"""A command as a coordinator sends it, for tests that need one and not what it says; its unit."""

from __future__ import annotations

from vfio_contract.action import AskedUnit
from vfio_contract.command import Command
from vfio_contract.units import Unit

ORDER = Command(
    id="c1",
    verb="rescan",
    node="pve07",
    product_uuid="u",
    boot_id="b",
    agent_state_id="s",
    sequence=1,
    deadline_boottime_ms=7,
    cluster_id="c",
    incarnation=1,
    epoch=2,
)
"""Looks, for a node of this name in boot `b`; change what matters with `dataclasses.replace`."""


def as_asked(unit: Unit) -> AskedUnit:
    """The unit of a host, as a coordinator names it in a command."""
    return AskedUnit(unit.id, unit.keys, unit.assign, unit.hold)
