"""A group of transactions evaluated before anything is written.

Later transactions see what earlier ones of the group would write; one whose compare fails leaves
no trace, so that the store has nothing to undo and writes each key and event once. It reads
through the function it is given and must never write.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from vfio_coordinator.store.interface import (
    DeleteEvent,
    Event,
    KeyValue,
    Op,
    Put,
    PutEvent,
    Txn,
    TxnResult,
    holds,
)


@dataclass(slots=True)
class Group:
    """What the transactions evaluated so far amount to.

    `read` gives a key as it is stored; it is asked once for each key. `revision` is the newest,
    `changed` maps each key that changed to how it ends (None: deleted), `events` are all changes
    in order.
    """

    read: Callable[[str], KeyValue | None]
    revision: int
    changed: dict[str, KeyValue | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    _seen: dict[str, KeyValue | None] = field(default_factory=dict)

    def evaluate(self, txn: Txn) -> TxnResult:
        failed = tuple(c for c in txn.compares if not holds(c, self._current(c.key)))
        if failed:
            return TxnResult(False, self.revision, failed)
        revision, known = self.revision + 1, len(self.events)
        for op in txn.ops:
            self._apply(op, revision)
        if len(self.events) > known:
            self.revision = revision
        return TxnResult(True, self.revision, ())

    def _apply(self, op: Op, revision: int) -> None:
        before = self._current(op.key)
        if isinstance(op, Put):
            item = KeyValue(
                op.key,
                op.value,
                create_revision=before.create_revision if before else revision,
                mod_revision=revision,
                version=before.version + 1 if before else 1,
            )
            self._seen[op.key] = self.changed[op.key] = item
            self.events.append(PutEvent(item))
        elif before:
            self._seen[op.key] = self.changed[op.key] = None
            self.events.append(DeleteEvent(op.key, revision))

    def _current(self, key: str) -> KeyValue | None:
        if key not in self._seen:
            self._seen[key] = self.read(key)
        return self._seen[key]
