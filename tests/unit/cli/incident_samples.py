"""Incidents for the screens: one cause on three nodes, one node alone, silence, one that ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.cli import samples
from vfio_contract.codes import GROUP_WIDENED, NODE_LOST
from vfio_contract.incident_views import IncidentFactor, IncidentMember, IncidentView
from vfio_contract.views import Event

SEEN = "widened (merged): 0000:41:00.0 + 0000:00:17.0"
BIOS = IncidentFactor("BIOS", "F10", "F11", True, unaffected=2, waiting=14, unknown=1)
DMAR = IncidentFactor("ACPI DMAR", "4f1c90aa", "9b22e001", True)


def incident(**changes: Any) -> IncidentView:
    """GPUs of three nodes share a group with a disk controller since BIOS F11."""
    values: dict[str, Any] = {
        "id": "INC-7",
        "code": "GROUP_WIDENED",
        "level": "ERR",
        "state": "open",
        "text": SEEN,
        "opened_at": "2026-11-22T14:19:31Z",
        "closed_at": "",
        "first_node": "pve07",
        "nodes": 3,
        "peak": 3,
        "vms": 2,
        "acked_by": "",
        "acked_at": "",
        "ack_reason": "",
        "factors": (BIOS, DMAR),
        "next": GROUP_WIDENED.decision,
    }
    return IncidentView(**(values | changes))


def shown() -> IncidentView:
    """With its nodes."""
    at = "2026-11-22T14:21:07Z"
    return incident(
        members=(
            IncidentMember("pve07", "2026-11-22T14:19:31Z", True, SEEN, ("render-4",)),
            IncidentMember("pve08", at, False, SEEN, ("train-2",)),
            IncidentMember("pve09", at, True, "widened (foreign member): 0000:01:00.0", ()),
        ),
        former=("pve10",),
        unaffected=("pve01", "pve02"),
        waiting=tuple(f"pve{number}" for number in range(20, 34)),
        unknown=("pve12",),
        events=(
            Event(
                88,
                "2026-11-22T14:19:31Z",
                "incident:INC-7",
                "INCIDENT_OPENED",
                f"INC-7 opened: GROUP_WIDENED on pve07: {SEEN}",
                "auto:GROUP_WIDENED",
            ),
            Event(
                93,
                at,
                "incident:INC-7",
                "INCIDENT_NARROWED",
                "INC-7: not kernel 6.8.12-4 -> 6.8.12-5: pve08 shows the same without it",
                "auto:GROUP_WIDENED",
            ),
        ),
    )


def alone() -> IncidentView:
    """One node: nothing can be common."""
    one = replace(shown(), id="INC-9", nodes=1, peak=1, vms=0, events=(), former=(), unaffected=())
    first = replace(BIOS, unaffected=0)
    member = replace(one.members[0], vms=())
    return replace(one, factors=(first, DMAR), members=(member,))


def silence() -> IncidentView:
    """Two nodes of which nothing common is known."""
    return incident(
        id="INC-8",
        code="NODE_LOST",
        text="its agent is silent; its 2 VMs may still run",
        first_node="pve12",
        nodes=2,
        peak=2,
        vms=2,
        acked_by="ops",
        acked_at=samples.AT,
        ack_reason="rack 4 has no power",
        factors=(),
        next=NODE_LOST.decision,
        members=(
            IncidentMember("pve12", samples.AT, True, "its agent is silent", ("a", "b")),
            IncidentMember("pve13", samples.AT, True, "its agent is silent", ()),
        ),
    )


def closed() -> IncidentView:
    """It is over."""
    return incident(
        id="INC-3",
        level="WARN",
        code="GROUP_SPLIT",
        state="closed",
        opened_at="2026-11-19T08:02:11Z",
        closed_at="2026-11-20T09:14:00Z",
        nodes=0,
        vms=0,
        next="nothing: no node shows GROUP_SPLIT any more",
        former=("pve07", "pve08", "pve09"),
        factors=(replace(BIOS, unaffected=0, waiting=0, unknown=0),),
    )
