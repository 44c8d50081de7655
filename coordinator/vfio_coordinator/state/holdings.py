"""Which claim holds which keys: kept in one place, so that claims and nodes cannot disagree.

A key is held from the moment a decision chose it (pending) until the store has said that the claim
is gone. Nothing else may change a node's `held` or the map of claims.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from vfio_coordinator.state.admin import refresh
from vfio_coordinator.state.model import ClaimHeld, Holding
from vfio_coordinator.state.records import Claim
from vfio_coordinator.state.turn import Turn


def hold(turn: Turn, claim: Claim, *, pending: bool) -> None:
    """The claim's keys are held on its node; its units are free no more."""
    node = turn.state.nodes[claim.node]
    holding = Holding(claim.vm, claim.generation, pending)
    with node.held.mutate() as held:
        for key in claim.keys:
            held[key] = holding
        turn.put_node(replace(node, held=held.finish()))
    refresh(turn, claim.node)


def unhold(turn: Turn, claim: Claim) -> None:
    """The claim's keys are held no more, unless by another claim."""
    node = turn.state.nodes[claim.node]
    with node.held.mutate() as held:
        for key in claim.keys:
            holding = held.get(key)
            if holding is not None and (holding.vm, holding.generation) == (
                claim.vm,
                claim.generation,
            ):
                del held[key]
        turn.put_node(replace(node, held=held.finish()))
    refresh(turn, claim.node)


def keep_claim(turn: Turn, claim: Claim, mod_revision: int, data: bytes) -> None:
    """A claim that the store holds; its proof stays compressed. `data` are its stored bytes."""
    bare = replace(claim, units=tuple(replace(unit, proof=()) for unit in claim.units))
    held = ClaimHeld(bare, zlib.compress(data, 1), mod_revision)
    claims = turn.state.claims.set((claim.vm, claim.generation), held)
    turn.state = replace(turn.state, claims=claims)


def drop_claim(turn: Turn, vm: str, generation: int) -> None:
    """The claim is not in the store any more."""
    state = turn.state
    claims = state.claims.delete((vm, generation))
    held = state.vms.get(vm)
    vms = state.vms
    if held is not None:
        left = tuple(g for g in held.generations if g != generation)
        vms = vms.set(vm, replace(held, generations=left))
    turn.state = replace(state, claims=claims, vms=vms)
