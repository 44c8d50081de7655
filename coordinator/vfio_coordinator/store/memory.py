"""The reference store: plain dictionaries, for tests and as the meaning of the interface.

It says what a store does in the fewest words; the others are compared with it. It must never be
what a coordinator runs on: it forgets everything.
"""

import threading
from collections.abc import Sequence

from vfio_coordinator.store.interface import (
    DEFAULT_RETENTION,
    FIRST_REVISION,
    DeleteEvent,
    Event,
    KeyValue,
    Op,
    Put,
    PutEvent,
    Range,
    Retention,
    StoreClosed,
    Txn,
    TxnResult,
    Watch,
    check_key,
    holds,
    prefix_end,
)
from vfio_coordinator.store.watch import LocalWatch


class MemoryStore:
    """Implements `Store`. One lock orders all calls."""

    def __init__(self, *, retention: Retention = DEFAULT_RETENTION) -> None:
        self.changed = threading.Condition()
        self._retention = retention
        self._items: dict[str, KeyValue] = {}
        self._revision = FIRST_REVISION
        self._history: dict[int, list[Event]] = {}
        self._history_bytes = 0
        self._oldest = FIRST_REVISION
        self._closed = False

    def revision(self) -> int:
        with self.changed:
            self.check_usable()
            return self._revision

    def get(self, key: str) -> KeyValue | None:
        check_key(key)
        with self.changed:
            self.check_usable()
            return self._items.get(key)

    def range(self, prefix: str) -> list[KeyValue]:
        return list(self.read(prefix).items)

    def read(self, prefix: str) -> Range:
        prefix_end(prefix)
        with self.changed:
            self.check_usable()
            keys = sorted(key for key in self._items if key.startswith(prefix))
            return Range(prefix, self._revision, tuple(self._items[key] for key in keys))

    def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        with self.changed:
            self.check_usable()
            results = [self._commit_one(txn) for txn in txns]
            self._trim()
            self.changed.notify_all()
            return results

    def watch(self, prefix: str, from_revision: int) -> Watch:
        return LocalWatch(self, prefix, from_revision)

    def close(self) -> None:
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def check_usable(self) -> None:
        if self._closed:
            raise StoreClosed("the store was closed")

    def bounds(self) -> tuple[int, int]:
        return self._oldest, self._revision

    def events(self, prefix: str, *, first: int, last: int) -> list[Event]:
        return [
            event
            for revision in range(first, last + 1)
            for event in self._history.get(revision, [])
            if event.key.startswith(prefix)
        ]

    def _commit_one(self, txn: Txn) -> TxnResult:
        failed = tuple(c for c in txn.compares if not holds(c, self._items.get(c.key)))
        if failed:
            return TxnResult(False, self._revision, failed)
        revision = self._revision + 1
        events = [event for op in txn.ops for event in self._apply(op, revision)]
        if events:
            self._revision = revision
            self._history[revision] = events
            self._history_bytes += sum(map(_event_bytes, events))
        return TxnResult(True, self._revision, ())

    def _apply(self, op: Op, revision: int) -> list[Event]:
        before = self._items.get(op.key)
        if isinstance(op, Put):
            item = KeyValue(
                op.key,
                op.value,
                create_revision=before.create_revision if before else revision,
                mod_revision=revision,
                version=before.version + 1 if before else 1,
            )
            self._items[op.key] = item
            return [PutEvent(item)]
        if before is None:
            return []
        del self._items[op.key]
        return [DeleteEvent(op.key, revision)]

    def _trim(self) -> None:
        kept = self._retention
        while self._oldest < self._revision and (
            self._oldest <= self._revision - kept.revisions or self._history_bytes > kept.bytes
        ):
            gone = self._history.pop(self._oldest, [])
            self._history_bytes -= sum(map(_event_bytes, gone))
            self._oldest += 1


def _event_bytes(event: Event) -> int:
    return len(event.key) + (len(event.item.value) if isinstance(event, PutEvent) else 0)
