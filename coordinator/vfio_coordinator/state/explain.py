"""Why a VM is where it is, or why nothing fits: judged now, reserving nothing.

A VM with a claim is explained by its claim, with the gates of its units as they stand now; what was
proved when it was placed never stands among them. One that was refused is decided again from the
request that is remembered, with every node listed.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.views import Decision, GateProof, Placement, VmView
from vfio_coordinator.scheduler.index import Entry
from vfio_coordinator.scheduler.place import Moment, place, prove, prove_risks
from vfio_coordinator.scheduler.standing import Offer
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.lookup import unpack_claim
from vfio_coordinator.state.model import ClaimHeld, Judgement, State
from vfio_coordinator.state.presence import evidence_age
from vfio_coordinator.state.vm_report import placement_of, vm_view


def explain(state: State, vm: str, now: Now) -> tuple[Decision, VmView | None]:
    """The decision as it stands or would be, and the VM if it holds a claim.

    Raises ClusterError UNKNOWN_VM for a VM without a claim and without a remembered request.
    """
    held = state.vms.get(vm)
    if held is not None and held.generations:
        claim = state.claims[(vm, held.generations[-1])]
        placement = _judged_now(state, claim, now)
        return Decision(placement, None), vm_view(state, claim.claim, now)
    request = state.refused.get(vm)
    if request is None:
        detail = f"vm {vm!r} holds no claim and was not refused lately"
        raise ClusterError(ErrorCode.UNKNOWN_VM, detail)
    moment = Moment(now.monotonic_s, now.utc, state.revision)
    found = place(state.index, request, moment, detail=True)
    if isinstance(found, Placement):
        return Decision(found, None), None
    return Decision(None, found), None


def placed_as(state: State, vm: str) -> Placement | None:
    """What was proved when the VM's claim was made, ages as of then; None without a claim."""
    held = state.vms.get(vm)
    if held is None or not held.generations:
        return None
    return placement_of(unpack_claim(state.claims[(vm, held.generations[-1])]))


def _judged_now(state: State, held: ClaimHeld, now: Now) -> Placement:
    placement = placement_of(unpack_claim(held))
    node = state.nodes[placement.node]
    entry = state.index.entries.get(placement.node)
    offers: dict[str, Offer] = {}
    for offer in entry.offers if entry is not None else ():
        offers.update((str(key), offer) for key in offer.standing.layout.keys)
    age_s = evidence_age(node, now)
    judgement = node.judgement
    units = []
    for unit, claimed in zip(placement.units, held.claim.units, strict=True):
        names = (*(i for i, _, _ in claimed.places), *(p for _, p, _ in claimed.places))
        found = next((offers[name] for name in names if name in offers), None)
        proof: tuple[GateProof, ...]
        if judgement is None or not judgement.fresh:
            why = judgement.why if judgement is not None else ""
            text = why or f"nothing vouches for {placement.node} now"
            proof = (GateProof("heard", Verdict.UNKNOWN, "", (text,), age_s),)
        elif entry is None or found is None:
            text = f"{unit.unit} is in no inventory of {placement.node}"
            missing = GateProof("model", Verdict.UNKNOWN, "", (text,), age_s)
            proof = (*_node_refuses(judgement, age_s), missing)
        elif judgement.stage or found.standing.refusing:
            proof = (*_node_refuses(judgement, age_s), *_refusing(entry, found, age_s))
        else:
            proof = tuple(
                replace(row, evidence=(f"claimed by {placement.vm}",))
                if row.gate == "free"
                else row
                for row in prove(entry, found, now.monotonic_s)
            )
        units.append(replace(unit, proof=proof))
    return replace(placement, units=tuple(units))


def _node_refuses(judgement: Judgement, age_s: float) -> tuple[GateProof, ...]:
    """The stage at which the node takes no VM at all now; () where it takes some."""
    if not judgement.stage:
        return ()
    return (GateProof(judgement.stage, Verdict.FAIL, "", (judgement.why,), age_s),)


def _refusing(entry: Entry, offer: Offer, age_s: float) -> tuple[GateProof, ...]:
    """A claimed unit that would be refused now: the gates that say so, and the risks it carries."""
    gates = (
        GateProof(r.gate, r.verdict, r.code, r.evidence or (r.reason,), age_s)
        for r in offer.standing.refusing
    )
    return (*gates, *prove_risks(entry, offer, age_s))
