"""Placing: decide on the index, mark the units pending, commit, believe the outcome.

A placement's transaction compares the fence, the node's durable admin key, the absence of every
unit key and of the claim key, the risk decisions it stands on and the VM's owner record; it writes
the claim, its units and the owner with the event row, or nothing. A failed compare frees the units,
learns what the store holds and decides again, a bounded number of times. Tokens are
`epoch << 32 | counter`: they grow within a process by the counter and across restarts by the epoch.
A retry with the same request id gets the same claim.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.address import check_name
from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.units import KINDS
from vfio_contract.views import Decision, Placement, PlaceRequest, Refusal
from vfio_coordinator.scheduler.gates import ALLOWS
from vfio_coordinator.scheduler.place import Chosen, Moment, decide, describe
from vfio_coordinator.scheduler.refusal import refuse
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.events import (
    CommitOutcome,
    Outcome,
    PlaceRequested,
)
from vfio_coordinator.state.holdings import hold, keep_claim, unhold
from vfio_coordinator.state.lookup import find_node, unpack_claim
from vfio_coordinator.state.model import (
    ClaimWrite,
    Node,
    Presence,
    State,
    VmHeld,
)
from vfio_coordinator.state.presence import is_fresh, presence_of
from vfio_coordinator.state.records import Claim, ClaimedUnit, UnitRecord, VmRecord
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.state.vm_report import placement_of
from vfio_coordinator.store.interface import (
    Absent,
    Compare,
    ModRevisionIs,
    Put,
    StoreError,
)

MAX_UNITS = 64
"""Units in one request; far above any host's, so that a typing error is told as one."""

_COUNTER_BITS = 32


def request_place(turn: Turn, event: PlaceRequested) -> None:
    """Answer a request for a place. Raises ClusterError for what is no valid request."""
    request = _checked(turn.state, event.request)
    if turn.state.rewound:
        raise ClusterError(ErrorCode.STORE_REWOUND, turn.state.rewound)
    if not request.dry_run and _answer_known(turn, event, request):
        return
    _place(turn, request, event.actor, (event.ticket,), attempt=1)


def _checked(state: State, request: PlaceRequest) -> PlaceRequest:
    try:
        check_name(request.vm, field="vm")
    except ValueError as error:
        raise ClusterError(ErrorCode.BAD_REQUEST, str(error)) from error
    if not request.devices:
        raise ClusterError(ErrorCode.BAD_REQUEST, "devices: at least one is needed")
    for device in request.devices:
        if device.kind.strip().lower() not in KINDS:
            detail = f"devices: kind {device.kind!r} is none of {' '.join(KINDS)}"
            raise ClusterError(ErrorCode.BAD_REQUEST, detail)
        if device.count < 1:
            detail = f"devices: count {device.count} of {device.kind} is below 1"
            raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    total = sum(device.count for device in request.devices)
    if total > MAX_UNITS:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"devices: {total} units, limit {MAX_UNITS}")
    unknown = sorted(set(request.allow) - set(ALLOWS.values()))
    if unknown:
        words = " ".join(sorted(ALLOWS.values()))
        raise ClusterError(ErrorCode.BAD_REQUEST, f"allow: {unknown[0]!r} is none of {words}")
    return replace(request, node=find_node(state, request.node)) if request.node else request


def _answer_known(turn: Turn, event: PlaceRequested, request: PlaceRequest) -> bool:
    """A VM with a claim, or one whose claim is being written, gets no second one."""
    state = turn.state
    for write in state.pending.values():
        if isinstance(write, ClaimWrite) and write.claim.vm == request.vm:
            if request.request_id and write.request.request_id == request.request_id:
                joined = replace(write, tickets=(*write.tickets, event.ticket))
                pending = state.pending.set(write.txn_id, joined)
                turn.state = replace(state, pending=pending)
                return True
            detail = f"vm {request.vm}: another request for it is being written"
            raise ClusterError(ErrorCode.CONFLICT, detail)
    held = state.vms.get(request.vm)
    if held is None or not held.generations:
        return False
    known = state.claims[(request.vm, held.generations[-1])]
    if not known.releasing and request.request_id:
        claim = known.claim
        if claim.request.request_id == request.request_id:
            turn.reply((event.ticket,), Decision(placement_of(unpack_claim(known)), None))
            return True
    detail = f"vm {request.vm} holds generation {held.generations[-1]} on {known.claim.node}"
    raise ClusterError(ErrorCode.VM_EXISTS, detail)


def _place(
    turn: Turn, request: PlaceRequest, actor: str, tickets: tuple[int, ...], *, attempt: int
) -> None:
    moment = moment_of(turn)
    chosen = _decide_fresh(turn, request)
    if chosen is None:
        turn.reply(tickets, Decision(None, _refuse(turn, request, moment)))
    elif request.dry_run:
        turn.reply(tickets, Decision(describe(chosen, request, moment), None))
    else:
        _reserve(turn, chosen, request, moment, actor, tickets, attempt)


def moment_of(turn: Turn) -> Moment:
    """Now, as placement wants it."""
    return Moment(turn.now.monotonic_s, turn.now.utc, turn.state.revision)


def _decide_fresh(turn: Turn, request: PlaceRequest) -> Chosen | None:
    """Deadlines are looked at once a second; a node that passed one since is not chosen."""
    stale: set[str] = set()
    while True:
        chosen = decide(turn.state.index, request)
        if chosen is None:
            return None
        node = turn.state.nodes[chosen.entry.node]
        heard = presence_of(turn.state, node, turn.now) is Presence.HEARD
        if heard and is_fresh(turn.state, node, turn.now):
            return chosen
        if node.name in stale:
            raise AssertionError(f"{node.name} is not fresh and yet takes placements")
        stale.add(node.name)
        settle(turn, node.name)


def _refuse(turn: Turn, request: PlaceRequest, moment: Moment) -> Refusal:
    """The refusal; the request is remembered so that `explain` can decide it again."""
    state = turn.state
    order = (*(vm for vm in state.refused_order if vm != request.vm), request.vm)
    refused = state.refused.set(request.vm, request)
    for vm in order[: -state.limits.refusals_kept]:
        refused = refused.delete(vm)
    kept = order[-state.limits.refusals_kept :]
    turn.state = replace(state, refused=refused, refused_order=kept)
    detail = len(state.nodes) <= state.limits.listed_nodes
    return refuse(state.index, request, at=moment.utc, revision=moment.revision, detail=detail)


def _reserve(
    turn: Turn,
    chosen: Chosen,
    request: PlaceRequest,
    moment: Moment,
    actor: str,
    tickets: tuple[int, ...],
    attempt: int,
) -> None:
    state = turn.state
    node = state.nodes[chosen.entry.node]
    owner = state.vms.get(request.vm)
    last = owner.record.last_generation if owner is not None else 0
    counter = state.tokens + 1
    placement = describe(
        chosen,
        request,
        moment,
        generation=last + 1,
        token=(state.epoch << _COUNTER_BITS) | counter,
    )
    claim = _make_claim(placement, chosen, request, actor, node.boot_id, moment)
    vm = VmRecord(request.vm, node.name, node.boot_id, claim.generation, claim.generation)
    listed = " ".join(unit.unit for unit in claim.units)
    verb = "claimed" if request.external else "placed"
    text = f"{verb} on {node.name}: {listed} (generation {claim.generation}, token {claim.token})"
    note = Note(f"vm:{request.vm}", f"VM_{verb.upper()}", text, f"user:{actor}")
    txn_id = turn.next_txn()
    write = ClaimWrite(
        txn_id=txn_id,
        rows=turn.number_rows([note]),
        tickets=tickets,
        attempt=attempt,
        claim=claim,
        data=encode(claim),
        vm=vm,
        request=request,
        actor=actor,
    )
    claim_key, vm_key = keys.claim_key(claim.vm, claim.generation), keys.vm_key(claim.vm)
    units = {
        keys.unit_key(node.name, key): encode(
            UnitRecord(node.name, key, claim.vm, claim.generation, claim.token)
        )
        for key in claim.keys
    }
    try:
        turn.commit(
            write,
            compares=(
                ModRevisionIs(keys.node_key(node.name), node.admin_revision),
                *_risk_compares(node, claim),
                Absent(claim_key),
                ModRevisionIs(vm_key, owner.mod_revision if owner is not None else 0),
                *map(Absent, units),
            ),
            ops=(
                Put(claim_key, write.data),
                Put(vm_key, encode(vm)),
                *(Put(key, value) for key, value in units.items()),
            ),
        )
    except StoreError as error:
        detail = f"vm {request.vm} on {node.name}: {error}"
        turn.fail(tickets, ErrorCode.BAD_REQUEST, detail)
        return
    turn.state = replace(turn.state, tokens=counter)
    hold(turn, claim, pending=True)


def _risk_compares(node: Node, claim: Claim) -> list[Compare]:
    """A claim lands only on the very decisions that it was placed on."""
    return [
        ModRevisionIs(keys.risk_key(node.name, code), node.risks[code].revision)
        for code in claim.risks
    ]


def _make_claim(
    placement: Placement,
    chosen: Chosen,
    request: PlaceRequest,
    actor: str,
    boot_id: str,
    moment: Moment,
) -> Claim:
    units = tuple(
        ClaimedUnit(
            unit=placed.unit,
            kind=placed.kind,
            model=placed.model,
            assign=placed.assign,
            hold=placed.hold,
            numa_node=placed.numa_node,
            places=tuple((str(i), str(p), str(a)) for i, p, a in offer.standing.layout.places),
            keys=offer.standing.layout.keys,
            proof=placed.proof,
        )
        for placed, offer in zip(placement.units, chosen.offers, strict=True)
    )
    return Claim(
        vm=request.vm,
        generation=placement.generation,
        token=placement.token,
        node=placement.node,
        boot_id=boot_id,
        units=units,
        request=request,
        state="reserved",
        external=request.external,
        owner=f"user:{actor}",
        at=moment.utc,
        revision=placement.revision,
        risks=tuple(sorted({n.code for o in chosen.offers for n in o.standing.needs})),
    )


def finish_claim(turn: Turn, write: ClaimWrite, event: CommitOutcome) -> None:
    """Confirm the claim, or free its units and decide again."""
    claim = write.claim
    if event.outcome is Outcome.OK:
        keep_claim(turn, claim, event.revision, write.data)
        known = turn.state.vms.get(claim.vm)
        generations = known.generations if known is not None else ()
        vm = VmHeld(write.vm, event.revision, (*generations, claim.generation))
        turn.state = replace(turn.state, vms=turn.state.vms.set(claim.vm, vm))
        hold(turn, claim, pending=False)
        _forget_refusal(turn, claim.vm)
        turn.reply(write.tickets, Decision(placement_of(claim), None))
        return
    unhold(turn, claim)
    if write.attempt >= turn.state.limits.place_attempts:
        detail = f"vm {claim.vm}: {write.attempt} decisions were overtaken"
        turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
        return
    # What the failed compares taught may say that the VM has a claim by now.
    held = turn.state.vms.get(claim.vm)
    if held is not None and held.generations:
        detail = f"vm {claim.vm} holds generation {held.generations[-1]}"
        turn.fail(write.tickets, ErrorCode.VM_EXISTS, detail)
        return
    _place(turn, write.request, write.actor, write.tickets, attempt=write.attempt + 1)


def _forget_refusal(turn: Turn, vm: str) -> None:
    state = turn.state
    if vm in state.refused:
        order = tuple(name for name in state.refused_order if name != vm)
        turn.state = replace(state, refused=state.refused.delete(vm), refused_order=order)
