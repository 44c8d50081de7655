"""Two node names on one machine, and which of them stands for it.

A boot id is drawn at each boot, so two names that say the same one are of one machine, unless the
product UUIDs of both are known and differ. With one UUID and unlike boots they may be: copies share
a UUID, but so do the names of a host that was renamed and rebooted. Then they are taken for one
machine until both are heard side by side. Every unit of such a machine is there under each name; so
a name takes placements only where no other one stands before it (`names_before`). For as long as
one name holds units of a machine, no other name of it ever gets any, and after a restart it is the
same one that stands.

`record_node` keeps who says which boot and UUID, so that asking costs a look-up and never the
cluster. Pure; a change that matters here must be followed at once (`machine_changes`).

Source: Linux Documentation/admin-guide/sysctl/kernel.rst (random/boot_id).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from immutables import Map

from vfio_contract import codes
from vfio_contract.machine import telling_uuid
from vfio_contract.views import Reason
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.state.model import Node, Presence, State

_ANY = "*"
"""In place of a UUID: whichever it is. No UUID that tells machines apart is one character."""

_NAMED = 3

Machines = Map[tuple[str, str], Names]
"""Nodes by (boot id, UUID), with the UUID "" where it is not known; by (boot id, `_ANY`); and by
("", UUID), in whichever boot."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What tells a node's machine: the boot that it says and the one that was validated, those
    that are known; and the product UUID in small letters, "" for none that tells machines apart."""

    boots: frozenset[str] = frozenset()
    uuid: str = ""


def marks_of(node: Node) -> Marks:
    """By its session, and by its record where no session says it."""
    session, admin = node.session, node.admin
    uuid = telling_uuid(session.product_uuid) if session is not None else ""
    if not uuid and admin is not None:
        uuid = telling_uuid(admin.product_uuid)
    boots = {node.boot_id, admin.boot_id if admin is not None else ""}
    return Marks(frozenset(boots - {""}), uuid.lower())


def record_node(machines: Machines, before: Node | None, node: Node) -> Machines:
    """With this node as it is now; itself where nothing that counts here has changed."""
    if before is not None and (
        before.session is node.session
        and before.admin is node.admin
        and before.boot_id == node.boot_id
    ):
        return machines
    old, new = _places(before), _places(node)
    for place in old - new:
        left = machines[place].remove(node.name)
        machines = machines.set(place, left) if left else machines.delete(place)
    for place in new - old:
        machines = machines.set(place, machines.get(place, Names()).add(node.name))
    return machines


def _places(node: Node | None) -> set[tuple[str, str]]:
    if node is None:
        return set()
    marks = marks_of(node)
    found = {(boot, uuid) for boot in marks.boots for uuid in (marks.uuid, _ANY)}
    return found | ({("", marks.uuid)} if marks.uuid else set())


def names_alike(machines: Machines, node: Node) -> tuple[str, ...]:
    """The other nodes that share a boot id or a UUID with this one, by name."""
    marks = marks_of(node)
    places = [(boot, uuid) for boot in marks.boots for uuid in (marks.uuid, "")]
    if not marks.uuid:
        places = [(boot, _ANY) for boot in marks.boots]
    else:
        places.append(("", marks.uuid))
    found = {name for place in places for name in machines.get(place, ())}
    return tuple(sorted(found - {node.name}))


def names_before(state: State, node: Node) -> tuple[str, ...]:
    """The other names that stand for this node's machine before it does; those that hold units
    come first. Both names stand before each other where both hold units and say one boot: that can
    only be from before either of them told what it is."""
    if not node.boot_id:
        return ()  # then it takes nothing anyway
    rows = [state.nodes[name] for name in names_alike(state.machines, node)]
    found = [other for other in rows if _stands_before(state, other, node)]
    return tuple(other.name for other in sorted(found, key=lambda n: (not n.held, n.name)))


def _stands_before(state: State, other: Node, node: Node) -> bool:
    """Who holds units does; of two that hold none, the one that was there first, for as long as it
    may take some. If both hold units in unlike boots, they were told apart before."""
    same = _boot_of(other) == node.boot_id
    if not same and _are_apart(state, other, node):
        return False
    if other.held or node.held:
        return bool(other.held) and (same or not node.held)
    presence = other.judgement.presence if other.judgement is not None else Presence.UNHEARD
    if same:
        first = _rank(other, node.boot_id) < _rank(node, node.boot_id)
        return first and presence is not Presence.LOST
    first = (other.boot_since_s, other.name) < (node.boot_since_s, node.name)
    return first and presence is Presence.HEARD


def _boot_of(node: Node) -> str:
    """The boot that it says, or that was validated where it said none since the start."""
    return node.boot_id or (node.admin.boot_id if node.admin is not None else "")


def _rank(node: Node, boot_id: str) -> tuple[bool, str, str]:
    """Whose boot was validated comes first, then who joined first, then the smaller name."""
    if node.admin is None:
        return True, "~", node.name
    return node.admin.boot_id != boot_id, node.admin.joined_at, node.name


def _are_apart(state: State, one: Node, two: Node) -> bool:
    """True for two in unlike boots of which the earlier is still heard when all that was on its
    way when the later began has long come: a machine is in one boot at a time. Of two that began in
    one moment either may be the earlier: both are heard then."""
    if not one.boot_id or not two.boot_id:
        return False
    rows = [(node.boot_since_s, state.heard.get(node.name, -inf)) for node in (one, two)]
    (_, heard_s), (began_s, _) = sorted(rows)
    return heard_s > began_s + state.limits.lost_after_s


def twice_reason(state: State, node: Node) -> Reason | None:
    """Why this node takes nothing for its machine's other name, None where none stands before."""
    before = names_before(state, node)
    if not before:
        return None
    other = state.nodes[before[0]]
    code = codes.MACHINE_TWICE.name
    return Reason(code, f"auto:{code}", _describe(node, other))


def _describe(node: Node, other: Node) -> str:
    vms = sorted({holding.vm for holding in other.held.values()})
    more = f" and {len(vms) - _NAMED} more" if len(vms) > _NAMED else ""
    holds = f"holds units for {' '.join(vms[:_NAMED])}{more}"
    release = f"vfioctl vm release {vms[0]}" if vms else ""
    if _boot_of(other) != node.boot_id:
        text = f"may be the machine of {other.name} under another name: {_likeness(node, other)}"
        wait = f"waits for: {other.name} in a boot of its own"
        return (
            f"{text}, and {other.name} {holds}; {wait}, or {release}" if vms else f"{text}; {wait}"
        )
    text = f"is on the machine of {other.name}: both say boot {node.boot_id[:8]}"
    if other.held and node.held:
        return f"{text}, and both hold units; waits for: {release}"
    if other.held:
        return f"{text}, and {other.name} {holds}; waits for: the end of this agent, or {release}"
    return f"{text}; waits for: the end of one of the two agents"


def _likeness(node: Node, other: Node) -> str:
    uuid = marks_of(node).uuid
    return "one DMI UUID" if uuid and uuid == marks_of(other).uuid else "both were in one boot"
