"""VMs and placements as people see them, from their claims."""

from __future__ import annotations

from vfio_contract.views import PlacedUnit, Placement, VmView
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.model import Presence, State
from vfio_coordinator.state.records import Claim


def vm_views(state: State, now: Now) -> tuple[VmView, ...]:
    """All VMs with a claim, by name and generation."""
    rows = sorted(state.claims.items())
    return tuple(vm_view(state, held.claim, now) for _, held in rows)


def vm_view(state: State, claim: Claim, now: Now) -> VmView:
    """One claim. Its VM's state is unknown while its node is not heard."""
    node = state.nodes[claim.node]
    judgement = node.judgement
    heard = judgement is not None and judgement.presence is Presence.HEARD
    risks = dict(judgement.at_risk) if judgement is not None else {}
    return VmView(
        name=claim.vm,
        node=claim.node,
        generation=claim.generation,
        token=claim.token,
        state=claim.state if heard else "unknown",
        kind="external" if claim.external else "placed",
        units=tuple(unit.unit for unit in claim.units),
        addresses=tuple(a for unit in claim.units for a in unit.assign),
        at_risk=risks.get(claim.vm, ""),
        requested=" ".join(_requested(claim)),
        owner=claim.owner,
        at=claim.at,
    )


def _requested(claim: Claim) -> list[str]:
    words = [
        f"{d.kind}:{d.model}={d.count}" if d.model else f"{d.kind}={d.count}"
        for d in claim.request.devices
    ]
    words += ["same-numa"] if claim.request.same_numa else []
    return words + [f"allow={word}" for word in claim.request.allow]


def placement_of(claim: Claim) -> Placement:
    """The placement that a claim is, with its proof as of then."""
    return Placement(
        vm=claim.vm,
        node=claim.node,
        generation=claim.generation,
        token=claim.token,
        revision=claim.revision,
        units=tuple(
            PlacedUnit(
                unit=unit.unit,
                kind=unit.kind,
                model=unit.model,
                assign=unit.assign,
                hold=unit.hold,
                numa_node=unit.numa_node,
                proof=unit.proof,
            )
            for unit in claim.units
        ),
    )
