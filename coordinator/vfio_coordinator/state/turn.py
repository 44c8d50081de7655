"""One event's work: the state so far, the moment, and the effects in order.

A `Turn` lives inside one call of `apply`; handlers change its `state` by putting a new value there,
never the value itself, so that `apply` stays a function from the outside; `touched` names the
nodes that were put. Every durable change goes through `commit`, which adds the fence and the rows
of the event log to the same transaction: there is no other way to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vfio_contract.artifact import encode
from vfio_contract.errors import ErrorCode
from vfio_contract.views import Event as LogRow
from vfio_coordinator.state import keys
from vfio_coordinator.state.cohorts import learn
from vfio_coordinator.state.effects import Answer, Commit, Effect, Failure, Reply
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.machines import record_node
from vfio_coordinator.state.model import AnyWrite, LogWrite, Node, State
from vfio_coordinator.store.interface import Compare, Delete, Op, Put, Txn

_ROWS_TOGETHER = 40
"""Log rows in one transaction of their own: each is a put and a delete, of 100 keys at most."""


@dataclass(frozen=True, slots=True)
class Note:
    """A row of the event log before it has a number. `actor` is `user:X`, `node:X` or `auto:X`."""

    subject: str
    code: str
    text: str
    actor: str


class Turn:
    """See the module."""

    def __init__(self, state: State, now: Now) -> None:
        self.state = state
        self.now = now
        self.effects: list[Effect] = []
        self.touched: set[str] = set()
        self._notes: list[Note] = []

    def emit(self, effect: Effect) -> None:
        """The runtime will do this."""
        self.effects.append(effect)

    def reply(self, tickets: Iterable[int], answer: Answer) -> None:
        """Everyone who waits gets the same answer."""
        for ticket in tickets:
            self.emit(Reply(ticket, answer))

    def fail(self, tickets: Iterable[int], code: ErrorCode, detail: str) -> None:
        """Everyone who waits is refused."""
        self.reply(tickets, Failure(code, detail))

    def put_node(self, node: Node) -> None:
        """The state with this node as given."""
        self.touched.add(node.name)
        state = self.state
        machines = record_node(state.machines, state.nodes.get(node.name), node)
        self.state = replace(state, nodes=state.nodes.set(node.name, node), machines=machines)

    def learn(self, node: str, told: Mapping[str, str | None]) -> None:
        """What a node's agent told of what it has in common with others (`cohorts`)."""
        self.state = replace(self.state, cohorts=learn(self.state.cohorts, node, told))

    def next_txn(self) -> int:
        """A number for a transaction, never used before in this process."""
        number = self.state.next_txn
        self.state = replace(self.state, next_txn=number + 1)
        return number

    def number_rows(self, notes: Sequence[Note]) -> tuple[LogRow, ...]:
        """Rows with their numbers; a number whose transaction fails is never used again."""
        first = self.state.next_seq
        self.state = replace(self.state, next_seq=first + len(notes))
        return tuple(
            LogRow(first + i, self.now.utc, n.subject, n.code, n.text, n.actor)
            for i, n in enumerate(notes)
        )

    def commit(
        self, write: AnyWrite, *, compares: Sequence[Compare] = (), ops: Sequence[Op] = ()
    ) -> None:
        """Send this write with the fence and its log rows, and remember it until its outcome.

        Raises StoreError, with nothing changed, if it is too large for one transaction.
        """
        fence = self.state.fence
        if fence is None:
            raise ValueError("nothing may be written before the store was read")
        txn = Txn(compares=(fence, *compares), ops=(*ops, *self._log_ops(write.rows)))
        self.state = replace(self.state, pending=self.state.pending.set(write.txn_id, write))
        self.emit(Commit(write.txn_id, txn))

    def _log_ops(self, rows: Sequence[LogRow]) -> Iterable[Op]:
        for row in rows:
            yield Put(keys.event_key(row.seq), encode(row))
            if row.seq > self.state.limits.events_kept:
                yield Delete(keys.event_key(row.seq - self.state.limits.events_kept))

    def note(self, subject: str, code: str, text: str, actor: str) -> None:
        """A row about something that changes no other key; written at the end of the turn."""
        self._notes.append(Note(subject, code, text, actor))

    def flush_notes(self) -> None:
        """Write the rows that no other transaction carries."""
        notes, self._notes = self._notes, []
        for start in range(0, len(notes), _ROWS_TOGETHER):
            rows = self.number_rows(notes[start : start + _ROWS_TOGETHER])
            self.commit(LogWrite(txn_id=self.next_txn(), rows=rows))

    def add_to_log(self, rows: Iterable[LogRow]) -> None:
        """Rows whose transaction succeeded become visible; the oldest leave."""
        state = self.state
        log, first = state.log, state.log_first
        for row in rows:
            log = log.set(row.seq, row)
            while first <= row.seq - state.limits.events_kept:
                if first in log:
                    log = log.delete(first)
                first += 1
        self.state = replace(state, log=log, log_first=first)
