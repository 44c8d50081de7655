"""Releasing a VM's claim: its units are free once the store says so, and not before.

The transaction compares the claim's own revision, so that a release never takes away a claim that
is not the one it saw. The VM's record stays: it remembers the last generation for ever.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.state import keys
from vfio_coordinator.state.admin import settle
from vfio_coordinator.state.events import CommitOutcome, Outcome, ReleaseRequested
from vfio_coordinator.state.holdings import drop_claim, unhold
from vfio_coordinator.state.lookup import find_vm
from vfio_coordinator.state.model import ClaimWrite, ReleaseWrite
from vfio_coordinator.state.records import Claim
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.state.vm_report import vm_view
from vfio_coordinator.store.interface import Delete, ModRevisionIs, Put


def request_release(turn: Turn, event: ReleaseRequested, *, attempt: int = 1) -> None:
    """Free the VM's newest claim. Raises ClusterError."""
    state = turn.state
    for pending in state.pending.values():
        if isinstance(pending, ClaimWrite) and pending.claim.vm == event.vm:
            detail = f"vm {event.vm}: its claim is being written"
            raise ClusterError(ErrorCode.CONFLICT, detail)
    vm = find_vm(state, event.vm)
    known = state.claims[(event.vm, vm.generations[-1])]
    if known.releasing:
        raise ClusterError(ErrorCode.CONFLICT, f"vm {event.vm}: its release is being written")
    claim = known.claim
    record = replace(vm.record, node="", boot_id="", generation=0)
    text = f"released {' '.join(u.unit for u in claim.units)} on {claim.node}"
    actor = f"user:{event.actor}"
    note = Note(f"vm:{event.vm}", "VM_RELEASED", text, actor)
    txn_id = turn.next_txn()
    write = ReleaseWrite(
        txn_id=txn_id,
        rows=turn.number_rows([note]),
        tickets=(event.ticket,),
        attempt=attempt,
        claim=claim,
        vm=record,
        actor=event.actor,
    )
    claim_key, vm_key = keys.claim_key(claim.vm, claim.generation), keys.vm_key(claim.vm)
    turn.commit(
        write,
        compares=(
            ModRevisionIs(claim_key, known.mod_revision),
            ModRevisionIs(vm_key, vm.mod_revision),
        ),
        ops=(
            Delete(claim_key),
            Put(vm_key, encode(record)),
            *(Delete(keys.unit_key(claim.node, key)) for key in claim.keys),
        ),
    )
    _mark_releasing(turn, claim, txn_id)


def _mark_releasing(turn: Turn, claim: Claim, txn_id: int) -> None:
    key = (claim.vm, claim.generation)
    known = turn.state.claims.get(key)
    if known is not None:
        claims = turn.state.claims.set(key, replace(known, releasing=txn_id))
        turn.state = replace(turn.state, claims=claims)


def finish_release(turn: Turn, write: ReleaseWrite, event: CommitOutcome) -> None:
    """The units are free once the store says so, and not before."""
    claim = write.claim
    if event.outcome is not Outcome.OK:
        _mark_releasing(turn, claim, 0)
        if write.attempt >= turn.state.limits.place_attempts:
            detail = f"vm {claim.vm}: its records kept changing"
            turn.fail(write.tickets, ErrorCode.CONFLICT, detail)
            return
        request = ReleaseRequested(ticket=write.tickets[0], vm=claim.vm, actor=write.actor)
        request_release(turn, request, attempt=write.attempt + 1)
        return
    view = vm_view(turn.state, claim, turn.now)
    drop_claim(turn, claim.vm, claim.generation)
    held = turn.state.vms[claim.vm]
    vm = replace(held, record=write.vm, mod_revision=event.revision)
    turn.state = replace(turn.state, vms=turn.state.vms.set(claim.vm, vm))
    unhold(turn, claim)
    settle(turn, claim.node)
    turn.reply(write.tickets, view)
