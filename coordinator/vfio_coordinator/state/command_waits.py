"""Who waits for a command, what its look saw, and how a command is shown.

A look has its end when the cluster's state holds what it saw: an observation that began no earlier
than the look that the result tells of. Waits are soft: they end with the process.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace

from vfio_contract.action import Outcome as Ended
from vfio_contract.command import LOOKS
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.parts import Parts
from vfio_contract.views import CommandView
from vfio_coordinator.state.events import CommandAwaited
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import CommandHeld, State, Waiter
from vfio_coordinator.state.presence import missing_evidence
from vfio_coordinator.state.turn import Turn

MAX_LISTED = 1_000

_NAMED = 5


def await_command(turn: Turn, event: CommandAwaited) -> None:
    """Answer once it has ended, or when the time is over. Raises ClusterError."""
    held = find_command(turn.state, event.id)
    until_s = turn.now.monotonic_s + event.wait_s
    waiter = Waiter(held.record.node, held.record.id, until_s)
    turn.state = replace(turn.state, waiters=turn.state.waiters.set(event.ticket, waiter))


def answer_waiters(turn: Turn) -> None:
    """Everyone whose command has ended, or whose time is over."""
    for ticket, waiter in turn.state.waiters.items():
        held = _held(turn.state, waiter.node, waiter.id)
        if held is None:
            turn.fail((ticket,), ErrorCode.UNKNOWN_COMMAND, f"id {waiter.id} is no longer kept")
        elif turn.now.monotonic_s >= waiter.until_s or _is_settled(turn.state, held):
            turn.reply((ticket,), _view(turn.state, held))
        else:
            continue
        turn.state = replace(turn.state, waiters=turn.state.waiters.delete(ticket))


def fail_waiters(turn: Turn, detail: str) -> None:
    """Nothing more will be told."""
    turn.fail(tuple(turn.state.waiters), ErrorCode.SHUTTING_DOWN, detail)
    turn.state = replace(turn.state, waiters=type(turn.state.waiters)())


def _is_settled(state: State, held: CommandHeld) -> bool:
    if held.open:
        return False
    looked = held.record.verb in LOOKS and held.record.outcome == Ended.DONE
    return not looked or is_seen(state, held)


def is_seen(state: State, held: CommandHeld) -> bool:
    """True once the node's evidence is of the look that the result tells of, or of a later one."""
    node, record = state.nodes.get(held.record.node), held.record
    observation = node.observation if node is not None else None
    return (
        observation is not None
        and observation.boot_id == record.boot_id
        and 0 < record.began_boottime_ms <= observation.began_boottime_ms
    )


# --- showing -------------------------------------------------------------------------------------


def find_command(state: State, text: str) -> CommandHeld:
    """The command of that id, or the only one that begins so. Raises ClusterError."""
    found = [
        held
        for known in state.commands.values()
        for id, held in known.held.items()
        if text and id.startswith(text)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClusterError(ErrorCode.UNKNOWN_COMMAND, f"id {text[:40]!r}")
    listed = " ".join(sorted(held.record.id for held in found)[:_NAMED])
    raise ClusterError(ErrorCode.BAD_REQUEST, f"id {text[:40]!r} fits several: {listed}")


def command_view(state: State, node: str, id: str) -> CommandView:
    """A command that is kept."""
    return _view(state, state.commands[node].held[id])


def command_views(state: State, node: str) -> tuple[CommandView, ...]:
    """The newest first, of one node or with "" of all; a prefix will do. Raises ClusterError."""
    names = (find_node(state, node),) if node else tuple(state.commands)
    found = [
        held
        for name in names
        for held in (state.commands[name].held.values() if name in state.commands else ())
    ]
    found.sort(key=lambda held: (held.record.at, held.record.sequence), reverse=True)
    return tuple(_view(state, held) for held in found[:MAX_LISTED])


def report_of(state: State, text: str) -> bytes:
    """What an action reported, as `ActionEnded.report`; b"" for a look, or nothing yet."""
    return base64.b64decode(find_command(state, text).record.report)


@dataclass(frozen=True, slots=True)
class Held:
    """The halves of a node's artifact, as the state holds them."""

    node: str
    digest: str
    facts_zlib: bytes = field(repr=False)
    parts: Parts = field(repr=False)


def artifact_of(state: State, text: str) -> Held:
    """What the look of that command saw, or a later one. Raises ClusterError."""
    held = find_command(state, text)
    record = held.record
    node = state.nodes.get(record.node)
    if node is not None and is_seen(state, held):
        inventory, observation = node.inventory, node.observation
        parts = observation.parts if observation is not None else None
        current = not missing_evidence(node)
        if inventory is not None and parts is not None and current:
            return Held(node.name, inventory.digest, inventory.facts_zlib, parts)
    raise ClusterError(ErrorCode.NO_ARTIFACT, f"command {record.id} ({record.verb})")


def _view(state: State, held: CommandHeld) -> CommandView:
    record = held.record
    shown, text = ("ended", record.text) if not held.open else _open_state(state, held)
    return CommandView(
        id=record.id,
        node=record.node,
        verb=record.verb,
        address=record.address,
        state=shown,
        outcome=record.outcome,
        code=record.code,
        text=text,
        by=record.by,
        at=record.at,
        ended_at=record.ended_at,
        seen=not held.open and is_seen(state, held),
    )


def _open_state(state: State, held: CommandHeld) -> tuple[str, str]:
    node = state.nodes.get(held.record.node)
    if node is None or node.session is None:
        return "waiting", "the node is not heard; whether it was begun is not known"
    if held.session != node.session.id:
        return "waiting", "the agent there takes no commands now"
    return ("taken", "under way") if held.taken else ("sent", "sent, not answered yet")


def _held(state: State, node: str, id: str) -> CommandHeld | None:
    known = state.commands.get(node)
    return None if known is None else known.held.get(id)
