"""What somebody wants done on a node: refused at once, or a record of its own in the store.

Here is everything that can be said against a command before it leaves; `commands` has all that
comes after. It must never have a unit acted on that a VM holds.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.action import AskedUnit
from vfio_contract.address import parse_address
from vfio_contract.artifact import encode
from vfio_contract.command import ACTS, COUNT_BITS, LOOKS, SENDING_S, VERSION, Order, find_mistake
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.scheduler.layout import UnitLayout
from vfio_coordinator.state import keys
from vfio_coordinator.state.commands import commands_of, make_command, put_commands
from vfio_coordinator.state.events import CommandRequested
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.machines import names_before
from vfio_coordinator.state.model import CommandWrite, Node, NodeCommands, Presence, Session, State
from vfio_coordinator.state.presence import AWAY, blindness_of, heard_age, presence_of, span
from vfio_coordinator.state.records import CommandRecord, short_id
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import Absent, Delete, Put


def request_command(turn: Turn, event: CommandRequested) -> None:
    """Write down what somebody wants done. Raises ClusterError where it cannot be sent."""
    name = find_node(turn.state, event.node)
    node = turn.state.nodes[name]
    order = _order(event.verb)
    session = _require_session(turn, node)
    known = commands_of(turn.state, name)
    _require_room(turn.state, known, order)
    sequence = max(known.sequence, turn.state.incarnation << COUNT_BITS) + 1
    record = CommandRecord(
        id=event.id,
        node=name,
        verb=order.value,
        address=_address(event) if order in ACTS else "",
        by=event.actor,
        at=turn.now.utc,
        sequence=sequence,
        product_uuid=session.product_uuid,
        boot_id=node.boot_id,
        agent_state_id=session.agent_state_id,
        deadline_boottime_ms=session.boottime_at(turn.now.monotonic_s + SENDING_S),
    )
    if order in ACTS:
        layout = _require_layout(node, record.address, event.unit)
        for name_of_it in (name, *names_before(turn.state, node)):
            _require_unclaimed(turn.state.nodes[name_of_it], layout)
        record = replace(record, unit=_unit(layout))
    mistake = find_mistake(make_command(turn.state, record))
    if mistake:
        raise ClusterError(ErrorCode.BAD_REQUEST, mistake)
    _create(turn, known, record, event)


def _order(verb: str) -> Order:
    try:
        return Order(verb)
    except ValueError:
        raise ClusterError(
            ErrorCode.BAD_REQUEST, f"verb: {verb[:40]!r} is none of {' '.join(Order)}"
        ) from None


def _require_session(turn: Turn, node: Node) -> Session:
    state, session = turn.state, node.session
    if state.rewound:
        raise ClusterError(ErrorCode.STORE_REWOUND, state.rewound)
    if session is None or presence_of(state, node, turn.now) is not Presence.HEARD:
        age = heard_age(state, node, turn.now)
        since = "not since this coordinator started" if age < 0 else f"last {span(age)} ago"
        raise ClusterError(ErrorCode.NODE_UNHEARD, f"node {node.name} is not heard, {since}")
    if session.commands < VERSION:
        raise ClusterError(
            ErrorCode.AGENT_TOO_OLD,
            f"the agent of {node.name}, version {session.agent_version}, takes no commands",
        )
    if blindness_of(state, node) == AWAY:
        raise ClusterError(ErrorCode.HOSTD_AWAY, f"node {node.name}: {AWAY}")
    if not node.boot_id:
        raise ClusterError(
            ErrorCode.NODE_UNHEARD, f"node {node.name} does not say in which boot it is"
        )
    return session


def _require_room(state: State, known: NodeCommands, order: Order) -> None:
    open_ones = [held.record for held in known.held.values() if held.open]
    if order in LOOKS:
        looks = sum(record.verb in LOOKS for record in open_ones)
        looks += len(known.creating - {known.acting})
        if looks >= state.limits.looks_open:
            raise ClusterError(ErrorCode.NODE_BUSY, f"{looks} looks of it have not ended")
        return
    acting = [record for record in open_ones if record.verb in ACTS]
    if acting or known.acting:
        first = f"{acting[0].verb} {acting[0].address} of {acting[0].by}" if acting else "another"
        raise ClusterError(ErrorCode.NODE_BUSY, f"one at a time acts on a host: {first} is open")


def _address(event: CommandRequested) -> str:
    try:
        return parse_address(event.address)
    except ValueError as error:
        raise ClusterError(ErrorCode.BAD_REQUEST, f"address: {error}") from None


def _require_layout(node: Node, address: str, seen: str) -> UnitLayout:
    """The unit of a function as the node last told it; it must be the one that the asker saw."""
    inventory = node.inventory
    if inventory is None or inventory.digest != node.digest:
        raise ClusterError(ErrorCode.NO_INVENTORY, f"node {node.name}")
    for layout in inventory.units:
        if address not in layout.assign and address not in layout.hold:
            continue
        if seen not in ("", layout.id):
            detail = f"{address} on {node.name} is of {layout.id} now, not of {seen[:40]!r}"
            raise ClusterError(ErrorCode.UNKNOWN_DEVICE, detail)
        return layout
    raise ClusterError(
        ErrorCode.UNKNOWN_DEVICE, f"node {node.name} has no unit with the function {address}"
    )


def _require_unclaimed(node: Node, layout: UnitLayout) -> None:
    """A VM's device is its own, from the moment when a decision chose it."""
    for key in layout.keys:
        holding = node.held.get(key)
        if holding is not None:
            detail = f"{layout.assign[0]} on {node.name} is of VM {holding.vm}"
            raise ClusterError(ErrorCode.DEVICE_CLAIMED, detail)


def _unit(layout: UnitLayout) -> AskedUnit:
    """What the host compares with the unit that it finds: another one now is refused."""
    names = tuple(sorted(identity for identity, _, _ in layout.places))
    return AskedUnit(layout.id, names, layout.assign, layout.hold)


def _create(
    turn: Turn, known: NodeCommands, record: CommandRecord, event: CommandRequested
) -> None:
    about = f"{record.verb} {record.address}".rstrip()
    text = f"{about}: command {short_id(record.id)}"
    note = Note(f"node:{record.node}", "COMMAND_SENT", text, f"user:{event.actor}")
    txn_id = turn.next_txn()
    forgotten = _oldest(turn.state, known)
    key = keys.command_key(record.node, record.id)
    known = replace(
        known,
        sequence=record.sequence,
        creating=known.creating | {record.id},
        acting=record.id if record.verb in ACTS else known.acting,
    )
    put_commands(turn, record.node, known)
    turn.commit(
        CommandWrite(
            txn_id=txn_id,
            rows=turn.number_rows([note]),
            tickets=(event.ticket,),
            record=record,
            new=True,
            forgotten=forgotten,
        ),
        compares=[Absent(key)],
        ops=[
            Put(key, encode(record)),
            *(Delete(keys.command_key(record.node, id)) for id in forgotten),
        ],
    )


def _oldest(state: State, known: NodeCommands) -> tuple[str, ...]:
    """Ids of what gives way: the oldest of those that ended and that nothing is written about."""
    ended = sorted((held.record.sequence, id) for id, held in known.held.items() if not held.open)
    free = [id for _, id in ended if not known.held[id].txn]
    return tuple(free[: max(0, len(ended) + 1 - state.limits.commands_kept)])
