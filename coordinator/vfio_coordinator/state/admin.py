"""The node's durable admin record: joining, validated boots, cordons of people and of automation.

`settle` is called after anything that may change what a node's evidence amounts to: it judges the
node anew, writes what must be durable and renews its entry in the index. One write per node is in
flight at a time, and until its outcome the node takes no placement, so that nothing is decided on a
record that may not be there. Automation adds and lifts only cordons with its own owner
(`auto:<CODE>`); what a person lifted in spite of a cause stays lifted until that cause was gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vfio_contract import codes
from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.machine import telling_uuid
from vfio_coordinator.scheduler.index import Entry, make_entry, put, same_offer
from vfio_coordinator.state import keys
from vfio_coordinator.state.events import CommitOutcome, CordonRequested, Outcome
from vfio_coordinator.state.judge import judge, list_texts, validated_boot
from vfio_coordinator.state.lookup import find_node
from vfio_coordinator.state.model import (
    AdminRequest,
    AdminWrite,
    Cause,
    Judgement,
    Node,
    Presence,
)
from vfio_coordinator.state.presence import deadline_of, heard_age, span
from vfio_coordinator.state.records import AdminRecord, Cordon
from vfio_coordinator.state.report import node_view
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import ModRevisionIs, Put

AUTO = "auto:"
USER = "user:"

_ROWS_TOGETHER = 40
"""Log rows in one write of the record: each is a put and a delete (`MAX_TXN_KEYS`)."""


def settle(turn: Turn, name: str, *, attempt: int = 1) -> None:
    """Judge the node anew, write what follows, and renew its entry in the index."""
    node = turn.state.nodes[name]
    before = node.judgement
    judgement = judge(turn.state, node, turn.now)
    _tell_presence(turn, node, before, judgement)
    node = replace(node, judgement=judgement)
    turn.put_node(node)
    if not node.admin_txn and attempt <= turn.state.limits.place_attempts:
        record, notes = _wanted(turn, node, judgement)
        if record is not None and record != node.admin:
            _write(turn, node, record, notes, attempt=attempt)
            node = turn.state.nodes[name]
            node = replace(node, judgement=judge(turn.state, node, turn.now))
            turn.put_node(node)
    refresh(turn, name)
    deadline = deadline_of(turn.state, turn.state.nodes[name], turn.now)
    if deadline < turn.state.next_deadline_s:
        turn.state = replace(turn.state, next_deadline_s=deadline)


def refresh(turn: Turn, name: str) -> None:
    """The node's entry in the index as the state says; none before it was judged once."""
    if turn.state.nodes[name].judgement is None:
        return
    index = turn.state.index
    entry = entry_of(turn.state.nodes[name], known=index.entries.get(name))
    turn.state = replace(turn.state, index=put(index, entry))


def entry_of(node: Node, *, known: Entry | None = None) -> Entry:
    """What placement sees of a node; offers of `known` that are still true are kept."""
    judgement, observation = node.judgement, node.observation
    if judgement is None:
        raise ValueError(f"{node.name} was never judged")
    before = {id(o.standing): o for o in known.offers} if known is not None else {}
    risks = {code: held.decision for code, held in node.risks.items()}
    offers = tuple(
        same_offer(before.get(id(standing)), standing, node.held, risks)
        for standing in node.standings
    )
    cordons = node.admin.cordons if node.admin is not None else ()
    liftable = judgement.stage == "admitted" and cordons and not judgement.holds
    by_people = all(c.owner.startswith(USER) for c in cordons)
    return make_entry(
        node.name,
        offers,
        stage=judgement.stage,
        why=judgement.why,
        evidence=tuple(f"{r.owner}: {r.text}" for r in judgement.reasons),
        lift=f"vfioctl node uncordon {node.name}" if liftable and by_people else "",
        vouched=(
            ("heard", "its agent is heard and its evidence is of this session"),
            ("admitted", f"no cordon; boot {node.boot_id} is validated"),
        ),
        collected_s=observation.collected_s if observation is not None else 0.0,
    )


def request_admin(turn: Turn, event: AdminRequest, *, attempt: int = 1) -> None:
    """Cordon or uncordon for a person. Raises ClusterError for an unknown node."""
    name = find_node(turn.state, event.node)
    event = replace(event, node=name)
    node = turn.state.nodes[name]
    if node.admin_txn:
        turn.put_node(replace(node, queue=(*node.queue, event)))
        return
    if node.admin is None:
        raise ClusterError(ErrorCode.UNKNOWN_NODE, f"node {name} has no record; it never joined")
    owner = f"{USER}{event.actor}"
    if isinstance(event, CordonRequested):
        record = _cordoned(node.admin, owner, event.reason, turn.now.utc)
        text = f"cordoned: {event.reason or 'no reason given'}"
        note = Note(f"node:{name}", codes.NODE_CORDONED.name, text, owner)
    else:
        record = _uncordoned(node)
        if node.judgement is not None:
            # With the causes waived nothing may speak against this boot any more.
            boot_id = validated_boot(replace(node, admin=record), node.judgement)
            record = replace(record, boot_id=boot_id)
        lifted = " ".join(c.owner for c in node.admin.cordons) or "nothing"
        note = Note(f"node:{name}", "NODE_UNCORDONED", f"uncordoned; lifted {lifted}", owner)
    if record == node.admin:
        turn.reply((event.ticket,), node_view(turn.state, name, turn.now, detail=False))
        return
    _write(turn, node, record, [note], attempt=attempt, request=event)
    settle(turn, name)


def finish_admin(turn: Turn, write: AdminWrite, event: CommitOutcome) -> None:
    """The outcome of an admin write: believe it, or decide again on what the store holds."""
    node = turn.state.nodes[write.node]
    node = replace(node, admin_txn=0)
    if event.outcome is Outcome.OK:
        node = replace(node, admin=write.record, admin_revision=event.revision)
    turn.put_node(node)
    request = write.request
    if event.outcome is Outcome.OK:
        settle(turn, node.name)
        if request is not None:
            view = node_view(turn.state, node.name, turn.now, detail=False)
            turn.reply((request.ticket,), view)
    elif request is None:
        settle(turn, node.name, attempt=write.attempt + 1)
    elif write.attempt < turn.state.limits.place_attempts:
        request_admin(turn, request, attempt=write.attempt + 1)
    else:
        detail = f"the record of {node.name} kept changing"
        turn.fail((request.ticket,), ErrorCode.CONFLICT, detail)
        settle(turn, node.name)
    _work_off(turn, node.name)


def _work_off(turn: Turn, name: str) -> None:
    """Requests that waited, until one of them needs a write of its own."""
    while True:
        node = turn.state.nodes[name]
        if node.admin_txn or not node.queue:
            return
        request = node.queue[0]
        turn.put_node(replace(node, queue=node.queue[1:]))
        try:
            request_admin(turn, request)
        except ClusterError as error:
            turn.fail((request.ticket,), error.code, error.detail)


def _cordoned(admin: AdminRecord, owner: str, reason: str, utc: str) -> AdminRecord:
    text = reason or "no reason given"
    if any((c.owner, c.text) == (owner, text) for c in admin.cordons):
        return admin
    others = tuple(c for c in admin.cordons if c.owner != owner)
    cordon = Cordon(codes.NODE_CORDONED.name, owner, text, utc)
    return replace(admin, cordons=_in_order((*others, cordon)))


def _in_order(cordons: Iterable[Cordon]) -> tuple[Cordon, ...]:
    """People's first, then by owner: the same cordons are always the same record."""
    return tuple(sorted(cordons, key=lambda c: (c.owner.startswith(AUTO), c.owner)))


def _uncordoned(node: Node) -> AdminRecord:
    """Without any cordon; what automation would cordon for now is waived until it was gone."""
    admin, judgement = node.admin, node.judgement
    if admin is None or not admin.cordons:
        return admin if admin is not None else AdminRecord(node.name, "", "", "")
    known = {key for cordon in admin.cordons for key in cordon.causes}
    current = {c.key for c in judgement.causes} if judgement is not None else set()
    waived = tuple(sorted({*admin.waived, *known, *current}))
    return replace(admin, cordons=(), waived=waived)


def _write(
    turn: Turn,
    node: Node,
    record: AdminRecord,
    notes: list[Note],
    *,
    attempt: int,
    request: AdminRequest | None = None,
) -> None:
    txn_id = turn.next_txn()
    write = AdminWrite(
        txn_id=txn_id,
        rows=turn.number_rows(notes),
        tickets=() if request is None else (request.ticket,),
        attempt=attempt,
        node=node.name,
        record=record,
        request=request,
    )
    key = keys.node_key(node.name)
    turn.commit(
        write,
        compares=(ModRevisionIs(key, node.admin_revision),),
        ops=(Put(key, encode(record)),),
    )
    turn.put_node(replace(node, admin_txn=txn_id))


def _wanted(turn: Turn, node: Node, judgement: Judgement) -> tuple[AdminRecord | None, list[Note]]:
    """The admin record as automation wants it, and what the log should say; None for no node."""
    session, admin = node.session, node.admin
    subject = f"node:{node.name}"
    if admin is None:
        if session is None:
            return None, []
        uuid = telling_uuid(session.product_uuid)
        record = AdminRecord(node.name, uuid, "", turn.now.utc)
        return record, [Note(subject, "NODE_JOINED", "joined the cluster", subject)]
    record, notes = admin, []
    uuid = telling_uuid(session.product_uuid) if session is not None else ""
    if uuid and not telling_uuid(admin.product_uuid):
        record = replace(record, product_uuid=uuid)
        notes.append(Note(subject, "NODE_IDENTIFIED", "its DMI UUID is known now", subject))
    if not judgement.fresh:
        return record, notes
    record, more = _automate(record, judgement.causes, subject, turn.now.utc)
    boot_id = validated_boot(node, judgement)
    if boot_id != record.boot_id:
        known = "a new boot" if record.boot_id else "its first boot here"
        flags = sorted({d.change.code for d in node.drift if not d.change.harms})
        seen = f"; flagged {' '.join(flags)}" if flags else ""
        text = f"{known} is validated: fresh inventory and findings{seen}"
        more.append(Note(subject, "NODE_VALIDATED", text, f"{AUTO}REVALIDATING"))
        record = replace(record, boot_id=boot_id)
    return record, [*notes, *_shortened(more)]


def _shortened(notes: list[Note]) -> list[Note]:
    """No more rows than fit beside the record: an agent may know any number of codes."""
    if len(notes) <= _ROWS_TOGETHER:
        return notes
    named, rest = notes[: _ROWS_TOGETHER - 1], notes[_ROWS_TOGETHER - 1 :]
    text = f"{rest[0].text}; {len(rest) - 1} rows more: {list_texts(n.actor for n in rest[1:])}"
    return [*named, replace(rest[0], text=text)]


def _automate(
    admin: AdminRecord, causes: tuple[Cause, ...], subject: str, utc: str
) -> tuple[AdminRecord, list[Note]]:
    """Automatic cordons as the causes ask, one per code; a person's are never touched."""
    by_code: dict[str, list[Cause]] = {}
    for cause in causes:
        if cause.key not in admin.waived:
            by_code.setdefault(cause.code, []).append(cause)
    kept = [c for c in admin.cordons if not c.owner.startswith(AUTO)]
    notes: list[Note] = []
    old = {c.code: c for c in admin.cordons if c.owner.startswith(AUTO)}
    for code, rows in sorted(by_code.items()):
        keys_now = tuple(sorted(c.key for c in rows))
        text = list_texts(c.text for c in rows)
        before = old.pop(code, None)
        if before is not None and before.causes == keys_now:
            kept.append(before)
            continue
        owner = f"{AUTO}{code}"
        kept.append(Cordon(code, owner, text, utc, keys_now))
        notes.append(Note(subject, code, f"cordoned: {text}", owner))
    for code, gone in old.items():
        text = f"cordon lifted, its cause is gone: {gone.text}"
        notes.append(Note(subject, "NODE_UNCORDONED", text, f"{AUTO}{code}"))
    current = {cause.key for cause in causes}
    ended: dict[str, list[str]] = {}
    for key in sorted(set(admin.waived) - current):
        ended.setdefault(key.partition(" ")[0], []).append(key)
    for code, gone_keys in ended.items():
        verb = "is" if len(gone_keys) == 1 else "are"
        text = f"{list_texts(gone_keys)} {verb} gone; it would cordon the node again"
        notes.append(Note(subject, "WAIVER_ENDED", text, f"{AUTO}{code}"))
    waived = tuple(key for key in admin.waived if key in current)
    return replace(admin, cordons=_in_order(kept), waived=waived), notes


def _tell_presence(turn: Turn, node: Node, before: Judgement | None, now: Judgement) -> None:
    """A node that is lost, or is back from that, is an event; a short silence is none."""
    subject = f"node:{node.name}"
    was_lost = before is not None and before.presence is Presence.LOST
    if now.presence is Presence.LOST and not was_lost:
        text = next(r.text for r in now.reasons if r.code == codes.NODE_LOST.name)
        turn.note(subject, codes.NODE_LOST.name, text, f"{AUTO}{codes.NODE_LOST.name}")
    elif was_lost and now.presence is Presence.HEARD:
        age = heard_age(turn.state, node, turn.now)
        turn.note(subject, "NODE_RETURNED", f"heard again, {span(age)} ago", subject)
