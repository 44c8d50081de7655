"""Finding what a person named: nodes by unique prefix, VMs and claims by name; typed refusals."""

from __future__ import annotations

import zlib

from vfio_contract.artifact import decode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.state.model import ClaimHeld, State, VmHeld
from vfio_coordinator.state.records import Claim

_NAMED = 5


def find_node(state: State, text: str) -> str:
    """The node of that name, or the only one that begins so.

    Raises ClusterError: UNKNOWN_NODE, or BAD_REQUEST for a prefix that fits several.
    """
    if text in state.nodes:
        return text
    found = sorted(name for name in state.nodes if text and name.startswith(text))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClusterError(ErrorCode.UNKNOWN_NODE, f"node {text!r}")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    listed = " ".join(found[:_NAMED])
    raise ClusterError(ErrorCode.BAD_REQUEST, f"node {text!r} fits several: {listed}{more}")


def find_vm(state: State, vm: str) -> VmHeld:
    """The VM's record, if it holds a claim. Raises ClusterError UNKNOWN_VM."""
    held = state.vms.get(vm)
    if held is None or not held.generations:
        raise ClusterError(ErrorCode.UNKNOWN_VM, f"vm {vm!r}")
    return held


def unpack_claim(held: ClaimHeld) -> Claim:
    """The claim with its proof."""
    return decode(Claim, zlib.decompress(held.packed))
